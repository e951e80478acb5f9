//! Byte budgets: memory is bounded by permits that are taken before bytes are held and given
//! back when the permit drops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One permit of the semaphore stands for this many bytes, so that budgets over 4 GiB fit.
const BYTES_PER_PERMIT: usize = 64;

/// A budget of bytes shared by many holders; cheap to clone.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    capacity_bytes: usize,
    used_bytes: Arc<AtomicUsize>,
}

/// A share of a [`ByteBudget`]; dropping it gives the bytes back.
#[derive(Debug)]
pub struct BytePermit {
    _permit: OwnedSemaphorePermit,
    bytes: usize,
    used_bytes: Arc<AtomicUsize>,
}

impl ByteBudget {
    /// A budget of `capacity_bytes`.
    pub fn new(capacity_bytes: usize) -> Self {
        let permits = capacity_bytes.div_ceil(BYTES_PER_PERMIT).max(1);
        Self {
            semaphore: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            capacity_bytes: permits * BYTES_PER_PERMIT,
            used_bytes: Arc::default(),
        }
    }

    /// Waits until `bytes` are free. A request above the whole budget waits for all of it, so
    /// that one large item can pass alone. Cancel safe.
    pub async fn acquire(&self, bytes: usize) -> BytePermit {
        let permit = Arc::clone(&self.semaphore)
            .acquire_many_owned(self.permits(bytes))
            .await
            .expect("the semaphore is never closed");
        self.permit(permit, bytes)
    }

    /// Takes `bytes` if they are free now.
    pub fn try_acquire(&self, bytes: usize) -> Option<BytePermit> {
        let permit =
            Arc::clone(&self.semaphore).try_acquire_many_owned(self.permits(bytes)).ok()?;
        Some(self.permit(permit, bytes))
    }

    /// Bytes held at this moment.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// The whole budget.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    fn permits(&self, bytes: usize) -> u32 {
        let wanted = bytes.min(self.capacity_bytes).div_ceil(BYTES_PER_PERMIT);
        u32::try_from(wanted).unwrap_or(u32::MAX)
    }

    fn permit(&self, permit: OwnedSemaphorePermit, bytes: usize) -> BytePermit {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        BytePermit { _permit: permit, bytes, used_bytes: Arc::clone(&self.used_bytes) }
    }
}

impl BytePermit {
    /// How many bytes this permit stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for BytePermit {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn permits_bound_and_come_back() {
        let budget = ByteBudget::new(1024);
        let first = budget.acquire(1000).await;
        assert_eq!(budget.used_bytes(), 1000);
        assert!(budget.try_acquire(100).is_none());
        drop(first);
        assert_eq!(budget.used_bytes(), 0);
        let whole = budget.acquire(1 << 40).await;
        assert!(budget.try_acquire(1).is_none());
        drop(whole);
    }
}
