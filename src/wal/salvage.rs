//! The frames of a damaged run that are still good: what follows a bad frame is found again at
//! multiples of 32 (rules 2.4), so that one bad frame costs the offsets of one frame.

use bytes::Bytes;

use crate::runtime::files::read_exact_at;
use crate::wal::files::Files;
use crate::wal::frame::{BODY_LEN_MAX, FrameHeader, HEADER_LEN};
use crate::wal::reader::take_frame;
use crate::wal::{Run, WrittenFrame};

/// Frames begin at multiples of this.
const STEP: usize = 32;

/// The good frames of `run` in order, with holes; none if its bytes cannot be read at all.
pub(crate) fn read_sound(files: &Files, log_id: u64, run: &Run) -> Vec<WrittenFrame> {
    let Ok(Some(lease)) = files.lease(run.lsn) else {
        return Vec::new();
    };
    if run.disk_len > BODY_LEN_MAX + 4096 {
        return Vec::new();
    }
    let mut buffer = vec![0; run.disk_len as usize];
    if read_exact_at(&*lease.file, &mut buffer, run.lsn.0 - lease.first).is_err() {
        return Vec::new();
    }
    drop(lease);
    scan(&Bytes::from(buffer), log_id, run)
}

fn scan(bytes: &Bytes, log_id: u64, run: &Run) -> Vec<WrittenFrame> {
    let mut frames = Vec::new();
    let mut at = 0;
    let mut offset = run.base_offset;
    while at < bytes.len() {
        let frame = good_frame(&bytes.slice(at..), log_id, run, run.lsn.0 + at as u64);
        match frame.filter(|frame| frame.draft.base_offset >= offset) {
            Some(frame) => {
                offset = frame.draft.base_offset + i64::from(frame.draft.record_count);
                at += frame.disk_len as usize;
                frames.push(frame);
            }
            None => at += STEP,
        }
    }
    frames
}

fn good_frame(bytes: &Bytes, log_id: u64, run: &Run, lsn: u64) -> Option<WrittenFrame> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    let header = FrameHeader::decode(header, log_id).ok()?;
    let end_offset = header.base_offset.checked_add(i64::from(header.record_count))?;
    let is_ours = header.lsn.0 == lsn
        && header.partition == run.partition
        && header.kind.is_records()
        && header.base_offset >= run.base_offset
        && end_offset <= run.end_offset;
    let len = (header.disk_len() as usize).min(bytes.len());
    if is_ours { take_frame(&header, &bytes.slice(..len)).ok() } else { None }
}
