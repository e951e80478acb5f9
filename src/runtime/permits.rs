//! Byte budgets: memory is bounded by permits that are taken before bytes are held and given
//! back when the permit drops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// One permit of the semaphore stands for this many bytes, so that budgets over 4 GiB fit.
const BYTES_PER_PERMIT: usize = 64;

/// A budget is short of bytes for this long after it could not give some.
const SHORT_FOR: Duration = Duration::from_secs(1);

/// Shortest and longest time over which the rate of what is given back is told.
const RATE_WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(10);

/// Longest wait that is foretold, seconds.
const BACK_IN_S_MAX: u64 = 30;

/// A budget of bytes shared by many holders; cheap to clone.
#[derive(Clone, Debug)]
pub struct ByteBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    semaphore: Semaphore,
    capacity_bytes: usize,
    /// Bytes that are held,
    used_bytes: AtomicUsize,
    /// and all that were given back.
    freed_bytes: AtomicU64,
    demand: Demand,
}

/// Who did not get what they asked for.
#[derive(Debug)]
struct Demand {
    waiting: AtomicUsize,
    began: Instant,
    /// When somebody went without, in milliseconds since `began`, plus one; 0 is never.
    last_ms: AtomicU64,
    rate: Mutex<Rate>,
}

/// How fast bytes are given back, seen whenever somebody asks.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    /// When it was seen last, and what had been given back by then.
    seen: Option<(Instant, u64)>,
    /// None until it was seen twice, not too far apart.
    bytes_per_s: Option<f64>,
}

impl Rate {
    /// Whole seconds, 1 to [`BACK_IN_S_MAX`], in which `used` bytes come back. `freed` is all that
    /// came back so far.
    fn back_in_s(&mut self, used: u64, freed: u64, now: Instant) -> u64 {
        let since = self.seen.map(|(at, before)| (now.saturating_duration_since(at), before));
        match since {
            // Another look at the same moment tells nothing new.
            Some((passed, _)) if passed < *RATE_WINDOW.start() => {}
            Some((passed, before)) if RATE_WINDOW.contains(&passed) => {
                let freed_bytes = freed.saturating_sub(before) as f64;
                *self = Self {
                    seen: Some((now, freed)),
                    bytes_per_s: Some(freed_bytes / passed.as_secs_f64()),
                };
            }
            _ => *self = Self { seen: Some((now, freed)), bytes_per_s: None },
        }
        let Some(rate) = self.bytes_per_s else { return 1 };
        // What is not a number or too large ends at the bound.
        ((used as f64 / rate).ceil() as u64).clamp(1, BACK_IN_S_MAX)
    }
}

/// Counts one who waits, while it does.
struct Waiting<'a>(&'a Demand);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Demand {
    fn wait(&self) -> Waiting<'_> {
        self.unmet();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn unmet(&self) {
        self.last_ms.store(self.now_ms() + 1, Ordering::Relaxed);
    }
}

/// A share of a [`ByteBudget`]; dropping it gives the bytes back.
#[derive(Debug)]
pub struct BytePermit {
    budget: ByteBudget,
    /// Of the semaphore.
    permits: u32,
    bytes: usize,
}

impl ByteBudget {
    /// A budget of `capacity_bytes`.
    pub fn new(capacity_bytes: usize) -> Self {
        let permits = capacity_bytes.div_ceil(BYTES_PER_PERMIT).max(1);
        Self(Arc::new(Budget {
            semaphore: Semaphore::new(permits.min(Semaphore::MAX_PERMITS)),
            capacity_bytes: permits * BYTES_PER_PERMIT,
            used_bytes: AtomicUsize::new(0),
            freed_bytes: AtomicU64::new(0),
            demand: Demand {
                waiting: AtomicUsize::new(0),
                began: Instant::now(),
                last_ms: AtomicU64::new(0),
                rate: Mutex::default(),
            },
        }))
    }

    /// Waits until `bytes` are free. A request above the whole budget waits for all of it, so
    /// that one large item can pass alone. Cancel safe.
    pub async fn acquire(&self, bytes: usize) -> BytePermit {
        if let Some(permit) = self.take(bytes) {
            return permit;
        }
        let _waiting = self.0.demand.wait();
        let permits = self.permits(bytes);
        let taken = self.0.semaphore.acquire_many(permits).await;
        taken.expect("the semaphore is never closed").forget();
        self.permit(permits, bytes)
    }

