//! Freed files that are kept to be written again: how many, and under which names. Pure.
//!
//! A log whose retention frees what it fills needs as many as it begins until files are freed
//! again; a slow one, or one that grows, would only lose room to them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Their names.
pub(crate) const NAMES: [&str; 8] = [
    "spare0.tmp",
    "spare1.tmp",
    "spare2.tmp",
    "spare3.tmp",
    "spare4.tmp",
    "spare5.tmp",
    "spare6.tmp",
    "spare7.tmp",
];

/// So many are kept by a log that begins no files.
const KEPT_MIN: usize = 2;

/// As many are kept as files were begun in this time, up to all of [`NAMES`].
const WINDOW: Duration = Duration::from_mins(1);

/// The places of [`NAMES`].
#[derive(Debug, Default)]
pub(crate) struct Spares {
    places: [Spare; NAMES.len()],
    /// When the last files were begun, oldest first; at most as many as there are places.
    begun: VecDeque<Instant>,
}

/// A freed file that is kept.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Spare {
    #[default]
    Absent,
    /// Somebody makes it or takes it away.
    Busy,
    There,
    /// An earlier process kept it; it is only to be removed, which takes longer than a start may.
    Left,
}

impl Spares {
    /// Those of a log that is opened, where `is_there` tells of each name.
    pub(crate) fn left(is_there: impl Fn(&str) -> bool) -> Self {
        let state = |name: &str| if is_there(name) { Spare::Left } else { Spare::Absent };
        Self { places: NAMES.map(state), begun: VecDeque::new() }
    }

    /// File name of a place.
    pub(crate) fn name(place: usize) -> &'static str {
        NAMES[place]
    }

    /// A file was begun.
    pub(crate) fn begun(&mut self, now: Instant) {
        if self.begun.len() == NAMES.len() {
            self.begun.pop_front();
        }
        self.begun.push_back(now);
    }

    /// How many are worth their room.
    fn wanted(&self, now: Instant) -> usize {
        let recent = |at: &&Instant| now.saturating_duration_since(**at) < WINDOW;
        self.begun.iter().filter(recent).count().max(KEPT_MIN)
    }

    /// A place for one more freed file, if one is wanted; then [`Spares::came`] or
    /// [`Spares::gone`].
    pub(crate) fn place(&mut self, now: Instant) -> Option<usize> {
        let kept = self.places.iter().filter(|spare| **spare != Spare::Absent).count();
        let place = self.places.iter().position(|spare| *spare == Spare::Absent)?;
        (kept < self.wanted(now)).then(|| {
            self.places[place] = Spare::Busy;
            place
        })
    }

    /// The file has its name, durably.
    pub(crate) fn came(&mut self, place: usize) {
        self.places[place] = Spare::There;
    }

    /// No file came to the place, or what was there is taken away.
    pub(crate) fn gone(&mut self, place: usize) {
        self.places[place] = Spare::Absent;
    }

    /// The place of a file to be written again, which is the caller's; then [`Spares::gone`].
    pub(crate) fn take(&mut self) -> Option<usize> {
        self.take_that(|spare| spare == Spare::There)
    }

    /// The place of a file to be removed, because it is left over or there are more than are wanted;
    /// then [`Spares::gone`].
    pub(crate) fn take_surplus(&mut self, now: Instant) -> Option<usize> {
        let there = self.places.iter().filter(|spare| **spare == Spare::There).count();
        let is_surplus = there > self.wanted(now);
        self.take_that(|spare| spare == Spare::Left || is_surplus && spare == Spare::There)
    }

    /// The place of any file to be removed; then [`Spares::gone`].
    pub(crate) fn take_any(&mut self) -> Option<usize> {
        self.take_that(|spare| [Spare::Left, Spare::There].contains(&spare))
    }

    fn take_that(&mut self, is_it: impl Fn(Spare) -> bool) -> Option<usize> {
        let place = self.places.iter().position(|spare| is_it(*spare))?;
        self.places[place] = Spare::Busy;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frees so many files; how many are kept of them.
    fn free(spares: &mut Spares, files: usize, now: Instant) -> usize {
        let places: Vec<usize> = (0..files).filter_map(|_| spares.place(now)).collect();
        places.iter().for_each(|place| spares.came(*place));
        places.len()
    }

    #[test]
    fn as_many_are_kept_as_were_begun_in_a_minute_from_two_to_all_names() {
        let start = Instant::now();
        for (begun, kept) in [(0, 2), (1, 2), (3, 3), (8, 8), (30, 8)] {
            let mut spares = Spares::default();
            (0..begun).for_each(|_| spares.begun(start));
            assert_eq!(free(&mut spares, 20, start), kept, "{begun}");
            assert_eq!(free(&mut spares, 1, start), 0, "{begun}");
            assert_eq!(spares.take_surplus(start), None, "{begun}");
        }
    }

    #[test]
    fn those_of_a_log_that_became_slow_are_given_back_up_to_two() {
        let start = Instant::now();
        let mut spares = Spares::default();
        (0..5).for_each(|i| spares.begun(start + Duration::from_secs(i * 10)));
        assert_eq!(free(&mut spares, 9, start), 5);
        let mut surplus = |seconds| {
            let now = start + Duration::from_secs(seconds);
            std::iter::from_fn(|| spares.take_surplus(now)).count()
        };
        assert_eq!((surplus(59), surplus(60), surplus(81), surplus(999)), (0, 1, 2, 0));
        assert_eq!(std::iter::from_fn(|| spares.take_any()).count(), 2);
    }

    #[test]
    fn a_file_is_taken_once_it_came_and_once() {
        let mut spares = Spares::default();
        let now = Instant::now();
        let (first, second) = (spares.place(now).unwrap(), spares.place(now).unwrap());
        assert_ne!(first, second);
        assert_eq!(spares.take(), None);
        spares.came(second);
        assert_eq!((spares.take(), spares.take()), (Some(second), None));
        // Until it has another name nothing else may come to its place.
        assert_eq!(spares.place(now), None);
        spares.gone(first);
        spares.gone(second);
        assert_eq!(free(&mut spares, 3, now), 2);
    }

    #[test]
    fn what_an_earlier_process_kept_is_removed_and_never_written_again() {
        let mut spares = Spares::left(|name| name < "spare3");
        assert_eq!(spares.take(), None);
        let now = Instant::now();
        assert_eq!(spares.place(now), None, "there are more than enough");
        let taken = [spares.take_surplus(now), spares.take_any(), spares.take_any()];
        assert_eq!((taken, spares.take_any()), ([Some(0), Some(1), Some(2)], None));
        spares.gone(1);
        assert_eq!(spares.place(now), None, "two are still on the disk");
        spares.gone(0);
        assert_eq!(spares.place(now), Some(0));
    }
}
