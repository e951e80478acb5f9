//! Rows of the mode `contract`: values for the columns of a table that others made, and three
//! columns of ours (the names are IOMETE's).
//!
//! ```text
//! __id__        string       the event's id: of HTTP events the one that they were stored with, of
//!                            others one that is made of their place in the log and stays the same
//! __ts__        timestamptz  when the log took it
//! __write_id__  string       of the table commit, which its snapshot has as `stream.write-id`, or
//!                            of the HTTP request
//! ```

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::RecordBatch;
use arrow_array::StringArray;
use arrow_array::TimestampMicrosecondArray;
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::NestedField;
use iceberg::spec::PrimitiveType;
use iceberg::spec::Schema;
use iceberg::spec::Type;
use uuid::Uuid;

use crate::schema;
use crate::schema::columns::Mode;
use crate::schema::columns::Options;
use crate::schema::columns::Plan;
use crate::schema::evolve::NewColumn;
use crate::schema::json::contract::Decoder;
use crate::schema::json::contract::Misfit;
use crate::schema::json::contract::Rules;
use crate::schema::json::contract::Unit;
use crate::tier::rows::HEADER_ID;
use crate::tier::rows::HEADER_WRITE_ID;
use crate::tier::rows::Row;
use crate::tier::rows::RowsError;
use crate::tier::rows::assemble;
use crate::tier::rows::blocks;
use crate::tier::rows::blocks::Block;
use crate::tier::rows::blocks::Cells;
use crate::tier::rows::blocks::Decoded;
use crate::tier::rows::blocks::Pass;
use crate::tier::rows::dlq::Fault;
use crate::tier::rows::fit;
use crate::tier::rows::json::Inspect;
use crate::tier::rows::system::own_header;
use crate::topic::options::ContractOptions;
use crate::topic::options::TimestampUnit;
use crate::types::TopicId;

/// Column of the event's id.
const ID: &str = "__id__";
/// Column of the time when the log took the event.
const TS: &str = "__ts__";
/// Column of the write's id.
const WRITE_ID: &str = "__write_id__";

/// Key of a snapshot's summary that repeats the write id of its rows.
pub const SUMMARY_WRITE_ID: &str = "stream.write-id";

/// The columns that the table must have besides its own.
///
/// # Errors
/// Iceberg's, which the fixed shape never meets.
pub fn schema() -> Result<Schema, iceberg::Error> {
    let column = |id: i32, name: &str, kind: PrimitiveType, doc: &str| {
        Arc::new(NestedField::optional(id, name, Type::Primitive(kind)).with_doc(doc))
    };
    let fields = [
        column(1, ID, PrimitiveType::String, "id of the event"),
        column(2, TS, PrimitiveType::Timestamptz, "when the event was ingested"),
        column(3, WRITE_ID, PrimitiveType::String, "id of the write that brought the event"),
    ];
    Schema::builder().with_fields(fields).build()
}

/// How values go to the columns of a table.
///
/// # Errors
/// [`schema::Error`] for a table with a type that Arrow does not have.
pub fn plan(schema: &Schema) -> Result<Plan, schema::Error> {
    let system = [ID, TS, WRITE_ID].map(str::to_owned).to_vec();
    Plan::new(schema, Options { mode: Mode::Contract, system, ..Options::default() })
}

/// A topic's options as the decoder takes them.
pub fn rules(options: ContractOptions) -> Rules {
    Rules {
        fold_case: options.fold_case,
        lenient: options.lenient,
        unit: match options.timestamp_unit {
            TimestampUnit::Seconds => Unit::Seconds,
            TimestampUnit::Millis => Unit::Millis,
            TimestampUnit::Micros => Unit::Micros,
            TimestampUnit::Nanos => Unit::Nanos,
        },
    }
}

/// How a commit's records become rows.
#[derive(Debug)]
pub struct Contract {
    /// Which value goes where.
    pub plan: Arc<Plan>,
    /// Which values do.
    pub rules: Rules,
    /// The topic, of whose records ids are made.
    pub topic_id: TopicId,
    /// Of all rows of the commit; none takes that of the request.
    pub write_id: Option<Uuid>,
}

