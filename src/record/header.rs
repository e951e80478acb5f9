//! The fixed 61-byte header of a record batch and all checks of a produced batch that need no
//! decompression (source: `DefaultRecordBatch`, `ProduceRequest.validateRecords`,
//! `LogValidator.validateBatch`).
//!
//! ```text
//!  0 base_offset i64   8 length i32 (bytes after this field)   12 leader_epoch i32   16 magic i8
//! 17 crc u32 (CRC-32C from 21 on)   21 attributes i16   23 last_offset_delta i32
//! 27 base_timestamp i64   35 max_timestamp i64   43 producer_id i64   51 producer_epoch i16
//! 53 base_sequence i32   57 record_count i32   61 records
//! ```

use crc_fast::CrcAlgorithm;

use crate::record::codec::{self, Codec};
use crate::types::Offset;

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 61;

/// Bytes before the part that `length` counts.
pub const LENGTH_PREFIX_BYTES: usize = 12;

/// First byte that the CRC covers.
pub const CRC_FROM: usize = 21;

/// The only message format that Floe stores.
pub const MAGIC: i8 = 2;

/// Fewest bytes of one record: length, attributes, two deltas, key, value, header count.
pub const RECORD_BYTES_MIN: usize = 7;

pub(crate) const AT_LENGTH: usize = 8;
pub(crate) const AT_LEADER_EPOCH: usize = 12;
pub(crate) const AT_MAGIC: usize = 16;
pub(crate) const AT_CRC: usize = 17;
pub(crate) const AT_ATTRIBUTES: usize = 21;
pub(crate) const AT_LAST_OFFSET_DELTA: usize = 23;
pub(crate) const AT_BASE_TIMESTAMP: usize = 27;
pub(crate) const AT_MAX_TIMESTAMP: usize = 35;
pub(crate) const AT_PRODUCER_ID: usize = 43;
pub(crate) const AT_PRODUCER_EPOCH: usize = 51;
pub(crate) const AT_BASE_SEQUENCE: usize = 53;
pub(crate) const AT_RECORD_COUNT: usize = 57;

/// Attribute bits 0 to 2: the codec.
pub(crate) const ATTRIBUTE_CODEC: i16 = 0b0111;
/// Attribute bit 3: `LogAppendTime`.
pub(crate) const ATTRIBUTE_LOG_APPEND_TIME: i16 = 1 << 3;
/// Attribute bit 4: part of a transaction.
pub(crate) const ATTRIBUTE_TRANSACTIONAL: i16 = 1 << 4;
/// Attribute bit 5: a control batch.
pub(crate) const ATTRIBUTE_CONTROL: i16 = 1 << 5;

/// Why bytes are no batch of format 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than the header or than `length` says.
    #[error("the batch is cut off: {have} of {need} bytes")]
    Truncated {
        /// Bytes that are there.
        have: usize,
        /// Bytes that are needed.
        need: usize,
    },
    /// Another message format.
    #[error("message format {0} is not supported, only 2")]
    Magic(i8),
    /// A length that no batch can have.
    #[error("batch length {0} is impossible")]
    Length(i32),
}

