//! One commit's data: reads ranges, encodes them, writes files, and gives the `Prepared`.
//!
//! Owns: which offsets become rows, dead letters or gaps. Does not own: when (`plan`), the
//! ledger's steps (`worker`), which row of a primary key stays (`keyed`).

mod letters;
mod unique;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::RecordBatch;
use iceberg::spec::Struct;
use uuid::Uuid;

use crate::log::ReadError;
use crate::log::ReadSlice;
use crate::log::StoredBatch;
use crate::runtime::metrics;
use crate::schema::evolve::NewColumn;
use crate::table;
use crate::table::catalog::LoadedTable;
use crate::table::commit::marker::Gap;
use crate::table::commit::marker::Range;
use crate::table::sink::SinkOptions;
use crate::tier::ahead;
use crate::tier::context::Context;
use crate::tier::context::Halt;
use crate::tier::encode::Job;
use crate::tier::encode::Offsets;
use crate::tier::encode::Output;
use crate::tier::encode::Stats;
use crate::tier::encode::Target;
use crate::tier::encode::Values;
use crate::tier::evolve;
use crate::tier::feed::Feed;
use crate::tier::files::Files;
use crate::tier::keyed::Keyed;
use crate::tier::ledger::Entry;
use crate::tier::ledger::FileEntry;
use crate::tier::ledger::Prepared;
use crate::tier::ledger::StopState;
use crate::tier::poison;
use crate::tier::shapes::aligned;
use crate::tier::shapes::shapes;
use crate::types::Offset;
use crate::types::OffsetRange;
use crate::types::PartitionId;
use crate::types::Signal;

/// One read of the log.
const READ_BYTES: usize = 4 << 20;

/// Schema changes in a row for one group of batches.
const EVOLVE_TRIES: u32 = 6;

/// Searches for poison in one group of batches.
const POISON_TRIES: u32 = 3;

/// A row group is closed at about this many bytes.
const ROW_GROUP_BYTES: usize = 16 << 20;

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
    topic: &'a Feed,
    entry: &'a mut Entry,
    table: LoadedTable,
    target: Target,
    values: Values,
    dead_letters: Option<(LoadedTable, Target)>,
    kept: Option<Offsets>,
    /// Of records that have a signal only those of these are taken; empty is all.
    signals: BTreeSet<Signal>,
    poison: Vec<Range>,
    careful: bool,
    /// Pieces whose turn comes later.
    ahead: VecDeque<Piece>,
    files: Files,
    dlq_files: Files,
    /// The rows so far, of a table with a primary key.
    keyed: Option<Keyed>,
    ranges: Vec<Range>,
    gaps: Vec<Gap>,
    stats: Stats,
    dlq_rows: u64,
    tag: Uuid,
    /// Names the commit in its rows, however often it is encoded.
    write_id: Uuid,
}

impl<'a> Round<'a> {
    /// Starts a commit to `table`; its files are named by `tag`, its rows by `write_id`.
    pub(super) async fn start(
        context: &'a Context,
        topic: &'a Feed,
        entry: &'a mut Entry,
        table: LoadedTable,
        (tag, write_id): (Uuid, Uuid),
    ) -> Result<Self, Halt> {
        let table = aligned(context, topic, table).await?;
        let (target, values) = shapes(topic, &table, write_id, true)?;
        let options = |role: &str| {
            let sink = entry.sink.map(|sink| ("floe.sink-id".to_owned(), sink.to_string()));
            let footer = [
                ("floe.commit-id".to_owned(), tag.to_string()),
                ("floe.topic-id".to_owned(), entry.topic_id.to_string()),
                ("floe.generation".to_owned(), entry.generation.to_string()),
                ("floe.role".to_owned(), role.to_owned()),
            ];
            let footer = footer.into_iter().chain(sink).collect();
            SinkOptions { footer, ..sink_options(context) }
        };
        let keyed = match &values {
            Values::Mapped(mapped) => mapped.key.clone().map(Keyed::new),
            _ => None,
        };
        let file_io = context.catalog.file_io();
        let files = Files::new(file_io.clone(), tag, options("table"));
        let dlq_files = Files::new(file_io.clone(), tag, options("dead-letters"));
        Ok(Self {
            context,
            topic,
            table,
            target,
            values,
            dead_letters: None,
            kept: None,
            signals: topic.sink().map_or_else(BTreeSet::new, |sink| sink.wish.signals.clone()),
            poison: Vec::new(),
            careful: false,
            ahead: VecDeque::new(),
            files,
            dlq_files,
            keyed,
            ranges: Vec::new(),
            gaps: Vec::new(),
            stats: Stats::default(),
            dlq_rows: 0,
            entry,
            tag,
            write_id,
        })
    }

