//! A log over plain maps: the sequencer, the sync thread and the apply thread run inside
//! `append`, or when a test says so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::log::handle::prepare;
use crate::log::ports::{Directory, FileUse, Frames, LivePage, PartitionOptions, RunError, State};
use crate::log::{Append, AppendBatch, AppendError, Appended, Log, LogOptions, LogParts, Origin};
use crate::record::{BatchBuilder, Codec, NewRecord};
use crate::runtime::Clock;
use crate::store::PartitionBoot;
use crate::types::{Lsn, Offset, OffsetRange, PartitionId};
use crate::wal::{self, Ack, Done, Request, Run, Verdict, WrittenFrame};

pub(crate) const P: PartitionId = PartitionId(1);
pub(crate) const Q: PartitionId = PartitionId(2);

/// What the store would know.
#[derive(Default)]
pub(crate) struct FakeState {
    pub(crate) runs: Mutex<BTreeMap<(PartitionId, Offset), Run>>,
    pub(crate) gaps: Mutex<Vec<(PartitionId, OffsetRange, String)>>,
    pub(crate) log_starts: Mutex<HashMap<PartitionId, Offset>>,
    pub(crate) expired: Mutex<Vec<(PartitionId, i64)>>,
    /// Largest number of index entries that one change may drop.
    pub(crate) trim_max: AtomicU64,
    /// Applies what is durable before a change, as the log does.
    frames: Mutex<Weak<FakeFrames>>,
    applied: AtomicU64,
    next_id: AtomicU64,
}

#[async_trait]
impl State for FakeState {
    fn applied(&self) -> Lsn {
        Lsn(self.applied.load(Ordering::Relaxed))
    }

    fn run_floor(&self, id: PartitionId, offset: Offset) -> Result<Option<Run>, String> {
        let runs = self.runs.lock();
        Ok(runs.range((id, 0)..=(id, offset)).next_back().map(|(_, run)| *run))
    }

    fn runs(&self, id: PartitionId, from: Offset, limit: usize) -> Result<Vec<Run>, String> {
        let runs = self.runs.lock();
        let of_id = runs.range((id, 0)..=(id, i64::MAX)).map(|(_, run)| *run);
        Ok(of_id.filter(|run| run.end_offset > from).take(limit).collect())
    }

    fn gaps(&self, id: PartitionId) -> Result<Vec<(OffsetRange, String)>, String> {
        let gaps = self.gaps.lock();
        let of_id = gaps.iter().filter(|(of, ..)| *of == id);
        Ok(of_id.map(|(_, range, reason)| (*range, reason.clone())).collect())
    }

    fn log_start(&self, id: PartitionId) -> Result<Option<Offset>, String> {
        Ok(Some(self.log_starts.lock().get(&id).copied().unwrap_or(0)))
    }

    fn trim_step(&self, id: PartitionId, to: Offset) -> Result<Offset, String> {
        let limit = self.trim_max.load(Ordering::Relaxed) as usize;
        let runs = self.runs(id, 0, limit)?;
        let last = runs.last().filter(|_| runs.len() == limit);
        Ok(last.map_or(to, |last| last.end_offset.min(to)))
    }

    async fn put_log_start(&self, id: PartitionId, to: Offset) -> Result<(), AppendError> {
        let frames = self.frames.lock().upgrade();
        if let Some(frames) = frames {
            frames.make_durable();
            frames.apply();
        }
        self.log_starts.lock().insert(id, to);
        self.runs.lock().retain(|(of, _), run| *of != id || run.end_offset > to);
        Ok(())
    }

    async fn expire_producers(&self, id: PartitionId, before_ms: i64) -> Result<(), AppendError> {
        self.expired.lock().push((id, before_ms));
        Ok(())
    }

    async fn reserve_producer_ids(&self, count: u32) -> Result<u64, AppendError> {
        Ok(self.next_id.fetch_add(u64::from(count), Ordering::Relaxed))
    }
}

