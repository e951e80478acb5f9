//! The measured server: this binary in a process of its own, and what the kernel says of it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::Settings;
use super::process::Process;

/// Longest wait for a server to be ready, or to end.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A running server; dropped, it is killed and its data removed.
pub(super) struct Server {
    child: Child,
    arguments: Vec<OsString>,
    dir: PathBuf,
    pub(super) kafka: SocketAddr,
    pub(super) http: String,
    client: reqwest::Client,
    /// When its process was started.
    since: Instant,
    /// From then until it was ready.
    pub(super) ready_after: Duration,
}

fn new_dir(settings: &Settings) -> Result<PathBuf, String> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let dir = settings.dir.join(format!("floe-bench-{id}"));
    std::fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(dir)
}

fn spawn(arguments: &[OsString]) -> Result<Child, String> {
    let binary = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().map_err(|error| error.to_string())
}

/// The metrics of a server at one moment.
pub(super) struct Metrics(String);

impl Metrics {
    /// The sum of a metric over its series whose labels hold the text `label`.
    pub(super) fn sum(&self, name: &str, label: &str) -> f64 {
        let is_it = |line: &&str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']));
            rest.is_some_and(|rest| rest.contains(label))
        };
        let values = self.0.lines().filter(is_it);
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Server {
    /// Starts one with `flags`, in a new folder below `settings.dir`.
    pub(super) async fn start(settings: &Settings, flags: &[&str]) -> Result<Self, String> {
        let dir = new_dir(settings)?;
        let mut arguments: Vec<OsString> = vec!["serve".into(), "--data-dir".into()];
        arguments.push(dir.join("data").into());
        arguments.extend(["--kafka-listen", "127.0.0.1:0"].map(OsString::from));
        arguments.extend(["--http-listen", "127.0.0.1:0", "--log", "warn"].map(OsString::from));
        arguments.extend(flags.iter().map(OsString::from));
        for option in &settings.server {
            arguments.extend(["--set", option].map(OsString::from));
        }
        Self::launch(dir, arguments).await
    }

    /// Starts one that reads bodies of HTTP requests and stores nothing.
    pub(super) async fn bare(settings: &Settings) -> Result<Self, String> {
        let arguments = ["bench", super::http::BARE_COMMAND].map(OsString::from);
        Self::launch(new_dir(settings)?, arguments.to_vec()).await
    }

    async fn launch(dir: PathBuf, arguments: Vec<OsString>) -> Result<Self, String> {
        let mut server = Self {
            child: spawn(&arguments)?,
            arguments,
            dir,
            kafka: SocketAddr::from(([127, 0, 0, 1], 0)),
            http: String::new(),
            client: reqwest::Client::new(),
            since: Instant::now(),
            ready_after: Duration::ZERO,
        };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// Kills it as a crash would.
    pub(super) async fn crash(&mut self) -> Result<(), String> {
        self.child.kill().await.map_err(|error| error.to_string())
    }

    /// Starts it again on what it left.
    pub(super) async fn restart(&mut self) -> Result<(), String> {
        self.since = Instant::now();
        self.child = spawn(&self.arguments)?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<(), String> {
        match tokio::time::timeout(WAIT_MAX, self.read_addresses()).await {
            Ok(ready) => ready?,
            Err(_) => return Err("the server was not ready in time".to_owned()),
        }
        self.ready_after = self.since.elapsed();
        Ok(())
    }

    /// Reads its addresses from what it prints.
    async fn read_addresses(&mut self) -> Result<(), String> {
        let out = self.child.stdout.take().ok_or("the server has no output")?;
        let mut lines = BufReader::new(out).lines();
        while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("kafka"), Some(address)) => {
                    self.kafka = address.parse().map_err(|_| format!("no address: {line}"))?;
                }
                (Some("http"), Some(url)) => self.http = url.to_owned(),
                (Some("ready"), _) => return Ok(()),
                _ => {}
            }
        }
        Err("the server ended before it was ready".to_owned())
    }

    /// Its folder, for files that must lie on the same disk.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a topic with these options (JSON).
    pub(super) async fn create(
        &self,
        topic: &str,
        partitions: i32,
        options: serde_json::Value,
    ) -> Result<(), String> {
        let body = serde_json::json!({
            "name": topic, "partitions": partitions, "options": options,
        });
        let url = format!("{}/api/v1/topics", self.http);
        let sent = self.client.post(url).json(&body).send().await;
        let sent = sent.map_err(|error| error.to_string())?;
        if sent.status().is_success() { Ok(()) } else { Err(sent.text().await.unwrap_or_default()) }
    }

    /// Waits until everything is in the topic's table; its status.
    pub(super) async fn flush(&self, topic: &str) -> Result<serde_json::Value, String> {
        let url = format!("{}/api/v1/tables/streams.{topic}/flush", self.http);
        for _ in 0..10 {
            let sent = self.client.post(&url).send().await.map_err(|error| error.to_string())?;
            let is_done = sent.status().is_success();
            let text = sent.text().await.map_err(|error| error.to_string())?;
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            if is_done {
                return Ok(answer);
            }
            if answer["retryable"] != true {
                return Err(text);
            }
        }
        Err("the table did not follow in ten minutes".to_owned())
    }

    /// The status of every table.
    pub(super) async fn tables(&self) -> Result<Vec<serde_json::Value>, String> {
        let text = self.get("/api/v1/tables").await?;
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        answer["tables"].as_array().cloned().ok_or(text)
    }

    /// The topic's table as it stands; null before it has one.
    pub(super) async fn table(&self, topic: &str) -> Result<serde_json::Value, String> {
        let url = format!("{}/api/v1/tables/{topic}", self.http);
        let got = self.client.get(url).send().await.map_err(|error| error.to_string())?;
        if !got.status().is_success() {
            return Ok(serde_json::Value::Null);
        }
        got.json().await.map_err(|error| error.to_string())
    }

    /// The sum of a metric over its labels.
    pub(super) async fn metric(&self, name: &str) -> Result<f64, String> {
        Ok(self.metrics().await?.sum(name, ""))
    }

    /// Every metric as it is now.
    pub(super) async fn metrics(&self) -> Result<Metrics, String> {
        Ok(Metrics(self.get("/metrics").await?))
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        let got = self.client.get(format!("{}{path}", self.http)).send().await;
        let text = got.map_err(|error| error.to_string())?.text().await;
        text.map_err(|error| error.to_string())
    }

    /// The process, as the kernel knows it.
    pub(super) fn process(&self) -> Process {
        Process { pid: self.child.id() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed before its folder goes, so that it makes nothing in it any more.
        let _ = self.child.start_kill();
        for _ in 0..100 {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                _ => break,
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_the_series_that_are_asked_for() {
        let text = "# HELP a x\na{code=\"X\"} 2\na{code=\"Y\"} 3\nab 7\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!((metrics.sum("a", ""), metrics.sum("a", "code=\"Y\"")), (5.0, 3.0));
    }
}
