//! One commit's data: reads ranges, encodes them, writes files, and gives the `Prepared`.
//!
//! Owns: which offsets become rows, dead letters or gaps. Does not own: when (`plan`), the
//! ledger's steps (`worker`).

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::log::ReadError;
use crate::log::ReadSlice;
use crate::log::StoredBatch;
use crate::runtime::metrics;
use crate::schema::columns;
use crate::schema::columns::Plan;
use crate::table::catalog::LoadedTable;
use crate::table::commit::marker;
use crate::table::commit::marker::Gap;
use crate::table::commit::marker::Range;
use crate::tier::context::Context;
use crate::tier::context::Halt;
use crate::tier::encode;
use crate::tier::encode::Job;
use crate::tier::encode::Output;
use crate::tier::encode::Split;
use crate::tier::encode::Stats;
use crate::tier::encode::Target;
use crate::tier::encode::Values;
use crate::tier::evolve;
use crate::tier::files::Files;
use crate::tier::ledger::Entry;
use crate::tier::ledger::Prepared;
use crate::tier::ledger::StopState;
use crate::tier::lifecycle;
use crate::tier::rows::system;
use crate::topic::Topic;
use crate::topic::options::TableMode;
use crate::topic::options::TypeConflict;
use crate::types::Offset;
use crate::types::OffsetRange;
use crate::types::PartitionId;

/// One read of the log.
const READ_BYTES: usize = 4 << 20;

/// Files of one commit; it is cut there.
const FILES_MAX: usize = 1_000;

/// Schema changes in a row for one group of batches.
const EVOLVE_TRIES: u32 = 6;

/// What to take of one partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Partition index.
    pub(super) partition: i32,
    /// Its number in the log.
    pub(super) id: PartitionId,
    /// First offset.
    pub(super) from: Offset,
    /// First offset that is not taken.
    pub(super) until: Offset,
    /// Stop after so many bytes.
    pub(super) bytes_max: u64,
}

/// A commit that is being put together.
pub(super) struct Round<'a> {
    context: &'a Context,
    topic: &'a Topic,
    entry: &'a mut Entry,
    table: LoadedTable,
    target: Target,
    values: Values,
    dead_letters: Option<(LoadedTable, Target)>,
    split: Option<Split>,
    files: Files,
    dlq_files: Files,
    ranges: Vec<Range>,
    gaps: Vec<Gap>,
    stats: Stats,
    dlq_rows: u64,
    tag: Uuid,
}

impl<'a> Round<'a> {
    /// Starts a commit to `table`; its files are named by `tag`.
    pub(super) async fn start(
        context: &'a Context,
        topic: &'a Topic,
        entry: &'a mut Entry,
        table: LoadedTable,
        tag: Uuid,
    ) -> Result<Self, Halt> {
        let table = evolve::align_spec(context, table, &topic.options.table_partition_spec).await?;
        let (target, values) = shapes(topic, &table, true)?;
        let footer = |role: &str| {
            vec![
                ("floe.commit-id".to_owned(), tag.to_string()),
                ("floe.topic-id".to_owned(), entry.topic_id.to_string()),
                ("floe.generation".to_owned(), entry.generation.to_string()),
                ("floe.role".to_owned(), role.to_owned()),
            ]
        };
        let file_io = context.catalog.file_io();
        let files = Files::new(file_io.clone(), tag, footer("table"));
        let dlq_files = Files::new(file_io.clone(), tag, footer("dead-letters"));
        Ok(Self {
            context,
            topic,
            table,
            target,
            values,
            dead_letters: None,
            split: None,
            files,
            dlq_files,
            ranges: Vec::new(),
            gaps: Vec::new(),
            stats: Stats::default(),
            dlq_rows: 0,
            entry,
            tag,
        })
    }

    /// Keeps the split of an earlier attempt (rules 4.3).
    pub(super) fn keep_split(&mut self, dead: Vec<Range>) {
        self.split = Some(Split { dead: Arc::new(dead) });
    }

