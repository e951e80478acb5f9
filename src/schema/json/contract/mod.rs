//! JSON objects for a table whose schema is the contract: fields go to the columns that are there,
//! others are left out, and an object with a value that its column does not take is refused.
//!
//! Owns: one walk over an object (`reader`) for two ends: [`Checker`] tells whether it fits and
//! keeps nothing, [`Decoder`] makes cells. So what the one takes the other takes. Which value a
//! column takes is in `cast`. Does not own: which columns are not made from values.

mod cast;
pub mod cells;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;

use crate::schema::columns::Plan;
use crate::schema::json::builders::Fields;
use crate::schema::json::decode::{BATCH_BYTES_MAX, BadCode, BadRecord};
use crate::schema::json::lexer;

use reader::{Reader, Seen};

/// Names of left out fields that are told apart; the others are only counted.
pub const IGNORED_NAMES_MAX: usize = 100;
/// Longest name of a left out field that is kept, in bytes.
const IGNORED_NAME_BYTES_MAX: usize = 200;

/// What a number in a timestamp column counts, from 1970 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    #[default]
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds; they must be whole microseconds.
    Nanos,
}

/// How fields and values find their columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rules {
    /// A name that no column has exactly finds the one column that has it in another case.
    pub fold_case: bool,
    /// Text that spells the value is taken too, and what still does not fit becomes null.
    pub lenient: bool,
    /// Of numbers in timestamp columns.
    pub unit: Unit,
}

/// A value that its column does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Where it stands in the object: `lines[3].price`.
    pub field: String,
    /// What the column takes, in Iceberg's words.
    pub expected: String,
    /// What is there instead: `string`, `number`, `null`, `nothing`, ...
    pub got: &'static str,
    /// Its text, shortened; empty where there is none to show.
    pub shown: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.shown.is_empty() { "" } else { " " };
        write!(f, "expected {}, got {}{space}{}", self.expected, self.got, self.shown)
    }
}

/// Why a record is no row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// It is not UTF-8.
    NotUtf8,
    /// It is not JSON, or nests too deep.
    Syntax(lexer::Error),
    /// It is no object.
    NotObject,
    /// One of its values does not fit.
    Value(Box<Mismatch>),
    /// It does not go into one batch.
    TooLarge,
}

impl From<lexer::Error> for Misfit {
    fn from(error: lexer::Error) -> Self {
        Self::Syntax(error)
    }
}

impl Misfit {
    /// What the dead-letter table says of it; nothing of the record itself.
    pub fn bad_record(&self) -> BadRecord {
        let (code, message, field_path) = match self {
            Self::NotUtf8 => (BadCode::JsonParse, "the value is not UTF-8".to_owned(), ""),
            Self::Syntax(error) => {
                let is_deep = error.kind == lexer::ErrorKind::TooDeep;
                let code = if is_deep { BadCode::TooDeep } else { BadCode::JsonParse };
                (code, error.to_string(), "")
            }
            Self::NotObject => {
                (BadCode::TypeMismatch, "the value is not a JSON object".to_owned(), "")
            }
            Self::Value(value) => {
                let is_absent = ["null", "nothing"].contains(&value.got);
                let code =
                    if is_absent { BadCode::RequiredFieldNull } else { BadCode::TypeMismatch };
                let message = format!("expected {}, got {}", value.expected, value.got);
                (code, message, value.field.as_str())
            }
            Self::TooLarge => (BadCode::TooLarge, "it does not fit a batch".to_owned(), ""),
        };
        let end = field_path.floor_char_boundary(1_024);
        BadRecord { code, message, field_path: field_path[..end].to_owned() }
    }

    fn within(mut self, part: &str) -> Self {
        if let Self::Value(value) = &mut self {
            let dot = if value.field.is_empty() || value.field.starts_with('[') { "" } else { "." };
            value.field = format!("{part}{dot}{}", value.field);
        }
        self
    }
}

/// Fields that no column takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignored {
    /// How often, by full name (`user.age`); the first [`IGNORED_NAMES_MAX`] of them.
    pub names: BTreeMap<String, u64>,
    /// How often others came.
    pub others: u64,
}

impl Ignored {
    fn add(&mut self, prefix: &str, name: &str) {
        let mut full = format!("{prefix}{name}");
        full.truncate(full.floor_char_boundary(IGNORED_NAME_BYTES_MAX));
        self.add_times(full, 1);
    }

