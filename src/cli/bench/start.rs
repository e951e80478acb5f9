//! `floe bench start`.

use std::time::{Duration, Instant};

use super::Settings;
use super::load::{self, Load};
use super::report::Report;
use super::server::Server;
use super::tables::row;
use crate::cli::output;
use crate::record::Codec;

const TOPIC: &str = "bench";

/// A server without work is looked at after this time.
const IDLE: Duration = Duration::from_secs(3);

/// Connections that share the partitions.
const CONNECTIONS: usize = 8;

/// Longest wait for the first row.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    first_row(settings, report).await?;
    let mut server = Server::start(settings, &["--table-mode", "off"]).await?;
    tokio::time::sleep(IDLE).await;
    report.add("server memory, idle", server.process().resident_mb(), "MB");
    let began = Instant::now();
    server.create(TOPIC, settings.partitions, serde_json::json!({})).await?;
    report.add("a topic with its partitions", ms(began.elapsed()), "ms");
    report.add("server memory with them", server.process().resident_mb(), "MB");
    fill(settings, &server, report).await?;
    output::progress("kill -9, and again ...");
    server.crash_and_restart().await?;
    report.add("ready after kill -9", ms(server.ready_after), "ms");
    report.add("server memory after it", server.process().resident_mb(), "MB");
    // It serves, too.
    let shots = load::shots(settings, TOPIC)?;
    for shot in shots.iter().take(1) {
        load::produce_once(server.kafka, shot).await?;
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A new data directory: until it is ready, and until the first row is in a table.
async fn first_row(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let server = Server::start(settings, &[]).await?;
    report.add("ready, in a new data directory", ms(server.ready_after), "ms");
    server.create("first", 1, serde_json::json!({})).await?;
    let batch = load::batch(&[row(1)], Codec::None)?;
    let frame = load::request("first", 0, batch)?;
    let began = Instant::now();
    load::produce_once(server.kafka, &load::Shot { frame, records: 1, bytes: 1, poison: [0; 2] })
        .await?;
    while server.table("first").await?["rows"].as_u64().unwrap_or(0) == 0 {
        if began.elapsed() > WAIT_MAX {
            return Err("the first row did not come into its table".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    report.add("first row in a table, from when it was sent", ms(began.elapsed()), "ms");
    Ok(())
}

/// Produces into all partitions in turn.
async fn fill(settings: &Settings, server: &Server, report: &mut Report) -> Result<(), String> {
    let shots = load::shots(settings, TOPIC)?;
    let share = shots.len().div_ceil(CONNECTIONS).max(1);
    let series = shots.chunks(share).map(<[load::Shot]>::to_vec).collect();
    output::progress(format!("producing for {:?} ...", settings.seconds));
    let process = server.process();
    let before = process.usage();
    let mut done = load::produce(server.kafka, series, Load::full(settings)).await?;
    let used = process.usage() - before;
    report.add("bytes in the log", done.bytes as f64 / 1e6, "MB");
    report.add("batches, over all partitions in turn", done.batches as f64 / done.seconds, "1/s");
    report.add("server CPU per batch", used.cpu_seconds * 1e6 / done.batches as f64, "us");
    report.add_times("answer", &mut done.times);
    report.add("server memory, peak", process.peak_mb(), "MB");
    Ok(())
}
