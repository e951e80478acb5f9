//! The frame header: 96 bytes, all integers little-endian (rules 2.1).
//!
//! Owns: the bytes of one header, checksums, padding. Does not own: where frames lie.
//!
//! ```text
//!      0        4        8       12       16                24               32
//!      +--------+--------+--------+--------+-----------------+----------------+
//!      | magic  |head crc| length |body crc|       lsn       |     log id     |
//!      +--------+--------+--------+--------+-----------------+----------------+
//!     32       36       40                48                56               64
//!      +--------+--------+-----------------+-----------------+----------------+
//!      |  run   |partit. |   durable lsn   |    append ms    |  base offset   |
//!      +--------+--------+-----------------+-----------------+----------------+
//!     64                72       76       80    82 83 84    86               96
//!      +-----------------+--------+--------+-----+--+--+-----+----------------+
//!      |   producer id   | count  |  seq   |epoch|k |f | ext |    reserved    |
//!      +-----------------+--------+--------+-----+--+--+-----+----------------+
//!     96
//!      | ext ... | payload ... | zeros up to a multiple of 32 |
//! ```
//!
//! `head crc` is the CRC-32C of bytes 8 to 96; `length` counts extension and payload; `body crc`
//! is the CRC-32C of both as they lie on disk; `k` is the kind, `f` the flags, `ext` the length of
//! the extension. Reserved bytes are zero.

use crc_fast::{CrcAlgorithm, Digest};

use crate::types::{LEADER_EPOCH, Lsn, Offset, OffsetRange, PartitionId};
use crate::wal::{FrameDraft, FrameKind};

/// Bytes of a header.
pub const HEADER_LEN: usize = 96;

/// Frames start at multiples of this many bytes.
pub const FRAME_ALIGN: u64 = 32;

/// Most bytes of extension and payload in one frame.
pub const BODY_LEN_MAX: u32 = 128 << 20;

/// Leading bytes of a record batch that the log fills in: base offset, length, leader epoch.
pub(crate) const PREFIX_LEN: usize = 16;

const MAGIC: [u8; 4] = *b"FLW1";
const FLAG_MORE: u8 = 1;
const FLAG_MOVED: u8 = 2;

/// The header of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of extension and payload.
    pub body_len: u32,
    /// CRC-32C of extension and payload.
    pub body_crc: u32,
    /// Position of the frame.
    pub lsn: Lsn,
    /// The random id of the log.
    pub log_id: u64,
    /// Which opening of the log wrote it.
    pub run: u32,
    /// Partition of a record batch.
    pub partition: PartitionId,
    /// Everything below was durable when the frame was written.
    pub durable: Lsn,
    /// Broker time of the append, milliseconds.
    pub append_ms: i64,
    /// First offset of a record batch.
    pub base_offset: Offset,
    /// Producer id, or -1.
    pub producer_id: i64,
    /// Records in the batch.
    pub record_count: u32,
    /// Base sequence, or -1.
    pub base_sequence: i32,
    /// Producer epoch, or -1.
    pub producer_epoch: i16,
    /// What the frame holds.
    pub kind: FrameKind,
    /// True if the next frame belongs to the same chain.
    pub more: bool,
    /// True if the frame is a copy of one in an older file (rules 2.7).
    pub moved: bool,
    /// Bytes of the extension.
    pub ext_len: u16,
}

/// Why bytes are no frame header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderError {
    /// Magic, checksum or log id is wrong: not a frame of this log.
    NotAFrame,
    /// A frame of this log that a newer version wrote.
    Unsupported(String),
}

