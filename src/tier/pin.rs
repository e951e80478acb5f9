//! The pin limit: how much of the log may wait for a table (`table.pin.max.bytes`), and what
//! happens past it (`table.pin.overflow`).
//!
//! Owns: the word that makes the log refuse a topic's appends, giving up the oldest records.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use crate::log::Log;
use crate::table::commit::marker::Writer;
use crate::tier::context::Context;
use crate::tier::context::Halt;
use crate::tier::hold::Holds;
use crate::tier::ledger::put_entry;
use crate::tier::pending;
use crate::tier::pending::Part;
use crate::tier::status::Cell;
use crate::tier::upkeep::gap;
use crate::tier::worker::View;
use crate::tier::worker::Worker;
use crate::topic::Topic;
use crate::topic::options::PinOverflow;
use crate::topic::options::TableMode;

/// Between two looks at the limit of a table that works, waits or stands still.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Producers go on once no more than this share of the limit waits, in percent.
const EASED_PERCENT: u64 = 90;

/// The pin limit of one table; cheap to clone, all clones are used by its worker alone.
#[derive(Clone)]
pub(super) struct Pin {
    log: Log,
    holds: Holds,
    writer: Writer,
    max_bytes: u64,
    cell: Cell,
    refusing: Arc<AtomicBool>,
}

impl Pin {
    /// The limit of the table of `writer`.
    pub(super) fn new(context: &Context, writer: Writer, cell: Cell) -> Self {
        let (log, holds) = (context.log.clone(), context.holds.clone());
        let max_bytes = context.options.pin_max_bytes;
        Self { log, holds, writer, max_bytes, cell, refusing: Arc::default() }
    }

    /// Bytes that may wait for the topic's table.
    pub(super) fn limit(&self, topic: &Topic) -> u64 {
        topic.options.table_pin_max_bytes.unwrap_or(self.max_bytes)
    }

    /// About how many bytes the log keeps because the table, as far as the log was told, does not
    /// have them.
    pub(super) fn pinned(&self, topic: &Topic) -> u64 {
        let pinned = topic.partitions.iter().enumerate().filter_map(|(index, id)| {
            let partition = self.log.partition(*id)?;
            let end = self.holds.end(self.writer, index);
            Some(pending::bytes_from(&partition, end, partition.high_watermark()))
        });
        pinned.sum()
    }

    /// Refuses the topic's producers past the limit, takes them again a tenth below it.
    pub(super) fn check(&self, topic: &Topic) {
        if topic.options.table_pin_overflow != PinOverflow::Block {
            return self.ease(topic);
        }
        let (pinned, limit) = (self.pinned(topic), self.limit(topic));
        if pinned > limit {
            self.refuse(topic, format!("{pinned} bytes wait for the table, the limit is {limit}"));
        } else if pinned <= eased(limit) {
            self.ease(topic);
        }
    }

    /// Checks again and again. A catalog or a store that does not answer holds the worker in the
    /// middle of a step; its log must not grow past the limit meanwhile.
    pub(super) async fn watch(&self, views: watch::Receiver<View>) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let View { feed, draining, removed } = views.borrow().clone();
            if !draining && !removed && feed.options.table_mode != TableMode::Off {
                self.check(&feed);
            }
        }
    }

    fn refuse(&self, topic: &Topic, reason: String) {
        if !self.refusing.swap(true, Ordering::Relaxed) {
            tracing::warn!(topic = %topic.name, reason, "pin limit reached, producers are refused");
        }
        // Each time: there may be new partitions.
        self.tell(topic, Some(&reason));
    }

    /// Takes the topic's producers again, if they were refused.
    pub(super) fn ease(&self, topic: &Topic) {
        if self.refusing.swap(false, Ordering::Relaxed) {
            tracing::info!(topic = %topic.name, "producers are taken again");
            self.tell(topic, None);
        }
    }

    /// Makes the log refuse the topic's appends for `reason`, or take them.
    pub(super) fn tell(&self, topic: &Topic, reason: Option<&String>) {
        self.holds.refuse(topic, self.writer, reason.cloned());
        self.cell.update(|status| status.blocked = reason.cloned());
    }
}

