//! The proof that a row says all that its record says: leaves of the record against leaves of the
//! cells. For tests and fuzzing only; slow.

#![allow(clippy::unwrap_used, reason = "only tests and fuzzing have this module")]

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use iceberg::spec::{NestedField, Schema, Type};

use crate::schema::columns::{BYTES, REST, TEXT};
use crate::schema::evolve::{MIXED_DOC, parse_sibling_doc};
use crate::schema::json::lexer::{DEPTH_MAX, Lexer};
use crate::schema::json::number::same_decimal;

/// JSON as text says it: spelling of numbers, order and duplicates kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// None for what is no JSON.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut lexer = Lexer::new(text, DEPTH_MAX);
        let value = Self::read(&mut lexer)?;
        lexer.end().ok().map(|()| value)
    }

    fn read_text(lexer: &Lexer<'_>, token: crate::schema::json::lexer::Text) -> String {
        let mut out = Vec::new();
        lexer.unescape(token, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn read(lexer: &mut Lexer<'_>) -> Option<Self> {
        let first = lexer.peek()?;
        Some(match first {
            b'{' => {
                lexer.take(b'{').ok()?;
                let mut members = Vec::new();
                let mut more = !lexer.take_if(b'}');
                while more {
                    let key = lexer.key().ok()?;
                    let key = Self::read_text(lexer, key);
                    members.push((key, Self::read(lexer)?));
                    more = lexer.more(b'}').ok()?;
                }
                Self::Object(members)
            }
            b'[' => {
                lexer.take(b'[').ok()?;
                let mut items = Vec::new();
                let mut more = !lexer.take_if(b']');
                while more {
                    items.push(Self::read(lexer)?);
                    more = lexer.more(b']').ok()?;
                }
                Self::List(items)
            }
            b'"' => {
                let token = lexer.string().ok()?;
                Self::Text(Self::read_text(lexer, token))
            }
            _ => {
                let range = lexer.skip(0).ok()?;
                match std::str::from_utf8(&lexer.bytes()[range]).unwrap() {
                    "null" => Self::Null,
                    "true" => Self::Bool(true),
                    "false" => Self::Bool(false),
                    number => Self::Number(number.to_owned()),
                }
            }
        })
    }

    /// Its text.
    #[cfg(test)]
    pub(crate) fn render(&self) -> String {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(text) => text.clone(),
            Self::Text(text) => quote(text),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::render).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Object(members) => {
                let member =
                    |(key, value): &(String, Self)| format!("{}: {}", quote(key), value.render());
                let members: Vec<_> = members.iter().map(member).collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }

    /// All leaves with their paths. A null member of an object is no leaf.
    fn leaves(&self, path: &str, out: &mut Leaves) {
        match self {
            Self::List(items) if !items.is_empty() => {
                for (at, item) in items.iter().enumerate() {
                    item.leaves(&format!("{path}[{at}]"), out);
                }
            }
            Self::Object(members) if members.iter().any(|(_, value)| *value != Self::Null) => {
                for (key, value) in members.iter().filter(|(_, value)| *value != Self::Null) {
                    value.leaves(&format!("{path}/{key:?}"), out);
                }
            }
            Self::Object(_) => out.push((path.to_owned(), Leaf::Is(Self::Object(Vec::new())))),
            other => out.push((path.to_owned(), Leaf::Is(other.clone()))),
        }
    }
}

type Leaves = Vec<(String, Leaf)>;

#[derive(Debug, Clone, PartialEq)]
enum Leaf {
    Is(Json),
    /// A cell of a mixed column.
    Mixed(String),
}

/// The leaves of a cell.
fn cell_leaves(array: &ArrayRef, row: usize, field: &NestedField, path: &str, out: &mut Leaves) {
    if array.is_null(row) {
        return;
    }
    let is = |json| Leaf::Is(json);
    let leaf = match (array.data_type(), &*field.field_type) {
        (DataType::Struct(_), Type::Struct(inner)) => {
            let before = out.len();
            for (child, field) in array.as_struct().columns().iter().zip(inner.fields()) {
                named_leaves(child, row, (field, inner.fields()), path, out);
            }
            if out.len() > before {
                return;
            }
            is(Json::Object(Vec::new()))
        }
        (DataType::List(_), Type::List(list)) => {
            let items = array.as_list::<i32>().value(row);
            for at in 0..items.len() {
                let path = format!("{path}[{at}]");
                if items.is_null(at) {
                    out.push((path.clone(), is(Json::Null)));
                }
                cell_leaves(&items, at, &list.element_field, &path, out);
            }
            if !items.is_empty() {
                return;
            }
            is(Json::List(Vec::new()))
        }
        (DataType::Boolean, _) => is(Json::Bool(array.as_boolean().value(row))),
        (DataType::Int64, _) => {
            is(Json::Number(array.as_primitive::<Int64Type>().value(row).to_string()))
        }
        (DataType::Float64, _) => {
            let value = array.as_primitive::<Float64Type>().value(row);
            is(Json::Number(ryu::Buffer::new().format_finite(value).to_owned()))
        }
        (DataType::Utf8, _) => {
            let text = array.as_string::<i32>().value(row).to_owned();
            let mixed = field.doc.as_deref() == Some(MIXED_DOC);
            if mixed { Leaf::Mixed(text) } else { is(Json::Text(text)) }
        }
        other => panic!("{other:?}"),
    };
    out.push((path.to_owned(), leaf));
}

/// The leaves of a column of a struct, under the name of the field they come from.
fn named_leaves(
    array: &ArrayRef,
    row: usize,
    (field, fields): (&NestedField, &[iceberg::spec::NestedFieldRef]),
    path: &str,
    out: &mut Leaves,
) {
    let sibling = field.doc.as_deref().and_then(parse_sibling_doc);
    let owner = sibling.map_or(field.id, |(owner, _)| owner);
    let name = &fields.iter().find(|field| field.id == owner).unwrap().name;
    let path = format!("{path}/{name:?}");
    match sibling {
        Some((_, kind)) if kind.as_str() == "json" => {
            if array.is_valid(row) {
                let text = array.as_string::<i32>().value(row);
                Json::parse(text).unwrap().leaves(&path, out);
            }
        }
        _ => cell_leaves(array, row, field, &path, out),
    }
}

fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => same_decimal(a, b),
        _ => a == b,
    }
}

