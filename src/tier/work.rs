//! The steps of a worker that move data: a commit from the log to the table, settling one that
//! is outstanding, encoding again what lost its files, and table maintenance behind it.

use tokio::time::Instant;
use uuid::Uuid;

use crate::runtime::background::Hurry;
use crate::runtime::metrics;
use crate::store;
use crate::store::Change;
use crate::table::catalog::LoadedTable;
use crate::table::catalog::TableChange;
use crate::table::commit::letters::taken_away;
use crate::table::commit::marker;
use crate::table::maintenance;
use crate::table::maintenance::ExpiryPolicy;
use crate::tier::Error;
use crate::tier::committer;
use crate::tier::committer::Settled;
use crate::tier::context::Halt;
use crate::tier::keyed;
use crate::tier::ledger::Prepared;
use crate::tier::ledger::put_entry;
use crate::tier::ledger::put_prepared;
use crate::tier::lifecycle;
use crate::tier::pending;
use crate::tier::pending::Part;
use crate::tier::pending::millis;
use crate::tier::pin::waiting;
use crate::tier::plan;
use crate::tier::plan::Available;
use crate::tier::round::Finished;
use crate::tier::round::Piece;
use crate::tier::round::Round;
use crate::tier::state::Refused;
use crate::tier::status::FileStatus;
use crate::tier::worker::Worker;
use crate::topic::options::TableMode;

/// Memory that one commit takes at most while it is encoded, and at least.
const PERMIT_BYTES_MAX: u64 = 24 << 20;
const PERMIT_BYTES_MIN: u64 = 1 << 20;

/// One commit takes at most this many times `table.flush.bytes` of the log, so that a table which
/// may commit only once in its interval keeps up.
const COMMIT_FLUSHES_MAX: u64 = 4;

/// A commit is halved at most so often.
const BUDGET_SHIFT_MAX: u32 = 30;

/// Arrow and Parquet buffers per byte of the log.
const MEMORY_PER_LOG_BYTE: u64 = 8;

impl Worker {
    /// Work that gives way no longer does if the table is behind what was promised, or may soon make
    /// producers wait.
    pub(super) fn hurry(&self, parts: &[Part]) -> Option<Hurry> {
        let lag_ms = self.topic.options.table_target_lag_ms;
        let age_ms = self.oldest.map_or(0, |oldest| oldest.age_ms());
        let is_late = age_ms > lag_ms.saturating_mul(2);
        (is_late || waiting(parts) >= self.pin.limit(&self.topic) / 2).then(Hurry::begin)
    }

    /// Opens the table, and says once as whom where that is not the server itself.
    pub(super) async fn open(&mut self) -> Result<LoadedTable, Halt> {
        let table = lifecycle::ensure_table(&self.context, &self.topic, &mut self.entry).await?;
        if self.table.is_none()
            && let Some(service) = self.topic.service()
        {
            let (table, principal) = (&table.ident, service.name);
            tracing::info!(%table, principal, "the table of a sink is open");
        }
        self.table = Some(table.clone());
        Ok(table)
    }

