//! The plan: which JSON name goes to which column of a table.
//!
//! Owns: names, siblings and reserved columns of an Iceberg schema, compiled once per schema.
//! Does not own: cells, new columns.
//!
//! A name matches a column by its exact spelling. A name that differs from a column's only in
//! case is the second spelling, which no column can hold beside the first in any engine: its
//! values go to `_rest`, with the spelling kept.

use std::collections::{HashMap, HashSet};

use arrow_schema::FieldRef;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use iceberg::spec::{Literal, NestedFieldRef, PrimitiveLiteral, PrimitiveType, Schema, Type};

use crate::schema::Error;
use crate::schema::evolve::{MIXED_DOC, parse_sibling_doc};

/// Column for the JSON text of what has no column.
pub const REST: &str = "_rest";
/// Column for values that are not JSON objects.
pub const TEXT: &str = "_value";
/// Column for values that are not UTF-8.
pub const BYTES: &str = "_value__binary";

/// Longest name, in bytes, that becomes a column; longer ones go to `_rest`.
pub(crate) const NAME_LEN_MAX: usize = 255;

/// Widest `fixed` that is written, in bytes: a null takes as much.
const FIXED_BYTES_MAX: u64 = 1_024;

/// What a record's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Objects become columns, anything else is a row with `_value`.
    #[default]
    Auto,
    /// What is neither an object nor null is a bad record.
    Json,
    /// The columns that are there are all there is: none has a part of ours, and what has no column
    /// is left out ([`crate::schema::json::contract`]).
    Contract,
}

/// Where a value goes that does not fit its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conflict {
    /// To a typed sibling column.
    #[default]
    Sibling,
    /// To `_rest`.
    Rest,
    /// The record is bad.
    Dlq,
}

/// How records become rows.
#[derive(Debug, Clone)]
pub struct Options {
    /// What a value may be.
    pub mode: Mode,
    /// Where unfit values go.
    pub conflict: Conflict,
    /// Most Iceberg fields below the value columns, nested ones included; what would be more
    /// goes to `_rest`. The three reserved columns do not count.
    pub max_columns: usize,
    /// Deepest nesting of an inferred column, the column itself being 1; deeper values are kept
    /// as JSON text.
    pub infer_depth: u32,
    /// Deepest nesting of a value that is read as JSON at all.
    pub json_depth: u32,
    /// New columns may be proposed. Without it a value without a place makes the record bad.
    pub evolve: bool,
    /// Top-level columns that are not made from the value (compared ignoring case).
    pub system: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            conflict: Conflict::Sibling,
            max_columns: 1_000,
            infer_depth: 8,
            json_depth: 64,
            evolve: true,
            system: vec!["floe".to_owned()],
        }
    }
}

/// How the cells of a column are made.
#[derive(Debug)]
pub(crate) enum Kind {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Decimal {
        precision: u32,
        scale: u32,
    },
    Date,
    Time,
    Timestamp {
        zoned: bool,
    },
    Uuid,
    String,
    Binary,
    /// Binary values of so many bytes.
    Fixed(u16),
    Struct(Box<Shape>),
    List(Box<Slot>),
    Map(Box<Slot>),
    /// A type that no JSON value fits.
    Opaque,
}

impl Kind {
    /// The type as Iceberg names it, without the types inside of it.
    pub(crate) fn name(&self) -> String {
        let name = match self {
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal { precision, scale } => return format!("decimal({precision}, {scale})"),
            Self::Fixed(width) => return format!("fixed[{width}]"),
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp { zoned: true } => "timestamptz",
            Self::Timestamp { zoned: false } => "timestamp",
            Self::Uuid => "uuid",
            Self::String => "string",
            Self::Binary => "binary",
            Self::Struct(_) => "struct",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Opaque => "that JSON does not have",
        };
        name.to_owned()
    }
}

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Value,
    Sibling,
    Rest,
    Text,
    Bytes,
}

/// One column, list element or map value.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name: String,
    /// The name as most producers write it before a value: quoted, with its colon. Empty where it
    /// would need an escape.
    pub(crate) token: Box<[u8]>,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    pub(crate) role: Role,
    /// A string column that takes any value as text.
    pub(crate) mixed: bool,
    /// There is a struct in it, so it may leave unknown fields over.
    pub(crate) nested: bool,
    /// Places of its siblings in the same struct, by kind.
    pub(crate) siblings: [Option<u32>; 5],
    /// JSON text of what writers put where there is no value (Iceberg's `write-default`).
    pub(crate) default: Option<Box<str>>,
}

