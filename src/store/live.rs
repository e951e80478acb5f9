//! Which stretches of the log still have index entries that point into them.
//!
//! Owns: six bytes per run, gathered by 256 KiB of log, so that 100 GiB of log take some MiB of
//! memory. Does not own: the entries (fjall) or the files (`wal`).

use std::collections::BTreeMap;

use crate::types::Lsn;
use crate::wal::Run;

/// Bytes of log in one granule.
const GRANULE_BYTES: u64 = 256 << 10;
/// Frames start at multiples of this, so a place in a granule fits in 16 bits.
const FRAME_ALIGN: u64 = 32;

/// The live runs that start in one granule.
#[derive(Debug, Default)]
struct Granule {
    /// In no order.
    places: Vec<Place>,
    bytes: u64,
}

/// One run: where it starts, in units of [`FRAME_ALIGN`] from the granule's begin, and its bytes
/// (halves of an `u32`, which would take two bytes of padding).
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u16,
    bytes: [u16; 2],
}

/// All live runs, by where they start.
#[derive(Debug, Default)]
pub(crate) struct LiveRuns {
    granules: BTreeMap<u64, Granule>,
}

impl LiveRuns {
    pub(crate) fn add(&mut self, run: &Run) {
        let granule = self.granules.entry(run.lsn.0 / GRANULE_BYTES).or_default();
        granule.places.push(Place::of(run));
        granule.bytes += u64::from(run.disk_len);
    }

    pub(crate) fn remove(&mut self, run: &Run) {
        let number = run.lsn.0 / GRANULE_BYTES;
        let Some(granule) = self.granules.get_mut(&number) else {
            return;
        };
        let start = start_of(run.lsn);
        let Some(at) = granule.places.iter().position(|other| other.start == start) else {
            return;
        };
        let place = granule.places.swap_remove(at);
        granule.bytes = granule.bytes.saturating_sub(place.bytes());
        if granule.places.is_empty() {
            self.granules.remove(&number);
        }
    }

    /// True if a run starts in `[first, end)`.
    pub(crate) fn any_in(&self, first: Lsn, end: Lsn) -> bool {
        self.within(first, end).any(|(number, granule)| {
            granule.places.iter().any(|place| is_in(place.lsn(number), first, end))
        })
    }

    /// Bytes of live runs that start in `[first, end)`.
    pub(crate) fn bytes_in(&self, first: Lsn, end: Lsn) -> u64 {
        let bytes = |(number, granule): (u64, &Granule)| {
            let begin = number * GRANULE_BYTES;
            if first.0 <= begin && begin + GRANULE_BYTES <= end.0 {
                return granule.bytes;
            }
            let places = granule.places.iter();
            places.filter(|place| is_in(place.lsn(number), first, end)).map(Place::bytes).sum()
        };
        self.within(first, end).map(bytes).sum()
    }

    /// At least `limit` places in `[first, end)` where live runs start, in order, if there are so
    /// many.
    pub(crate) fn starts_in(&self, first: Lsn, end: Lsn, limit: usize) -> Vec<Lsn> {
        let mut starts: Vec<Lsn> = Vec::new();
        for (number, granule) in self.within(first, end) {
            if starts.len() >= limit {
                break;
            }
            let of_granule = starts.len();
            let places = granule.places.iter().map(|place| place.lsn(number));
            starts.extend(places.filter(|lsn| is_in(*lsn, first, end)));
            starts[of_granule..].sort_unstable();
        }
        starts
    }

    fn within(&self, first: Lsn, end: Lsn) -> impl Iterator<Item = (u64, &Granule)> {
        let first = first.0 / GRANULE_BYTES;
        let end = end.0.div_ceil(GRANULE_BYTES).max(first);
        self.granules.range(first..end).map(|(number, granule)| (*number, granule))
    }
}

impl Place {
    fn of(run: &Run) -> Self {
        let halves = [run.disk_len as u16, (run.disk_len >> 16) as u16];
        Self { start: start_of(run.lsn), bytes: halves }
    }

    fn bytes(&self) -> u64 {
        u64::from(self.bytes[0]) | u64::from(self.bytes[1]) << 16
    }

    fn lsn(&self, granule: u64) -> Lsn {
        Lsn(granule * GRANULE_BYTES + u64::from(self.start) * FRAME_ALIGN)
    }
}