    /// Counts a name `times` more.
    pub fn add_times(&mut self, name: String, times: u64) {
        if let Some(count) = self.names.get_mut(&name) {
            *count += times;
        } else if self.names.len() < IGNORED_NAMES_MAX {
            self.names.insert(name, times);
        } else {
            self.others += times;
        }
    }

    /// How often any came.
    pub fn total(&self) -> u64 {
        self.names.values().sum::<u64>() + self.others
    }

    /// Counts all of `other` too.
    pub fn merge(&mut self, other: Self) {
        self.others += other.others;
        for (name, times) in other.names {
            self.add_times(name, times);
        }
    }
}

/// Tells whether objects fit, and makes nothing of them.
#[derive(Debug)]
pub struct Checker {
    plan: Arc<Plan>,
    rules: Rules,
    seen: Seen,
    ignored: Ignored,
}

impl Checker {
    /// Starts with nothing counted. `plan` is one of [`crate::schema::columns::Mode::Contract`].
    pub fn new(plan: Arc<Plan>, rules: Rules) -> Self {
        let seen = Seen::new(&plan);
        Self { plan, rules, seen, ignored: Ignored::default() }
    }

    /// Checks one event; what [`Decoder::push`] makes a row of.
    ///
    /// # Errors
    /// [`Misfit`].
    pub fn check(&mut self, event: &str) -> Result<(), Misfit> {
        let ignored = Some(&mut self.ignored);
        Reader::new(&self.plan, self.rules, event, &mut self.seen, ignored).record(None, 0)
    }

    /// Fields without a column so far.
    pub fn ignored(&self) -> &Ignored {
        &self.ignored
    }

    /// Values so far that became null because they do not fit ([`Rules::lenient`]).
    pub fn nulled(&self) -> u64 {
        self.seen.nulled
    }
}

/// Turns objects into the value columns of a table.
#[derive(Debug)]
pub struct Decoder {
    plan: Arc<Plan>,
    rules: Rules,
    seen: Seen,
    top: Fields,
    rows: usize,
    input_bytes: usize,
}

impl Decoder {
    /// Starts with no row. `plan` is one of [`crate::schema::columns::Mode::Contract`].
    pub fn new(plan: Arc<Plan>, rules: Rules) -> Self {
        let (seen, top) = (Seen::new(&plan), Fields::new(&plan.top));
        Self { plan, rules, seen, top, rows: 0, input_bytes: 0 }
    }

    /// About how many bytes the rows since the last flush hold.
    pub fn bytes(&self) -> usize {
        self.input_bytes + self.rows * 4 * self.top.columns.len()
    }

    /// Decodes the value of the next record.
    ///
    /// # Errors
    /// [`Misfit`]; the record then left no trace in the columns.
    pub fn push(&mut self, value: Option<&[u8]>) -> Result<(), Misfit> {
        self.decode(value, self.rules)
    }

    /// [`Decoder::push`] of a record that was planned to be a row: what does not fit any more
    /// becomes null.
    ///
    /// # Errors
    /// [`Misfit`] where even that is no row.
    pub fn push_lossy(&mut self, value: Option<&[u8]>) -> Result<(), Misfit> {
        self.decode(value, Rules { lenient: true, ..self.rules })
    }

    fn decode(&mut self, value: Option<&[u8]>, rules: Rules) -> Result<(), Misfit> {
        let bytes = value.ok_or(Misfit::NotObject)?;
        if self.input_bytes + bytes.len() > BATCH_BYTES_MAX {
            return Err(Misfit::TooLarge);
        }
        let text = simdutf8::basic::from_utf8(bytes).map_err(|_| Misfit::NotUtf8)?;
        let mut reader = Reader::new(&self.plan, rules, text, &mut self.seen, None);
        let done = reader.record(Some(&mut self.top), self.rows);
        match &done {
            Ok(()) => {
                self.rows += 1;
                self.input_bytes += bytes.len();
            }
            Err(_) => self.top.truncate(self.rows),
        }
        done
    }

    /// Takes the rows as arrays of [`Plan::fields`]. The decoder goes on with no row.
    ///
    /// # Errors
    /// Arrow's, by a defect.
    pub fn flush(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        self.input_bytes = 0;
        self.top.finish(self.plan.fields(), rows)
    }

    /// Values so far that became null because they do not fit.
    pub fn nulled(&self) -> u64 {
        self.seen.nulled
    }
}
