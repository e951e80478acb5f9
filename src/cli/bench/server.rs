//! The measured server: this binary in a process of its own, and what the kernel says of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::Settings;

/// Longest wait for a server to be ready, or to end.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Clock ticks a second in `/proc`, the same on every Linux.
const TICKS: f64 = 100.0;

/// A running server; dropped, it is killed and its data removed.
pub(super) struct Server {
    child: Child,
    dir: PathBuf,
    pub(super) kafka: SocketAddr,
    pub(super) http: String,
    client: reqwest::Client,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// User and system, seconds.
    pub(super) cpu_seconds: f64,
    /// Bytes sent to the disk.
    pub(super) disk_bytes: f64,
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
        let binary = std::env::current_exe().map_err(|error| error.to_string())?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let dir = settings.dir.join(format!("floe-bench-{id}"));
        std::fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--data-dir").arg(dir.join("data"));
        command.args(["--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
        command.args(["--log", "warn"]).args(flags);
        for option in &settings.server {
            command.args(["--set", option]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().map_err(|error| error.to_string())?;
        let kafka = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server =
            Self { child, dir, kafka, http: String::new(), client: reqwest::Client::new() };
        match tokio::time::timeout(WAIT_MAX, server.wait_until_ready()).await {
            Ok(ready) => ready.map(|()| server),
            Err(_) => Err("the server was not ready in time".to_owned()),
        }
    }

    /// Reads its addresses from what it prints.
    async fn wait_until_ready(&mut self) -> Result<(), String> {
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

    fn proc(&self, file: &str) -> String {
        let pid = self.child.id().unwrap_or(0);
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
    }

    /// What it has used so far; zeros where there is no `/proc`.
    pub(super) fn usage(&self) -> Usage {
        usage_of(&self.proc("stat"), &self.proc("io"))
    }

    /// Most resident memory so far, MB; zero where there is no `/proc`.
    pub(super) fn peak_mb(&self) -> f64 {
        line_of(&self.proc("status"), "VmHWM:") * 1024.0 / 1e6
    }
}

/// What this process has used so far.
pub(super) fn own_usage() -> Usage {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}"));
    usage_of(&read("stat").unwrap_or_default(), &read("io").unwrap_or_default())
}

fn line_of(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

fn usage_of(stat: &str, io: &str) -> Usage {
    // The name, in parentheses, may hold anything: fields are counted after it.
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let cpu = ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0);
    Usage { cpu_seconds: cpu / TICKS, disk_bytes: line_of(io, "write_bytes:") }
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            disk_bytes: self.disk_bytes - earlier.disk_bytes,
        }
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
    fn the_kernels_lines_are_read_whatever_the_process_is_called() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20";
        let usage = usage_of(stat, "rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n");
        assert_eq!((usage.cpu_seconds, usage.disk_bytes), (4.0, 4096.0));
        assert_eq!(usage_of("", "").cpu_seconds, 0.0);
    }

    #[test]
    fn a_metric_is_summed_over_the_series_that_are_asked_for() {
        let text = "# HELP a x\na{code=\"X\"} 2\na{code=\"Y\"} 3\nab 7\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!((metrics.sum("a", ""), metrics.sum("a", "code=\"Y\"")), (5.0, 3.0));
    }
}
