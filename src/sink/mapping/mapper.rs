//! Events into the columns of a mapping, one row after the other.
//!
//! Owns: what fills a column. A row is whole or not there. Paths are looked up together, in one
//! walk over the body.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;
use serde_json::Value;

use crate::schema::json::contract::Misfit;
use crate::schema::json::contract::cells::Cells;
use crate::schema::json::lexer;
use crate::sink::mapping::Column;
use crate::sink::mapping::Event;
use crate::sink::mapping::FieldError;
use crate::sink::mapping::FieldErrorKind;
use crate::sink::mapping::Kind;
use crate::sink::mapping::Mapping;
use crate::sink::mapping::body;
use crate::sink::mapping::body::BodyError;
use crate::sink::mapping::headers;
use crate::sink::mapping::path::Path;
use crate::sink::mapping::path::Paths;
use crate::sink::mapping::path::compact;
use crate::sink::mapping::value;

/// What fills a column.
#[derive(Debug)]
enum Fill {
    Id,
    Datetime,
    Ip,
    Body,
    Headers,
    Path(PathFill),
}

/// A value of the body.
#[derive(Debug)]
struct PathFill {
    /// Its number among the paths.
    number: usize,
    /// What it is without a value, as JSON.
    default: Option<String>,
    form: Form,
}

/// How a JSON value becomes a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As JSON text.
    Json,
    /// As JSON text, but strings without quotes.
    RawString,
    /// As a value of the column's type.
    Typed,
}

type Filled = Result<(), (FieldErrorKind, String)>;

/// Makes rows. It holds what one batch of them needs and may go from thread to thread.
#[derive(Debug)]
pub struct Mapper {
    columns: Arc<Vec<Column>>,
    fills: Vec<Fill>,
    paths: Paths,
    cells: Cells,
    found: Vec<Option<Range<usize>>>,
    text: String,
}

impl Mapper {
    pub(super) fn new(mapping: &Mapping) -> Self {
        let mut paths = Vec::new();
        let fills = mapping.columns.iter().map(|column| fill(column, &mut paths)).collect();
        Self {
            columns: Arc::clone(&mapping.columns),
            fills,
            paths: Paths::new(&paths),
            cells: Cells::new(Arc::clone(&mapping.plan)),
            found: Vec::new(),
            text: String::new(),
        }
    }

    /// Adds the event's row.
    ///
    /// # Errors
    /// [`FieldError`] names the first column that the event cannot fill; nothing of it stays then.
    pub fn append(&mut self, event: &Event<'_>) -> Result<(), FieldError> {
        let filled = self.fill(event, false);
        self.end(filled)
    }

    /// Adds the row of an event that had one before: what cannot be filled any more is null.
    ///
    /// # Errors
    /// [`FieldErrorKind::TooLarge`] only.
    pub fn append_lossy(&mut self, event: &Event<'_>) -> Result<(), FieldError> {
        let filled = self.fill(event, true);
        self.end(filled)
    }

    /// Rows since the last [`Self::finish`].
    pub fn rows(&self) -> usize {
        self.cells.rows()
    }

    /// About how many bytes they hold.
    pub fn bytes(&self) -> usize {
        self.cells.bytes()
    }

    /// Takes the rows as columns by name, in the mapping's order. The mapper goes on with no row.
    ///
    /// # Errors
    /// Arrow's, by a defect.
    pub fn finish(&mut self) -> Result<Vec<(String, ArrayRef)>, ArrowError> {
        let arrays = self.cells.flush()?;
        Ok(self.columns.iter().map(|column| column.name.clone()).zip(arrays).collect())
    }

