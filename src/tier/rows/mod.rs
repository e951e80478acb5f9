//! Records to Arrow: the rows of a table and of its dead-letter table.
//!
//! Owns: the shape of the system column and of both kinds of rows. Does not own: JSON (`schema`),
//! where rows are written (`encode`). Columns are built for the table's own schema, whatever a
//! foreign writer made of it: a column that we do not know is null, one that is gone is left out.

mod blocks;
pub mod contract;
pub mod dlq;
pub mod json;
pub mod key;
pub mod mapped;
pub mod raw;
pub mod system;

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::RecordBatch;
use arrow_array::RecordBatchOptions;
use arrow_array::new_null_array;
use arrow_schema::DataType;
use arrow_schema::Field;
use arrow_schema::Schema;

use crate::log::Origin;
use crate::types::Offset;

/// Headers that carry the ids of an HTTP event (rules 7.2).
pub const HEADER_ID: &[u8] = b"floe.id";
/// See [`HEADER_ID`].
pub const HEADER_WRITE_ID: &[u8] = b"floe.write_id";
/// Header that carries the address of who sent a request that is one record; as the ids it counts
/// only in frames of kind HTTP.
pub const HEADER_IP: &[u8] = b"floe.ip";
/// Header that carries the signal of a record of OpenTelemetry's that a source took; as above.
pub const HEADER_SIGNAL: &[u8] = b"floe.signal";

/// Headers that are no user's in frames of kind HTTP.
const HEADERS_OWN: [&[u8]; 4] = [HEADER_ID, HEADER_WRITE_ID, HEADER_IP, HEADER_SIGNAL];

/// One header: key bytes and optional value.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// One record as rows need it.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// Partition index.
    pub partition: i32,
    /// Its offset.
    pub offset: Offset,
    /// The record's timestamp, milliseconds; negative means none.
    pub timestamp_ms: i64,
    /// True if the broker set the timestamp (`LogAppendTime`).
    pub is_append_time: bool,
    /// When the broker appended it, milliseconds.
    pub append_ms: i64,
    /// Where it came from.
    pub origin: Origin,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order, with duplicates.
    pub headers: Vec<Header<'a>>,
}

/// Why rows do not fit a table whose schema somebody else changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// A required column that we have no values for.
    #[error("column {0} is required and Floe has no value for it")]
    Required(String),
    /// A column of ours has a type that our values cannot take.
    #[error("column {column} has type {found}, which does not take {ours}")]
    Type {
        /// The column.
        column: String,
        /// The table's type.
        found: String,
        /// Our type.
        ours: String,
    },
    /// Arrow refused the arrays: a defect.
    #[error("rows cannot be built: {0}")]
    Arrow(String),
}

impl From<arrow_schema::ArrowError> for RowsError {
    fn from(error: arrow_schema::ArrowError) -> Self {
        Self::Arrow(error.to_string())
    }
}

/// Puts `columns` (by name) into the order of `schema`; columns that are not there are null.
///
/// # Errors
/// [`RowsError`] where the schema cannot take them.
pub fn assemble(
    schema: &Arc<Schema>,
    columns: Vec<(String, ArrayRef)>,
    rows: usize,
) -> Result<RecordBatch, RowsError> {
    let mut arrays = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let found = columns.iter().find(|(name, _)| name == field.name());
        arrays.push(fit(field, found.map(|(_, array)| array), rows)?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?)
}

/// The array as `field` wants it: cast where a foreign writer promoted the column.
fn fit(field: &Field, array: Option<&ArrayRef>, rows: usize) -> Result<ArrayRef, RowsError> {
    let Some(array) = array else {
        if !field.is_nullable() {
            return Err(RowsError::Required(field.name().clone()));
        }
        return Ok(new_null_array(field.data_type(), rows));
    };
    if array.data_type() == field.data_type() {
        return Ok(Arc::clone(array));
    }
    let mismatch = || RowsError::Type {
        column: field.name().clone(),
        found: field.data_type().to_string(),
        ours: array.data_type().to_string(),
    };
    // Only Iceberg's promotions: a lossy cast would change values silently.
    let promotes = matches!(
        (array.data_type(), field.data_type()),
        (DataType::Int32, DataType::Int64)
            | (DataType::Float32, DataType::Float64)
            | (DataType::Timestamp(..), DataType::Timestamp(..))
            | (DataType::Binary, DataType::LargeBinary)
            | (DataType::LargeBinary, DataType::Binary)
            | (DataType::Utf8, DataType::LargeUtf8)
    );
    if !promotes {
        return Err(mismatch());
    }
    arrow_cast::cast(array, field.data_type()).map_err(|_| mismatch())
}
