//! `floe bench tables`.

use std::time::{Duration, Instant};

use super::load::Load;
use super::report::Report;
use super::server::Server;
use super::{Settings, load};
use crate::cli::output;
use crate::record::Codec;

const TOPIC: &str = "bench";

/// Different batches of each partition; sent in turn.
const BATCHES: usize = 16;
pub(super) const ROWS_PER_BATCH: usize = 1_000;

/// Between two parts: disks and machines that are shared need a rest.
const REST: Duration = Duration::from_secs(1);

/// Records that mode `json` takes into no table, and the codes that they get.
const POISON: [(&str, &str); 2] = [("{\"id\":7,", "JSON_PARSE"), ("[1,2]", "TYPE_MISMATCH")];

/// A JSON object of about 300 bytes and nine fields.
pub(super) fn row(number: usize) -> Vec<u8> {
    let session = (number as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    format!(
        "{{\"id\":{number},\"user\":\"user-{:08}\",\"session\":\"{session:032x}\",\"event\":\"page_view\",\
         \"url\":\"https://shop.invalid/products/{}/details?ref=campaign-{}\",\"price\":{}.25,\
         \"quantity\":{},\"paid\":{},\"note\":\"lorem ipsum dolor sit amet consectetur adipiscing elit\"}}",
        number % 100_000,
        number % 10_000,
        number % 97,
        number % 1_000,
        number % 9,
        number.is_multiple_of(3),
    )
    .into_bytes()
}

/// Every how many-th record is poison, of the kinds in turn.
fn poison_at(number: usize, every: Option<usize>) -> Option<usize> {
    let every = every.filter(|every| (number + 1).is_multiple_of(*every))?;
    Some((number + 1) / every % POISON.len())
}

fn shot(partition: i32, from: usize, every: Option<usize>) -> Result<(load::Shot, usize), String> {
    let mut poison = [0; 2];
    let rows = (from..from + ROWS_PER_BATCH).map(|number| match poison_at(number, every) {
        None => row(number),
        Some(kind) => {
            poison[kind] += 1;
            POISON[kind].0.as_bytes().to_vec()
        }
    });
    let rows: Vec<Vec<u8>> = rows.collect();
    let row_bytes = rows.iter().map(Vec::len).sum::<usize>();
    let batch = load::batch(&rows, Codec::Lz4)?;
    let bytes = batch.len() as u64;
    let frame = load::request(TOPIC, partition, batch)?;
    Ok((load::Shot { frame, records: ROWS_PER_BATCH as u64, bytes, poison }, row_bytes))
}

/// The batches of each partition, and the mean size of a record. With `every`, each so many-th
/// record is poison.
pub(super) fn series(
    partitions: i32,
    every: Option<usize>,
) -> Result<(Vec<Vec<load::Shot>>, usize), String> {
    let mut number = 0;
    let mut bytes = 0;
    let mut all = Vec::new();
    for partition in 0..partitions {
        let mut shots = Vec::new();
        for _ in 0..BATCHES {
            let (shot, size) = shot(partition, number, every)?;
            number += ROWS_PER_BATCH;
            bytes += size;
            shots.push(shot);
        }
        all.push(shots);
    }
    Ok((all, bytes / number.max(1)))
}

/// From one batch of a partition to its next at so many megabytes of JSON a second.
pub(super) fn pace(settings: &Settings, row_bytes: usize) -> Option<Duration> {
    let rate = settings.mb_per_second? as f64 * 1e6;
    let round = row_bytes as f64 * ROWS_PER_BATCH as f64 * f64::from(settings.partitions);
    Some(Duration::from_secs_f64(round / rate))
}

/// What a load took until all of it was in the table.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    records: f64,
    /// Of the server.
    cpu_seconds: f64,
    seconds: f64,
    dead: f64,
}

impl Measured {
    fn per_cpu_second(self) -> f64 {
        self.records / self.cpu_seconds
    }

    fn per_second(self) -> f64 {
        self.records / self.seconds
    }
}

impl std::ops::AddAssign for Measured {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.cpu_seconds += other.cpu_seconds;
        self.seconds += other.seconds;
        self.dead += other.dead;
    }
}

