//! One limit: so much in a second. A second's worth of it is there at once, and comes back in a
//! second.
//!
//! Whoever asks while anything is left may take as much as they need, and what is not there is
//! owed: until it has come back, nobody gets anything. So on average the limit holds, and whatever
//! is larger than what is there, or than the whole bucket, has its turn like anything else.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

const SECOND_NS: u64 = 1_000_000_000;
/// A bucket is divided into so many cells at most: one of them takes a microsecond to come back, of
/// which the library knows whole nanoseconds only.
const CELLS_MAX: u64 = 1_000_000;
/// Nobody waits longer than that, whatever was taken: a limit that was set too low by mistake would
/// hold for days after it was corrected.
const DEBT_MAX_NS: u64 = 3_600 * SECOND_NS;

/// What tells the time, in nanoseconds that only grow.
pub(super) type Time = Arc<dyn Fn() -> u64 + Send + Sync>;

struct Ticks(Time);

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        (self.0)().into()
    }
}

/// When the bucket is full again if nothing more is taken, counted from when it was made. The
/// library takes one cell and knows no debt; how much longer what is taken besides needs, in
/// nanoseconds, is its key.
#[derive(Clone, Default)]
struct FullAt(Arc<InMemoryState>);

impl StateStore for FullAt {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, beyond_ns: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(&NotKeyed::NonKey, |at| {
            let (taken, next) = decide(at)?;
            Ok((taken, Nanos::from(next.as_u64().saturating_add(*beyond_ns))))
        })
    }
}

impl FullAt {
    fn get_ns(&self) -> u64 {
        let look = |at: Option<Nanos>| Err::<((), Nanos), _>(at.map_or(0, Nanos::as_u64));
        self.0.measure_and_replace(&NotKeyed::NonKey, look).err().unwrap_or(0)
    }

    fn change(&self, next_ns: impl Fn(u64) -> u64) {
        let change = |at: Option<Nanos>| {
            let next = Nanos::from(next_ns(at.map_or(0, Nanos::as_u64)));
            Ok::<_, std::convert::Infallible>(((), next))
        };
        let Ok(()) = self.0.measure_and_replace(&NotKeyed::NonKey, change);
    }
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// The limit, in a second.
    pub(super) limit: u64,
    /// What is there.
    pub(super) left: u64,
    /// When all of it is there again, in seconds, rounded up.
    pub(super) full_in_s: u64,
}

/// See the head of the file.
pub(super) struct Bucket {
    limit: u64,
    /// How much a cell is.
    unit: u64,
    cells: u64,
    /// How long a cell takes to come back.
    cell_ns: u64,
    full_at: FullAt,
    made_ns: u64,
    limiter: RateLimiter<u64, FullAt, Ticks, NoOpMiddleware<Nanos>>,
}

impl Bucket {
    /// A full one, of `limit` in a second.
    pub(super) fn new(limit: NonZeroU64, time: &Time) -> Self {
        let limit = limit.get();
        let unit = limit.div_ceil(CELLS_MAX);
        let cells = limit / unit;
        let burst = u32::try_from(cells).ok().and_then(NonZeroU32::new);
        let quota = Quota::per_second(burst.unwrap_or(NonZeroU32::MIN));
        let (full_at, made_ns) = (FullAt::default(), time());
        let limiter = RateLimiter::new(quota, full_at.clone(), Ticks(Arc::clone(time)));
        Self { limit, unit, cells, cell_ns: SECOND_NS / cells, full_at, made_ns, limiter }
    }

    fn cost_ns(&self, amount: u64) -> u64 {
        let cells = amount.max(1).div_ceil(self.unit);
        cells.saturating_mul(self.cell_ns).min(DEBT_MAX_NS.max(self.cell_ns))
    }

    /// What `amount` takes beyond one cell.
    fn beyond_ns(&self, amount: u64) -> u64 {
        self.cost_ns(amount) - self.cell_ns
    }

    fn now_ns(&self) -> u64 {
        self.limiter.clock().now().as_u64().saturating_sub(self.made_ns)
    }

    /// Takes `amount`, or what is there of it and the rest as a debt; at least one unit.
    ///
    /// # Errors
    /// Nothing is there; how long that lasts, unless others take it.
    pub(super) fn take(&self, amount: u64) -> Result<(), Duration> {
        let taken = self.limiter.check_key(&self.beyond_ns(amount));
        taken.map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }

    /// Something of `had`, taken before it was known how much it is, turned out to be `has`.
    pub(super) fn correct(&self, had: u64, has: u64) {
        let (now_ns, had_ns, has_ns) = (self.now_ns(), self.cost_ns(had), self.cost_ns(has));
        if let Some(more_ns) = has_ns.checked_sub(had_ns).filter(|more_ns| *more_ns > 0) {
            // Many may be on their way at once; together they owe no more than one of them may.
            let most_ns = now_ns.saturating_add(DEBT_MAX_NS);
            self.full_at
                .change(|at_ns| at_ns.max(now_ns).saturating_add(more_ns).min(most_ns.max(at_ns)));
        } else if has_ns < had_ns {
            self.full_at.change(|at_ns| at_ns.saturating_sub(had_ns - has_ns));
        }
    }

    /// Puts back `amount` that was taken for nothing.
    pub(super) fn give_back(&self, amount: u64) {
        let cost_ns = self.cost_ns(amount);
        self.full_at.change(|at_ns| at_ns.saturating_sub(cost_ns));
    }

    /// What is left.
    pub(super) fn left(&self) -> Left {
        let missing_ns = self.full_at.get_ns().saturating_sub(self.now_ns());
        let cells = self.cells.saturating_sub(missing_ns.div_ceil(self.cell_ns));
        let left = if missing_ns == 0 { self.limit } else { cells * self.unit };
        Left { limit: self.limit, left, full_in_s: missing_ns.div_ceil(SECOND_NS) }
    }

