//! Requests that count once: who is first, who repeats, who must wait. Pure rules over plain
//! state, and the lock around it.
//!
//! What a request did is remembered by the store, which learns it from the frames of its events.
//! Here is only what the store does not know yet: requests under way, and those that are in the
//! log but not applied.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::Lsn;

/// A request under way or not applied yet.
#[derive(Debug)]
enum Entry<R> {
    /// Under way; what it was before, if that is not applied yet.
    InFlight { before: Option<(Arc<R>, Lsn)> },
    /// In the log up to `end`.
    Logged { record: Arc<R>, end: Lsn },
}

/// What is known of a key before the store is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known<R> {
    /// Nothing; it is in flight from now on.
    Fresh,
    /// A request with it is under way.
    InFlight,
    /// The last request with it.
    Logged(Arc<R>),
}

/// Keys that the store does not know yet. No more than there are requests under way and appends
/// that are not applied, both of which are bounded.
#[derive(Debug)]
struct Pending<K, R> {
    entries: HashMap<K, Entry<R>>,
    /// Logged entries by when they are applied.
    logged: VecDeque<(Lsn, K)>,
}

impl<K: Hash + Eq + Clone, R> Pending<K, R> {
    fn new() -> Self {
        Self { entries: HashMap::new(), logged: VecDeque::new() }
    }

    /// Forgets what the store knows by now: all that ends at or below `applied`.
    fn forget(&mut self, applied: Lsn) {
        while let Some((end, key)) = self.logged.front()
            && *end <= applied
        {
            // A later request with the same key has an entry of its own in the list.
            let same =
                |entry: &Entry<R>| matches!(entry, Entry::Logged { end: at, .. } if at == end);
            if self.entries.get(key).is_some_and(same) {
                self.entries.remove(key);
            }
            self.logged.pop_front();
        }
    }

    fn begin(&mut self, key: &K) -> Known<R> {
        match self.entries.get(key) {
            Some(Entry::InFlight { .. }) => Known::InFlight,
            Some(Entry::Logged { record, .. }) => Known::Logged(Arc::clone(record)),
            None => {
                self.entries.insert(key.clone(), Entry::InFlight { before: None });
                Known::Fresh
            }
        }
    }

    /// Takes a key that may be logged; false while it is in flight.
    fn retake(&mut self, key: &K) -> bool {
        let before = match self.entries.get(key) {
            Some(Entry::InFlight { .. }) => return false,
            Some(Entry::Logged { record, end }) => Some((Arc::clone(record), *end)),
            None => None,
        };
        self.entries.insert(key.clone(), Entry::InFlight { before });
        true
    }

    fn settle(&mut self, key: K, record: R, end: Lsn) {
        self.log(key, Arc::new(record), end);
    }

    fn log(&mut self, key: K, record: Arc<R>, end: Lsn) {
        self.entries.insert(key.clone(), Entry::Logged { record, end });
        // Told in order of position but for the threads that tell; the list stays sorted.
        let at = self.logged.partition_point(|(other, _)| *other <= end);
        self.logged.insert(at, (end, key));
    }

    fn release(&mut self, key: &K) {
        if let Some(Entry::InFlight { before }) = self.entries.remove(key)
            && let Some((record, end)) = before
        {
            // If it is applied by now, the next look forgets it.
            self.log(key.clone(), record, end);
        }
    }
}

/// [`Pending`] behind a lock; cheap to clone.
#[derive(Debug)]
pub(super) struct Latch<K, R>(Arc<Mutex<Pending<K, R>>>);

impl<K, R> Clone for Latch<K, R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq + Clone, R> Latch<K, R> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Pending::new())))
    }

    /// Takes `key` if nothing is known of it here; `applied` is how far the store is. The store is
    /// to be asked after a hold was given: while it lasts nobody else changes what it knows.
    pub(super) fn begin(&self, key: &K, applied: Lsn) -> (Known<R>, Option<Hold<K, R>>) {
        let mut pending = self.0.lock();
        pending.forget(applied);
        let known = pending.begin(key);
        drop(pending);
        let hold = matches!(known, Known::Fresh).then(|| self.hold(key));
        (known, hold)
    }

    /// Takes `key` although a record of it is known; none while it is in flight.
    pub(super) fn retake(&self, key: &K) -> Option<Hold<K, R>> {
        self.0.lock().retake(key).then(|| self.hold(key))
    }

    /// The record of a key that the store does not know yet.
    pub(super) fn logged(&self, key: &K, applied: Lsn) -> Option<Arc<R>> {
        let mut pending = self.0.lock();
        pending.forget(applied);
        match pending.entries.get(key) {
            Some(Entry::Logged { record, .. } | Entry::InFlight { before: Some((record, _)) }) => {
                Some(Arc::clone(record))
            }
            Some(Entry::InFlight { before: None }) | None => None,
        }
    }

    fn hold(&self, key: &K) -> Hold<K, R> {
        Hold { latch: self.clone(), key: Some(key.clone()) }
    }
}

