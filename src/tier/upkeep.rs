//! The steps of a worker around its commits: what the log may give back, off and on again, the
//! end of a deleted topic, status.

use std::sync::Arc;

use iceberg::spec::NestedFieldRef;
use iceberg::spec::Type;

use crate::runtime::metrics;
use crate::table::commit::marker::Gap;
use crate::tier::context::Halt;
use crate::tier::ledger;
use crate::tier::ledger::StopState;
use crate::tier::ledger::put_entry;
use crate::tier::lifecycle;
use crate::tier::pending;
use crate::tier::pending::Part;
use crate::tier::status::ColumnStatus;
use crate::tier::status::PartitionStatus;
use crate::tier::worker::Next;
use crate::tier::worker::Worker;
use crate::topic::options::DeleteUntiered;
use crate::topic::options::TableMode;

/// Tries to commit what waits before a table is off.
const OFF_FAILURES_MAX: u32 = 5;

/// Tries to settle what is under way when a sink is deleted.
const REMOVE_FAILURES_MAX: u32 = 5;

impl Worker {
    /// Tells the log which offsets stream retention may pass.
    pub(super) fn release(&self) {
        let ends = |index| self.entry.released(index).unwrap_or(0);
        self.context.holds.release(&self.topic, self.entry.writer(), ends);
    }

    /// The table is switched off: what was appended before is still committed, and the log need
    /// not wait for what comes after.
    pub(super) async fn off(&mut self) -> Result<Next, Halt> {
        if !self.entry.off {
            self.commit_before_off().await?;
            let mut next = self.entry.clone();
            next.off = true;
            self.context.ledger.write(put_entry(&next)).await?;
            self.entry = next;
        }
        self.pin.ease(&self.topic);
        self.context.holds.release(&self.topic, self.entry.writer(), |_| i64::MAX);
        // Whoever waits may have seen it switched on again.
        if self.views.has_changed().unwrap_or(false) {
            return Ok(Next::Again);
        }
        self.refuse_waiters();
        Ok(Next::Parked)
    }

    /// The sink was deleted: its table stays as it is. A commit that is under way is settled first,
    /// so that none of its files is left over; one that keeps failing is not waited for.
    pub(super) async fn remove(&mut self) -> Result<Next, Halt> {
        self.pin.ease(&self.topic);
        if self.prepared.is_some()
            && self.entry.stop.is_none()
            && self.failures < REMOVE_FAILURES_MAX
        {
            self.settle(None).await?;
            return Ok(Next::Again);
        }
        let writer = self.entry.writer();
        self.context.ledger.write(ledger::delete(writer)).await?;
        self.context.holds.leave(&self.topic, writer);
        self.refuse_waiters();
        tracing::info!(topic = %self.topic.name, ?writer, "table of a deleted sink is left as it is");
        Ok(Next::Finished)
    }

    /// Commits what waited when the switch was seen. A table that stands still or keeps failing
    /// is not waited for: its rows are part of the gap then.
    async fn commit_before_off(&mut self) -> Result<(), Halt> {
        // One that never was on has nothing to commit.
        let is_new = self.entry.table.is_none() && self.entry.ends.is_empty() && !self.was_on;
        if self.entry.stop.is_some() || is_new || self.failures >= OFF_FAILURES_MAX {
            return Ok(());
        }
        if self.prepared.is_some() {
            self.settle(None).await?;
        }
        let now = self.parts();
        let ends = self.off_at.get_or_insert_with(|| {
            now.iter().map(|part| (part.index, part.high_watermark)).collect()
        });
        let before = |mut part: Part| {
            part.high_watermark = ends.get(&part.index).copied().unwrap_or(part.next);
            part
        };
        let parts: Vec<Part> = now.into_iter().map(before).collect();
        if parts.iter().any(|part| part.offsets() > 0) {
            self.commit(&parts).await?;
        }
        Ok(())
    }

    /// The table is on again: what was appended meanwhile is a recorded gap (rules 4.3). It ends where
    /// the log ended when the switch was answered, for what came after that is wanted.
    pub(super) async fn on_again(&mut self) -> Result<(), Halt> {
        let mut next = self.entry.clone();
        next.off = false;
        let mut gaps = Vec::new();
        for part in self.parts() {
            let end = self.topic.resumed(part.index).unwrap_or(part.high_watermark);
            let end = end.min(part.high_watermark);
            if end > part.next {
                gaps.push(gap(&part, end, "off"));
            }
        }
        for gap in &gaps {
            next.record_gap(gap.clone())?;
        }
        self.context.ledger.write(put_entry(&next)).await?;
        self.entry = next;
        self.count_gaps(&gaps);
        Ok(())
    }

