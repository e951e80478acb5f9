//! Record batches: headers, records, codecs.

use crate::fuzzing::steer;
use crate::record::codec;
use crate::record::header::{self, HEADER_BYTES};
use crate::record::{
    BatchBuilder, BatchHeader, BatchReader, Codec, CodecError, Decompressor, NewRecord,
    ProduceRules, Record, RecordIter, check_produced,
};

/// Records that are looked at in one batch: a cap of the target's time, not of the code.
const RECORDS_MAX: usize = 20_000;

/// A batch as a client sends it. Its bytes are tried as they are and with the CRC that they should
/// have, because no mutation finds that.
///
/// # Panics
/// If a property does not hold.
pub fn batch_header(data: &[u8]) {
    produced(data);
    if data.len() >= HEADER_BYTES {
        let mut good = data.to_vec();
        put_crc(&mut good);
        produced(&good);
    }
}

fn put_crc(batch: &mut [u8]) {
    let crc = header::crc_of(batch);
    batch[header::AT_CRC..header::AT_CRC + 4].copy_from_slice(&crc.to_be_bytes());
}

fn produced(batch: &[u8]) {
    let parsed = BatchHeader::parse(batch);
    if let Ok(header) = parsed {
        assert!((HEADER_BYTES..=batch.len()).contains(&header.size_bytes()));
        assert!(header.last_offset() >= header.base_offset || header.last_offset_delta < 0);
    }
    let strict = ProduceRules {
        max_message_bytes: 1_048_588,
        log_append_time: false,
        timestamp_before_max_ms: 1_000_000,
        timestamp_after_max_ms: 1_000,
        now_ms: parsed.map_or(0, |header| header.max_timestamp),
    };
    let appended = ProduceRules { log_append_time: true, max_message_bytes: 4_096, ..strict };
    for rules in [strict, appended] {
        let Ok(header) = check_produced(batch, &rules) else { continue };
        assert_eq!(parsed, Ok(header));
        assert_eq!(header.size_bytes(), batch.len());
        assert!(batch.len() <= rules.max_message_bytes as usize);
        assert_eq!(header.crc, header::crc_of(batch));
        assert!(header.record_count > 0 && header.base_offset == 0 && !header.is_control());
        assert_eq!(header.last_offset(), i64::from(header.record_count) - 1);
        assert!(!header.has_producer() || header.base_sequence >= 0 && header.producer_epoch >= 0);
        if rules.log_append_time {
            let stamped = crate::record::batch::set_append_time(batch, 1_234);
            let stamped = check_produced(&stamped, &rules).expect("its CRC was made anew");
            assert!(stamped.is_log_append_time() && stamped.max_timestamp == 1_234);
        } else {
            assert!(
                rules.now_ms.saturating_sub(header.base_timestamp) <= rules.timestamp_before_max_ms
                    || header.base_timestamp == -1
            );
            assert!(!header.is_log_append_time());
        }
    }
}

/// A header and a body, which is read as it is and as the batch's codec says.
///
/// # Panics
/// If a property does not hold.
pub fn record_iter(data: &[u8]) {
    let mut batch = data.to_vec();
    if batch.len() < HEADER_BYTES {
        return;
    }
    // Magic and length are the business of `batch_header`.
    let length = i32::try_from(batch.len() - header::LENGTH_PREFIX_BYTES).unwrap_or(i32::MAX);
    batch[header::AT_LENGTH..header::AT_LENGTH + 4].copy_from_slice(&length.to_be_bytes());
    batch[header::AT_MAGIC] = header::MAGIC.cast_unsigned();
    let header = BatchHeader::parse(&batch).expect("magic and length fit");
    let body = &batch[HEADER_BYTES..];
    let limit = usize::from(data[0]) * 16;
    for item in RecordIter::new(&header, body).with_record_bytes_max(limit).flatten() {
        let values = [item.key, item.value].into_iter().flatten().map(<[u8]>::len).sum::<usize>();
        assert!(values <= limit, "a record is larger than the limit");
    }
    let (records, whole) = walk(RecordIter::new(&header, body), &header, body);
    if whole {
        rebuilt(&records);
        exact(&header, body);
    }
    let mut reader = BatchReader::new();
    let Ok(iter) = reader.records(&batch) else { return };
    let mut count = 0;
    for item in iter.take(RECORDS_MAX).flatten() {
        assert_eq!(Some(item.offset), header.base_offset.checked_add(count));
        assert!(!header.is_log_append_time() || item.timestamp == header.max_timestamp);
        count += 1;
    }
    assert!(count <= i64::from(header.record_count.max(0)));
}

