//! Reading frames of a running log: lease, one read, every check (rules 3.3).

use std::io;

use bytes::Bytes;

use crate::runtime::files::read_exact_at;
use crate::types::{Lsn, Offset, PartitionId};
use crate::wal::files::Files;
use crate::wal::frame::{FrameHeader, HEADER_LEN, crc32c, max_timestamp};
use crate::wal::{FrameDraft, Run, WrittenFrame};

/// Most bytes of one read: a single frame may be larger than a run.
const READ_LEN_MAX: u32 = crate::wal::frame::BODY_LEN_MAX + 4096;

/// Why frames could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No file holds the position: freed, or lost.
    #[error("no log file holds position {0}")]
    Absent(Lsn),
    /// The bytes are not the frame that the index says.
    #[error("frame at position {lsn} is corrupt: {reason}")]
    Corrupt {
        /// Position of the frame.
        lsn: Lsn,
        /// Which check failed.
        reason: String,
    },
    /// The disk failed.
    #[error("read of the log failed: {0}")]
    Io(io::Error),
}

pub(crate) fn read_run(
    files: &Files,
    log_id: u64,
    run: &Run,
) -> Result<Vec<WrittenFrame>, ReadError> {
    let lease = files.lease(run.lsn).map_err(ReadError::Io)?.ok_or(ReadError::Absent(run.lsn))?;
    if run.disk_len > READ_LEN_MAX {
        return Err(corrupt(run.lsn, "a run longer than any frame"));
    }
    let (mut buffer, length) = (Vec::new(), run.disk_len as usize);
    match lease.file.append_exact_at(&mut buffer, length, run.lsn.0 - lease.first) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(corrupt(run.lsn, "the file ends before it"));
        }
        Err(error) => return Err(ReadError::Io(error)),
    }
    drop(lease);
    let mut rest = Bytes::from(buffer);
    let mut frames = Vec::new();
    let mut lsn = run.lsn;
    let mut offset = run.base_offset;
    while !rest.is_empty() {
        let header = check_header(&rest, log_id, run, lsn, offset)?;
        let frame = rest.split_to((header.disk_len() as usize).min(rest.len()));
        let frame = take_frame(&header, &frame).map_err(|reason| corrupt(lsn, reason))?;
        offset += i64::from(header.record_count);
        lsn = header.end();
        frames.push(frame);
    }
    if offset != run.end_offset {
        return Err(corrupt(run.lsn, "its frames do not end at the offset of the index"));
    }
    Ok(frames)
}

/// Partition and base offset in the header of the record frame at `lsn`; none if there is no such
/// header, or it cannot be read.
pub(crate) fn key_at(files: &Files, log_id: u64, lsn: Lsn) -> Option<(PartitionId, Offset)> {
    let lease = files.lease(lsn).ok()??;
    let mut bytes = [0; HEADER_LEN];
    read_exact_at(&*lease.file, &mut bytes, lsn.0 - lease.first).ok()?;
    let header = FrameHeader::decode(&bytes, log_id).ok()?;
    (header.lsn == lsn && header.kind.is_records())
        .then_some((header.partition, header.base_offset))
}

/// The frame that `bytes` (header to padding) hold, its body checked.
pub(crate) fn take_frame(
    header: &FrameHeader,
    bytes: &Bytes,
) -> Result<WrittenFrame, &'static str> {
    let body_end = HEADER_LEN + header.body_len as usize;
    if bytes.len() < body_end {
        return Err("it is cut off");
    }
    let body = bytes.slice(HEADER_LEN..body_end);
    if crc32c(&[&body]) != header.body_crc {
        return Err("its body checksum does not match");
    }
    let ext = body.slice(..usize::from(header.ext_len));
    let payload = body.slice(usize::from(header.ext_len)..);
    let max_timestamp = if header.kind.is_records() { max_timestamp(&payload) } else { -1 };
    Ok(WrittenFrame {
        lsn: header.lsn,
        disk_len: header.disk_len(),
        append_ms: header.append_ms,
        more: header.more,
        draft: FrameDraft {
            kind: header.kind,
            partition: header.partition,
            base_offset: header.base_offset,
            record_count: header.record_count,
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            max_timestamp,
            moved_ms: header.moved.then_some(header.append_ms),
            ext,
            payload,
        },
    })
}

fn check_header(
    bytes: &[u8],
    log_id: u64,
    run: &Run,
    lsn: Lsn,
    offset: i64,
) -> Result<FrameHeader, ReadError> {
    let header = bytes
        .first_chunk::<HEADER_LEN>()
        .and_then(|bytes| FrameHeader::decode(bytes, log_id).ok())
        .ok_or_else(|| corrupt(lsn, "its header is no frame header of this log"))?;
    if header.lsn != lsn {
        return Err(corrupt(lsn, &format!("it says it is at {}", header.lsn)));
    }
    if header.partition != run.partition || !header.kind.is_records() {
        return Err(corrupt(lsn, &format!("it holds no records of partition {}", run.partition)));
    }
    if header.base_offset != offset {
        return Err(corrupt(
            lsn,
            &format!("its base offset is {}, the index says {offset}", header.base_offset),
        ));
    }
    Ok(header)
}

fn corrupt(lsn: Lsn, reason: &str) -> ReadError {
    ReadError::Corrupt { lsn, reason: reason.to_owned() }
}
