//! `floe bench tables`.

use std::time::Duration;

use super::report::Report;
use super::server::Server;
use super::{Settings, load};
use crate::cli::output;
use crate::record::Codec;

const TOPIC: &str = "bench";

/// Different batches of each partition; sent in turn.
const BATCHES: usize = 16;
const ROWS_PER_BATCH: usize = 1_000;

/// A JSON object of about 300 bytes and nine fields.
fn row(number: usize) -> Vec<u8> {
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

fn series(partitions: i32) -> Result<(Vec<Vec<load::Shot>>, usize), String> {
    let mut number = 0;
    let mut bytes = 0;
    let mut all = Vec::new();
    for partition in 0..partitions {
        let mut shots = Vec::new();
        for _ in 0..BATCHES {
            let rows: Vec<Vec<u8>> = (number..number + ROWS_PER_BATCH).map(row).collect();
            number += ROWS_PER_BATCH;
            bytes += rows.iter().map(Vec::len).sum::<usize>();
            let batch = load::batch(&rows, Codec::Lz4)?;
            let size = batch.len() as u64;
            let frame = load::request(TOPIC, partition, batch)?;
            shots.push(load::Shot { frame, records: ROWS_PER_BATCH as u64, bytes: size });
        }
        all.push(shots);
    }
    Ok((all, bytes / number.max(1)))
}

/// CPU seconds of the server for a million rows, and how many were sent in how long.
async fn measure(
    settings: &Settings,
    mode: &str,
    series: Vec<Vec<load::Shot>>,
    report: &mut Report,
) -> Result<f64, String> {
    let server =
        Server::start(settings, &["--table-mode", mode, "--table-target-lag", "10s"]).await?;
    server.create(TOPIC, settings.partitions, serde_json::json!({})).await?;
    output::progress(format!("rows with table.mode={mode} for {:?} ...", settings.seconds));
    let before = server.usage();
    let mut done =
        load::produce(server.kafka, series, settings.in_flight, settings.seconds).await?;
    let with_table = mode != "off";
    if with_table {
        output::progress("waiting for the table ...");
        let rows = server.flush(TOPIC).await?;
        if rows != done.records {
            return Err(format!("{} records were sent, {rows} are rows", done.records));
        }
    }
    let cpu = (server.usage() - before).cpu_seconds;
    let name = if with_table { "with tables" } else { "tables off" };
    report.add(format!("rows sent, {name}"), done.records as f64 / done.seconds, "1/s");
    report.add_times(&format!("answer, {name}"), &mut done.times);
    report.add(format!("server memory, peak, {name}"), server.peak_mb(), "MB");
    let per_million = cpu / (done.records as f64 / 1e6);
    report.add(format!("server CPU per million rows, {name}"), per_million, "s");
    Ok(per_million)
}

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let (series, row_bytes) = series(settings.partitions)?;
    report.add("bytes of a row, nine fields", row_bytes as f64, "");
    let off = measure(settings, "off", series.clone(), report).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let on = measure(settings, "json", series, report).await?;
    report.add("rows per CPU second, log and catalog included", 1e6 / on, "");
    report.add("ratio of CPU, with tables to tables off", on / off, "");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_row_is_json_of_nine_fields_and_about_300_bytes() {
        let row = super::row(123_456);
        let value: serde_json::Value = serde_json::from_slice(&row).unwrap();
        assert_eq!(value.as_object().map(serde_json::Map::len), Some(9));
        assert!((250..350).contains(&row.len()), "{}", row.len());
    }
}
