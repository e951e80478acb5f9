//! One JSON value into one cell.
//!
//! Owns: which values fit which column, exactly or not at all. Does not own: rows, errors that
//! a user sees.

use std::collections::HashSet;

use crate::schema::columns::{Conflict, Kind, Plan, Shape, Slot};
use crate::schema::evolve::SiblingKind;
use crate::schema::json::builders::{Column, Data, Fields, Strings};
use crate::schema::json::decode::{BadCode, BadRecord};
use crate::schema::json::leftover::{Event, Place, Wish, leaf};
use crate::schema::json::lexer::{self, Lexer, Text};
use crate::schema::json::number::Number;
use crate::schema::json::temporal;

/// Why a record cannot be read on.
#[derive(Debug)]
pub(super) enum Stop {
    /// It is not JSON, or too deep.
    Syntax(lexer::Error),
    /// It is JSON that must not become a row.
    Bad(Box<BadRecord>),
}

impl From<lexer::Error> for Stop {
    fn from(error: lexer::Error) -> Self {
        Self::Syntax(error)
    }
}

/// What reading one record needs.
pub(super) struct Reader<'a> {
    pub(super) plan: &'a Plan,
    pub(super) lexer: Lexer<'a>,
    pub(super) text: &'a str,
    pub(super) left: &'a mut Vec<Event>,
    pub(super) scratch: &'a mut Vec<u8>,
}

