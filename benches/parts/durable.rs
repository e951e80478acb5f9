//! What is durable when it is answered: a group of the log and a commit of a table, each beside plain
//! files that are synced as often.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use floe::broker::{Broker, Components};
use floe::config::{Config, Settings};
use floe::log::{Append, AppendBatch, Origin};
use floe::record::{BatchBuilder, Codec, NewRecord};
use floe::topic::{NewTopic, Topic};
use tokio::runtime::Runtime;

/// Longest wait for a commit.
const FLUSH_MAX: Duration = Duration::from_secs(60);

/// Bytes of a plain file that is written again and again.
const PLAIN_BYTES: u64 = 64 << 20;

/// A broker with one topic.
struct Rig {
    runtime: Runtime,
    broker: Broker,
    topic: Arc<Topic>,
}

impl Rig {
    fn new(dir: &Path, options: &[(&str, &str)]) -> Self {
        let runtime = Runtime::new().unwrap();
        let mut settings = Settings::new();
        let data = dir.join("data").to_string_lossy().into_owned();
        for (key, value) in [
            ("data.dir", data.as_str()),
            ("kafka.listen", "127.0.0.1:0"),
            ("http.listen", "127.0.0.1:0"),
            ("disk.free.min.bytes", "64MiB"),
        ] {
            settings.insert(key.to_owned(), vec![value.to_owned()]);
        }
        let keys = floe::topic::option_table::OPTIONS.iter().map(|def| def.key);
        let config = Config::resolve(&settings, &keys.collect::<Vec<_>>()).unwrap();
        let components = Components::real(Arc::new(|reason| panic!("{reason}")));
        let overrides = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let new =
            NewTopic { name: "t".to_owned(), partitions: Some(1), overrides: overrides.collect() };
        let (broker, topic) = runtime.block_on(async {
            let broker = Broker::start(&config, components).await.unwrap();
            let topic = broker.topics().create(new, false).await.unwrap();
            (broker, topic)
        });
        Self { runtime, broker, topic }
    }

    /// Appends a batch; it is durable then.
    fn append(&self, batch: &Bytes) {
        let partition = self.topic.partitions[0];
        let batches = vec![AppendBatch { partition, batch: batch.clone(), ext: Bytes::new() }];
        let append = Append { batches, origin: Origin::Kafka, settle: None, is_awaited: true };
        let log = self.broker.log();
        self.runtime.block_on(async { log.append(append).await.unwrap().wait().await }).unwrap();
    }

    /// Waits until the table has what was appended.
    fn commit(&self) {
        self.runtime.block_on(self.broker.tiering().flush("t", FLUSH_MAX)).unwrap();
    }

    fn stop(self) {
        self.runtime.block_on(self.broker.stop(Duration::from_secs(8)));
    }
}

fn batch(value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new();
    let record = NewRecord { value: Some(value), timestamp: now_ms(), ..NewRecord::default() };
    builder.push(&record).unwrap();
    builder.build(Codec::None).unwrap()
}

fn now_ms() -> i64 {
    floe::runtime::Clock::system().now_ms()
}

/// A group of the log from append to answer, beside a write and an `fdatasync` of a file whose blocks
/// were written before.
pub(crate) fn groups(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let options = [("table.mode", "off"), ("retention.bytes", "268435456")];
    let rig = Rig::new(dir.path(), &options);
    let plain = File::create(dir.path().join("plain")).unwrap();
    let piece = vec![7; 1 << 20];
    for at in (0..PLAIN_BYTES).step_by(piece.len()) {
        plain.write_all_at(&piece, at).unwrap();
    }
    plain.sync_all().unwrap();
    for (name, bytes) in [("group of 4 KiB", 4 << 10), ("group of 1 MiB", (1 << 20) - 4096)] {
        let value = vec![7; bytes];
        let batch = batch(&value);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20);
        group.measurement_time(Duration::from_secs(2));
        group.bench_function("ours, appended, synced and answered", |bench| {
            bench.iter(|| rig.append(&batch));
        });
        let mut at = 0;
        group.bench_function("baseline: a plain file, written and synced", |bench| {
            bench.iter(|| {
                plain.write_all_at(&value, at).unwrap();
                plain.sync_data().unwrap();
                at = (at + bytes as u64) % (PLAIN_BYTES - bytes as u64);
            });
        });
        group.finish();
    }
    rig.stop();
}

/// A record from append to a committed snapshot in the embedded catalog, beside four small files of its
/// kind (data, manifest, list, metadata), each synced with its folder.
pub(crate) fn commits(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let options = [("table.commit.min.interval.ms", "0"), ("table.target.lag.ms", "3600000")];
    let rig = Rig::new(dir.path(), &options);
    let batch = batch(br#"{"id":1,"event":"page_view"}"#);
    let mut group = criterion.benchmark_group("commit of a table");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.bench_function("ours, one record", |bench| {
        bench.iter(|| {
            rig.append(&batch);
            rig.commit();
        });
    });
    let (folder, mut number) = (File::open(dir.path()).unwrap(), 0);
    group.bench_function("baseline: four plain files", |bench| {
        bench.iter(|| {
            for _ in 0..4 {
                number += 1;
                let file = File::create(dir.path().join(format!("plain{number}"))).unwrap();
                file.write_all_at(&[7; 4096], 0).unwrap();
                file.sync_all().unwrap();
                folder.sync_all().unwrap();
            }
        });
    });
    group.finish();
    rig.stop();
}