impl Worker {
    /// Holds the log to the pin limit of the topic.
    pub(super) async fn check_overflow(&mut self) -> Result<(), Halt> {
        self.pin.check(&self.topic);
        let limit = self.pin.limit(&self.topic);
        let parts = self.parts();
        let waits = waiting(&parts);
        if waits <= limit {
            self.tried_at_limit = false;
        }
        // A healthy table commits first; records are dropped where that did not help.
        let stuck = self.failure.is_some()
            || self.entry.stop.is_some()
            || self.prepared.is_some()
            || self.tried_at_limit;
        let drops = self.topic.options.table_pin_overflow == PinOverflow::DropOldest;
        if drops && waits > limit && stuck {
            self.drop_oldest(&parts, waits, eased(limit)).await?;
        }
        Ok(())
    }

    /// Gives up the oldest waiting records of each partition by its share.
    async fn drop_oldest(&mut self, parts: &[Part], waits: u64, eased: u64) -> Result<(), Halt> {
        let excess = waits.saturating_sub(eased);
        let mut gaps = Vec::new();
        for part in parts.iter().filter(|part| part.offsets() > 0) {
            let dropped = share(part.offsets(), excess, waits);
            if dropped > 0 {
                gaps.push(gap(part, part.next + dropped, "overflow"));
            }
        }
        let mut next = self.entry.clone();
        for gap in &gaps {
            next.record_gap(gap.clone())?;
        }
        self.context.ledger.write(put_entry(&next)).await?;
        self.entry = next;
        self.count_gaps(&gaps);
        let dropped: u64 = gaps.iter().map(|gap| gap.to.abs_diff(gap.from)).sum();
        tracing::warn!(
            topic = %self.topic.name, bytes = waits, dropped,
            "pin limit reached, oldest records dropped"
        );
        self.oldest = None;
        self.release();
        Ok(())
    }
}

/// About how many bytes of the log wait for the table.
pub(super) fn waiting(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.bytes).sum()
}

/// How many of `offsets` waiting ones go where `excess` of all `waits` bytes go: rounded up, at
/// most all.
fn share(offsets: i64, excess: u64, waits: u64) -> i64 {
    let all = u128::from(offsets.max(0).unsigned_abs());
    let dropped = (all * u128::from(excess)).div_ceil(u128::from(waits.max(1))).min(all);
    i64::try_from(dropped).unwrap_or(i64::MAX)
}

/// Bytes that may wait when producers go on, and that stay when the oldest records go.
pub(super) fn eased(limit: u64) -> u64 {
    // Without overflow for any limit, and near enough for small ones.
    limit / 100 * EASED_PERCENT + limit % 100 * EASED_PERCENT / 100
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_eased_is_nine_tenths_of_any_limit(limit: u64) {
            prop_assert_eq!(u128::from(eased(limit)), u128::from(limit) * 90 / 100);
        }

        #[test]
        fn the_oldest_go_one_by_one_until_enough_went(
            parts in prop::collection::vec((1..60_i64, 1..50_u64), 1..5),
            excess in 0..4_000_u64,
        ) {
            let waits: u64 = parts.iter().map(|(offsets, each)| offsets.unsigned_abs() * each).sum();
            let mut freed = 0;
            for (offsets, each) in &parts {
                // The least number of records whose part of the whole is not below the excess's.
                let enough =
                    |count: &i64| count.unsigned_abs() * waits >= offsets.unsigned_abs() * excess;
                let wanted = (0..*offsets).find(enough).unwrap_or(*offsets);
                prop_assert_eq!(share(*offsets, excess, waits), wanted);
                freed += wanted.unsigned_abs() * each;
            }
            prop_assert!(freed >= excess.min(waits), "{freed} bytes are not enough");
        }
    }

    #[test]
    fn a_tenth_of_the_limit_must_be_free_again() {
        for (limit, wanted) in [(0, 0), (1, 0), (10, 9), (99, 89), (1_000, 900)] {
            assert_eq!(eased(limit), wanted, "{limit}");
        }
        assert!(eased(u64::MAX) < u64::MAX / 10 * 9 + 100);
    }
}
