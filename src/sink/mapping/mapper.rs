//! Events into the columns of a mapping, one row after the other.
//!
//! Owns: what fills a column. A row is whole or not there. Paths are looked up together, in one
//! walk over the body.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;
use iceberg::spec::PrimitiveType;
use serde_json::Value;
use tokio::time::Instant;

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
use crate::sink::mapping::template::NoResult;
use crate::sink::mapping::template::Outcome;
use crate::sink::mapping::template::Runner;
use crate::sink::mapping::template::Source;
use crate::sink::mapping::template::lower;
use crate::sink::mapping::value;

/// What fills a column.
#[derive(Debug)]
enum Fill {
    Id,
    Datetime,
    Ip,
    /// The body, as text or as bytes.
    Body {
        is_text: bool,
    },
    Headers,
    Path(PathFill),
    /// The result of a template, by its number.
    Template(usize, Form),
}

/// A value of the body.
#[derive(Debug)]
struct PathFill {
    /// The path as it was written.
    text: String,
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
    /// As it is.
    Raw,
}

/// What was found of an event before its columns are filled.
struct Found<'e> {
    /// The body as JSON text, if a column needs it.
    body: Option<Result<Cow<'e, str>, (FieldErrorKind, String)>>,
    /// Results of the templates.
    outcomes: Vec<Outcome>,
}

type Filled = Result<(), (FieldErrorKind, String)>;

/// Makes rows. It holds what one batch of them needs and may go from thread to thread.
#[derive(Debug)]
pub struct Mapper {
    columns: Arc<Vec<Column>>,
    fills: Vec<Fill>,
    paths: Paths,
    templates: Runner,
    cells: Cells,
    found: Vec<Option<Range<usize>>>,
    text: String,
}

impl Mapper {
    pub(super) fn new(mapping: &Mapping) -> Self {
        let (mut paths, mut sources) = (Vec::new(), Vec::new());
        let fill = |column| fill(column, &mut paths, &mut sources);
        let fills = mapping.columns.iter().map(fill).collect();
        Self {
            columns: Arc::clone(&mapping.columns),
            fills,
            paths: Paths::new(&paths),
            templates: Runner::new(sources),
            cells: Cells::new(Arc::clone(&mapping.plan)),
            found: Vec::new(),
            text: String::new(),
        }
    }

