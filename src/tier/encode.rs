//! Stored record batches to Arrow batches of a table and its dead-letter table. Blocks: it runs
//! on the blocking pool.
//!
//! Owns: the choice of rows or dead letters, groups. Does not own: taking record batches apart
//! (`apart`), the shape of rows (`rows`), files (`files`).

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::PartitionSpecRef;
use iceberg::spec::SchemaRef;
use iceberg::spec::Struct;

use crate::log::StoredBatch;
use crate::record::BatchReader;
use crate::schema::columns::Plan;
use crate::schema::evolve::NewColumn;
use crate::schema::split::Splitter;
use crate::table;
use crate::table::commit::marker::Range;
use crate::table::sink;
use crate::table::sink::SinkOptions;
use crate::tier::apart::take_apart;
use crate::tier::rows::Row;
use crate::tier::rows::RowsError;
use crate::tier::rows::contract;
use crate::tier::rows::contract::Contract;
use crate::tier::rows::dlq;
use crate::tier::rows::dlq::DeadLetter;
use crate::tier::rows::dlq::Fault;
use crate::tier::rows::json;
use crate::tier::rows::mapped;
use crate::tier::rows::mapped::Mapped;
use crate::tier::rows::mapped::NotRun;
use crate::tier::rows::raw;
use crate::tier::rows::system;
use crate::types::Offset;
use crate::types::Signal;

/// Decompressed bytes that are held at once; a group of record batches ends there.
const GROUP_BYTES_MAX: usize = 16 << 20;

/// Rows of a group; it ends with the batch that brings them.
const GROUP_ROWS_MAX: usize = 65_536;

/// Rows at which a group ends within a batch: one of many millions of records takes several groups.
const ROWS_MAX: usize = 4 * GROUP_ROWS_MAX;

/// How values become columns.
#[derive(Clone)]
pub(super) enum Values {
    /// As they are.
    Raw,
    /// By the schema's plan.
    Json(Arc<Plan>),
    /// By the schema of a table that others made.
    Contract(Arc<Contract>),
    /// By the mapping of a sink.
    Mapped(Arc<Mapped>),
}

/// A table as rows are built for it.
#[derive(Clone)]
pub(super) struct Target {
    /// Its schema.
    pub(super) schema: SchemaRef,
    /// The same for Arrow.
    pub(super) arrow: Arc<ArrowSchema>,
    /// Its partition spec.
    pub(super) spec: PartitionSpecRef,
}

impl Target {
    /// The target for one schema and spec of a table.
    ///
    /// # Errors
    /// [`RowsError::Arrow`] where the schema has a type that Arrow lacks.
    pub(super) fn new(schema: SchemaRef, spec: PartitionSpecRef) -> Result<Self, RowsError> {
        let arrow = iceberg::arrow::schema_to_arrow_schema(&schema)
            .map_err(|error| RowsError::Arrow(error.to_string()))?;
        Ok(Self { schema, arrow: Arc::new(arrow), spec })
    }
}

/// A set of records.
#[derive(Debug, Clone, Default)]
pub(super) struct Offsets(Arc<Vec<Range>>);

impl Offsets {
    /// The records of `ranges`, which do not overlap.
    pub(super) fn new(mut ranges: Vec<Range>) -> Self {
        ranges.sort_by_key(|range| (range.partition, range.base));
        Self(Arc::new(ranges))
    }

    /// True if the record is one of them.
    fn contains(&self, row: &Row<'_>) -> bool {
        let key = (row.partition, row.offset);
        let after = self.0.partition_point(|range| (range.partition, range.base) <= key);
        after.checked_sub(1).is_some_and(|index| {
            let range = &self.0[index];
            range.partition == row.partition && row.offset < range.end
        })
    }
}

/// Why records were not encoded.
#[derive(Debug)]
pub(super) enum Failed {
    /// A foreign schema change cannot take the rows.
    Shape(RowsError),
    /// An error or a panic of the encoding itself: some record is poison (rules 4.9).
    Poison(String),
    /// Not now: nothing is wrong with the records.
    Later(String),
}

