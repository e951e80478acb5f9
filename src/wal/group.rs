//! Laying out frames and writing them: one vectored write per group, payloads never copied.
//!
//! Owns: the order inside a group, headers and checksums of new frames. Does not own: when a
//! group is closed (see `sequencer`), syncing (see `sync`).

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::types::{Lsn, PartitionId};
use crate::wal::files::{OpenFile, WalFile};
use crate::wal::frame::{
    FRAME_ALIGN, FrameHeader, HEADER_LEN, PREFIX_LEN, body_len, crc32c, disk_len, patched_prefix,
};
use crate::wal::tail::Tail;
use crate::wal::{Ack, Done, FrameDraft, FrameKind, Publish, Request, WrittenFrame};

const PADDING: [u8; FRAME_ALIGN as usize] = [0; FRAME_ALIGN as usize];

/// Bytes of a frame without body: seals and marks of the durable end.
pub(crate) const CONTROL_LEN: u64 = HEADER_LEN as u64;

/// The file that is written to.
pub(crate) struct Current {
    pub(crate) file: Arc<OpenFile>,
    /// Position after the room in it.
    pub(crate) end: u64,
    /// Append time of its first frame that is not a mark, milliseconds.
    pub(crate) since_ms: Option<i64>,
    /// Its unfinished last block.
    pub(crate) tail: Tail,
}

/// One step of making a group durable, in order.
pub(crate) enum SyncStep {
    /// The frames in this file.
    File(Arc<OpenFile>),
    /// The name of a file that was just taken into use.
    Folder,
}

/// What goes from the sequencer to the sync thread.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) steps: Vec<SyncStep>,
    pub(crate) frames: Vec<WrittenFrame>,
    pub(crate) answers: Vec<(Done, Ack)>,
    /// Position after everything in it.
    pub(crate) end: Lsn,
    /// Bytes written.
    pub(crate) bytes: u64,
    /// Files that are sealed once it is durable.
    pub(crate) sealed: Vec<WalFile>,
    /// Told when it is durable.
    pub(crate) flushed: Option<oneshot::Sender<()>>,
}

impl Group {
    /// True if nobody would notice it.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.answers.is_empty() && self.flushed.is_none()
    }

    /// True if somebody waits for its sync after [`Group::announce`]: who changes state, who asked
    /// for a sync, or the file after a full one.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.answers.is_empty() || self.flushed.is_some() || !self.sealed.is_empty()
    }

    /// Moves high watermarks, then tells those who wait for no more than that.
    pub(crate) fn announce(&mut self, publish: &dyn Publish) {
        if !self.frames.is_empty() {
            publish.readable(&self.frames);
        }
        for (done, ack) in std::mem::take(&mut self.answers) {
            match done {
                Done::Logged(tell) | Done::Unawaited(tell) => tell(ack),
                Done::Applied(_) => self.answers.push((done, ack)),
            }
        }
    }
}

/// What every frame of one opening of the log has in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) log_id: u64,
    pub(crate) run: u32,
}

/// Frames that have positions but are not written yet.
#[derive(Default)]
pub(crate) struct Layout {
    items: Vec<Item>,
    bytes: u64,
}

struct Item {
    header: [u8; HEADER_LEN],
    prefix: Option<[u8; PREFIX_LEN]>,
    frame: WrittenFrame,
}

/// Bytes on disk of all frames of a request.
pub(crate) fn request_len(frames: &[FrameDraft]) -> u64 {
    frames
        .iter()
        .map(|frame| u64::from(disk_len(u32::try_from(body_len(frame)).unwrap_or(u32::MAX))))
        .sum()
}

/// Single record frames first, by partition, so that the frames of a partition lie together and
/// one index entry points at all of them; then chains, state and what is moved, in order of
/// arrival.
pub(crate) fn order(requests: &mut [Request]) {
    requests.sort_by_key(|request| match request.frames.as_slice() {
        [frame] if frame.kind.is_records() && frame.moved_ms.is_none() => (0, frame.partition),
        _ => (1, PartitionId(0)),
    });
}

