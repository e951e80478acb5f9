//! Harness for black-box tests: the real binary on free ports with its own data directory.

pub mod bombs;
pub mod clients;
pub mod healthy;
pub mod http1;
pub mod memory;
pub mod proxy;
pub mod table;
pub mod torture;
pub mod wire;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longest wait for a server to be ready, or for a condition.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// A running `floe serve`. Ports and data directory outlive kills; dropped, it is killed.
pub struct Floe {
    child: Child,
    dir: tempfile::TempDir,
    data: PathBuf,
    kafka_port: u16,
    http_port: u16,
    flags: Vec<String>,
}

/// The binary under test: `FLOE_BIN`, or the one that `cargo test --workspace` built beside us.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FLOE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("tests lie in target/<profile>/deps");
    let binary = profile.join("floe");
    assert!(binary.exists(), "{} is missing: run cargo test --workspace", binary.display());
    binary
}

/// A port that nobody listens on now, another one each time: tests that run beside each other use
/// theirs a moment later.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = probe.local_addr().expect("a bound socket has an address").port();
        if GIVEN.lock().expect("no holder panics").insert(port) {
            return port;
        }
    }
}

impl Floe {
    /// Starts a server and waits until it is ready.
    pub async fn start(flags: &[&str]) -> Self {
        Self::up(flags, None, "/readyz").await
    }

    /// Starts a server and waits until it turns; it need not take records.
    pub async fn start_unready(flags: &[&str]) -> Self {
        Self::up(flags, None, "/healthz").await
    }

    /// [`Floe::start`] with its data directory at `data`.
    pub async fn start_in(data: &Path, flags: &[&str]) -> Self {
        Self::up(flags, Some(data), "/readyz").await
    }

    /// Starts a server and waits for an answer at `path`. Between the look for a free port and its
    /// use another process may take it: then it is tried on others.
    async fn up(flags: &[&str], data: Option<&Path>, path: &str) -> Self {
        for _ in 0..3 {
            let mut floe = Self::spawn(flags, data);
            if floe.answers(path).await {
                return floe;
            }
        }
        let mut floe = Self::spawn(flags, data);
        floe.wait_for(path).await;
        floe
    }

    fn spawn(flags: &[&str], data: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let data = data.map_or_else(|| dir.path().join("data"), Path::to_owned);
        let (kafka_port, http_port) = (free_port(), free_port());
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let child = spawn(dir.path(), &data, kafka_port, http_port, &flags);
        Self { child, dir, data, kafka_port, http_port, flags }
    }

