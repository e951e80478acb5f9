//! Events that count once by an id in them: which ids were stored within a window of time.
//!
//! Owns: the window in memory, bounded in ids; who waits for whom. Does not own: how ids become
//! state ([`crate::store::once`]), where an id lies in an event (the routes).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::runtime::Clock;
use crate::store::once::{self, SPACE};
use crate::store::{self, Change, Store};
use crate::types::{Offset, PartitionId};

/// Frames that are forgotten by one change.
const FORGET_MAX: usize = 1_000;

/// How long, and how many ids.
#[derive(Debug, Clone, Copy)]
pub struct IdLimits {
    /// An id is known for so long, milliseconds.
    pub window_ms: i64,
    /// Most ids that are known; of more the oldest are forgotten. About 60 bytes each.
    pub ids_max: usize,
}

/// The ids of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdFrame {
    pub(super) partition: PartitionId,
    pub(super) base_offset: Offset,
    pub(super) append_ms: i64,
    pub(super) ids: Vec<u128>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    InFlight,
    Stored,
}

/// The rules over plain state.
#[derive(Debug)]
struct Window {
    limits: IdLimits,
    known: HashMap<u128, Entry>,
    /// By time of append.
    frames: VecDeque<IdFrame>,
    /// Ids of all frames.
    stored: usize,
    /// Frames that the store still has.
    gone: Vec<(PartitionId, Offset)>,
}

/// What a look at the ids of a request gives.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// Those are stored already, or come twice in the request: their places in the list. The
    /// others are in flight now.
    Fresh(Vec<usize>),
    /// One of them is in flight for another request.
    Wait,
}

impl Window {
    fn new(limits: IdLimits) -> Self {
        let (known, frames, gone) = (HashMap::new(), VecDeque::new(), Vec::new());
        Self { limits, known, frames, stored: 0, gone }
    }

    fn forget(&mut self, now_ms: i64) {
        let oldest_ms = now_ms - self.limits.window_ms;
        while let Some(first) = self.frames.front()
            && (first.append_ms <= oldest_ms || self.stored > self.limits.ids_max)
        {
            self.stored -= first.ids.len();
            self.gone.push((first.partition, first.base_offset));
            for id in &first.ids {
                self.known.remove(id);
            }
            self.frames.pop_front();
        }
    }

    fn take(&mut self, ids: &[u128], now_ms: i64) -> Taken {
        self.forget(now_ms);
        if ids.iter().any(|id| self.known.get(id) == Some(&Entry::InFlight)) {
            return Taken::Wait;
        }
        let mut seen = HashSet::with_capacity(ids.len());
        let mut duplicates = Vec::new();
        for (at, id) in ids.iter().enumerate() {
            if self.known.contains_key(id) || !seen.insert(*id) {
                duplicates.push(at);
            }
        }
        self.known.extend(seen.into_iter().map(|id| (id, Entry::InFlight)));
        Taken::Fresh(duplicates)
    }

    fn add(&mut self, frame: IdFrame) {
        self.known.extend(frame.ids.iter().map(|id| (*id, Entry::Stored)));
        self.stored += frame.ids.len();
        let at = self.frames.partition_point(|other| other.append_ms <= frame.append_ms);
        self.frames.insert(at, frame);
    }

    fn release(&mut self, ids: &[u128]) {
        for id in ids {
            if self.known.get(id) == Some(&Entry::InFlight) {
                self.known.remove(id);
            }
        }
    }
}

struct Shared {
    window: Mutex<Window>,
    /// Some ids are no longer in flight.
    settled: Notify,
}

/// All ids; cheap to clone.
#[derive(Clone)]
pub(super) struct EventIds {
    shared: Arc<Shared>,
    store: Store,
    clock: Clock,
}

/// Ids in flight. Dropped, they are free again: nothing was stored.
pub(super) struct IdHold {
    shared: Arc<Shared>,
    ids: Vec<u128>,
}

impl EventIds {
    pub(super) fn new(store: Store, clock: Clock, limits: IdLimits) -> Self {
        let (window, settled) = (Mutex::new(Window::new(limits)), Notify::new());
        Self { shared: Arc::new(Shared { window, settled }), store, clock }
    }

    /// Reads the window back. Blocks; before the first request.
    ///
    /// # Errors
    /// [`store::Error::Failed`].
    pub(super) fn load(&self) -> Result<(), store::Error> {
        let mut frames = Vec::new();
        self.store.for_each(SPACE, &once::ids_prefix(), |key, value| {
            let (partition, base_offset) = once::decode_ids_key(key)?;
            let (append_ms, ids) = once::decode_ids(value)?;
            frames.push(IdFrame { partition, base_offset, append_ms, ids });
            Ok(())
        })?;
        frames.sort_by_key(|frame| frame.append_ms);
        let mut window = self.shared.window.lock();
        frames.into_iter().for_each(|frame| window.add(frame));
        window.forget(self.clock.now_ms());
        Ok(())
    }

