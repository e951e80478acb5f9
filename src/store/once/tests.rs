//! Layouts of marks and records, and the marks of frames as state, through restarts.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::store::keys;
use crate::store::testing::{Frames, Rig, records};
use crate::store::{Change, Store};

const P: PartitionId = PartitionId(1);

fn mark(partition: u32) -> KeyMark {
    KeyMark {
        scope: 0x0102,
        fingerprint: 3,
        write_id: 4,
        accepted: 5,
        rejected: 6,
        partitions: 7,
        partition,
    }
}

fn value(entry: &[u8]) -> &[u8] {
    ext::entries(entry).next().unwrap().1
}

#[test]
fn layouts_are_the_golden_ones() {
    let word = |byte: u8| [&[byte][..], &[0; 15]].concat();
    let half = |byte: u8| vec![byte, 0, 0, 0];
    let entry = mark(8).entry();
    let golden = [
        b"\x81\x41\x00\x01\x02\x01".to_vec(),
        vec![0; 14],
        word(3),
        word(4),
        half(5),
        half(6),
        half(7),
        half(8),
    ]
    .concat();
    assert_eq!(entry, golden);
    assert_eq!(KeyMark::decode(value(&entry)).unwrap(), mark(8));
    let mut record = KeyRecord::new(&mark(8), 9);
    record.add(8, 10, 11);
    let golden = [
        vec![1],
        word(3),
        word(4),
        b"\x09\0\0\0\0\0\0\0".to_vec(),
        half(5),
        half(6),
        half(7),
        half(8),
        b"\x0a\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0".to_vec(),
    ]
    .concat();
    assert_eq!(record.encode(), golden);
    let channel = ChannelMark { topic: [1; 16], name: "c".to_owned(), token: 2, partition: 3 };
    let entry = channel.entry();
    let golden =
        [b"\x82\x1e\x00\x01".to_vec(), vec![1; 16], b"\x02\0\0\0\0\0\0\0\x03\0\0\0c".to_vec()];
    assert_eq!(entry, golden.concat());
    assert_eq!(ChannelMark::decode(value(&entry)).unwrap(), channel);
    let mut record = ChannelRecord::default();
    record.add(&channel, 9, 5);
    let golden = b"\x01\x05\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x03\0\0\0\x09\0\0\0\0\0\0\0";
    assert_eq!(record.encode(), golden);
    let entry = ids_entry(&[5, 6]);
    assert_eq!(entry, [b"\x83\x21\x00\x01".to_vec(), word(5), word(6)].concat());
    let stored = encode_ids(7, value(&entry)).unwrap();
    assert_eq!(decode_ids(&stored).unwrap(), (7, vec![5, 6]));
    assert_eq!(key_of(1), [&[1][..], &[0; 15], &[1]].concat());
    assert_eq!(age_of(2, 1), [&[2][..], &[0; 7], &[2], &[0; 15], &[1]].concat());
    assert_eq!(channel_of([9; 16], "c"), [&[3][..], &[9; 16], b"c"].concat());
    assert_eq!(ids_of(P, 3), b"\x04\0\0\0\x01\0\0\0\0\0\0\0\x03");
}

#[test]
fn keys_are_read_back() {
    assert_eq!(decode_age(&age_of(77, 1 << 90)).unwrap(), (77, 1 << 90));
    assert_eq!(decode_channel(&channel_of([9; 16], "c")).unwrap(), ([9; 16], "c".to_owned()));
    assert_eq!(decode_ids_key(&ids_of(P, 3)).unwrap(), (P, 3));
}

#[test]
fn a_channel_remembers_its_newest_token_and_some_before_it() {
    let mut record = ChannelRecord::default();
    let mark =
        |token, partition| ChannelMark { topic: [0; 16], name: "c".to_owned(), token, partition };
    for token in 1..=20_u64 {
        let partition = u32::try_from(token % 2).unwrap();
        record.add(&mark(token, partition), token as i64, token as i64);
    }
    record.add(&mark(7, 0), 999, 999);
    assert_eq!((record.token(), record.updated_ms), (Some(20), 20));
    assert!(record.steps.len() <= STEPS_MAX);
    assert_eq!(record.committed(|_| 0), None);
    assert_eq!(record.committed(|_| 20), Some(20));
    // What was left out is not taken for committed.
    assert_eq!(record.committed(|partition| if partition == 0 { 20 } else { 1 }), Some(1));
    let decoded = ChannelRecord::decode(&record.encode()).unwrap();
    assert_eq!(decoded, record);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = (KeyMark::decode(&bytes), KeyRecord::decode(&bytes));
        let _ = (ChannelMark::decode(&bytes), ChannelRecord::decode(&bytes));
        let _ = (encode_ids(0, &bytes), decode_ids(&bytes));
        let _ = (decode_age(&bytes), decode_channel(&bytes), decode_ids_key(&bytes));
    }
}

