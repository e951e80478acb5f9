//! Wall-clock time as a value that tests own. Timers use `tokio::time`, which is monotonic.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of wall-clock time; cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start_ms` (milliseconds since 1970) until [`Clock::advance`].
    pub fn manual(start_ms: i64) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start_ms))))
    }

    /// Milliseconds since 1970-01-01 UTC. May step back; nothing may rely on its order.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Source::Manual(now_ms) => now_ms.load(Ordering::Relaxed),
        }
    }

    /// Moves a manual clock by `by_ms` (negative: a step back); the system clock ignores it.
    pub fn advance(&self, by_ms: i64) {
        if let Source::Manual(now_ms) = &self.0 {
            now_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }
}
