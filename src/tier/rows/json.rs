//! Rows of the modes `auto` and `json`: values through the schema's decoder.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::RecordBatch;
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::Schema;

use crate::schema::columns::Plan;
use crate::schema::evolve::NewColumn;
use crate::schema::json::decode::Decoder;
use crate::schema::json::decode::RowOutcome;
use crate::tier::rows::Row;
use crate::tier::rows::RowsError;
use crate::tier::rows::assemble;
use crate::tier::rows::blocks;
use crate::tier::rows::blocks::Block;
use crate::tier::rows::blocks::Cells;
use crate::tier::rows::blocks::Decoded;
use crate::tier::rows::blocks::Pass;
use crate::tier::rows::dlq::Fault;
use crate::tier::rows::raw::push_system;
use crate::tier::rows::system;

/// Called with each value before it is decoded; tests make it panic.
pub type Inspect = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// The schema of a new table before its first column is known.
///
/// # Errors
/// Iceberg's, which the fixed shape never meets.
pub fn schema() -> Result<Schema, iceberg::Error> {
    Schema::builder().with_fields([system::field(&mut 1)]).build()
}

/// Decodes the values of `rows`. With `keep_all` an earlier attempt found all of them good (rules
/// 4.3): one that no longer fits goes to `_rest`.
pub fn decode(
    plan: &Arc<Plan>,
    rows: &[Row<'_>],
    keep_all: bool,
    inspect: Option<&Inspect>,
) -> Decoded {
    let cells = || Decoder::new(Arc::clone(plan));
    Pass { cells, rows, keep_all, inspect }.decode()
}

impl Cells for Decoder {
    fn push(&mut self, row: &Row<'_>, keep: bool) -> Option<Fault> {
        let value = row.value;
        match (Self::push(self, value), value) {
            (RowOutcome::Row, _) => None,
            (RowOutcome::Bad(_), Some(value)) if keep => match self.push_to_rest(value) {
                RowOutcome::Row => None,
                // The row must stay in the table: its place without values.
                RowOutcome::Bad(_) => match Self::push(self, None) {
                    RowOutcome::Row => None,
                    RowOutcome::Bad(bad) => Some(blocks::fault(&bad)),
                },
            },
            (RowOutcome::Bad(bad), _) => Some(blocks::fault(&bad)),
        }
    }

    fn bytes(&self) -> usize {
        Self::bytes(self)
    }

    fn flush(&mut self) -> Option<Vec<ArrayRef>> {
        Self::flush(self).ok()
    }

    fn proposed(&self) -> Vec<NewColumn> {
        Self::proposed(self)
    }
}

/// The block's rows for the table's own `schema`.
///
/// # Errors
/// [`RowsError`] where a foreign schema change cannot take them.
pub fn encode(
    schema: &Arc<ArrowSchema>,
    plan: &Plan,
    block: Block,
    rows: &[Row<'_>],
) -> Result<RecordBatch, RowsError> {
    let fields = plan.fields();
    let mut columns: Vec<(String, ArrayRef)> =
        fields.iter().map(|field| field.name().clone()).zip(block.columns).collect();
    let good: Vec<Row<'_>> = block.rows.iter().map(|index| rows[*index].clone()).collect();
    push_system(schema, &good, &mut columns)?;
    assemble(schema, columns, good.len())
}
