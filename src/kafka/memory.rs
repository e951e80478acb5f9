//! Memory for request frames, taken as their bytes arrive: a client that announces much and sends
//! little holds little.
//!
//! Frames that are half there could hold the whole budget, each waiting for the rest. So one
//! frame at a time may go on without; small frames, once they are whole, have bytes of their own that
//! no half frame can take; and while half frames hold most of the budget and others wait, those that
//! get no further are closed, and of those that wait for each other the older ones ([`HalfFrames`]).
//! Whole frames that wait for the disk are back-pressure, and close nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::kafka::half_frames::{HalfFrames, ROUND};
use crate::runtime::{ByteBudget, BytePermit};

/// The memory of all connections; cheap to clone.
#[derive(Clone)]
pub(crate) struct FrameMemory {
    budget: ByteBudget,
    small: ByteBudget,
    overdraft: Arc<Semaphore>,
    /// Bytes of the budget that frames hold which are not whole yet.
    arriving: Arc<AtomicUsize>,
    /// Those of them that wait for more.
    half: Arc<Mutex<HalfFrames>>,
    /// The number of the next frame.
    next: Arc<AtomicU64>,
}

/// Small frames get this share of all memory on top of it.
const SMALL_SHARE: usize = 8;

/// What one frame holds of it.
#[derive(Default)]
pub(crate) struct Share {
    permits: Vec<BytePermit>,
    bytes: usize,
    overdraft: Option<OwnedSemaphorePermit>,
    arriving: Option<Arriving>,
    /// In the order in which frames took their first bytes.
    number: u64,
}

/// Counts the bytes of a frame that is not whole yet.
struct Arriving {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A half frame that waits, while it does.
struct Waiting<'a> {
    half: &'a Mutex<HalfFrames>,
    number: u64,
}

impl<'a> Waiting<'a> {
    fn new(half: &'a Mutex<HalfFrames>, number: u64) -> Self {
        half.lock().wait(number);
        Self { half, number }
    }

    fn gives_way(&self) -> bool {
        self.half.lock().gives_way(self.number, Instant::now())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.half.lock().leave(self.number);
    }
}

impl Share {
    /// The frame is there.
    pub(crate) fn whole(&mut self) {
        self.arriving = None;
    }
}

