//! Cells that are set one by one, for columns that are not fields of one object.
//!
//! Owns: rows that are whole or not there. Which value a column takes is in `cast`.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;

use super::cast::{self, Token, cast};
use super::reader::{at_row, mismatch};
use super::{Misfit, Rules, Unit};
use crate::schema::columns::{Kind, Plan};
use crate::schema::json::builders::{Data, Fields};
use crate::schema::json::decode::BATCH_BYTES_MAX;
use crate::schema::json::lexer::{DEPTH_MAX, ErrorKind, Lexer};

/// Values that are not written by a schema: text that spells what a column takes is taken too.
const RULES: Rules = Rules { fold_case: false, lenient: true, unit: Unit::Millis };

/// Growing columns of a plan. A cell that is not set is null.
#[derive(Debug)]
pub struct Cells {
    plan: Arc<Plan>,
    top: Fields,
    scratch: Vec<u8>,
    rows: usize,
    bytes: usize,
    /// Bytes of the row that is not ended.
    open_bytes: usize,
}

impl Cells {
    /// Starts with no row. `plan` is one of [`crate::schema::columns::Mode::Contract`].
    pub fn new(plan: Arc<Plan>) -> Self {
        let top = Fields::new(&plan.top);
        Self { plan, top, scratch: Vec::new(), rows: 0, bytes: 0, open_bytes: 0 }
    }

    /// Rows since the last flush.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About how many bytes they hold.
    pub fn bytes(&self) -> usize {
        self.bytes + self.rows * 4 * self.top.columns.len()
    }

    /// Sets the cell of a `string` or `binary` column of the open row; the caller knows that text
    /// is UTF-8. `place` is that of the column in the schema.
    ///
    /// # Errors
    /// [`Misfit`] for a column of another type, and where a batch would be too large.
    pub fn set_bytes(&mut self, place: usize, value: &[u8]) -> Result<(), Misfit> {
        self.admit(value.len())?;
        let column = at_row(&mut self.top.columns[place], self.rows);
        match &mut column.data {
            Data::Utf8(strings) => strings.push(value),
            Data::Binary(strings) => strings.push(value),
            _ => return Err(mismatch(&self.plan.top.slots[place], "bytes", "")),
        }
        column.set_valid();
        Ok(())
    }

    /// Sets the cell of a `timestamptz` column of the open row, in microseconds from 1970 on.
    ///
    /// # Errors
    /// As [`Self::set_bytes`].
    pub fn set_micros(&mut self, place: usize, micros: i64) -> Result<(), Misfit> {
        self.admit(8)?;
        let column = at_row(&mut self.top.columns[place], self.rows);
        let Data::I64(values) = &mut column.data else {
            return Err(mismatch(&self.plan.top.slots[place], "time", ""));
        };
        values.push(micros);
        column.set_valid();
        Ok(())
    }

    /// Sets the cell to what `json` says, which is one JSON value and nothing else. A `string` column
    /// takes any: a string without its quotes, others as they are written. Null is null.
    ///
    /// # Errors
    /// [`Misfit`] where the column does not take it.
    pub fn set_json(&mut self, place: usize, json: &str) -> Result<(), Misfit> {
        self.admit(json.len())?;
        let mut lexer = Lexer::new(json, DEPTH_MAX);
        let first = lexer.peek().ok_or_else(|| lexer.error(ErrorKind::End))?;
        let slot = &self.plan.top.slots[place];
        let column = at_row(&mut self.top.columns[place], self.rows);
        let token = match first {
            b'n' => return Ok(()),
            b'"' => {
                let text = lexer.string()?;
                self.scratch.clear();
                lexer.unescape(text, &mut self.scratch);
                Some(Token::Text(&self.scratch))
            }
            b't' | b'f' => Some(Token::Boolean(first == b't')),
            b'{' | b'[' => None,
            _ => Some(Token::Number(json.trim())),
        };
        match (&mut column.data, token) {
            (Data::Utf8(strings), Some(Token::Text(text))) => strings.push(text),
            (Data::Utf8(strings), _) => strings.push(json.trim().as_bytes()),
            (data, token) => {
                let cell = token.and_then(|token| cast(&slot.kind, RULES, token));
                if !cell.is_some_and(|cell| cast::push(data, cell)) {
                    return Err(mismatch(slot, kind_of(first), ""));
                }
            }
        }
        column.set_valid();
        Ok(())
    }

    /// True if the cell of the open row has a value.
    pub fn is_set(&self, place: usize) -> bool {
        self.top.columns[place].len() > self.rows
    }

    /// Makes the cell of the open row null again.
    pub fn unset(&mut self, place: usize) {
        self.top.columns[place].truncate(self.rows);
    }

    /// Ends the open row: what was set since the last one is part of it.
    pub fn end_row(&mut self) {
        self.rows += 1;
        self.bytes += std::mem::take(&mut self.open_bytes);
    }

    /// Takes back what was set since the last row.
    pub fn undo_row(&mut self) {
        self.top.truncate(self.rows);
        self.open_bytes = 0;
    }

    /// Takes the rows as arrays of [`Plan::fields`], without an open one. Goes on with no row.
    ///
    /// # Errors
    /// Arrow's, by a defect.
    pub fn flush(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.undo_row();
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        self.top.finish(self.plan.fields(), rows)
    }

    /// Counts bytes of the open row; a string column cannot hold more than a batch may have.
    fn admit(&mut self, bytes: usize) -> Result<(), Misfit> {
        if self.bytes + self.open_bytes + bytes > BATCH_BYTES_MAX {
            return Err(Misfit::TooLarge);
        }
        self.open_bytes += bytes;
        Ok(())
    }
}

/// True if a `timestamptz` column takes the text.
pub fn is_timestamptz(text: &str) -> bool {
    let kind = Kind::Timestamp { zoned: true };
    cast(&kind, Rules::default(), Token::Text(text.as_bytes())).is_some()
}

/// True if a `date` column takes the text.
pub fn is_date(text: &str) -> bool {
    cast(&Kind::Date, Rules::default(), Token::Text(text.as_bytes())).is_some()
}

fn kind_of(first: u8) -> &'static str {
    match first {
        b'"' => "string",
        b't' | b'f' => "boolean",
        b'{' => "object",
        b'[' => "array",
        _ => "number",
    }
}
