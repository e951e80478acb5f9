//! THE BYTES: the write-ahead log. Frames, the sequencer and sync threads, files, reads,
//! recovery (rules 1 to 3).
//!
//! Owns: the folder `wal/`, the frame format, group commit, the known durable end. Does not own:
//! what a frame means; the log hands it the step that assigns offsets ([`Sequence`]), the store
//! applies what became durable ([`Apply`]).
//!
//! Reading order: [`frame`] (the bytes), [`directory`] (lock, format, run), [`recovery`] (what a
//! crash left), [`files`] (current, next, old), the sequencer, sync and apply threads behind
//! [`Wal`], and reads.

mod apply;
pub mod directory;
pub mod ext;
pub mod files;
pub mod frame;
mod group;
mod handle;
mod prepare;
pub(crate) mod reader;
pub mod recovery;
mod salvage;
mod sequencer;
mod shared;
mod space;
mod spares;
mod sync;
mod tail;
#[cfg(test)]
mod tests;
mod turn;
mod walk;

use std::path::PathBuf;

use bytes::Bytes;

pub use crate::wal::directory::{Directory, DirectoryOptions};
pub use crate::wal::files::WalFile;
pub use crate::wal::handle::{Context, Parts, Wal, WalOptions};
pub use crate::wal::reader::ReadError;
pub use crate::wal::recovery::{Damage, Recovered, Start, recover};

use crate::runtime::BytePermit;
use crate::types::{Lsn, Offset, PartitionId};

/// Why the log refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the data directory.
    #[error("data directory {0:?} is in use by another process")]
    Locked(PathBuf),
    /// What is on disk, or was asked, is not for this program; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// The disk failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The visitor of recovered frames gave up.
    #[error("recovered frames could not be taken: {0}")]
    Visit(String),
    /// The log is shutting down or ended; nothing was written.
    #[error("the log is closed")]
    Closed,
    /// A request is larger than a file; nothing was written.
    #[error("a request of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size on disk.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// What a frame holds. Numbers are on disk: never change one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A Kafka record batch that came over the wire.
    Records = 1,
    /// A Kafka record batch made from an HTTP request (rules 7.2).
    HttpRecords = 2,
    /// A change of state; the payload starts with a version (see `store`).
    State = 3,
    /// Records the durable end after a quiet second.
    Durable = 4,
    /// The last frame of a file.
    Seal = 5,
}

impl FrameKind {
    /// True if the payload is a Kafka record batch.
    pub fn is_records(self) -> bool {
        matches!(self, Self::Records | Self::HttpRecords)
    }
}

/// A frame that has no position yet.
#[derive(Debug, Clone)]
pub struct FrameDraft {
    /// What it holds.
    pub kind: FrameKind,
    /// Partition of a record batch; 0 for other kinds.
    pub partition: PartitionId,
    /// First offset; set by [`Sequence::assign`]. 0 for other kinds.
    pub base_offset: Offset,
    /// Records in the batch (equals last offset delta + 1). 0 for other kinds.
    pub record_count: u32,
    /// Producer id of the batch, or -1.
    pub producer_id: i64,
    /// Producer epoch of the batch, or -1.
    pub producer_epoch: i16,
    /// Base sequence of the batch, or -1.
    pub base_sequence: i32,
    /// Greatest timestamp of the batch in milliseconds; kept for the index, not in the header.
    pub max_timestamp: i64,
    /// The append time to keep, of a copy of a frame in an older file (rules 2.7), whose offsets
    /// are set already; none for what is new. Milliseconds.
    pub moved_ms: Option<i64>,
    /// Tag-length-value extension, at most 65,535 bytes.
    pub ext: Bytes,
    /// The record batch as received, or the state. While a batch is written its first 16 bytes
    /// are replaced by base offset, the same length, and the leader epoch: all outside its CRC.
    pub payload: Bytes,
}

/// What the sequencing step says of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its frames are written, with the offsets now set in them.
    Write,
    /// Nothing is written: the batch is in the log already (KIP-98 duplicate).
    Duplicate {
        /// Base offset of the original.
        base_offset: Offset,
        /// Append time of the original, milliseconds.
        append_ms: i64,
    },
    /// Nothing is written: refused. The code's meaning is the log's.
    Reject(u16),
}

/// When and how the sender of a request is told.
pub enum Done {
    /// Once the group is in the log as safely as `log.flush` says, high watermarks already moved.
    /// Runs on a thread of the log: it must not block.
    Logged(Box<dyn FnOnce(Ack) + Send>),
    /// As [`Self::Logged`], but nobody waits for it: a group of such requests stays open for a
    /// moment.
    Unawaited(Box<dyn FnOnce(Ack) + Send>),
    /// Once the group is durable and applied to the store. Runs on the apply thread: it must not
    /// block.
    Applied(Box<dyn FnOnce(Ack) + Send>),
}

impl Done {
    /// True if somebody waits.
    pub(crate) fn is_awaited(&self) -> bool {
        !matches!(self, Self::Unawaited(_))
    }
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// What was decided.
    pub verdict: Verdict,
    /// Base offset of each frame of the request, in order.
    pub base_offsets: Vec<Offset>,
    /// Broker time of the append, milliseconds.
    pub append_ms: i64,
    /// End position of the last frame (exclusive).
    pub end: Lsn,
}

