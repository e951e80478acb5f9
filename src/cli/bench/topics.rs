//! `floe bench topics`: many topics with little in each.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::load::{Done, Shot};
use super::report::Report;
use super::server::Server;
use super::{Settings, load, tables};
use crate::cli::output;
use crate::record::Codec;

/// What a topic gets in this time is one batch, as clients with a linger send it.
const LINGER: Duration = Duration::from_millis(500);

/// Topics of one produce request.
const TOPICS_PER_REQUEST: usize = 50;

/// Different batches of a topic; sent in turn.
const BATCHES: usize = 4;

/// With tables off nothing has to settle first, but for the log.
const WARM_MAX: Duration = Duration::from_secs(10);

/// Flushes at a time.
const FLUSHES: usize = 16;

fn name(topic: usize) -> String {
    format!("bench_{topic}")
}

/// What one connection sends: all of its topics once in `every`.
struct Schedule {
    series: Vec<Vec<Shot>>,
    every: Duration,
}

/// The topics shared out over the connections. Each has one partition.
fn schedule(settings: &Settings) -> Result<Schedule, String> {
    let linger = u64::try_from(LINGER.as_millis()).unwrap_or(u64::MAX);
    let rows = (settings.rate * linger / 1_000).max(1);
    let every = Duration::from_secs_f64(rows as f64 / settings.rate as f64);
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let topics: Vec<usize> = (0..settings.topics).collect();
    let connections = usize::try_from(settings.partitions).unwrap_or(1).max(1);
    let mut series = Vec::new();
    for own in topics.chunks(topics.len().div_ceil(connections).max(1)) {
        let mut shots = Vec::new();
        for turn in 0..BATCHES {
            for some in own.chunks(TOPICS_PER_REQUEST) {
                shots.push(shot(some, turn, rows)?);
            }
        }
        series.push(shots);
    }
    Ok(Schedule { series, every })
}

fn shot(topics: &[usize], turn: usize, rows: usize) -> Result<Shot, String> {
    let mut batches = Vec::new();
    let mut bytes = 0;
    for topic in topics {
        let first = (topic * BATCHES + turn) * rows;
        let values: Vec<Vec<u8>> = (first..first + rows).map(tables::row).collect();
        let batch = load::batch(&values, Codec::Lz4)?;
        bytes += batch.len() as u64;
        batches.push((name(*topic), 0, batch));
    }
    let frame = load::request_to(batches)?;
    Ok(Shot { frame, records: (topics.len() * rows) as u64, bytes, poison: [0; 2] })
}

async fn send(
    settings: &Settings,
    server: &Server,
    schedule: &Schedule,
    length: Duration,
) -> Result<Done, String> {
    let requests = schedule.series.iter().map(|shots| shots.len() / BATCHES).max().unwrap_or(1);
    let gap = schedule.every / u32::try_from(requests.max(1)).unwrap_or(u32::MAX);
    let load = load::Load { in_flight: settings.in_flight, seconds: length, pace: Some(gap) };
    load::produce(server.kafka, schedule.series.clone(), load).await
}

/// CPU of the server, as a share of one core, in percent.
async fn measure(
    settings: &Settings,
    mode: &str,
    schedule: &Schedule,
    report: &mut Report,
) -> Result<f64, String> {
    let lag = format!("{}s", settings.lag.as_secs());
    let flags = ["--table-mode", mode, "--table-target-lag", &lag];
    let server = Server::start(settings, &flags).await?;
    let with_tables = mode != "off";
    let label = if with_tables { "with tables" } else { "tables off" };
    output::progress(format!("{} topics, {label}: made and warmed up ...", settings.topics));
    for topic in 0..settings.topics {
        server.create(&name(topic), 1, serde_json::json!({})).await?;
    }
    let warm = if with_tables { settings.lag } else { settings.lag.min(WARM_MAX) };
    let mut sent = send(settings, &server, schedule, warm).await?.records;
    output::progress(format!("measured for {:?} ...", settings.seconds));
    let first = server.metrics().await?;
    let before = server.process().usage();
    let mut done = send(settings, &server, schedule, settings.seconds).await?;
    let used = server.process().usage() - before;
    sent += done.records;
    let share = 100.0 * used.cpu_seconds / done.seconds;
    report.add(format!("records sent, {label}"), done.records as f64 / done.seconds, "1/s");
    report.add_times(&format!("answer, {label}"), &mut done.times);
    report.add(format!("server CPU, {label}"), share, "% of a core");
    report.add(format!("server memory, peak, {label}"), server.process().peak_mb(), "MB");
    if with_tables {
        let last = server.metrics().await?;
        let grown = |name: &str, label: &str| last.sum(name, label) - first.sum(name, label);
        let commits = grown("floe_table_commits_total", "result=\"ok\"");
        let freshness = grown("floe_table_freshness_seconds_sum", "") / commits;
        let per_lag = commits / settings.topics as f64 / done.seconds * settings.lag.as_secs_f64();
        report.add("table commits", commits / done.seconds, "1/s");
        report.add("table commits of one table in a target lag", per_lag, "");
        report.add("freshness, the oldest row of a commit, mean", freshness, "s");
        spread(settings, &server, report).await?;
        all_there(settings, &server, sent).await?;
        report.add("rows in the tables, each record once", sent as f64, "");
    }
    Ok(share)
}

/// How the tables' last commits lie within a target lag, and what waits longest.
async fn spread(settings: &Settings, server: &Server, report: &mut Report) -> Result<(), String> {
    let all = server.tables().await?;
    let number = |table: &serde_json::Value, key: &str| table[key].as_i64();
    let waits = all.iter().filter_map(|table| number(table, "lag_ms")).max().unwrap_or(0);
    let mut seconds: BTreeMap<i64, usize> = BTreeMap::new();
    for table in &all {
        if let Some(at_ms) = number(table, "last_commit_ms") {
            *seconds.entry(at_ms / 1_000).or_default() += 1;
        }
    }
    let busiest = seconds.values().max().copied().unwrap_or(0) as f64;
    let even = settings.topics as f64 / settings.lag.as_secs_f64();
    report.add("oldest row that waits for its table at the end", waits as f64 / 1_000.0, "s");
    report.add("last commits of tables, most in one second", busiest, "");
    report.add("the same if they were spread evenly over the lag", even, "");
    Ok(())
}

/// Every record is a row of its table.
async fn all_there(settings: &Settings, server: &Server, sent: u64) -> Result<(), String> {
    output::progress("waiting for the tables ...");
    let flushes = futures::stream::iter(0..settings.topics).map(|topic| async move {
        let status = server.flush(&name(topic)).await?;
        status["rows"].as_u64().ok_or_else(|| status.to_string())
    });
    let rows = flushes
        .buffer_unordered(FLUSHES)
        .try_fold(0, |sum, rows| async move { Ok(sum + rows) })
        .await?;
    if rows == sent { Ok(()) } else { Err(format!("{sent} records were sent, {rows} are rows")) }
}

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let schedule = schedule(settings)?;
    let wanted = settings.topics as u64 * settings.rate;
    report.add("records wanted", wanted as f64, "1/s");
    let off = measure(settings, "off", &schedule, report).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let on = measure(settings, "json", &schedule, report).await?;
    report.add("tiering and catalog add", on - off, "% of a core");
    Ok(())
}