/// What the write-ahead log would do.
pub(crate) struct FakeFrames {
    state: Arc<FakeState>,
    clock: Clock,
    inner: Mutex<Inner>,
    /// Requests wait until [`FakeFrames::run`].
    pub(crate) is_paused: AtomicBool,
    /// Durable frames are not applied until [`FakeFrames::apply`].
    pub(crate) is_behind: AtomicBool,
    /// Frames are readable and answered, but not durable until [`FakeFrames::make_durable`].
    pub(crate) is_ahead: AtomicBool,
    /// Index entries that are moved while somebody is about to read, one per read of a run.
    pub(crate) races: Mutex<Vec<(PartitionId, Offset)>>,
    pub(crate) full: Mutex<Option<String>>,
    pub(crate) rolled: Mutex<Vec<i64>>,
    /// Files that were begun.
    pub(crate) begun: watch::Sender<u64>,
}

struct Inner {
    parts: LogParts,
    queue: Vec<Request>,
    stored: BTreeMap<u64, WrittenFrame>,
    corrupt: HashSet<u64>,
    unsynced: Vec<WrittenFrame>,
    unapplied: Vec<WrittenFrame>,
    end: u64,
}

impl FakeFrames {
    /// Writes what is queued as one group.
    pub(crate) fn run(&self) {
        let mut inner = self.inner.lock();
        let append_ms = self.clock.now_ms();
        let mut acks = Vec::new();
        let mut group = Vec::new();
        for mut request in std::mem::take(&mut inner.queue) {
            let verdict = inner.parts.sequence.assign(&mut request.frames, append_ms);
            let base_offsets = match verdict {
                Verdict::Write => request.frames.iter().map(|f| f.base_offset).collect(),
                Verdict::Duplicate { base_offset, .. } => vec![base_offset],
                Verdict::Reject(_) => vec![],
            };
            if verdict == Verdict::Write {
                for draft in request.frames {
                    group.push(inner.store(draft, append_ms));
                }
            }
            let end = Lsn(inner.end);
            acks.push((request.done, Ack { verdict, base_offsets, append_ms, end }));
        }
        let is_ahead = self.is_ahead.load(Ordering::Relaxed);
        if !is_ahead {
            inner.parts.publish.durable(&group);
        }
        inner.parts.publish.readable(&group);
        if is_ahead {
            inner.unsynced.extend(group);
        } else {
            inner.unapplied.extend(group);
        }
        drop(inner);
        if !self.is_behind.load(Ordering::Relaxed) {
            self.apply();
        }
        for (done, ack) in acks {
            match done {
                Done::Logged(tell) | Done::Unawaited(tell) | Done::Applied(tell) => tell(ack),
            }
        }
    }

    /// The sync that `is_ahead` put off.
    pub(crate) fn make_durable(&self) {
        let mut inner = self.inner.lock();
        let group = std::mem::take(&mut inner.unsynced);
        inner.parts.publish.durable(&group);
        inner.unapplied.extend(group);
    }

    pub(crate) fn apply(&self) {
        let mut inner = self.inner.lock();
        for run in wal::runs(&std::mem::take(&mut inner.unapplied)) {
            self.state.runs.lock().insert((run.partition, run.base_offset), run);
        }
        let applied = inner.unsynced.first().map_or(inner.end, |first| first.lsn.0);
        self.state.applied.store(applied, Ordering::Relaxed);
    }

    /// Copies the frames of the index entry at `base` to the end of the log, tells of it, and
    /// takes the old ones away. False if there is no such entry or it cannot be read.
    pub(crate) fn relocate(&self, id: PartitionId, base: Offset) -> bool {
        // What changes the index is synced and applied after all before it.
        self.make_durable();
        self.apply();
        let mut inner = self.inner.lock();
        let Some(old) = self.state.runs.lock().get(&(id, base)).copied() else {
            return false;
        };
        let lsns: Vec<u64> =
            inner.stored.range(old.lsn.0..old.end().0).map(|(lsn, _)| *lsn).collect();
        if lsns.iter().any(|lsn| inner.corrupt.contains(lsn)) {
            return false;
        }
        let mut moved = Vec::with_capacity(lsns.len());
        for lsn in lsns {
            let Some(frame) = inner.stored.remove(&lsn) else { continue };
            let moved_ms = Some(frame.append_ms);
            let draft = wal::FrameDraft { moved_ms, ..frame.draft };
            moved.push(inner.store(draft, frame.append_ms));
        }
        let last = moved.len() - 1;
        moved[..last].iter_mut().for_each(|frame| frame.more = true);
        inner.parts.publish.durable(&moved);
        for run in wal::moved_runs(&moved) {
            self.state.runs.lock().insert((id, run.base_offset), run);
        }
        self.state.applied.store(inner.end, Ordering::Relaxed);
        true
    }

