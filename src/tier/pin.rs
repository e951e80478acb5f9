//! The pin limit: how much of the log may wait for a table, and what happens there.

use crate::tier::context::Halt;
use crate::tier::ledger::put_entry;
use crate::tier::pending::Part;
use crate::tier::upkeep::gap;
use crate::tier::worker::Worker;
use crate::topic::options::PinOverflow;

/// Producers go on once this share of the pin limit is left, in percent.
const PIN_EASED_PERCENT: u64 = 90;

/// About how many bytes of the log wait for the table.
pub(super) fn pinned(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.bytes).sum()
}

impl Worker {
    /// Holds the log to the pin limit of the topic.
    pub(super) async fn check_overflow(&mut self) -> Result<(), Halt> {
        let limit = self.pin_max_bytes();
        let parts = self.parts();
        let pinned = pinned(&parts);
        let eased = limit / 100 * PIN_EASED_PERCENT;
        if pinned <= limit {
            self.tried_at_limit = false;
        }
        // A healthy table commits first; records are dropped where that did not help.
        let stuck = self.failure.is_some()
            || self.entry.stop.is_some()
            || self.prepared.is_some()
            || self.tried_at_limit;
        match self.topic.options.table_pin_overflow {
            PinOverflow::Block if pinned > limit => {
                let reason = format!("{pinned} bytes wait for the table, the limit is {limit}");
                self.set_blocked(Some(reason));
            }
            PinOverflow::Block if self.blocked.is_some() && pinned > eased => {}
            PinOverflow::DropOldest if pinned > limit && stuck => {
                self.set_blocked(None);
                self.drop_oldest(&parts, pinned, eased).await?;
            }
            PinOverflow::Block | PinOverflow::DropOldest => self.set_blocked(None),
        }
        Ok(())
    }

    /// Bytes that the log may keep for the table.
    pub(super) fn pin_max_bytes(&self) -> u64 {
        self.topic.options.table_pin_max_bytes.unwrap_or(self.context.options.pin_max_bytes)
    }

    pub(super) fn set_blocked(&mut self, reason: Option<String>) {
        match (&self.blocked, &reason) {
            (None, None) => return,
            (None, Some(reason)) => {
                tracing::warn!(topic = %self.topic.name, reason, "producers are refused");
            }
            (Some(_), None) => tracing::info!(topic = %self.topic.name, "producers go on"),
            (Some(_), Some(_)) => {}
        }
        self.blocked.clone_from(&reason);
        for id in &self.topic.partitions {
            if let Some(partition) = self.context.log.partition(*id) {
                partition.set_blocked(reason.clone());
            }
        }
    }

    /// Gives up the oldest waiting records of each partition by its share.
    async fn drop_oldest(&mut self, parts: &[Part], pinned: u64, eased: u64) -> Result<(), Halt> {
        let excess = u128::from(pinned.saturating_sub(eased));
        let mut gaps = Vec::new();
        for part in parts.iter().filter(|part| part.offsets() > 0) {
            let offsets = u128::from(part.offsets().unsigned_abs());
            let dropped = (offsets * excess).div_ceil(u128::from(pinned.max(1))).min(offsets);
            let dropped = i64::try_from(dropped).unwrap_or(i64::MAX);
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
            topic = %self.topic.name, pinned, dropped, "pin limit reached, oldest records dropped"
        );
        self.oldest = None;
        self.release();
        Ok(())
    }
}