impl From<NotRun> for Failed {
    fn from(error: NotRun) -> Self {
        Self::Later(error.to_string())
    }
}

impl From<RowsError> for Failed {
    fn from(error: RowsError) -> Self {
        Self::Shape(error)
    }
}

impl From<table::Error> for Failed {
    fn from(error: table::Error) -> Self {
        Self::Poison(error.to_string())
    }
}

/// What is to be encoded.
#[derive(Clone)]
pub(super) struct Job {
    /// Partition index.
    pub(super) partition: i32,
    /// Records below are left out.
    pub(super) from: Offset,
    /// Records from here on are left out.
    pub(super) until: Offset,
    /// How values become columns.
    pub(super) values: Values,
    /// Of records that have a signal only those of these are taken; empty is all.
    pub(super) signals: BTreeSet<Signal>,
    /// The table.
    pub(super) target: Target,
    /// The dead-letter table, once it exists.
    pub(super) dead_letters: Option<Target>,
    /// What an earlier attempt sent to the dead letters; it stands, and all else are rows (rules
    /// 4.3).
    pub(super) kept: Option<Offsets>,
    /// Dead letters whatever they are: encoding them failed.
    pub(super) poison: Offsets,
    /// Encodes to Parquet on trial as well: an earlier attempt failed there.
    pub(super) trial: Option<SinkOptions>,
    /// See [`json::Inspect`].
    pub(super) inspect: Option<json::Inspect>,
    /// Name of the table in dead letters.
    pub(super) target_name: String,
    /// Wall-clock milliseconds.
    pub(super) now_ms: i64,
}

impl Job {
    /// False for a record that the table is not for: it is neither a row nor a dead letter.
    pub(super) fn takes(&self, row: &Row<'_>) -> bool {
        let is_wanted = |signal| self.signals.contains(&signal);
        self.signals.is_empty() || system::signal(row).is_none_or(is_wanted)
    }

    /// Why a record is a dead letter before it is looked at.
    fn condemned(&self, row: &Row<'_>) -> Option<Fault> {
        if self.poison.contains(row) {
            let message = "encoding this record failed: a defect of Floe";
            return Some(fault(dlq::code::INTERNAL, message, "encode"));
        }
        let kept = self.kept.as_ref().is_some_and(|kept| kept.contains(row));
        let message = "an earlier attempt of this commit found the record bad";
        kept.then(|| fault(dlq::code::DECODE, message, "decode"))
    }
}

/// Counts of some rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Stats {
    /// Rows of the table.
    pub(super) rows: u64,
    /// Rows that are left out: a later record has their primary key.
    pub(super) superseded: u64,
    /// Dead letters by code.
    pub(super) dlq_codes: BTreeMap<String, u64>,
    /// Their offsets.
    pub(super) dlq_ranges: Vec<Range>,
    /// Append time of the oldest row, milliseconds.
    pub(super) oldest_append_ms: Option<i64>,
    /// Greatest record timestamp, milliseconds.
    pub(super) max_record_ts_ms: Option<i64>,
}

/// What became of a group.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// How many of the record batches were taken; at least 1.
    pub(super) taken: usize,
    /// The first offset that was left of the last of them, if not all of it was taken.
    pub(super) cut: Option<Offset>,
    /// Rows by partition value.
    pub(super) rows: Vec<(Struct, RecordBatch)>,
    /// Dead letters.
    pub(super) letters: Option<RecordBatch>,
    /// Counts.
    pub(super) stats: Stats,
    /// The schema must change first: nothing else of this output counts.
    pub(super) proposed: Vec<NewColumn>,
    /// There are dead letters and no table for them: nothing else of this output counts.
    pub(super) needs_dead_letters: bool,
}

/// Encodes the first of `batches`, as many as one group holds. A panic is a value.
///
/// # Errors
/// [`Failed`].
pub(super) fn encode(job: &Job, batches: &[StoredBatch]) -> Result<Output, Failed> {
    contained(|| uncontained(job, batches))
        .unwrap_or_else(|| Err(Failed::Poison("encoding panicked".to_owned())))
}

