//! Types of fields that have no column yet.
//!
//! Owns: the lattice (null below everything; long below double, if every long is exact; objects
//! and lists join by parts; anything else is mixed and becomes a string column that takes any
//! value as text), the caps, the list of wished columns. Does not own: columns that exist: they
//! never change their type.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::schema::columns::{BYTES, Plan, REST, Role, TEXT, is_legal};
use crate::schema::evolve::{MIXED_DOC, NewColumn, NewField, NewType, SiblingKind, sibling_doc};
use crate::schema::json::leftover::Wish;
use crate::schema::json::lexer::{self, Lexer};
use crate::schema::json::number::Number;

/// What the values of one field have in common.
#[derive(Debug, Default)]
enum Form {
    #[default]
    Null,
    Boolean,
    Long {
        /// Every value so far is a double too.
        doubles: bool,
    },
    Double,
    String,
    Struct(Members),
    List(Box<Form>),
    Mixed,
}

/// Fields in the order they were first seen.
#[derive(Debug, Default)]
struct Members {
    places: HashMap<String, usize>,
    folded: HashSet<String>,
    fields: Vec<(String, Form)>,
}

/// What is new in one struct.
#[derive(Debug, Default)]
struct Watched {
    members: Members,
    siblings: Vec<Sibling>,
}

#[derive(Debug, PartialEq, Eq)]
struct Sibling {
    place: u32,
    kind: SiblingKind,
    /// How many new fields were seen before: of two with one name the first has it.
    after: usize,
}

/// Watches values without a column.
#[derive(Debug)]
pub(super) struct Observer {
    /// By the struct's number in the plan; only those with something new.
    structs: BTreeMap<u32, Watched>,
    need: Need,
    budget: Budget,
}

#[derive(Debug, Default)]
struct Need {
    rest: bool,
    text: bool,
    bytes: bool,
}

/// Bounds memory and the depth of types.
#[derive(Debug)]
struct Budget {
    /// Fields that may still be remembered.
    fields: usize,
    depth_max: u32,
    /// A field could not be remembered, or its name is a second spelling.
    refused: bool,
}

/// A type made of a form.
struct Resolved {
    ty: Option<NewType>,
    mixed: bool,
    /// Some value of it has no place in the type.
    rest: bool,
}

impl Observer {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            structs: BTreeMap::new(),
            need: Need::default(),
            budget: Budget {
                // A struct may have fields that all turn out to be empty, so more than columns.
                fields: plan.options.max_columns.saturating_mul(2),
                depth_max: plan.options.infer_depth,
                refused: false,
            },
        }
    }

    pub(super) fn need(&mut self, role: Role) {
        match role {
            Role::Rest => self.need.rest = true,
            Role::Text => self.need.text = true,
            Role::Bytes => self.need.bytes = true,
            Role::Value | Role::Sibling => {}
        }
    }

    /// Notes a value that was left over; `key` is its name, `value` known to be JSON.
    pub(super) fn observe(&mut self, plan: &Plan, wish: Wish, key: impl AsRef<str>, value: &str) {
        match wish {
            Wish::Nothing => self.need.rest = true,
            Wish::Sibling { ordinal, place, kind } => {
                let watched = self.structs.entry(ordinal).or_default();
                let known = |sibling: &Sibling| sibling.place == place && sibling.kind == kind;
                if !watched.siblings.iter().any(known) {
                    let after = watched.members.fields.len();
                    watched.siblings.push(Sibling { place, kind, after });
                }
            }
            Wish::Field { ordinal } => {
                let depth = plan.structs[ordinal as usize].depth + 1;
                let members = &mut self.structs.entry(ordinal).or_default().members;
                let mut lexer = Lexer::new(value, lexer::DEPTH_MAX);
                match members.get(key.as_ref(), &mut self.budget) {
                    // The value was read before, so it has no errors.
                    Some(form) => drop(form.absorb(&mut lexer, depth, &mut self.budget)),
                    None => self.need.rest = true,
                }
            }
        }
    }

    /// The columns to add: by struct in the order they were needed, the reserved ones last.
    pub(super) fn proposed(&self, plan: &Plan) -> Vec<NewColumn> {
        if self.structs.is_empty() && !(self.need.rest || self.need.text || self.need.bytes) {
            return Vec::new();
        }
        let room = plan.options.max_columns.saturating_sub(plan.field_count);
        let rest = self.need.rest || self.budget.refused;
        let mut wishes = Wishes { plan, room, rest, names: HashSet::new(), columns: Vec::new() };
        for (ordinal, watched) in &self.structs {
            wishes.add_all(*ordinal, watched);
        }
        let reserved = [
            (Role::Rest, REST, NewType::String, wishes.rest),
            (Role::Text, TEXT, NewType::String, self.need.text),
            (Role::Bytes, BYTES, NewType::Binary, self.need.bytes),
        ];
        for (role, name, ty, needed) in reserved {
            if needed && plan.reserved(role).is_none() && plan.can_have(role) {
                let column = NewColumn { parent: None, name: name.to_owned(), ty, doc: None };
                wishes.columns.push(column);
            }
        }
        wishes.columns
    }
}

