//! `floe bench start`.

use std::time::{Duration, Instant};

use super::Settings;
use super::load::{self, Done, Load};
use super::report::Report;
use super::server::Server;
use super::sparse::{self, Sparse};
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

/// The state follows the log within this time; a crash at once would be another measurement.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let server = Server::start(settings, &[]).await?;
    report.add("ready, in a new data directory", ms(server.ready_after), "ms");
    let took = first_row(&server, "first").await?;
    report.add("first row in a table, from when it was sent", ms(took), "ms");
    drop(server);
    let mut server = Server::start(settings, &["--table-mode", "off"]).await?;
    tokio::time::sleep(IDLE).await;
    report.add("server memory, idle", server.process().resident_mb(), "MB");
    let began = Instant::now();
    server.create(TOPIC, settings.partitions, serde_json::json!({})).await?;
    report.add("a topic with its partitions", ms(began.elapsed()), "ms");
    report.add("server memory with them", server.process().resident_mb(), "MB");
    fill(settings, &server, report).await?;
    tokio::time::sleep(SETTLE).await;
    output::progress("kill -9, and again ...");
    server.crash().await?;
    server.restart().await?;
    report.add("ready after kill -9", ms(server.ready_after), "ms");
    report.add("server memory after it", server.process().resident_mb(), "MB");
    let took = first_row(&server, "first").await?;
    report.add("first row in a table after it, from when it was sent", ms(took), "ms");
    output::progress("kill -9, and again with nothing in the page cache ...");
    server.crash().await?;
    let dir = server.dir().to_owned();
    tokio::task::spawn_blocking(move || sparse::forget(&dir)).await.map_err(|_| "no thread")??;
    server.restart().await?;
    report.add("ready after kill -9, its files not in memory", ms(server.ready_after), "ms");
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

/// Until the first row of a new topic is in its table.
async fn first_row(server: &Server, topic: &str) -> Result<Duration, String> {
    server.create(topic, 1, serde_json::json!({ "table.mode": "auto" })).await?;
    let batch = load::batch(&[row(1)], Codec::None)?;
    let frame = load::request(topic, 0, batch)?;
    let began = Instant::now();
    load::produce_once(server.kafka, &load::Shot { frame, records: 1, bytes: 1, poison: [0; 2] })
        .await?;
    while server.table(topic).await?["rows"].as_u64().unwrap_or(0) == 0 {
        if began.elapsed() > WAIT_MAX {
            return Err("the first row did not come into its table".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(began.elapsed())
}

/// Produces into all partitions in turn, for a time or until the log is long enough.
async fn fill(settings: &Settings, server: &Server, report: &mut Report) -> Result<(), String> {
    let shots = load::shots(settings, TOPIC)?;
    let share = shots.len().div_ceil(CONNECTIONS).max(1);
    let series: Vec<Vec<load::Shot>> = shots.chunks(share).map(<[load::Shot]>::to_vec).collect();
    let process = server.process();
    let before = process.usage();
    let mut sparse = Sparse::of(&server.dir().join("data"))?;
    let mut done = Done::default();
    loop {
        output::progress(match settings.log_bytes {
            None => format!("producing for {:?} ...", settings.seconds),
            Some(bytes) => format!("{} of {} MB ...", done.bytes / 1_000_000, bytes / 1_000_000),
        });
        done.add(load::produce(server.kafka, series.clone(), Load::full(settings)).await?);
        let Some(wanted) = settings.log_bytes else { break };
        let punched = tokio::task::spawn_blocking(move || sparse.punch().map(|()| sparse)).await;
        sparse = punched.map_err(|_| "no thread")??;
        if done.bytes >= wanted {
            break;
        }
    }
    let used = process.usage() - before;
    let size = sparse.size()?;
    report.add("bytes in the log", done.bytes as f64 / 1e6, "MB");
    report.add("files of the log", size.files as f64, "");
    report.add("their lengths", size.bytes as f64 / 1e6, "MB");
    report.add("of them on the disk", size.on_disk as f64 / 1e6, "MB");
    report.add("batches", done.batches as f64, "");
    report.add("batches, over all partitions in turn", done.batches as f64 / done.seconds, "1/s");
    report.add("server CPU per batch", used.cpu_seconds * 1e6 / done.batches as f64, "us");
    report.add_times("answer", &mut done.times);
    report.add("server memory, peak", process.peak_mb(), "MB");
    Ok(())
}
