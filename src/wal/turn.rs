//! Whose turn the disk is: the sequencer writes at once while nothing is being synced; what is small
//! waits for the end of a sync under way, as it could not become durable before, and one write
//! then takes all that came meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use parking_lot::{Condvar, Mutex};

/// From so many bytes on a write pays beside a sync: copying them takes longer than a wake-up.
pub(crate) const WRITE_AHEAD_BYTES: u64 = 64 << 10;

/// Lets the sequencer sleep through a sync without a wake-up for each request that comes.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    is_waiting: AtomicBool,
    /// Bytes that were queued since the wait began.
    arrived: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Turn {
    /// Waits until `is_over` says so, or until [`WRITE_AHEAD_BYTES`] more have been queued. What
    /// changes the answer of `is_over` calls [`Turn::give`] afterwards.
    pub(crate) fn wait(&self, is_over: impl Fn() -> bool) {
        let mut guard = self.lock.lock();
        self.arrived.store(0, Ordering::Relaxed);
        self.is_waiting.store(true, Ordering::Relaxed);
        // Either this sees the change, or `give` sees that somebody waits.
        fence(Ordering::SeqCst);
        while !is_over() && self.arrived.load(Ordering::Relaxed) < WRITE_AHEAD_BYTES {
            self.changed.wait(&mut guard);
        }
        self.is_waiting.store(false, Ordering::Relaxed);
    }

    /// Makes who waits look again.
    pub(crate) fn give(&self) {
        fence(Ordering::SeqCst);
        if self.is_waiting.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Counts a request that was queued.
    pub(crate) fn queued(&self, bytes: u64) {
        if self.is_waiting.load(Ordering::Relaxed) {
            let before = self.arrived.fetch_add(bytes, Ordering::Relaxed);
            if before < WRITE_AHEAD_BYTES && before + bytes >= WRITE_AHEAD_BYTES {
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
        turn.queued(WRITE_AHEAD_BYTES - 1);
        turn.give();
        waiter.see_looks(2);
        assert!(turn.is_waiting.load(Ordering::Acquire));
        assert_eq!(waiter.looks.load(Ordering::Acquire), 2, "only the change was looked at");
        turn.queued(1);
        waiter.thread.join().unwrap();
        // What came before a wait does not count for it.
        let waiter = Waiter::start(&turn);
        turn.queued(WRITE_AHEAD_BYTES - 1);
        turn.give();
        waiter.see_looks(2);
        assert!(turn.is_waiting.load(Ordering::Acquire));
        waiter.over.store(true, Ordering::Release);
        turn.give();
        waiter.thread.join().unwrap();
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
