//! Records into Arrow columns, in one pass.
//!
//! Owns: rows, the reserved columns, bad records. Does not own: single values ([`super::values`]),
//! the types of new columns ([`super::infer`]).
//!
//! The decoder assumes that every field has a column and keeps what has none aside. Only when a
//! segment turns out to need new columns is it decoded again with the new schema.

use std::sync::Arc;

use arrow_array::ArrayRef;

use crate::schema::columns::{Mode, Plan, Role};
use crate::schema::evolve::NewColumn;
use crate::schema::json::builders::{Column, Data, Fields};
use crate::schema::json::infer::Observer;
use crate::schema::json::leftover::{Event, Place, render};
use crate::schema::json::lexer::{self, Lexer};
use crate::schema::json::values::{Reader, Stop};

/// Most bytes of input between two flushes: offsets of string columns are 32 bits wide.
pub const BATCH_BYTES_MAX: usize = 512 << 20;

/// Longest field path of a bad record, in bytes.
const FIELD_PATH_LEN_MAX: usize = 1_024;

/// Why a record must not become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BadCode {
    /// It is not JSON.
    JsonParse,
    /// It is JSON, but not an object, or a value does not fit its column and must.
    TypeMismatch,
    /// A required column would be null.
    RequiredFieldNull,
    /// It nests deeper than the limit.
    TooDeep,
    /// It does not go into one batch.
    TooLarge,
    /// It needs a column that the table cannot get.
    IncompatibleSchema,
    /// Its content type cannot be read.
    MediaType,
    /// A template has no value for it.
    Template,
}

impl BadCode {
    /// The code as it stands in the dead-letter table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JsonParse => "JSON_PARSE",
            Self::TypeMismatch => "TYPE_MISMATCH",
            Self::RequiredFieldNull => "REQUIRED_FIELD_NULL",
            Self::TooDeep => "TOO_DEEP",
            Self::TooLarge => "TOO_LARGE",
            Self::IncompatibleSchema => "INCOMPATIBLE_SCHEMA",
            Self::MediaType => "MEDIA_TYPE",
            Self::Template => "TEMPLATE",
        }
    }
}

/// A record that goes to the dead-letter table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Why.
    pub code: BadCode,
    /// Why, in words, without the record's content; below 1 KiB.
    pub message: String,
    /// Full name of the column concerned, or empty.
    pub field_path: String,
}

impl BadRecord {
    fn new(code: BadCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field_path: String::new() }
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowOutcome {
    /// It is the next row.
    Row,
    /// It left no trace in the columns.
    Bad(BadRecord),
}

/// The schema lacks columns that the records need ([`Decoder::proposed`]): the rows must not be
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the records need columns that the table does not have yet")]
pub struct Pending;

/// Why a flush gave no arrays.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// The schema must change first.
    #[error(transparent)]
    Pending(#[from] Pending),
    /// Arrow refused the arrays: a defect of the decoder.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
}

/// Turns values of records into the value columns of a table.
#[derive(Debug)]
pub struct Decoder {
    plan: Arc<Plan>,
    top: Fields,
    rows: usize,
    input_bytes: usize,
    left: Vec<Event>,
    scratch: Vec<u8>,
    observer: Observer,
    rest: Option<usize>,
    /// A row was made for which a column lacks.
    incomplete: bool,
}

impl Decoder {
    /// Starts with no row.
    pub fn new(plan: Arc<Plan>) -> Self {
        Self {
            top: Fields::new(&plan.top),
            rows: 0,
            input_bytes: 0,
            left: Vec::new(),
            scratch: Vec::new(),
            observer: Observer::new(&plan),
            rest: plan.reserved(Role::Rest),
            incomplete: false,
            plan,
        }
    }

    /// Good rows since the last flush.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About how many bytes they hold. Flush well before [`BATCH_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        self.input_bytes + self.rows * 4 * self.top.columns.len()
    }

