use proptest::prelude::*;

use super::*;
use crate::record::{BatchBuilder, NewRecord};

const RULES: ProduceRules = ProduceRules {
    max_message_bytes: 1 << 20,
    log_append_time: false,
    timestamp_before_max_ms: i64::MAX,
    timestamp_after_max_ms: 3_600_000,
    now_ms: 1_700_000_000_000,
};

fn good(records: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for i in 0..records {
        let record =
            NewRecord { value: Some(b"value"), timestamp: RULES.now_ms + i, ..Default::default() };
        builder.push(&record).unwrap();
    }
    builder.build(Codec::None).unwrap().to_vec()
}

/// Overwrites bytes and makes the CRC right again.
fn patched(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc_of(&batch);
    batch[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn refusal(batch: &[u8]) -> ProduceRefusal {
    check_produced(batch, &RULES).unwrap_err()
}

#[test]
fn a_good_batch_passes_with_all_fields() {
    let header = check_produced(&good(3), &RULES).unwrap();
    assert_eq!((header.record_count, header.last_offset_delta), (3, 2));
    assert_eq!((header.base_timestamp, header.max_timestamp), (RULES.now_ms, RULES.now_ms + 2));
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (-1, -1, -1));
    assert_eq!(header.size_bytes(), good(3).len());
    assert_eq!(header.codec(), Ok(Codec::None));
}

#[test]
fn empty_and_cut_off_bytes_are_refused() {
    assert_eq!(refusal(b""), ProduceRefusal::Empty);
    let batch = good(2);
    for cut in 1..batch.len() {
        assert!(matches!(refusal(&batch[..cut]), ProduceRefusal::Malformed(_)), "{cut}");
    }
}

#[test]
fn a_second_batch_is_refused() {
    let mut two = good(1);
    two.extend_from_slice(&good(1));
    assert_eq!(refusal(&two), ProduceRefusal::Trailing { bytes: good(1).len() });
}

#[test]
fn each_broken_field_has_its_own_refusal() {
    let one = || good(1);
    let old = patched(one(), AT_MAGIC, &[1]);
    assert_eq!(refusal(&old), ProduceRefusal::Magic(1));
    assert_eq!(refusal(&old[..30]), ProduceRefusal::Magic(1));
    let offset = patched(one(), 0, &5_i64.to_be_bytes());
    assert_eq!(refusal(&offset), ProduceRefusal::BaseOffset(5));
    let codec = patched(one(), AT_ATTRIBUTES, &7_i16.to_be_bytes());
    assert_eq!(refusal(&codec), ProduceRefusal::Codec(7));
    let control = patched(one(), AT_ATTRIBUTES, &ATTRIBUTE_CONTROL.to_be_bytes());
    assert_eq!(refusal(&control), ProduceRefusal::Control);
    let append_time = patched(one(), AT_ATTRIBUTES, &ATTRIBUTE_LOG_APPEND_TIME.to_be_bytes());
    assert_eq!(refusal(&append_time), ProduceRefusal::TimestampType);
    let no_sequence = patched(one(), AT_PRODUCER_ID, &9_i64.to_be_bytes());
    let expected = ProduceRefusal::Sequence { producer_id: 9, epoch: -1, sequence: -1 };
    assert_eq!(refusal(&no_sequence), expected);
    let mut length = one();
    length[AT_LENGTH..AT_LENGTH + 4].copy_from_slice(&(-1_i32).to_be_bytes());
    assert_eq!(refusal(&length), ProduceRefusal::Malformed(HeaderError::Length(-1)));
}

#[test]
fn counts_that_cannot_be_true_are_refused() {
    for (count, delta) in [(0, -1), (-1, -2), (1, 1), (2, 0), (i32::MAX, i32::MAX - 1), (50, 49)] {
        let batch = patched(good(1), AT_RECORD_COUNT, &i32::to_be_bytes(count));
        let batch = patched(batch, AT_LAST_OFFSET_DELTA, &i32::to_be_bytes(delta));
        let expected = ProduceRefusal::Count { count, last_offset_delta: delta };
        assert_eq!(refusal(&batch), expected);
    }
}

#[test]
fn a_wrong_crc_is_corrupt() {
    let mut batch = good(1);
    let last = batch.len() - 1;
    batch[last] ^= 1;
    assert!(matches!(refusal(&batch), ProduceRefusal::Crc { .. }));
}

#[test]
fn the_size_limit_counts_the_whole_batch() {
    let batch = good(1);
    let size = u32::try_from(batch.len()).unwrap();
    assert!(check_produced(&batch, &ProduceRules { max_message_bytes: size, ..RULES }).is_ok());
    let rules = ProduceRules { max_message_bytes: size - 1, ..RULES };
    let expected = ProduceRefusal::TooLarge { bytes: batch.len(), limit: size - 1 };
    assert_eq!(check_produced(&batch, &rules).unwrap_err(), expected);
}

#[test]
fn timestamps_outside_their_range_are_refused_unless_the_broker_stamps() {
    let late = patched(good(1), AT_MAX_TIMESTAMP, &(RULES.now_ms + 3_600_001).to_be_bytes());
    assert!(matches!(refusal(&late), ProduceRefusal::Timestamp { .. }));
    assert!(check_produced(&late, &ProduceRules { log_append_time: true, ..RULES }).is_ok());
    let early = patched(good(1), AT_BASE_TIMESTAMP, &1_i64.to_be_bytes());
    assert!(check_produced(&early, &RULES).is_ok());
    let rules = ProduceRules { timestamp_before_max_ms: 1_000, ..RULES };
    assert!(matches!(check_produced(&early, &rules), Err(ProduceRefusal::Timestamp { .. })));
    let none = patched(good(1), AT_MAX_TIMESTAMP, &(-1_i64).to_be_bytes());
    let none = patched(none, AT_BASE_TIMESTAMP, &(-1_i64).to_be_bytes());
    assert!(check_produced(&none, &rules).is_ok());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = BatchHeader::parse(&bytes);
        let _ = check_produced(&bytes, &RULES);
    }

    #[test]
    fn a_flipped_bit_never_passes_as_another_batch(bit in 0..8_usize, at in 0..200_usize) {
        let batch = good(5);
        let at = at % batch.len();
        // Base offset is checked, the leader epoch means nothing.
        prop_assume!(!(AT_LEADER_EPOCH..AT_MAGIC).contains(&at));
        let mut flipped = batch;
        flipped[at] ^= 1 << bit;
        prop_assert!(check_produced(&flipped, &RULES).is_err());
    }
}
