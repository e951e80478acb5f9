//! First figures of one run: produce beside a plain file with the same policy, JSON to committed
//! Parquet, memory. `cargo run --release -p protocol-tests --bin figures`; `FLOE_BIN` names the
//! server (a release build). Ratios count; absolute figures are this machine's, today.

#![allow(clippy::print_stdout, reason = "it reports by printing")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use protocol_tests::Floe;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

const RECORD_BYTES: usize = 1024;
const PRODUCE_BYTES: usize = 1 << 30;
const ROWS: usize = 1_000_000;
const MB: f64 = 1e6;

/// CPU seconds of a process so far, user and system.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime are fields 14 and 15; after the name the count starts at field 3.
    (ticks(11) + ticks(12)) / 100.0
}

/// A line of `/proc/<pid>/status` in MB.
fn memory_mb(pid: u32, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let found = status.lines().find(|l| l.starts_with(line)).unwrap_or("");
    let kb = found.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok());
    kb.unwrap_or(0.0) * 1024.0 / MB
}

/// MB/s of a plain file whose blocks were written before: `group` bytes, then `fdatasync`.
fn plain_file(dir: &Path, group: usize, bytes: usize) -> f64 {
    let path = dir.join("plain");
    let mut file = File::create_new(&path).expect("a new file");
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&zeros).expect("room for the baseline");
    }
    file.sync_all().expect("the disk syncs");
    let data = vec![0xa5; group];
    let started = Instant::now();
    let groups = bytes / group;
    for turn in 0..groups {
        file.write_all_at(&data, (turn * group) as u64).expect("the disk writes");
        file.sync_data().expect("the disk syncs");
    }
    let rate = (groups * group) as f64 / MB / started.elapsed().as_secs_f64();
    let _ = std::fs::remove_file(path);
    rate
}

fn producer(floe: &Floe, codec: &str) -> ThreadedProducer<DefaultProducerContext> {
    ClientConfig::new()
        .set("bootstrap.servers", floe.bootstrap())
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "1000000")
        .set("compression.type", codec)
        .create()
        .expect("the settings are librdkafka's")
}

fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, value: &[u8]) {
    let mut record = BaseRecord::<(), [u8]>::to(topic).payload(value);
    while let Err((_, back)) = producer.send(record) {
        record = back;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A JSON object of about 300 bytes and nine fields.
fn row(number: usize) -> String {
    format!(
        "{{\"id\":{number},\"user\":\"user-{:08}\",\"session\":\"{:032x}\",\"event\":\"page_view\",\
         \"url\":\"https://example.org/products/{}/details?ref=campaign-{}\",\"price\":{}.25,\
         \"quantity\":{},\"paid\":{},\"note\":\"{}\"}}",
        number % 100_000,
        (number as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
        number % 10_000,
        number % 97,
        number % 1_000,
        number % 9,
        number.is_multiple_of(3),
        "lorem ipsum dolor sit amet consectetur adipiscing elit",
    )
}

async fn produce() {
    let floe = Floe::start(&["--table-mode", "off", "--wal-file-bytes", "256MiB"]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("RSS idle: {:.0} MB", memory_mb(floe.pid(), "VmRSS"));
    let producer = producer(&floe, "none");
    let value: Vec<u8> = (0..RECORD_BYTES).map(|i| (i * 7 % 251) as u8).collect();
    let records = PRODUCE_BYTES / RECORD_BYTES;
    let (started, cpu) = (Instant::now(), cpu_seconds(floe.pid()));
    for _ in 0..records {
        send(&producer, "load", &value);
    }
    producer.flush(Duration::from_secs(120)).expect("everything is delivered");
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds(floe.pid()) - cpu;
    let rate = PRODUCE_BYTES as f64 / MB / seconds;
    let metrics = floe.metrics().await;
    let counter = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    let group = counter("floe_wal_bytes_total") / counter("floe_wal_groups_total");
    println!(
        "produce, 1 KB records, fsync before ack: {rate:.0} MB/s, {:.2} CPU s/GB (server), \
         groups of {:.0} KB on average",
        cpu / (PRODUCE_BYTES as f64 / 1e9),
        group / 1e3
    );
    println!("RSS under load: peak {:.0} MB", memory_mb(floe.pid(), "VmHWM"));
    let group = if group.is_finite() { group as usize } else { 128 << 10 };
    let group = group.next_multiple_of(4096);
    let plain = plain_file(floe.dir(), group, 512 << 20);
    println!(
        "plain file, groups of {group} B, fdatasync each: {plain:.0} MB/s; ratio {:.2}",
        rate / plain
    );
}

async fn tables() {
    let floe = Floe::start(&["--table-target-lag", "10s", "--wal-file-bytes", "256MiB"]).await;
    let producer = producer(&floe, "lz4");
    let cpu = cpu_seconds(floe.pid());
    let started = Instant::now();
    let mut bytes = 0;
    for number in 0..ROWS {
        let value = row(number);
        bytes += value.len();
        send(&producer, "rows", value.as_bytes());
    }
    producer.flush(Duration::from_secs(120)).expect("everything is delivered");
    let status = floe.flush("rows").await;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(floe.pid()) - cpu);
    println!(
        "JSON of {} B, 9 fields, to committed Parquet: {} rows in {seconds:.1} s, {:.0} rows per \
         CPU second (server whole: wire, log, catalog included)",
        bytes / ROWS,
        status["rows"],
        ROWS as f64 / cpu
    );
    println!("RSS with tables: peak {:.0} MB", memory_mb(floe.pid(), "VmHWM"));
}

#[tokio::main]
async fn main() {
    produce().await;
    tables().await;
}
