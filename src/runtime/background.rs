//! Work of tables, at a lower priority than what answers clients.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What is added to the thread's nice value. Beside threads of the usual priority it has a ninth of
/// their weight, and gives way to one that wakes up. Source: `sched(7)`.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// How many are in a hurry in this process.
static HURRIES: AtomicUsize = AtomicUsize::new(0);

/// While there is one, nothing gives way: a machine whose cores are all taken would leave little to
/// work that is late already.
#[derive(Debug)]
pub struct Hurry(&'static AtomicUsize);

impl Hurry {
    /// Begins to hurry, until it is dropped.
    #[must_use]
    pub fn begin() -> Self {
        Self::counted(&HURRIES)
    }

    fn counted(hurries: &'static AtomicUsize) -> Self {
        hurries.fetch_add(1, Ordering::Relaxed);
        Self(hurries)
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `work` on a thread of its own at a lower priority, and waits for it; on this thread while
/// somebody is in a [`Hurry`]. Blocks: call it outside of the async workers.
///
/// A thread needs a privilege to take its priority back, so none of a pool can be lent for this. To
/// start one takes some 30 us. Threads that `work` starts inherit the priority. Systems other than
/// Linux have no priority of a thread: there it is done as usual.
///
/// # Panics
/// As `work` does.
pub fn at_low_priority<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    unless_hurried(&HURRIES, work)
}

fn unless_hurried<T: Send>(hurries: &AtomicUsize, work: impl FnOnce() -> T + Send) -> T {
    if !cfg!(target_os = "linux") || hurries.load(Ordering::Relaxed) > 0 {
        return work();
    }
    let mut work = Some(work);
    let done = std::thread::scope(|scope| {
        let lowered = || {
            lower();
            work.take().map(|work| work())
        };
        let thread = std::thread::Builder::new().name("floe-background".to_owned());
        let thread = thread.spawn_scoped(scope, lowered).ok()?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    match (done, work) {
        (Some(done), _) => done,
        // No thread could be started.
        (None, Some(work)) => work(),
        (None, None) => unreachable!("what was taken was done"),
    }
}

/// Lowers the priority of this thread for good.
fn lower() {
    // Where the system refuses that, the work is done all the same.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(NICENESS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn work_gives_way_unless_somebody_hurries_and_the_caller_keeps_its_priority() {
        // Other tests may be in a hurry.
        static HURRIES: AtomicUsize = AtomicUsize::new(0);
        let niceness = || rustix::process::nice(0).unwrap();
        let (own, of_work) = (niceness(), || unless_hurried(&HURRIES, niceness));
        let lowered = (own + NICENESS).min(19);
        assert_eq!(of_work(), lowered);
        let hurries = (Hurry::counted(&HURRIES), Hurry::counted(&HURRIES));
        assert_eq!(of_work(), own);
        drop(hurries.0);
        assert_eq!(of_work(), own);
        drop(hurries.1);
        assert_eq!((of_work(), niceness()), (lowered, own));
    }

    #[test]
    #[should_panic(expected = "bad row 7")]
    fn a_panic_is_the_callers() {
        at_low_priority(|| panic!("bad row {}", 7));
    }
}