    /// Keeps the split of an earlier attempt (rules 4.3): what it took and what was a dead letter.
    pub(super) fn keep_split(&mut self, earlier: &Prepared) {
        self.kept = Some(Offsets::new(earlier.dlq_ranges.clone()));
        self.signals.clone_from(&earlier.signals);
    }

    /// Tries out every group before it goes to a file: an earlier attempt failed there.
    pub(super) fn be_careful(&mut self) {
        self.careful = true;
    }

    /// What will be taken, in this order.
    pub(super) fn plan(&mut self, pieces: &[Piece]) {
        self.ahead = pieces.iter().copied().collect();
    }

    /// Takes one partition's piece, the next of what was planned.
    pub(super) async fn take(&mut self, piece: Piece) -> Result<(), Halt> {
        self.ahead.pop_front();
        if let Some(keyed) = &mut self.keyed {
            keyed.begin(self.ahead.len());
        }
        let mut at = piece.from;
        let mut read_bytes = 0_u64;
        while at < piece.until && read_bytes < piece.bytes_max && !self.is_full() {
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

    /// True if the piece ends with what was taken. A commit that is encoded again takes what it took.
    fn is_full(&self) -> bool {
        let is_again = self.kept.is_some();
        self.files.is_full() || !is_again && self.keyed.as_ref().is_some_and(Keyed::is_full)
    }

    async fn write(&mut self, rows: Vec<(Struct, RecordBatch)>) -> Result<(), table::Error> {
        let location = self.table.metadata.location();
        let target = (&self.target.schema, self.target.spec.spec_id());
        self.files.write(location, target, rows, &self.ranges).await
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
        if let Some(first) = batches.first() {
            if first.base_offset > at {
                at = self.gap(piece.partition, at, first.base_offset, "missing");
            }
            let all = batches.last().map_or(at, |last| last.end_offset.min(piece.until));
            at = self.batches(Piece { from: at, ..piece }, batches).await?;
            if at < all {
                return Ok(at);
            }
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

    /// Takes `batches`, or the first of them where the files are full; gives the offset after
    /// what was taken.
    async fn batches(&mut self, piece: Piece, batches: Vec<StoredBatch>) -> Result<Offset, Halt> {
        let mut batches = Arc::new(batches);
        let mut at = piece.from;
        while !batches.is_empty() && !self.is_full() {
            let output = self.group(Piece { from: at, ..piece }, &batches).await?;
            let taken = output.taken.clamp(1, batches.len());
            let end = output.cut.unwrap_or(batches[taken - 1].end_offset).min(piece.until);
            self.range(piece.partition, at, end);
            at = end;
            match &mut self.keyed {
                Some(keyed) => keyed.take(piece.partition, output.rows),
                None => self.write(output.rows).await?,
            }
            if let (Some(letters), Some((table, target))) = (output.letters, &self.dead_letters) {
                self.dlq_rows += letters.num_rows() as u64;
                let rows = vec![(Struct::empty(), letters)];
                let location = table.metadata.location();
                let target = (&target.schema, target.spec.spec_id());
                self.dlq_files.write(location, target, rows, &self.ranges).await?;
            }
            self.merge(output.stats);
            let rest = batches[taken - usize::from(output.cut.is_some())..].to_vec();
            batches = Arc::new(rest);
        }
        Ok(at)
    }

    /// Encodes the first of `batches`, after the schema changes and the dead-letter table that
    /// they need.
    async fn group(
        &mut self,
        piece: Piece,
        batches: &Arc<Vec<StoredBatch>>,
    ) -> Result<Output, Halt> {
        for number in 0..EVOLVE_TRIES {
            if number + 1 == EVOLVE_TRIES {
                // Somebody changes the schema all the time: what has no column goes its way.
                (self.target, self.values) = shapes(self.topic, &self.table, self.write_id, false)?;
            }
            let output = self.encode(piece, batches).await?;
            if !output.proposed.is_empty() {
                let columns = self.wishes(piece, batches, output.proposed).await;
                let table = evolve::add_columns(self.context, &self.table, &columns).await?;
                self.table = aligned(self.context, self.topic, table).await?;
                (self.target, self.values) = shapes(self.topic, &self.table, self.write_id, true)?;
            } else if output.needs_dead_letters {
                self.open_dead_letters().await?;
            } else {
                return Ok(output);
            }
        }
        Err(Halt::Later("the schema changes faster than rows can be encoded".to_owned()))
    }

    /// The new columns of this group and of the partitions whose turn comes later.
    async fn wishes(
        &mut self,
        piece: Piece,
        batches: &Arc<Vec<StoredBatch>>,
        own: Vec<NewColumn>,
    ) -> Vec<NewColumn> {
        if self.ahead.is_empty() {
            return own;
        }
        let job = self.job(piece);
        let all = ahead::columns(&self.context.log, &job, batches, &self.ahead).await;
        if all.is_empty() { own } else { all }
    }

    /// Encodes the first of `batches`; records on which that fails become dead letters.
    async fn encode(
        &mut self,
        piece: Piece,
        batches: &Arc<Vec<StoredBatch>>,
    ) -> Result<Output, Halt> {
        let mut last = String::new();
        for _ in 0..POISON_TRIES {
            let job = self.job(piece);
            let work = Arc::clone(batches);
            let encoded = tokio::task::spawn_blocking(move || poison::encode(&job, &work));
            let (reason, found) = match encoded.await {
                Ok(Ok(output)) => return output,
                Ok(Err(poison)) => poison,
                Err(_) => return Err(Halt::Closed),
            };
            tracing::error!(
                topic = %self.topic.name, partition = piece.partition, reason,
                records = ?found.iter().map(|range| range.base..range.end).collect::<Vec<_>>(),
                "records cannot be encoded and go to the dead letters"
            );
            self.poison.extend(found);
            last = reason;
        }
        Err(Halt::Later(format!("{last}, and the record that is to blame cannot be found")))
    }

    fn job(&self, piece: Piece) -> Job {
        Job {
            partition: piece.partition,
            from: piece.from,
            until: piece.until,
            values: self.values.clone(),
            signals: self.signals.clone(),
            target: self.target.clone(),
            dead_letters: self.dead_letters.as_ref().map(|(_, target)| target.clone()),
            kept: self.kept.clone(),
            poison: Offsets::new(self.poison.clone()),
            trial: self.careful.then(|| sink_options(self.context)),
            inspect: self.context.options.inspect.clone(),
            target_name: self.table.ident.to_string(),
            now_ms: self.context.clock.now_ms(),
        }
    }

    fn merge(&mut self, stats: Stats) {
        self.stats.rows += stats.rows;
        self.stats.superseded += stats.superseded;
        for (code, count) in stats.dlq_codes {
            *self.stats.dlq_codes.entry(code).or_default() += count;
        }
        self.stats.dlq_ranges.extend(stats.dlq_ranges);
        let oldest = [self.stats.oldest_append_ms, stats.oldest_append_ms];
        self.stats.oldest_append_ms = oldest.into_iter().flatten().min();
        self.stats.max_record_ts_ms = self.stats.max_record_ts_ms.max(stats.max_record_ts_ms);
    }

    async fn close(&mut self) -> Result<(Vec<FileEntry>, Vec<FileEntry>), Halt> {
        self.write_unique().await?;
        let files = self.files.close(&self.table.metadata, &self.ranges).await?;
        let dlq_files = match &self.dead_letters {
            Some((table, _)) => self.dlq_files.close(&table.metadata, &self.ranges).await?,
            None => Vec::new(),
        };
        Ok((files, dlq_files))
    }

    /// Gives the files up after an error. Best effort.
    pub(super) async fn abandon(self) {
        self.files.abandon().await;
        self.dlq_files.abandon().await;
    }

    /// Closes the files; they are durable afterwards. Without ranges it gives only the gaps.
    /// `carried` are the recorded gaps that the commit takes along. After an error there are no
    /// files.
    pub(super) async fn finish(
        mut self,
        watermark: Option<i64>,
        carried: Vec<Gap>,
    ) -> Result<Finished, Halt> {
        if self.ranges.is_empty() {
            return Ok(Finished::OnlyGaps(self.gaps));
        }
        let (files, dlq_files) = match self.close().await {
            Ok(files) => files,
            Err(error) => {
                self.abandon().await;
                return Err(error);
            }
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
            signals: self.signals,
            rows: self.stats.rows,
            dlq_rows: self.dlq_rows,
            superseded_rows: self.stats.superseded,
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

fn sink_options(context: &Context) -> SinkOptions {
    SinkOptions {
        row_group_bytes: ROW_GROUP_BYTES,
        inspect: context.options.inspect_rows.clone(),
        ..SinkOptions::default()
    }
}