impl FrameHeader {
    /// The header as bytes, checksum included.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let flags = if self.more { FLAG_MORE } else { 0 } | if self.moved { FLAG_MOVED } else { 0 };
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.run.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.partition.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.append_ms.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.base_offset.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.producer_id.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[76..80].copy_from_slice(&self.base_sequence.to_le_bytes());
        bytes[80..82].copy_from_slice(&self.producer_epoch.to_le_bytes());
        bytes[82] = self.kind as u8;
        bytes[83] = flags;
        bytes[84..86].copy_from_slice(&self.ext_len.to_le_bytes());
        let crc = crc32c(&[&bytes[8..]]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header of the log `log_id`. Checks magic, checksum and lengths, not the position.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn decode(bytes: &[u8; HEADER_LEN], log_id: u64) -> Result<Self, HeaderError> {
        if bytes[0..4] != MAGIC
            || u32::from_le_bytes(field(bytes, 4)) != crc32c(&[&bytes[8..]])
            || u64::from_le_bytes(field(bytes, 24)) != log_id
        {
            return Err(HeaderError::NotAFrame);
        }
        let flags = bytes[83];
        if flags & !(FLAG_MORE | FLAG_MOVED) != 0 || bytes[86..].iter().any(|byte| *byte != 0) {
            return Err(HeaderError::Unsupported(format!("unknown frame flags {flags:#04x}")));
        }
        let header = Self {
            body_len: u32::from_le_bytes(field(bytes, 8)),
            body_crc: u32::from_le_bytes(field(bytes, 12)),
            lsn: Lsn(u64::from_le_bytes(field(bytes, 16))),
            log_id,
            run: u32::from_le_bytes(field(bytes, 32)),
            partition: PartitionId(u32::from_le_bytes(field(bytes, 36))),
            durable: Lsn(u64::from_le_bytes(field(bytes, 40))),
            append_ms: i64::from_le_bytes(field(bytes, 48)),
            base_offset: i64::from_le_bytes(field(bytes, 56)),
            producer_id: i64::from_le_bytes(field(bytes, 64)),
            record_count: u32::from_le_bytes(field(bytes, 72)),
            base_sequence: i32::from_le_bytes(field(bytes, 76)),
            producer_epoch: i16::from_le_bytes(field(bytes, 80)),
            kind: kind(bytes[82])?,
            more: flags & FLAG_MORE != 0,
            moved: flags & FLAG_MOVED != 0,
            ext_len: u16::from_le_bytes(field(bytes, 84)),
        };
        if header.body_len > BODY_LEN_MAX || u32::from(header.ext_len) > header.body_len {
            return Err(HeaderError::Unsupported(format!(
                "frame of {} bytes with an extension of {}",
                header.body_len, header.ext_len
            )));
        }
        Ok(header)
    }

    /// Bytes on disk: header, body and padding.
    pub fn disk_len(&self) -> u32 {
        disk_len(self.body_len)
    }

    /// Position after the frame.
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.0.saturating_add(u64::from(self.disk_len())))
    }

    /// The offsets of a record batch; none for other kinds.
    pub fn records(&self) -> Option<(PartitionId, OffsetRange)> {
        let end = self.base_offset.saturating_add(i64::from(self.record_count));
        let range = OffsetRange { base: self.base_offset, end };
        self.kind.is_records().then_some((self.partition, range))
    }
}

/// Bytes on disk of a frame whose extension and payload have `body_len` bytes.
pub(crate) fn disk_len(body_len: u32) -> u32 {
    (HEADER_LEN as u32 + body_len.min(BODY_LEN_MAX)).next_multiple_of(FRAME_ALIGN as u32)
}

/// Bytes of extension and payload of a draft.
pub(crate) fn body_len(draft: &FrameDraft) -> u64 {
    draft.ext.len() as u64 + draft.payload.len() as u64
}

/// The leading bytes of a record batch as they lie on disk: `base_offset`, the length as it came,
/// and our leader epoch. All are outside of the CRC of the batch.
pub(crate) fn patched_prefix(payload: &[u8], base_offset: Offset) -> Option<[u8; PREFIX_LEN]> {
    let mut prefix = *payload.first_chunk::<PREFIX_LEN>()?;
    prefix[0..8].copy_from_slice(&base_offset.to_be_bytes());
    prefix[12..16].copy_from_slice(&LEADER_EPOCH.to_be_bytes());
    Some(prefix)
}

/// Greatest record timestamp of a batch, from its header (Kafka message format v2).
pub(crate) fn max_timestamp(payload: &[u8]) -> i64 {
    payload
        .get(35..43)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(-1, |bytes: [u8; 8]| i64::from_be_bytes(bytes))
}

/// CRC-32C (Castagnoli) of the concatenation of `parts`.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    // The crate gives every width as u64; a 32-bit sum is in the low half.
    digest.finalize() as u32
}

