//! Memory for request frames, taken as their bytes arrive: a client that announces much and sends
//! little holds little.
//!
//! Frames that are half there could hold the whole budget, each waiting for the rest. So one
//! frame at a time may go on without: it ends, or is closed as stalled, and gives its bytes back.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::runtime::{ByteBudget, BytePermit};

/// The memory of all connections; cheap to clone.
#[derive(Clone)]
pub(crate) struct FrameMemory {
    budget: ByteBudget,
    overdraft: Arc<Semaphore>,
}

/// What one frame holds of it.
#[derive(Default)]
pub(crate) struct Share {
    permits: Vec<BytePermit>,
    bytes: usize,
    overdraft: Option<OwnedSemaphorePermit>,
}

impl FrameMemory {
    /// `bytes` for all frames, and one frame beyond.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { budget: ByteBudget::new(bytes), overdraft: Arc::new(Semaphore::new(1)) }
    }

    /// Bytes held at this moment.
    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> usize {
        self.budget.used_bytes()
    }

    /// Waits until `share` stands for `bytes`, at most half of the budget: were a frame to need
    /// all of it, it would wait until every other request is answered. Cancel safe.
    pub(crate) async fn grow(&self, share: &mut Share, bytes: usize) {
        let bytes = bytes.min(self.budget.capacity_bytes() / 2);
        if bytes <= share.bytes || share.overdraft.is_some() {
            return;
        }
        let holds_some = share.bytes > 0;
        tokio::select! {
            biased;
            permit = self.budget.acquire(bytes - share.bytes) => {
                share.permits.push(permit);
                share.bytes = bytes;
            }
            token = Arc::clone(&self.overdraft).acquire_owned(), if holds_some => {
                share.overdraft = token.ok();
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
        drop(other);
        memory.grow(&mut third, 500 << 10).await;
        memory.grow(&mut fresh, 1).await;
    }
}