    /// Decodes the value of the next record; none is a null value and makes a row without
    /// values.
    pub fn push(&mut self, value: Option<&[u8]>) -> RowOutcome {
        let outcome = match value {
            None => self.finish_plain_row(),
            Some(bytes) if self.input_bytes + bytes.len() > BATCH_BYTES_MAX => {
                let code = BadCode::TooLarge;
                Err(BadRecord::new(code, format!("{} bytes do not fit a batch", bytes.len())))
            }
            Some(bytes) => match simdutf8::basic::from_utf8(bytes) {
                Ok(text) => self.text(text),
                Err(_) if self.plan.options.mode == Mode::Json => {
                    Err(BadRecord::new(BadCode::JsonParse, "the value is not UTF-8"))
                }
                Err(_) => self.reserved(Role::Bytes, bytes),
            },
        };
        self.outcome(outcome, value.map_or(0, <[u8]>::len))
    }

    /// Puts a record into `_rest` as a whole (`_value` if it is no object): for a record that was
    /// planned to be a row and does not decode any more.
    pub fn push_to_rest(&mut self, value: &[u8]) -> RowOutcome {
        if self.input_bytes + value.len() > BATCH_BYTES_MAX {
            let message = format!("{} bytes do not fit a batch", value.len());
            return RowOutcome::Bad(BadRecord::new(BadCode::TooLarge, message));
        }
        let outcome = match simdutf8::basic::from_utf8(value) {
            Err(_) => self.reserved(Role::Bytes, value),
            Ok(text) => {
                let mut lexer = Lexer::new(text, lexer::DEPTH_MAX);
                let object = lexer.peek() == Some(b'{');
                let valid = lexer.skip(0).and_then(|_| lexer.end()).is_ok();
                let role = if object && valid { Role::Rest } else { Role::Text };
                self.reserved(role, value)
            }
        };
        self.outcome(outcome, value.len())
    }

    fn outcome(&mut self, outcome: Result<(), BadRecord>, bytes: usize) -> RowOutcome {
        self.left.clear();
        match outcome {
            Ok(()) => {
                self.rows += 1;
                self.input_bytes += bytes;
                RowOutcome::Row
            }
            Err(mut bad) => {
                self.top.truncate(self.rows);
                truncate_text(&mut bad.field_path, FIELD_PATH_LEN_MAX);
                RowOutcome::Bad(bad)
            }
        }
    }

    /// Takes the rows as arrays of [`Plan::fields`]. The decoder goes on with no row.
    ///
    /// # Errors
    /// [`FlushError::Pending`] if a column must be added first; the rows are gone then too.
    pub fn flush(&mut self) -> Result<Vec<ArrayRef>, FlushError> {
        let rows = std::mem::take(&mut self.rows);
        self.input_bytes = 0;
        if self.pending() {
            self.top.truncate(0);
            return Err(Pending.into());
        }
        Ok(self.top.finish(self.plan.fields(), rows)?)
    }

    /// The columns that the records so far need and the schema lacks, over all flushes.
    pub fn proposed(&self) -> Vec<NewColumn> {
        self.observer.proposed(&self.plan)
    }

    /// True if there are such columns.
    pub fn pending(&self) -> bool {
        self.incomplete || !self.proposed().is_empty()
    }

    fn text(&mut self, text: &str) -> Result<(), BadRecord> {
        let mut lexer = Lexer::new(text, self.plan.options.json_depth);
        let error = if lexer.peek() == Some(b'{') {
            match self.object(text) {
                Ok(()) => return Ok(()),
                Err(Stop::Bad(bad)) => return Err(*bad),
                Err(Stop::Syntax(error)) => Some(error),
            }
        } else if self.plan.options.mode == Mode::Json {
            lexer.skip(0).and_then(|_| lexer.end()).err()
        } else {
            None
        };
        if self.plan.options.mode == Mode::Auto {
            self.top.truncate(self.rows);
            return self.reserved(Role::Text, text.as_bytes());
        }
        Err(match error {
            None => BadRecord::new(BadCode::TypeMismatch, "the value is not a JSON object"),
            Some(error) => {
                let deep = error.kind == lexer::ErrorKind::TooDeep;
                let code = if deep { BadCode::TooDeep } else { BadCode::JsonParse };
                BadRecord::new(code, error.to_string())
            }
        })
    }

