//! A table that cannot be committed to, and a disk that is full: producers are held back and told
//! why, everything else goes on, and afterwards every record is where it belongs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use protocol_tests::clients::{create, producer};
use protocol_tests::wire::Wire;
use protocol_tests::{Floe, eventually};
use rdkafka::producer::{FutureProducer, FutureRecord};
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};

const PIN_BYTES: u64 = 400_000;
/// Records that are sent while nothing can be committed, and their size.
const RECORDS: u64 = 3_000;
const RECORD_BYTES: usize = 500;

/// Status, code of the problem and `Retry-After` of an event over HTTP.
async fn post(floe: &Floe, topic: &str) -> (u16, Value, Option<String>) {
    let url = floe.url(&format!("/api/v1/topics/{topic}/events"));
    let response = reqwest::Client::new().post(url).body("{\"http\":true}").send().await.unwrap();
    let status = response.status().as_u16();
    let retry = response.headers().get(RETRY_AFTER).map(|it| it.to_str().unwrap().to_owned());
    let mut body: Value = response.json().await.unwrap();
    (status, body["code"].take(), retry)
}

async fn table(floe: &Floe, topic: &str) -> Value {
    floe.get(&format!("/api/v1/tables/streams.{topic}")).await
}

/// A folder of a table that has become a file: nothing can be written into it.
struct Broken {
    folder: PathBuf,
    aside: PathBuf,
}

impl Broken {
    fn new(floe: &Floe, topic: &str, part: &str) -> Self {
        let table = floe.dir().join("data/warehouse/streams").join(topic);
        let (folder, aside) = (table.join(part), table.join(format!("{part}.aside")));
        std::fs::rename(&folder, &aside).unwrap();
        std::fs::write(&folder, "").unwrap();
        Self { folder, aside }
    }

    fn mend(self) {
        std::fs::remove_file(&self.folder).unwrap();
        std::fs::rename(&self.aside, &self.folder).unwrap();
    }
}

