//! Builds record batches (HTTP requests become batches) and stamps append times.

use bytes::Bytes;

use crate::record::codec::{self, Codec, CodecError};
use crate::record::header::{
    self, AT_ATTRIBUTES, AT_BASE_SEQUENCE, AT_BASE_TIMESTAMP, AT_CRC, AT_LAST_OFFSET_DELTA,
    AT_LEADER_EPOCH, AT_LENGTH, AT_MAGIC, AT_MAX_TIMESTAMP, AT_PRODUCER_EPOCH, AT_PRODUCER_ID,
    AT_RECORD_COUNT, ATTRIBUTE_LOG_APPEND_TIME, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC,
};
use crate::record::varint;
use crate::types::LEADER_EPOCH;

/// A record to be written.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// Key; none is null.
    pub key: Option<&'a [u8]>,
    /// Value; none is null.
    pub value: Option<&'a [u8]>,
    /// Headers in order: key, and a value that may be null.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
    /// Milliseconds since 1970, or -1 for none.
    pub timestamp: i64,
}

/// Why a record does not go into a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The batch would pass 2 GiB or 2^31 - 1 records.
    #[error("the batch would be larger than 2 GiB")]
    TooLarge,
    /// The timestamp is too far from the first one to be written as a difference.
    #[error("timestamp {0} is out of range")]
    Timestamp(i64),
}

/// Gathers records for one batch. The records of a batch are kept encoded, so memory is the
/// uncompressed size of the batch.
#[derive(Debug, Clone, Default)]
pub struct BatchBuilder {
    body: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// Without records.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for so many bytes of records, so that they are not moved as they grow.
    pub fn reserve(&mut self, bytes: usize) {
        self.body.reserve(bytes);
    }

    /// Number of records so far.
    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// True if there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the batch without compression, in bytes.
    pub fn size_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Size of the batch without compression if `record` were added, in bytes. To split by
    /// `max.message.bytes`: build before this passes it.
    pub fn size_bytes_with(&self, record: &NewRecord<'_>) -> usize {
        self.size_bytes_after(self.record_length(record))
    }

    fn size_bytes_after(&self, length: usize) -> usize {
        self.size_bytes() + varint::len(length_i64(length)) + length
    }

    fn timestamp_delta(&self, timestamp: i64) -> Option<i64> {
        if self.is_empty() { Some(0) } else { timestamp.checked_sub(self.base_timestamp) }
    }

    /// Bytes of the record after its length.
    fn record_length(&self, record: &NewRecord<'_>) -> usize {
        let delta = self.timestamp_delta(record.timestamp).unwrap_or(i64::MAX);
        let headers: usize = record
            .headers
            .iter()
            .map(|(key, value)| field_len(Some(key)) + field_len(*value))
            .sum();
        1 + varint::len(delta)
            + varint::len(i64::from(self.count))
            + field_len(record.key)
            + field_len(record.value)
            + varint::len(length_i64(record.headers.len()))
            + headers
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`BuildError`]; the batch is as before.
    pub fn push(&mut self, record: &NewRecord<'_>) -> Result<(), BuildError> {
        self.push_measured(record, self.record_length(record))
    }

    /// Adds a record, unless the batch without compression would be larger than `limit_bytes` then:
    /// false, and it is as before.
    ///
    /// # Errors
    /// As [`BatchBuilder::push`].
    pub fn push_within(
        &mut self,
        record: &NewRecord<'_>,
        limit_bytes: usize,
    ) -> Result<bool, BuildError> {
        let length = self.record_length(record);
        if self.size_bytes_after(length) > limit_bytes {
            return Ok(false);
        }
        self.push_measured(record, length).map(|()| true)
    }

    fn push_measured(&mut self, record: &NewRecord<'_>, length: usize) -> Result<(), BuildError> {
        let delta = self
            .timestamp_delta(record.timestamp)
            .ok_or(BuildError::Timestamp(record.timestamp))?;
        if self.size_bytes_after(length) > i32::MAX as usize || self.count == i32::MAX {
            return Err(BuildError::TooLarge);
        }
        if self.is_empty() {
            self.base_timestamp = record.timestamp;
            self.max_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let out = &mut self.body;
        varint::write(out, length_i64(length));
        out.push(0);
        varint::write(out, delta);
        varint::write(out, i64::from(self.count));
        write_field(out, record.key);
        write_field(out, record.value);
        varint::write(out, length_i64(record.headers.len()));
        for (key, value) in record.headers {
            write_field(out, Some(key));
            write_field(out, *value);
        }
        self.count += 1;
        Ok(())
    }

    /// The batch as a client would send it: base offset 0, no producer. The builder is empty
    /// afterwards and keeps its buffer. A batch without records is possible but no broker takes
    /// it. Compressing a large batch takes milliseconds: not on an async worker.
    ///
    /// # Errors
    /// [`CodecError`] when the codec's library fails.
    pub fn build(&mut self, codec: Codec) -> Result<Bytes, CodecError> {
        let mut out = vec![0_u8; HEADER_BYTES];
        if codec == Codec::None {
            out.reserve_exact(self.body.len());
        }
        codec::compress(codec, &self.body, &mut out)?;
        // The codec took memory for bytes that do not compress.
        out.shrink_to_fit();
        let length = i32::try_from(out.len() - LENGTH_PREFIX_BYTES).map_err(|_| {
            CodecError::Malformed { codec: codec.name(), reason: "over 2 GiB".to_owned() }
        })?;
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(AT_LENGTH, &length.to_be_bytes());
        put(AT_LEADER_EPOCH, &LEADER_EPOCH.to_be_bytes());
        put(AT_MAGIC, &MAGIC.to_be_bytes());
        put(AT_ATTRIBUTES, &(codec as i16).to_be_bytes());
        put(AT_LAST_OFFSET_DELTA, &(self.count - 1).to_be_bytes());
        put(AT_BASE_TIMESTAMP, &self.base_timestamp.to_be_bytes());
        put(AT_MAX_TIMESTAMP, &self.max_timestamp.to_be_bytes());
        put(AT_PRODUCER_ID, &(-1_i64).to_be_bytes());
        put(AT_PRODUCER_EPOCH, &(-1_i16).to_be_bytes());
        put(AT_BASE_SEQUENCE, &(-1_i32).to_be_bytes());
        put(AT_RECORD_COUNT, &self.count.to_be_bytes());
        let crc = header::crc_of(&out);
        out[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_be_bytes());
        self.body.clear();
        self.count = 0;
        Ok(out.into())
    }
}

/// The batch with `LogAppendTime`: attribute bit 3 set, greatest timestamp `append_ms`, and a
/// new CRC. Bytes that are no batch come back unchanged.
#[must_use]
pub fn set_append_time(batch: &[u8], append_ms: i64) -> Bytes {
    let mut out = batch.to_vec();
    if out.len() >= HEADER_BYTES {
        let low = AT_ATTRIBUTES + 1;
        out[low] |= ATTRIBUTE_LOG_APPEND_TIME as u8;
        out[AT_MAX_TIMESTAMP..AT_MAX_TIMESTAMP + 8].copy_from_slice(&append_ms.to_be_bytes());
        let crc = header::crc_of(&out);
        out[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_be_bytes());
    }
    out.into()
}

fn length_i64(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn field_len(field: Option<&[u8]>) -> usize {
    match field {
        None => 1,
        Some(bytes) => varint::len(length_i64(bytes.len())) + bytes.len(),
    }
}

fn write_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => varint::write(out, -1),
        Some(bytes) => {
            varint::write(out, length_i64(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
