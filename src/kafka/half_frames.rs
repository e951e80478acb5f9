//! Which half frames give way where they wait for each other's memory. Pure.
//!
//! While they wait nothing is read from them, so an honest frame looks like one whose client sent a
//! part and stopped. What tells them apart is age: the older a frame is, the longer it has held its
//! memory without an end. So once in a while the older half of those that wait is closed, and who
//! came last goes on: each time half of the memory comes back, and soon nobody waits any more.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// Between two choices; no frame waits less before it gives way.
pub(crate) const ROUND: Duration = Duration::from_secs(1);

/// The half frames that wait for more memory, by number: a frame that began later has a greater one.
#[derive(Debug, Default)]
pub(crate) struct HalfFrames {
    waiting: BTreeSet<u64>,
    round: Option<Round>,
}

/// One choice.
#[derive(Debug)]
struct Round {
    at: Instant,
    /// Who waits and has a lower number gives way.
    cut: u64,
}

impl HalfFrames {
    /// A frame begins to wait.
    pub(crate) fn wait(&mut self, number: u64) {
        self.waiting.insert(number);
    }

    /// It waits no more.
    pub(crate) fn leave(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// Whether frame `number`, which has waited for a [`ROUND`], gives way. Of frames that wait
    /// together the youngest never does, and a single one does not.
    pub(crate) fn gives_way(&mut self, number: u64, now: Instant) -> bool {
        let is_over = |round: &Round| now.duration_since(round.at) >= ROUND;
        if self.round.as_ref().is_none_or(is_over) {
            let middle = self.waiting.iter().nth(self.waiting.len() / 2);
            self.round = Some(Round { at: now, cut: middle.copied().unwrap_or(0) });
        }
        self.round.as_ref().is_some_and(|round| number < round.cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets all of them ask at `now`; those that give way leave. Who is left.
    fn ask(frames: &mut HalfFrames, now: Instant) -> Vec<u64> {
        for number in frames.waiting.clone() {
            if frames.gives_way(number, now) {
                frames.leave(number);
            }
        }
        frames.waiting.iter().copied().collect()
    }

    #[test]
    fn the_older_half_of_those_that_wait_gives_way_once_a_round() {
        let (mut frames, began) = (HalfFrames::default(), Instant::now());
        // They come to wait in any order; what counts is when the frame began.
        for number in [7, 2, 9, 4, 5] {
            frames.wait(number);
        }
        assert_eq!(ask(&mut frames, began), [5, 7, 9]);
        assert_eq!(ask(&mut frames, began + ROUND / 2), [5, 7, 9], "the choice is made");
        frames.wait(1);
        assert!(frames.gives_way(1, began + ROUND / 2), "it belongs to the older half");
        frames.leave(1);
        assert_eq!(ask(&mut frames, began + ROUND), [7, 9]);
        assert_eq!(ask(&mut frames, began + 2 * ROUND), [9]);
        for later in 3..10 {
            assert_eq!(ask(&mut frames, began + later * ROUND), [9], "who came last is spared");
        }
    }

    #[test]
    fn a_single_frame_waits_and_nobody_is_chosen_where_nobody_waits() {
        let mut frames = HalfFrames::default();
        assert!(!frames.gives_way(3, Instant::now()));
        frames.wait(3);
        assert!(!frames.gives_way(3, Instant::now() + ROUND));
    }
}