    /// One commit of what waits in `parts`.
    pub(super) async fn commit(&mut self, parts: &[Part]) -> Result<(), Halt> {
        let (started, is_first) = (Instant::now(), self.last_commit.is_none());
        let _hurry = self.hurry(parts);
        pending::make_durable(&self.context.log, parts).await.map_err(|_| Halt::Closed)?;
        let waiting = waiting(parts);
        let is_keyed =
            self.topic.sink().is_some_and(|sink| sink.mapping.primary_key().next().is_some());
        // Rows of a primary key are held until all of the commit are there.
        let most = PERMIT_BYTES_MAX + if is_keyed { keyed::BYTES_MAX as u64 } else { 0 };
        let memory = waiting.saturating_mul(MEMORY_PER_LOG_BYTE).clamp(PERMIT_BYTES_MIN, most);
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let permit = self.context.budget.acquire(memory).await;
        let table = self.open().await?;
        let flush_bytes = self.topic.options.table_flush_bytes;
        let budget = (flush_bytes.saturating_mul(COMMIT_FLUSHES_MAX) >> self.budget_shift).max(1);
        let available: Vec<_> = parts
            .iter()
            .map(|part| Available { partition: part.index, bytes: part.bytes })
            .collect();
        let cuts = plan::cut(&available, budget);
        let tag = Uuid::now_v7();
        let carried = self.entry.pending_gaps.clone();
        let now_ms = self.context.clock.now_ms();
        let mut round =
            Round::start(&self.context, &self.topic, &mut self.entry, table, (tag, tag)).await?;
        if self.careful {
            round.be_careful();
        }
        if self.had_dead_letters {
            round.expect_dead_letters().await;
        }
        let pieces = cuts.iter().filter_map(|cut| {
            // They are in the order of their indexes.
            let at = parts.binary_search_by_key(&cut.partition, |part| part.index).ok()?;
            Some(piece(&parts[at], cut.bytes_max))
        });
        let finished = fill(round, pieces.collect(), None, carried).await;
        drop(permit);
        match finished.inspect_err(|halt| self.look_for_poison(halt))? {
            Finished::OnlyGaps(gaps) => self.record_gaps(gaps).await?,
            Finished::Prepared(mut prepared, table) => {
                self.table = Some(table);
                prepared.watermark_ms = Some(watermark(parts, &prepared, now_ms));
                self.prepare(*prepared, tag).await?;
                self.settle(Some(tag)).await?;
            }
        }
        // The first one makes the table and its columns, often while all other tables do too: it
        // says nothing of those that follow.
        if !is_first {
            self.durations.record(millis(started.elapsed()));
        }
        Ok(())
    }

    /// After rows that a file did not take, the next round tries each group out first; if that
    /// was not enough, it takes half as much.
    fn look_for_poison(&mut self, halt: &Halt) {
        if matches!(halt, Halt::Poison(_)) {
            self.budget_shift = (self.budget_shift + u32::from(self.careful)).min(BUDGET_SHIFT_MAX);
            self.careful = true;
        }
    }

    async fn record_gaps(&mut self, gaps: Vec<marker::Gap>) -> Result<(), Halt> {
        if gaps.is_empty() {
            return Err(Halt::Later("nothing of what waits could be read".to_owned()));
        }
        let mut next = self.entry.clone();
        for gap in &gaps {
            next.record_gap(gap.clone())?;
        }
        self.context.ledger.write(put_entry(&next)).await?;
        self.entry = next;
        self.count_gaps(&gaps);
        self.oldest = None;
        self.release();
        Ok(())
    }

    /// Makes the commit durable in the ledger, before the catalog hears of it.
    async fn prepare(&mut self, prepared: Prepared, first: Uuid) -> Result<(), Halt> {
        self.context.pass("tier.after_files")?;
        let mut next = self.entry.clone();
        next.prepare(&prepared, first)?;
        match self.context.ledger.write(put_prepared(&next, &prepared)).await {
            Ok(()) => {}
            Err(Error::Store(store::Error::TooLarge { bytes, limit })) => {
                self.budget_shift = (self.budget_shift + 1).min(BUDGET_SHIFT_MAX);
                return Err(Halt::Later(format!(
                    "the commit takes {bytes} bytes in the ledger, allowed are {limit}: half of it \
                     is taken next"
                )));
            }
            Err(error) => return Err(error.into()),
        }
        let known = &self.entry.pending_gaps;
        let fresh: Vec<_> =
            prepared.gaps.iter().filter(|gap| !known.contains(gap)).cloned().collect();
        self.count_gaps(&fresh);
        self.entry = next;
        self.prepared = Some(prepared);
        self.context.pass("tier.after_prepared")
    }

    /// Brings the outstanding commit to its end. `fresh` is its first attempt if it was never
    /// sent.
    pub(super) async fn settle(&mut self, fresh: Option<Uuid>) -> Result<(), Halt> {
        let Some(prepared) = self.prepared.take() else {
            return Ok(());
        };
        let started = Instant::now();
        let settled = committer::settle(
            &self.context,
            &self.topic,
            &mut self.entry,
            &prepared,
            fresh,
            &mut self.manifests,
        )
        .await;
        match settled {
            Ok(Settled::Committed) => {
                self.after_commit(&prepared, started).await;
                Ok(())
            }
            Ok(Settled::FilesMissing(path)) => {
                tracing::error!(
                    topic = %self.topic.name, path, "a data file is gone, its rows are encoded again"
                );
                self.encode_again(prepared).await
            }
            Err(halt) => {
                if self.entry.outstanding.is_some() {
                    self.prepared = Some(prepared);
                }
                Err(halt)
            }
        }
    }