    /// True if it is as a new one would be.
    pub(super) fn is_full(&self) -> bool {
        self.full_at.get_ns() <= self.now_ns()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    /// A bucket, and the clock that it goes by.
    fn bucket(limit: u64) -> (Bucket, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        clock.advance(ms(1_234));
        let ticks = clock.clone();
        let time: Time = Arc::new(move || ticks.now().as_u64());
        (Bucket::new(NonZeroU64::new(limit).unwrap(), &time), clock)
    }

    fn left(bucket: &Bucket) -> (u64, u64) {
        let left = bucket.left();
        (left.left, left.full_in_s)
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_seconds_worth_is_there_at_once_and_comes_back_in_a_second() {
        let (requests, clock) = bucket(10);
        assert_eq!(left(&requests), (10, 0));
        for rest in (0..10).rev() {
            assert_eq!(requests.take(1), Ok(()));
            assert_eq!(left(&requests), (rest, 1));
        }
        assert_eq!(requests.take(1), Err(ms(100)));
        assert_eq!(left(&requests), (0, 1), "a refusal takes nothing");
        clock.advance(ms(99));
        assert_eq!(requests.take(1), Err(ms(1)));
        clock.advance(ms(1));
        assert_eq!(requests.take(1), Ok(()));
        assert!(requests.take(1).is_err());
        clock.advance(ms(500));
        assert_eq!((left(&requests), requests.is_full()), ((5, 1), false));
        clock.advance(ms(60_000));
        assert_eq!((left(&requests), requests.is_full()), ((10, 0), true), "never more than that");
    }

    #[test]
    fn one_in_a_second_is_one_at_once() {
        let (requests, clock) = bucket(1);
        assert_eq!(requests.take(1), Ok(()));
        assert_eq!(requests.take(1), Err(ms(1_000)));
        clock.advance(ms(1_000));
        assert_eq!(requests.take(1), Ok(()));
    }

    #[test]
    fn what_is_larger_than_the_bucket_is_taken_and_owed() {
        let (bytes, clock) = bucket(1_000);
        assert_eq!(bytes.take(3_500), Ok(()));
        assert_eq!(left(&bytes), (0, 4));
        assert_eq!(bytes.take(1), Err(ms(2_501)), "the debt, and a byte");
        clock.advance(ms(2_501));
        assert_eq!(bytes.take(500), Ok(()), "what is left may be taken above");
        assert_eq!(bytes.take(1), Err(ms(500)));
        // One of another size gets its turn as soon as a small one would: it does not starve.
        clock.advance(ms(500));
        assert_eq!(bytes.take(1_000_000), Ok(()));
    }

    #[test]
    fn nothing_is_owed_for_more_than_an_hour() {
        let (bytes, clock) = bucket(1);
        assert_eq!(bytes.take(u64::MAX), Ok(()));
        assert_eq!(left(&bytes), (0, 3_600));
        // Nor is it if many were let in before the first of them was counted.
        for _ in 0..100 {
            bytes.correct(1, u64::MAX);
            assert_eq!(left(&bytes), (0, 3_600));
        }
        clock.advance(ms(3_600_000));
        assert_eq!(bytes.take(1), Ok(()));
    }

    #[test]
    fn what_was_not_known_is_owed_and_what_was_for_nothing_comes_back() {
        let (bytes, clock) = bucket(100);
        assert_eq!(bytes.take(40), Ok(()));
        bytes.correct(40, 40);
        assert_eq!(left(&bytes), (60, 1));
        bytes.correct(40, 251);
        assert_eq!(left(&bytes), (0, 3));
        assert_eq!(bytes.take(1), Err(ms(1_520)));
        bytes.correct(251, 30);
        assert_eq!(left(&bytes), (70, 1));
        bytes.correct(30, 0);
        assert_eq!(left(&bytes), (99, 1), "at least one unit");
        // What came back by itself meanwhile does not come back twice.
        clock.advance(ms(5_000));
        bytes.correct(900, 0);
        assert_eq!(left(&bytes), (100, 0));
        let (other, _) = bucket(100);
        assert_eq!((other.take(30), other.take(500)), (Ok(()), Ok(())));
        other.give_back(500);
        assert_eq!(left(&other), (70, 1));
        other.give_back(30);
        assert_eq!(left(&other), (100, 0));
    }

    #[test]
    fn large_limits_are_kept_too() {
        for limit in [1_000_001, 300 << 20, 5 << 30, i64::MAX as u64] {
            let (bytes, clock) = bucket(limit);
            assert_eq!(bytes.left().left, limit);
            assert_eq!(bytes.take(limit), Ok(()));
            clock.advance(ms(500));
            let half = bytes.left().left;
            assert!(half.abs_diff(limit / 2) <= limit / 100, "{limit}: {half}");
        }
    }

    proptest! {
        /// In any time nobody takes more than what came in it, a second's worth, and one request.
        #[test]
        fn the_limit_holds_on_average(
            limit in 1_u64..5_000,
            steps in proptest::collection::vec((0_u64..700, 1_u64..9_000), 1..60),
        ) {
            let ((bucket, clock), mut taken, mut time_ms, mut last) = (bucket(limit), 0, 0, 0);
            for (pause_ms, amount) in steps {
                clock.advance(ms(pause_ms));
                time_ms += pause_ms;
                if bucket.take(amount).is_ok() {
                    prop_assert!(taken <= limit + limit * time_ms / 1_000 + 1);
                    taken += amount;
                    last = amount;
                }
            }
            prop_assert!(taken <= limit + limit * time_ms / 1_000 + 1 + last);
        }
    }
}