/// The columns of one struct; the top level is one too.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Its number in [`Plan::structs`].
    pub(crate) ordinal: u32,
    pub(crate) slots: Vec<Slot>,
    /// Places of required columns.
    pub(crate) required: Vec<u32>,
    /// Places of optional columns that have a default.
    pub(crate) defaults: Vec<u32>,
    /// Exact names of the columns that values go to.
    exact: HashMap<Box<[u8]>, u32>,
    /// The same in lower case (ASCII), and none where two are one then. Only of a contract.
    folded: HashMap<Box<[u8]>, Option<u32>>,
    /// All names that are taken, in lower case.
    taken: HashSet<String>,
}

fn token(name: &str) -> Box<[u8]> {
    let is_plain = name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if is_plain { format!("\"{name}\":").into_bytes().into() } else { Box::default() }
}

/// What inference needs to know of a struct.
#[derive(Debug, Clone)]
pub(crate) struct StructInfo {
    /// Field id, none at the top level.
    pub(crate) id: Option<i32>,
    /// Full name with a dot at the end, empty at the top level.
    pub(crate) prefix: String,
    /// Containers around its fields: 0 at the top level.
    pub(crate) depth: u32,
    /// Name and field id by place.
    pub(crate) columns: Vec<(String, i32)>,
}

/// How the value columns of a table are filled; made once per schema.
#[derive(Debug)]
pub struct Plan {
    pub(crate) options: Options,
    pub(crate) top: Shape,
    pub(crate) structs: Vec<StructInfo>,
    /// Full names of all fields, in lower case.
    pub(crate) full_names: HashSet<String>,
    /// Iceberg fields in the value columns that count against the limit.
    pub(crate) field_count: usize,
    fields: Vec<FieldRef>,
}

impl Plan {
    /// Compiles the plan of a table's schema.
    ///
    /// # Errors
    /// [`Error::Iceberg`] if the schema has no Arrow form.
    pub fn new(schema: &Schema, options: Options) -> Result<Self, Error> {
        let arrow = iceberg::arrow::schema_to_arrow_schema(schema)?;
        let is_system = |name: &str| {
            options.system.iter().any(|known| known.to_lowercase() == name.to_lowercase())
        };
        let columns: Vec<NestedFieldRef> = schema
            .as_struct()
            .fields()
            .iter()
            .filter(|field| !is_system(&field.name))
            .cloned()
            .collect();
        let fields =
            arrow.fields().iter().filter(|field| !is_system(field.name())).cloned().collect();
        let contract = options.mode == Mode::Contract;
        let mut compiler = Compiler { structs: Vec::new(), field_count: 0, contract };
        let mut top = compiler.shape(None, String::new(), 0, &columns);
        let reserved = [REST, TEXT, BYTES].into_iter().map(str::to_owned);
        top.taken.extend(options.system.iter().map(|name| name.to_lowercase()).chain(reserved));
        Ok(Self {
            top,
            structs: compiler.structs,
            full_names: schema.field_id_to_name_map().values().map(|n| n.to_lowercase()).collect(),
            field_count: compiler.field_count,
            fields,
            options,
        })
    }

    /// The Arrow fields of the value columns in schema order: those of
    /// `iceberg::arrow::schema_to_arrow_schema` without the system columns.
    pub fn fields(&self) -> &[FieldRef] {
        &self.fields
    }

    /// The place of a reserved column.
    pub(crate) fn reserved(&self, role: Role) -> Option<usize> {
        self.top.slots.iter().position(|slot| slot.role == role)
    }

    /// True if the reserved column is there or could be added.
    pub(crate) fn can_have(&self, role: Role) -> bool {
        let name = match role {
            Role::Rest => REST,
            Role::Text => TEXT,
            Role::Bytes => BYTES,
            Role::Value | Role::Sibling => return false,
        };
        self.reserved(role).is_some() || (self.options.evolve && !self.full_names.contains(name))
    }
}

impl Shape {
    /// Looks a name up by its exact spelling.
    pub(crate) fn exact(&self, name: &[u8]) -> Option<u32> {
        self.exact.get(name).copied()
    }

    /// Looks a name up that is no column's exact spelling, ignoring the case of ASCII letters.
    pub(crate) fn folded(&self, name: &[u8]) -> Option<u32> {
        self.folded.get(name.to_ascii_lowercase().as_slice()).copied().flatten()
    }