    /// Takes `bytes` if they are free now.
    pub fn try_acquire(&self, bytes: usize) -> Option<BytePermit> {
        let permit = self.take(bytes);
        if permit.is_none() {
            self.0.demand.unmet();
        }
        permit
    }

    /// True if somebody waits for bytes, or went without a moment ago: who holds some and does not
    /// use them should give them back.
    pub fn is_short(&self) -> bool {
        let demand = &self.0.demand;
        let last_ms = demand.last_ms.load(Ordering::Relaxed);
        let since = Duration::from_millis((demand.now_ms() + 1).saturating_sub(last_ms));
        demand.waiting.load(Ordering::Relaxed) > 0 || (last_ms > 0 && since < SHORT_FOR)
    }

    /// Bytes held at this moment.
    pub fn used_bytes(&self) -> usize {
        self.0.used_bytes.load(Ordering::Relaxed)
    }

    /// In how many seconds, 1 to 30, what is held now will about be given back; 1 where nothing is
    /// known. Whoever is refused can be told so.
    pub fn back_in_s(&self) -> u64 {
        let freed = self.0.freed_bytes.load(Ordering::Relaxed);
        self.0.demand.rate.lock().back_in_s(self.used_bytes() as u64, freed, Instant::now())
    }

    /// The whole budget.
    pub fn capacity_bytes(&self) -> usize {
        self.0.capacity_bytes
    }

    fn take(&self, bytes: usize) -> Option<BytePermit> {
        let permits = self.permits(bytes);
        self.0.semaphore.try_acquire_many(permits).ok()?.forget();
        Some(self.permit(permits, bytes))
    }

    fn permits(&self, bytes: usize) -> u32 {
        let wanted = bytes.min(self.0.capacity_bytes).div_ceil(BYTES_PER_PERMIT);
        u32::try_from(wanted).unwrap_or(u32::MAX)
    }

    /// For permits that were taken: one pointer instead of the semaphore's own and one for the rest.
    fn permit(&self, permits: u32, bytes: usize) -> BytePermit {
        self.0.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        BytePermit { budget: self.clone(), permits, bytes }
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
        let budget = &self.budget.0;
        budget.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        budget.freed_bytes.fetch_add(self.bytes as u64, Ordering::Relaxed);
        // A u32 fits.
        budget.semaphore.add_permits(self.permits as usize);
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

    #[tokio::test]
    async fn a_wait_is_foretold_by_what_came_back_of_late() {
        let (mut rate, begin) = (Rate::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        assert_eq!(rate.back_in_s(1_000, 0, at(0)), 1, "nothing is known");
        assert_eq!(rate.back_in_s(1_000, 900, begin + Duration::from_millis(900)), 1);
        assert_eq!(rate.back_in_s(1_000, 200, at(2)), 10, "100 bytes a second");
        assert_eq!(rate.back_in_s(250, 200, at(2)), 3, "the same rate");
        assert_eq!(rate.back_in_s(1 << 40, 300, at(3)), BACK_IN_S_MAX);
        assert_eq!(rate.back_in_s(1, 300, at(4)), BACK_IN_S_MAX, "nothing comes back");
        assert_eq!(rate.back_in_s(0, 300, at(5)), 1);
        assert_eq!(rate.back_in_s(1 << 40, 301, at(60)), 1, "that was long ago");
        let budget = ByteBudget::new(1024);
        drop(budget.acquire(1024).await);
        assert_eq!(budget.0.freed_bytes.load(Ordering::Relaxed), 1024);
        assert_eq!(budget.back_in_s(), 1);
    }

    #[tokio::test]
    async fn a_budget_is_short_while_somebody_waits_and_a_moment_longer() {
        let budget = ByteBudget::new(1024);
        let all = budget.acquire(1024).await;
        assert!(!budget.is_short());
        let later = SHORT_FOR + SHORT_FOR / 2;
        let looks = async {
            tokio::time::sleep(later).await;
            budget.is_short()
        };
        // Somebody waits until the look, however late that is.
        let was_short = tokio::select! {
            _ = budget.acquire(64) => false,
            was_short = looks => was_short,
        };
        assert!(was_short);
        assert!(!budget.is_short(), "nobody waits any more");
        assert!(budget.try_acquire(64).is_none() && budget.is_short());
        tokio::time::sleep(later).await;
        assert!(!budget.is_short());
        drop(all);
    }
}