struct Wishes<'a> {
    plan: &'a Plan,
    room: usize,
    rest: bool,
    /// Full names of what is wished, in lower case.
    names: HashSet<String>,
    columns: Vec<NewColumn>,
}

impl Wishes<'_> {
    fn add_all(&mut self, ordinal: u32, watched: &Watched) {
        let mut siblings = watched.siblings.iter().peekable();
        for (seen, (name, form)) in watched.members.fields.iter().enumerate() {
            while let Some(sibling) = siblings.next_if(|sibling| sibling.after <= seen) {
                self.add_sibling(ordinal, sibling);
            }
            let Resolved { ty, mixed, rest } = form.resolve();
            self.rest |= rest;
            if let Some(ty) = ty {
                self.add(ordinal, name, ty, mixed.then(|| MIXED_DOC.to_owned()));
            }
        }
        for sibling in siblings {
            self.add_sibling(ordinal, sibling);
        }
    }

    fn add_sibling(&mut self, ordinal: u32, sibling: &Sibling) {
        let kind = sibling.kind;
        let columns = &self.plan.structs[ordinal as usize].columns;
        let (name, id) = &columns[sibling.place as usize];
        let name = format!("{name}__{}", kind.as_str());
        if is_legal(&name) {
            self.add(ordinal, &name, kind.new_type(), Some(sibling_doc(*id, kind)));
        } else {
            self.rest = true;
        }
    }

    /// Adds a column unless its name is taken or there is no room: then its values stay in
    /// `_rest`.
    fn add(&mut self, ordinal: u32, name: &str, ty: NewType, doc: Option<String>) {
        let info = &self.plan.structs[ordinal as usize];
        let mut names = Vec::new();
        full_names(&format!("{}{name}", info.prefix), &ty, &mut names);
        let mut own = HashSet::new();
        let taken = names.iter().any(|name| {
            self.plan.full_names.contains(name) || self.names.contains(name) || !own.insert(name)
        });
        let count = ty.field_count();
        if taken || count > self.room {
            self.rest = true;
            return;
        }
        self.room -= count;
        self.names.extend(names);
        self.columns.push(NewColumn { parent: info.id, name: name.to_owned(), ty, doc });
    }
}

/// Full names of a type's fields, in lower case. A name with a dot may be the full name of
/// another field, which Iceberg refuses.
fn full_names(path: &str, ty: &NewType, out: &mut Vec<String>) {
    out.push(path.to_lowercase());
    match ty {
        NewType::Struct(fields) => {
            for field in fields {
                full_names(&format!("{path}.{}", field.name), &field.ty, out);
            }
        }
        NewType::List(element) => full_names(&format!("{path}.element"), element, out),
        _ => {}
    }
}

impl Members {
    /// The form of a field; none if its name is a second spelling, illegal, or there are too
    /// many.
    fn get(&mut self, name: &str, budget: &mut Budget) -> Option<&mut Form> {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                let legal = is_legal(name);
                if !legal || budget.fields == 0 || !self.folded.insert(name.to_lowercase()) {
                    budget.refused = true;
                    return None;
                }
                budget.fields -= 1;
                self.places.insert(name.to_owned(), self.fields.len());
                self.fields.push((name.to_owned(), Form::Null));
                self.fields.len() - 1
            }
        };
        Some(&mut self.fields[place].1)
    }
}

impl Form {
    /// Widens the form by the next value of `lexer`, which is `depth` deep (1 is a column).
    fn absorb(
        &mut self,
        lexer: &mut Lexer<'_>,
        depth: u32,
        budget: &mut Budget,
    ) -> Result<(), lexer::Error> {
        let first = lexer.peek().unwrap_or(b'n');
        if (first == b'{' || first == b'[') && !matches!(self, Self::Mixed) {
            // The innermost level must be a scalar.
            if depth >= budget.depth_max {
                *self = Self::Mixed;
            } else if first == b'{' {
                return self.absorb_object(lexer, depth, budget);
            } else {
                return self.absorb_list(lexer, depth, budget);
            }
        }
        let start = lexer.pos();
        lexer.skip(0)?;
        let other = match first {
            b'n' => return Ok(()),
            b't' | b'f' => Self::Boolean,
            b'"' => Self::String,
            b'-' | b'0'..=b'9' => Self::number(&lexer.bytes()[start..lexer.pos()]),
            _ => Self::Mixed,
        };
        self.join_scalar(other);
        Ok(())
    }

