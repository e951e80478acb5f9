//! Tests of the whole log over real files.

mod crash;
mod damage;
mod flush;
mod moved;
mod recycle;
mod running;
mod schedule;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::runtime::files::{Disk, FileSystem};
use crate::runtime::{Clock, FailPoints, Tasks};
use crate::types::{Lsn, PartitionId};
use crate::wal::*;

/// Bytes of the header of a record batch.
pub(super) const BATCH_HEADER_LEN: usize = 61;

/// Waits for a condition.
pub(super) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

/// A payload that starts like a record batch and ends with `text`.
pub(super) fn batch(partition: u32, text: &[u8]) -> FrameDraft {
    let mut payload = vec![0u8; BATCH_HEADER_LEN];
    payload[35..43].copy_from_slice(&77i64.to_be_bytes());
    payload.extend_from_slice(text);
    let length = i32::try_from(payload.len() - 12).unwrap();
    payload[8..12].copy_from_slice(&length.to_be_bytes());
    FrameDraft {
        kind: FrameKind::Records,
        partition: PartitionId(partition),
        base_offset: -1,
        record_count: 2,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        max_timestamp: 77,
        moved_ms: None,
        ext: Bytes::new(),
        payload: payload.into(),
    }
}

pub(super) fn state(text: &[u8]) -> FrameDraft {
    let mut draft = batch(0, b"");
    draft.kind = FrameKind::State;
    draft.base_offset = 0;
    draft.record_count = 0;
    draft.payload = Bytes::copy_from_slice(text);
    draft
}

pub(super) fn text_of(frame: &WrittenFrame) -> &[u8] {
    match frame.draft.kind.is_records() {
        true => &frame.draft.payload[BATCH_HEADER_LEN..],
        false => &frame.draft.payload,
    }
}

/// Next offsets; refuses texts that start with "reject", and answers "duplicate" ones.
#[derive(Default)]
pub(super) struct Offsets(pub(super) HashMap<u32, i64>);

impl Sequence for Offsets {
    fn assign(&mut self, frames: &mut [FrameDraft], _append_ms: i64) -> Verdict {
        if frames[0].payload.ends_with(b"reject") {
            return Verdict::Reject(9);
        }
        if frames[0].payload.ends_with(b"duplicate") {
            return Verdict::Duplicate { base_offset: 5, append_ms: 6 };
        }
        for frame in frames.iter_mut().filter(|frame| frame.kind.is_records()) {
            let next = self.0.entry(frame.partition.0).or_default();
            frame.base_offset = *next;
            *next += i64::from(frame.record_count);
        }
        Verdict::Write
    }
}

/// What the threads told.
#[derive(Default)]
pub(super) struct Told {
    pub(super) readable: Vec<WrittenFrame>,
    pub(super) durable: Vec<WrittenFrame>,
    pub(super) applied: Vec<WrittenFrame>,
    pub(super) fatal: Vec<String>,
}

pub(super) type SharedTold = Arc<Mutex<Told>>;

struct Listener(SharedTold);

impl Publish for Listener {
    fn readable(&self, frames: &[WrittenFrame]) {
        self.0.lock().readable.extend_from_slice(frames);
    }

    fn durable(&self, frames: &[WrittenFrame]) {
        self.0.lock().durable.extend_from_slice(frames);
    }
}

impl Apply for Listener {
    fn apply(&mut self, frames: &[WrittenFrame], _end: Lsn) -> Result<(), String> {
        if frames.iter().any(|frame| frame.draft.payload.ends_with(b"unappliable")) {
            return Err("as asked".into());
        }
        self.0.lock().applied.extend_from_slice(frames);
        Ok(())
    }
}

/// A log under test with everything around it.
pub(super) struct Bench {
    pub(super) wal: Wal,
    pub(super) told: SharedTold,
    pub(super) recovered: Recovered,
    pub(super) frames: Vec<WrittenFrame>,
    pub(super) fail_points: FailPoints,
    pub(super) clock: Clock,
}

pub(super) fn small() -> WalOptions {
    WalOptions {
        file_bytes: 16 << 10,
        free_floor_bytes: Some(0),
        // No marks on their own, so that positions are known.
        quiet: Duration::from_secs(3600),
        ..WalOptions::default()
    }
}

/// With marks and checks of free space all the time.
pub(super) fn quick() -> WalOptions {
    WalOptions { quiet: Duration::from_millis(10), ..small() }
}

pub(super) fn open_and_recover(
    fs: Arc<dyn FileSystem>,
    dir: &Path,
    start: Start,
) -> Result<(Directory, Recovered, Vec<WrittenFrame>), Error> {
    let directory = Directory::open(fs, dir, &DirectoryOptions { allow_network: true })?;
    let mut frames = Vec::new();
    let recovered = recover(&directory, start, &mut |frame| {
        frames.push(frame);
        Ok(())
    })?;
    Ok((directory, recovered, frames))
}

impl Bench {
    pub(super) fn open(dir: &Path) -> Self {
        Self::open_with(Arc::new(Disk), dir, Start::default(), small()).unwrap()
    }

    pub(super) fn open_with(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        start: Start,
        options: WalOptions,
    ) -> Result<Self, Error> {
        let (directory, recovered, frames) = open_and_recover(fs, dir, start)?;
        let told = SharedTold::default();
        let fatal = Arc::clone(&told);
        let context = Context {
            tasks: Tasks::new(Arc::new(move |reason| fatal.lock().fatal.push(reason.into()))),
            clock: Clock::manual(1000),
            fail_points: FailPoints::none(),
        };
        let mut offsets = Offsets::default();
        for frame in frames.iter().filter(|frame| frame.draft.kind.is_records()) {
            let end = frame.draft.base_offset + i64::from(frame.draft.record_count);
            offsets.0.insert(frame.draft.partition.0, end);
        }
        let parts = Parts {
            sequence: Box::new(offsets),
            publish: Arc::new(Listener(Arc::clone(&told))),
            apply: Box::new(Listener(Arc::clone(&told))),
        };
        let wal = Wal::start(directory, &recovered, options, parts, context.clone())?;
        let Context { clock, fail_points, .. } = context;
        Ok(Self { wal, told, recovered, frames, fail_points, clock })
    }

    /// Queues a request; the receiver gets the answer, or closes.
    pub(super) fn send(&self, frames: Vec<FrameDraft>) -> Receiver<Ack> {
        let (done, answer) = sync_channel(1);
        let done = Done::Logged(Box::new(move |ack| done.send(ack).unwrap_or_default()));
        // A closed log drops `done`, which the receiver sees.
        let _ = self.wal.append_blocking(Request { frames, done, permit: None });
        answer
    }

    pub(super) fn append(&self, frames: Vec<FrameDraft>) -> Ack {
        self.send(frames).recv().expect("the log answers")
    }

    pub(super) fn applied(&self, frames: Vec<FrameDraft>) -> Receiver<Ack> {
        let (done, answer) = sync_channel(1);
        let done = Done::Applied(Box::new(move |ack| done.send(ack).unwrap_or_default()));
        let _ = self.wal.append_blocking(Request { frames, done, permit: None });
        answer
    }

    pub(super) fn close(self) {
        self.wal.shutdown();
    }
}

pub(super) fn texts(frames: &[WrittenFrame]) -> Vec<String> {
    frames.iter().map(|frame| String::from_utf8_lossy(text_of(frame)).into_owned()).collect()
}