    /// Takes one partition's piece.
    pub(super) async fn take(&mut self, piece: Piece) -> Result<(), Halt> {
        let mut at = piece.from;
        let mut read_bytes = 0_u64;
        while at < piece.until && read_bytes < piece.bytes_max && self.files.count() < FILES_MAX {
            let left = usize::try_from(piece.bytes_max - read_bytes).unwrap_or(READ_BYTES);
            let want = left.clamp(1, READ_BYTES);
            let before = at;
            match self.context.log.read(piece.id, at, want).await {
                Ok(slice) => {
                    let read: u64 = slice.batches.iter().map(|b| b.bytes.len() as u64).sum();
                    ::metrics::counter!(metrics::LOG_READ_BYTES, "reader" => "tier")
                        .increment(read);
                    read_bytes += read;
                    at = self.slice(piece, at, slice).await?;
                }
                Err(ReadError::OutOfRange { start, .. }) if at < start => {
                    at = self.gap(piece.partition, at, start.min(piece.until), "retention");
                }
                Err(ReadError::OutOfRange { end, .. }) if at > end => {
                    let reason = format!(
                        "partition {} ends at {end} in the log, the table is at {at}",
                        piece.partition
                    );
                    return Err(Halt::Stop(StopState::LogBehind, reason));
                }
                Err(ReadError::Corrupt(range)) => {
                    let end = range.end.clamp(at + 1, piece.until);
                    at = self.gap(piece.partition, at, end, "corrupt");
                }
                Err(ReadError::UnknownPartition | ReadError::OutOfRange { .. }) => break,
                Err(ReadError::Io(reason)) => return Err(Halt::Later(reason)),
            }
            if at == before {
                break;
            }
        }
        Ok(())
    }

    /// Takes what one read found; gives the offset after it.
    async fn slice(
        &mut self,
        piece: Piece,
        mut at: Offset,
        slice: ReadSlice,
    ) -> Result<Offset, Halt> {
        let mut batches = slice.batches;
        batches.retain(|batch| batch.base_offset < piece.until && batch.end_offset > at);
        if let (Some(first), Some(last)) = (batches.first(), batches.last()) {
            let end = last.end_offset.min(piece.until);
            if first.base_offset > at {
                at = self.gap(piece.partition, at, first.base_offset, "missing");
            }
            // Named first: a file may be closed while they are written.
            self.range(piece.partition, at, end);
            self.name_ranges();
            self.batches(Piece { from: at, ..piece }, batches).await?;
            at = end;
        }
        if let Some((OffsetRange { base, end }, reason)) = slice.gap
            && base <= at
            && end > at
            && at < piece.until
        {
            at = self.gap(piece.partition, at, end.min(piece.until), &reason);
        }
        Ok(at)
    }

    fn gap(&mut self, partition: i32, from: Offset, to: Offset, reason: &str) -> Offset {
        tracing::warn!(
            topic = %self.topic.name, partition, from, to, reason, "offsets are passed as a gap"
        );
        match self.gaps.last_mut() {
            Some(last)
                if last.partition == partition && last.to == from && last.reason == reason =>
            {
                last.to = to;
            }
            _ => self.gaps.push(Gap { partition, from, to, reason: reason.to_owned() }),
        }
        to
    }

    fn range(&mut self, partition: i32, base: Offset, end: Offset) {
        match self.ranges.last_mut() {
            Some(last) if last.partition == partition && last.end == base => last.end = end,
            _ => self.ranges.push(Range { partition, base, end }),
        }
    }

    /// Files that are closed from now on name what was taken so far.
    fn name_ranges(&mut self) {
        let ranges = marker::ranges_json(&self.ranges);
        self.files.set_ranges(ranges.clone());
        self.dlq_files.set_ranges(ranges);
    }

