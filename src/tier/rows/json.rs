//! Rows of the modes `auto` and `json`: values through the schema's decoder, contained so that
//! no record can take the broker down (rules 4.9).

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::RecordBatch;
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::Schema;

use crate::schema::columns::Plan;
use crate::schema::evolve::NewColumn;
use crate::schema::json::decode::BadRecord;
use crate::schema::json::decode::Decoder;
use crate::schema::json::decode::RowOutcome;
use crate::tier::rows::Row;
use crate::tier::rows::RowsError;
use crate::tier::rows::assemble;
use crate::tier::rows::dlq::Fault;
use crate::tier::rows::dlq::code;
use crate::tier::rows::raw::push_system;
use crate::tier::rows::system;

/// Rows of one Arrow batch at most.
const BLOCK_ROWS_MAX: usize = 8_192;

/// Bytes of one Arrow batch before it is cut.
const BLOCK_BYTES_MAX: usize = 32 << 20;

/// Called with each value before it is decoded; tests make it panic.
pub type Inspect = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// The schema of a new table before its first column is known.
///
/// # Errors
/// Iceberg's, which the fixed shape never meets.
pub fn schema() -> Result<Schema, iceberg::Error> {
    Schema::builder().with_fields([system::field(&mut 1)]).build()
}

/// Arrays of some good rows.
#[derive(Debug)]
pub struct Block {
    /// Columns of the plan's fields.
    columns: Vec<ArrayRef>,
    /// Indexes of the rows.
    rows: Vec<usize>,
}

/// What became of a list of rows.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Good rows, in order.
    pub blocks: Vec<Block>,
    /// Bad rows with what is wrong, in order.
    pub bad: Vec<(usize, Fault)>,
    /// Columns that must be added first; then `blocks` is not complete and all is decoded again.
    pub proposed: Vec<NewColumn>,
}

/// Decodes the values of `rows`. With `keep_all` an earlier attempt found all of them good (rules
/// 4.3): one that no longer fits goes to `_rest`.
pub fn decode(
    plan: &Arc<Plan>,
    rows: &[Row<'_>],
    keep_all: bool,
    inspect: Option<&Inspect>,
) -> Decoded {
    let pass = Pass { plan, rows, keep_all, inspect };
    let all: Vec<usize> = (0..rows.len()).collect();
    if let Some(decoded) = pass.contained(&all, &BTreeSet::new()) {
        return decoded;
    }
    let mut poison = BTreeSet::new();
    pass.find_poison(&all, &mut poison);
    pass.contained(&all, &poison).unwrap_or_else(|| Decoded {
        // Panics only in this company: give up the whole list rather than the broker.
        bad: all.iter().map(|index| (*index, internal())).collect(),
        ..Decoded::default()
    })
}

fn internal() -> Fault {
    Fault {
        code: code::INTERNAL.to_owned(),
        message: "decoding this record panicked: a defect of Floe".to_owned(),
        field_path: None,
        stage: "decode",
    }
}

fn fault(bad: &BadRecord) -> Fault {
    Fault {
        code: bad.code.as_str().to_owned(),
        message: bad.message.clone(),
        field_path: (!bad.field_path.is_empty()).then(|| bad.field_path.clone()),
        stage: "decode",
    }
}

struct Pass<'a, 'r> {
    plan: &'a Arc<Plan>,
    rows: &'a [Row<'r>],
    keep_all: bool,
    inspect: Option<&'a Inspect>,
}

impl Pass<'_, '_> {
    /// Decodes the rows `of` without those in `poison`; none if that panicked.
    fn contained(&self, of: &[usize], poison: &BTreeSet<usize>) -> Option<Decoded> {
        catch_unwind(AssertUnwindSafe(|| self.run(of, poison))).ok()
    }

    /// Bisects `of` down to the rows that panic; a range that panics only as a whole is all
    /// poison.
    fn find_poison(&self, of: &[usize], poison: &mut BTreeSet<usize>) {
        if self.contained(of, &BTreeSet::new()).is_some() {
            return;
        }
        let before = poison.len();
        if let [_, _, ..] = of {
            let (left, right) = of.split_at(of.len() / 2);
            self.find_poison(left, poison);
            self.find_poison(right, poison);
        }
        if poison.len() == before {
            poison.extend(of);
        }
    }

    fn run(&self, of: &[usize], poison: &BTreeSet<usize>) -> Decoded {
        let mut decoder = Decoder::new(Arc::clone(self.plan));
        let mut decoded = Decoded::default();
        let mut good = Vec::new();
        for &index in of {
            if poison.contains(&index) {
                decoded.bad.push((index, internal()));
                continue;
            }
            match self.push(&mut decoder, index) {
                None => good.push(index),
                Some(fault) => decoded.bad.push((index, fault)),
            }
            if good.len() >= BLOCK_ROWS_MAX || decoder.bytes() >= BLOCK_BYTES_MAX {
                flush(&mut decoder, &mut good, &mut decoded);
            }
        }
        flush(&mut decoder, &mut good, &mut decoded);
        decoded.proposed = decoder.proposed();
        decoded
    }

    /// Pushes one row; gives its fault if it is bad.
    fn push(&self, decoder: &mut Decoder, index: usize) -> Option<Fault> {
        let row = &self.rows[index];
        if let (Some(inspect), Some(value)) = (self.inspect, row.value) {
            inspect(value);
        }
        match (decoder.push(row.value), row.value) {
            (RowOutcome::Row, _) => None,
            (RowOutcome::Bad(_), Some(value)) if self.keep_all => {
                match decoder.push_to_rest(value) {
                    RowOutcome::Row => None,
                    // The row must stay in the table: its place without values.
                    RowOutcome::Bad(_) => match decoder.push(None) {
                        RowOutcome::Row => None,
                        RowOutcome::Bad(bad) => Some(fault(&bad)),
                    },
                }
            }
            (RowOutcome::Bad(bad), _) => Some(fault(&bad)),
        }
    }
}

fn flush(decoder: &mut Decoder, good: &mut Vec<usize>, decoded: &mut Decoded) {
    if good.is_empty() {
        return;
    }
    let rows = std::mem::take(good);
    // Pending: the columns come with `proposed`, and everything is decoded again.
    if let Ok(columns) = decoder.flush() {
        decoded.blocks.push(Block { columns, rows });
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