    /// Runs the templates for events that will be added next, in this order: much faster than one
    /// after the other. Needed only for speed.
    pub fn prepare(&mut self, events: &[Event<'_>]) {
        if !self.templates.is_empty() {
            self.templates.prepare(events);
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

    /// True if templates of this mapping did not end before: that some are not run may be their fault.
    pub fn is_at_fault(&self) -> bool {
        self.templates.is_at_fault()
    }

    /// Adds the row of an event that had one before: what cannot be filled any more is null.
    ///
    /// # Errors
    /// [`FieldErrorKind::TooLarge`] and [`FieldErrorKind::NotRun`], which another try may take, and
    /// all of a column of the primary key: it has no null.
    pub fn append_lossy(&mut self, event: &Event<'_>) -> Result<(), FieldError> {
        let filled = self.fill(event, true);
        self.end(filled)
    }

    /// Tells whether the event has what the columns need, and keeps nothing of it. Templates are not
    /// run.
    ///
    /// # Errors
    /// [`FieldError`] names the first column that the event cannot fill.
    pub fn check(&mut self, event: &Event<'_>) -> Result<(), FieldError> {
        let body = (!self.paths.is_empty()).then(|| self.read(event));
        let found = Found { body, outcomes: Vec::new() };
        let mut places = 0..self.fills.len();
        let refused = places.find_map(|place| match self.fills[place] {
            Fill::Template(..) => None,
            _ => Some((place, self.filled(place, event, &found).err()?)),
        });
        self.cells.undo_row();
        refused.map_or(Ok(()), |(place, reason)| Err(self.error(place, reason)))
    }

    /// Tells whether the event has a row, templates and casts included, and keeps nothing of it.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn try_row(&mut self, event: &Event<'_>) -> Result<(), FieldError> {
        let filled = self.fill(event, false);
        self.cells.undo_row();
        filled
    }

    /// Gives templates up at that moment: what they have no result of by then is
    /// [`FieldErrorKind::NotRun`].
    pub fn until(&mut self, at: Instant) {
        self.templates.until(at);
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
        match &filled {
            Ok(()) => self.cells.end_row(),
            Err(_) => self.cells.undo_row(),
        }
        filled
    }

    fn fill(&mut self, event: &Event<'_>, lossy: bool) -> Result<(), FieldError> {
        let body = (!self.paths.is_empty()).then(|| self.read(event));
        let outcomes = match self.templates.is_empty() {
            true => Vec::new(),
            false => self.templates.take(event),
        };
        let found = Found { body, outcomes };
        for place in 0..self.fills.len() {
            let is_key = self.columns[place].primary_key;
            match self.filled(place, event, &found) {
                Err((kind, _)) if lossy && !is_key && !kind.is_of_the_moment() => {
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

    /// Fills a cell; one of the primary key has no null.
    fn filled(&mut self, place: usize, event: &Event<'_>, found: &Found<'_>) -> Filled {
        self.cell(place, event, found)?;
        if self.columns[place].primary_key && !self.cells.is_set(place) {
            let reason = "a column of the primary key is null".to_owned();
            return Err((FieldErrorKind::Missing, reason));
        }
        Ok(())
    }

    fn cell(&mut self, place: usize, event: &Event<'_>, found: &Found<'_>) -> Filled {
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
            Fill::Body { is_text } => {
                if *is_text && simdutf8::basic::from_utf8(event.body).is_err() {
                    return Err((FieldErrorKind::Body, BodyError::NotUtf8.to_string()));
                }
                cells.set_bytes(place, event.body).map_err(misfit)
            }
            Fill::Headers => {
                let json = headers::to_json(event.headers);
                cells.set_bytes(place, json.as_bytes()).map_err(misfit)
            }
            Fill::Path(path) => {
                let body = match &found.body {
                    Some(Ok(body)) => body,
                    Some(Err(reason)) => return Err(reason.clone()),
                    None => return Ok(()),
                };
                let range = self.found[path.number].clone();
                let json = range.map(|range| &body[range]).or(path.default.as_deref());
                let Some(json) = json else { return Err(missing(&path.text)) };
                set(cells, &mut self.text, place, (path.form, json))
            }
            Fill::Template(number, form) => match found.outcomes.get(*number) {
                Some(Ok(result)) => set(cells, &mut self.text, place, (*form, result)),
                Some(Err(NoResult::Failed(reason))) => {
                    Err((FieldErrorKind::Template, reason.clone()))
                }
                Some(Err(NoResult::NotRun(reason))) => {
                    Err((FieldErrorKind::NotRun, (*reason).to_owned()))
                }
                None => Ok(()),
            },
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
        Form::Raw => cells.set_bytes(place, json.as_bytes()),
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

fn missing(path: &str) -> (FieldErrorKind, String) {
    (FieldErrorKind::Missing, format!("path {path:?} not found in the body"))
}

fn fill(column: &Column, paths: &mut Vec<Path>, sources: &mut Vec<Source>) -> Fill {
    let form = match (&column.data_type, column.raw_string) {
        (Some(_), _) => Form::Typed,
        (None, true) => Form::RawString,
        (None, false) => Form::Json,
    };
    let mut path = |text: &str, default| {
        // The mapping is checked: the path is one.
        paths.push(Path::parse(text).unwrap_or_default());
        Fill::Path(PathFill { text: text.to_owned(), number: paths.len() - 1, default, form })
    };
    match column.kind {
        Kind::Uuid => Fill::Id,
        Kind::Datetime => Fill::Datetime,
        Kind::Ip => Fill::Ip,
        Kind::Body => {
            Fill::Body { is_text: !matches!(column.iceberg_type(), Ok(PrimitiveType::Binary)) }
        }
        Kind::Headers => Fill::Headers,
        Kind::Path => path(column.path.as_deref().unwrap_or_default(), column.default_json()),
        Kind::Template => {
            let content = column.template.as_ref().map_or("", |template| template.content.as_str());
            if let Some(lowered) = lower(content) {
                return path(&lowered.path, lowered.default.map(|default| default.to_string()));
            }
            sources.extend(column.source());
            // The interpreter has taken the quotes off already.
            let form = if form == Form::RawString { Form::Raw } else { form };
            Fill::Template(sources.len() - 1, form)
        }
    }
}
