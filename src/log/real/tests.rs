//! The log over the real store and write-ahead log, on a real disk.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::log::directory::TopicDirectory;
use crate::log::ports::Directory as _;
use crate::log::testing::{batch, one, produced};
use crate::log::{AppendError, Log, LogOptions, ReadError};
use crate::record::header::{BatchHeader, crc_of};
use crate::runtime::files::Disk;
use crate::runtime::{Clock, FailPoints, Tasks};
use crate::store::{self, Appender, Limits, Opened, Opening, Store};
use crate::topic::{NewTopic, OptionEdit, Settings, Topics};
use crate::types::{LEADER_EPOCH, OffsetRange, PartitionId};
use crate::wal::{self, Directory, DirectoryOptions, Recovered, Request, Start, Wal, WalOptions};

struct ToWal(Wal);

#[async_trait]
impl Appender for ToWal {
    async fn append(&self, request: Request) -> Result<(), store::Error> {
        self.0.append(request).await.map_err(|_| store::Error::Closed)
    }
}

pub(super) struct Running {
    pub(super) tasks: Tasks,
    pub(super) wal: Wal,
    pub(super) store: Store,
    pub(super) topics: Topics,
    pub(super) log: Log,
}

/// Everything from the folder to the handle, as the broker does it.
pub(super) async fn start(dir: &Path, clock: &Clock) -> Running {
    let directory = Directory::open(Arc::new(Disk), dir, &DirectoryOptions::default()).unwrap();
    let (opened, recovered) = open_state(dir, clock, &directory);
    let (opening, parts) =
        Log::open(&opened.store, &opened.partitions, clock.clone(), LogOptions::default()).unwrap();
    let tasks = Tasks::for_tests();
    let parts = wal::Parts {
        sequence: parts.sequence,
        publish: parts.publish,
        apply: Box::new(opened.applier),
    };
    let context = wal::Context {
        tasks: tasks.clone(),
        clock: clock.clone(),
        fail_points: FailPoints::none(),
    };
    let options =
        WalOptions { file_bytes: 1 << 20, free_floor_bytes: Some(0), ..WalOptions::default() };
    let wal = Wal::start(directory, &recovered, options, parts, context).unwrap();
    let store = opened.store;
    store.attach(Arc::new(ToWal(wal.clone())));
    store.commit(opened.gaps).await.unwrap();
    let settings = Settings {
        server: Default::default(),
        num_partitions: 1,
        senders_have_rate: false,
        limits: Default::default(),
        check_partition_spec: |_| Ok(()),
    };
    let topics = Topics::open(store.clone(), settings, clock.clone(), tasks.clone()).unwrap();
    let log = opening.attach(wal.clone(), topics.clone());
    Running { tasks, wal, store, topics, log }
}

fn open_state(dir: &Path, clock: &Clock, directory: &Directory) -> (Opened, Recovered) {
    let files = directory.files().unwrap();
    let files: Vec<wal::WalFile> =
        files.iter().map(|file| wal::WalFile { first: file.first, end: file.end }).collect();
    let options = store::OpenOptions {
        data_dir: dir.to_owned(),
        fs: Arc::new(Disk),
        log_id: directory.log_id(),
        limits: Limits::default(),
        clock: clock.clone(),
        fail_points: FailPoints::none(),
    };
    let mut opening = Opening::open(options, &files).unwrap();
    let from = Start {
        lsn: opening.start_lsn(),
        known_durable: opening.known_durable(),
        run_hint: opening.run_hint(),
    };
    let mut visit = |frame| opening.replay(frame).map_err(|error| error.to_string());
    let recovered = wal::recover(directory, from, &mut visit).unwrap();
    for damage in &recovered.damage {
        opening.damage(damage.from, damage.to);
    }
    let opened = opening.finish(recovered.end, recovered.run).unwrap();
    (opened, recovered)
}