    /// Takes `ids`: the places of those that are known, or come twice, and a hold on the others.
    /// Waits while one of them is in flight for another request. Cancel safe.
    pub(super) async fn take(&self, ids: Vec<u128>) -> (Vec<usize>, IdHold) {
        loop {
            let settled = self.shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let taken = self.shared.window.lock().take(&ids, self.clock.now_ms());
            if let Taken::Fresh(duplicates) = taken {
                let mut free = ids;
                for at in duplicates.iter().rev() {
                    free.swap_remove(*at);
                }
                return (duplicates, IdHold { shared: Arc::clone(&self.shared), ids: free });
            }
            settled.await;
        }
    }

    /// Lets the store forget what the window forgot.
    ///
    /// # Errors
    /// [`store::Error`].
    pub(super) async fn forget(&self) -> Result<(), store::Error> {
        let gone = {
            let mut window = self.shared.window.lock();
            window.forget(self.clock.now_ms());
            std::mem::take(&mut window.gone)
        };
        for some in gone.chunks(FORGET_MAX) {
            let forget = |change: Change, (partition, base_offset): &(PartitionId, Offset)| {
                change.delete(SPACE, once::ids_of(*partition, *base_offset))
            };
            self.store.commit(some.iter().fold(Change::new(), forget)).await?;
        }
        Ok(())
    }
}

impl IdHold {
    /// The events of these frames are in the log.
    pub(super) fn settle(self, frames: Vec<IdFrame>) {
        let mut window = self.shared.window.lock();
        frames.into_iter().for_each(|frame| window.add(frame));
        drop(window);
        // Ids of events that were refused are released with it.
        drop(self);
    }
}

impl Drop for IdHold {
    fn drop(&mut self) {
        self.shared.window.lock().release(&self.ids);
        self.shared.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(ids_max: usize) -> Window {
        Window::new(IdLimits { window_ms: 100, ids_max })
    }

    fn frame(base_offset: Offset, append_ms: i64, ids: &[u128]) -> IdFrame {
        IdFrame { partition: PartitionId(1), base_offset, append_ms, ids: ids.to_vec() }
    }

    #[test]
    fn an_id_is_taken_once_until_the_window_has_passed() {
        let mut window = window(10);
        assert_eq!(window.take(&[1, 2, 1], 0), Taken::Fresh(vec![2]));
        assert_eq!(window.take(&[3, 2], 0), Taken::Wait);
        window.add(frame(0, 5, &[1]));
        window.release(&[1, 2]);
        assert_eq!(window.take(&[2, 1], 104), Taken::Fresh(vec![1]));
        window.release(&[2]);
        assert_eq!(window.take(&[1], 105), Taken::Fresh(vec![]));
        assert_eq!(window.gone, [(PartitionId(1), 0)]);
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many() {
        let mut window = window(4);
        for at in 0..10 {
            window.add(frame(at, at, &[at as u128 * 2, at as u128 * 2 + 1]));
        }
        window.forget(10);
        assert_eq!((window.stored, window.known.len(), window.frames.len()), (4, 4, 2));
        assert_eq!(window.gone.len(), 8);
        assert_eq!(window.take(&[19, 0], 10), Taken::Fresh(vec![0]));
    }

    proptest! {
        /// A request as a list of ids, the time that passes before it, whether it is stored.
        #[test]
        fn within_the_window_an_id_is_stored_once(
            requests in prop::collection::vec(
                (prop::collection::vec(0..12_u128, 0..6), 0..40_i64, any::<bool>()), 0..60),
        ) {
            let mut window = window(1_000);
            let mut model: HashMap<u128, i64> = HashMap::new();
            let (mut now_ms, mut offset) = (0, 0);
            for (ids, pause, is_stored) in requests {
                now_ms += pause;
                model.retain(|_, stored_ms| *stored_ms > now_ms - 100);
                let mut fresh = Vec::new();
                let mut duplicates = Vec::new();
                for (at, id) in ids.iter().enumerate() {
                    if model.contains_key(id) || fresh.contains(id) {
                        duplicates.push(at);
                    } else {
                        fresh.push(*id);
                    }
                }
                prop_assert_eq!(window.take(&ids, now_ms), Taken::Fresh(duplicates));
                if is_stored && !fresh.is_empty() {
                    model.extend(fresh.iter().map(|id| (*id, now_ms)));
                    window.add(frame(offset, now_ms, &fresh));
                    offset += 1;
                }
                window.release(&fresh);
            }
        }
    }
}
