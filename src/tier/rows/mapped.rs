//! Rows of a sink: the system column, and the columns of its mapping.
//!
//! Owns: what of a record is the event that a mapping sees. Does not own: what a mapping makes of it
//! (`sink`).

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

/// Maps `rows`. With `keep_all` an earlier attempt found all of them good (rules 4.3): what cannot
/// be filled any more is null.
pub fn decode(
    mapped: &Mapped,
    rows: &[Row<'_>],
    keep_all: bool,
    inspect: Option<&Inspect>,
) -> Decoded {
    let has_templates = mapped.has_templates();
    let topic_id = mapped.topic_id;
    let cells = || Events { mapper: mapped.mapping.compile(), topic_id, has_templates };
    Pass { cells, rows, keep_all, inspect }.decode()
}

/// Rows of one pass.
struct Events {
    mapper: Mapper,
    topic_id: TopicId,
    has_templates: bool,
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

impl Cells for Events {
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
        pushed.err().map(|error: FieldError| blocks::fault(&error.bad_record()))
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