/// Sends [`RECORDS`] over about eight seconds, so that the limit is looked at before the last ones;
/// how many were stored in the end.
async fn load(producer: FutureProducer, topic: &str) -> u64 {
    let value = format!("{{\"v\":\"{}\"}}", "x".repeat(RECORD_BYTES - 8));
    let mut pending = Vec::new();
    for i in 0..RECORDS {
        let record = FutureRecord::<(), _>::to(topic).payload(&value).partition((i % 2) as i32);
        pending.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
        if i % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for delivery in pending {
        delivery.await.unwrap().unwrap();
    }
    RECORDS
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pin_limit_holds_producers_back_or_gives_up_the_oldest() {
    let mut floe = Floe::start(&["--table-target-lag", "1s"]).await;
    let limit = PIN_BYTES.to_string();
    let cases = [
        ("block-files", "block", "data"),
        ("block-commit", "block", "metadata"),
        ("drop-files", "drop_oldest", "data"),
        ("drop-commit", "drop_oldest", "metadata"),
    ];
    // Records wait for as long as the test takes; what is sent at once is little beside the limit.
    let idempotent = [
        ("enable.idempotence", "true"),
        ("linger.ms", "5"),
        ("batch.size", "20000"),
        ("message.timeout.ms", "600000"),
    ];
    let mut broken = Vec::new();
    for (topic, overflow, part) in cases {
        let topic = topic.replace('-', "_");
        let options = [("table.pin.max.bytes", limit.as_str()), ("table.pin.overflow", overflow)];
        create(&floe, &topic, 2, &options).await;
        assert_eq!(post(&floe, &topic).await.0, 200);
        assert_eq!(floe.flush(&topic).await["rows"], 1);
        broken.push(Broken::new(&floe, &topic, part));
    }
    let loads: Vec<_> = cases
        .iter()
        .map(|(topic, _, _)| {
            let (producer, topic) = (producer(&floe, &idempotent), topic.replace('-', "_"));
            #[allow(clippy::disallowed_methods, reason = "a test joins its own tasks")]
            tokio::spawn(async move { load(producer, &topic).await })
        })
        .collect();
    for topic in ["block_files", "block_commit"] {
        let status = eventually("back-pressure", async || {
            let status = table(&floe, topic).await;
            status["blocked"].is_string().then_some(status)
        })
        .await;
        assert!(status["blocked"].as_str().unwrap().contains(&limit), "{status:#}");
        let refused = post(&floe, topic).await;
        assert_eq!(refused, (503, json!("table_behind"), Some("5".to_owned())));
        eventually("its reason", async || {
            let status = table(&floe, topic).await;
            (status["state"] == "RETRYING" && status["reason"].is_string()).then_some(())
        })
        .await;
    }
    for topic in ["drop_files", "drop_commit"] {
        eventually("a recorded gap", async || {
            let gaps = table(&floe, topic).await["gaps"].take();
            gaps.as_array().unwrap().iter().any(|gap| gap["reason"] == "overflow").then_some(())
        })
        .await;
        assert_eq!(post(&floe, topic).await.0, 200, "producers go on");
    }
    // Nothing grows while nothing moves.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for topic in ["block_files", "block_commit"] {
        let pinned = table(&floe, topic).await["pinned_bytes"].as_u64().unwrap();
        let all = RECORDS * RECORD_BYTES as u64;
        assert!((PIN_BYTES..all).contains(&pinned), "{topic}: {pinned}");
        let refused = floe.metric("floe_log_rejected_total", "reason=\"blocked\"").await;
        assert!(refused >= 2.0, "{refused}");
    }
    floe.printed("pin limit reached, producers are refused").await;
    floe.kill();
    broken.into_iter().for_each(Broken::mend);
    floe.restart().await;
    for load in loads {
        assert_eq!(load.await.unwrap(), RECORDS, "every record is stored in the end");
    }
    for (topic, overflow, _) in cases {
        let topic = topic.replace('-', "_");
        let status = floe.flush(&topic).await;
        let end = |one: &Value| one["high_watermark"].as_u64().unwrap();
        let ends: u64 = status["partitions"].as_array().unwrap().iter().map(end).sum();
        let (rows, gaps) = (status["rows"].as_u64().unwrap(), status["gap_offsets"].as_u64());
        // The first event, and where nothing is refused one more.
        assert_eq!(ends, RECORDS + if overflow == "block" { 1 } else { 2 }, "{topic}");
        assert_eq!(rows + gaps.unwrap(), ends, "{topic}: each once or a recorded gap");
        assert_eq!(gaps.unwrap() > 0, overflow == "drop_oldest", "{topic}");
        assert_eq!((&status["blocked"], &status["state"]), (&Value::Null, &json!("RUNNING")));
        assert_eq!(post(&floe, &topic).await.0, 200, "producers are taken again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_never_answers_holds_no_producer_before_the_pin_limit_and_no_longer_after_it()
{
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("s3.endpoint=http://{}", silent.local_addr().unwrap());
    let floe = Floe::start(&[
        "--table-target-lag",
        "1s",
        "--catalog-warehouse",
        "s3://warehouse/floe",
        "--set",
        &endpoint,
        "--set",
        "s3.region=us-east-1",
        "--set",
        "s3.access-key-id=floe",
        "--set",
        "s3.secret-access-key=floe-secret",
        "--set",
        "s3.path-style-access=true",
        "--shutdown-timeout",
        "1s",
    ])
    .await;
    create(&floe, "t", 1, &[("table.pin.max.bytes", "50000")]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let value = "x".repeat(1_000);
    assert_eq!(wire.produce("t", 0, &[&value]).await.error_code, 0);
    // The worker is in the middle of a commit now, and stays there.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let many = vec![value.as_str(); 60];
    assert_eq!(wire.produce("t", 0, &many).await.error_code, 0);
    // The look does not wait for the store.
    let code = eventually("back-pressure", async || {
        let mut wire = Wire::connect(&floe.bootstrap()).await;
        let answer = wire.produce("t", 0, &["x"]).await;
        (answer.error_code != 0).then_some((answer.error_code, answer.error_message))
    })
    .await;
    assert_eq!(code.0, 56);
    assert!(code.1.unwrap().contains("the limit is 50000"));
    eventually("its reason", async || table(&floe, "t").await["blocked"].is_string().then_some(()))
        .await;
}

/// Text that does not compress.
fn noise(bytes: usize, seed: u64) -> String {
    let mut state = seed;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    (0..bytes).map(next).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_file_of_the_log_can_hold_is_too_large_for_ever() {
    let floe = Floe::start(&["--wal-file-bytes", "1MiB"]).await;
    create(&floe, "t", 1, &[("max.message.bytes", "10000000")]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let large = noise(2_000_000, 1);
    let answer = wire.produce("t", 0, &[&large]).await;
    assert_eq!(answer.error_code, 10, "{:?}", answer.error_message);
    // Each event fits, all of them in one atomic request do not.
    let events: Vec<_> = (0..8).map(|i| json!({"v": noise(300_000, i)})).collect();
    let post = async |events: &[Value]| {
        let url = floe.url("/api/v1/topics/t/events");
        let response = reqwest::Client::new().post(url).json(events).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap()["code"].take())
    };
    assert_eq!(post(&events).await, (413, json!("too_large")));
    assert_eq!(post(&events[..2]).await.0, 200);
    assert_eq!(wire.produce("t", 0, &["{}"]).await.base_offset, 2);
    let rejected = floe.metric("floe_log_rejected_total", "reason=\"too_large\"").await;
    assert_eq!(rejected, 2.0);
}

/// Bytes of the file that fills the rest of a small disk.
struct Ballast(PathBuf);

impl Ballast {
    fn new(disk: &Path, bytes: usize) -> Self {
        let path = disk.join("ballast");
        std::fs::write(&path, vec![7; bytes]).unwrap();
        Self(path)
    }

    fn drop_it(self) {
        std::fs::remove_file(self.0).unwrap();
    }
}

/// A file system of its own; none where this user may not mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "floe-test"])
            .arg(dir.path())
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(dir)),
            _ => None,
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

async fn assert_refused(floe: &Floe, topic: &str) {
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let answer = wire.produce(topic, 0, &["{}"]).await;
    assert_eq!((answer.error_code, answer.base_offset), (56, -1));
    let why = answer.error_message.unwrap();
    assert!(why.contains("free") && why.contains("floor"), "{why}");
    let refused = post(floe, topic).await;
    assert_eq!(refused, (503, json!("storage_full"), Some("5".to_owned())));
    let ready = reqwest::get(floe.url("/readyz")).await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(floe.metric("floe_log_rejected_total", "reason=\"storage_full\"").await >= 1.0);
    eventually("a figure of free space", async || {
        (floe.metric("floe_disk_free_bytes", "").await > 0.0).then_some(())
    })
    .await;
    floe.printed("records are refused").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_floor_records_are_refused_and_state_is_not() {
    let mut floe = Floe::start_unready(&["--disk-free-min-bytes", "1000TiB"]).await;
    eventually("the first look at the disk", async || {
        let ready = reqwest::get(floe.url("/readyz")).await.unwrap();
        (ready.status() == 503).then_some(())
    })
    .await;
    create(&floe, "t", 1, &[("retention.ms", "7000")]).await;
    assert_refused(&floe, "t").await;
    assert_eq!(floe.get("/api/v1/topics/t").await["partitions"][0]["high_watermark"], 0);
    floe.kill();
    floe.restart_with(&[]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    assert_eq!(wire.produce("t", 0, &["{\"a\":1}"]).await.error_code, 0);
    assert_eq!(floe.flush("t").await["rows"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_lets_reads_and_table_commits_go_on_and_heals() {
    let Some(disk) = SmallDisk::mount(192) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let flags =
        ["--disk-free-min-bytes", "48MiB", "--wal-file-bytes", "8MiB", "--table-target-lag", "1h"];
    let floe = Floe::start_in(&disk.0.path().join("data"), &flags).await;
    create(&floe, "t", 1, &[]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    for i in 0..100 {
        let value = format!("{{\"i\":{i}}}");
        assert_eq!(wire.produce("t", 0, &[&value]).await.error_code, 0);
    }
    let free = floe.metric("floe_disk_free_bytes", "").await as usize;
    let ballast = Ballast::new(disk.0.path(), free - (24 << 20));
    eventually("records are refused", async || {
        let ready = reqwest::get(floe.url("/readyz")).await.unwrap();
        (ready.status() == 503).then_some(())
    })
    .await;
    assert_refused(&floe, "t").await;
    assert_eq!(floe.flush("t").await["rows"], 100, "table commits go on");
    create(&floe, "u", 4, &[]).await;
    let stored = protocol_tests::clients::read_all(&floe, "t", 1);
    assert_eq!(stored.len(), 100, "so do reads");
    ballast.drop_it();
    eventually("records are taken", async || {
        let ready = reqwest::get(floe.url("/readyz")).await.unwrap();
        ready.status().is_success().then_some(())
    })
    .await;
    floe.printed("records are taken again").await;
    assert_eq!(wire.produce("t", 0, &["{\"i\":100}"]).await.base_offset, 100);
    assert_eq!(wire.produce("u", 3, &["{\"i\":0}"]).await.base_offset, 0);
    assert_eq!(floe.flush("t").await["rows"], 101);
    drop(floe);
}