    async fn after_commit(&mut self, prepared: &Prepared, started: Instant) {
        self.last_commit = Some(Instant::now());
        self.oldest = None;
        self.failures = 0;
        self.failure = None;
        (self.budget_shift, self.careful) = (0, false);
        self.had_dead_letters = prepared.dlq_rows > 0;
        self.release();
        let table = self.entry.table.as_ref().map_or_else(String::new, |table| table.display());
        let name = || [("table", table.clone())];
        ::metrics::counter!(metrics::TABLE_ROWS, &name()).increment(prepared.rows);
        ::metrics::histogram!(metrics::TABLE_COMMIT_SECONDS, &name())
            .record(started.elapsed().as_secs_f64());
        if let Some(oldest_ms) = prepared.oldest_append_ms {
            let age_ms = self.context.clock.now_ms().saturating_sub(oldest_ms).max(0);
            ::metrics::histogram!(metrics::TABLE_FRESHNESS_SECONDS, &name())
                .record(age_ms as f64 / 1_000.0);
        }
        for (code, count) in &prepared.dlq_codes {
            let labels = [("table", table.clone()), ("code", code.clone())];
            ::metrics::counter!(metrics::TABLE_DLQ_ROWS, &labels).increment(*count);
        }
        for file in &prepared.files {
            ::metrics::histogram!(metrics::TABLE_FILE_BYTES).record(file.bytes as f64);
        }
        let files: Vec<_> = prepared
            .files
            .iter()
            .map(|file| FileStatus { path: file.path.clone(), bytes: file.bytes })
            .collect();
        self.cell.update(|status| status.last_files = files);
        // Who waited for the commit sees its figures.
        self.publish();
        self.answer_waiters();
        self.since_maintenance += 1;
        if self.since_maintenance >= self.context.options.maintain_every {
            self.since_maintenance = 0;
            let bound = self.context.options.retry.call_max;
            match tokio::time::timeout(bound, self.maintain()).await {
                Ok(Ok(())) => {}
                Ok(Err(halt)) => {
                    tracing::info!(table, ?halt, "table maintenance is left to the next time");
                }
                Err(_) => tracing::info!(table, "table maintenance took too long"),
            }
        }
    }

    pub(super) fn count_gaps(&self, gaps: &[marker::Gap]) {
        let table = self.entry.table.as_ref().map_or_else(String::new, |table| table.display());
        for gap in gaps {
            let labels = [("table", table.clone()), ("reason", gap.reason.clone())];
            ::metrics::counter!(metrics::TABLE_GAP_OFFSETS, &labels)
                .increment(gap.to.abs_diff(gap.from));
        }
    }

    /// Writes new files for exactly the ranges and the split of `prepared` (rules 4.3, 4.6).
    /// Where the log no longer has them, the commit is given up and recorded as such.
    async fn encode_again(&mut self, prepared: Prepared) -> Result<(), Halt> {
        let result = self.same_again(&prepared).await;
        match result {
            Ok(Some(again)) => {
                self.context.ledger.write(put_prepared(&self.entry, &again)).await?;
                self.prepared = Some(again);
                Ok(())
            }
            Ok(None) => {
                let mut next = self.entry.clone();
                next.unprepare(&prepared);
                self.context.ledger.write(put_entry(&next)).await?;
                self.entry = next;
                Ok(())
            }
            Err(halt) => {
                self.prepared = Some(prepared);
                Err(halt)
            }
        }
    }