    /// True if a name that no column has exactly may become one.
    pub(crate) fn may_add(&self, name: &str) -> bool {
        is_legal(name) && !self.taken.contains(&name.to_lowercase())
    }
}

/// True if a column may have that name; other fields go to `_rest`.
pub(crate) fn is_legal(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control)
}

struct Compiler {
    structs: Vec<StructInfo>,
    field_count: usize,
    contract: bool,
}

impl Compiler {
    fn shape(
        &mut self,
        id: Option<i32>,
        prefix: String,
        depth: u32,
        fields: &[NestedFieldRef],
    ) -> Shape {
        let ordinal = self.structs.len();
        let columns = fields.iter().map(|field| (field.name.clone(), field.id)).collect();
        self.structs.push(StructInfo { id, prefix: prefix.clone(), depth, columns });
        let mut slots: Vec<Slot> = fields
            .iter()
            .map(|field| {
                let mut slot = self.slot(field, &format!("{prefix}{}", field.name), depth + 1);
                if !self.contract {
                    slot.role = role(field, depth == 0, &slot.kind);
                }
                self.field_count += usize::from(matches!(slot.role, Role::Value | Role::Sibling));
                slot
            })
            .collect();
        for (at, field) in fields.iter().enumerate() {
            let doc = field.doc.as_deref().filter(|_| !self.contract);
            let Some((of, kind)) = doc.and_then(parse_sibling_doc) else {
                continue;
            };
            if let Some(owner) = fields.iter().position(|other| other.id == of) {
                slots[owner].siblings[kind as usize].get_or_insert(at as u32);
            }
        }
        let places = || (0_u32..).zip(&slots);
        let has_default = |slot: &Slot| !slot.required && slot.default.is_some();
        Shape {
            ordinal: ordinal as u32,
            required: places().filter(|(_, slot)| slot.required).map(|(at, _)| at).collect(),
            defaults: places().filter(|(_, slot)| has_default(slot)).map(|(at, _)| at).collect(),
            exact: places()
                .filter(|(_, slot)| slot.role == Role::Value)
                .filter(|(_, slot)| self.contract || depth > 0 || !is_reserved(&slot.name))
                .map(|(at, slot)| (slot.name.as_bytes().into(), at))
                .collect(),
            folded: if self.contract { folded(&slots) } else { HashMap::new() },
            taken: slots.iter().map(|slot| slot.name.to_lowercase()).collect(),
            slots,
        }
    }

    fn slot(&mut self, field: &NestedFieldRef, path: &str, depth: u32) -> Slot {
        let kind = self.kind(field, path, depth);
        let nested = match &kind {
            Kind::Struct(_) => true,
            Kind::List(inner) | Kind::Map(inner) => inner.nested,
            _ => false,
        };
        Slot {
            name: field.name.clone(),
            token: token(&field.name),
            mixed: matches!(kind, Kind::String) && field.doc.as_deref() == Some(MIXED_DOC),
            kind,
            required: field.required,
            role: Role::Value,
            nested,
            siblings: [None; 5],
            default: if self.contract { default_text(field) } else { None },
        }
    }

    fn kind(&mut self, field: &NestedFieldRef, path: &str, depth: u32) -> Kind {
        match &*field.field_type {
            Type::Primitive(primitive) => primitive_kind(primitive),
            Type::Struct(inner) => {
                let prefix = format!("{path}.");
                Kind::Struct(Box::new(self.shape(Some(field.id), prefix, depth, inner.fields())))
            }
            Type::List(list) => {
                self.field_count += 1;
                let path = format!("{path}.element");
                Kind::List(Box::new(self.slot(&list.element_field, &path, depth + 1)))
            }
            Type::Map(map) => {
                self.field_count += 2;
                let string = Type::Primitive(PrimitiveType::String);
                if *map.key_field.field_type != string {
                    return Kind::Opaque;
                }
                let path = format!("{path}.value");
                Kind::Map(Box::new(self.slot(&map.value_field, &path, depth + 1)))
            }
        }
    }
}

fn folded(slots: &[Slot]) -> HashMap<Box<[u8]>, Option<u32>> {
    let mut folded = HashMap::new();
    for (at, slot) in (0_u32..).zip(slots) {
        let name = slot.name.to_ascii_lowercase().into_bytes().into_boxed_slice();
        folded.entry(name).and_modify(|place| *place = None).or_insert(Some(at));
    }
    folded
}