/// A key in flight. Dropped, it is free again: nothing was stored.
pub(super) struct Hold<K: Hash + Eq + Clone, R> {
    latch: Latch<K, R>,
    key: Option<K>,
}

impl<K: Hash + Eq + Clone, R> Hold<K, R> {
    /// The request is in the log up to `end`.
    pub(super) fn settle(mut self, record: R, end: Lsn) {
        if let Some(key) = self.key.take() {
            self.latch.0.lock().settle(key, record, end);
        }
    }
}

impl<K: Hash + Eq + Clone, R> Drop for Hold<K, R> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.latch.0.lock().release(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_in_flight_until_it_is_settled_or_dropped() {
        let latch: Latch<u8, u8> = Latch::new();
        let (known, hold) = latch.begin(&1, Lsn(0));
        assert_eq!(known, Known::Fresh);
        assert_eq!(latch.begin(&1, Lsn(0)).0, Known::InFlight);
        drop(hold);
        let (known, hold) = latch.begin(&1, Lsn(0));
        assert_eq!(known, Known::Fresh);
        hold.unwrap().settle(9, Lsn(100));
        assert_eq!(latch.begin(&1, Lsn(99)).0, Known::Logged(Arc::new(9)));
        assert_eq!(latch.begin(&1, Lsn(100)).0, Known::Fresh, "the store knows it by now");
    }

    #[test]
    fn a_key_that_is_taken_again_is_not_forgotten_with_its_first_record() {
        let latch: Latch<u8, u8> = Latch::new();
        latch.begin(&1, Lsn(0)).1.unwrap().settle(1, Lsn(10));
        let again = latch.retake(&1).unwrap();
        assert!(latch.retake(&1).is_none());
        assert_eq!(latch.begin(&1, Lsn(10)).0, Known::InFlight);
        again.settle(2, Lsn(20));
        assert_eq!(latch.logged(&1, Lsn(10)), Some(Arc::new(2)));
        assert_eq!(latch.logged(&1, Lsn(20)), None);
    }

    /// One request as the model sees it.
    #[derive(Debug, Clone)]
    enum Step {
        Begin(u8),
        Retake(u8),
        Settle(u8),
        Drop(u8),
        Apply,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..4_u8).prop_map(Step::Begin),
            (0..4_u8).prop_map(Step::Retake),
            (0..4_u8).prop_map(Step::Settle),
            (0..4_u8).prop_map(Step::Drop),
            Just(Step::Apply),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        /// With a store that learns of requests late, the latch and the store together know at
        /// every step exactly what a single map would.
        #[test]
        fn latch_and_store_together_know_every_key(steps in steps()) {
            let latch: Latch<u8, u64> = Latch::new();
            let mut holds: BTreeMap<u8, Hold<u8, u64>> = BTreeMap::new();
            let mut model: BTreeMap<u8, u64> = BTreeMap::new();
            let (mut log, mut stored): (Vec<(u8, u64)>, BTreeMap<u8, u64>) = Default::default();
            let mut applied = 0_usize;
            for step in steps {
                let lsn = Lsn(applied as u64);
                match step {
                    Step::Begin(key) => match latch.begin(&key, lsn) {
                        (Known::InFlight, None) => prop_assert!(holds.contains_key(&key)),
                        (Known::Logged(record), None) => {
                            prop_assert_eq!(model.get(&key), Some(&*record));
                        }
                        (Known::Fresh, Some(hold)) => {
                            prop_assert!(!holds.contains_key(&key));
                            prop_assert_eq!(stored.get(&key), model.get(&key));
                            holds.insert(key, hold);
                        }
                        other => prop_assert!(false, "{:?}", other.0),
                    },
                    Step::Retake(key) => {
                        let known = latch.logged(&key, lsn);
                        let known = known.as_deref().or(stored.get(&key));
                        prop_assert_eq!(known, model.get(&key));
                        let hold = latch.retake(&key);
                        prop_assert_eq!(hold.is_none(), holds.contains_key(&key));
                        holds.extend(hold.map(|hold| (key, hold)));
                    }
                    Step::Settle(key) => {
                        if let Some(hold) = holds.remove(&key) {
                            let record = log.len() as u64 + 1;
                            log.push((key, record));
                            hold.settle(record, Lsn(record));
                            model.insert(key, record);
                        }
                    }
                    Step::Drop(key) => drop(holds.remove(&key)),
                    Step::Apply => {
                        if let Some((key, record)) = log.get(applied) {
                            stored.insert(*key, *record);
                            applied += 1;
                        }
                    }
                }
            }
        }
    }
}
