//! From an event to a row: what a sink's mapping says.
//!
//! Owns: the columns of a mapping and their JSON form ([`column`]), what fills them ([`Mapper`]).
//! Pure functions over plain state. Does not own: where events come from, where rows go. The model
//! and the names are those of Keboola's Data Streams.

mod body;
pub mod column;
pub mod ddl;
mod headers;
pub mod infer;
mod mapper;
pub mod path;
mod template;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use iceberg::spec::NestedField;
use iceberg::spec::Schema;
use iceberg::spec::Type;
use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use crate::schema;
use crate::schema::columns::Mode;
use crate::schema::columns::Options;
use crate::schema::columns::Plan;
use crate::schema::json::decode::BadCode;
use crate::schema::json::decode::BadRecord;
use crate::sink::mapping::template::Runner;
use crate::sink::mapping::template::Source;
use crate::sink::mapping::template::lower;

pub use column::Column;
pub use column::Kind;
pub use column::Template;
pub use headers::Header;
pub use mapper::Mapper;
pub use template::RESULT_LEN_MAX;
pub use template::TEMPLATE_LEN_MAX;

/// Most columns of a mapping.
pub const COLUMNS_MAX: usize = 100;

/// What a row is made of.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Its id, the same on every replay of the log ([`crate::types::TopicId::record_id`]).
    pub id: Uuid,
    /// When it was received, milliseconds from 1970 on.
    pub received_ms: i64,
    /// Address of the peer that sent it.
    pub ip: Option<&'a str>,
    /// Its headers, without those of the caller's own.
    pub headers: &'a [Header<'a>],
    /// Its body: the record's value.
    pub body: &'a [u8],
}

/// What is wrong with one column of a mapping, or with all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Place of the column, counted from 0.
    pub index: Option<usize>,
    /// Its name, if it has one.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.column, self.index) {
            (Some(name), _) => write!(f, "column {name:?}: {}", self.reason),
            (None, Some(index)) => write!(f, "column {}: {}", index + 1, self.reason),
            (None, None) => f.write_str(&self.reason),
        }
    }
}

/// Everything that is wrong with a mapping; at least one fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "; " };
            write!(f, "{comma}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Why an event has no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// Its content type cannot be read.
    Media,
    /// Its body is not what the content type says, or not UTF-8.
    Body,
    /// Its body nests too deep.
    TooDeep,
    /// The path leads nowhere and has no default.
    Missing,
    /// The column does not take the value.
    Mismatch,
    /// The template has no result for it.
    Template,
    /// The template was not run, or not to its end: there was no thread or no time for it.
    NotRun,
    /// It does not go into one batch; one of its own may take it.
    TooLarge,
}

impl FieldErrorKind {
    /// True if the event may have a row at another try, whatever is in it.
    pub(in crate::sink::mapping) fn is_of_the_moment(self) -> bool {
        matches!(self, Self::NotRun | Self::TooLarge)
    }
}

/// A column that an event cannot fill.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column:?}: {reason}")]
pub struct FieldError {
    /// Its name.
    pub column: String,
    /// What kind of fault.
    pub kind: FieldErrorKind,
    /// Why, in words.
    pub reason: String,
}

impl FieldError {
    /// What the dead-letter table says of it.
    pub fn bad_record(&self) -> BadRecord {
        let code = match self.kind {
            FieldErrorKind::Media => BadCode::MediaType,
            FieldErrorKind::Body => BadCode::JsonParse,
            FieldErrorKind::TooDeep => BadCode::TooDeep,
            FieldErrorKind::Missing => BadCode::RequiredFieldNull,
            FieldErrorKind::Mismatch => BadCode::TypeMismatch,
            FieldErrorKind::Template | FieldErrorKind::NotRun => BadCode::Template,
            FieldErrorKind::TooLarge => BadCode::TooLarge,
        };
        let end = self.reason.floor_char_boundary(1_000);
        let message = self.reason[..end].to_owned();
        BadRecord { code, message, field_path: self.column.clone() }
    }
}

/// Checked columns of a sink. Clones share them.
#[derive(Debug, Clone)]
pub struct Mapping {
    columns: Arc<Vec<Column>>,
    schema: Arc<Schema>,
    plan: Arc<Plan>,
}

impl Mapping {
    /// Reads `{"columns": [...]}`.
    ///
    /// # Errors
    /// [`Faults`]: all that is wrong with it.
    pub fn parse(value: &Value) -> Result<Self, Faults> {
        let members = value.as_object().filter(|members| members.keys().eq(["columns"]));
        let columns = members.and_then(|members| members["columns"].as_array());
        let columns = columns.ok_or_else(|| {
            whole("a mapping is an object with the array \"columns\" and no more".to_owned())
        })?;
        count(columns.len())?;
        let mut faults = Vec::new();
        let mut parsed = Vec::with_capacity(columns.len());
        for (index, column) in columns.iter().enumerate() {
            match Column::deserialize_from(column) {
                Ok(column) => parsed.push((index, column)),
                Err(reason) => {
                    let column = column["name"].as_str().map(str::to_owned);
                    faults.push(Fault { index: Some(index), column, reason });
                }
            }
        }
        Self::checked(parsed, faults)
    }