impl Reader<'_> {
    /// Reads an object into row `row` of `fields`; `depth` containers are open with it. False
    /// means that a required field is missing or null.
    pub(super) fn object(
        &mut self,
        shape: &Shape,
        fields: &mut Fields,
        row: usize,
        depth: u32,
    ) -> Result<bool, Stop> {
        self.lexer.open(b'{', depth)?;
        let mut previous = fields.start();
        let mut more = !self.lexer.take_if(b'}');
        while more {
            let (key, found) = self.key(shape, fields, previous)?;
            match found {
                Some(place) => {
                    previous = place as usize;
                    if !self.field(shape, fields, (previous, row), key, depth)? {
                        return Ok(false);
                    }
                }
                None => self.unknown(shape, key, depth)?,
            }
            more = self.lexer.more(b'}')?;
        }
        Ok(shape.required.iter().all(|place| fields.columns[*place as usize].len() > row))
    }

    /// Takes the next member name and finds its column.
    #[inline]
    fn key(
        &mut self,
        shape: &Shape,
        fields: &mut Fields,
        previous: usize,
    ) -> Result<(Text, Option<u32>), Stop> {
        if let Some((place, slot)) = fields.expected(shape, previous)
            && let Some(key) = self.lexer.key_if(&slot.token)
        {
            return Ok((key, Some(place)));
        }
        let key = self.lexer.key()?;
        let found = if key.escaped {
            self.scratch.clear();
            self.lexer.unescape(key, self.scratch);
            fields.find(shape, previous, self.scratch)
        } else {
            fields.find(shape, previous, &self.lexer.bytes()[key.start..key.end])
        };
        Ok((key, found))
    }

    fn field(
        &mut self,
        shape: &Shape,
        fields: &mut Fields,
        (place, row): (usize, usize),
        key: Text,
        depth: u32,
    ) -> Result<bool, Stop> {
        let column = &mut fields.columns[place];
        if column.len() > row {
            // The name came before: the first one has the column.
            let value = self.lexer.skip(depth)?;
            self.left.push(leaf(key.into(), &value, Wish::Nothing));
            return Ok(true);
        }
        column.fill(row);
        let first = self.lexer.peek();
        let (start, mark) = (self.lexer.pos(), self.left.len());
        if self.value(&shape.slots[place], column, key.into(), depth)? {
            return Ok(true);
        }
        column.truncate(row);
        self.left.truncate(mark);
        if first == Some(b'n') {
            return Ok(false);
        }
        self.lexer.rewind(start);
        self.unfit(shape, fields, (place, row), key, depth)?;
        Ok(true)
    }

    /// Finds another place for a value that does not fit its column.
    fn unfit(
        &mut self,
        shape: &Shape,
        fields: &mut Fields,
        (place, row): (usize, usize),
        key: Text,
        depth: u32,
    ) -> Result<(), Stop> {
        self.lexer.peek();
        let start = self.lexer.pos();
        let value = self.lexer.skip(depth)?;
        let slot = &shape.slots[place];
        let mut wish = Wish::Nothing;
        match self.plan.options.conflict {
            Conflict::Dlq => {
                let prefix = &self.plan.structs[shape.ordinal as usize].prefix;
                return Err(Stop::Bad(Box::new(BadRecord {
                    code: BadCode::TypeMismatch,
                    message: format!(
                        "the value at byte {start} does not fit column {prefix}{} of type {}",
                        slot.name,
                        slot.kind.name()
                    ),
                    field_path: format!("{prefix}{}", slot.name),
                })));
            }
            Conflict::Rest => {}
            Conflict::Sibling => {
                let kind = sibling_kind(&self.text[value.clone()]);
                let Some(sibling) = slot.siblings[kind as usize] else {
                    wish = Wish::Sibling { ordinal: shape.ordinal, place: place as u32, kind };
                    self.left.push(leaf(key.into(), &value, wish));
                    return Ok(());
                };
                let column = &mut fields.columns[sibling as usize];
                let end = self.lexer.pos();
                self.lexer.rewind(start);
                if column.len() <= row
                    && self.sibling(&shape.slots[sibling as usize], column, kind, (row, depth))?
                {
                    return Ok(());
                }
                self.lexer.rewind(end);
            }
        }
        self.left.push(leaf(key.into(), &value, wish));
        Ok(())
    }

    fn sibling(
        &mut self,
        slot: &Slot,
        column: &mut Column,
        kind: SiblingKind,
        (row, depth): (usize, u32),
    ) -> Result<bool, Stop> {
        column.fill(row);
        if kind == SiblingKind::Json
            && let Data::Utf8(strings) = &mut column.data
        {
            let value = self.lexer.skip(depth)?;
            strings.push(&self.lexer.bytes()[value]);
            column.set_valid();
            return Ok(true);
        }
        // Only scalars come here, and they leave nothing over.
        let fits = self.value(slot, column, Place::Index(0), depth)?;
        if !fits {
            column.truncate(row);
        }
        Ok(fits)
    }

    fn unknown(&mut self, shape: &Shape, key: Text, depth: u32) -> Result<(), Stop> {
        let value = self.lexer.skip(depth)?;
        if &self.text[value.clone()] == "null" {
            // A null says no more than an absent field, and nothing about a type.
            return Ok(());
        }
        let name = if key.escaped {
            std::str::from_utf8(self.scratch).unwrap_or_default()
        } else {
            &self.text[key.start..key.end]
        };
        let new = Wish::Field { ordinal: shape.ordinal };
        let wish = if shape.may_add(name) { new } else { Wish::Nothing };
        self.left.push(leaf(key.into(), &value, wish));
        Ok(())
    }

    /// Reads a value into the next cell of `column`. False means that it does not fit: the
    /// caller cuts the column back; the position is then anywhere within the value.
    #[inline]
    fn value(
        &mut self,
        slot: &Slot,
        column: &mut Column,
        place: Place,
        depth: u32,
    ) -> Result<bool, Stop> {
        let Some(first) = self.lexer.peek() else {
            return Err(self.lexer.error(lexer::ErrorKind::End).into());
        };
        if first == b'n' {
            self.lexer.literal("null")?;
            if !slot.required {
                column.push_nulls(1);
            }
            return Ok(!slot.required);
        }
        let row = column.len();
        let fits = match (&slot.kind, &mut column.data) {
            (Kind::String, Data::Utf8(strings)) => self.string(slot, strings, first, depth)?,
            (Kind::Struct(shape), Data::Struct(fields)) if first == b'{' => {
                let mark = self.enter(true, place, false);
                let fits = self.object(shape, fields, row, depth + 1)?;
                self.leave(mark);
                fits
            }
            (Kind::List(element), Data::List(ends, child)) if first == b'[' => {
                let mark = self.enter(element.nested, place, true);
                let fits = self.list(element, ends, child, depth + 1)?;
                self.leave(mark);
                fits
            }
            (Kind::Map(value), Data::Map(ends, keys, child)) if first == b'{' => {
                let mark = self.enter(value.nested, place, false);
                let fits = self.map(value, ends, (keys, child), depth + 1)?;
                self.leave(mark);
                fits
            }
            (kind, data) => self.scalar(kind, data, first)?,
        };
        if fits {
            column.set_valid();
        }
        Ok(fits)
    }

    fn enter(&mut self, nested: bool, place: Place, array: bool) -> Option<usize> {
        nested.then(|| {
            self.left.push(Event::Open { place, array });
            self.left.len()
        })
    }

    fn leave(&mut self, mark: Option<usize>) {
        match mark {
            Some(mark) if self.left.len() == mark => drop(self.left.pop()),
            Some(_) => self.left.push(Event::Close),
            None => {}
        }
    }

    fn list(
        &mut self,
        element: &Slot,
        ends: &mut Vec<i32>,
        child: &mut Column,
        depth: u32,
    ) -> Result<bool, Stop> {
        self.lexer.open(b'[', depth)?;
        let mut more = !self.lexer.take_if(b']');
        let mut index = 0;
        while more {
            if !self.value(element, child, Place::Index(index), depth)? {
                return Ok(false);
            }
            index += 1;
            more = self.lexer.more(b']')?;
        }
        Ok(push_end(ends, child.len()))
    }

    fn map(
        &mut self,
        value: &Slot,
        ends: &mut Vec<i32>,
        (keys, child): (&mut Strings<i32>, &mut Column),
        depth: u32,
    ) -> Result<bool, Stop> {
        self.lexer.open(b'{', depth)?;
        let mut more = !self.lexer.take_if(b'}');
        let start = child.len();
        while more {
            let key = self.lexer.key()?;
            self.lexer.unescape(key, &mut keys.bytes);
            keys.end();
            if !self.value(value, child, key.into(), depth)? {
                return Ok(false);
            }
            more = self.lexer.more(b'}')?;
        }
        let mut seen = HashSet::new();
        // Iceberg's map keys are unique; a map with duplicates goes elsewhere as a whole.
        let unique =
            child.len() - start < 2 || (start..keys.len()).all(|at| seen.insert(keys.get(at)));
        Ok(unique && push_end(ends, child.len()))
    }

    fn string(
        &mut self,
        slot: &Slot,
        strings: &mut Strings<i32>,
        first: u8,
        depth: u32,
    ) -> Result<bool, Stop> {
        if first == b'"' {
            let text = self.lexer.string()?;
            if text.escaped {
                self.lexer.unescape(text, &mut strings.bytes);
                strings.end();
            } else {
                strings.push(&self.lexer.bytes()[text.start..text.end]);
            }
            return Ok(true);
        }
        if slot.mixed {
            let value = self.lexer.skip(depth)?;
            strings.push(&self.lexer.bytes()[value]);
        }
        Ok(slot.mixed)
    }

    fn scalar(&mut self, kind: &Kind, data: &mut Data, first: u8) -> Result<bool, Stop> {
        match first {
            b'"' => {
                let text = self.lexer.string()?;
                let bytes = if text.escaped {
                    self.scratch.clear();
                    self.lexer.unescape(text, self.scratch);
                    &*self.scratch
                } else {
                    &self.lexer.bytes()[text.start..text.end]
                };
                Ok(push_text(kind, data, bytes))
            }
            b'-' | b'0'..=b'9' => {
                let start = self.lexer.pos();
                let number = self.lexer.number()?;
                let text = &self.text[start..self.lexer.pos()];
                Ok(push_number(kind, data, number, text))
            }
            b't' | b'f' => {
                let value = first == b't';
                self.lexer.literal(if value { "true" } else { "false" })?;
                let Data::Boolean(values) = data else {
                    return Ok(false);
                };
                values.append(value);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn push_end(ends: &mut Vec<i32>, len: usize) -> bool {
    // The decoder bounds the bytes of a batch, so this holds.
    let end = i32::try_from(len);
    ends.extend(end.ok());
    end.is_ok()
}

fn push_number(kind: &Kind, data: &mut Data, number: Number, text: &str) -> bool {
    fn push<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
        let fits = value.is_some();
        values.extend(value);
        fits
    }
    match (kind, data) {
        (Kind::Long, Data::I64(values)) => push(values, number.as_i64()),
        (Kind::Double, Data::F64(values)) => push(values, number.as_f64(text)),
        (Kind::Int, Data::I32(values)) => {
            push(values, number.as_i64().and_then(|value| i32::try_from(value).ok()))
        }
        (Kind::Float, Data::F32(values)) => push(values, number.as_f32(text)),
        (Kind::Decimal { precision, scale }, Data::I128(values)) => {
            push(values, Number::as_decimal(text, *precision, *scale))
        }
        _ => false,
    }
}

fn push_text(kind: &Kind, data: &mut Data, text: &[u8]) -> bool {
    fn push<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
        let fits = value.is_some();
        values.extend(value);
        fits
    }
    match (kind, data) {
        (Kind::Date, Data::I32(values)) => push(values, temporal::date(text)),
        (Kind::Time, Data::I64(values)) => push(values, temporal::time(text)),
        (Kind::Timestamp { zoned }, Data::I64(values)) => {
            push(values, temporal::timestamp(text, *zoned))
        }
        (Kind::Uuid, Data::Uuid(values)) => {
            let value = temporal::uuid(text);
            values.extend(value.into_iter().flatten());
            value.is_some()
        }
        // Producers that care for exact decimals send them as strings.
        (Kind::Decimal { precision, scale }, Data::I128(values)) => {
            let whole = |(_, length): &(Number, usize)| *length == text.len();
            let number = Number::scan(text).ok().filter(whole);
            let text = number.and_then(|_| std::str::from_utf8(text).ok());
            push(values, text.and_then(|text| Number::as_decimal(text, *precision, *scale)))
        }
        _ => false,
    }
}

/// The kind of sibling for a value that is known to be JSON and not null.
fn sibling_kind(value: &str) -> SiblingKind {
    match value.as_bytes().first() {
        Some(b't' | b'f') => SiblingKind::Boolean,
        Some(b'"') => SiblingKind::String,
        Some(b'-' | b'0'..=b'9') => match Number::scan(value.as_bytes()) {
            Ok((number, _)) if number.as_i64().is_some() => SiblingKind::Long,
            Ok((number, _)) if number.as_f64(value).is_some() => SiblingKind::Double,
            _ => SiblingKind::Json,
        },
        _ => SiblingKind::Json,
    }
}