    /// Makes the frame at this offset unreadable.
    pub(crate) fn corrupt(&self, id: PartitionId, offset: Offset) {
        let mut inner = self.inner.lock();
        let lsn = inner.stored.iter().find_map(|(lsn, frame)| {
            (frame.draft.partition == id && frame.draft.base_offset == offset).then_some(*lsn)
        });
        inner.corrupt.insert(lsn.unwrap());
    }
}

impl Inner {
    fn store(&mut self, draft: wal::FrameDraft, append_ms: i64) -> WrittenFrame {
        let disk_len = (96 + draft.payload.len()).next_multiple_of(32) as u32;
        let lsn = self.end;
        self.end += u64::from(disk_len);
        let mut stored = WrittenFrame { lsn: Lsn(lsn), disk_len, append_ms, more: false, draft };
        let mut payload = BytesMut::from(stored.draft.payload.as_ref());
        payload[..8].copy_from_slice(&stored.draft.base_offset.to_be_bytes());
        stored.draft.payload = payload.freeze();
        self.stored.insert(lsn, stored.clone());
        stored.draft.payload = Bytes::new();
        stored
    }
}

#[async_trait]
impl Frames for FakeFrames {
    async fn append(&self, request: Request) -> Result<(), AppendError> {
        self.inner.lock().queue.push(request);
        if !self.is_paused.load(Ordering::Relaxed) {
            self.run();
        }
        Ok(())
    }

    fn admission(&self) -> Result<(), String> {
        self.full.lock().clone().map_or(Ok(()), Err)
    }

    fn read_run(&self, run: &Run) -> Result<Vec<WrittenFrame>, RunError> {
        let race = self.races.lock().pop();
        if let Some((id, base)) = race {
            self.relocate(id, base);
        }
        let inner = self.inner.lock();
        let end = run.lsn.0 + u64::from(run.disk_len);
        if inner.corrupt.iter().any(|lsn| (run.lsn.0..end).contains(lsn)) {
            return Err(RunError::Corrupt("bad".to_owned()));
        }
        if !inner.stored.contains_key(&run.lsn.0) {
            return Err(RunError::Absent);
        }
        Ok(inner.stored.range(run.lsn.0..end).map(|(_, frame)| frame.clone()).collect())
    }

    fn read_sound(&self, run: &Run) -> Vec<WrittenFrame> {
        let inner = self.inner.lock();
        let end = run.lsn.0 + u64::from(run.disk_len);
        let all = inner.stored.range(run.lsn.0..end);
        let sound = all.filter(|(lsn, _)| !inner.corrupt.contains(lsn));
        sound.map(|(_, frame)| frame.clone()).collect()
    }

    async fn roll(&self, min_age_ms: i64) -> Result<(), AppendError> {
        self.rolled.lock().push(min_age_ms);
        Ok(())
    }

    async fn sync(&self) -> Result<(), AppendError> {
        self.make_durable();
        Ok(())
    }

    fn has_next(&self) -> bool {
        true
    }

    fn sealed(&self) -> Vec<FileUse> {
        Vec::new()
    }

    fn live_runs(&self, _: Lsn, _: Lsn, _: usize) -> Result<LivePage, String> {
        Ok(LivePage::default())
    }

    fn begun(&self) -> watch::Receiver<u64> {
        self.begun.subscribe()
    }

    async fn reclaim(&self) -> Result<usize, String> {
        Ok(0)
    }
}

/// Partitions P and Q, and what a test adds.
#[derive(Default)]
pub(crate) struct FakeDirectory(pub(crate) Mutex<HashMap<PartitionId, PartitionOptions>>);

impl Directory for FakeDirectory {
    fn options(&self, id: PartitionId) -> Option<PartitionOptions> {
        self.0.lock().get(&id).copied()
    }

    fn place(&self, id: PartitionId) -> Option<(String, usize)> {
        self.0.lock().contains_key(&id).then(|| ("fake".to_owned(), id.0 as usize))
    }
}

