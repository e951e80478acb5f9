//! Acknowledgements: an id for each request that is stored, and whether it is.
//!
//! A request is answered when its events are durable, so every id that was ever given out is
//! acknowledged, and nothing need be remembered of it. Ids go on above those of earlier processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ids of one millisecond, before those of the next are taken. JavaScript still counts exactly with
/// ids of the year 2200.
const IDS_PER_MS: u64 = 1_024;

/// Gives out ids; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Acks {
    next: Arc<AtomicU64>,
}

impl Acks {
    /// Ids from `now_ms` on, milliseconds since 1970.
    pub(super) fn new(now_ms: i64) -> Self {
        let first = u64::try_from(now_ms).unwrap_or(0).saturating_mul(IDS_PER_MS);
        Self { next: Arc::new(AtomicU64::new(first)) }
    }

    /// The id of a request whose events are durable.
    pub(super) fn give(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// True if the id was given out, by this process or one before.
    pub(super) fn is_given(&self, id: u64) -> bool {
        id < self.next.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_were_given_are_acknowledged_by_later_processes_too() {
        let acks = Acks::new(1_700_000_000_000);
        let (first, second) = (acks.give(), acks.give());
        assert_eq!(second, first + 1);
        assert!(acks.is_given(first) && acks.is_given(second) && !acks.is_given(second + 1));
        let later = Acks::new(1_700_000_000_001);
        assert!(later.is_given(second));
        assert!(later.give() > second);
        let in_2200 = Acks::new(7_258_118_400_000).give();
        assert!(in_2200 < 1 << 53);
    }
}