    /// `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.kafka_port)
    }

    /// `HOST:PORT` of the HTTP side.
    pub fn http_address(&self) -> String {
        format!("127.0.0.1:{}", self.http_port)
    }

    /// URL of a path of the HTTP side.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port)
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder that holds its data and log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The metrics as they are scraped.
    pub async fn metrics(&self) -> String {
        let response = reqwest::get(self.url("/metrics")).await.expect("the server answers");
        response.text().await.expect("metrics are text")
    }

    /// The sum of a metric's lines that hold `label`; 0 if there is none.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.metrics().await;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// GETs JSON.
    pub async fn get(&self, path: &str) -> serde_json::Value {
        let response = reqwest::get(self.url(path)).await.expect("the server answers");
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.json().await.expect("the answer is JSON")
    }

    /// Waits until everything appended so far is in the topic's table; its status.
    pub async fn flush(&self, topic: &str) -> serde_json::Value {
        let url = self.url(&format!("/api/v1/tables/streams.{topic}/flush"));
        let response = reqwest::Client::new().post(url).send().await.expect("the server answers");
        let status = response.status();
        let text = response.text().await.expect("the answer has a body");
        assert!(status.is_success(), "flush: {status} {text}");
        serde_json::from_str(&text).expect("the answer is JSON")
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }

    /// Asks the process to end (`SIGTERM`) and waits until it has; its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            if let Some(ended) = self.child.try_wait().expect("our own child can be asked") {
                return ended.code();
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks the process to end, and does not wait.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.expect("a child has a process id");
        rustix::process::kill_process(pid, signal).expect("our own child takes signals");
    }

    /// Stops the process where it is (`SIGSTOP`), or lets it go on.
    pub fn pause(&self, stop: bool) {
        let signal =
            if stop { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        self.signal(signal);
    }

    /// Starts it again on the same ports and data.
    pub async fn restart(&mut self) {
        self.child =
            spawn(self.dir.path(), &self.data, self.kafka_port, self.http_port, &self.flags);
        self.wait_for("/readyz").await;
    }

    /// [`Floe::restart`] with other flags.
    pub async fn restart_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.restart().await;
    }

    /// [`Floe::restart_with`], and waits until it turns; it need not take records.
    pub async fn restart_unready_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.child =
            spawn(self.dir.path(), &self.data, self.kafka_port, self.http_port, &self.flags);
        self.wait_for("/healthz").await;
    }

    async fn wait_for(&mut self, path: &str) {
        assert!(self.answers(path).await, "{}", self.log());
    }

    /// False if a port of it was taken.
    async fn answers(&mut self, path: &str) -> bool {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            if let Ok(response) = reqwest::get(self.url(path)).await
                && response.status().is_success()
                && (path == "/readyz" || self.has_started().await)
            {
                return true;
            }
            let ended = self.child.try_wait().expect("our own child can be asked");
            if ended.is_some() && self.log().contains("Address already in use") {
                return false;
            }
            assert!(ended.is_none(), "the server ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "no {path}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// True if it answers, if only that it takes no records.
    async fn has_started(&self) -> bool {
        let Ok(answer) = reqwest::get(self.url("/readyz")).await else { return false };
        answer.text().await.is_ok_and(|text| !text.contains("\"starting\""))
    }

    /// What the server printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("floe.log")).unwrap_or_default()
    }

    /// Waits until the server has printed `text`; what it printed. It serves before it says so.
    pub async fn printed(&self, text: &str) -> String {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(Instant::now() < deadline, "{text:?} was not printed:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Floe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, data: &Path, kafka_port: u16, http_port: u16, flags: &[String]) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("floe.log"))
        .expect("the log file can be opened");
    let errors = log.try_clone().expect("a file can be shared");
    let defaults = [
        ("--kafka-listen", format!("127.0.0.1:{kafka_port}")),
        ("--http-listen", format!("127.0.0.1:{http_port}")),
        ("--disk-free-min-bytes", "64MiB".to_owned()),
        ("--wal-file-bytes", "16MiB".to_owned()),
    ];
    let mut command = Command::new(binary());
    command.arg("serve").arg("--data-dir").arg(data);
    for (flag, value) in defaults {
        if !flags.iter().any(|given| given == flag) {
            command.args([flag, &value]);
        }
    }
    command
        .args(flags)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .expect("the binary can be started")
}

/// Makes a token that may do everything, in a data directory without a server.
pub fn first_token(data: &Path) -> String {
    let made = Command::new(binary())
        .args(["token", "create", "admin", "--data-dir"])
        .arg(data)
        .output()
        .expect("the binary can be started");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8_lossy(&made.stdout).trim_end().to_owned()
}

/// What `floe serve` prints and exits with where it does not start.
pub fn refused_start(flags: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("floe.log");
    let log = std::fs::File::create(&path).expect("the log file can be made");
    let errors = log.try_clone().expect("a file can be shared");
    let mut child = Command::new(binary())
        .args(["serve", "--data-dir"])
        .arg(dir.path().join("data"))
        .args(flags)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .expect("the binary can be started");
    let deadline = Instant::now() + WAIT_MAX;
    let ended = loop {
        let ended = child.try_wait().expect("our own child can be asked");
        if ended.is_some() || Instant::now() > deadline {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let Some(ended) = ended else {
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be waited for");
        panic!("it started with {flags:?}: {text}");
    };
    (ended.code(), text)
}

/// Waits until `check` gives something; `what` names it where it does not come.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