/// All fields of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// First offset.
    pub base_offset: Offset,
    /// Bytes after the first 12.
    pub length: i32,
    /// Epoch of the leader that wrote it; what clients send there means nothing.
    pub leader_epoch: i32,
    /// CRC-32C over everything from byte 21 on.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control.
    pub attributes: i16,
    /// Offset of the last record less `base_offset`.
    pub last_offset_delta: i32,
    /// Timestamp that the deltas of records add to, milliseconds.
    pub base_timestamp: i64,
    /// Greatest timestamp, or the append time with `LogAppendTime`, milliseconds.
    pub max_timestamp: i64,
    /// Producer id, or -1.
    pub producer_id: i64,
    /// Producer epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header of the batch at the start of `bytes`, which may hold more than it. The
    /// CRC is not checked.
    ///
    /// # Errors
    /// [`HeaderError`] when there is no whole batch of format 2.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        // The magic stands at the same place in all formats: an old one is named as such even
        // where it is shorter than our header.
        if let Some(&magic) = bytes.get(AT_MAGIC)
            && magic.cast_signed() != MAGIC
        {
            return Err(HeaderError::Magic(magic.cast_signed()));
        }
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(HeaderError::Truncated { have: bytes.len(), need: HEADER_BYTES });
        };
        let header = Self::of(header);
        let size = usize::try_from(header.length)
            .ok()
            .and_then(|length| length.checked_add(LENGTH_PREFIX_BYTES))
            .filter(|size| *size >= HEADER_BYTES)
            .ok_or(HeaderError::Length(header.length))?;
        if bytes.len() < size {
            return Err(HeaderError::Truncated { have: bytes.len(), need: size });
        }
        Ok(header)
    }

    fn of(bytes: &[u8; HEADER_BYTES]) -> Self {
        let i16_at = |at: usize| i16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let i32_at = |at: usize| i32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let i64_at = |at: usize| i64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self {
            base_offset: i64_at(0),
            length: i32_at(AT_LENGTH),
            leader_epoch: i32_at(AT_LEADER_EPOCH),
            crc: i32_at(AT_CRC).cast_unsigned(),
            attributes: i16_at(AT_ATTRIBUTES),
            last_offset_delta: i32_at(AT_LAST_OFFSET_DELTA),
            base_timestamp: i64_at(AT_BASE_TIMESTAMP),
            max_timestamp: i64_at(AT_MAX_TIMESTAMP),
            producer_id: i64_at(AT_PRODUCER_ID),
            producer_epoch: i16_at(AT_PRODUCER_EPOCH),
            base_sequence: i32_at(AT_BASE_SEQUENCE),
            record_count: i32_at(AT_RECORD_COUNT),
        }
    }

    /// Size of the whole batch in bytes, at least [`HEADER_BYTES`].
    pub fn size_bytes(&self) -> usize {
        usize::try_from(self.length).unwrap_or(0) + LENGTH_PREFIX_BYTES
    }

    /// The codec, or its unknown number.
    ///
    /// # Errors
    /// The number when no codec has it.
    pub fn codec(&self) -> Result<Codec, u8> {
        Codec::from_number((self.attributes & ATTRIBUTE_CODEC) as u8)
    }

    /// True if the timestamp of every record is `max_timestamp` (`LogAppendTime`).
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & ATTRIBUTE_LOG_APPEND_TIME != 0
    }

    /// True if the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & ATTRIBUTE_TRANSACTIONAL != 0
    }

    /// True if the batch holds a commit or abort marker instead of records.
    pub fn is_control(&self) -> bool {
        self.attributes & ATTRIBUTE_CONTROL != 0
    }

    /// True if an idempotent producer sent it (KIP-98).
    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }

    /// Offset of the last record, inclusive.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }
}

/// CRC-32C of the batch as its header should have it. `batch` is one whole batch.
pub fn crc_of(batch: &[u8]) -> u32 {
    let covered = batch.get(CRC_FROM..).unwrap_or_default();
    // A CRC of 32 bits in a u64.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, covered) as u32
}

/// What a topic asks of produced batches.
#[derive(Debug, Clone, Copy)]
pub struct ProduceRules {
    /// `max.message.bytes`, compared with the whole batch.
    pub max_message_bytes: u32,
    /// `message.timestamp.type` is `LogAppendTime`: timestamps of clients are not looked at.
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// Broker time, milliseconds.
    pub now_ms: i64,
}

/// Why a produced batch is refused; the Kafka error of each stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProduceRefusal {
    /// No bytes at all (`INVALID_RECORD`).
    #[error("the partition has no records")]
    Empty,
    /// Another message format (`INVALID_RECORD`).
    #[error("message format {0} is not supported, only 2")]
    Magic(i8),
    /// Cut off, or an impossible length (`CORRUPT_MESSAGE`).
    #[error(transparent)]
    Malformed(HeaderError),
    /// Bytes follow the batch: more than one batch, or junk (`INVALID_RECORD`).
    #[error("{bytes} bytes follow the batch, exactly one batch is allowed")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// `MESSAGE_TOO_LARGE`.
    #[error("the batch has {bytes} bytes, allowed are {limit}")]
    TooLarge {
        /// Size of the batch.
        bytes: usize,
        /// `max.message.bytes`.
        limit: u32,
    },
    /// `CORRUPT_MESSAGE`, which clients send again.
    #[error("CRC is {found:08x}, the batch says {stored:08x}")]
    Crc {
        /// As in the header.
        stored: u32,
        /// As computed.
        found: u32,
    },
    /// `INVALID_RECORD`.
    #[error("base offset is {0}, a client must send 0")]
    BaseOffset(Offset),
    /// The count is not positive, disagrees with the last offset delta, or cannot fit the body
    /// (`INVALID_RECORD`).
    #[error("record count {count} does not fit (last offset delta {last_offset_delta})")]
    Count {
        /// Record count of the header.
        count: i32,
        /// Last offset delta of the header.
        last_offset_delta: i32,
    },
    /// No codec has this number (`UNSUPPORTED_COMPRESSION_TYPE`).
    #[error("compression type {0} is unknown")]
    Codec(u8),
    /// Only brokers write control batches (`INVALID_RECORD`).
    #[error("a client may not write a control batch")]
    Control,
    /// A producer id without sequence or epoch (`INVALID_RECORD`).
    #[error("producer {producer_id} sent epoch {epoch} and sequence {sequence}")]
    Sequence {
        /// Producer id.
        producer_id: i64,
        /// Producer epoch.
        epoch: i16,
        /// Base sequence.
        sequence: i32,
    },
    /// A client set `LogAppendTime` on a topic that has `CreateTime` (`INVALID_TIMESTAMP`).
    #[error("a client may not set the timestamp type LogAppendTime")]
    TimestampType,
    /// A timestamp outside `message.timestamp.before.max.ms` and `after.max.ms`
    /// (`INVALID_TIMESTAMP`).
    #[error("timestamp {timestamp} is outside the allowed range around {now_ms}")]
    Timestamp {
        /// The timestamp, milliseconds.
        timestamp: i64,
        /// Broker time, milliseconds.
        now_ms: i64,
    },
}

