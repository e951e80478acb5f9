//! Every benchmark runs and gives figures; whether they are good is for a release build on a quiet
//! machine to say.

use std::process::Command;

use serde_json::Value;

/// The figures of one short run by name.
fn bench(name: &str, more: &[&str]) -> Vec<(String, f64)> {
    // Each table commits in the time that is measured.
    let seconds = if name == "topics" { "4" } else { "1" };
    let run = Command::new(protocol_tests::binary())
        .args(["bench", name, "--seconds", seconds, "--json"])
        .args(more)
        .output()
        .expect("the binary can be started");
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{errors}");
    let answer: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(answer["bench"], name);
    let figures = answer["figures"].as_array().expect("figures");
    figures
        .iter()
        .map(|figure| {
            let name = figure["name"].as_str().expect("a name").to_owned();
            (name, figure["value"].as_f64().unwrap_or_else(|| panic!("no figure: {figure}")))
        })
        .collect()
}

fn positive(figures: &[(String, f64)], names: &[&str]) {
    for name in names {
        let found = figures.iter().find(|(known, _)| known == name);
        assert!(found.is_some_and(|(_, value)| *value > 0.0), "{name}: {figures:?}");
    }
}

#[test]
fn every_benchmark_runs_and_names_its_baseline() {
    let produce = bench("produce", &["--set", "log.flush=interval", "--retain-mb", "1"]);
    positive(&produce, &["ratio to the plain file", "ratio to the sink", "server CPU"]);
    positive(&bench("consume", &["--partitions", "1"]), &["ratio to the copy", "server CPU"]);
    let latency = bench("latency", &["--rate", "100", "--record-bytes", "100"]);
    positive(&latency, &["write of 4 KiB and fdatasync alone, p50"]);
    let http = bench("http", &["--in-flight", "2"]);
    positive(
        &http,
        &[
            "one event a request, ack=durable: answer, p50",
            "one event a request, ack=accepted: a second of server CPU",
            "NDJSON of 1 MB: ratio to it, MB/s",
        ],
    );
    let tables = bench("tables", &["--partitions", "2", "--mb-per-second", "4"]);
    positive(&tables, &["rows per CPU second, log and catalog included"]);
    let poison = bench("tables", &["--poison-every", "100", "--mb-per-second", "4"]);
    positive(
        &poison,
        &[
            "dead letters, each with its code",
            "ratio of rows per CPU second, with poison to clean",
            "ratio of rows in the table per second, with poison to clean",
        ],
    );
    let topics = bench("topics", &["--topics", "6", "--rate", "10", "--lag", "1"]);
    positive(
        &topics,
        &[
            "server CPU, with tables",
            "table commits",
            "server memory, peak, with tables",
            "rows in the tables, each record once",
        ],
    );
    assert!(topics.iter().any(|(name, _)| name == "tiering and catalog add"), "{topics:?}");
}

#[test]
fn a_steady_load_the_start_and_many_commits_are_measured() {
    let steady = bench("steady", &["--mb-per-second", "1", "--partitions", "2"]);
    positive(
        &steady,
        &[
            "ratio of answers with tables to tables off, p50",
            "row to table with a target lag of 1 s, from when it was due, p99",
        ],
    );
    let memory = ["--mb-per-second", "1", "--partitions", "2", "--retain-mb", "1", "--tables-only"];
    let memory = bench("steady", &memory);
    positive(&memory, &["server memory at the end, with tables"]);
    assert!(memory.iter().all(|(name, _)| !name.contains("tables off")), "{memory:?}");
    let start = bench("start", &["--partitions", "9", "--set", "topics.max=10"]);
    positive(&start, &["first row in a table, from when it was sent", "ready after kill -9"]);
    let growth = bench("growth", &["--commits", "4"]);
    positive(&growth, &["ratio, last to first, p50", "metadata file, last 2"]);
}

/// Of a log that is longer than its disk could hold, the values are not there and a start does not
/// miss them.
#[test]
fn a_long_log_takes_a_small_part_of_its_length() {
    let flags = ["--log-mb", "64", "--set", "wal.file.bytes=4MiB", "--batch-bytes", "500000"];
    let start = bench("start", &flags);
    let names = ["ready after kill -9", "first row in a table after it, from when it was sent"];
    positive(&start, &names);
    positive(&start, &["ready after kill -9, its files not in memory"]);
    let of = |wanted: &str| {
        let found = start.iter().find(|(name, _)| name == wanted);
        found.map_or(f64::NAN, |(_, value)| *value)
    };
    assert!(of("bytes in the log") >= 64.0, "{start:?}");
    let saved = of("their lengths") - of("of them on the disk");
    assert!(saved > 0.5 * of("bytes in the log"), "{start:?}");
}

/// Any broker will do; the load goes to it over the wire.
#[tokio::test]
async fn another_broker_gets_the_same_load() {
    let other = protocol_tests::Floe::start(&["--table-mode", "off"]).await;
    let beside = format!("other={}", other.bootstrap());
    let (produce, consume) = tokio::task::spawn_blocking(move || {
        let flags = ["--beside", &beside, "--partitions", "2"];
        (bench("produce", &flags), bench("consume", &flags))
    })
    .await
    .expect("both ran");
    positive(&produce, &["other: ratio of ours to it", "other: produce, acks all"]);
    positive(&consume, &["other: ratio of ours to it", "other: consume stored batches"]);
}

#[test]
fn a_benchmark_that_cannot_run_says_why() {
    let run = |arguments: &[&str]| {
        let run = Command::new(protocol_tests::binary()).arg("bench").args(arguments).output();
        let run = run.expect("the binary can be started");
        (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    let (code, errors) = run(&["produce", "--dir", "/no/such/folder"]);
    assert!(code == Some(1) && errors.contains("/no/such/folder"), "{code:?} {errors}");
    let (code, errors) = run(&["produce", "--set", "no.such.option=1"]);
    assert!(code == Some(1) && errors.contains("no.such.option"), "{code:?} {errors}");
    let (code, errors) = run(&["produce", "--seconds", "0"]);
    assert!(code == Some(2) && errors.contains("seconds"), "{code:?} {errors}");
    let (code, errors) = run(&["produce", "--beside", "nowhere"]);
    assert!(code == Some(2) && errors.contains("NAME=HOST:PORT"), "{code:?} {errors}");
}
