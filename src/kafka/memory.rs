//! Memory for request frames, taken as their bytes arrive: a client that announces much and sends
//! little holds little.
//!
//! Frames that are half there could hold the whole budget, each waiting for the rest. So one
//! frame at a time may go on without; small frames, once they are whole, have bytes of their own that
//! no half frame can take; and while half frames hold most of the budget and others wait, those that
//! get no further are closed. Whole frames that wait for the disk are back-pressure, and close nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::runtime::{ByteBudget, BytePermit};

/// The memory of all connections; cheap to clone.
#[derive(Clone)]
pub(crate) struct FrameMemory {
    budget: ByteBudget,
    small: ByteBudget,
    overdraft: Arc<Semaphore>,
    /// Bytes of the budget that frames hold which are not whole yet.
    arriving: Arc<AtomicUsize>,
}

/// A half frame waits at most this long for more memory while half frames hold most of it: were all
/// of them to wait, none would end. Its client sends it again.
const HALF_WAIT_MAX: Duration = Duration::from_secs(1);

/// Small frames get this share of all memory on top of it.
const SMALL_SHARE: usize = 8;

/// What one frame holds of it.
#[derive(Default)]
pub(crate) struct Share {
    permits: Vec<BytePermit>,
    bytes: usize,
    overdraft: Option<OwnedSemaphorePermit>,
    arriving: Option<Arriving>,
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

impl Share {
    /// The frame is there.
    pub(crate) fn whole(&mut self) {
        self.arriving = None;
    }

    fn add(&mut self, permit: BytePermit, bytes: usize, all: &Arc<AtomicUsize>) {
        let more = bytes - self.bytes;
        let arriving =
            self.arriving.get_or_insert_with(|| Arriving { bytes: 0, all: Arc::clone(all) });
        arriving.bytes += more;
        all.fetch_add(more, Ordering::Relaxed);
        self.permits.push(permit);
        self.bytes = bytes;
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
        }
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
        let holds_some = share.bytes > 0;
        let permit = self.budget.acquire(bytes - share.bytes);
        let token = Arc::clone(&self.overdraft).acquire_owned();
        // Each keeps its place in the queue.
        tokio::pin!(permit, token);
        loop {
            tokio::select! {
                biased;
                permit = &mut permit => {
                    share.add(permit, bytes, &self.arriving);
                    return true;
                }
                token = &mut token, if holds_some => {
                    share.overdraft = token.ok();
                    return true;
                }
                () = tokio::time::sleep(HALF_WAIT_MAX), if holds_some => {
                    if self.is_half_frames() {
                        return false;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert!(!memory.grow(&mut third, 500 << 10).await, "it does not wait for ever");
        one.whole();
        other.whole();
        let later = HALF_WAIT_MAX + HALF_WAIT_MAX / 2;
        let wait = timeout(later, memory.grow(&mut third, 500 << 10));
        assert!(wait.await.is_err(), "what is whole ends by itself");
        drop(other);
        memory.grow(&mut third, 500 << 10).await;
        memory.grow(&mut fresh, 1).await;
    }
}