/// Frames that are written together as one chain: all or none survives a crash.
pub struct Request {
    /// At least one. More than one are chained by the `more` flag. Moved ones come without new
    /// ones: all frames of one index entry, in order.
    pub frames: Vec<FrameDraft>,
    /// Whom to tell.
    pub done: Done,
    /// Memory held for the request until it is written.
    pub permit: Option<BytePermit>,
}

/// The pure step that runs on the sequencer thread, once per request in order of arrival.
pub trait Sequence: Send {
    /// Decides on `frames` and sets their base offsets. Requests that it rejects or answers as
    /// duplicates are told when everything before them is, see [`Done`].
    fn assign(&mut self, frames: &mut [FrameDraft], append_ms: i64) -> Verdict;
}

/// A frame that lies in the log.
#[derive(Debug, Clone)]
pub struct WrittenFrame {
    /// Its position.
    pub lsn: Lsn,
    /// Bytes it takes on disk: header, extension, payload, padding.
    pub disk_len: u32,
    /// Broker time of the append, milliseconds.
    pub append_ms: i64,
    /// The next frame belongs to the same chain.
    pub more: bool,
    /// What it is. For record batches of a running log `payload` is empty (nobody needs it, so
    /// that memory is given back); in recovery it is there.
    pub draft: FrameDraft,
}

/// Hears of groups on the threads of the log, each group once and in order. Must not block.
pub trait Publish: Send + Sync {
    /// `frames` may be read; their senders are told next. With `log.flush = always` they are durable.
    fn readable(&self, frames: &[WrittenFrame]);

    /// `frames` are durable.
    fn durable(&self, frames: &[WrittenFrame]);
}

/// Hears of durable frames on the apply thread.
pub trait Apply: Send {
    /// Applies `frames` in order; `end` is the position after the last one.
    ///
    /// # Errors
    /// Any error is fatal for the process: the text is its last line.
    fn apply(&mut self, frames: &[WrittenFrame], end: Lsn) -> Result<(), String>;
}

impl WrittenFrame {
    /// Position after it.
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.0.saturating_add(u64::from(self.disk_len)))
    }

    /// Offset after its records; of a state frame 0.
    pub fn end_offset(&self) -> Offset {
        self.draft.base_offset.saturating_add(i64::from(self.draft.record_count))
    }

    /// True for a copy of a frame in an older file.
    pub fn is_moved(&self) -> bool {
        self.draft.moved_ms.is_some()
    }

    /// The run of this frame alone.
    pub fn run(&self) -> Run {
        Run {
            partition: self.draft.partition,
            base_offset: self.draft.base_offset,
            end_offset: self.end_offset(),
            lsn: self.lsn,
            disk_len: self.disk_len,
            max_timestamp: self.draft.max_timestamp,
            append_ms: self.append_ms,
        }
    }
}

/// Consecutive frames of one partition written by one group: what one index entry points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Partition of every frame in it.
    pub partition: PartitionId,
    /// First offset.
    pub base_offset: Offset,
    /// Offset after the last one.
    pub end_offset: Offset,
    /// Position of the first frame.
    pub lsn: Lsn,
    /// Bytes on disk of all its frames.
    pub disk_len: u32,
    /// Greatest record timestamp, milliseconds.
    pub max_timestamp: i64,
    /// Append time, milliseconds.
    pub append_ms: i64,
}

/// A run is closed when it would pass this many bytes, so that one read stays bounded.
pub const RUN_BYTES_MAX: u32 = 1 << 20;

impl Run {
    /// Position after its last frame.
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.0.saturating_add(u64::from(self.disk_len)))
    }

    /// True if `next` begins where this run ends, in the log and in the partition.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        self.partition == next.partition
            && self.end_offset == next.base_offset
            && self.end() == next.lsn
    }

    /// Adds the frames of `next`, which follows.
    pub fn join(&mut self, next: &Self) {
        self.end_offset = next.end_offset;
        self.disk_len = self.disk_len.saturating_add(next.disk_len);
        self.max_timestamp = self.max_timestamp.max(next.max_timestamp);
    }
}

/// Joins neighbouring record frames of one partition into runs, in order of position. Moved
/// frames are left out.
pub fn runs(frames: &[WrittenFrame]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for frame in frames {
        if !frame.draft.kind.is_records() || frame.is_moved() {
            continue;
        }
        let run = frame.run();
        match runs.last_mut() {
            Some(last)
                if last.is_followed_by(&run)
                    && last.disk_len.saturating_add(run.disk_len) <= RUN_BYTES_MAX =>
            {
                last.join(&run);
            }
            _ => runs.push(run),
        }
    }
    runs
}

/// The runs of moved frames, one per chain: each took the place of one index entry (rules 2.7).
/// A chain that lacks frames gives runs that are no such entry.
pub fn moved_runs(frames: &[WrittenFrame]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut goes_on = false;
    for frame in frames {
        if !frame.is_moved() {
            goes_on = false;
            continue;
        }
        let run = frame.run();
        match runs.last_mut() {
            Some(last) if goes_on && last.is_followed_by(&run) => last.join(&run),
            _ => runs.push(run),
        }
        goes_on = frame.more;
    }
    runs
}