impl Running {
    pub(super) async fn topic(&self, name: &str) -> PartitionId {
        let new = NewTopic { name: name.to_owned(), ..NewTopic::default() };
        self.topics.create(new, false).await.unwrap().partitions[0]
    }

    pub(super) async fn append(
        &self,
        id: PartitionId,
        batch: bytes::Bytes,
    ) -> Result<(i64, bool), AppendError> {
        let done = self.log.append(one(id, batch)).await?.wait().await?;
        Ok((done[0].base_offset, done[0].duplicate))
    }

    pub(super) async fn stop(self) {
        assert!(self.tasks.stop(std::time::Duration::from_secs(60)).await);
        tokio::task::spawn_blocking(move || {
            self.wal.shutdown();
            self.store.close().unwrap();
            drop((self.log, self.topics, self.store, self.wal));
            self.tasks.join_threads();
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_offsets_and_producers_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let first = start(dir.path(), &clock).await;
    let id = first.topic("orders").await;
    assert_eq!(first.append(id, batch(&[10, 20])).await.unwrap(), (0, false));
    assert_eq!(first.append(id, produced(7, 0, 0, 3)).await.unwrap(), (2, false));
    assert_eq!(first.append(id, produced(7, 0, 0, 3)).await.unwrap(), (2, true));
    let producer = first.log.next_producer_id().await.unwrap();
    first.stop().await;

    let second = start(dir.path(), &clock).await;
    let partition = second.log.partition(id).unwrap();
    assert_eq!(partition.high_watermark(), 5);
    assert!(partition.size_bytes() > 0);
    assert_eq!(partition.append_ms_at(4), Some(1_000_000));
    assert_eq!(second.append(id, produced(7, 0, 0, 3)).await.unwrap(), (2, true));
    let hole = second.append(id, produced(7, 0, 9, 3)).await.unwrap_err();
    assert_eq!(hole, AppendError::OutOfOrderSequence);
    assert_eq!(second.append(id, produced(7, 0, 3, 1)).await.unwrap(), (5, false));
    let slice = second.log.read(id, 1, usize::MAX).await.unwrap();
    let bases: Vec<i64> = slice.batches.iter().map(|batch| batch.base_offset).collect();
    assert_eq!(bases, [0, 2, 5]);
    let header = BatchHeader::parse(&slice.batches[2].bytes).unwrap();
    assert_eq!((header.base_offset, header.leader_epoch), (5, LEADER_EPOCH));
    assert_eq!(header.crc, crc_of(&slice.batches[2].bytes));
    assert_eq!(second.log.offset_for_timestamp(id, 15).await.unwrap(), Some((1, 20)));
    assert!(second.log.next_producer_id().await.unwrap() >= producer + 1_000);
    let place = TopicDirectory::new(second.topics.clone()).place(id);
    assert_eq!(place, Some(("orders".to_owned(), 0)), "messages name topic and index");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_frees_files_once_the_table_has_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let broker = start(dir.path(), &clock).await;
    let id = broker.topic("orders").await;
    let set = OptionEdit::Set("retention.ms".to_owned(), "60000".to_owned());
    broker.topics.edit("orders", vec![set], false).await.unwrap();
    let big = crate::log::tests::noise(300_000);
    for i in 0..12 {
        assert_eq!(broker.append(id, big.clone()).await.unwrap(), (i, false));
    }
    let before = broker.wal.list().len();
    assert!(before > 3);
    let partition = broker.log.partition(id).unwrap();
    let mut expired_ms = clock.now_ms();
    clock.advance(600_000);
    broker.log.run_chores(&mut expired_ms).await.unwrap();
    assert_eq!(partition.log_start_offset(), 0);
    partition.set_tiered_offset(10);
    // Two snapshots, a minute apart, must cover what is freed.
    for _ in 0..3 {
        clock.advance(61_000);
        broker
            .store
            .commit(store::Change::new().put(store::Space::Token, *b"k", *b"v"))
            .await
            .unwrap();
        broker.log.run_chores(&mut expired_ms).await.unwrap();
    }
    // It goes run by run, and batches that became durable together are one run.
    let start = partition.log_start_offset();
    assert!((7..=10).contains(&start), "{start}");
    assert_eq!(broker.append(id, batch(&[1])).await.unwrap(), (12, false));
    assert!(broker.wal.list().len() < before, "{before} {:?}", broker.wal.list());
    let error = broker.log.read(id, 0, 1).await.unwrap_err();
    assert_eq!(error, ReadError::OutOfRange { start, end: 13 });
    assert_eq!(broker.log.read(id, start, 1).await.unwrap().batches[0].base_offset, start);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_frame_on_disk_costs_its_own_offsets_only() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let broker = start(dir.path(), &clock).await;
    let id = broker.topic("orders").await;
    let batches: Vec<_> = (0..5).map(|i| crate::log::testing::one(id, batch(&[i, i]))).collect();
    let mut pending = Vec::new();
    for append in batches {
        pending.push(broker.log.append(append).await.unwrap());
    }
    for append in pending {
        append.wait().await.unwrap();
    }
    // Flip one byte in the third batch, wherever it lies.
    let third = broker.log.read(id, 4, 1).await.unwrap().batches[0].bytes.clone();
    damage(&dir.path().join("wal"), &third);
    let error = broker.log.read(id, 4, 1).await.unwrap_err();
    assert_eq!(error, ReadError::Corrupt(OffsetRange { base: 4, end: 6 }));
    let before = broker.log.read(id, 0, usize::MAX).await.unwrap();
    assert_eq!(before.batches.last().unwrap().end_offset, 4);
    let after = broker.log.read(id, 6, usize::MAX).await.unwrap();
    assert_eq!(after.batches.len(), 2);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_and_readers_at_the_tail_agree_on_every_offset() {
    const WRITERS: i64 = 6;
    const BATCHES: i32 = 60;
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), &Clock::manual(1_000_000)).await;
    let ids = [broker.topic("a").await, broker.topic("b").await];
    let mut work = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let log = broker.log.clone();
        let id = ids[(writer % 2) as usize];
        work.spawn(async move {
            // Five in flight, then each one is sent again.
            for start in (0..BATCHES).step_by(5) {
                let mut original = Vec::new();
                for sequence in start..start + 5 {
                    let batch = produced(writer, 0, sequence * 2, 2);
                    original.push(log.append(one(id, batch)).await.unwrap());
                }
                for (sequence, pending) in (start..).zip(original) {
                    let first = pending.wait().await.unwrap()[0];
                    let batch = produced(writer, 0, sequence * 2, 2);
                    let again = log.append(one(id, batch)).await.unwrap();
                    let again = again.wait().await.unwrap()[0];
                    assert_eq!((again.base_offset, again.duplicate), (first.base_offset, true));
                    assert!(log.partition(id).unwrap().high_watermark() > first.last_offset);
                }
            }
        });
    }
    let end = i64::from(BATCHES) * 2 * WRITERS / 2;
    for id in ids {
        let log = broker.log.clone();
        work.spawn(async move {
            let mut cursor = 0;
            while cursor < end {
                log.partition(id).unwrap().wait_above(cursor).await;
                for batch in log.read(id, cursor, 1_000).await.unwrap().batches {
                    assert_eq!(batch.base_offset, cursor);
                    cursor = batch.end_offset;
                }
            }
            assert_eq!(log.partition(id).unwrap().high_watermark(), end);
        });
    }
    while let Some(done) = work.join_next().await {
        done.unwrap();
    }
    broker.stop().await;
}

pub(super) fn damage(wal_dir: &Path, needle: &[u8]) {
    for entry in std::fs::read_dir(wal_dir).unwrap() {
        let path = entry.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else {
            continue;
        };
        if let Some(at) = memchr::memmem::find(&bytes, needle) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            let at = at + needle.len() - 1;
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            return;
        }
    }
    panic!("the batch is in no file");
}
