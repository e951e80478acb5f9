//! The walk over one object, with or without making cells of it.

use std::collections::HashMap;

use super::cast::{self, Token, cast};
use super::{Ignored, Misfit, Mismatch, Rules};
use crate::schema::columns::{Kind, Plan, Shape, Slot};
use crate::schema::json::builders::{Column, Data, Fields, Strings};
use crate::schema::json::lexer::{self, Lexer, Text};

/// Bytes of a value that a refusal shows.
const SHOWN_BYTES_MAX: usize = 64;

/// Which columns the open objects have had. A stamp says of which object: objects of one shape are
/// open one after the other, so nothing needs to be cleared between them.
#[derive(Debug)]
pub(super) struct Seen {
    /// By struct and place: the object, and where its name stands in the record.
    stamps: Vec<Vec<(u64, (u32, u32))>>,
    newest: u64,
    scratch: Vec<u8>,
    pub(super) nulled: u64,
}

impl Seen {
    pub(super) fn new(plan: &Plan) -> Self {
        let places = |columns: usize| vec![(0, (0, 0)); columns];
        let stamps = plan.structs.iter().map(|one| places(one.columns.len())).collect();
        Self { stamps, newest: 0, scratch: Vec::new(), nulled: 0 }
    }
}

/// Reads one record.
pub(super) struct Reader<'a> {
    plan: &'a Plan,
    rules: Rules,
    lexer: Lexer<'a>,
    seen: &'a mut Seen,
    ignored: Option<&'a mut Ignored>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        rules: Rules,
        text: &'a str,
        seen: &'a mut Seen,
        ignored: Option<&'a mut Ignored>,
    ) -> Self {
        let lexer = Lexer::new(text, plan.options.json_depth);
        Self { plan, rules, lexer, seen, ignored }
    }

    /// Reads the record into row `row` of `top`, or only checks it.
    pub(super) fn record(&mut self, top: Option<&mut Fields>, row: usize) -> Result<(), Misfit> {
        if self.lexer.peek() != Some(b'{') {
            self.lexer.skip(0)?;
            self.lexer.end()?;
            return Err(Misfit::NotObject);
        }
        let plan = self.plan;
        self.object(&plan.top, top, row, 1)?;
        Ok(self.lexer.end()?)
    }

    /// Reads an object; `depth` containers are open with it.
    fn object(
        &mut self,
        shape: &'a Shape,
        mut fields: Option<&mut Fields>,
        row: usize,
        depth: u32,
    ) -> Result<(), Misfit> {
        self.lexer.open(b'{', depth)?;
        self.seen.newest += 1;
        let object = self.seen.newest;
        let mut more = !self.lexer.take_if(b'}');
        while more {
            let key = self.lexer.key()?;
            match self.place(shape, key) {
                Some(place) => {
                    let slot = &shape.slots[place];
                    self.first_spelling(shape, (place, object), key)?;
                    let column = fields.as_deref_mut().map(|fields| &mut fields.columns[place]);
                    let column = column.map(|column| at_row(column, row));
                    self.value(slot, column, depth).map_err(|misfit| misfit.within(&slot.name))?;
                }
                None => {
                    self.lexer.skip(depth)?;
                    self.ignore(shape, key);
                }
            }
            more = self.lexer.more(b'}')?;
        }
        self.complete(shape, fields, (row, object), depth)
    }

    fn place(&mut self, shape: &Shape, key: Text) -> Option<usize> {
        let name = if key.escaped {
            self.seen.scratch.clear();
            self.lexer.unescape(key, &mut self.seen.scratch);
            &self.seen.scratch[..]
        } else {
            &self.lexer.bytes()[key.start..key.end]
        };
        let found = shape.exact(name);
        let found = found.or_else(|| self.rules.fold_case.then(|| shape.folded(name)).flatten());
        found.map(|place| place as usize)
    }

    /// Notes that a column has its value. Of two fields with one name the last one counts; two names
    /// that only case tells apart cannot have one column.
    fn first_spelling(
        &mut self,
        shape: &Shape,
        (place, object): (usize, u64),
        key: Text,
    ) -> Result<(), Misfit> {
        let range = |(start, end): (u32, u32)| start as usize..end as usize;
        let now = (key.start as u32, key.end as u32);
        let stamp = &mut self.seen.stamps[shape.ordinal as usize][place];
        let (before, spelled) = std::mem::replace(stamp, (object, now));
        let bytes = self.lexer.bytes();
        if before == object && self.rules.fold_case && bytes[range(spelled)] != bytes[range(now)] {
            return Err(Misfit::Value(Box::new(Mismatch {
                field: shape.slots[place].name.clone(),
                expected: "one field".to_owned(),
                got: "two that only case tells apart",
                shown: String::new(),
            })));
        }
        Ok(())
    }

    fn ignore(&mut self, shape: &Shape, key: Text) {
        let Some(ignored) = &mut self.ignored else { return };
        let prefix = &self.plan.structs[shape.ordinal as usize].prefix;
        let name = std::str::from_utf8(&self.lexer.bytes()[key.start..key.end]);
        ignored.add(prefix, name.unwrap_or_default());
    }

    /// Fills what the object does not have.
    fn complete(
        &mut self,
        shape: &'a Shape,
        mut fields: Option<&mut Fields>,
        (row, object): (usize, u64),
        depth: u32,
    ) -> Result<(), Misfit> {
        for place in shape.required.iter().chain(&shape.defaults).map(|place| *place as usize) {
            if self.seen.stamps[shape.ordinal as usize][place].0 == object {
                continue;
            }
            let slot = &shape.slots[place];
            let column = fields.as_deref_mut().map(|fields| &mut fields.columns[place]);
            let column = column.map(|column| at_row(column, row));
            let filled = self.absent(slot, column, depth, "nothing");
            filled.map_err(|misfit| misfit.within(&slot.name))?;
        }
        Ok(())
    }

    /// The cell of a value that is not there.
    fn absent(
        &mut self,
        slot: &'a Slot,
        mut column: Option<&mut Column>,
        depth: u32,
        got: &'static str,
    ) -> Result<(), Misfit> {
        if let Some(default) = &slot.default {
            let default = Lexer::new(default, self.plan.options.json_depth);
            let record = std::mem::replace(&mut self.lexer, default);
            let first = self.lexer.peek().unwrap_or_default();
            let done = self.cell(slot, column.as_deref_mut(), first, depth);
            self.lexer = record;
            done?;
            if let Some(column) = column {
                column.set_valid();
            }
            return Ok(());
        }
        if slot.required {
            return Err(mismatch(slot, got, ""));
        }
        if let Some(column) = column {
            column.push_nulls(1);
        }
        Ok(())
    }

    /// Reads a value into the next cell of `column`.
    fn value(
        &mut self,
        slot: &'a Slot,
        mut column: Option<&mut Column>,
        depth: u32,
    ) -> Result<(), Misfit> {
        let Some(first) = self.lexer.peek() else {
            return Err(self.lexer.error(lexer::ErrorKind::End).into());
        };
        if first == b'n' {
            self.lexer.literal("null")?;
            return self.absent(slot, column, depth, "null");
        }
        let (start, row) = (self.lexer.pos(), column.as_ref().map_or(0, |column| column.len()));
        match self.cell(slot, column.as_deref_mut(), first, depth) {
            Ok(()) => {
                if let Some(column) = column {
                    column.set_valid();
                }
                Ok(())
            }
            Err(Misfit::Value(_)) if self.rules.lenient && !slot.required => {
                self.lexer.rewind(start);
                self.lexer.skip(depth)?;
                self.seen.nulled += 1;
                if let Some(column) = column {
                    column.truncate(row);
                    column.push_nulls(1);
                }
                Ok(())
            }
            Err(misfit) => Err(misfit),
        }
    }

    fn cell(
        &mut self,
        slot: &'a Slot,
        column: Option<&mut Column>,
        first: u8,
        depth: u32,
    ) -> Result<(), Misfit> {
        let row = column.as_ref().map_or(0, |column| column.len());
        let data = column.map(|column| &mut column.data);
        match (&slot.kind, first) {
            (Kind::String, _) => self.string(data, first, depth),
            (Kind::Struct(shape), b'{') => {
                let fields = data.and_then(|data| match data {
                    Data::Struct(fields) => Some(fields),
                    _ => None,
                });
                self.object(shape, fields, row, depth + 1)
            }
            (Kind::List(element), b'[') => {
                let parts = data.and_then(|data| match data {
                    Data::List(ends, child) => Some((ends, &mut **child)),
                    _ => None,
                });
                self.list(element, parts, depth + 1)
            }
            (Kind::Map(value), b'{') => {
                let parts = data.and_then(|data| match data {
                    Data::Map(ends, keys, child) => Some(MapCells { ends, keys, child }),
                    _ => None,
                });
                self.map(value, parts, depth + 1)
            }
            _ => self.scalar(slot, data, first, depth),
        }
    }

    fn list(
        &mut self,
        element: &'a Slot,
        mut parts: Option<(&mut Vec<i32>, &mut Column)>,
        depth: u32,
    ) -> Result<(), Misfit> {
        self.lexer.open(b'[', depth)?;
        let mut more = !self.lexer.take_if(b']');
        let mut index = 0;
        while more {
            let child = parts.as_mut().map(|(_, child)| &mut **child);
            let read = self.value(element, child, depth);
            read.map_err(|misfit| misfit.within(&format!("[{index}]")))?;
            index += 1;
            more = self.lexer.more(b']')?;
        }
        match parts {
            Some((ends, child)) => push_end(ends, child.len()),
            None => Ok(()),
        }
    }

    /// Reads a map; of a key that stands twice the last value counts.
    fn map(
        &mut self,
        value: &'a Slot,
        mut parts: Option<MapCells<'_>>,
        depth: u32,
    ) -> Result<(), Misfit> {
        self.lexer.open(b'{', depth)?;
        let (from, start) = (self.lexer.pos(), parts.as_ref().map_or(0, |parts| parts.keys.len()));
        self.entries(value, parts.as_mut(), None, depth)?;
        let Some(mut parts) = parts else { return Ok(()) };
        if parts.keys.len() < start + 2 {
            return push_end(parts.ends, parts.child.len());
        }
        let mut last = HashMap::new();
        for (entry, at) in (start..parts.keys.len()).enumerate() {
            last.insert(parts.keys.get(at).to_vec(), entry);
        }
        if last.len() < parts.keys.len() - start {
            parts.keys.truncate(start);
            parts.child.truncate(start);
            self.lexer.rewind(from);
            self.entries(value, Some(&mut parts), Some(&last), depth)?;
        }
        push_end(parts.ends, parts.child.len())
    }

    /// Reads the entries of a map and its end; with `last` only those that it names.
    fn entries(
        &mut self,
        value: &'a Slot,
        mut parts: Option<&mut MapCells<'_>>,
        last: Option<&HashMap<Vec<u8>, usize>>,
        depth: u32,
    ) -> Result<(), Misfit> {
        let mut more = !self.lexer.take_if(b'}');
        let mut entry = 0;
        while more {
            let key = self.lexer.key()?;
            let mut child = None;
            if let Some(parts) = &mut parts {
                self.lexer.unescape(key, &mut parts.keys.bytes);
                parts.keys.end();
                let at = parts.keys.len() - 1;
                if last.is_some_and(|last| last.get(parts.keys.get(at)) != Some(&entry)) {
                    parts.keys.truncate(at);
                    self.lexer.skip(depth)?;
                    entry += 1;
                    more = self.lexer.more(b'}')?;
                    continue;
                }
                child = Some(&mut *parts.child);
            }
            self.value(value, child, depth).map_err(|misfit| misfit.within("value"))?;
            entry += 1;
            more = self.lexer.more(b'}')?;
        }
        Ok(())
    }

    /// Any value as text: a string without its escapes, everything else as it is written.
    fn string(&mut self, data: Option<&mut Data>, first: u8, depth: u32) -> Result<(), Misfit> {
        let strings = data.and_then(|data| match data {
            Data::Utf8(strings) => Some(strings),
            _ => None,
        });
        if first == b'"' {
            let text = self.lexer.string()?;
            match strings {
                Some(strings) if text.escaped => {
                    self.lexer.unescape(text, &mut strings.bytes);
                    strings.end();
                }
                Some(strings) => strings.push(&self.lexer.bytes()[text.start..text.end]),
                None => {}
            }
            return Ok(());
        }
        let range = self.lexer.skip(depth)?;
        if let Some(strings) = strings {
            strings.push(&self.lexer.bytes()[range]);
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        slot: &Slot,
        data: Option<&mut Data>,
        first: u8,
        depth: u32,
    ) -> Result<(), Misfit> {
        let start = self.lexer.pos();
        let bytes = self.lexer.bytes();
        let (got, cell) = match first {
            b'"' => ("string", self.quoted(slot)?),
            b'-' | b'0'..=b'9' => {
                self.lexer.number()?;
                let text = std::str::from_utf8(&bytes[start..self.lexer.pos()]);
                let token = Token::Number(text.unwrap_or_default());
                ("number", cast(&slot.kind, self.rules, token))
            }
            b't' | b'f' => {
                let value = first == b't';
                self.lexer.literal(if value { "true" } else { "false" })?;
                ("boolean", cast(&slot.kind, self.rules, Token::Boolean(value)))
            }
            b'{' | b'[' => {
                self.lexer.skip(depth)?;
                let got = if first == b'{' { "object" } else { "array" };
                return Err(mismatch(slot, got, ""));
            }
            _ => return Err(self.lexer.error(lexer::ErrorKind::Unexpected).into()),
        };
        let shown = &bytes[start..self.lexer.pos()];
        let cell = cell.ok_or_else(|| mismatch(slot, got, &shorten(shown)))?;
        if let Some(data) = data
            && !cast::push(data, cell)
        {
            return Err(mismatch(slot, got, ""));
        }
        Ok(())
    }

    fn quoted(&mut self, slot: &Slot) -> Result<Option<cast::Cell>, Misfit> {
        let text = self.lexer.string()?;
        if !text.escaped {
            let token = Token::Text(&self.lexer.bytes()[text.start..text.end]);
            return Ok(cast(&slot.kind, self.rules, token));
        }
        self.seen.scratch.clear();
        self.lexer.unescape(text, &mut self.seen.scratch);
        Ok(cast(&slot.kind, self.rules, Token::Text(&self.seen.scratch)))
    }
}