fn remove(from: &mut Leaves, path: &str, json: &Json) -> bool {
    let at = from.iter().position(|(other, leaf)| {
        other == path && matches!(leaf, Leaf::Is(other) if same(other, json))
    });
    at.map(|at| from.remove(at)).is_some()
}

/// Checks that a row says all that its record says and nothing else. The first column of `schema` is
/// the system column, which `batch` lacks.
///
/// # Panics
/// If it does not.
pub(crate) fn check_row(schema: &Schema, batch: &RecordBatch, row: usize, record: &str) {
    let fields = &schema.as_struct().fields()[1..];
    let text = |name: &str| {
        let column = batch.column_by_name(name)?;
        column.is_valid(row).then(|| column.as_string::<i32>().value(row).to_owned())
    };
    let original = Json::parse(record).filter(|json| matches!(json, Json::Object(_)));
    let Some(original) = original else {
        assert_eq!(text(TEXT).as_deref(), Some(record));
        return;
    };
    let (mut wanted, mut found) = (Vec::new(), Vec::new());
    original.leaves("", &mut wanted);
    for (array, field) in batch.columns().iter().zip(fields) {
        if ![REST, TEXT, BYTES].contains(&field.name.as_str()) {
            named_leaves(array, row, (field, fields), "", &mut found);
        }
    }
    if let Some(rest) = text(REST) {
        Json::parse(&rest).unwrap().leaves("", &mut found);
    }
    // Nulls and empty objects may only keep the position of others.
    let empty = Leaf::Is(Json::Object(Vec::new()));
    let known = wanted.clone();
    let paths: Vec<String> = found.iter().map(|(path, _)| path.clone()).collect();
    for (path, leaf) in found {
        match &leaf {
            Leaf::Is(json) => {
                let filler = *json == Json::Null
                    || *json == Json::Object(Vec::new())
                        && (path.is_empty()
                            || known.contains(&(path.clone(), empty.clone()))
                            || paths.iter().any(|p| p.len() > path.len() && p.starts_with(&path)));
                assert!(
                    remove(&mut wanted, &path, json) || filler,
                    "{record}: extra {path} {leaf:?}"
                );
            }
            Leaf::Mixed(text) => {
                if remove(&mut wanted, &path, &Json::Text(text.clone())) {
                    continue;
                }
                let mut parts = Vec::new();
                Json::parse(text).unwrap().leaves(&path, &mut parts);
                for (path, part) in parts {
                    let Leaf::Is(json) = &part else { panic!() };
                    assert!(remove(&mut wanted, &path, json), "{record}: extra {path} {part:?}");
                }
            }
        }
    }
    wanted.retain(|(path, leaf)| !(path.is_empty() && *leaf == Leaf::Is(Json::Object(Vec::new()))));
    assert!(wanted.is_empty(), "{record}: lost {wanted:?}");
}
