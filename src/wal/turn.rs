//! Whose turn the disk is: the sequencer writes at once while nothing is being synced; what is small
//! waits for the end of a sync under way, as it could not become durable before, and one write
//! then takes all that came meanwhile. What nobody waits for is gathered for some milliseconds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// From so many bytes on a write pays beside a sync: copying them takes longer than a wake-up.
pub(crate) const WRITE_AHEAD_BYTES: u64 = 64 << 10;
/// What nobody waits for is gathered up to so many bytes: a group costs as much as dozens of
/// requests, and larger ones than this would be half a sync late for whoever comes after them.
pub(crate) const GATHER_BYTES: u64 = 256 << 10;

/// Lets the sequencer sleep through a sync without a wake-up for each request that comes.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    is_waiting: AtomicBool,
    /// The wait is for requests that nobody waits for: one that somebody waits for ends it.
    lingers: AtomicBool,
    /// Bytes that were queued since the wait began,
    arrived: AtomicU64,
    /// and how many end it.
    enough: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Turn {
    /// Waits until `is_over` says so, or until [`WRITE_AHEAD_BYTES`] more have been queued. What
    /// changes the answer of `is_over` calls [`Turn::give`] afterwards.
    pub(crate) fn wait(&self, is_over: impl Fn() -> bool) {
        self.sleep(None, is_over);
    }

    /// Waits until then, until somebody waits for a request that was queued, or until
    /// [`GATHER_BYTES`] more have been; not at all if one is `queued` by now.
    pub(crate) fn linger(&self, until: Instant, queued: impl Fn() -> bool) {
        self.sleep(Some(until), queued);
    }

    fn sleep(&self, until: Option<Instant>, is_over: impl Fn() -> bool) {
        let mut guard = self.lock.lock();
        let enough = if until.is_some() { GATHER_BYTES } else { WRITE_AHEAD_BYTES };
        self.arrived.store(0, Ordering::Relaxed);
        self.enough.store(enough, Ordering::Relaxed);
        self.lingers.store(until.is_some(), Ordering::Relaxed);
        self.is_waiting.store(true, Ordering::Relaxed);
        // Either this sees the change, or `give` and `queued` see that somebody waits.
        fence(Ordering::SeqCst);
        while !is_over() && self.arrived.load(Ordering::Relaxed) < enough {
            match until {
                None => self.changed.wait(&mut guard),
                Some(until) if self.changed.wait_until(&mut guard, until).timed_out() => break,
                Some(_) => {}
            }
        }
        self.is_waiting.store(false, Ordering::Relaxed);
    }

    /// Makes who waits look again.
    pub(crate) fn give(&self) {
        fence(Ordering::SeqCst);
        if self.is_waiting.load(Ordering::Relaxed) && !self.lingers.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Counts a request that was queued; of no bytes it is a command, which somebody waits for.
    pub(crate) fn queued(&self, bytes: u64, is_awaited: bool) {
        if is_awaited {
            fence(Ordering::SeqCst);
        }
        if self.is_waiting.load(Ordering::Relaxed) {
            let before = self.arrived.fetch_add(bytes, Ordering::Relaxed);
            let enough = self.enough.load(Ordering::Relaxed);
            let is_much = before < enough && before + bytes >= enough;
            if is_much || is_awaited && self.lingers.load(Ordering::Relaxed) {
                self.wake();
            }
        }
    }

    fn wake(&self) {
        // With the lock free the other side is asleep, or about to look.
        drop(self.lock.lock());
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Somebody who waits in a thread of its own.
    struct Waiter {
        turn: Arc<Turn>,
        over: Arc<AtomicBool>,
        looks: Arc<AtomicUsize>,
        thread: std::thread::JoinHandle<()>,
    }

    impl Waiter {
        fn start(turn: &Arc<Turn>) -> Self {
            let (turn, over) = (Arc::clone(turn), Arc::new(AtomicBool::new(false)));
            let looks = Arc::new(AtomicUsize::new(0));
            let (waits, is_over, looked) = (Arc::clone(&turn), Arc::clone(&over), looks.clone());
            let thread = std::thread::spawn(move || {
                waits.wait(|| {
                    looked.fetch_add(1, Ordering::AcqRel);
                    is_over.load(Ordering::Acquire)
                });
            });
            let waiter = Self { turn, over, looks, thread };
            waiter.see_looks(1);
            waiter
        }

        fn see_looks(&self, number: usize) {
            while self.looks.load(Ordering::Acquire) < number {
                std::thread::yield_now();
            }
            // It holds the lock from a look to its sleep.
            drop(self.turn.lock.lock());
        }
    }

    #[test]
    fn small_requests_wake_nobody_and_large_ones_together_do() {
        let turn = Arc::new(Turn::default());
        let waiter = Waiter::start(&turn);
        turn.queued(WRITE_AHEAD_BYTES - 1, true);
        turn.give();
        waiter.see_looks(2);
        assert!(turn.is_waiting.load(Ordering::Acquire));
        assert_eq!(waiter.looks.load(Ordering::Acquire), 2, "only the change was looked at");
        turn.queued(1, true);
        waiter.thread.join().unwrap();
        // What came before a wait does not count for it.
        let waiter = Waiter::start(&turn);
        turn.queued(WRITE_AHEAD_BYTES - 1, true);
        turn.give();
        waiter.see_looks(2);
        assert!(turn.is_waiting.load(Ordering::Acquire));
        waiter.over.store(true, Ordering::Release);
        turn.give();
        waiter.thread.join().unwrap();
    }

    #[test]
    fn what_nobody_waits_for_is_gathered_until_somebody_does() {
        let turn = Arc::new(Turn::default());
        let queued = Arc::new(AtomicBool::new(false));
        let far = Instant::now() + std::time::Duration::from_secs(600);
        let start = || {
            let (turn, queued) = (Arc::clone(&turn), Arc::clone(&queued));
            queued.store(false, Ordering::Release);
            std::thread::spawn(move || turn.linger(far, || queued.load(Ordering::Acquire)))
        };
        let is_asleep = || {
            while !turn.is_waiting.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            drop(turn.lock.lock());
        };
        let gathers = start();
        is_asleep();
        queued.store(true, Ordering::Release);
        turn.queued(1, false);
        // The end of a sync is nothing to it.
        turn.give();
        is_asleep();
        assert!(!gathers.is_finished());
        turn.queued(1, true);
        gathers.join().unwrap();
        // Much of it is written at once.
        let gathers = start();
        is_asleep();
        turn.queued(GATHER_BYTES - 1, false);
        is_asleep();
        assert!(!gathers.is_finished());
        turn.queued(1, false);
        gathers.join().unwrap();
        // A command has no bytes, and waits for nothing either.
        let gathers = start();
        is_asleep();
        queued.store(true, Ordering::Release);
        turn.queued(0, true);
        gathers.join().unwrap();
        // What was queued before the wait ends it.
        queued.store(true, Ordering::Release);
        turn.linger(far, || queued.load(Ordering::Acquire));
        turn.linger(Instant::now(), || false);
    }

    #[test]
    fn no_change_is_missed() {
        let turn = Arc::new(Turn::default());
        let (asked, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let other = {
            let (turn, asked, told) = (Arc::clone(&turn), Arc::clone(&asked), Arc::clone(&told));
            std::thread::spawn(move || {
                for round in 1..=20_000 {
                    while asked.load(Ordering::Acquire) < round {
                        std::hint::spin_loop();
                    }
                    told.store(round, Ordering::Release);
                    turn.give();
                }
            })
        };
        for round in 1..=20_000 {
            asked.store(round, Ordering::Release);
            turn.wait(|| told.load(Ordering::Acquire) >= round);
        }
        other.join().unwrap();
    }
}
