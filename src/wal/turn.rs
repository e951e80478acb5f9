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
    use std::time::Duration;

    use super::*;

    /// Waits in a thread for `over`; the handle ends with the wait.
    fn waiter(turn: &Arc<Turn>, over: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
        let (of_thread, over) = (Arc::clone(turn), Arc::clone(over));
        let wait = move || of_thread.wait(|| over.load(Ordering::Acquire));
        let waiter = std::thread::spawn(wait);
        while !turn.is_waiting.load(Ordering::Acquire) && !waiter.is_finished() {
            std::thread::yield_now();
        }
        waiter
    }

    #[test]
    fn small_requests_wake_nobody_and_large_ones_together_do() {
        let (turn, over) = (Arc::new(Turn::default()), Arc::new(AtomicBool::new(false)));
        let waits = waiter(&turn, &over);
        turn.queued(WRITE_AHEAD_BYTES - 1);
        turn.give();
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waits.is_finished());
        turn.queued(1);
        waits.join().unwrap();
        // What came before a wait does not count for it.
        let waits = waiter(&turn, &over);
        turn.queued(WRITE_AHEAD_BYTES - 1);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waits.is_finished());
        over.store(true, Ordering::Release);
        turn.give();
        waits.join().unwrap();
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