/// The default that writers put, as an event would spell it. Iceberg has decimals as text and bytes
/// in hex (Iceberg spec, "JSON single-value serialization").
fn default_text(field: &NestedFieldRef) -> Option<Box<str>> {
    let literal = field.write_default.clone()?;
    let kind = match &*field.field_type {
        Type::Primitive(primitive) => Some(primitive),
        _ => None,
    };
    let text = match (kind, literal) {
        (_, Literal::Primitive(PrimitiveLiteral::Binary(bytes))) => {
            format!("\"{}\"", STANDARD.encode(bytes))
        }
        (Some(PrimitiveType::Decimal { .. }), literal) => {
            literal.try_into_json(&field.field_type).ok()?.as_str()?.to_owned()
        }
        (_, literal) => literal.try_into_json(&field.field_type).ok()?.to_string(),
    };
    Some(text.into_boxed_str())
}

fn primitive_kind(primitive: &PrimitiveType) -> Kind {
    match primitive {
        PrimitiveType::Boolean => Kind::Boolean,
        PrimitiveType::Int => Kind::Int,
        PrimitiveType::Long => Kind::Long,
        PrimitiveType::Float => Kind::Float,
        PrimitiveType::Double => Kind::Double,
        PrimitiveType::Decimal { precision, scale } => {
            Kind::Decimal { precision: *precision, scale: *scale }
        }
        PrimitiveType::Date => Kind::Date,
        PrimitiveType::Time => Kind::Time,
        PrimitiveType::Timestamp => Kind::Timestamp { zoned: false },
        PrimitiveType::Timestamptz => Kind::Timestamp { zoned: true },
        PrimitiveType::Uuid => Kind::Uuid,
        PrimitiveType::String => Kind::String,
        PrimitiveType::Binary => Kind::Binary,
        PrimitiveType::Fixed(width) if (1..=FIXED_BYTES_MAX).contains(width) => {
            Kind::Fixed(*width as u16)
        }
        _ => Kind::Opaque,
    }
}

fn is_reserved(name: &str) -> bool {
    [REST, TEXT, BYTES].contains(&name.to_lowercase().as_str())
}

/// A column is a reserved one by name and type, a sibling by its doc.
fn role(field: &NestedFieldRef, top: bool, kind: &Kind) -> Role {
    match (field.name.as_str(), kind) {
        (REST, Kind::String) if top => Role::Rest,
        (TEXT, Kind::String) if top => Role::Text,
        (BYTES, Kind::Binary) if top => Role::Bytes,
        _ if field.doc.as_deref().and_then(parse_sibling_doc).is_some() => Role::Sibling,
        _ => Role::Value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::evolve::{NewColumn, NewType, SiblingKind, apply, sibling_doc};
    use iceberg::spec::{NestedField, StructType};

    fn schema() -> Schema {
        let long = || Type::Primitive(PrimitiveType::Long);
        let system = StructType::new(vec![NestedField::optional(2, "offset", long()).into()]);
        let user = StructType::new(vec![NestedField::optional(5, "age", long()).into()]);
        let base = Schema::builder()
            .with_fields(vec![
                NestedField::optional(1, "Floe", Type::Struct(system)).into(),
                NestedField::optional(3, "userId", long()).into(),
                NestedField::optional(4, "user", Type::Struct(user)).into(),
            ])
            .build()
            .unwrap();
        let column =
            |name: &str, ty, doc| NewColumn { parent: None, name: name.to_owned(), ty, doc };
        let sibling = sibling_doc(3, SiblingKind::String);
        let new = [
            column("renamed", NewType::String, Some(sibling)),
            column(REST, NewType::String, None),
        ];
        apply(&base, 5, &new).unwrap()
    }

    #[test]
    fn names_are_compared_ignoring_case_and_siblings_by_field_id() {
        let plan = Plan::new(&schema(), Options::default()).unwrap();
        assert_eq!(plan.fields().len(), 4);
        assert_eq!(plan.top.exact(b"userId"), Some(0));
        assert_eq!(plan.top.exact(b"renamed"), None);
        for denied in ["userid", "floe", "_rest", "_Value", "_value__binary", "", "a\0b"] {
            assert!(!plan.top.may_add(denied), "{denied:?}");
        }
        assert!(plan.top.may_add("else"));
        assert_eq!(plan.top.slots[0].siblings[SiblingKind::String as usize], Some(2));
        assert_eq!(plan.reserved(Role::Rest), Some(3));
        assert_eq!(plan.field_count, 4);
        assert!(plan.can_have(Role::Text));
    }
}
