//! Rows of a sink: the system column, and the columns of its mapping.
//!
//! Owns: what of a record is the event that a mapping sees. Does not own: what a mapping makes of it
//! (`sink`).

use std::cell::RefCell;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::RecordBatch;
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::NestedField;
use iceberg::spec::Schema;

use crate::schema::evolve::NewColumn;
use crate::sink;
use crate::sink::mapping::Event;
use crate::sink::mapping::FieldError;
use crate::sink::mapping::FieldErrorKind;
use crate::sink::mapping::Kind;
use crate::sink::mapping::Mapper;
use crate::tier::rows::HEADER_IP;
use crate::tier::rows::Header;
use crate::tier::rows::Row;
use crate::tier::rows::RowsError;
use crate::tier::rows::assemble;
use crate::tier::rows::blocks;
use crate::tier::rows::blocks::Block;
use crate::tier::rows::blocks::Cells;
use crate::tier::rows::blocks::Decoded;
use crate::tier::rows::blocks::Pass;
use crate::tier::rows::dlq::Fault;
use crate::tier::rows::json::Inspect;
use crate::tier::rows::key::Key;
use crate::tier::rows::raw::push_system;
use crate::tier::rows::system;
use crate::types::TopicId;

/// How records become rows of a sink.
#[derive(Debug)]
pub struct Mapped {
    /// Which value goes where.
    pub mapping: Arc<sink::Mapping>,
    /// The topic, of whose records ids are made.
    pub topic_id: TopicId,
    /// The primary key of the table; none where every record has a row.
    pub key: Option<Arc<Key>>,
}

impl Mapped {
    /// True if a column is filled by a template.
    pub fn has_templates(&self) -> bool {
        self.mapping.columns().iter().any(|column| column.kind == Kind::Template)
    }
}

/// The schema of a new table of a sink.
///
/// # Errors
/// Iceberg's, which a checked mapping never meets.
pub fn schema(mapping: &sink::Mapping) -> Result<Schema, iceberg::Error> {
    let mut next_id = 1;
    let mut fields = vec![system::field(&mut next_id)];
    let mut key = Vec::new();
    for (column, own) in mapping.schema().as_struct().fields().iter().zip(mapping.columns()) {
        let mut field = NestedField::clone(column);
        field.id = next_id;
        if own.primary_key {
            key.push(next_id);
        }
        next_id += 1;
        fields.push(Arc::new(field));
    }
    Schema::builder().with_fields(fields).with_identifier_field_ids(key).build()
}

/// A template was not run, which says nothing of the records: all are decoded again later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the templates of the sink were not run: {0}")]
pub struct NotRun(FieldError);

/// Maps `rows`. With `keep_all` an earlier attempt found all of them good (rules 4.3): what cannot
/// be filled any more is null.
///
/// # Errors
/// [`NotRun`].
pub fn decode(
    mapped: &Mapped,
    rows: &[Row<'_>],
    keep_all: bool,
    inspect: Option<&Inspect>,
) -> Result<Decoded, NotRun> {
    decode_by(&|| mapped.mapping.compile(), mapped, (rows, keep_all), inspect)
}

fn decode_by(
    compile: &dyn Fn() -> Mapper,
    mapped: &Mapped,
    (rows, keep_all): (&[Row<'_>], bool),
    inspect: Option<&Inspect>,
) -> Result<Decoded, NotRun> {
    let (has_templates, topic_id) = (mapped.has_templates(), mapped.topic_id);
    let not_run = RefCell::new(None);
    let cells = || Events { mapper: compile(), topic_id, has_templates, not_run: &not_run };
    let decoded = Pass { cells, rows, keep_all, inspect }.decode();
    not_run.into_inner().map_or(Ok(decoded), |error| Err(NotRun(error)))
}

/// Rows of one pass.
struct Events<'p> {
    mapper: Mapper,
    topic_id: TopicId,
    has_templates: bool,
    /// Why a template was not run, if one was not: no row counts then.
    not_run: &'p RefCell<Option<FieldError>>,
}

/// What a mapping sees of a record; `headers` are the user's.
fn event<'e>(topic_id: TopicId, row: &Row<'e>, headers: &'e [Header<'e>]) -> Event<'e> {
    Event {
        id: topic_id.record_id(row.partition, row.offset, row.append_ms),
        received_ms: row.append_ms,
        ip: system::own_header(row, HEADER_IP),
        headers,
        body: row.value.unwrap_or_default(),
    }
}

