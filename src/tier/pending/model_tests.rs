//! What waits, against counting records; and wake-ups against threads that append.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::log::testing::P;
use crate::log::testing::Q;
use crate::log::testing::Rig;

/// A look at a partition as the worker takes it.
fn part(rig: &Rig, id: PartitionId, next: Offset) -> Part {
    let handle = rig.log.partition(id).unwrap();
    let high_watermark = handle.high_watermark();
    let bytes = bytes_from(&handle, next, high_watermark);
    Part { index: id.0 as i32, id, handle, next, high_watermark, bytes }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn waiting_bytes_and_the_oldest_record_are_those_of_the_records(
        batches in prop::collection::vec((1..6_usize, 0..50_i64), 0..12),
        trim in 0..20_i64,
        nexts in prop::collection::vec(0..70_i64, 4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let rig = Rig::new();
        // The append time of each record.
        let mut records = Vec::new();
        for (count, pause_ms) in &batches {
            rig.clock.advance(*pause_ms);
            runtime.block_on(rig.append(P, &vec![7; *count])).unwrap();
            records.extend(vec![rig.clock.now_ms(); *count]);
        }
        runtime.block_on(rig.log.raise_log_start(P, trim)).unwrap();
        let end = records.len() as i64;
        let start = trim.min(end);
        let now_ms = rig.clock.now_ms();
        let mut before = None;
        let mut nexts = nexts;
        nexts.sort_unstable();
        for next in nexts {
            let part = part(&rig, P, next);
            let waits: Vec<i64> = (next.max(start)..end).map(|at| records[at as usize]).collect();
            // Each record has an equal share of what is stored.
            let share = match waits.len() {
                0 => u64::from(end > next),
                count => (part.handle.size_bytes() * count as u64 / (end - start) as u64).max(1),
            };
            prop_assert_eq!(part.bytes, share);
            prop_assert!(before.is_none_or(|before| part.bytes <= before), "more wait for less");
            before = Some(part.bytes);
            prop_assert_eq!(part.offsets(), (end - next).max(0));
            prop_assert_eq!(part.oldest_append_ms(), waits.first().copied());
            let oldest = Oldest::find(&[part], now_ms);
            let age_ms = oldest.map(|oldest| oldest.age_ms);
            let expected = waits.first().map(|oldest_ms| now_ms - oldest_ms);
            prop_assert_eq!(age_ms, expected.or((end > next).then_some(0)));
        }
    }
}

/// The worker's loop: look, take what waits, look again, sleep. The threads are real and pause at
/// random places under a seed: `watch` channels run under no model checker.
async fn take_all(rig: &Rig, total: i64, dice: &mut StdRng) {
    let (mut next_p, mut next_q) = (0, 0);
    while next_p + next_q < total {
        let looks = [part(rig, P, next_p), part(rig, Q, next_q)];
        if looks.iter().any(|part| part.offsets() > 0) {
            [next_p, next_q] = looks.map(|part| part.high_watermark);
            continue;
        }
        pause(dice);
        let looks = [part(rig, P, next_p), part(rig, Q, next_q)];
        pause(dice);
        let slept = tokio::time::timeout(Duration::from_secs(60), woken(&looks)).await;
        assert!(slept.is_ok(), "asleep at {next_p} and {next_q} of {total}");
    }
}

fn pause(dice: &mut StdRng) {
    match dice.random_range(0..6) {
        0 => std::thread::sleep(Duration::from_micros(dice.random_range(1..80))),
        1 => std::thread::yield_now(),
        _ => {}
    }
}

#[test]
fn no_append_is_slept_through() {
    const EACH: i64 = 150;
    for seed in 0..6 {
        let rig = Rig::new();
        std::thread::scope(|scope| {
            for (number, id) in [(1, P), (2, Q)] {
                let rig = &rig;
                scope.spawn(move || {
                    let mut dice = StdRng::seed_from_u64(seed * 10 + number);
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    for _ in 0..EACH {
                        runtime.block_on(rig.append(id, &[1])).unwrap();
                        pause(&mut dice);
                    }
                });
            }
            let mut dice = StdRng::seed_from_u64(seed * 10);
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().unwrap();
            runtime.block_on(take_all(&rig, 2 * EACH, &mut dice));
        });
    }
}

#[tokio::test]
async fn a_record_that_came_before_the_last_look_wakes_too() {
    let rig = Rig::new();
    rig.append(P, &[1]).await.unwrap();
    // The look that found nothing was the one before.
    let looks = [part(&rig, P, 0), part(&rig, Q, 0)];
    let slept = tokio::time::timeout(Duration::from_secs(60), woken(&looks)).await;
    assert!(slept.is_ok(), "asleep beside a record");
}

#[test]
fn a_removed_partition_wakes_whoever_sleeps() {
    let rig = Rig::new();
    let looks = [part(&rig, P, 0)];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            futures::executor::block_on(woken(&looks));
            done.store(true, Ordering::Relaxed);
        });
        std::thread::sleep(Duration::from_millis(5));
        assert!(!done.load(Ordering::Relaxed), "nothing happened yet");
        rig.log.remove_partitions(&[P]);
    });
    assert!(done.load(Ordering::Relaxed));
}