    /// Settles a deleted topic: its waiting rows within a bound, then its log can go (rules 6.2).
    pub(super) async fn drain(&mut self) -> Result<Next, Halt> {
        self.pin.ease(&self.topic);
        if self.prepared.is_some() && self.entry.stop.is_none() {
            // Without time limit: its rows are counted once or not at all.
            self.settle(None).await?;
            return Ok(Next::Again);
        }
        let options = &self.topic.options;
        let now_ms = self.context.clock.now_ms();
        let deleted_ms = self.context.topics.deleted_ms(self.topic.id).unwrap_or(now_ms);
        let is_late = now_ms.saturating_sub(deleted_ms) >= options.delete_drain_max_ms;
        let discard = is_late
            || options.delete_untiered == DeleteUntiered::Discard
            || options.table_mode == TableMode::Off
            || self.entry.off;
        let parts = self.parts();
        let waits = parts.iter().any(|part| part.offsets() > 0);
        if waits && !discard {
            if self.entry.stop.is_some() {
                return Ok(Next::Sleep(std::time::Duration::from_secs(5)));
            }
            self.commit(&parts).await?;
            return Ok(Next::Again);
        }
        self.close(&parts).await?;
        Ok(Next::Finished)
    }

    /// Records what is left as dropped, and lets the log go.
    async fn close(&mut self, parts: &[Part]) -> Result<(), Halt> {
        let mut next = self.entry.clone();
        let mut dropped = 0;
        let again;
        let mut parts = parts;
        if let Some(prepared) = &self.prepared {
            // It stands still: its rows are among the dropped.
            next.unprepare(prepared);
            again = pending::parts(&self.context.log, &self.topic, &next);
            parts = &again;
        }
        if self.topic.options.table_mode != TableMode::Off {
            for part in parts.iter().filter(|part| part.offsets() > 0) {
                dropped += part.offsets().unsigned_abs();
                next.record_gap(gap(part, part.high_watermark, "deleted"))?;
            }
        }
        next.closed = true;
        if next.table.is_some() || dropped > 0 {
            self.context.ledger.write(put_entry(&next)).await?;
        }
        self.entry = next;
        if dropped > 0 {
            let table = match &self.entry.table {
                Some(table) => table.display(),
                None => lifecycle::planned_name(&self.topic),
            };
            let labels = [("table", table), ("reason", "deleted".to_owned())];
            ::metrics::counter!(metrics::TABLE_DROPPED, &labels).increment(dropped);
            tracing::warn!(topic = %self.topic.name, dropped, "records of a deleted topic dropped");
        }
        self.release();
        self.refuse_waiters();
        let topic_id = self.topic.id;
        if !self.context.holds.close(self.entry.writer()) {
            // Whoever is done last lets the topic go.
            return Ok(());
        }
        let later = |error: String| Halt::Later(error);
        let forgotten = self.context.sinks.forget(topic_id).await;
        forgotten.map_err(|error| later(error.to_string()))?;
        let drained = self.context.topics.drained(topic_id).await;
        drained.map_err(|error| later(error.to_string()))?;
        self.context.holds.forget(topic_id);
        Ok(())
    }

    /// Shows where the table stands. Tables with rows that wait do it every second: what changes
    /// with commits alone is not made again.
    pub(super) fn publish(&mut self) {
        let parts = self.parts();
        let lag_ms = self.oldest.map_or(0, |oldest| oldest.age_ms());
        let pending: i64 = parts.iter().map(Part::offsets).sum();
        let pinned = self.pin.pinned(&self.topic);
        let table = match &self.entry.table {
            Some(table) => table.display(),
            None => lifecycle::planned_name(&self.topic),
        };
        let (state, reason) = self.state();
        // A table that nothing was ever written to has nothing to tell, and there may be many.
        if self.cell.is_measured(self.entry.table.is_some() || pending > 0 || reason.is_some()) {
            self.show_state(&table, &state);
            measure(&table, lag_ms, pending, pinned);
        }
        let is_contract = self.topic.options.table_mode == TableMode::Contract;
        let hint = |state: StopState| state.resume_hint(&table, is_contract);
        let resume = self.entry.stop.as_ref().map(|stop| hint(stop.state));
        let uuid = self.table.as_ref().map(|loaded| loaded.metadata.uuid());
        let columns_refused = uuid.and_then(|uuid| self.context.refusals.reason(uuid));
        self.cell.waits_since(self.oldest);
        self.cell.update(|status| {
            status.dead_letter_table = self.entry.dlq.as_ref().map(|dlq| dlq.display());
            status.topic = self.topic.name.to_string();
            status.topic_id = self.topic.id.to_string();
            status.sink = self.topic.sink().map(|sink| sink.id.clone());
            status.mode = self.topic.mode().to_owned();
            status.state = state;
            status.reason = reason;
            status.resume = resume;
            status.generation = self.entry.generation;
            status.target_lag_ms = self.topic.options.table_target_lag_ms;
            status.pending_offsets = pending;
            status.pinned_bytes = pinned;
            status.partitions = parts.iter().map(|part| self.partition_status(part)).collect();
            let last = self.entry.last.as_ref();
            status.columns_refused = columns_refused;
            status.partition_spec = self.topic.options.table_partition_spec.clone();
            status.last_snapshot_id = last.and_then(|last| last.snapshot_id);
            status.last_commit_ms = last.map(|last| last.at_ms);
            status.commit_p95_ms = self.durations.p95_ms();
            status.commits = self.entry.totals.commits;
            status.rows = self.entry.totals.rows;
            status.dlq_rows = self.entry.totals.dlq_rows;
            status.superseded_rows = self.entry.totals.superseded_rows;
            status.dlq_rollbacks = self.entry.totals.dlq_rollbacks;
            status.dlq_rolled_back_rows = self.entry.totals.dlq_rolled_back_rows;
            status.gap_offsets = self.entry.totals.gap_offsets;
            status.gaps.clone_from(&self.entry.gap_history);
            status.table = table;
        });
        self.show_columns();
    }

