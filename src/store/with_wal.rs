//! The store over a real log: commits, records, restarts with and without fjall, freed files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::runtime::files::Disk;
use crate::runtime::{Clock, FailPoints, Tasks};
use crate::store::testing::records;
use crate::store::{Change, Limits, OpenOptions, Opened, Opening, Space, Store, keys};
use crate::types::{Offset, PartitionId};
use crate::wal::{
    Context, Directory, DirectoryOptions, Done, FrameDraft, Parts, Publish, Request, Sequence,
    Start, Verdict, Wal, WalOptions, WrittenFrame,
};

const P: PartitionId = PartitionId(1);

struct Offsets(HashMap<PartitionId, Offset>);

impl Sequence for Offsets {
    fn assign(&mut self, frames: &mut [FrameDraft], _append_ms: i64) -> Verdict {
        for frame in frames.iter_mut().filter(|frame| frame.record_count > 0) {
            let next = self.0.entry(frame.partition).or_default();
            frame.base_offset = *next;
            *next += i64::from(frame.record_count);
        }
        Verdict::Write
    }
}

struct Nobody;

impl Publish for Nobody {
    fn readable(&self, _frames: &[WrittenFrame]) {}

    fn durable(&self, _frames: &[WrittenFrame]) {}
}

struct Broker {
    store: Store,
    wal: Wal,
    clock: Clock,
    rebuilt: bool,
    found_gaps: bool,
}

fn start(dir: &Path) -> Broker {
    let clock = Clock::manual(1_000);
    let options = DirectoryOptions { allow_network: true };
    let directory = Directory::open(Arc::new(Disk), dir, &options).unwrap();
    let options = OpenOptions {
        data_dir: dir.to_owned(),
        fs: Arc::new(Disk),
        log_id: directory.log_id(),
        limits: Limits::default(),
        clock: clock.clone(),
        fail_points: FailPoints::none(),
    };
    let mut opening = Opening::open(options, &directory.files().unwrap()).unwrap();
    let rebuilt = opening.rebuilding();
    let from = Start {
        lsn: opening.start_lsn(),
        known_durable: opening.known_durable(),
        run_hint: opening.run_hint(),
    };
    let recovered = crate::wal::recover(&directory, from, &mut |frame| {
        opening.replay(frame).map_err(|error| error.to_string())
    })
    .unwrap();
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    let Opened { store, applier, gaps, partitions } =
        opening.finish(recovered.end, recovered.run).unwrap();
    let next = partitions.iter().map(|boot| (boot.partition, boot.next_offset)).collect();
    let parts = Parts {
        sequence: Box::new(Offsets(next)),
        publish: Arc::new(Nobody),
        apply: Box::new(applier),
    };
    let context = Context {
        tasks: Tasks::for_tests(),
        clock: clock.clone(),
        fail_points: FailPoints::none(),
    };
    let options = WalOptions {
        file_bytes: 64 << 10,
        free_floor_bytes: Some(0),
        quiet: Duration::from_millis(10),
        ..WalOptions::default()
    };
    let wal = Wal::start(directory, &recovered, options, parts, context).unwrap();
    store.attach(Arc::new(wal.clone()));
    Broker { store, wal, clock, rebuilt, found_gaps: !gaps.ops.is_empty() }
}

impl Broker {
    async fn produce(&self, count: u32) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut draft = records(P.0, 0, count);
        draft.payload = Bytes::from({
            let mut batch = draft.payload.to_vec();
            let length = i32::try_from(batch.len() - 12).unwrap();
            batch[8..12].copy_from_slice(&length.to_be_bytes());
            batch
        });
        let done = Done::Applied(Box::new(move |ack| drop(sender.send(ack))));
        self.wal.append(Request { frames: vec![draft], done, permit: None }).await.unwrap();
        receiver.await.unwrap();
    }

    async fn put(&self, value: &str) {
        self.store.commit(Change::new().put(Space::Token, "t", value)).await.unwrap();
    }

    fn stop(self) {
        self.wal.shutdown();
    }

    /// Every offset from the log start is readable from the place the index names.
    fn check(&self, log_start: Offset, next: Offset) {
        let state = self.store.partition(P).unwrap().unwrap();
        assert_eq!((state.log_start, state.next_offset), (log_start, next));
        let mut reached = log_start;
        for run in self.store.index_scan(P, log_start, 9_999).unwrap() {
            assert!(run.base_offset <= reached, "{run:?} after {reached}");
            let frames = self.wal.read_run(&run).unwrap();
            assert_eq!(frames[0].draft.base_offset, run.base_offset);
            reached = run.end_offset;
        }
        assert_eq!(reached, next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_index_and_log_agree_after_every_kind_of_start() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path());
    broker.store.commit(keys::create_partition(Change::new(), P)).await.unwrap();
    for _ in 0..150 {
        broker.produce(2).await;
    }
    broker.put("1").await;
    broker.check(0, 300);
    assert!(broker.wal.list().len() >= 3);
    broker.stop();

    let broker = start(dir.path());
    assert!(!broker.rebuilt && !broker.found_gaps);
    broker.check(0, 300);
    broker.store.write_snapshot().unwrap();
    broker.put("2").await;
    broker.stop();

    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let broker = start(dir.path());
    assert!(broker.rebuilt && !broker.found_gaps);
    broker.check(0, 300);
    assert_eq!(broker.store.get(Space::Token, b"t").unwrap().unwrap(), b"2");
    broker.produce(5).await;
    broker.check(0, 305);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freed_files_are_missed_by_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path());
    broker.store.commit(keys::create_partition(Change::new(), P)).await.unwrap();
    for _ in 0..200 {
        broker.produce(1).await;
    }
    broker.store.commit(keys::put_log_start(Change::new(), P, 150)).await.unwrap();
    let files = broker.wal.list();
    assert_eq!(broker.store.reclaimable(&files).unwrap(), []);
    broker.put("1").await;
    broker.clock.advance(60_000);
    let free = broker.store.reclaimable(&files).unwrap();
    assert!(!free.is_empty() && free.len() < files.len());
    for file in &free {
        assert!(broker.wal.release(file.first).unwrap());
    }
    broker.check(150, 200);
    broker.stop();
    let broker = start(dir.path());
    assert!(!broker.rebuilt && !broker.found_gaps);
    broker.check(150, 200);
    broker.stop();
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let broker = start(dir.path());
    assert!(broker.rebuilt && !broker.found_gaps);
    broker.check(150, 200);
    broker.stop();
}