    async fn same_again(&mut self, prepared: &Prepared) -> Result<Option<Prepared>, Halt> {
        let mut pieces = Vec::with_capacity(prepared.ranges.len());
        for range in &prepared.ranges {
            let index = usize::try_from(range.partition).ok();
            let id = index.and_then(|index| self.topic.partitions.get(index));
            let Some(id) = id else { return Ok(None) };
            pieces.push(Piece {
                partition: range.partition,
                id: *id,
                from: range.base,
                until: range.end,
                bytes_max: u64::MAX,
            });
        }
        let table = lifecycle::ensure_table(&self.context, &self.topic, &mut self.entry).await?;
        let tag = Uuid::now_v7();
        let ids = (tag, prepared.entry_id);
        let mut round =
            Round::start(&self.context, &self.topic, &mut self.entry, table, ids).await?;
        round.keep_split(prepared);
        if self.careful {
            round.be_careful();
        }
        let gaps = prepared.gaps.clone();
        let finished = fill(round, pieces, prepared.watermark_ms, gaps).await;
        match finished.inspect_err(|halt| self.look_for_poison(halt)) {
            Ok(Finished::Prepared(again, _))
                if again.ranges == prepared.ranges && again.gaps == prepared.gaps =>
            {
                Ok(Some(Prepared { entry_id: prepared.entry_id, ..*again }))
            }
            Ok(_) => Ok(None),
            Err(halt) => Err(halt),
        }
    }

    /// Expires old snapshots and deletes the files that only they reach (rules 4.10).
    async fn maintain(&mut self) -> Result<(), Halt> {
        let tables = [(false, self.entry.table.clone()), (true, self.entry.dlq.clone())];
        for (is_dlq, table) in tables {
            let Some(table) = table else { continue };
            let ident = table.ident()?;
            let loaded = self.context.catalog.load(&ident).await?;
            if is_dlq && let Some(lost) = taken_away(&loaded.metadata, self.entry.writer(), &[]) {
                // Before the proof expires.
                let entry = &mut self.entry;
                committer::dead_letters_taken_away(&self.context, entry, lost).await?;
            }
            let options = &self.topic.options;
            if !is_dlq
                && options.table_mode == TableMode::Contract
                && !options.table_snapshot_is_set
            {
                // How far back a table of others can be read is theirs to say.
                continue;
            }
            let policy = ExpiryPolicy {
                keep_min: options.table_snapshot_min_count as usize,
                keep_max: options.table_snapshot_max_count as usize,
                age_max_ms: options.table_snapshot_max_age_ms,
                ..ExpiryPolicy::default()
            };
            let last = self.entry.last.as_ref().map(|last| last.commit_id.to_string());
            let is_marker = |snapshot: &iceberg::spec::Snapshot| {
                let summary = &snapshot.summary().additional_properties;
                last.is_some() && summary.get(marker::COMMIT_ID) == last.as_ref()
            };
            let now_ms = self.context.clock.now_ms();
            let plan = maintenance::plan_expiry(&loaded.metadata, &policy, now_ms, is_marker)?;
            let Some(plan) = plan else { continue };
            let file_io = self.context.catalog.file_io();
            let files =
                maintenance::unreachable_files(file_io, &loaded.metadata, &plan.expired).await?;
            let change =
                TableChange { ident, requirements: plan.requirements, updates: plan.updates };
            self.context.catalog.commit(vec![change], Change::new()).await?;
            maintenance::delete_files(file_io, &files).await;
        }
        Ok(())
    }
}

/// Fills a round and closes its files; after an error there are none.
async fn fill(
    mut round: Round<'_>,
    pieces: Vec<Piece>,
    watermark: Option<i64>,
    carried: Vec<marker::Gap>,
) -> Result<Finished, Halt> {
    round.plan(&pieces);
    for piece in pieces {
        if let Err(halt) = round.take(piece).await {
            round.abandon().await;
            return Err(halt);
        }
    }
    round.finish(watermark, carried).await
}

fn piece(part: &Part, bytes_max: u64) -> Piece {
    Piece {
        partition: part.index,
        id: part.id,
        from: part.next,
        until: part.high_watermark,
        bytes_max,
    }
}

/// Everything appended up to this time is in the table afterwards: the append time of the first
/// record that stays behind, or now.
fn watermark(parts: &[Part], prepared: &Prepared, now_ms: i64) -> i64 {
    let left = parts.iter().filter_map(|part| {
        let end = prepared.ends_after.get(&part.index).copied().unwrap_or(part.next);
        (end < part.high_watermark).then(|| part.handle.append_ms_at(end)).flatten()
    });
    left.min().unwrap_or(now_ms).min(now_ms) - 1
}

impl std::convert::From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::Corrupt(refused.to_string())
    }
}