impl FrameMemory {
    /// `bytes` for all frames, and one frame beyond.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            budget: ByteBudget::new(bytes),
            small: ByteBudget::new(bytes / SMALL_SHARE),
            overdraft: Arc::new(Semaphore::new(1)),
            arriving: Arc::default(),
            half: Arc::default(),
            next: Arc::default(),
        }
    }

    fn give(&self, share: &mut Share, permit: BytePermit, bytes: usize) {
        let more = bytes - share.bytes;
        if share.bytes == 0 {
            share.number = self.next.fetch_add(1, Ordering::Relaxed);
        }
        let all = &self.arriving;
        let arriving =
            share.arriving.get_or_insert_with(|| Arriving { bytes: 0, all: Arc::clone(all) });
        arriving.bytes += more;
        all.fetch_add(more, Ordering::Relaxed);
        share.permits.push(permit);
        share.bytes = bytes;
    }

    /// True if others wait for the bytes that `share`, a half frame's, holds.
    pub(crate) fn is_wanted(&self, share: &Share) -> bool {
        share.bytes > 0 && self.budget.is_short() && self.is_half_frames()
    }

    /// True if most of the budget is held by frames that are not whole.
    fn is_half_frames(&self) -> bool {
        2 * self.arriving.load(Ordering::Relaxed) >= self.budget.capacity_bytes()
    }

    /// Waits for the bytes of a whole frame that needed none while it came: it is small.
    pub(crate) async fn hold_small(&self, share: &mut Share, bytes: usize) {
        let permit = tokio::select! {
            biased;
            permit = self.budget.acquire(bytes) => permit,
            permit = self.small.acquire(bytes) => permit,
        };
        share.permits.push(permit);
        share.bytes = bytes;
    }

    /// Bytes held at this moment.
    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> usize {
        self.budget.used_bytes()
    }

    /// Waits until `share` stands for `bytes`, at most half of the budget: were a frame to need
    /// all of it, it would wait until every other request is answered. False if the
    /// frame must be closed instead. Cancel safe.
    pub(crate) async fn grow(&self, share: &mut Share, bytes: usize) -> bool {
        let bytes = bytes.min(self.budget.capacity_bytes() / 2);
        if bytes <= share.bytes || share.overdraft.is_some() {
            return true;
        }
        if let Some(permit) = self.budget.try_acquire(bytes - share.bytes) {
            self.give(share, permit, bytes);
            return true;
        }
        let waiting = (share.bytes > 0).then(|| Waiting::new(&self.half, share.number));
        let permit = self.budget.acquire(bytes - share.bytes);
        let token = Arc::clone(&self.overdraft).acquire_owned();
        // Each keeps its place in the queue.
        tokio::pin!(permit, token);
        loop {
            tokio::select! {
                biased;
                permit = &mut permit => {
                    self.give(share, permit, bytes);
                    return true;
                }
                token = &mut token, if waiting.is_some() => {
                    share.overdraft = token.ok();
                    return true;
                }
                () = tokio::time::sleep(ROUND), if waiting.is_some() => {
                    if self.is_half_frames() && waiting.as_ref().is_some_and(Waiting::gives_way) {
                        return false;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_share_grows_with_what_is_there_and_comes_back() {
        let memory = FrameMemory::new(1 << 20);
        let mut share = Share::default();
        for bytes in [1_000, 500, 8_000, 4 << 20] {
            memory.grow(&mut share, bytes).await;
        }
        assert_eq!(memory.used_bytes(), 512 << 10, "half at most");
        drop(share);
        assert_eq!(memory.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_small_whole_frame_waits_for_no_half_frame() {
        let memory = FrameMemory::new(1 << 20);
        let (mut half, mut other) = (Share::default(), Share::default());
        memory.grow(&mut half, 512 << 10).await;
        memory.grow(&mut other, 512 << 10).await;
        assert!(!memory.is_wanted(&half), "nobody asked for more yet");
        let mut small = Share::default();
        timeout(SOON, memory.hold_small(&mut small, 8 << 10)).await.unwrap();
        assert!(memory.is_wanted(&half));
        assert!(!memory.is_wanted(&Share::default()), "it holds nothing");
    }

    #[tokio::test]
    async fn of_frames_that_wait_for_each_other_one_goes_on() {
        let memory = FrameMemory::new(1 << 20);
        let (mut one, mut other, mut third) =
            (Share::default(), Share::default(), Share::default());
        memory.grow(&mut one, 512 << 10).await;
        memory.grow(&mut other, 400 << 10).await;
        memory.grow(&mut third, 112 << 10).await;
        memory.grow(&mut other, 500 << 10).await;
        assert!(timeout(SOON, memory.grow(&mut third, 500 << 10)).await.is_err(), "one at a time");
        let mut fresh = Share::default();
        assert!(timeout(SOON, memory.grow(&mut fresh, 1)).await.is_err(), "who has nothing waits");
        let later = 2 * ROUND + ROUND / 2;
        let wait = timeout(later, memory.grow(&mut third, 500 << 10));
        assert!(wait.await.is_err(), "the others do not wait: they go on, or are closed as slow");
        drop(other);
        memory.grow(&mut third, 500 << 10).await;
        memory.grow(&mut fresh, 1).await;
    }

    #[tokio::test]
    async fn of_frames_that_wait_for_each_other_the_older_ones_give_way() {
        let memory = FrameMemory::new(1 << 20);
        let mut shares: [Share; 4] = Default::default();
        for share in &mut shares {
            memory.grow(share, 256 << 10).await;
        }
        let [holder, first, second, last] = &mut shares;
        memory.grow(holder, 300 << 10).await;
        let wanted = 400 << 10;
        let later = 3 * ROUND + ROUND / 2;
        let half = async {
            let ends = tokio::join!(
                async {
                    let goes_on = memory.grow(first, wanted).await;
                    *first = Share::default();
                    goes_on
                },
                async {
                    let goes_on = memory.grow(second, wanted).await;
                    second.whole();
                    goes_on
                },
                memory.grow(last, wanted),
            );
            assert_eq!(ends, (false, true, true), "what the first held is enough for one");
        };
        // What the second needs comes free when the slow holder is closed.
        let close = async {
            tokio::time::sleep(2 * ROUND + ROUND / 4).await;
            *holder = Share::default();
        };
        timeout(later, async { tokio::join!(half, close) }).await.unwrap();
    }

    #[tokio::test]
    async fn whole_frames_close_nobody() {
        let memory = FrameMemory::new(1 << 20);
        let mut shares: [Share; 4] = Default::default();
        for (share, kib) in shares.iter_mut().zip([300, 300, 200, 200]) {
            memory.grow(share, kib << 10).await;
        }
        let [whole, holder, first, second] = &mut shares;
        memory.grow(holder, 400 << 10).await;
        // What is whole ends by itself.
        whole.whole();
        holder.whole();
        let later = 2 * ROUND + ROUND / 2;
        let both =
            async { tokio::join!(memory.grow(first, 400 << 10), memory.grow(second, 400 << 10)) };
        assert!(timeout(later, both).await.is_err());
    }
}