    fn show_columns(&mut self) {
        let Some(loaded) = &self.table else {
            return;
        };
        let schema = loaded.metadata.current_schema();
        if self.shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, schema)) {
            return;
        }
        let column = |field: &NestedFieldRef| ColumnStatus {
            name: field.name.clone(),
            kind: type_text(&field.field_type),
        };
        let columns = schema.as_struct().fields().iter().map(column).collect();
        self.cell.update(|status| status.columns = columns);
        self.shown = Some(Arc::clone(schema));
    }

    /// One gauge per table and state: 1 for the state it is in, 0 for one that it was in.
    fn show_state(&self, table: &str, state: &str) {
        let Some((old_table, old_state)) = self.cell.turns_to(table, state) else {
            return;
        };
        if !old_table.is_empty() {
            measure_state(&old_table, &old_state, 0.0);
            if old_table != table {
                measure(&old_table, 0, 0, 0);
            }
        }
        measure_state(table, state, 1.0);
    }

    /// Nobody works for the table any more: it is in no state, and nothing waits for it.
    pub(super) fn end_series(&self) {
        if let Some((table, state)) = self.cell.turns_to("", "") {
            measure_state(&table, &state, 0.0);
            measure(&table, 0, 0, 0);
        }
    }

    fn partition_status(&self, part: &Part) -> PartitionStatus {
        PartitionStatus {
            partition: part.index,
            end_offset: self.entry.released(part.index),
            high_watermark: part.high_watermark,
            log_start_offset: part.handle.log_start_offset(),
        }
    }

    fn state(&self) -> (String, Option<String>) {
        if let Some(stop) = &self.entry.stop {
            return (stop.state.name().to_owned(), Some(stop.reason.clone()));
        }
        let name = if self.draining {
            "DRAINING"
        } else if self.topic.options.table_mode == TableMode::Off {
            "OFF"
        } else if self.failure.is_some() {
            "RETRYING"
        } else if self.entry.table.is_none() {
            "WAITING"
        } else {
            "RUNNING"
        };
        (name.to_owned(), self.failure.clone())
    }
}

fn measure(table: &str, lag_ms: i64, pending: i64, pinned: u64) {
    let label = [("table", table.to_owned())];
    ::metrics::gauge!(metrics::TABLE_LAG_SECONDS, &label).set(lag_ms as f64 / 1_000.0);
    ::metrics::gauge!(metrics::TABLE_PENDING_OFFSETS, &label).set(pending as f64);
    ::metrics::gauge!(metrics::TABLE_PINNED_BYTES, &label).set(pinned as f64);
}

fn measure_state(table: &str, state: &str, value: f64) {
    let labels = [("table", table.to_owned()), ("state", state.to_owned())];
    ::metrics::gauge!(metrics::TABLE_STATE, &labels).set(value);
}

/// An Iceberg type with the names of its fields.
fn type_text(kind: &Type) -> String {
    match kind {
        Type::Primitive(primitive) => primitive.to_string(),
        Type::Struct(inner) => {
            let of =
                |field: &NestedFieldRef| format!("{} {}", field.name, type_text(&field.field_type));
            let fields: Vec<_> = inner.fields().iter().map(of).collect();
            format!("struct<{}>", fields.join(", "))
        }
        Type::List(list) => format!("list<{}>", type_text(&list.element_field.field_type)),
        Type::Map(map) => format!(
            "map<{}, {}>",
            type_text(&map.key_field.field_type),
            type_text(&map.value_field.field_type)
        ),
    }
}

pub(super) fn gap(part: &Part, to: i64, reason: &str) -> Gap {
    Gap { partition: part.index, from: part.next, to, reason: reason.to_owned() }
}
