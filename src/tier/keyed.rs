//! The rows of one commit to a table with a primary key, held until all of them are there: of each
//! key one stays (docs/adr/0014-primary-keys.md).
//!
//! Owns: which one, and how much one commit holds. Does not own: what a key is (`rows::key`), files.
//!
//! Of one partition the later offset stays; of several partitions the later time of receipt, of
//! equal times the higher partition. All of it is in the log, so a commit that is encoded again gives
//! the same rows.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::TimestampMicrosecondArray;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use iceberg::spec::Struct;

use crate::tier::rows::RowsError;
use crate::tier::rows::key::Key;
use crate::tier::rows::key::Keys;
use crate::tier::rows::key::some_rows;
use crate::tier::rows::system;

/// Memory of the rows that one commit holds, in bytes; pieces end at the group that brings more.
pub(super) const BYTES_MAX: usize = 32 << 20;

/// Rows that one commit holds; pieces end at the group that brings more.
const ROWS_MAX: usize = 262_144;

/// Partition values of one commit; it ends at the group that brings more. Each is an open file.
const VALUES_MAX: usize = 512;

/// Rows of a commit, as they came.
pub(super) struct Keyed {
    key: Arc<Key>,
    parts: Vec<Part>,
    values: HashSet<Struct>,
    /// Groups that were taken; no key is twice in one.
    groups: u32,
    bytes: usize,
    rows: usize,
    /// Where the piece that is taken must end, in bytes and rows.
    share: (usize, usize),
}

/// Rows of one partition of the topic and one partition value of the table.
struct Part {
    partition: i32,
    value: Struct,
    batch: RecordBatch,
}

/// One row of each key.
pub(super) struct Unique {
    /// By partition value, as they came.
    pub(super) rows: Vec<(Struct, RecordBatch)>,
    /// Their keys.
    pub(super) keys: Vec<RecordBatch>,
    /// How many rows were left out.
    pub(super) left_out: u64,
}

/// The row of a key that stays, as far as was looked.
struct Best {
    received: i64,
    partition: i32,
    /// The partition of the key's row that was looked at last.
    last: i32,
    place: (usize, usize),
}

impl Keyed {
    /// No rows yet.
    pub(super) fn new(key: Arc<Key>) -> Self {
        let (parts, values, share) = (Vec::new(), HashSet::new(), (BYTES_MAX, ROWS_MAX));
        Self { key, parts, values, groups: 0, bytes: 0, rows: 0, share }
    }

    /// What tells rows apart.
    pub(super) fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Begins a piece; it and the `more` pieces after it share what is left.
    pub(super) fn begin(&mut self, more: usize) {
        let share = |most: usize, now: usize| now + most.saturating_sub(now) / (more + 1);
        self.share = (share(BYTES_MAX, self.bytes), share(ROWS_MAX, self.rows));
    }

    /// True if the piece must end here.
    pub(super) fn is_full(&self) -> bool {
        let (bytes, rows) = self.share;
        self.bytes >= bytes || self.rows >= rows || self.values.len() >= VALUES_MAX
    }

    /// Takes one group's rows, in which no key is twice. Groups come in order: all of a partition
    /// together, by offset.
    pub(super) fn take(&mut self, partition: i32, rows: Vec<(Struct, RecordBatch)>) {
        self.groups += u32::from(!rows.is_empty());
        for (value, batch) in rows {
            self.bytes += batch.get_array_memory_size();
            self.rows += batch.num_rows();
            if !self.values.contains(&value) {
                self.values.insert(value.clone());
            }
            self.parts.push(Part { partition, value, batch });
        }
    }

    /// One row of each key. Blocks for as long as a few hundred thousand rows take.
    ///
    /// # Errors
    /// [`RowsError`], by a defect.
    pub(super) fn settle(self) -> Result<Unique, RowsError> {
        let keep = self.keep()?;
        let mut unique = Unique { rows: Vec::new(), keys: Vec::new(), left_out: 0 };
        for (part, keep) in self.parts.into_iter().zip(keep) {
            unique.left_out += keep.iter().filter(|keep| !**keep).count() as u64;
            if let Some(batch) = some_rows(part.batch, keep)? {
                unique.keys.push(self.key.columns(&batch)?);
                unique.rows.push((part.value, batch));
            }
        }
        Ok(unique)
    }

