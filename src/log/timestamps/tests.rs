//! Lookups where the index does not say it all.

use std::sync::atomic::Ordering;

use crate::log::ReadError;
use crate::log::testing::{P, Rig, batch, one};
use crate::types::OffsetRange;

#[tokio::test]
async fn a_lookup_by_timestamp_does_not_pass_a_corrupt_frame_in_silence() {
    let rig = Rig::new();
    rig.frames.is_paused.store(true, Ordering::Relaxed);
    for timestamp in [10, 20, 30] {
        drop(rig.log.append(one(P, batch(&[timestamp]))).await.unwrap());
    }
    // One run of three frames.
    rig.frames.run();
    rig.frames.corrupt(P, 1);
    assert_eq!(rig.log.offset_for_timestamp(P, 10).await.unwrap(), Some((0, 10)));
    let error = rig.log.offset_for_timestamp(P, 25).await.unwrap_err();
    assert_eq!(error, ReadError::Corrupt(OffsetRange { base: 1, end: 2 }));
}

#[tokio::test]
async fn the_greatest_timestamp_is_one_above_the_log_start() {
    let rig = Rig::new();
    rig.append(P, &[90, 5, 7]).await.unwrap();
    rig.append(P, &[6]).await.unwrap();
    rig.log.raise_log_start(P, 1).await.unwrap();
    assert_eq!(rig.log.max_timestamp(P).await.unwrap(), Some((2, 7)));
    rig.log.raise_log_start(P, 3).await.unwrap();
    assert_eq!(rig.log.max_timestamp(P).await.unwrap(), Some((3, 6)));
}