fn is_in(lsn: Lsn, first: Lsn, end: Lsn) -> bool {
    first <= lsn && lsn < end
}

fn start_of(lsn: Lsn) -> u16 {
    // 8,192 places at most.
    (lsn.0 % GRANULE_BYTES / FRAME_ALIGN) as u16
}

#[cfg(test)]
mod tests {
    use crate::types::PartitionId;

    use super::*;

    fn run(lsn: u64, disk_len: u32) -> Run {
        Run {
            partition: PartitionId(1),
            base_offset: 0,
            end_offset: 1,
            lsn: Lsn(lsn),
            disk_len,
            max_timestamp: 0,
            append_ms: 0,
        }
    }

    #[test]
    fn a_file_is_live_until_its_last_run_goes() {
        let mut live = LiveRuns::default();
        let file = (Lsn(GRANULE_BYTES), Lsn(2 * GRANULE_BYTES));
        let (a, b) = (run(GRANULE_BYTES, 96), run(2 * GRANULE_BYTES - 32, 64));
        live.add(&a);
        live.add(&b);
        assert_eq!(live.bytes_in(file.0, file.1), 160);
        live.remove(&a);
        assert!(live.any_in(file.0, file.1));
        live.remove(&b);
        assert!(!live.any_in(file.0, file.1));
    }

    #[test]
    fn neighbours_on_a_whole_granule_do_not_touch_each_other() {
        let mut live = LiveRuns::default();
        live.add(&run(GRANULE_BYTES, 96));
        assert!(!live.any_in(Lsn(0), Lsn(GRANULE_BYTES)));
        assert!(!live.any_in(Lsn(2 * GRANULE_BYTES), Lsn(3 * GRANULE_BYTES)));
    }

    #[test]
    fn files_that_share_a_granule_are_told_apart() {
        let mut live = LiveRuns::default();
        let (tail, head) = (run(GRANULE_BYTES, 96), run(GRANULE_BYTES + 96, 96));
        live.add(&tail);
        live.add(&head);
        live.remove(&tail);
        let border = Lsn(GRANULE_BYTES + 96);
        assert!(!live.any_in(Lsn(0), border));
        assert!(live.any_in(border, Lsn(GRANULE_BYTES + 192)));
    }

    #[test]
    fn bytes_are_exact_where_files_share_a_granule() {
        let mut live = LiveRuns::default();
        let large = 128 << 20;
        live.add(&run(GRANULE_BYTES + 320, large));
        live.add(&run(GRANULE_BYTES + 96, 160));
        live.add(&run(GRANULE_BYTES, 96));
        live.add(&run(2 * GRANULE_BYTES, 64));
        let bytes = |from, to| live.bytes_in(Lsn(GRANULE_BYTES + from), Lsn(GRANULE_BYTES + to));
        assert_eq!(bytes(0, 96), 96);
        assert_eq!(bytes(96, 320), 160);
        assert_eq!(bytes(320, GRANULE_BYTES), u64::from(large));
        assert_eq!(bytes(0, GRANULE_BYTES + 32), 96 + 160 + u64::from(large) + 64);
    }

    #[test]
    fn starts_come_in_order_and_in_bounds() {
        let mut live = LiveRuns::default();
        for lsn in [GRANULE_BYTES + 96, 32, GRANULE_BYTES, 3 * GRANULE_BYTES, 0] {
            live.add(&run(lsn, 32));
        }
        let starts = |first, end, limit| -> Vec<u64> {
            live.starts_in(Lsn(first), Lsn(end), limit).iter().map(|lsn| lsn.0).collect()
        };
        assert_eq!(starts(32, 3 * GRANULE_BYTES, 9), [32, GRANULE_BYTES, GRANULE_BYTES + 96]);
        assert_eq!(starts(0, u64::MAX / 2, 2), [0, 32]);
        assert_eq!(starts(64, GRANULE_BYTES, 9), [0u64; 0]);
    }

    #[test]
    fn every_place_of_a_granule_fits() {
        let mut live = LiveRuns::default();
        let last = run(GRANULE_BYTES - 32, 64);
        live.add(&last);
        assert!(live.any_in(Lsn(GRANULE_BYTES - 32), Lsn(GRANULE_BYTES)));
        live.remove(&last);
        assert!(live.granules.is_empty());
    }
}
