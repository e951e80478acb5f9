//! A log in memory, so that the store and what lies on it can be tested without files of a
//! write-ahead log: it gives positions, applies at once, and remembers the frames for a restart.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::runtime::files::Disk;
use crate::runtime::{Clock, FailPoints};
use crate::store::{
    Appender, Applier, Change, Error, Limits, OpenOptions, Opened, Opening, Store, lock,
};
use crate::types::{Lsn, Offset, PartitionId};
use crate::wal::{
    Ack, Apply, Done, FrameDraft, FrameKind, Request, Verdict, WalFile, WrittenFrame,
};

/// What survives a restart.
#[derive(Debug, Default, Clone)]
pub(crate) struct Frames {
    pub(crate) frames: Vec<WrittenFrame>,
    pub(crate) end: u64,
    pub(crate) file_bytes: u64,
    /// First positions of files that were freed or lost.
    pub(crate) gone: Vec<u64>,
}

impl Frames {
    fn push(&mut self, draft: FrameDraft, append_ms: i64, more: bool) -> WrittenFrame {
        let disk_len = disk_len(&draft);
        self.make_room(disk_len);
        let frame = WrittenFrame {
            lsn: Lsn(self.end),
            disk_len: u32::try_from(disk_len).unwrap(),
            append_ms: draft.moved_ms.unwrap_or(append_ms),
            more,
            draft,
        };
        self.end += disk_len;
        self.frames.push(frame.clone());
        frame
    }

    /// Goes on in the next file if `bytes` and a seal do not fit into this one.
    fn make_room(&mut self, bytes: u64) {
        if self.end % self.file_bytes + bytes + SEAL_BYTES > self.file_bytes {
            self.end = self.end.next_multiple_of(self.file_bytes);
        }
    }

    pub(crate) fn files(&self) -> Vec<WalFile> {
        (0..self.end.div_ceil(self.file_bytes))
            .map(|number| number * self.file_bytes)
            .filter(|first| !self.gone.contains(first))
            .map(|first| WalFile { first: Lsn(first), end: Lsn(first + self.file_bytes) })
            .collect()
    }

    /// Takes a file away with the frames in it.
    pub(crate) fn lose_file(&mut self, first: Lsn) {
        self.gone.push(first.0);
        let size = self.file_bytes;
        self.frames.retain(|frame| frame.lsn.0 / size * size != first.0);
    }
}

fn disk_len(draft: &FrameDraft) -> u64 {
    (96 + draft.ext.len() + draft.payload.len()).next_multiple_of(32) as u64
}

/// The log of a running store.
pub(crate) struct FakeLog {
    state: Mutex<Option<(Applier, Frames)>>,
    clock: Clock,
}

impl FakeLog {
    /// Appends `drafts` as one group, durable and applied when it returns.
    pub(crate) fn append_now(&self, drafts: Vec<FrameDraft>) -> Result<Ack, Error> {
        let mut state = lock(&self.state);
        let (applier, frames) = state.as_mut().ok_or(Error::Closed)?;
        let append_ms = self.clock.now_ms();
        let last = drafts.len().saturating_sub(1);
        if drafts.first().is_some_and(|draft| draft.moved_ms.is_some()) {
            frames.make_room(drafts.iter().map(disk_len).sum());
        }
        let written: Vec<_> = (0..)
            .zip(drafts)
            .map(|(at, draft)| {
                let more = draft.moved_ms.is_some() && at < last;
                frames.push(draft, append_ms, more)
            })
            .collect();
        let end = Lsn(frames.end);
        applier.apply(&written, end).map_err(Error::Failed)?;
        let base_offsets = written.iter().map(|frame| frame.draft.base_offset).collect();
        Ok(Ack { verdict: Verdict::Write, base_offsets, append_ms, end })
    }

    pub(crate) fn frames(&self) -> Frames {
        lock(&self.state).as_ref().map(|(_, frames)| frames.clone()).unwrap_or_default()
    }

    /// Ends the log: commits are refused from now on.
    pub(crate) fn close(&self) {
        self.stop();
    }

    fn stop(&self) -> Option<Frames> {
        lock(&self.state).take().map(|(_, frames)| frames)
    }
}

#[async_trait::async_trait]
impl Appender for FakeLog {
    async fn append(&self, request: Request) -> Result<(), Error> {
        let ack = self.append_now(request.frames)?;
        match request.done {
            Done::Logged(done) | Done::Unawaited(done) | Done::Applied(done) => done(ack),
        }
        Ok(())
    }
}