/// None if `work` panicked.
fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn uncontained(job: &Job, batches: &[StoredBatch]) -> Result<Output, Failed> {
    let mut readers: Vec<BatchReader> = batches.iter().map(|_| BatchReader::new()).collect();
    let mut rows = Vec::new();
    let mut letters = Vec::new();
    let mut taken = 0;
    let mut cut = None;
    let mut bytes = 0;
    for (batch, reader) in batches.iter().zip(&mut readers) {
        if cut.is_some() || bytes >= GROUP_BYTES_MAX || rows.len() >= GROUP_ROWS_MAX {
            break;
        }
        taken += 1;
        let rows_max = ROWS_MAX - rows.len();
        let mut held = 0;
        let apart = contained(|| take_apart(job, batch, reader, rows_max, &mut held));
        // All of the body is held, whatever of it turns out to be rows.
        bytes += held;
        match apart {
            Some(Ok(found)) => {
                cut = found.cut;
                letters.extend(found.letters);
                for row in found.rows {
                    match job.condemned(&row) {
                        Some(fault) => letters.push(DeadLetter { row, fault }),
                        None => rows.push(row),
                    }
                }
            }
            Some(Err(fault)) => letters.push(whole_batch(job, batch, fault)),
            None => {
                let message = "taking it apart panicked: a defect of Floe";
                let fault = fault(dlq::code::INTERNAL, message, "decode");
                letters.push(whole_batch(job, batch, fault));
            }
        }
    }
    let mut output = Output { taken, cut, ..Output::default() };
    let kept = values(job, &rows, &mut letters, &mut output)?;
    if !output.proposed.is_empty() {
        return Ok(output);
    }
    output.rows = kept;
    count(&mut output, &rows, &letters);
    if !letters.is_empty() {
        let Some(target) = &job.dead_letters else {
            output.needs_dead_letters = true;
            return Ok(output);
        };
        let encoded = dlq::encode(&target.arrow, &letters, &job.target_name, job.now_ms)?;
        output.letters = Some(encoded);
    }
    try_out(job, &output)?;
    Ok(output)
}

/// The columns that the records of all `groups` wish for together; empty if that cannot be told.
pub(super) fn propose(groups: &[(Job, Arc<Vec<StoredBatch>>)]) -> Vec<NewColumn> {
    let Some((Job { values: Values::Json(plan), kept, inspect, .. }, _)) = groups.first() else {
        return Vec::new();
    };
    let all = || groups.iter().flat_map(|(job, batches)| batches.iter().map(move |one| (job, one)));
    let mut readers: Vec<BatchReader> = all().map(|_| BatchReader::new()).collect();
    let proposed = contained(|| {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for ((job, batch), reader) in all().zip(&mut readers) {
            if bytes >= GROUP_BYTES_MAX || rows.len() >= GROUP_ROWS_MAX {
                // The others say what they wish for when their turn comes.
                break;
            }
            let rows_max = ROWS_MAX - rows.len();
            let found = take_apart(job, batch, reader, rows_max, &mut bytes).unwrap_or_default();
            rows.extend(found.rows.into_iter().filter(|row| job.condemned(row).is_none()));
        }
        json::decode(plan, &rows, kept.is_some(), inspect.as_ref()).proposed
    });
    proposed.unwrap_or_default()
}

fn try_out(job: &Job, output: &Output) -> Result<(), table::Error> {
    let Some(options) = &job.trial else {
        return Ok(());
    };
    for (_, rows) in &output.rows {
        sink::trial(&job.target.schema, options, rows.clone())?;
    }
    if let (Some(letters), Some(target)) = (&output.letters, &job.dead_letters) {
        sink::trial(&target.schema, options, letters.clone())?;
    }
    Ok(())
}

pub(super) fn fault(code: &str, message: &str, stage: &'static str) -> Fault {
    Fault { code: code.to_owned(), message: message.to_owned(), field_path: None, stage }
}

