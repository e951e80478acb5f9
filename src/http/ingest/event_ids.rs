//! Events that count once by an id in them: which ids were stored within a window of time.
//!
//! Owns: the window in memory, bounded in ids, with a part of its own for whoever sends no token; who
//! waits for whom. Does not own: how ids become state ([`crate::store::once`]), where an id lies in
//! an event (the routes).

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
    /// Most ids that are known; of more the oldest are forgotten. About 60 bytes each. Those of
    /// strangers have a part of it on top.
    pub ids_max: usize,
}

/// Ids of strangers have this share of all, on top: they push out each other's alone.
const STRANGERS_SHARE: usize = 8;
/// What tells ids of strangers from others, in what they are known by, so that a restart knows it too.
const OF_STRANGER: u128 = 1;

/// Marks what an id is known by as that of a stranger, or not.
pub(super) fn marked(hash: u128, is_stranger: bool) -> u128 {
    (hash & !OF_STRANGER) | if is_stranger { OF_STRANGER } else { 0 }
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

/// Frames whose ids are bounded together.
#[derive(Debug)]
struct Frames {
    ids_max: usize,
    /// By time of append.
    frames: VecDeque<IdFrame>,
    /// Ids of all frames.
    stored: usize,
}

impl Frames {
    fn new(ids_max: usize) -> Self {
        Self { ids_max, frames: VecDeque::new(), stored: 0 }
    }

    fn add(&mut self, frame: IdFrame) {
        self.stored += frame.ids.len();
        let at = self.frames.partition_point(|other| other.append_ms <= frame.append_ms);
        self.frames.insert(at, frame);
    }

    /// Takes out the oldest, if it is as old as this or there are too many.
    fn pop(&mut self, oldest_ms: i64) -> Option<IdFrame> {
        let is_full = self.stored > self.ids_max;
        let gone = self.frames.pop_front_if(|it| it.append_ms <= oldest_ms || is_full)?;
        self.stored -= gone.ids.len();
        Some(gone)
    }
}

/// The rules over plain state.
#[derive(Debug)]
struct Window {
    window_ms: i64,
    known: HashMap<u128, Entry>,
    /// Of senders that are known,
    named: Frames,
    /// and of strangers.
    strangers: Frames,
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
        let (known, gone) = (HashMap::new(), Vec::new());
        let named = Frames::new(limits.ids_max);
        let strangers = Frames::new(limits.ids_max.div_ceil(STRANGERS_SHARE));
        Self { window_ms: limits.window_ms, known, named, strangers, gone }
    }

    fn forget(&mut self, now_ms: i64) {
        let oldest_ms = now_ms - self.window_ms;
        while let Some(gone) = self.named.pop(oldest_ms).or_else(|| self.strangers.pop(oldest_ms)) {
            self.gone.push((gone.partition, gone.base_offset));
            for id in &gone.ids {
                self.known.remove(id);
            }
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
        // All ids of a frame came with one request.
        let is_strangers = frame.ids.first().is_some_and(|id| id & OF_STRANGER != 0);
        let frames = if is_strangers { &mut self.strangers } else { &mut self.named };
        frames.add(frame);
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
        let id = |number: i64| marked(number as u128 * 2, false);
        for at in 0..10 {
            window.add(frame(at, at, &[id(at * 2), id(at * 2 + 1)]));
        }
        window.forget(10);
        let named = &window.named;
        assert_eq!((named.stored, window.known.len(), named.frames.len()), (4, 4, 2));
        assert_eq!(window.gone.len(), 8);
        assert_eq!(window.take(&[id(19), id(0)], 10), Taken::Fresh(vec![0]));
    }

    #[test]
    fn ids_of_strangers_push_out_no_others() {
        let mut window = window(16);
        let known = marked(7, false);
        window.add(frame(0, 0, &[known]));
        for at in 1..=100 {
            window.add(frame(at, at, &[marked(at as u128 * 2, true)]));
            window.forget(50);
        }
        assert_eq!((window.named.stored, window.strangers.stored), (1, 2));
        assert_eq!(window.known.len(), 3);
        let last = marked(200, true);
        assert_eq!(window.take(&[known, last, marked(2, true)], 60), Taken::Fresh(vec![0, 1]));
        assert_ne!(marked(6, true), marked(6, false), "the same id is another of each");
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