    /// Which rows of each part stay.
    fn keep(&self) -> Result<Vec<Vec<bool>>, RowsError> {
        let all = |stays: bool| {
            self.parts.iter().map(|part| vec![stays; part.batch.num_rows()]).collect::<Vec<_>>()
        };
        if self.groups <= 1 {
            return Ok(all(true));
        }
        let keys: Result<Vec<Keys>, RowsError> =
            self.parts.iter().map(|part| self.key.of(&part.batch)).collect();
        let (keys, mut keep) = (keys?, all(false));
        let mut best: HashMap<&[u8], Best> = HashMap::with_capacity(self.rows);
        // From the last row on: the first of a partition that is found is its newest.
        for (number, part) in self.parts.iter().enumerate().rev() {
            let received = received(&part.batch);
            for row in (0..part.batch.num_rows()).rev() {
                let found = Best {
                    received: received.as_ref().map_or(i64::MIN, |times| times.value(row)),
                    partition: part.partition,
                    last: part.partition,
                    place: (number, row),
                };
                match best.entry(keys[number].get(row)) {
                    Entry::Vacant(entry) => {
                        keep[number][row] = true;
                        entry.insert(found);
                    }
                    Entry::Occupied(mut entry) => {
                        let best = entry.get_mut();
                        if best.last == part.partition {
                            continue;
                        }
                        best.last = part.partition;
                        let order = |one: &Best| (one.received, one.partition);
                        if order(&found) > order(best) {
                            let (part, place) = best.place;
                            keep[part][place] = false;
                            keep[number][row] = true;
                            *best = found;
                        }
                    }
                }
            }
        }
        Ok(keep)
    }
}

