//! Free space: the floor below which no records are taken (rules 3.2). Pure.

use crate::config::units::human_bytes;
use crate::runtime::files::DiskSpace;

const GIB: u64 = 1 << 30;

/// Free bytes that records must leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) bytes: u64,
    /// True if the default was too much for this disk.
    pub(crate) lowered: bool,
}

impl Floor {
    /// The option, or the greater of 2 GiB and 5 %, but a tenth of a disk where that would be
    /// more than a quarter of it.
    pub(crate) fn of(option: Option<u64>, total_bytes: u64) -> Self {
        if let Some(bytes) = option {
            return Self { bytes, lowered: false };
        }
        let default = (2 * GIB).max(total_bytes / 20);
        if default > total_bytes / 4 {
            return Self { bytes: total_bytes / 10, lowered: true };
        }
        Self { bytes: default, lowered: false }
    }

    /// Why records are refused at this much free space, if so.
    pub(crate) fn refusal(self, space: DiskSpace) -> Option<String> {
        (space.free_bytes < self.bytes).then(|| {
            format!(
                "{} are free on the disk of the data directory, the floor (disk.free.min.bytes) is {}",
                human_bytes(space.free_bytes),
                human_bytes(self.bytes)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_is_the_greater_of_2_gib_and_5_percent_and_lowered_on_small_disks() {
        let floor = |option, total| Floor::of(option, total);
        assert_eq!(floor(None, 20 * GIB), Floor { bytes: 2 * GIB, lowered: false });
        assert_eq!(floor(None, 100 * GIB), Floor { bytes: 5 * GIB, lowered: false });
        assert_eq!(floor(None, 5 * GIB), Floor { bytes: GIB / 2, lowered: true });
        assert_eq!(floor(Some(7), 5 * GIB), Floor { bytes: 7, lowered: false });
    }

    #[test]
    fn refusal_names_both_numbers() {
        let floor = Floor { bytes: 100, lowered: false };
        assert_eq!(floor.refusal(DiskSpace { free_bytes: 100, total_bytes: 1000 }), None);
        let text = floor.refusal(DiskSpace { free_bytes: 99, total_bytes: 1000 }).unwrap();
        assert!(text.contains("99") && text.contains("100"), "{text}");
    }
}
