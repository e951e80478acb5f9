//! `floe bench produce`.

use std::time::Duration;

use tokio::net::TcpListener;

use super::load::Done;
use super::report::Report;
use super::server::{Server, own_usage};
use super::{Settings, baseline, load};
use crate::cli::output;

const TOPIC: &str = "bench";

/// Between two parts: disks and machines that are shared need a rest.
const REST: Duration = Duration::from_secs(1);

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let series: Vec<_> = load::shots(settings, TOPIC)?.into_iter().map(|shot| vec![shot]).collect();
    let server = Server::start(settings, &["--table-mode", "off"]).await?;
    server.create(TOPIC, settings.partitions, serde_json::json!({})).await?;
    output::progress(format!("producing for {:?} ...", settings.seconds));
    let (before, own) = (server.usage(), own_usage());
    let done =
        load::produce(server.kafka, series.clone(), settings.in_flight, settings.seconds).await?;
    let (used, own) = (server.usage() - before, own_usage() - own);
    let groups = server.metric("floe_wal_groups_total").await?;
    let group_bytes = server.metric("floe_wal_bytes_total").await? / groups.max(1.0);
    add(report, done, used.cpu_seconds, own.cpu_seconds, used.disk_bytes);
    report.add("server memory, peak", server.peak_mb(), "MB");
    report.add("bytes that one sync makes durable, on average", group_bytes / 1e3, "kB");
    tokio::time::sleep(REST).await;
    plain(settings, report, &server, group_bytes).await?;
    drop(server);
    tokio::time::sleep(REST).await;
    into_a_sink(settings, report, series).await
}

fn add(report: &mut Report, mut done: Done, cpu: f64, own_cpu: f64, disk_bytes: f64) {
    let (bytes, seconds) = (done.bytes as f64, done.seconds);
    report.add("produce, acks all, synced before each answer", bytes / 1e6 / seconds, "MB/s");
    report.add("records", done.records as f64 / seconds, "1/s");
    report.add("batches", done.batches as f64 / seconds, "1/s");
    report.add_times("answer", &mut done.times);
    report.add("server CPU", cpu / (bytes / 1e9), "s/GB");
    report.add("server CPU per batch", cpu * 1e6 / done.batches as f64, "us");
    report.add("generator CPU", own_cpu / (bytes / 1e9), "s/GB");
    report.add("bytes written to disk per byte", disk_bytes / bytes, "");
}

async fn plain(
    settings: &Settings,
    report: &mut Report,
    server: &Server,
    group_bytes: f64,
) -> Result<(), String> {
    output::progress("a plain file, synced the same way ...");
    let (dir, seconds) = (server.dir().to_owned(), settings.seconds);
    let group_bytes = (group_bytes as usize).next_multiple_of(4096);
    let file = move || baseline::plain_file(&dir, group_bytes, seconds, Duration::ZERO);
    let plain = tokio::task::spawn_blocking(file).await.map_err(|error| error.to_string())?;
    let plain = plain.map_err(|error| format!("plain file: {error}"))?;
    report.add("plain file, groups of that size", plain.mb_per_second(), "MB/s");
    report.add("plain file CPU", plain.cpu_seconds / (plain.bytes / 1e9), "s/GB");
    let ours = report.value("produce, acks all, synced before each answer");
    report.add("ratio to the plain file", ours / plain.mb_per_second(), "");
    Ok(())
}

/// The same load into a socket that stores nothing: what the generator and the wire can do.
async fn into_a_sink(
    settings: &Settings,
    report: &mut Report,
    series: Vec<Vec<load::Shot>>,
) -> Result<(), String> {
    output::progress("a sink that stores nothing ...");
    let failed = |error: std::io::Error| format!("sink: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    // Correlation id and empty flexible fields: an answer for no partition, without an error.
    let mut answer = vec![0, 0, 0, 11, 0, 0, 0, 1, 0, 1];
    answer.extend([0, 0, 0, 0, 0]);
    let produced = load::produce(address, series, settings.in_flight, settings.seconds);
    let done = tokio::select! {
        done = produced => done?,
        ended = baseline::sink(listener, &answer) => return Err(format!("sink: {ended:?}")),
    };
    let rate = done.bytes as f64 / 1e6 / done.seconds;
    report.add("the same load into a sink", rate, "MB/s");
    let ours = report.value("produce, acks all, synced before each answer");
    report.add("ratio to the sink", ours / rate, "");
    Ok(())
}