/// Checks the bytes of one partition of a produce request: exactly one good batch. Nothing is
/// decompressed: timestamps are those of the header (greatest, and base, which clients set to
/// the first record's).
///
/// # Errors
/// The first rule that is broken, in the order of [`ProduceRefusal`].
pub fn check_produced(bytes: &[u8], rules: &ProduceRules) -> Result<BatchHeader, ProduceRefusal> {
    if bytes.is_empty() {
        return Err(ProduceRefusal::Empty);
    }
    let header = BatchHeader::parse(bytes).map_err(|error| match error {
        HeaderError::Magic(magic) => ProduceRefusal::Magic(magic),
        other => ProduceRefusal::Malformed(other),
    })?;
    let size = header.size_bytes();
    if bytes.len() != size {
        return Err(ProduceRefusal::Trailing { bytes: bytes.len() - size });
    }
    if size > rules.max_message_bytes as usize {
        return Err(ProduceRefusal::TooLarge { bytes: size, limit: rules.max_message_bytes });
    }
    let found = crc_of(bytes);
    if found != header.crc {
        return Err(ProduceRefusal::Crc { stored: header.crc, found });
    }
    check_fields(&header)?;
    check_timestamps(&header, rules)?;
    Ok(header)
}

fn check_fields(header: &BatchHeader) -> Result<(), ProduceRefusal> {
    if header.base_offset != 0 {
        return Err(ProduceRefusal::BaseOffset(header.base_offset));
    }
    let count = header.record_count;
    let codec = header.codec().map_err(ProduceRefusal::Codec)?;
    let body = header.size_bytes() - HEADER_BYTES;
    let room = if codec == Codec::None { body } else { codec::CAP_BYTES_MAX };
    let fits = usize::try_from(count).is_ok_and(|count| count <= room / RECORD_BYTES_MIN);
    if count <= 0 || header.last_offset_delta != count - 1 || !fits {
        return Err(ProduceRefusal::Count { count, last_offset_delta: header.last_offset_delta });
    }
    if header.is_control() {
        return Err(ProduceRefusal::Control);
    }
    if header.has_producer() && (header.base_sequence < 0 || header.producer_epoch < 0) {
        return Err(ProduceRefusal::Sequence {
            producer_id: header.producer_id,
            epoch: header.producer_epoch,
            sequence: header.base_sequence,
        });
    }
    Ok(())
}

/// The rule of `message.timestamp.before.max.ms` and `after.max.ms`, for every way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampBounds {
    /// `message.timestamp.before.max.ms`.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub after_max_ms: i64,
    /// Broker time, milliseconds.
    pub now_ms: i64,
}

impl TimestampBounds {
    /// True if `timestamp` lies too far before the broker's time. -1 is "no timestamp" (source:
    /// `RecordBatch.NO_TIMESTAMP`) and always within bounds.
    pub fn is_too_early(&self, timestamp: i64) -> bool {
        timestamp != -1 && self.now_ms.saturating_sub(timestamp) > self.before_max_ms
    }

    /// True if `timestamp` lies too far after the broker's time.
    pub fn is_too_late(&self, timestamp: i64) -> bool {
        timestamp != -1 && timestamp.saturating_sub(self.now_ms) > self.after_max_ms
    }
}

fn check_timestamps(header: &BatchHeader, rules: &ProduceRules) -> Result<(), ProduceRefusal> {
    if rules.log_append_time {
        return Ok(());
    }
    if header.is_log_append_time() {
        return Err(ProduceRefusal::TimestampType);
    }
    let now_ms = rules.now_ms;
    let refused = |timestamp| Err(ProduceRefusal::Timestamp { timestamp, now_ms });
    let bounds = TimestampBounds {
        before_max_ms: rules.timestamp_before_max_ms,
        after_max_ms: rules.timestamp_after_max_ms,
        now_ms,
    };
    let max = header.max_timestamp;
    if bounds.is_too_late(max) {
        return refused(max);
    }
    let base = header.base_timestamp;
    if bounds.is_too_early(base) {
        return refused(base);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