    /// Checks columns.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn new(columns: Vec<Column>) -> Result<Self, Faults> {
        count(columns.len())?;
        Self::checked(columns.into_iter().enumerate().collect(), Vec::new())
    }

    /// Makes a mapping of columns with their places, if neither they nor others have `faults`.
    fn checked(columns: Vec<(usize, Column)>, mut faults: Vec<Fault>) -> Result<Self, Faults> {
        let mut names = HashSet::new();
        for (index, column) in &columns {
            let mut reasons = column.faults();
            if !names.insert(column.name.to_lowercase()) {
                reasons.push("another column has this name, ignoring case".to_owned());
            }
            let fault =
                |reason| Fault { index: Some(*index), column: Some(column.name.clone()), reason };
            faults.extend(reasons.into_iter().map(fault));
        }
        if !faults.is_empty() {
            faults.sort_by_key(|fault| fault.index);
            return Err(Faults(faults));
        }
        let columns: Vec<Column> = columns.into_iter().map(|(_, column)| column).collect();
        let defect = |error: String| whole(format!("the columns make no table: {error}"));
        let schema = schema_of(&columns).map_err(defect)?;
        let plan = plan_of(&schema).map_err(|error| defect(error.to_string()))?;
        let mapping =
            Self { columns: Arc::new(columns), schema: Arc::new(schema), plan: Arc::new(plan) };
        mapping.try_defaults()?;
        Ok(mapping)
    }

    /// Its columns, in order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Its JSON form, which [`Self::parse`] reads.
    pub fn to_json(&self) -> Value {
        json!({ "columns": &*self.columns })
    }

    /// The schema of a new table, ids from 1 on: the primary key is required and its columns are the
    /// identifier fields, all others are optional.
    pub fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.schema)
    }

    /// The columns of the primary key, in order; none where rows are not told apart.
    pub fn primary_key(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.primary_key)
    }

    /// True if no two events have one primary key: the id of the event is part of it.
    pub fn is_key_of_event(&self) -> bool {
        self.primary_key().any(|column| column.kind == Kind::Uuid)
    }

    /// True if rows are told apart by the same columns, filled by the same, as by `other`.
    pub fn has_key_of(&self, other: &Self) -> bool {
        let sorted = |mapping: &'_ Self| {
            let mut key: Vec<Column> = mapping.primary_key().cloned().collect();
            key.sort_by(|one, other| one.name.cmp(&other.name));
            key
        };
        sorted(self) == sorted(other)
    }

    /// True if a row needs the body read, and so a content type that can be; a template may need
    /// it besides.
    pub fn reads_body(&self) -> bool {
        self.columns.iter().any(|column| match &column.template {
            Some(template) => lower(&template.content).is_some(),
            None => column.kind == Kind::Path,
        })
    }

    /// True if a row needs a template run. Those that are nothing but a path are not.
    pub fn runs_templates(&self) -> bool {
        self.columns.iter().any(|column| column.source().is_some())
    }

    /// Reads its templates, which [`Self::parse`] leaves to the moment when they are first run. It
    /// blocks, for milliseconds and at most some seconds.
    ///
    /// # Errors
    /// [`Faults`] of the templates.
    pub fn verify(&self) -> Result<(), Faults> {
        let templates = self.columns.iter().enumerate();
        let templates = templates.filter_map(|(index, column)| Some((index, column.source()?)));
        let (places, sources): (Vec<usize>, Vec<Source>) = templates.unzip();
        let reasons = places.into_iter().zip(Runner::check(&sources));
        let fault = |(index, reason): (usize, Option<String>)| {
            let column = Some(self.columns[index].name.clone());
            Some(Fault { index: Some(index), column, reason: reason? })
        };
        let faults: Vec<Fault> = reasons.filter_map(fault).collect();
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }

    /// What makes rows by it.
    pub fn compile(&self) -> Mapper {
        Mapper::new(self)
    }

    /// Checks that columns take their defaults.
    fn try_defaults(&self) -> Result<(), Faults> {
        let mut mapper = self.compile();
        let mut faults = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            if let Some(default) = column.default_json()
                && let Err(error) = mapper.try_value(index, &default)
            {
                let reason = format!("the default value does not fit: {}", error.reason);
                faults.push(Fault {
                    index: Some(index),
                    column: Some(column.name.clone()),
                    reason,
                });
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }
}

fn count(columns: usize) -> Result<(), Faults> {
    if !(1..=COLUMNS_MAX).contains(&columns) {
        return Err(whole(format!("a mapping has 1 to {COLUMNS_MAX} columns, not {columns}")));
    }
    Ok(())
}

fn whole(reason: String) -> Faults {
    Faults(vec![Fault { index: None, column: None, reason }])
}

fn schema_of(columns: &[Column]) -> Result<Schema, String> {
    let mut fields = Vec::with_capacity(columns.len());
    let mut key = Vec::new();
    for (id, column) in (1..).zip(columns) {
        let kind = Type::Primitive(column.iceberg_type()?);
        if column.primary_key {
            key.push(id);
        }
        fields.push(NestedField::new(id, &column.name, kind, column.primary_key).into());
    }
    let builder = Schema::builder().with_fields(fields).with_identifier_field_ids(key);
    builder.build().map_err(|error| error.to_string())
}

fn plan_of(schema: &Schema) -> Result<Plan, schema::Error> {
    let options = Options { mode: Mode::Contract, system: Vec::new(), ..Options::default() };
    Plan::new(schema, options)
}