/// A frame without body.
pub(crate) fn control(kind: FrameKind) -> FrameDraft {
    FrameDraft {
        kind,
        partition: PartitionId(0),
        base_offset: 0,
        record_count: 0,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        max_timestamp: -1,
        moved_ms: None,
        ext: bytes::Bytes::new(),
        payload: bytes::Bytes::new(),
    }
}

impl Layout {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the frames of one request at `position`, chained if there is more than one. Returns
    /// the position after them.
    pub(crate) fn push(
        &mut self,
        drafts: Vec<FrameDraft>,
        position: u64,
        identity: Identity,
        durable: Lsn,
        append_ms: i64,
    ) -> u64 {
        let mut position = position;
        let last = drafts.len().saturating_sub(1);
        for (at, draft) in drafts.into_iter().enumerate() {
            let prefix = if draft.kind.is_records() {
                patched_prefix(&draft.payload, draft.base_offset)
            } else {
                None
            };
            let append_ms = draft.moved_ms.unwrap_or(append_ms);
            // `Wal::append` has checked both lengths.
            let header = FrameHeader {
                body_len: u32::try_from(body_len(&draft)).unwrap_or(u32::MAX),
                body_crc: crc32c(&body_parts(&draft, prefix.as_ref())),
                lsn: Lsn(position),
                log_id: identity.log_id,
                run: identity.run,
                partition: draft.partition,
                durable,
                append_ms,
                base_offset: draft.base_offset,
                producer_id: draft.producer_id,
                record_count: draft.record_count,
                base_sequence: draft.base_sequence,
                producer_epoch: draft.producer_epoch,
                kind: draft.kind,
                more: at < last,
                moved: draft.moved_ms.is_some(),
                ext_len: u16::try_from(draft.ext.len()).unwrap_or(u16::MAX),
            };
            let disk_len = header.disk_len();
            let frame =
                WrittenFrame { lsn: Lsn(position), disk_len, append_ms, more: at < last, draft };
            position += u64::from(disk_len);
            self.bytes += u64::from(disk_len);
            self.items.push(Item { header: header.encode(), prefix, frame });
        }
        position
    }

    /// Writes everything with one call and moves the frames to `group`.
    pub(crate) fn write(&mut self, current: &mut Current, group: &mut Group) -> io::Result<()> {
        let Some(first) = self.items.first() else {
            return Ok(());
        };
        let start = first.frame.lsn.0;
        let mut parts = Vec::with_capacity(self.items.len() * 5);
        for item in &self.items {
            parts.push(&item.header[..]);
            let body = body_parts(&item.frame.draft, item.prefix.as_ref());
            let body_len: usize = body.iter().map(|part| part.len()).sum();
            parts.extend(body);
            parts.push(&PADDING[..item.frame.disk_len as usize - HEADER_LEN - body_len]);
        }
        let file = &current.file;
        let file_len = current.end - file.first;
        current.tail.write(&*file.file, &parts, start - file.first, file_len)?;
        group.bytes += self.bytes;
        self.bytes = 0;
        group.steps.push(SyncStep::File(Arc::clone(file)));
        for Item { mut frame, .. } in self.items.drain(..) {
            if matches!(frame.draft.kind, FrameKind::Durable | FrameKind::Seal) {
                continue;
            }
            if frame.draft.kind.is_records() {
                frame.draft.payload = bytes::Bytes::new();
            }
            group.frames.push(frame);
        }
        Ok(())
    }
}

fn body_parts<'a>(draft: &'a FrameDraft, prefix: Option<&'a [u8; PREFIX_LEN]>) -> [&'a [u8]; 3] {
    match prefix {
        Some(prefix) => [&draft.ext, prefix, &draft.payload[PREFIX_LEN..]],
        None => [&draft.ext, &draft.payload, &[]],
    }
}
