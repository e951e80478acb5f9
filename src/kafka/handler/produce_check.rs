//! The checks of one partition of a Produce request that need no log: `record` knows the rules of a
//! batch, here is what depends on the request and the topic.

use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::ItemError;
use crate::record::{BatchHeader, BatchReader, Codec, ProduceRules, check_produced};
use crate::topic::options::TopicOptions;

/// First version whose clients and consumers know zstd (KIP-110).
const ZSTD_FROM: i16 = 7;

/// Why a batch is refused, with the records that are at fault where they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error: ItemError,
    /// Position in the batch, from 0, and what is wrong; at most [`RECORD_ERRORS_MAX`].
    pub(crate) records: Vec<(i32, &'static str)>,
}

/// More broken records than this are not listed.
const RECORD_ERRORS_MAX: usize = 100;

impl From<ItemError> for Refusal {
    fn from(error: ItemError) -> Self {
        Self { error, records: Vec::new() }
    }
}

/// Checks the bytes of one partition.
///
/// # Errors
/// [`Refusal`].
pub(crate) fn check(
    version: i16,
    records: &[u8],
    options: &TopicOptions,
    now_ms: i64,
) -> Result<BatchHeader, Refusal> {
    let rules = ProduceRules {
        max_message_bytes: options.max_message_bytes,
        log_append_time: options.log_append_time,
        timestamp_before_max_ms: options.timestamp_before_max_ms,
        timestamp_after_max_ms: options.timestamp_after_max_ms,
        now_ms,
    };
    let header = check_produced(records, &rules)
        .map_err(|refusal| ItemError::new(ErrorCode::from(&refusal), refusal.to_string()))?;
    if header.codec() == Ok(Codec::Zstd) && version < ZSTD_FROM {
        return Err(ItemError::new(
            ErrorCode::UnsupportedCompressionType,
            format!("zstd needs produce version {ZSTD_FROM}, this is {version}"),
        )
        .into());
    }
    if header.is_transactional() {
        return Err(ItemError::new(
            ErrorCode::InvalidTxnState,
            "the batch is transactional, but no transaction can be open",
        )
        .into());
    }
    Ok(header)
}

/// Refuses records without key: compaction could never find them (source: `LogValidator`). Walks
/// and perhaps decompresses the batch, so not on an async worker.
///
/// # Errors
/// [`Refusal`] with the records.
pub(crate) fn check_keys(batch: &[u8]) -> Result<(), Refusal> {
    let malformed = |error: crate::record::RecordError| {
        ItemError::new(ErrorCode::InvalidRecord, error.to_string())
    };
    let mut reader = BatchReader::new();
    let mut keyless = Vec::new();
    for (index, record) in (0_i32..).zip(reader.records(batch).map_err(malformed)?) {
        if record.map_err(malformed)?.key.is_none() && keyless.len() < RECORD_ERRORS_MAX {
            keyless.push((index, "a compacted topic accepts no record without key"));
        }
    }
    if keyless.is_empty() {
        return Ok(());
    }
    let error =
        ItemError::new(ErrorCode::InvalidRecord, "a compacted topic accepts no record without key");
    Err(Refusal { error, records: keyless })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::{BatchBuilder, NewRecord};

    fn batch(keys: &[Option<&[u8]>], codec: Codec) -> Bytes {
        let mut builder = BatchBuilder::new();
        for &key in keys {
            let record = NewRecord { key, value: Some(b"v"), headers: &[], timestamp: 1_000 };
            builder.push(&record).unwrap();
        }
        builder.build(codec).unwrap()
    }

    fn code(version: i16, bytes: &[u8], options: &TopicOptions) -> Option<ErrorCode> {
        check(version, bytes, options, 2_000).err().map(|refusal| refusal.error.code)
    }

    #[test]
    fn zstd_is_refused_before_version_7() {
        let bytes = batch(&[None], Codec::Zstd);
        let options = TopicOptions::default();
        assert_eq!(code(6, &bytes, &options), Some(ErrorCode::UnsupportedCompressionType));
        assert_eq!(code(7, &bytes, &options), None);
    }

    #[test]
    fn broken_batches_get_the_code_that_clients_act_on() {
        let good = batch(&[None], Codec::None);
        let options = TopicOptions::default();
        assert_eq!(code(9, &good, &options), None);
        assert_eq!(code(9, &[], &options), Some(ErrorCode::InvalidRecord));
        let mut flipped = good.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(code(9, &flipped, &options), Some(ErrorCode::CorruptMessage));
        let twice = [&good[..], &good[..]].concat();
        assert_eq!(code(9, &twice, &options), Some(ErrorCode::InvalidRecord));
        let small = TopicOptions { max_message_bytes: 10, ..TopicOptions::default() };
        assert_eq!(code(9, &good, &small), Some(ErrorCode::MessageTooLarge));
        let strict = TopicOptions { timestamp_before_max_ms: 999, ..TopicOptions::default() };
        assert_eq!(code(9, &good, &strict), Some(ErrorCode::InvalidTimestamp));
    }

    #[test]
    fn keyless_records_of_a_compacted_topic_are_named() {
        for codec in [Codec::None, Codec::Lz4] {
            assert_eq!(check_keys(&batch(&[Some(b"a"), Some(b"")], codec)), Ok(()));
            let refusal = check_keys(&batch(&[Some(b"a"), None, None], codec)).unwrap_err();
            assert_eq!(refusal.error.code, ErrorCode::InvalidRecord);
            let indexes: Vec<_> = refusal.records.iter().map(|(index, _)| *index).collect();
            assert_eq!(indexes, [1, 2]);
        }
    }
}
