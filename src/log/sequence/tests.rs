use bytes::Bytes;

use super::*;
use crate::log::handle::prepare;
use crate::log::testing::{FakeState, P};

fn frame(kind: FrameKind, partition: PartitionId, producer_id: i64) -> FrameDraft {
    FrameDraft {
        kind,
        partition,
        base_offset: 0,
        record_count: 2,
        producer_id,
        producer_epoch: 0,
        base_sequence: 0,
        max_timestamp: 0,
        moved_ms: None,
        ext: Bytes::new(),
        payload: Bytes::new(),
    }
}

#[test]
fn state_frames_pass_alone_and_between_records() {
    let (shared, mut parts) = prepare(Arc::new(FakeState::default()), Vec::new());
    shared.insert(P, 0, 0, 0);
    let mut alone = [frame(FrameKind::State, PartitionId(0), -1)];
    assert_eq!(parts.sequence.assign(&mut alone, 1), Verdict::Write);
    let mut chain = [
        frame(FrameKind::HttpRecords, P, -1),
        frame(FrameKind::State, PartitionId(0), -1),
        frame(FrameKind::HttpRecords, P, -1),
    ];
    assert_eq!(parts.sequence.assign(&mut chain, 1), Verdict::Write);
    assert_eq!(chain.map(|frame| frame.base_offset), [0, 0, 2]);
}

#[test]
fn a_refused_chain_counts_nothing() {
    let (shared, mut parts) = prepare(Arc::new(FakeState::default()), Vec::new());
    shared.insert(P, 0, 0, 0);
    let mut chain =
        [frame(FrameKind::HttpRecords, P, -1), frame(FrameKind::HttpRecords, PartitionId(9), -1)];
    let verdict = parts.sequence.assign(&mut chain, 1);
    assert_eq!(verdict, Verdict::Reject(Refusal::UnknownPartition as u16));
    let mut one = [frame(FrameKind::Records, P, 5)];
    assert_eq!(parts.sequence.assign(&mut one, 7), Verdict::Write);
    assert_eq!(one[0].base_offset, 0);
    let duplicate = Verdict::Duplicate { base_offset: 0, append_ms: 7 };
    assert_eq!(parts.sequence.assign(&mut one, 9), duplicate);
}

#[test]
fn a_removed_partition_is_unknown_even_if_its_state_is_loaded() {
    let (shared, mut parts) = prepare(Arc::new(FakeState::default()), Vec::new());
    shared.insert(P, 0, 0, 0);
    let mut one = [frame(FrameKind::Records, P, -1)];
    assert_eq!(parts.sequence.assign(&mut one, 1), Verdict::Write);
    shared.remove(&[P]);
    let unknown = Verdict::Reject(Refusal::UnknownPartition as u16);
    assert_eq!(parts.sequence.assign(&mut one, 1), unknown);
}
