//! `floe bench produce`.

use std::time::Duration;

use tokio::net::TcpListener;

use super::process::Process;
use super::report::Report;
use super::server::Server;
use super::target::Target;
use super::{Settings, baseline, load};
use crate::cli::output;

const TOPIC: &str = "bench";

/// Between two parts: disks and machines that are shared need a rest.
const REST: Duration = Duration::from_secs(1);

const RATE: &str = "produce, acks all";

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let flags = ["--table-mode", "off"];
    let mut options = serde_json::json!({});
    if let Some(bytes) = settings.retain_bytes {
        options = serde_json::json!({ "retention.bytes": bytes.to_string() });
    }
    let server = Server::start(settings, &flags).await?;
    let ours = Target::ours(&server, TOPIC, settings.partitions, options).await?;
    if settings.retain_bytes.is_some() {
        output::progress(format!("filling files for {:?} ...", settings.seconds));
        let series = series(settings, &ours.topic)?;
        load::produce(ours.address, series, load::Load::full(settings)).await?;
    }
    let files = Files::of(&server).await?;
    let rate = measure(settings, &ours, report).await?;
    files.report(&server, report).await?;
    let groups = server.metric("floe_wal_groups_total").await?;
    let group_bytes = server.metric("floe_wal_bytes_total").await? / groups.max(1.0);
    report.add("bytes that one sync makes durable, on average", group_bytes / 1e3, "kB");
    for beside in &settings.beside {
        let target = Target::beside(beside, settings.partitions).await?;
        let theirs = measure(settings, &target, report).await?;
        report.add(target.named("ratio of ours to it"), rate / theirs, "");
        target.done().await?;
    }
    tokio::time::sleep(REST).await;
    plain(settings, report, &server, group_bytes, rate).await?;
    drop(server);
    tokio::time::sleep(REST).await;
    into_a_sink(settings, report, rate).await
}

/// Files of the log that were begun, and those of them that had been written before.
struct Files {
    begun: f64,
    recycled: f64,
}

impl Files {
    async fn of(server: &Server) -> Result<Self, String> {
        let metrics = server.metrics().await?;
        let sum = |name| metrics.sum(name, "");
        Ok(Self {
            begun: sum("floe_wal_files") + sum("floe_wal_files_freed_total"),
            recycled: sum("floe_wal_files_recycled_total"),
        })
    }

    /// What came since.
    async fn report(self, server: &Server, report: &mut Report) -> Result<(), String> {
        let now = Self::of(server).await?;
        report.add("files of the log begun", now.begun - self.begun, "");
        report.add("of them written before", now.recycled - self.recycled, "");
        Ok(())
    }
}

fn series(settings: &Settings, topic: &str) -> Result<Vec<Vec<load::Shot>>, String> {
    Ok(load::shots(settings, topic)?.into_iter().map(|shot| vec![shot]).collect())
}

/// MB a second of the load into a topic.
async fn measure(settings: &Settings, target: &Target, report: &mut Report) -> Result<f64, String> {
    output::progress(target.named(&format!("producing for {:?} ...", settings.seconds)));
    let series = series(settings, &target.topic)?;
    let (before, own) = (target.process.usage(), Process::own().usage());
    let mut done = load::produce(target.address, series, load::Load::full(settings)).await?;
    let (used, own) = (target.process.usage() - before, Process::own().usage() - own);
    let (bytes, seconds) = (done.bytes as f64, done.seconds);
    let rate = bytes / 1e6 / seconds;
    report.add(target.named(RATE), rate, "MB/s");
    report.add(target.named("records"), done.records as f64 / seconds, "1/s");
    report.add(target.named("batches"), done.batches as f64 / seconds, "1/s");
    report.add_times(&target.named("answer"), &mut done.times);
    report.add(target.named("server CPU"), used.cpu_seconds / (bytes / 1e9), "s/GB");
    let per_batch = used.cpu_seconds * 1e6 / done.batches as f64;
    report.add(target.named("server CPU per batch"), per_batch, "us");
    report.add(target.named("generator CPU"), own.cpu_seconds / (bytes / 1e9), "s/GB");
    report.add(target.named("bytes written to disk per byte"), used.disk_bytes / bytes, "");
    report.add(target.named("server memory, peak"), target.process.peak_mb(), "MB");
    Ok(rate)
}

async fn plain(
    settings: &Settings,
    report: &mut Report,
    server: &Server,
    group_bytes: f64,
    rate: f64,
) -> Result<(), String> {
    output::progress("a plain file, synced the same way ...");
    let (dir, seconds) = (server.dir().to_owned(), settings.seconds);
    let group_bytes = (group_bytes as usize).next_multiple_of(4096);
    let file = move || baseline::plain_file(&dir, group_bytes, seconds, Duration::ZERO);
    let plain = tokio::task::spawn_blocking(file).await.map_err(|error| error.to_string())?;
    let plain = plain.map_err(|error| format!("plain file: {error}"))?;
    report.add("plain file, groups of that size", plain.mb_per_second(), "MB/s");
    report.add("plain file CPU", plain.cpu_seconds / (plain.bytes / 1e9), "s/GB");
    report.add("ratio to the plain file", rate / plain.mb_per_second(), "");
    Ok(())
}

/// The same load into a socket that stores nothing: what the generator and the wire can do.
async fn into_a_sink(settings: &Settings, report: &mut Report, rate: f64) -> Result<(), String> {
    output::progress("a sink that stores nothing ...");
    let failed = |error: std::io::Error| format!("sink: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    // Correlation id and empty flexible fields: an answer for no partition, without an error.
    let mut answer = vec![0, 0, 0, 11, 0, 0, 0, 1, 0, 1];
    answer.extend([0, 0, 0, 0, 0]);
    let series = series(settings, TOPIC)?;
    let produced = load::produce(address, series, load::Load::full(settings));
    let done = tokio::select! {
        done = produced => done?,
        ended = baseline::sink(listener, &answer) => return Err(format!("sink: {ended:?}")),
    };
    let sink = done.bytes as f64 / 1e6 / done.seconds;
    report.add("the same load into a sink", sink, "MB/s");
    report.add("ratio to the sink", rate / sink, "");
    Ok(())
}
