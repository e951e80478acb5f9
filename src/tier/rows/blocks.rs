//! Rows that are decoded into blocks of cells, contained so that no record can take the broker down
//! (rules 4.9).

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use arrow_array::ArrayRef;

use crate::schema::evolve::NewColumn;
use crate::schema::json::decode::BadRecord;
use crate::tier::rows::Row;
use crate::tier::rows::dlq::Fault;
use crate::tier::rows::dlq::code;
use crate::tier::rows::json::Inspect;

/// Rows of one Arrow batch at most.
const BLOCK_ROWS_MAX: usize = 8_192;

/// Rows that are looked at before they are pushed.
const AHEAD_ROWS: usize = 1_024;

/// Bytes of one Arrow batch before it is cut.
const BLOCK_BYTES_MAX: usize = 32 << 20;

/// Arrays of some good rows.
#[derive(Debug)]
pub struct Block {
    /// Columns of the plan's fields.
    pub(super) columns: Vec<ArrayRef>,
    /// Indexes of the rows.
    pub(super) rows: Vec<usize>,
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

/// Turns values into cells, one row after the other.
pub(super) trait Cells {
    /// Looks at the rows that are pushed next, in this order, where that makes it faster.
    fn prepare(&mut self, _rows: &mut dyn Iterator<Item = &Row<'_>>) {}
    /// Adds a row, or says what is wrong with it. With `keep` an earlier attempt found it good
    /// (rules 4.3).
    fn push(&mut self, row: &Row<'_>, keep: bool) -> Option<Fault>;
    /// About how many bytes the rows hold.
    fn bytes(&self) -> usize;
    /// Takes the rows; none where columns must be added first.
    fn flush(&mut self) -> Option<Vec<ArrayRef>>;
    /// The columns that must be added first.
    fn proposed(&self) -> Vec<NewColumn>;
}

/// How a list of rows is decoded.
pub(super) struct Pass<'a, 'r, F> {
    /// Makes what decodes them, anew for each try.
    pub(super) cells: F,
    pub(super) rows: &'a [Row<'r>],
    /// See [`Cells::push`].
    pub(super) keep_all: bool,
    pub(super) inspect: Option<&'a Inspect>,
}

impl<C: Cells, F: Fn() -> C> Pass<'_, '_, F> {
    /// Decodes the rows; those that make it panic are bad.
    pub(super) fn decode(&self) -> Decoded {
        let all: Vec<usize> = (0..self.rows.len()).collect();
        if let Some(decoded) = self.contained(&all, &BTreeSet::new()) {
            return decoded;
        }
        let mut poison = BTreeSet::new();
        self.find_poison(&all, &mut poison);
        self.contained(&all, &poison).unwrap_or_else(|| Decoded {
            // Panics only in this company: give up the whole list rather than the broker.
            bad: all.iter().map(|index| (*index, internal())).collect(),
            ..Decoded::default()
        })
    }

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
        let mut cells = (self.cells)();
        let mut decoded = Decoded::default();
        let mut good = Vec::new();
        for (place, &index) in of.iter().enumerate() {
            if place.is_multiple_of(AHEAD_ROWS) {
                let next = of[place..].iter().take(AHEAD_ROWS);
                let next = next.filter(|index| !poison.contains(index));
                cells.prepare(&mut next.map(|index| &self.rows[*index]));
            }
            if poison.contains(&index) {
                decoded.bad.push((index, internal()));
                continue;
            }
            match self.push(&mut cells, index) {
                None => good.push(index),
                Some(fault) => decoded.bad.push((index, fault)),
            }
            if good.len() >= BLOCK_ROWS_MAX || cells.bytes() >= BLOCK_BYTES_MAX {
                flush(&mut cells, &mut good, &mut decoded);
            }
        }
        flush(&mut cells, &mut good, &mut decoded);
        decoded.proposed = cells.proposed();
        decoded
    }

    /// Pushes one row; gives its fault if it is bad.
    fn push(&self, cells: &mut C, index: usize) -> Option<Fault> {
        let row = &self.rows[index];
        if let (Some(inspect), Some(value)) = (self.inspect, row.value) {
            inspect(value);
        }
        cells.push(row, self.keep_all)
    }
}

fn flush(cells: &mut impl Cells, good: &mut Vec<usize>, decoded: &mut Decoded) {
    if good.is_empty() {
        return;
    }
    let rows = std::mem::take(good);
    // Otherwise the columns come with `proposed`, and everything is decoded again.
    if let Some(columns) = cells.flush() {
        decoded.blocks.push(Block { columns, rows });
    }
}

fn internal() -> Fault {
    Fault {
        code: code::INTERNAL.to_owned(),
        message: "decoding this record panicked: a defect of Floe".to_owned(),
        field_path: None,
        stage: "decode",
    }
}

/// What the dead-letter table says of a record that a decoder refuses.
pub(super) fn fault(bad: &BadRecord) -> Fault {
    Fault {
        code: bad.code.as_str().to_owned(),
        message: bad.message.clone(),
        field_path: (!bad.field_path.is_empty()).then(|| bad.field_path.clone()),
        stage: "decode",
    }
}
