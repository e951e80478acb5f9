use bytes::Bytes;
use kafka_protocol::records as oracle;
use proptest::prelude::*;

use super::*;
use crate::record::header::HEADER_BYTES;
use crate::record::{BatchBuilder, BatchReader, Codec, NewRecord, batch};

/// Key, value, headers, timestamp.
type Owned = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>, i64);

fn build(records: &[Owned], codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new();
    for (key, value, headers, timestamp) in records {
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        let record = NewRecord {
            key: key.as_deref(),
            value: value.as_deref(),
            headers: &headers,
            timestamp: *timestamp,
        };
        let expected = builder.size_bytes_with(&record);
        builder.push(&record).unwrap();
        assert_eq!(builder.size_bytes(), expected);
    }
    builder.build(codec).unwrap()
}

fn owned(record: &Record<'_>) -> Owned {
    let headers =
        record.headers.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect();
    (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), headers, record.timestamp)
}

fn read(batch: &[u8]) -> Result<Vec<Owned>, RecordError> {
    let mut reader = BatchReader::new();
    reader.records(batch)?.map(|record| record.map(|record| owned(&record))).collect()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

fn records() -> impl Strategy<Value = Vec<Owned>> {
    let header = (bytes(), prop::option::of(bytes()));
    let headers = prop::collection::vec(header, 0..4);
    let timestamp = -1..2_000_000_000_000_i64;
    let record = (prop::option::of(bytes()), prop::option::of(bytes()), headers, timestamp);
    prop::collection::vec(record, 1..30)
}

proptest! {
    #[test]
    fn records_survive_a_round_trip(records in records(), codec in 0..5_u8) {
        let batch = build(&records, Codec::from_number(codec).unwrap());
        prop_assert_eq!(read(&batch).unwrap(), records);
    }

    #[test]
    fn the_crate_reads_what_we_write(records in records()) {
        // It loses duplicate headers and refuses keys that are not UTF-8: none here.
        let plain: Vec<Owned> =
            records.into_iter().map(|(key, value, _, at)| (key, value, vec![], at)).collect();
        let mut batch = build(&plain, Codec::None);
        let theirs = oracle::RecordBatchDecoder::decode(&mut batch).unwrap().records;
        prop_assert_eq!(theirs.len(), plain.len());
        for (i, (theirs, ours)) in theirs.iter().zip(&plain).enumerate() {
            prop_assert_eq!(theirs.offset, i as i64);
            prop_assert_eq!(theirs.timestamp, ours.3);
            prop_assert_eq!(theirs.key.as_deref(), ours.0.as_deref());
            prop_assert_eq!(theirs.value.as_deref(), ours.1.as_deref());
        }
    }

    #[test]
    fn we_read_what_the_crate_writes(records in records()) {
        let theirs: Vec<oracle::Record> =
            records.iter().enumerate().map(|(i, record)| to_oracle(i, record)).collect();
        let mut batch = bytes::BytesMut::new();
        let options = oracle::RecordEncodeOptions {
            version: 2,
            compression: oracle::Compression::None,
        };
        oracle::RecordBatchEncoder::encode(&mut batch, &theirs, &options).unwrap();
        let expected: Vec<Owned> = records.iter().map(|(key, value, headers, at)| {
            let headers = headers.first().map(|(_, value)| (b"k".to_vec(), value.clone()));
            (key.clone(), value.clone(), headers.into_iter().collect(), *at)
        }).collect();
        prop_assert_eq!(read(&batch).unwrap(), expected);
    }

    #[test]
    fn damaged_batches_never_panic_nor_yield_too_many(
        records in records(), codec in 0..5_u8, at in any::<usize>(), byte in any::<u8>(),
    ) {
        let batch = build(&records, Codec::from_number(codec).unwrap());
        let mut damaged = batch.to_vec();
        let at = at % damaged.len();
        damaged[at] = byte;
        let mut reader = BatchReader::new();
        if let Ok(iter) = reader.records(&damaged) {
            let room = crate::record::codec::CAP_BYTES_MAX / 7;
            prop_assert!(iter.take_while(Result::is_ok).count() <= room);
        }
        prop_assert!(read(&batch[..at]).is_err());
    }

    #[test]
    fn arbitrary_bodies_never_panic(
        body in prop::collection::vec(any::<u8>(), 0..200), count in -2..50_i32,
        base_timestamp in any::<i64>(), base_offset in any::<i64>(),
    ) {
        let mut header = BatchHeader::parse(&build(&[(None, None, vec![], 0)], Codec::None)).unwrap();
        (header.record_count, header.base_timestamp) = (count, base_timestamp);
        header.base_offset = base_offset;
        for record in RecordIter::new(&header, &body).flatten() {
            prop_assert_eq!(record.headers.len(), record.headers.count());
        }
    }
}

#[test]
fn a_batch_that_compresses_five_thousandfold_is_read() {
    let value = vec![0_u8; 64 << 20];
    let mut builder = BatchBuilder::new();
    let record = NewRecord { key: None, value: Some(&value), headers: &[], timestamp: 1 };
    builder.push(&record).unwrap();
    let batch = builder.build(Codec::Zstd).unwrap();
    assert!(batch.len() * 5_000 < value.len());
    let mut reader = BatchReader::new();
    let read = reader.records(&batch).unwrap().next().unwrap().unwrap();
    assert_eq!(read.value.map(<[u8]>::len), Some(value.len()));
}

#[test]
fn a_batch_beyond_the_cap_says_how_much_is_read() {
    let value = vec![0_u8; crate::record::codec::CAP_BYTES_MAX];
    let mut builder = BatchBuilder::new();
    let record = NewRecord { key: None, value: Some(&value), headers: &[], timestamp: 1 };
    builder.push(&record).unwrap();
    let batch = builder.build(Codec::Zstd).unwrap();
    let error = BatchReader::new().records(&batch).unwrap_err().to_string();
    assert!(error.contains("134217728 bytes") && error.contains("one batch"), "{error}");
}

fn to_oracle(i: usize, (key, value, headers, timestamp): &Owned) -> oracle::Record {
    let mut map = kafka_protocol::indexmap::IndexMap::new();
    if let Some((_, value)) = headers.first() {
        let key = kafka_protocol::protocol::StrBytes::from_static_str("k");
        map.insert(key, value.clone().map(Bytes::from));
    }
    oracle::Record {
        transactional: false,
        delete_horizon: false,
        control: false,
        partition_leader_epoch: 0,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: oracle::TimestampType::Creation,
        offset: i as i64,
        sequence: i as i32 - 1,
        timestamp: *timestamp,
        key: key.clone().map(Bytes::from),
        value: value.clone().map(Bytes::from),
        headers: map,
    }
}

/// One record without length prefix.
fn raw(record: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    varint::write(&mut body, record.len() as i64);
    body.extend_from_slice(record);
    body
}

fn first(body: &[u8]) -> Result<Owned, RecordError> {
    let header = BatchHeader::parse(&build(&[(None, None, vec![], 7)], Codec::None)).unwrap();
    let mut iter = RecordIter::new(&header, body);
    let record = iter.next().unwrap().map(|record| owned(&record))?;
    match iter.next() {
        None => Ok(record),
        Some(next) => Err(next.unwrap_err()),
    }
}

#[test]
fn only_minus_one_is_null() {
    // attributes, timestamp, offset, key, value, header count; zigzag: 1 is -1, 3 is -2.
    assert_eq!(first(&raw(&[0, 0, 0, 1, 1, 0])).unwrap(), (None, None, vec![], 7));
    for bad in [[0, 0, 0, 3, 1, 0], [0, 0, 0, 1, 3, 0], [0, 0, 0, 1, 1, 1]] {
        assert!(matches!(first(&raw(&bad)), Err(RecordError::Malformed { .. })), "{bad:?}");
    }
    // A header whose key is null.
    assert!(first(&raw(&[0, 0, 0, 1, 1, 2, 1, 1])).is_err());
    // A header with an empty key and a null value.
    let (_, _, headers, _) = first(&raw(&[0, 0, 0, 1, 1, 2, 0, 1])).unwrap();
    assert_eq!(headers, [(vec![], None)]);
}

#[test]
fn bytes_after_the_fields_of_a_record_are_an_error() {
    assert!(first(&raw(&[0, 0, 0, 1, 1, 0, 9])).is_err());
}

#[test]
fn bytes_after_the_last_record_are_an_error() {
    let mut body = raw(&[0, 0, 0, 1, 1, 0]);
    body.extend_from_slice(&raw(&[0, 0, 2, 1, 1, 0]));
    assert_eq!(first(&body).unwrap_err(), RecordError::Trailing { bytes: 7 });
}

#[test]
fn fewer_records_than_counted_are_an_error() {
    let records = vec![(None, Some(b"v".to_vec()), vec![], 1); 2];
    let batch = build(&records, Codec::None);
    let mut header = BatchHeader::parse(&batch).unwrap();
    header.record_count = 3;
    let mut iter = RecordIter::new(&header, &batch[HEADER_BYTES..]);
    assert_eq!(iter.by_ref().filter(Result::is_ok).count(), 2);
    assert!(iter.next().is_none());
    let last = RecordIter::new(&header, &batch[HEADER_BYTES..]).last().unwrap();
    assert_eq!(last.unwrap_err(), RecordError::Malformed { index: 2, reason: "length" });
}

#[test]
fn timestamps_that_overflow_are_an_error() {
    let batch = build(&[(None, None, vec![], 0)], Codec::None);
    let mut header = BatchHeader::parse(&batch).unwrap();
    header.base_timestamp = i64::MAX;
    let body = raw(&[0, 2, 0, 1, 1, 0]);
    assert!(RecordIter::new(&header, &body).next().unwrap().is_err());
    header.base_timestamp = i64::MAX - 1;
    let record = RecordIter::new(&header, &body).next().unwrap().unwrap();
    assert_eq!(record.timestamp, i64::MAX);
}

#[test]
fn log_append_time_replaces_every_timestamp() {
    let records = vec![(None, None, vec![], 5), (None, None, vec![], 9)];
    let stamped = batch::set_append_time(&build(&records, Codec::Zstd), 777);
    let times: Vec<i64> = read(&stamped).unwrap().iter().map(|record| record.3).collect();
    assert_eq!(times, [777, 777]);
    let header = BatchHeader::parse(&stamped).unwrap();
    assert_eq!(header.crc, crate::record::header::crc_of(&stamped));
    assert_eq!((header.max_timestamp, header.codec()), (777, Ok(Codec::Zstd)));
}

#[test]
fn deltas_of_the_client_do_not_move_offsets() {
    let mut body = raw(&[0, 0, 8, 1, 1, 0]);
    body.extend_from_slice(&raw(&[0, 0, 8, 1, 1, 0]));
    let batch = build(&[(None, None, vec![], 0), (None, None, vec![], 0)], Codec::None);
    let mut header = BatchHeader::parse(&batch).unwrap();
    header.base_offset = 100;
    let offsets: Vec<i64> =
        RecordIter::new(&header, &body).map(|record| record.unwrap().offset).collect();
    assert_eq!(offsets, [100, 101]);
}

#[test]
fn a_record_over_the_bound_is_named() {
    let batch = build(&[(None, Some(vec![0; 100]), vec![], 0)], Codec::None);
    let mut reader = BatchReader::new();
    let mut iter = reader.records(&batch).unwrap().with_record_bytes_max(50);
    let error = iter.next().unwrap().unwrap_err();
    assert!(matches!(error, RecordError::TooLarge { index: 0, limit: 50, .. }));
    assert!(iter.next().is_none());
}

#[test]
fn duplicate_headers_keep_their_order() {
    let headers = vec![
        (b"a".to_vec(), Some(b"1".to_vec())),
        (b"\xff".to_vec(), None),
        (b"a".to_vec(), Some(b"2".to_vec())),
    ];
    let records = vec![(None, None, headers, 0)];
    assert_eq!(read(&build(&records, Codec::None)).unwrap(), records);
}