/// Decodes the values of `rows`. With `keep_all` an earlier attempt found all of them good (rules
/// 4.3): what does not fit its column any more is null.
pub fn decode(
    contract: &Contract,
    rows: &[Row<'_>],
    keep_all: bool,
    inspect: Option<&Inspect>,
) -> Decoded {
    let cells = || Decoder::new(Arc::clone(&contract.plan), contract.rules);
    Pass { cells, rows, keep_all, inspect }.decode()
}

impl Cells for Decoder {
    fn push(&mut self, row: &Row<'_>, keep: bool) -> Option<Fault> {
        let value = row.value;
        let pushed = Self::push(self, value).or_else(|misfit| match keep {
            true => self.push_lossy(value),
            false => Err(misfit),
        });
        pushed.err().map(|misfit: Misfit| blocks::fault(&misfit.bad_record()))
    }

    fn bytes(&self) -> usize {
        Self::bytes(self)
    }

    fn flush(&mut self) -> Option<Vec<ArrayRef>> {
        Self::flush(self).ok()
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
    contract: &Contract,
    block: Block,
    rows: &[Row<'_>],
) -> Result<RecordBatch, RowsError> {
    let fields = contract.plan.fields();
    let mut columns: Vec<(String, ArrayRef)> =
        fields.iter().map(|field| field.name().clone()).zip(block.columns).collect();
    let good: Vec<&Row<'_>> = block.rows.iter().map(|index| &rows[*index]).collect();
    for (name, array) in system(contract, &good) {
        let Ok(field) = schema.field_with_name(name) else { continue };
        match fit(field, Some(&array), good.len()) {
            Ok(array) => columns.push((name.to_owned(), array)),
            // A column of the user's own with that name.
            Err(RowsError::Type { .. }) if field.is_nullable() => {}
            Err(error) => return Err(error),
        }
    }
    assemble(schema, columns, good.len())
}

/// The columns of ours.
fn system(contract: &Contract, rows: &[&Row<'_>]) -> [(&'static str, ArrayRef); 3] {
    let ids = StringArray::from_iter_values(rows.iter().map(|row| id(contract.topic_id, row)));
    let times = rows.iter().map(|row| row.append_ms.saturating_mul(1_000)).collect::<Vec<_>>();
    let times = TimestampMicrosecondArray::from(times).with_timezone("+00:00");
    let write_ids = match contract.write_id.map(|id| id.to_string()) {
        Some(id) => StringArray::from_iter_values(std::iter::repeat_n(id, rows.len())),
        None => StringArray::from_iter(rows.iter().map(|row| own_header(row, HEADER_WRITE_ID))),
    };
    [(ID, Arc::new(ids)), (TS, Arc::new(times)), (WRITE_ID, Arc::new(write_ids))]
}

/// The id of an event. One that has none gets a version 7 UUID of its time and place, which a
/// replay of the log gives it again.
fn id(topic_id: TopicId, row: &Row<'_>) -> String {
    if let Some(id) = own_header(row, HEADER_ID) {
        return id.to_owned();
    }
    topic_id.record_id(row.partition, row.offset, row.append_ms).to_string()
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMicrosecondType;
    use iceberg::arrow::schema_to_arrow_schema;

    use crate::log::Origin;
    use crate::tier::rows::Header;

    use super::*;

    fn row<'a>(offset: i64, origin: Origin, headers: Vec<Header<'a>>) -> Row<'a> {
        Row {
            partition: 1,
            offset,
            timestamp_ms: 5,
            is_append_time: false,
            append_ms: 1_700_000_000_000,
            origin,
            key: None,
            value: Some(b"{\"n\":1}"),
            headers,
        }
    }

    fn encoded(fields: Vec<NestedField>, write_id: Option<Uuid>, rows: &[Row<'_>]) -> RecordBatch {
        let fields = fields.into_iter().map(Into::into).collect::<Vec<_>>();
        let schema = Schema::builder().with_fields(fields).build().unwrap();
        let arrow = Arc::new(schema_to_arrow_schema(&schema).unwrap());
        let plan = Arc::new(plan(&schema).unwrap());
        let topic_id = TopicId(Uuid::from_u128(7));
        let contract = Contract { plan, rules: Rules::default(), topic_id, write_id };
        let mut decoded = decode(&contract, rows, false, None);
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
        encode(&arrow, &contract, decoded.blocks.remove(0), rows).unwrap()
    }

    fn with_ours() -> Vec<NestedField> {
        let ours = schema().unwrap();
        let mut fields: Vec<NestedField> =
            ours.as_struct().fields().iter().map(|field| NestedField::clone(field)).collect();
        fields.push(NestedField::required(9, "n", Type::Primitive(PrimitiveType::Long)));
        fields
    }

    #[test]
    fn rows_have_an_id_a_time_and_the_id_of_their_write() {
        let headers: Vec<Header<'_>> =
            vec![(HEADER_ID, Some(b"event-1")), (HEADER_WRITE_ID, Some(b"write-1"))];
        let rows = [
            row(3, Origin::Http, headers.clone()),
            row(4, Origin::Kafka, headers),
            row(5, Origin::Kafka, Vec::new()),
        ];
        let batch = encoded(with_ours(), None, &rows);
        let ids = batch.column_by_name(ID).unwrap().as_string::<i32>().clone();
        assert_eq!(ids.value(0), "event-1");
        assert_eq!(Uuid::parse_str(ids.value(1)).unwrap().get_version_num(), 7);
        assert_ne!(ids.value(1), ids.value(2));
        let again = encoded(with_ours(), None, &rows);
        assert_eq!(again.column_by_name(ID).unwrap(), &(Arc::new(ids) as ArrayRef));
        let times = batch.column_by_name(TS).unwrap();
        let times = times.as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.value(0), 1_700_000_000_000_000);
        let writes = batch.column_by_name(WRITE_ID).unwrap().as_string::<i32>();
        assert_eq!((writes.value(0), writes.is_null(1)), ("write-1", true));
        let write = Uuid::from_u128(9);
        let batch = encoded(with_ours(), Some(write), &rows);
        let writes = batch.column_by_name(WRITE_ID).unwrap().as_string::<i32>();
        assert!(writes.iter().all(|id| id == Some(write.to_string().as_str())));
    }

    #[test]
    fn a_table_without_our_columns_or_with_others_of_their_names_gets_its_own_only() {
        let long = || Type::Primitive(PrimitiveType::Long);
        let rows = [row(3, Origin::Kafka, Vec::new())];
        let batch = encoded(vec![NestedField::optional(1, "n", long())], None, &rows);
        assert_eq!(batch.num_columns(), 1);
        let fields =
            vec![NestedField::optional(1, "n", long()), NestedField::optional(2, ID, long())];
        let batch = encoded(fields, None, &rows);
        assert!(batch.column_by_name(ID).unwrap().is_null(0));
    }
}