/// The records, and true if they are all that the header announces.
fn walk<'a>(
    mut iter: RecordIter<'a>,
    header: &BatchHeader,
    body: &'a [u8],
) -> (Vec<Record<'a>>, bool) {
    let mut records = Vec::new();
    let mut bytes = 0;
    let range = body.as_ptr_range();
    while let Some(item) = iter.next() {
        let Ok(record) = item else {
            assert!(iter.next().is_none(), "it goes on after an error");
            return (records, false);
        };
        let at = i64::try_from(records.len()).expect("fewer records than bytes");
        assert_eq!(Some(record.offset), header.base_offset.checked_add(at));
        assert_eq!(record.headers.count(), record.headers.len());
        let of_headers = record.headers.flat_map(|(key, value)| [Some(key), value]);
        for field in [record.key, record.value].into_iter().chain(of_headers).flatten() {
            assert!(range.start <= field.as_ptr() && field.as_ptr_range().end <= range.end);
            bytes += field.len();
        }
        records.push(record);
    }
    assert!(bytes <= body.len(), "more bytes than the body has");
    let count = usize::try_from(header.record_count).unwrap_or(0);
    assert_eq!(records.len(), count, "it ended early and without an error");
    (records, true)
}

/// A byte more or less than the records have is an error.
fn exact(header: &BatchHeader, body: &[u8]) {
    let longer = [body, &[0]].concat();
    let shorter = &body[..body.len().saturating_sub(1)];
    for other in [&longer, shorter] {
        let refused = RecordIter::new(header, other).any(|item| item.is_err());
        assert!(refused || other.len() == body.len(), "its end is not looked at");
    }
}

/// Good records make a batch that has the same records.
fn rebuilt(records: &[Record<'_>]) {
    let mut builder = BatchBuilder::new();
    for record in records {
        let headers: Vec<_> = record.headers.collect();
        let (key, value, timestamp) = (record.key, record.value, record.timestamp);
        let new = NewRecord { key, value, headers: &headers, timestamp };
        let size = builder.size_bytes_with(&new);
        // A timestamp may be too far from the first one.
        if builder.push(&new).is_err() {
            return;
        }
        assert_eq!(builder.size_bytes(), size, "the size was told wrong");
    }
    let batch = builder.build(Codec::None).expect("nothing is compressed");
    let mut reader = BatchReader::new();
    let mut count = 0;
    for (item, old) in reader.records(&batch).expect("our own batch").zip(records) {
        let new = item.expect("our own record");
        assert_eq!((new.key, new.value, new.timestamp), (old.key, old.value, old.timestamp));
        assert!(new.headers.eq(old.headers));
        count += 1;
    }
    assert_eq!(count, records.len());
}

/// The first byte picks codec and cap; the rest is decompressed, and compressed and back.
///
/// # Panics
/// If a property does not hold.
pub fn codecs(data: &[u8]) {
    let (first, body) = steer(data);
    let codec = Codec::from_number(1 + first % 4).expect("1 to 4 are codecs");
    let cap = [0, 1, 100, 4 << 10, 64 << 10, 1 << 20][usize::from(first >> 2) % 6];
    let mut decompressor = Decompressor::new();
    let first_try = decompressor.decompress(codec, body, cap).map(<[u8]>::to_vec);
    if let Ok(out) = &first_try {
        assert!(out.len() <= cap, "{} bytes with a cap of {cap}", out.len());
    }
    let mut packed = Vec::new();
    codec::compress(codec, body, &mut packed).expect("memory can be written to");
    // The decompressor is the same: what a bad body left behind must not matter.
    assert_eq!(decompressor.decompress(codec, &packed, body.len()), Ok(body));
    if let Some(less) = body.len().checked_sub(1) {
        let refused = decompressor.decompress(codec, &packed, less);
        assert_eq!(refused, Err(CodecError::TooLarge { cap: less }));
    }
    assert_eq!(decompressor.decompress(codec, body, cap).map(<[u8]>::to_vec), first_try);
    crate::fuzzing::http::inflated(first, body, cap);
}