fn frame(partition: u32, base: Offset, count: u32, ext: Vec<u8>) -> crate::wal::FrameDraft {
    let mut draft = records(partition, base, count);
    draft.ext = ext.into();
    draft
}

fn stored(store: &Store) -> Option<KeyRecord> {
    let value = store.get(SPACE, &key_of(mark(0).scope)).unwrap();
    value.map(|value| KeyRecord::decode(&value).unwrap())
}

fn lose_state(_: &mut Frames, dir: &Path) {
    std::fs::remove_dir_all(dir.join("state")).unwrap();
}

async fn rig() -> Rig {
    let rig = Rig::new();
    for partition in [1, 2] {
        let change = keys::create_partition(Change::new(), PartitionId(partition));
        rig.store().commit(change).await.unwrap();
    }
    rig
}

#[tokio::test]
async fn all_frames_of_a_request_make_one_record_that_outlives_state_and_events() {
    let rig = rig().await;
    rig.log
        .append_now(vec![
            frame(1, 0, 2, mark(0).entry()),
            frame(2, 0, 3, mark(1).entry()),
            frame(1, 2, 1, mark(0).entry()),
        ])
        .unwrap();
    let wanted =
        [KeySpan { partition: 0, first: 0, last: 2 }, KeySpan { partition: 1, first: 0, last: 2 }];
    let record = stored(&rig.store()).unwrap();
    assert_eq!((&record.spans[..], record.created_ms), (&wanted[..], 1_000_000));
    // Without the state, from the log.
    let rig = rig.restart(lose_state);
    assert!(rig.opened.rebuilt);
    assert_eq!(stored(&rig.store()), Some(record.clone()));
    // The events go, and the files that they were in: the snapshot has it.
    for partition in [1, 2] {
        let change = keys::put_log_start(Change::new(), PartitionId(partition), 3);
        rig.store().commit(change).await.unwrap();
    }
    rig.store().write_snapshot().unwrap();
    rig.store().commit(Change::new().put(Space::Ledger, "a", "1")).await.unwrap();
    rig.store().write_snapshot().unwrap();
    let rig = rig.restart(|frames, dir| {
        lose_state(frames, dir);
        frames.frames.retain(|frame| !frame.draft.kind.is_records());
    });
    assert_eq!(stored(&rig.store()), Some(record));
}

#[tokio::test]
async fn a_key_that_is_used_again_is_the_new_requests() {
    let rig = rig().await;
    rig.log.append_now(vec![frame(1, 0, 2, mark(0).entry())]).unwrap();
    rig.clock.advance(5);
    let again = KeyMark { write_id: 44, ..mark(1) };
    rig.log.append_now(vec![frame(2, 0, 1, again.entry())]).unwrap();
    let record = stored(&rig.store()).unwrap();
    assert_eq!((record.write_id, record.created_ms), (44, 1_000_005));
    assert_eq!(record.spans, [KeySpan { partition: 1, first: 0, last: 0 }]);
    // Each has an age, by which it is found when it is old.
    let ages = rig.store().scan(SPACE, &age_prefix()).unwrap();
    let ages: Vec<i64> = ages.iter().map(|(key, _)| decode_age(key).unwrap().0).collect();
    assert_eq!(ages, [1_000_000, 1_000_005]);
}

#[tokio::test]
async fn channels_and_ids_of_events_are_state() {
    let rig = rig().await;
    let mark = |token| ChannelMark { topic: [7; 16], name: "c".to_owned(), token, partition: 0 };
    for token in [3, 5] {
        let ext = [mark(token).entry(), ids_entry(&[u128::from(token)])].concat();
        rig.log.append_now(vec![frame(1, token as i64, 2, ext)]).unwrap();
    }
    let look = |store: &Store| {
        let channel = store.get(SPACE, &channel_of([7; 16], "c")).unwrap().unwrap();
        let ids = store.scan(SPACE, &ids_prefix()).unwrap();
        let ids: Vec<_> = ids.iter().map(|(_, ids)| decode_ids(ids).unwrap().1).collect();
        (ChannelRecord::decode(&channel).unwrap(), ids)
    };
    let before = look(&rig.store());
    assert_eq!((before.0.token(), &before.1[..]), (Some(5), &[vec![3], vec![5]][..]));
    assert_eq!(before.0.committed(|_| 5), Some(3));
    let rig = rig.restart(lose_state);
    assert_eq!(look(&rig.store()), before);
}

#[tokio::test]
async fn a_copy_of_a_frame_marks_nothing() {
    let rig = rig().await;
    rig.log.append_now(vec![frame(1, 0, 2, mark(0).entry())]).unwrap();
    rig.store().commit(Change::new().delete(SPACE, key_of(mark(0).scope))).await.unwrap();
    let mut copy = frame(1, 0, 2, mark(0).entry());
    copy.moved_ms = Some(1_000_000);
    rig.log.append_now(vec![copy]).unwrap();
    assert_eq!(stored(&rig.store()), None, "it was forgotten before its records were moved");
}