pub(crate) const OPTIONS: PartitionOptions = PartitionOptions {
    draining: false,
    log_append_time: false,
    retention_ms: None,
    retention_bytes: None,
};

/// A log with its fakes. The clock stands at 1,000,000 ms.
pub(crate) struct Rig {
    pub(crate) log: Log,
    pub(crate) state: Arc<FakeState>,
    pub(crate) frames: Arc<FakeFrames>,
    pub(crate) directory: Arc<FakeDirectory>,
    pub(crate) clock: Clock,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With partitions found at start: (partition, log start, next offset).
    pub(crate) fn with(found: &[(PartitionId, Offset, Offset)]) -> Self {
        let state = Arc::new(FakeState::default());
        state.trim_max.store(1_000, Ordering::Relaxed);
        let clock = Clock::manual(1_000_000);
        let found = found.iter().map(|(partition, log_start, next_offset)| {
            state.log_starts.lock().insert(*partition, *log_start);
            let (log_start, next_offset) = (*log_start, *next_offset);
            let boot = PartitionBoot { partition: *partition, log_start, next_offset, bytes: 0 };
            (boot, HashMap::new())
        });
        let found = found.collect();
        let (shared, parts) = prepare(Arc::clone(&state) as Arc<dyn State>, found);
        let frames = Arc::new(FakeFrames {
            state: Arc::clone(&state),
            clock: clock.clone(),
            inner: Mutex::new(Inner {
                parts,
                queue: Vec::new(),
                stored: BTreeMap::new(),
                corrupt: HashSet::new(),
                unsynced: Vec::new(),
                unapplied: Vec::new(),
                end: 0,
            }),
            is_paused: AtomicBool::new(false),
            is_behind: AtomicBool::new(false),
            is_ahead: AtomicBool::new(false),
            races: Mutex::default(),
            full: Mutex::new(None),
            rolled: Mutex::default(),
            begun: watch::Sender::new(0),
        });
        *state.frames.lock() = Arc::downgrade(&frames);
        let directory = Arc::new(FakeDirectory::default());
        directory.0.lock().extend([(P, OPTIONS), (Q, OPTIONS)]);
        let log = Log::new(
            shared,
            Arc::clone(&frames) as Arc<dyn Frames>,
            Arc::clone(&directory) as Arc<dyn Directory>,
            clock.clone(),
            LogOptions { queue_bytes: 1 << 20, ..LogOptions::default() },
        );
        Self { log, state, frames, directory, clock }
    }

    /// Appends one batch of records with these timestamps and waits.
    pub(crate) async fn append(
        &self,
        id: PartitionId,
        timestamps: &[i64],
    ) -> Result<Appended, AppendError> {
        self.append_batch(id, batch(timestamps)).await
    }

    pub(crate) async fn append_batch(
        &self,
        id: PartitionId,
        batch: Bytes,
    ) -> Result<Appended, AppendError> {
        let pending = self.log.append(one(id, batch)).await?;
        Ok(pending.wait().await?[0])
    }

    pub(crate) fn set_options(&self, id: PartitionId, options: PartitionOptions) {
        self.directory.0.lock().insert(id, options);
    }
}

pub(crate) fn one(partition: PartitionId, batch: Bytes) -> Append {
    Append {
        batches: vec![AppendBatch { partition, batch, ext: Bytes::new() }],
        origin: Origin::Kafka,
        settle: None,
        is_awaited: true,
    }
}

/// A batch of records with these timestamps.
pub(crate) fn batch(timestamps: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for timestamp in timestamps {
        let record =
            NewRecord { value: Some(b"value"), timestamp: *timestamp, ..NewRecord::default() };
        builder.push(&record).unwrap();
    }
    builder.build(Codec::Lz4).unwrap()
}

/// A batch of `count` records of an idempotent producer.
pub(crate) fn produced(producer_id: i64, epoch: i16, sequence: i32, count: usize) -> Bytes {
    let mut out = batch(&vec![5; count]).to_vec();
    out[43..51].copy_from_slice(&producer_id.to_be_bytes());
    out[51..53].copy_from_slice(&epoch.to_be_bytes());
    out[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crate::record::header::crc_of(&out);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out.into()
}
