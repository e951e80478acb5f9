//! `floe bench steady`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Settings;
use super::load::{self, Load};
use super::process::Process;
use super::report::{Report, Times};
use super::server::Server;
use super::tables::{ROWS_PER_BATCH, pace, series};
use crate::cli::output;

const TOPIC: &str = "bench";

/// `table.target.lag` of the measured server.
const LAG: &str = "1s";

const FRESH: &str = "row to table with a target lag of 1 s, from when it was due";

/// How often the table is looked at; freshness is known to this.
const LOOK: Duration = Duration::from_millis(20);

/// Longest wait for the last rows.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What one phase showed.
struct Phase {
    answers: Times,
    fresh: Times,
}

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let (series, row_bytes) = series(settings.partitions, None)?;
    let load = Load {
        in_flight: settings.in_flight.max(4 * usize::try_from(settings.partitions).unwrap_or(1)),
        seconds: settings.seconds,
        pace: pace(settings, row_bytes),
    };
    if settings.is_tables_only {
        let mut on = phase(settings, "json", series, load, report).await?;
        report.add_times(FRESH, &mut on.fresh);
        return Ok(());
    }
    let mut off = phase(settings, "off", series.clone(), load, report).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut on = phase(settings, "json", series, load, report).await?;
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let ratio = on.answers.percentile_ms(share) / off.answers.percentile_ms(share);
        report.add(format!("ratio of answers with tables to tables off, {name}"), ratio, "");
    }
    report.add_times(FRESH, &mut on.fresh);
    Ok(())
}

async fn phase(
    settings: &Settings,
    mode: &str,
    series: Vec<Vec<load::Shot>>,
    load: Load,
    report: &mut Report,
) -> Result<Phase, String> {
    let flags = ["--table-mode", mode, "--table-target-lag", LAG];
    let mut options = serde_json::json!({});
    if let Some(bytes) = settings.retain_bytes {
        options = serde_json::json!({ "retention.bytes": bytes.to_string() });
    }
    let server = Server::start(settings, &flags).await?;
    server.create(TOPIC, settings.partitions, options).await?;
    let rate = settings.mb_per_second.unwrap_or_default();
    output::progress(format!(
        "{rate} MB/s of JSON with table.mode={mode} for {:?} ...",
        settings.seconds
    ));
    let process = server.process();
    let before = process.usage();
    let with_table = mode != "off";
    let (done, fresh, early) = tokio::try_join!(
        load::produce(server.kafka, series, load),
        follow(&server, settings.partitions, load, with_table),
        early_memory(process, settings.seconds),
    )?;
    let late = process.resident_mb();
    let used = process.usage() - before;
    let name = if with_table { "with tables" } else { "tables off" };
    let sent = done.records as f64 / done.seconds;
    let mut answers = done.times;
    report.add(format!("rows sent, {name}"), sent, "1/s");
    report.add_times(&format!("answer, {name}"), &mut answers);
    report.add(format!("server CPU, {name}"), used.cpu_seconds / done.seconds, "cores");
    report.add(format!("server memory after a tenth of the time, {name}"), early, "MB");
    report.add(format!("server memory at the end, {name}"), late, "MB");
    report.add(format!("server memory, peak, {name}"), process.peak_mb(), "MB");
    Ok(Phase { answers, fresh })
}

/// Resident memory after a tenth of the time, MB: what it grows by later is a leak.
async fn early_memory(process: Process, length: Duration) -> Result<f64, String> {
    tokio::time::sleep(length / 10).await;
    Ok(process.resident_mb())
}

/// Looks at the table until all rows are there; times from when the batch of a row was due.
async fn follow(
    server: &Server,
    partitions: i32,
    load: Load,
    with_table: bool,
) -> Result<Times, String> {
    let (started, mut fresh) = (Instant::now(), Times::default());
    let Some(pace) = load.pace.filter(|_| with_table) else { return Ok(fresh) };
    let count = u32::try_from(load.seconds.as_nanos().saturating_sub(1) / pace.as_nanos().max(1));
    let count = count.unwrap_or(u32::MAX);
    let due = |batch: u32| started + pace * batch;
    // Per partition the next batches that are not in the table.
    let mut waiting: Vec<VecDeque<u32>> = (0..partitions).map(|_| (1..=count).collect()).collect();
    while waiting.iter().any(|batches| !batches.is_empty()) {
        if Instant::now() > started + load.seconds + WAIT_MAX {
            return Err("rows did not come into the table".to_owned());
        }
        tokio::time::sleep(LOOK).await;
        let ends = ends_of(&server.table(TOPIC).await?);
        let now = Instant::now();
        for (partition, end) in ends {
            let Some(batches) = waiting.get_mut(partition) else { continue };
            while let Some(batch) = batches.front().copied() {
                if u64::from(batch) * ROWS_PER_BATCH as u64 > end {
                    break;
                }
                fresh.push(now.saturating_duration_since(due(batch)));
                batches.pop_front();
            }
        }
    }
    Ok(fresh)
}

/// Per partition the offset below which all is in the table.
fn ends_of(table: &Value) -> Vec<(usize, u64)> {
    let partitions = table["partitions"].as_array().cloned().unwrap_or_default();
    let end = |one: &Value| {
        let partition = usize::try_from(one["partition"].as_u64()?).ok()?;
        Some((partition, one["end_offset"].as_u64()?))
    };
    partitions.iter().filter_map(end).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_partition_without_rows_has_no_end() {
        let table = json!({"partitions": [
            {"partition": 0, "end_offset": null}, {"partition": 1, "end_offset": 7},
        ]});
        assert_eq!(super::ends_of(&table), [(1, 7)]);
        assert_eq!(super::ends_of(&json!({})), []);
    }
}