/// True if `bytes` start as a frame does: a cheap look before the checksum.
pub(crate) fn has_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Where in `bytes` the first aligned frame may start; `bytes` begin at an aligned position.
pub(crate) fn find_magic(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find_iter(bytes, &MAGIC).find(|at| at.is_multiple_of(FRAME_ALIGN as usize))
}

fn field<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

fn kind(byte: u8) -> Result<FrameKind, HeaderError> {
    Ok(match byte {
        1 => FrameKind::Records,
        2 => FrameKind::HttpRecords,
        3 => FrameKind::State,
        4 => FrameKind::Durable,
        5 => FrameKind::Seal,
        other => {
            return Err(HeaderError::Unsupported(format!("unknown frame kind {other}")));
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> FrameHeader {
        FrameHeader {
            body_len: 0x0102,
            body_crc: 0x0304_0506,
            lsn: Lsn(0x60),
            log_id: 0x1122_3344_5566_7788,
            run: 7,
            partition: PartitionId(9),
            durable: Lsn(0x40),
            append_ms: 1_700_000_000_000,
            base_offset: 42,
            producer_id: -1,
            record_count: 3,
            base_sequence: -1,
            producer_epoch: -1,
            kind: FrameKind::HttpRecords,
            more: true,
            moved: false,
            ext_len: 5,
        }
    }

    #[test]
    fn golden_bytes_of_a_header_never_change() {
        let expected = "464c5731".to_owned()
            + "43da7a82"
            + "0201000006050403"
            + "60000000000000008877665544332211"
            + "0700000009000000"
            + "40000000000000000068e5cf8b010000"
            + "2a00000000000000ffffffffffffffff"
            + "03000000ffffffffffff02010500"
            + "00000000000000000000";
        assert_eq!(hex::encode(sample().encode()), expected);
    }

    #[test]
    fn crc_is_castagnoli() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xE306_9283);
    }

    #[test]
    fn newer_kinds_are_named_and_foreign_logs_are_not_frames() {
        let id = sample().log_id;
        let mut bytes = sample().encode();
        assert_eq!(FrameHeader::decode(&bytes, id ^ 1), Err(HeaderError::NotAFrame));
        bytes[82] = 99;
        let crc = crc32c(&[&bytes[8..]]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let error = FrameHeader::decode(&bytes, id).unwrap_err();
        assert_eq!(error, HeaderError::Unsupported("unknown frame kind 99".into()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = sample().encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&bad, sample().log_id).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            numbers in any::<(u64, u64, u32, u32, u64, i64, i64, i64)>(),
            small in any::<(u32, i32, i16, bool, bool, u16, u32)>(),
            kind_number in 1u8..=5,
        ) {
            let header = FrameHeader {
                body_len: u32::from(small.5) + small.6 % (1 << 26),
                body_crc: numbers.2,
                lsn: Lsn(numbers.0),
                log_id: numbers.1,
                run: numbers.3,
                partition: PartitionId(numbers.2 ^ numbers.3),
                durable: Lsn(numbers.4),
                append_ms: numbers.5,
                base_offset: numbers.6,
                producer_id: numbers.7,
                record_count: small.0,
                base_sequence: small.1,
                producer_epoch: small.2,
                kind: kind(kind_number).unwrap(),
                more: small.3,
                moved: small.4,
                ext_len: small.5,
            };
            prop_assert_eq!(FrameHeader::decode(&header.encode(), header.log_id), Ok(header));
        }

        #[test]
        fn decoding_random_bytes_never_panics(
            mut bytes in any::<[[u8; 32]; 3]>().prop_map(|parts| {
                let mut all = [0u8; HEADER_LEN];
                for (to, from) in all.chunks_mut(32).zip(parts) {
                    to.copy_from_slice(&from);
                }
                all
            }),
            log_id in any::<u64>(),
        ) {
            prop_assert!(FrameHeader::decode(&bytes, log_id).is_err());
            // The same with a valid frame around the random fields.
            bytes[0..4].copy_from_slice(&MAGIC);
            bytes[24..32].copy_from_slice(&log_id.to_le_bytes());
            let crc = crc32c(&[&bytes[8..]]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            if let Ok(header) = FrameHeader::decode(&bytes, log_id) {
                let _ = (header.disk_len(), header.end(), header.records());
            }
        }
    }
}