    async fn batches(&mut self, piece: Piece, batches: Vec<StoredBatch>) -> Result<(), Halt> {
        let mut batches = Arc::new(batches);
        while !batches.is_empty() {
            let output = self.group(piece, &batches).await?;
            let taken = output.taken.clamp(1, batches.len());
            let spec_id = self.target.spec.spec_id();
            let location = self.table.metadata.location().to_owned();
            for (value, batch) in output.rows {
                let schema = Arc::clone(&self.target.schema);
                self.files.write(&location, &schema, spec_id, value, batch).await?;
            }
            if let (Some(letters), Some((table, target))) = (output.letters, &self.dead_letters) {
                self.dlq_rows += letters.num_rows() as u64;
                let empty = iceberg::spec::Struct::empty();
                let location = table.metadata.location().to_owned();
                let spec_id = target.spec.spec_id();
                self.dlq_files.write(&location, &target.schema, spec_id, empty, letters).await?;
            }
            self.merge(output.stats);
            let rest = batches[taken..].to_vec();
            batches = Arc::new(rest);
        }
        Ok(())
    }

    /// Encodes the first of `batches`, after the schema changes and the dead-letter table that
    /// they need.
    async fn group(
        &mut self,
        piece: Piece,
        batches: &Arc<Vec<StoredBatch>>,
    ) -> Result<Output, Halt> {
        let mut give_up = false;
        let mut alone = false;
        for number in 0..EVOLVE_TRIES {
            if number + 1 == EVOLVE_TRIES {
                // Somebody changes the schema all the time: what has no column goes its way.
                (self.target, self.values) = shapes(self.topic, &self.table, false)?;
            }
            let job = self.job(piece, give_up);
            let work = Arc::clone(batches);
            let encoded = tokio::task::spawn_blocking(move || {
                let end = if alone { 1 } else { work.len() };
                encode::encode(&job, &work[..end])
            });
            let output = match encoded.await {
                Ok(output) => output?,
                Err(error) if error.is_panic() => {
                    // First find the batch, then give it up (rules 4.9).
                    tracing::error!(topic = %self.topic.name, from = piece.from, "encoding panicked");
                    (give_up, alone) = (alone, true);
                    continue;
                }
                Err(_) => return Err(Halt::Closed),
            };
            if !output.proposed.is_empty() {
                let table =
                    evolve::add_columns(self.context, &self.table, &output.proposed).await?;
                let spec = &self.topic.options.table_partition_spec;
                self.table = evolve::align_spec(self.context, table, spec).await?;
                (self.target, self.values) = shapes(self.topic, &self.table, true)?;
            } else if output.needs_dead_letters {
                self.open_dead_letters().await?;
            } else {
                return Ok(output);
            }
        }
        Err(Halt::Later("the schema changes faster than rows can be encoded".to_owned()))
    }

    async fn open_dead_letters(&mut self) -> Result<(), Halt> {
        let main = self.table.ident.clone();
        let loaded = lifecycle::ensure_dead_letters(self.context, self.entry, &main).await?;
        let metadata = &loaded.metadata;
        let spec = Arc::clone(metadata.default_partition_spec());
        let target = Target::new(Arc::clone(metadata.current_schema()), spec)?;
        if !target.spec.is_unpartitioned() {
            let reason = format!("dead-letter table {} must be unpartitioned", loaded.ident);
            return Err(Halt::Stop(StopState::ConfigError, reason));
        }
        self.dead_letters = Some((loaded, target));
        Ok(())
    }

    fn job(&self, piece: Piece, give_up: bool) -> Job {
        Job {
            partition: piece.partition,
            from: piece.from,
            until: piece.until,
            values: self.values.clone(),
            target: self.target.clone(),
            dead_letters: self.dead_letters.as_ref().map(|(_, target)| target.clone()),
            split: self.split.clone(),
            inspect: self.context.options.inspect.clone(),
            target_name: self.table.ident.to_string(),
            now_ms: self.context.clock.now_ms(),
            give_up,
        }
    }

