//! The records of one batch, borrowed from its (decompressed) body. Nothing is allocated; every
//! length is checked; the end of the last record must be the end of the body.

use crate::record::RecordError;
use crate::record::header::BatchHeader;
use crate::record::varint;
use crate::types::Offset;

/// Largest record that is handed out unless the reader says otherwise, in bytes.
pub const RECORD_BYTES_MAX: usize = 128 << 20;

/// One record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its offset: base offset of the batch plus its position. The offset delta in the record
    /// is not trusted, so every offset of a batch is there exactly once (Kafka rewrites deltas
    /// that are not 0 to n - 1).
    pub offset: Offset,
    /// Milliseconds; with `LogAppendTime` the append time, whatever the record says.
    pub timestamp: i64,
    /// The key, if it is not null.
    pub key: Option<&'a [u8]>,
    /// The value, if it is not null.
    pub value: Option<&'a [u8]>,
    /// The headers, in order, duplicates kept.
    pub headers: Headers<'a>,
    /// Attribute byte; no bit is in use.
    pub attributes: i8,
}

/// The headers of one record: key bytes (not always UTF-8) and a value that may be null. They
/// were checked when the record was read.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Headers<'a> {
    /// No headers.
    pub const EMPTY: Headers<'static> = Headers { bytes: &[], left: 0 };

    /// True if there is none (left).
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Checks `count` headers that must fill `bytes`.
    fn checked(bytes: &'a [u8], count: i32) -> Result<Self, &'static str> {
        let left = usize::try_from(count).map_err(|_| "header count")?;
        let mut at = 0;
        for _ in 0..left {
            field(bytes, &mut at).flatten().ok_or("header key")?;
            field(bytes, &mut at).ok_or("header value")?;
        }
        if at != bytes.len() {
            return Err("bytes after the headers");
        }
        Ok(Self { bytes, left })
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut at = 0;
        let key = field(self.bytes, &mut at).flatten()?;
        let value = field(self.bytes, &mut at)?;
        self.bytes = self.bytes.get(at..)?;
        Some((key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// Iterates over the records of one batch. After an error it ends.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    body: &'a [u8],
    at: usize,
    index: i32,
    count: i32,
    base_offset: Offset,
    base_timestamp: i64,
    append_time: Option<i64>,
    record_bytes_max: usize,
}

impl<'a> RecordIter<'a> {
    /// Over `body`, the decompressed bytes after the header.
    pub fn new(header: &BatchHeader, body: &'a [u8]) -> Self {
        Self {
            body,
            at: 0,
            index: 0,
            count: header.record_count,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time: header.is_log_append_time().then_some(header.max_timestamp),
            record_bytes_max: RECORD_BYTES_MAX,
        }
    }

    /// Bytes of the whole body, decompressed.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Refuses records of more than `bytes` bytes.
    #[must_use]
    pub fn with_record_bytes_max(mut self, bytes: usize) -> Self {
        self.record_bytes_max = bytes;
        self
    }

    #[inline]
    fn read(&mut self) -> Result<Record<'a>, RecordError> {
        let index = self.index;
        let bad = |reason| RecordError::Malformed { index, reason };
        let length = varint::read_i32(self.body, &mut self.at).ok_or(bad("length"))?;
        let length = usize::try_from(length).map_err(|_| bad("length"))?;
        if length > self.record_bytes_max {
            let limit = self.record_bytes_max;
            return Err(RecordError::TooLarge { index, bytes: length, limit });
        }
        let end = self.at.checked_add(length).ok_or(bad("length"))?;
        let bytes = self.body.get(self.at..end).ok_or(bad("length"))?;
        let attributes = *bytes.first().ok_or(bad("attributes"))?;
        let mut at = 1;
        let timestamp_delta = varint::read_i64(bytes, &mut at).ok_or(bad("timestamp"))?;
        varint::read_i32(bytes, &mut at).ok_or(bad("offset"))?;
        let key = field(bytes, &mut at).ok_or(bad("key"))?;
        let value = field(bytes, &mut at).ok_or(bad("value"))?;
        let headers = varint::read_i32(bytes, &mut at).ok_or(bad("header count"))?;
        let headers = Headers::checked(&bytes[at..], headers).map_err(bad)?;
        let timestamp = match self.append_time {
            Some(append_time) => append_time,
            None => self.base_timestamp.checked_add(timestamp_delta).ok_or(bad("timestamp"))?,
        };
        let offset = self.base_offset.checked_add(i64::from(index)).ok_or(bad("offset"))?;
        self.at = end;
        Ok(Record { offset, timestamp, key, value, headers, attributes: attributes.cast_signed() })
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.count {
            let bytes = self.body.len() - self.at;
            self.at = self.body.len();
            return (bytes > 0).then_some(Err(RecordError::Trailing { bytes }));
        }
        let record = self.read();
        if record.is_err() {
            self.index = self.count;
            self.at = self.body.len();
        } else {
            self.index += 1;
        }
        Some(record)
    }
}

/// Reads a length and so many bytes; only -1 is null.
#[inline]
fn field<'a>(bytes: &'a [u8], at: &mut usize) -> Option<Option<&'a [u8]>> {
    let length = varint::read_i32(bytes, at)?;
    if length == -1 {
        return Some(None);
    }
    let end = at.checked_add(usize::try_from(length).ok()?)?;
    let value = bytes.get(*at..end)?;
    *at = end;
    Some(Some(value))
}

#[cfg(test)]
mod tests;