impl Cells for Events<'_> {
    fn prepare(&mut self, rows: &mut dyn Iterator<Item = &Row<'_>>) {
        if !self.has_templates {
            return;
        }
        let rows: Vec<(&Row<'_>, Vec<Header<'_>>)> =
            rows.map(|row| (row, system::user_headers(row).copied().collect())).collect();
        let events: Vec<Event<'_>> =
            rows.iter().map(|(row, headers)| event(self.topic_id, row, headers)).collect();
        self.mapper.prepare(&events);
    }

    fn push(&mut self, row: &Row<'_>, keep: bool) -> Option<Fault> {
        let headers: Vec<Header<'_>> = system::user_headers(row).copied().collect();
        let event = event(self.topic_id, row, &headers);
        let pushed = match keep {
            true => self.mapper.append_lossy(&event),
            false => self.mapper.append(&event),
        };
        let error = pushed.err()?;
        let fault = blocks::fault(&error.bad_record());
        // Who is not at fault waits. Who is would wait for itself, and its table for ever; but what had
        // a row before is not to lose it.
        if error.kind == FieldErrorKind::NotRun && (keep || !self.mapper.is_at_fault()) {
            self.not_run.replace(Some(error));
        }
        Some(fault)
    }

    fn bytes(&self) -> usize {
        self.mapper.bytes()
    }

    fn flush(&mut self) -> Option<Vec<ArrayRef>> {
        let columns = self.mapper.finish().ok()?;
        Some(columns.into_iter().map(|(_, array)| array).collect())
    }

    fn proposed(&self) -> Vec<NewColumn> {
        Vec::new()
    }
}

/// The block's rows for the table's own `schema`.
///
/// # Errors
/// [`RowsError`] where the schema cannot take them.
pub fn encode(
    schema: &Arc<ArrowSchema>,
    mapped: &Mapped,
    block: Block,
    rows: &[Row<'_>],
) -> Result<RecordBatch, RowsError> {
    let names = mapped.mapping.columns().iter().map(|column| column.name.clone());
    let mut columns: Vec<(String, ArrayRef)> = names.zip(block.columns).collect();
    let good: Vec<Row<'_>> = block.rows.iter().map(|index| rows[*index].clone()).collect();
    push_system(schema, &good, &mut columns)?;
    assemble(schema, columns, good.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use crate::log::Origin;

    use super::*;

    #[test]
    fn records_whose_templates_were_not_run_are_neither_rows_nor_dead_letters() {
        let template = json!({"language": "jsonnet", "content": "Body('a') + 1"});
        let column = json!({"type": "template", "name": "t", "template": template});
        let mapping = sink::Mapping::parse(&json!({"columns": [column]})).unwrap();
        let topic_id = TopicId(uuid::Uuid::nil());
        let mapped = Mapped { mapping: Arc::new(mapping), topic_id, key: None };
        let row = |offset, value: &'static str| Row {
            partition: 0,
            offset,
            timestamp_ms: 0,
            is_append_time: false,
            append_ms: 0,
            origin: Origin::Http,
            key: None,
            value: Some(value.as_bytes()),
            headers: Vec::new(),
        };
        let rows = [row(0, "{\"a\":1}"), row(1, "{}")];
        let bad = decode(&mapped, &rows, false, None).unwrap().bad;
        assert_eq!(bad.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1]);
        // What an earlier attempt found good is filled with null only if the template ran.
        assert!(decode(&mapped, &rows, true, None).unwrap().bad.is_empty());
        let no_time = || {
            let mut mapper = mapped.mapping.compile();
            mapper.until(Instant::now());
            mapper
        };
        for keep_all in [false, true] {
            let again = decode_by(&no_time, &mapped, (&rows, keep_all), None).unwrap_err();
            assert!(again.to_string().contains("no time left"), "{again}");
        }
    }
}