/// The cells of a map column.
struct MapCells<'c> {
    ends: &'c mut Vec<i32>,
    keys: &'c mut Strings<i32>,
    child: &'c mut Column,
}

/// The column with exactly `row` cells: nulls before it, and nothing of an earlier field with that
/// name.
pub(super) fn at_row(column: &mut Column, row: usize) -> &mut Column {
    if column.len() > row {
        column.truncate(row);
    }
    column.fill(row);
    column
}

pub(super) fn mismatch(slot: &Slot, got: &'static str, shown: &str) -> Misfit {
    let expected = match slot.kind {
        Kind::Opaque => "nothing: JSON has no such values".to_owned(),
        _ => slot.kind.name(),
    };
    let (field, shown) = (String::new(), shown.to_owned());
    Misfit::Value(Box::new(Mismatch { field, expected, got, shown }))
}

fn shorten(shown: &[u8]) -> String {
    let text = std::str::from_utf8(shown).unwrap_or_default();
    let end = text.floor_char_boundary(SHOWN_BYTES_MAX);
    if end == text.len() { text.to_owned() } else { format!("{}...", &text[..end]) }
}

/// Ends a list or a map. The decoder bounds the bytes of a batch, so it holds.
fn push_end(ends: &mut Vec<i32>, len: usize) -> Result<(), Misfit> {
    ends.push(i32::try_from(len).map_err(|_| Misfit::TooLarge)?);
    Ok(())
}
