//! `floe bench growth`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Settings;
use super::load;
use super::report::{Report, Times};
use super::server::Server;
use super::tables::row;
use crate::cli::output;
use crate::record::Codec;

const TOPIC: &str = "bench";
const ROWS: usize = 100;

/// As many commits at the start are compared with as many at the end.
const PART: u64 = 100;

/// Files of a folder tree: how many, and their bytes.
#[derive(Default)]
struct Files {
    count: f64,
    bytes: f64,
}

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    // A commit follows each flush, however soon.
    let options = serde_json::json!({
        "table.mode": "json", "table.commit.min.interval.ms": "0",
    });
    let server = Server::start(settings, &[]).await?;
    server.create(TOPIC, 1, options).await?;
    let warehouse = server.dir().join("data").join("warehouse");
    let part = PART.min(settings.commits / 2).max(1);
    let (mut first, mut last) = (Times::default(), Times::default());
    let (mut first_cpu, mut last_cpu) = (0.0, 0.0);
    let mut early = Files::default();
    let process = server.process();
    for number in 0..settings.commits {
        if number.is_multiple_of(500) {
            output::progress(format!("{number} of {} commits ...", settings.commits));
        }
        let before = process.usage();
        let took = commit(&server, number).await?;
        let cpu = (process.usage() - before).cpu_seconds;
        if number < part {
            first.push(took);
            first_cpu += cpu;
        }
        if number + 1 == part {
            early = metadata(&warehouse)?;
        }
        if number + part >= settings.commits {
            last.push(took);
            last_cpu += cpu;
        }
    }
    let late = metadata(&warehouse)?;
    report.add("commits", settings.commits as f64, "");
    report.add_times(&format!("a commit of {ROWS} rows, the first {part}"), &mut first);
    report.add_times(&format!("a commit of {ROWS} rows, the last {part}"), &mut last);
    report.add("ratio, last to first, p50", last.percentile_ms(0.5) / first.percentile_ms(0.5), "");
    report.add("server CPU per commit, first", first_cpu * 1e3 / part as f64, "ms");
    report.add("server CPU per commit, last", last_cpu * 1e3 / part as f64, "ms");
    report.add("metadata files after the first", early.count, "");
    report.add("metadata files at the end", late.count, "");
    report.add("metadata after the first", early.bytes / 1e6, "MB");
    report.add("metadata at the end", late.bytes / 1e6, "MB");
    report.add("server memory, peak", process.peak_mb(), "MB");
    let rows = server.flush(TOPIC).await?["rows"].as_u64().unwrap_or(0);
    if rows != settings.commits * ROWS as u64 {
        return Err(format!("{} rows were sent, {rows} are there", settings.commits * ROWS as u64));
    }
    Ok(())
}

/// Sends rows and waits until they are in the table.
async fn commit(server: &Server, number: u64) -> Result<Duration, String> {
    let from = usize::try_from(number).unwrap_or_default() * ROWS;
    let rows: Vec<Vec<u8>> = (from..from + ROWS).map(row).collect();
    let frame = load::request(TOPIC, 0, load::batch(&rows, Codec::None)?)?;
    let shot = load::Shot { frame, records: ROWS as u64, bytes: 1, poison: [0; 2] };
    load::produce_once(server.kafka, &shot).await?;
    let began = Instant::now();
    server.flush(TOPIC).await?;
    Ok(began.elapsed())
}

/// Everything in folders called `metadata` below `dir`.
fn metadata(dir: &Path) -> Result<Files, String> {
    let mut files = Files::default();
    let mut open = vec![(dir.to_owned(), false)];
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    while let Some((dir, is_metadata)) = open.pop() {
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A file may be gone by now: what is expired is removed.
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                open.push((entry.path(), entry.file_name() == "metadata"));
            } else if is_metadata {
                files.count += 1.0;
                files.bytes += found.len() as f64;
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_metadata_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, file) in [("t/metadata", "a"), ("t/metadata", "b"), ("t/data", "c")] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            std::fs::write(dir.path().join(folder).join(file), [0; 10]).unwrap();
        }
        let found = super::metadata(dir.path()).unwrap();
        assert_eq!((found.count, found.bytes), (2.0, 20.0));
    }
}