    /// The event's row by itself, as its columns would hold it: numbers and booleans where the
    /// column has them, else text. The rows so far are gone.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn row(&mut self, event: &Event<'_>) -> Result<Vec<(String, Value)>, FieldError> {
        self.cells.undo_row();
        let defect = |error: ArrowError| FieldError {
            column: String::new(),
            kind: FieldErrorKind::Mismatch,
            reason: error.to_string(),
        };
        self.cells.flush().map_err(defect)?;
        self.append(event)?;
        let columns = self.finish().map_err(defect)?;
        let shown = |(name, array): (String, ArrayRef)| (name, value::first(&array));
        Ok(columns.into_iter().map(shown).collect())
    }

    /// Tries a value in a column and keeps nothing of it.
    pub(super) fn try_value(&mut self, place: usize, json: &str) -> Result<(), FieldError> {
        let form = match &self.fills[place] {
            Fill::Path(path) => path.form,
            _ => Form::Json,
        };
        let set = set(&mut self.cells, &mut self.text, place, (form, json));
        self.cells.undo_row();
        set.map_err(|reason| self.error(place, reason))
    }

    fn end(&mut self, filled: Result<(), FieldError>) -> Result<(), FieldError> {
        match filled {
            Ok(()) => self.cells.end_row(),
            Err(_) => self.cells.undo_row(),
        }
        filled
    }

    fn fill(&mut self, event: &Event<'_>, lossy: bool) -> Result<(), FieldError> {
        let body = (!self.paths.is_empty()).then(|| self.read(event));
        for place in 0..self.fills.len() {
            let filled = self.cell(place, event, body.as_ref());
            match filled {
                Err((kind, _)) if lossy && kind != FieldErrorKind::TooLarge => {
                    self.cells.unset(place);
                }
                filled => filled.map_err(|reason| self.error(place, reason))?,
            }
        }
        Ok(())
    }

    /// The body as JSON text, with all paths looked up in it.
    fn read<'e>(&mut self, event: &Event<'e>) -> Result<Cow<'e, str>, (FieldErrorKind, String)> {
        let text = body::to_json(event.headers, event.body).map_err(|error| {
            let is_media = matches!(error, BodyError::Media(_));
            let kind = if is_media { FieldErrorKind::Media } else { FieldErrorKind::Body };
            (kind, error.to_string())
        })?;
        self.paths.locate(&text, &mut self.found).map_err(|error| {
            let is_deep = error.kind == lexer::ErrorKind::TooDeep;
            let kind = if is_deep { FieldErrorKind::TooDeep } else { FieldErrorKind::Body };
            (kind, format!("the body is not JSON: {error}"))
        })?;
        Ok(text)
    }

    fn cell(
        &mut self,
        place: usize,
        event: &Event<'_>,
        body: Option<&Result<Cow<'_, str>, (FieldErrorKind, String)>>,
    ) -> Filled {
        let cells = &mut self.cells;
        match &self.fills[place] {
            Fill::Id => {
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                let text = event.id.hyphenated().encode_lower(&mut text);
                cells.set_bytes(place, text.as_bytes()).map_err(misfit)
            }
            Fill::Datetime => {
                let micros = event.received_ms.saturating_mul(1_000);
                cells.set_micros(place, micros).map_err(misfit)
            }
            Fill::Ip => match event.ip {
                Some(ip) => cells.set_bytes(place, ip.as_bytes()).map_err(misfit),
                None => Ok(()),
            },
            Fill::Body => {
                let is_text = self.columns[place].data_type.as_deref() != Some("binary");
                if is_text && simdutf8::basic::from_utf8(event.body).is_err() {
                    return Err((FieldErrorKind::Body, BodyError::NotUtf8.to_string()));
                }
                cells.set_bytes(place, event.body).map_err(misfit)
            }
            Fill::Headers => {
                let json = headers::to_json(event.headers);
                cells.set_bytes(place, json.as_bytes()).map_err(misfit)
            }
            Fill::Path(path) => {
                let Some(Ok(body)) = body else {
                    return body.and_then(|body| body.as_ref().err().cloned()).map_or(Ok(()), Err);
                };
                let found = self.found[path.number].clone().map(|range| &body[range]);
                let Some(json) = found.or(path.default.as_deref()) else {
                    let path = self.columns[place].path.as_deref().unwrap_or_default();
                    let reason = format!("path {path:?} not found in the body");
                    return Err((FieldErrorKind::Missing, reason));
                };
                set(cells, &mut self.text, place, (path.form, json))
            }
        }
    }

    fn error(&self, place: usize, (kind, reason): (FieldErrorKind, String)) -> FieldError {
        FieldError { column: self.columns[place].name.clone(), kind, reason }
    }
}

/// Puts one JSON value into a cell.
fn set(cells: &mut Cells, text: &mut String, place: usize, (form, json): (Form, &str)) -> Filled {
    let is_string = json.starts_with('"');
    let set = match form {
        Form::Typed => cells.set_json(place, json),
        Form::RawString if is_string => cells.set_json(place, json),
        Form::RawString | Form::Json => {
            text.clear();
            compact(json, text);
            cells.set_bytes(place, text.as_bytes())
        }
    };
    set.map_err(misfit)
}

fn misfit(misfit: Misfit) -> (FieldErrorKind, String) {
    match misfit {
        Misfit::Value(value) => (FieldErrorKind::Mismatch, value.to_string()),
        Misfit::TooLarge => (FieldErrorKind::TooLarge, "the row does not fit a batch".to_owned()),
        other => (FieldErrorKind::Body, other.bad_record().message),
    }
}

fn fill(column: &Column, paths: &mut Vec<Path>) -> Fill {
    match column.kind {
        Kind::Uuid => Fill::Id,
        Kind::Datetime => Fill::Datetime,
        Kind::Ip => Fill::Ip,
        Kind::Body => Fill::Body,
        Kind::Headers => Fill::Headers,
        Kind::Path => {
            // The mapping is checked: the path is one.
            paths.push(Path::parse(column.path.as_deref().unwrap_or_default()).unwrap_or_default());
            let form = match (&column.data_type, column.raw_string) {
                (Some(_), _) => Form::Typed,
                (None, true) => Form::RawString,
                (None, false) => Form::Json,
            };
            Fill::Path(PathFill { number: paths.len() - 1, default: column.default_json(), form })
        }
    }
}