/// A data directory with a store in it.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: Clock,
    pub(crate) fail_points: FailPoints,
    pub(crate) log: Arc<FakeLog>,
    pub(crate) opened: Opened_,
}

/// What a start found, without the applier.
pub(crate) struct Opened_ {
    pub(crate) store: Store,
    pub(crate) gaps: Change,
    pub(crate) partitions: Vec<crate::store::PartitionBoot>,
    pub(crate) rebuilt: bool,
    pub(crate) known_durable: Lsn,
    pub(crate) start: Lsn,
}

pub(crate) const FILE_BYTES: u64 = 1 << 20;
/// Keeps frames of two files from being neighbours.
const SEAL_BYTES: u64 = 96;

impl Rig {
    pub(crate) fn new() -> Self {
        let frames = Frames { file_bytes: FILE_BYTES, ..Frames::default() };
        let dir = tempfile::tempdir().unwrap();
        Self::start(dir, Clock::manual(1_000_000), FailPoints::none(), frames, &[]).unwrap()
    }

    pub(crate) fn store(&self) -> Store {
        self.opened.store.clone()
    }

    pub(crate) fn options(&self) -> OpenOptions {
        options(&self.dir, &self.clock, &self.fail_points)
    }

    /// Stops as after `kill -9`, lets `change` do harm, and starts again.
    pub(crate) fn restart(self, change: impl FnOnce(&mut Frames, &std::path::Path)) -> Self {
        self.restart_damaged(&[], change)
    }

    pub(crate) fn restart_damaged(
        self,
        damage: &[(Lsn, Lsn)],
        change: impl FnOnce(&mut Frames, &std::path::Path),
    ) -> Self {
        let Self { dir, clock, fail_points, log, opened } = self;
        let mut frames = log.stop().unwrap();
        drop((log, opened));
        change(&mut frames, dir.path());
        Self::start(dir, clock, fail_points, frames, damage).unwrap()
    }

    fn start(
        dir: tempfile::TempDir,
        clock: Clock,
        fail_points: FailPoints,
        mut frames: Frames,
        damage: &[(Lsn, Lsn)],
    ) -> Result<Self, Error> {
        let mut opening = Opening::open(options(&dir, &clock, &fail_points), &frames.files())?;
        let (rebuilt, start) = (opening.rebuilding(), opening.start_lsn());
        let known_durable = opening.known_durable();
        for frame in frames.frames.iter().filter(|frame| frame.lsn >= start) {
            opening.replay(frame.clone())?;
        }
        damage.iter().for_each(|(first, end)| opening.damage(*first, *end));
        frames.end = frames.end.max(known_durable.0);
        let Opened { store, applier, gaps, partitions } = opening.finish(Lsn(frames.end), 1)?;
        let state = Mutex::new(Some((applier, frames)));
        let log = Arc::new(FakeLog { state, clock: clock.clone() });
        store.attach(Arc::clone(&log) as Arc<dyn Appender>);
        let opened = Opened_ { store, gaps, partitions, rebuilt, known_durable, start };
        Ok(Self { dir, clock, fail_points, log, opened })
    }

    /// Appends one record batch per entry of `counts`, as one group.
    pub(crate) fn produce(&self, partition: u32, base: Offset, counts: &[u32]) -> Ack {
        let mut base = base;
        let drafts = counts.iter().map(|count| {
            let draft = records(partition, base, *count);
            base += i64::from(*count);
            draft
        });
        self.log.append_now(drafts.collect()).unwrap()
    }
}

fn options(dir: &tempfile::TempDir, clock: &Clock, fail_points: &FailPoints) -> OpenOptions {
    OpenOptions {
        data_dir: dir.path().to_owned(),
        fs: Arc::new(Disk),
        log_id: 77,
        limits: Limits::default(),
        clock: clock.clone(),
        fail_points: fail_points.clone(),
    }
}

/// A record batch of `count` records with 1,000 bytes of payload and no producer.
pub(crate) fn records(partition: u32, base_offset: Offset, count: u32) -> FrameDraft {
    let mut payload = vec![0u8; 1_000];
    payload[35..43].copy_from_slice(&(base_offset + 500).to_be_bytes());
    FrameDraft {
        kind: FrameKind::Records,
        partition: PartitionId(partition),
        base_offset,
        record_count: count,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        max_timestamp: base_offset + 500,
        moved_ms: None,
        ext: Bytes::new(),
        payload: Bytes::from(payload),
    }
}