/// Sends `series` to a server of its own and waits for the table, if there is one.
async fn measure(
    settings: &Settings,
    name: &str,
    mode: &str,
    (series, load): (Vec<Vec<load::Shot>>, Load),
    report: &mut Report,
) -> Result<Measured, String> {
    let server =
        Server::start(settings, &["--table-mode", mode, "--table-target-lag", "10s"]).await?;
    server.create(TOPIC, settings.partitions, serde_json::json!({})).await?;
    output::progress(format!("rows, {name}, for {:?} ...", settings.seconds));
    let (before, began) = (server.process().usage(), Instant::now());
    let mut done = load::produce(server.kafka, series, load).await?;
    if mode != "off" {
        output::progress("waiting for the table ...");
        let status = server.flush(TOPIC).await?;
        let seconds = began.elapsed().as_secs_f64();
        report.add(format!("rows in the table, {name}"), done.records as f64 / seconds, "1/s");
        counted(&server, &status, &done).await?;
    }
    let measured = Measured {
        records: done.records as f64,
        cpu_seconds: (server.process().usage() - before).cpu_seconds,
        seconds: began.elapsed().as_secs_f64(),
        dead: done.poison.iter().sum::<u64>() as f64,
    };
    report.add(format!("rows sent, {name}"), done.records as f64 / done.seconds, "1/s");
    report.add_times(&format!("answer, {name}"), &mut done.times);
    report.add(format!("server memory, peak, {name}"), server.process().peak_mb(), "MB");
    let per_million = 1e6 / measured.per_cpu_second();
    report.add(format!("server CPU per million rows, {name}"), per_million, "s");
    Ok(measured)
}

/// Every record is a row, or a dead letter with its code if it is poison.
async fn counted(
    server: &Server,
    status: &serde_json::Value,
    done: &load::Done,
) -> Result<(), String> {
    let count = |key: &str| status[key].as_u64().unwrap_or(0);
    let dead: u64 = done.poison.iter().sum();
    let (rows, dlq_rows, gaps) = (count("rows"), count("dlq_rows"), count("gap_offsets"));
    if (rows, dlq_rows, gaps) != (done.records - dead, dead, 0) {
        return Err(format!(
            "{} records were sent, {dead} of them poison: {rows} are rows, {dlq_rows} dead \
             letters, {gaps} in gaps",
            done.records
        ));
    }
    let metrics = server.metrics().await?;
    for ((_, code), sent) in POISON.iter().zip(done.poison) {
        let found = metrics.sum("floe_table_dlq_rows_total", &format!("code=\"{code}\""));
        if found != sent as f64 {
            return Err(format!("{sent} records were sent for {code}, {found} have the code"));
        }
    }
    Ok(())
}

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let (clean, row_bytes) = series(settings.partitions, None)?;
    report.add("bytes of a row, nine fields", row_bytes as f64, "");
    let load = Load { pace: pace(settings, row_bytes), ..Load::full(settings) };
    let clean = (clean, load);
    if let Some(every) = settings.poison_every {
        return with_poison(settings, every, clean, report).await;
    }
    let off = measure(settings, "tables off", "off", clean.clone(), report).await?;
    tokio::time::sleep(REST).await;
    let on = measure(settings, "with tables", "json", clean, report).await?;
    report.add("rows per CPU second, log and catalog included", on.per_cpu_second(), "");
    let ratio = off.per_cpu_second() / on.per_cpu_second();
    report.add("ratio of CPU, with tables to tables off", ratio, "");
    Ok(())
}

/// The same load with and without poison, there and back: a machine that gets slower meanwhile
/// does not count.
async fn with_poison(
    settings: &Settings,
    every: usize,
    clean: (Vec<Vec<load::Shot>>, Load),
    report: &mut Report,
) -> Result<(), String> {
    let (poisoned, _) = series(settings.partitions, Some(every))?;
    let poisoned = (poisoned, clean.1);
    let (mut without, mut with) = (Measured::default(), Measured::default());
    for turn in ["", ", again"] {
        let names = [format!("clean{turn}"), format!("with poison{turn}")];
        let order = if turn.is_empty() { [0, 1] } else { [1, 0] };
        for which in order {
            let series = if which == 0 { &clean } else { &poisoned };
            let one = measure(settings, &names[which], "json", series.clone(), report).await?;
            *(if which == 0 { &mut without } else { &mut with }) += one;
            tokio::time::sleep(REST).await;
        }
    }
    report.add("dead letters, each with its code", with.dead, "");
    report.add("rows per CPU second, clean", without.per_cpu_second(), "");
    report.add("rows per CPU second, with poison", with.per_cpu_second(), "");
    let cpu = with.per_cpu_second() / without.per_cpu_second();
    report.add("ratio of rows per CPU second, with poison to clean", cpu, "");
    let time = with.per_second() / without.per_second();
    report.add("ratio of rows in the table per second, with poison to clean", time, "");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_json_of_nine_fields_and_about_300_bytes() {
        let row = row(123_456);
        let value: serde_json::Value = serde_json::from_slice(&row).unwrap();
        assert_eq!(value.as_object().map(serde_json::Map::len), Some(9));
        assert!((250..350).contains(&row.len()), "{}", row.len());
    }

    #[test]
    fn every_so_many_th_record_is_poison_of_each_kind_in_turn() {
        let of = |every| {
            let (all, _) = series(2, every).unwrap();
            let sum = |kind: usize| all.iter().flatten().map(|shot| shot.poison[kind]).sum::<u64>();
            (sum(0), sum(1))
        };
        assert_eq!(of(None), (0, 0));
        assert_eq!(of(Some(1_000)), (16, 16));
        assert_eq!(of(Some(1)), (16_000, 16_000));
    }
}