    fn object(&mut self, text: &str) -> Result<(), Stop> {
        self.left.clear();
        let mut reader = Reader {
            plan: &self.plan,
            lexer: Lexer::new(text, self.plan.options.json_depth),
            text,
            left: &mut self.left,
            scratch: &mut self.scratch,
        };
        let complete = reader.object(&self.plan.top, &mut self.top, self.rows, 1)?;
        if complete {
            reader.lexer.end()?;
        } else {
            return Err(Stop::Bad(Box::new(self.required_null())));
        }
        if self.left.is_empty() {
            return Ok(());
        }
        self.leftovers(text).map_err(|bad| Stop::Bad(Box::new(bad)))
    }

    fn required_null(&self) -> BadRecord {
        let required = self.plan.top.required.iter().copied();
        let missing = required
            .map(|place| place as usize)
            .find(|place| self.top.columns[*place].len() <= self.rows);
        let name = missing.map(|place| self.plan.top.slots[place].name.clone());
        BadRecord {
            code: BadCode::RequiredFieldNull,
            message: "a required column has no value".to_owned(),
            field_path: name.unwrap_or_default(),
        }
    }

    /// Writes what is left over to `_rest` and notes which columns would have taken it.
    fn leftovers(&mut self, text: &str) -> Result<(), BadRecord> {
        if !self.plan.can_have(Role::Rest) {
            let place = self.left.iter().find_map(|event| match event {
                Event::Leaf { place: Place::Key(start, end), .. } => Some((*start, *end)),
                _ => None,
            });
            let path =
                place.map(|(start, end)| text[start as usize + 1..end as usize - 1].to_owned());
            return Err(BadRecord {
                code: BadCode::IncompatibleSchema,
                message: format!("a field has no column and the table cannot have {REST_NAME}"),
                field_path: path.unwrap_or_default(),
            });
        }
        if self.plan.options.evolve {
            for event in &self.left {
                if let Event::Leaf { place, value, wish } = event {
                    let value = &text[value.start as usize..value.end as usize];
                    self.observer.observe(&self.plan, *wish, key_of(*place, text), value);
                }
            }
        }
        match self.rest {
            Some(place) => {
                self.scratch.clear();
                render(&self.left, text.as_bytes(), &mut self.scratch);
                let column = &mut self.top.columns[place];
                column.fill(self.rows);
                put(column, &self.scratch);
            }
            None => self.incomplete = true,
        }
        Ok(())
    }

    /// A row with only a reserved column.
    fn reserved(&mut self, role: Role, bytes: &[u8]) -> Result<(), BadRecord> {
        if !self.plan.top.required.is_empty() {
            return Err(self.required_null());
        }
        match self.plan.reserved(role) {
            Some(place) => {
                let column = &mut self.top.columns[place];
                column.fill(self.rows);
                put(column, bytes);
            }
            None if self.plan.can_have(role) => {
                self.observer.need(role);
                self.incomplete = true;
            }
            None => {
                let message = "the value is no JSON object and the table has no column for it";
                return Err(BadRecord::new(BadCode::IncompatibleSchema, message));
            }
        }
        Ok(())
    }

    fn finish_plain_row(&self) -> Result<(), BadRecord> {
        if self.plan.top.required.is_empty() { Ok(()) } else { Err(self.required_null()) }
    }
}

const REST_NAME: &str = crate::schema::columns::REST;

fn put(column: &mut Column, bytes: &[u8]) {
    match &mut column.data {
        Data::Utf8(strings) => strings.push(bytes),
        Data::Binary(strings) => strings.push(bytes),
        _ => return,
    }
    column.set_valid();
}

/// The member name at a place; empty within an array.
fn key_of(place: Place, text: &str) -> std::borrow::Cow<'_, str> {
    let Place::Key(start, end) = place else {
        return "".into();
    };
    let (start, end) = (start as usize + 1, end as usize - 1);
    let raw = &text[start..end];
    if !raw.contains('\\') {
        return raw.into();
    }
    let mut name = Vec::with_capacity(raw.len());
    let lexer = Lexer::new(text, 0);
    lexer.unescape(lexer::Text { start, end, escaped: true }, &mut name);
    String::from_utf8(name).unwrap_or_default().into()
}

fn truncate_text(text: &mut String, max: usize) {
    text.truncate(text.floor_char_boundary(max));
}
