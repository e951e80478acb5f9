//! Frames of the write-ahead log.

use bytes::Bytes;

use crate::wal::ext;
use crate::wal::frame::{self, FrameHeader, HEADER_LEN, HeaderError};
use crate::wal::reader::take_frame;

/// Where the checksums stand in a header, and the length of the body.
const AT_HEAD_CRC: usize = 4;
const AT_BODY_LEN: usize = 8;
const AT_BODY_CRC: usize = 12;
const AT_LOG_ID: usize = 24;

/// A frame as it lies on disk, tried as it is and with the checksums that it should have.
///
/// # Panics
/// If a property does not hold.
pub fn wal_frame(data: &[u8]) {
    extension(data);
    if let Some(at) = frame::find_magic(data) {
        assert!(frame::has_magic(&data[at..]) && at.is_multiple_of(32));
    }
    let Some(head) = data.first_chunk::<HEADER_LEN>() else { return };
    framed(head, data);
    let mut good = data.to_vec();
    let body = frame::crc32c(&[&data[HEADER_LEN..]]);
    let length = u32::try_from(data.len() - HEADER_LEN).unwrap_or(u32::MAX);
    good[..4].copy_from_slice(b"FLW1");
    good[AT_BODY_LEN..AT_BODY_LEN + 4].copy_from_slice(&length.to_le_bytes());
    good[AT_BODY_CRC..AT_BODY_CRC + 4].copy_from_slice(&body.to_le_bytes());
    let crc = frame::crc32c(&[&good[AT_BODY_LEN..HEADER_LEN]]);
    good[AT_HEAD_CRC..AT_HEAD_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    let head = *good.first_chunk::<HEADER_LEN>().expect("it is as long as it was");
    framed(&head, &good);
}

fn framed(head: &[u8; HEADER_LEN], bytes: &[u8]) {
    let log_id = u64::from_le_bytes(std::array::from_fn(|i| head[AT_LOG_ID + i]));
    assert_eq!(FrameHeader::decode(head, !log_id), Err(HeaderError::NotAFrame));
    let Ok(header) = FrameHeader::decode(head, log_id) else { return };
    assert_eq!(header.encode(), *head, "the header does not survive a round trip");
    assert!(header.body_len <= frame::BODY_LEN_MAX);
    assert!(u32::from(header.ext_len) <= header.body_len);
    assert!(header.disk_len() as usize >= HEADER_LEN + header.body_len as usize);
    assert!(header.end() > header.lsn || header.lsn.0 > u64::MAX - (1 << 28));
    if let Some((_, range)) = header.records() {
        assert!(range.end >= range.base);
    }
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(taken) = take_frame(&header, &bytes) else { return };
    let draft = &taken.draft;
    assert_eq!(draft.ext.len(), usize::from(header.ext_len));
    assert_eq!(frame::body_len(draft), u64::from(header.body_len));
    assert_eq!(frame::crc32c(&[&draft.ext, &draft.payload]), header.body_crc);
    extension(&draft.ext);
    if let Some(prefix) = frame::patched_prefix(&draft.payload, 42) {
        assert_eq!(prefix[8..12], draft.payload[8..12], "the length of the batch changed");
    }
}

/// Tags that every reader must know, and this one does.
const REQUIRED: [u8; 3] = [ext::IDEMPOTENCY, ext::CHANNEL, ext::EVENT_IDS];

/// A checked extension is exactly its entries.
fn extension(bytes: &[u8]) {
    let taken: usize = ext::entries(bytes).map(|(_, value)| 3 + value.len()).sum();
    assert!(taken <= bytes.len());
    if ext::check(bytes).is_err() {
        return;
    }
    let again: Vec<u8> = ext::entries(bytes)
        .flat_map(|(tag, value)| ext::entry(tag, value).expect("it was an entry"))
        .collect();
    assert_eq!(again, bytes);
    for (tag, _) in ext::entries(bytes) {
        assert!(tag & 0x80 == 0 || REQUIRED.contains(&tag), "{tag:#04x} is unknown");
        assert!(ext::find(bytes, tag).is_some());
    }
}
