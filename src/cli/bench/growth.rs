//! `floe bench growth`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Settings;
use super::load;
use super::process::Usage;
use super::report::{Report, Times};
use super::server::Server;
use super::tables::row;
use crate::cli::output;
use crate::record::Codec;

const TOPIC: &str = "bench";
const ROWS: usize = 100;

/// As many commits at the start are compared with as many at the end.
const PART: u64 = 100;

/// Files in the folders called `metadata`.
#[derive(Debug, Default, PartialEq)]
struct Files {
    count: f64,
    bytes: f64,
    /// Bytes of the newest table metadata file, and of the newest list of manifests.
    metadata: f64,
    list: f64,
}

/// The commits at one end.
#[derive(Default)]
struct Part {
    times: Times,
    used: Usage,
    commits: f64,
    files: Files,
}

impl Part {
    fn report(&mut self, name: &str, report: &mut Report) {
        report.add_times(&format!("a commit of {ROWS} rows, {name}"), &mut self.times);
        let each = |value: f64| value / self.commits;
        report.add(
            format!("server CPU per commit, {name}"),
            each(self.used.cpu_seconds * 1e3),
            "ms",
        );
        report.add(format!("reads of files per commit, {name}"), each(self.used.reads), "");
        report.add(format!("writes to files per commit, {name}"), each(self.used.writes), "");
        report.add(format!("read per commit, {name}"), each(self.used.read_bytes / 1e3), "kB");
        let written = each(self.used.written_bytes / 1e3);
        report.add(format!("written per commit, {name}"), written, "kB");
        report.add(format!("metadata file, {name}"), self.files.metadata / 1e3, "kB");
        report.add(format!("manifest list, {name}"), self.files.list / 1e3, "kB");
        report.add(format!("files of metadata, {name}"), self.files.count, "");
        report.add(format!("bytes of them, {name}"), self.files.bytes / 1e6, "MB");
    }
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
    let (mut first, mut last) = (Part::default(), Part::default());
    let process = server.process();
    let began = Instant::now();
    for number in 0..settings.commits {
        if number.is_multiple_of(500) {
            output::progress(format!("{number} of {} commits ...", settings.commits));
        }
        let before = process.usage();
        let took = commit(&server, number).await?;
        let used = process.usage() - before;
        let of = match number {
            _ if number < part => &mut first,
            _ if number + part >= settings.commits => &mut last,
            _ => continue,
        };
        of.times.push(took);
        of.used += used;
        of.commits += 1.0;
        if number + 1 == part || number + 1 == settings.commits {
            of.files = metadata(&warehouse)?;
        }
    }
    report.add("commits", settings.commits as f64, "");
    report.add("all of them", began.elapsed().as_secs_f64(), "s");
    first.report(&format!("first {part}"), report);
    last.report(&format!("last {part}"), report);
    let ratio = last.times.percentile_ms(0.5) / first.times.percentile_ms(0.5);
    report.add("ratio, last to first, p50", ratio, "");
    let ratio = last.used.cpu_seconds / first.used.cpu_seconds;
    report.add("ratio, last to first, CPU", ratio, "");
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
    // When the newest of each kind was written.
    let mut newest = [std::time::SystemTime::UNIX_EPOCH; 2];
    let mut open = vec![(dir.to_owned(), false)];
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    while let Some((dir, is_metadata)) = open.pop() {
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A file may be gone by now: what is expired is removed.
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                open.push((entry.path(), entry.file_name() == "metadata"));
                continue;
            }
            if !is_metadata {
                continue;
            }
            files.count += 1.0;
            files.bytes += found.len() as f64;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let (at, size) = match &name {
                name if name.ends_with(".metadata.json") => (0, &mut files.metadata),
                name if name.starts_with("snap-") => (1, &mut files.list),
                _ => continue,
            };
            let written = found.modified().map_err(failed)?;
            if written >= newest[at] {
                (newest[at], *size) = (written, found.len() as f64);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_metadata_is_counted_and_the_newest_of_its_kind_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, file, bytes) in [
            ("t/metadata", "00001-a.gz.metadata.json", 10),
            ("t/metadata", "00002-b.gz.metadata.json", 20),
            ("t/metadata", "snap-1.avro", 5),
            ("t/data", "c", 7),
        ] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            std::fs::write(dir.path().join(folder).join(file), vec![0; bytes]).unwrap();
        }
        let found = metadata(dir.path()).unwrap();
        assert_eq!(found, Files { count: 3.0, bytes: 35.0, metadata: 20.0, list: 5.0 });
    }
}