    fn merge(&mut self, stats: Stats) {
        self.stats.rows += stats.rows;
        for (code, count) in stats.dlq_codes {
            *self.stats.dlq_codes.entry(code).or_default() += count;
        }
        self.stats.dlq_ranges.extend(stats.dlq_ranges);
        let oldest = [self.stats.oldest_append_ms, stats.oldest_append_ms];
        self.stats.oldest_append_ms = oldest.into_iter().flatten().min();
        self.stats.max_record_ts_ms = self.stats.max_record_ts_ms.max(stats.max_record_ts_ms);
    }

    /// Gives the files up after an error. Best effort.
    pub(super) async fn abandon(self) {
        self.files.abandon().await;
        self.dlq_files.abandon().await;
    }

    /// Closes the files; they are durable afterwards. Without ranges it gives only the gaps.
    /// `carried` are the recorded gaps that the commit takes along.
    pub(super) async fn finish(
        mut self,
        watermark: Option<i64>,
        carried: Vec<Gap>,
    ) -> Result<Finished, Halt> {
        if self.ranges.is_empty() {
            return Ok(Finished::OnlyGaps(self.gaps));
        }
        self.name_ranges();
        let files = self.files.close(&self.table.metadata).await?;
        let dlq_files = match &self.dead_letters {
            Some((table, _)) => self.dlq_files.close(&table.metadata).await?,
            None => Vec::new(),
        };
        let mut gaps = carried;
        gaps.extend(self.gaps);
        gaps.sort_by_key(|gap| (gap.partition, gap.from));
        let mut prepared = Prepared {
            entry_id: self.tag,
            ranges: self.ranges,
            gaps,
            ends_after: BTreeMap::new(),
            files,
            dlq_files,
            dlq_ranges: self.stats.dlq_ranges,
            rows: self.stats.rows,
            dlq_rows: self.dlq_rows,
            dlq_codes: self.stats.dlq_codes,
            oldest_append_ms: self.stats.oldest_append_ms,
            watermark_ms: watermark,
            max_record_ts_ms: self.stats.max_record_ts_ms,
        };
        prepared.ends_after = crate::tier::state::join(&self.entry.ends, &prepared)?;
        Ok(Finished::Prepared(Box::new(prepared), self.table))
    }
}

/// What a round gave.
pub(super) enum Finished {
    /// Files to commit, and the table as they were written for it.
    Prepared(Box<Prepared>, LoadedTable),
    /// No rows, only offsets to pass.
    OnlyGaps(Vec<Gap>),
}

/// How rows of a topic are built for the table as it is now.
fn shapes(topic: &Topic, table: &LoadedTable, evolve: bool) -> Result<(Target, Values), Halt> {
    let metadata = &table.metadata;
    let schema = Arc::clone(metadata.current_schema());
    let target = Target::new(Arc::clone(&schema), Arc::clone(metadata.default_partition_spec()))?;
    let mode = match topic.options.table_mode {
        TableMode::Raw => return Ok((target, Values::Raw)),
        TableMode::Json => columns::Mode::Json,
        TableMode::Auto | TableMode::Off => columns::Mode::Auto,
    };
    let conflict = match topic.options.table_type_conflict {
        TypeConflict::Suffix => columns::Conflict::Sibling,
        TypeConflict::Rest => columns::Conflict::Rest,
        TypeConflict::Dlq => columns::Conflict::Dlq,
    };
    let options = columns::Options {
        mode,
        conflict,
        max_columns: topic.options.table_max_columns as usize,
        evolve,
        system: vec![system::NAME.to_owned()],
        ..columns::Options::default()
    };
    let plan = Plan::new(&schema, options)
        .map_err(|error| Halt::Stop(StopState::ConfigError, error.to_string()))?;
    Ok((target, Values::Json(Arc::new(plan))))
}
