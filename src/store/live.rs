//! Which stretches of the log still have index entries that point into them.
//!
//! Owns: two bytes per run, gathered by 256 KiB of log, so that 100 GiB of log take some MiB of
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
    /// Where each starts, in units of [`FRAME_ALIGN`] from the granule's begin; in no order.
    starts: Vec<u16>,
    bytes: u64,
}

/// All live runs, by where they start.
#[derive(Debug, Default)]
pub(crate) struct LiveRuns {
    granules: BTreeMap<u64, Granule>,
}

impl LiveRuns {
    pub(crate) fn add(&mut self, run: &Run) {
        let granule = self.granules.entry(run.lsn.0 / GRANULE_BYTES).or_default();
        granule.starts.push(start_of(run.lsn));
        granule.bytes += u64::from(run.disk_len);
    }

    pub(crate) fn remove(&mut self, run: &Run) {
        let number = run.lsn.0 / GRANULE_BYTES;
        let Some(granule) = self.granules.get_mut(&number) else {
            return;
        };
        let start = start_of(run.lsn);
        let Some(at) = granule.starts.iter().position(|other| *other == start) else {
            return;
        };
        granule.starts.swap_remove(at);
        granule.bytes = granule.bytes.saturating_sub(u64::from(run.disk_len));
        if granule.starts.is_empty() {
            self.granules.remove(&number);
        }
    }

    /// True if a run starts in `[first, end)`.
    pub(crate) fn any_in(&self, first: Lsn, end: Lsn) -> bool {
        self.within(first, end).any(|(number, granule)| {
            let begin = number * GRANULE_BYTES;
            granule.starts.iter().any(|start| {
                let lsn = begin + u64::from(*start) * FRAME_ALIGN;
                first.0 <= lsn && lsn < end.0
            })
        })
    }

    /// Bytes of live runs that start in `[first, end)` or share a granule with its ends.
    pub(crate) fn bytes_in(&self, first: Lsn, end: Lsn) -> u64 {
        self.within(first, end).map(|(_, granule)| granule.bytes).sum()
    }

    fn within(&self, first: Lsn, end: Lsn) -> impl Iterator<Item = (u64, &Granule)> {
        let first = first.0 / GRANULE_BYTES;
        let end = end.0.div_ceil(GRANULE_BYTES).max(first);
        self.granules.range(first..end).map(|(number, granule)| (*number, granule))
    }
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
    fn every_place_of_a_granule_fits() {
        let mut live = LiveRuns::default();
        let last = run(GRANULE_BYTES - 32, 64);
        live.add(&last);
        assert!(live.any_in(Lsn(GRANULE_BYTES - 32), Lsn(GRANULE_BYTES)));
        live.remove(&last);
        assert!(live.granules.is_empty());
    }
}