/// One dead letter for a batch that cannot be taken apart: its bytes, at its first offset.
fn whole_batch<'a>(job: &Job, batch: &'a StoredBatch, mut fault: Fault) -> DeadLetter<'a> {
    let base = batch.base_offset.max(job.from);
    let end = batch.end_offset.min(job.until);
    fault.message = format!("the record batch of offsets {base} to {end}: {}", fault.message);
    let row = Row {
        partition: job.partition,
        offset: base,
        timestamp_ms: -1,
        is_append_time: false,
        append_ms: batch.append_ms,
        origin: batch.origin,
        key: None,
        value: Some(&batch.bytes),
        headers: Vec::new(),
    };
    DeadLetter { row, fault }
}

/// Rows by partition value; bad ones are added to `letters`, in order of offset.
fn values<'a>(
    job: &Job,
    rows: &[Row<'a>],
    letters: &mut Vec<DeadLetter<'a>>,
    output: &mut Output,
) -> Result<Vec<(Struct, RecordBatch)>, Failed> {
    let mut batches = Vec::new();
    let (keep_all, inspect) = (job.kept.is_some(), job.inspect.as_ref());
    match &job.values {
        Values::Raw if rows.is_empty() => {}
        Values::Raw => batches.push(raw::encode(&job.target.arrow, rows)?),
        Values::Json(plan) => {
            let decoded = json::decode(plan, rows, keep_all, inspect);
            output.proposed = decoded.proposed;
            if !output.proposed.is_empty() {
                return Ok(Vec::new());
            }
            for block in decoded.blocks {
                batches.push(json::encode(&job.target.arrow, plan, block, rows)?);
            }
            bury(decoded.bad, rows, letters);
        }
        Values::Contract(contract) => {
            let decoded = contract::decode(contract, rows, keep_all, inspect);
            for block in decoded.blocks {
                batches.push(contract::encode(&job.target.arrow, contract, block, rows)?);
            }
            bury(decoded.bad, rows, letters);
        }
        Values::Mapped(mapped) => {
            let decoded = mapped::decode(mapped, rows, keep_all, inspect)?;
            for block in decoded.blocks {
                batches.push(mapped::encode(&job.target.arrow, mapped, block, rows)?);
            }
            if let Some(key) = &mapped.key {
                (batches, output.stats.superseded) = key.newest(batches)?;
            }
            bury(decoded.bad, rows, letters);
        }
    }
    letters.sort_by_key(|letter| letter.row.offset);
    output.stats.rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    if job.target.spec.is_unpartitioned() {
        return Ok(batches.into_iter().map(|batch| (Struct::empty(), batch)).collect());
    }
    let defect = |error: crate::schema::Error| RowsError::Arrow(error.to_string());
    let (schema, spec) = (Arc::clone(&job.target.schema), Arc::clone(&job.target.spec));
    let splitter = Splitter::new(schema, spec, GROUP_ROWS_MAX).map_err(defect)?;
    let mut parts = Vec::new();
    for batch in batches {
        parts.extend(splitter.split(&batch).map_err(defect)?);
    }
    Ok(parts)
}

fn bury<'a>(bad: Vec<(usize, Fault)>, rows: &[Row<'a>], letters: &mut Vec<DeadLetter<'a>>) {
    let letter = |(index, fault): (usize, Fault)| DeadLetter { row: rows[index].clone(), fault };
    letters.extend(bad.into_iter().map(letter));
}

fn count(output: &mut Output, rows: &[Row<'_>], letters: &[DeadLetter<'_>]) {
    let stats = &mut output.stats;
    let all = rows.iter().chain(letters.iter().map(|letter| &letter.row));
    stats.oldest_append_ms = all.map(|row| row.append_ms).min();
    stats.max_record_ts_ms = rows.iter().map(|row| row.timestamp_ms).max().filter(|ms| *ms >= 0);
    for letter in letters {
        *stats.dlq_codes.entry(letter.fault.code.clone()).or_default() += 1;
        let (partition, base) = (letter.row.partition, letter.row.offset);
        match stats.dlq_ranges.last_mut() {
            Some(last) if last.partition == partition && last.end == base => last.end = base + 1,
            _ => stats.dlq_ranges.push(Range { partition, base, end: base + 1 }),
        }
    }
}

#[cfg(test)]
mod tests;