/// When the records of the rows were received.
fn received(batch: &RecordBatch) -> Option<TimestampMicrosecondArray> {
    let system = batch.column_by_name(system::NAME)?.as_struct_opt()?;
    let times = system.column_by_name(system::APPEND_TIME)?;
    Some(times.as_primitive_opt::<TimestampMicrosecondType>()?.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use crate::log::Origin;
    use crate::sink::Mapping;
    use crate::table::testing::TestTable;
    use crate::tier::rows::Row;
    use crate::tier::rows::mapped;
    use crate::tier::rows::mapped::Mapped;
    use crate::types::TopicId;

    use super::*;

    /// Partition, offset, time of receipt and key of a record.
    type Record = (i32, i64, i64, u8);

    async fn keyed() -> (Mapped, Arc<arrow_schema::Schema>, Arc<Key>) {
        let columns = json!([
            {"type": "path", "name": "k", "path": "k", "dataType": "long", "primaryKey": true},
        ]);
        let mapping = Mapping::parse(&json!({ "columns": columns })).unwrap();
        let schema = mapped::schema(&mapping).unwrap();
        let table = TestTable::with(schema, iceberg::spec::FormatVersion::V2).await;
        let key = Key::new(["k"].into_iter(), &table.metadata).unwrap().map(Arc::new);
        let topic_id = TopicId(uuid::Uuid::from_u128(7));
        let mapped = Mapped { mapping: Arc::new(mapping), topic_id, key: key.clone() };
        (mapped, table.arrow_schema(), key.unwrap())
    }

    /// One group's rows, as the encoder gives them.
    fn group(
        (mapped, schema, key): &(Mapped, Arc<arrow_schema::Schema>, Arc<Key>),
        records: &[Record],
    ) -> Vec<(Struct, RecordBatch)> {
        let values: Vec<String> =
            records.iter().map(|(.., key)| format!("{{\"k\":{key}}}")).collect();
        let rows: Vec<Row<'_>> = records
            .iter()
            .zip(&values)
            .map(|((partition, offset, append_ms, _), value)| Row {
                partition: *partition,
                offset: *offset,
                timestamp_ms: 0,
                is_append_time: false,
                append_ms: *append_ms,
                origin: Origin::Http,
                key: None,
                value: Some(value.as_bytes()),
                headers: Vec::new(),
            })
            .collect();
        let decoded = mapped::decode(mapped, &rows, false, None).unwrap();
        let batches: Vec<RecordBatch> = decoded
            .blocks
            .into_iter()
            .map(|block| mapped::encode(schema, mapped, block, &rows).unwrap())
            .collect();
        let (batches, _) = key.newest(batches).unwrap();
        batches.into_iter().map(|batch| (Struct::empty(), batch)).collect()
    }

    fn places(rows: &[(Struct, RecordBatch)]) -> Vec<(i32, i64)> {
        let mut found = Vec::new();
        for (_, batch) in rows {
            let floe = batch.column_by_name("floe").unwrap().as_struct();
            let partitions = floe.column_by_name("partition").unwrap();
            let offsets = floe.column_by_name("offset").unwrap();
            let partitions = partitions.as_primitive::<arrow_array::types::Int32Type>().values();
            let offsets = offsets.as_primitive::<arrow_array::types::Int64Type>().values();
            found.extend(partitions.iter().copied().zip(offsets.iter().copied()));
        }
        found
    }

    #[tokio::test]
    async fn of_several_partitions_the_later_time_stays_and_of_one_the_later_offset() {
        let table = keyed().await;
        let cases: [(&str, &[Record], &[(i32, i64)]); 4] = [
            ("a partition alone", &[(0, 0, 9, 1), (0, 1, 5, 1)], &[(0, 1)]),
            ("the later time", &[(0, 3, 9, 1), (1, 8, 5, 1)], &[(0, 3)]),
            ("equal times", &[(0, 3, 9, 1), (1, 8, 9, 1), (2, 0, 9, 2)], &[(1, 8), (2, 0)]),
            // The row of offset 0 was the newest once, but is not that of its partition.
            ("a clock stepped back", &[(0, 0, 9, 1), (0, 1, 3, 1), (1, 0, 5, 1)], &[(1, 0)]),
        ];
        for (case, records, wanted) in cases {
            let mut keyed = Keyed::new(Arc::clone(&table.2));
            for record in records {
                keyed.take(record.0, group(&table, &[*record]));
            }
            let unique = keyed.settle().unwrap();
            assert_eq!(places(&unique.rows), wanted, "{case}");
            assert_eq!(unique.left_out as usize, records.len() - wanted.len(), "{case}");
            let keys: usize = unique.keys.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(keys, wanted.len(), "{case}");
            assert_eq!(unique.keys[0].num_columns(), 1);
        }
    }

    #[tokio::test]
    async fn no_partition_takes_the_room_of_those_that_come_later() {
        let table = keyed().await;
        let mut keyed = Keyed::new(Arc::clone(&table.2));
        keyed.begin(3);
        assert_eq!(keyed.share, (BYTES_MAX / 4, ROWS_MAX / 4));
        keyed.rows = ROWS_MAX / 4;
        assert!(keyed.is_full());
        keyed.begin(2);
        assert!(!keyed.is_full());
        // What the first two did not need is there for the last one.
        keyed.begin(0);
        assert_eq!(keyed.share, (BYTES_MAX, ROWS_MAX));
        keyed.bytes = BYTES_MAX + 1;
        keyed.begin(0);
        assert!(keyed.is_full());
    }

    #[tokio::test]
    async fn a_commit_ends_where_it_holds_much() {
        let table = keyed().await;
        let mut keyed = Keyed::new(Arc::clone(&table.2));
        let one = group(&table, &[(0, 0, 0, 1)]);
        keyed.take(0, one.clone());
        assert!(!keyed.is_full());
        keyed.bytes = BYTES_MAX;
        assert!(keyed.is_full());
        (keyed.bytes, keyed.rows) = (0, ROWS_MAX);
        assert!(keyed.is_full());
        keyed.rows = 0;
        for number in 0..VALUES_MAX as i32 {
            let value = Struct::from_iter([Some(iceberg::spec::Literal::int(number))]);
            keyed.take(0, vec![(value, one[0].1.clone())]);
        }
        assert!(keyed.is_full());
    }

    proptest! {
        #[test]
        fn one_row_of_each_key_stays_however_groups_are_cut(
            records in prop::collection::vec((0_i32..3, 0_i64..4, 0_u8..4), 0..24),
            cuts in prop::collection::vec(any::<bool>(), 24),
        ) {
            let mut records = records;
            records.sort_by_key(|(partition, ..)| *partition);
            let records: Vec<Record> = (0..)
                .zip(&records)
                .map(|(offset, (partition, ms, key))| (*partition, offset, *ms, *key))
                .collect();
            let mut wanted: Vec<(i32, i64)> = (0..4)
                .filter_map(|key| {
                    let last_of = |partition| {
                        let mut own = records.iter().filter(|one| one.0 == partition && one.3 == key);
                        own.next_back()
                    };
                    (0..3).filter_map(last_of).max_by_key(|one| (one.2, one.0))
                })
                .map(|one| (one.0, one.1))
                .collect();
            wanted.sort_unstable();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let table = runtime.block_on(keyed());
            let mut keyed = Keyed::new(Arc::clone(&table.2));
            let mut open: Vec<Record> = Vec::new();
            for (record, cut) in records.iter().zip(cuts) {
                let other = open.last().is_some_and(|last| last.0 != record.0);
                if !open.is_empty() && (cut || other) {
                    keyed.take(open[0].0, group(&table, &open));
                    open.clear();
                }
                open.push(*record);
            }
            if let Some(first) = open.first() {
                keyed.take(first.0, group(&table, &open));
            }
            let mut found = places(&keyed.settle().unwrap().rows);
            found.sort_unstable();
            prop_assert_eq!(found, wanted);
        }
    }
}