    fn number(text: &[u8]) -> Self {
        let parsed = Number::scan(text).ok().zip(std::str::from_utf8(text).ok());
        let Some(((number, _), text)) = parsed else {
            return Self::Mixed;
        };
        let double = number.as_f64(text).is_some();
        match number.as_i64() {
            Some(_) => Self::Long { doubles: double },
            None if double => Self::Double,
            None => Self::Mixed,
        }
    }

    fn join_scalar(&mut self, other: Self) {
        let joined = match (std::mem::take(self), other) {
            (Self::Null, other) => other,
            (Self::Boolean, Self::Boolean) => Self::Boolean,
            (Self::String, Self::String) => Self::String,
            (Self::Long { doubles: a }, Self::Long { doubles: b }) => {
                Self::Long { doubles: a && b }
            }
            (Self::Long { doubles: true } | Self::Double, Self::Double)
            | (Self::Double, Self::Long { doubles: true }) => Self::Double,
            _ => Self::Mixed,
        };
        *self = joined;
    }

    fn absorb_object(
        &mut self,
        lexer: &mut Lexer<'_>,
        depth: u32,
        budget: &mut Budget,
    ) -> Result<(), lexer::Error> {
        if matches!(self, Self::Null) {
            *self = Self::Struct(Members::default());
        }
        let Self::Struct(members) = self else {
            *self = Self::Mixed;
            return lexer.skip(0).map(drop);
        };
        lexer.take(b'{')?;
        let mut more = !lexer.take_if(b'}');
        while more {
            let key = lexer.key()?;
            let mut name = Vec::new();
            lexer.unescape(key, &mut name);
            let name = String::from_utf8(name).unwrap_or_default();
            match members.get(&name, budget) {
                Some(form) => form.absorb(lexer, depth + 1, budget)?,
                None => {
                    lexer.skip(0)?;
                }
            }
            more = lexer.more(b'}')?;
        }
        Ok(())
    }

    fn absorb_list(
        &mut self,
        lexer: &mut Lexer<'_>,
        depth: u32,
        budget: &mut Budget,
    ) -> Result<(), lexer::Error> {
        if matches!(self, Self::Null) {
            *self = Self::List(Box::default());
        }
        let Self::List(element) = self else {
            *self = Self::Mixed;
            return lexer.skip(0).map(drop);
        };
        lexer.take(b'[')?;
        let mut more = !lexer.take_if(b']');
        while more {
            element.absorb(lexer, depth + 1, budget)?;
            more = lexer.more(b']')?;
        }
        if matches!(**element, Self::Mixed) {
            // An element has no doc to say that it is mixed, so the whole list is.
            *self = Self::Mixed;
        }
        Ok(())
    }

    fn resolve(&self) -> Resolved {
        let plain = |ty| Resolved { ty: Some(ty), mixed: false, rest: false };
        match self {
            Self::Null => Resolved { ty: None, mixed: false, rest: false },
            Self::Boolean => plain(NewType::Boolean),
            Self::Long { .. } => plain(NewType::Long),
            Self::Double => plain(NewType::Double),
            Self::String => plain(NewType::String),
            Self::Mixed => Resolved { ty: Some(NewType::String), mixed: true, rest: false },
            Self::List(element) => {
                let inner = element.resolve();
                let rest = inner.rest || inner.ty.is_none();
                let ty = inner.ty.map(|ty| NewType::List(Box::new(ty)));
                Resolved { ty, mixed: false, rest }
            }
            Self::Struct(members) => {
                let mut rest = false;
                let mut fields = Vec::new();
                for (name, form) in &members.fields {
                    let inner = form.resolve();
                    rest |= inner.rest;
                    if let Some(ty) = inner.ty {
                        let doc = inner.mixed.then(|| MIXED_DOC.to_owned());
                        fields.push(NewField { name: name.clone(), ty, doc });
                    }
                }
                // An empty struct is no Parquet type.
                rest |= fields.is_empty();
                let ty = (!fields.is_empty()).then_some(NewType::Struct(fields));
                Resolved { ty, mixed: false, rest }
            }
        }
    }
}

#[cfg(test)]
mod model_tests;
