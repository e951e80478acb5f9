//! Rows of mode `raw`: `key`, `value`, and the system column.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::LargeBinaryArray;
use arrow_array::RecordBatch;
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::NestedField;
use iceberg::spec::PrimitiveType;
use iceberg::spec::Schema;
use iceberg::spec::Type;

use crate::tier::rows::Row;
use crate::tier::rows::RowsError;
use crate::tier::rows::assemble;
use crate::tier::rows::system;

/// The schema of a new raw table.
///
/// # Errors
/// Iceberg's, which the fixed shape never meets.
pub fn schema() -> Result<Schema, iceberg::Error> {
    let mut next_id = 1;
    let floe = system::field(&mut next_id);
    let binary = |id: i32, name: &str| {
        Arc::new(NestedField::optional(id, name, Type::Primitive(PrimitiveType::Binary)))
    };
    let fields = vec![floe, binary(next_id, "key"), binary(next_id + 1, "value")];
    Schema::builder().with_fields(fields).build()
}

/// Rows for the table's own `schema`.
///
/// # Errors
/// [`RowsError`] where a foreign schema change cannot take them.
pub fn encode(schema: &Arc<ArrowSchema>, rows: &[Row<'_>]) -> Result<RecordBatch, RowsError> {
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("key".to_owned(), Arc::new(LargeBinaryArray::from_iter(rows.iter().map(|row| row.key)))),
        (
            "value".to_owned(),
            Arc::new(LargeBinaryArray::from_iter(rows.iter().map(|row| row.value))),
        ),
    ];
    push_system(schema, rows, &mut columns)?;
    assemble(schema, columns, rows.len())
}

/// Adds the system column where the schema has it.
pub(super) fn push_system(
    schema: &ArrowSchema,
    rows: &[Row<'_>],
    columns: &mut Vec<(String, ArrayRef)>,
) -> Result<(), RowsError> {
    if let Ok(field) = schema.field_with_name(system::NAME) {
        columns.push((system::NAME.to_owned(), system::build(field, rows)?));
    }
    Ok(())
}
