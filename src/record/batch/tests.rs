use super::*;
use crate::record::header::BatchHeader;
use crate::record::{ProduceRules, check_produced};

#[test]
fn a_built_batch_passes_the_checks_of_produce() {
    let rules = ProduceRules {
        max_message_bytes: 1 << 20,
        log_append_time: false,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        now_ms: 0,
    };
    let mut builder = BatchBuilder::new();
    for codec in 0..5 {
        for i in 0..100 {
            let record = NewRecord { key: Some(b"k"), timestamp: i, ..Default::default() };
            builder.push(&record).unwrap();
        }
        let batch = builder.build(Codec::from_number(codec).unwrap()).unwrap();
        let header = check_produced(&batch, &rules).unwrap();
        assert_eq!((header.record_count, header.max_timestamp), (100, 99));
        assert!(builder.is_empty());
    }
}

#[test]
fn timestamps_that_do_not_fit_a_difference_are_refused_and_change_nothing() {
    let mut builder = BatchBuilder::new();
    builder.push(&NewRecord { timestamp: -1, ..Default::default() }).unwrap();
    let before = builder.size_bytes();
    let far = NewRecord { timestamp: i64::MAX, ..Default::default() };
    assert_eq!(builder.push(&far), Err(BuildError::Timestamp(i64::MAX)));
    assert_eq!((builder.size_bytes(), builder.record_count()), (before, 1));
}

#[test]
fn earlier_timestamps_are_negative_differences() {
    let mut builder = BatchBuilder::new();
    for timestamp in [1_000, 10, 2_000] {
        builder.push(&NewRecord { timestamp, ..Default::default() }).unwrap();
    }
    let batch = builder.build(Codec::None).unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!((header.base_timestamp, header.max_timestamp), (1_000, 2_000));
}

#[test]
fn append_time_leaves_junk_alone() {
    assert_eq!(set_append_time(b"short", 1), &b"short"[..]);
}
