//! New columns and how they enter an Iceberg schema.
//!
//! Owns: the description of a wished column, the marks in column docs, the append-only change of
//! a schema. Does not own: what is wished ([`crate::schema::json::infer`]), the commit.
//!
//! A column's part in the decoding stands in its `doc`, because a doc belongs to the field id: it
//! survives renames and every engine shows it. `floe:sibling-of=<field id> kind=<kind>` marks a
//! column for values that do not fit another one, `floe:mixed` a string column that takes any
//! JSON value as text.

use std::sync::Arc;

use iceberg::spec::{
    ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type,
};

use crate::schema::Error;

/// Doc of a string column whose values had several kinds before its first commit.
pub const MIXED_DOC: &str = "floe:mixed";

const SIBLING_DOC: &str = "floe:sibling-of=";

/// What a sibling column holds; also the end of its name after `__`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SiblingKind {
    /// `true` and `false`.
    Boolean,
    /// Integers within 64 bits.
    Long,
    /// Other numbers that a double holds exactly.
    Double,
    /// Strings.
    String,
    /// Everything else, as JSON text: objects, arrays, numbers beyond long and double.
    Json,
}

impl SiblingKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Boolean, Self::Long, Self::Double, Self::String, Self::Json];

    /// The kind as it stands in names and docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Long => "long",
            Self::Double => "double",
            Self::String => "string",
            Self::Json => "json",
        }
    }

    /// The type of such a column.
    pub fn new_type(self) -> NewType {
        match self {
            Self::Boolean => NewType::Boolean,
            Self::Long => NewType::Long,
            Self::Double => NewType::Double,
            Self::String | Self::Json => NewType::String,
        }
    }
}

/// The doc of the sibling of field `id` for values of `kind`.
pub fn sibling_doc(id: i32, kind: SiblingKind) -> String {
    format!("{SIBLING_DOC}{id} kind={}", kind.as_str())
}

/// Reads a doc that [`sibling_doc`] wrote.
pub fn parse_sibling_doc(doc: &str) -> Option<(i32, SiblingKind)> {
    let (id, kind) = doc.strip_prefix(SIBLING_DOC)?.split_once(" kind=")?;
    let kind = SiblingKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    Some((id.parse().ok()?, kind))
}

/// A type that inference can wish for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewType {
    /// Iceberg `boolean`.
    Boolean,
    /// Iceberg `long`.
    Long,
    /// Iceberg `double`.
    Double,
    /// Iceberg `string`.
    String,
    /// Iceberg `binary`.
    Binary,
    /// A struct of optional fields.
    Struct(Vec<NewField>),
    /// A list of optional elements.
    List(Box<NewType>),
}

/// A field of a wished struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewField {
    /// Its name, as the first record spelled it.
    pub name: String,
    /// Its type.
    pub ty: NewType,
    /// Its doc.
    pub doc: Option<String>,
}

/// A column that records need and the schema lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewColumn {
    /// Field id of the struct, list element or map value it goes into; none is the top level.
    pub parent: Option<i32>,
    /// Its name, as the first record spelled it.
    pub name: String,
    /// Its type.
    pub ty: NewType,
    /// Its doc.
    pub doc: Option<String>,
}

impl NewType {
    /// How many Iceberg fields it makes, its own included.
    pub fn field_count(&self) -> usize {
        1 + match self {
            Self::Struct(fields) => fields.iter().map(|field| field.ty.field_count()).sum(),
            Self::List(element) => element.field_count(),
            _ => 0,
        }
    }

    /// The Iceberg type; field ids are counted up from `last_id`.
    fn assign(&self, last_id: &mut i32) -> Type {
        let primitive = match self {
            Self::Boolean => PrimitiveType::Boolean,
            Self::Long => PrimitiveType::Long,
            Self::Double => PrimitiveType::Double,
            Self::String => PrimitiveType::String,
            Self::Binary => PrimitiveType::Binary,
            Self::Struct(fields) => {
                let fields = fields
                    .iter()
                    .map(|field| new_field(&field.name, &field.ty, field.doc.as_deref(), last_id))
                    .collect();
                return Type::Struct(StructType::new(fields));
            }
            Self::List(element) => {
                *last_id += 1;
                let id = *last_id;
                let element = NestedField::list_element(id, element.assign(last_id), false);
                return Type::List(ListType::new(Arc::new(element)));
            }
        };
        Type::Primitive(primitive)
    }
}

fn new_field(name: &str, ty: &NewType, doc: Option<&str>, last_id: &mut i32) -> NestedFieldRef {
    *last_id += 1;
    let field = NestedField::optional(*last_id, name, ty.assign(last_id));
    Arc::new(match doc {
        Some(doc) => field.with_doc(doc),
        None => field,
    })
}

/// `schema` with the columns of `new` appended as optional fields, their ids counted up from
/// `last_column_id` (the table's, exclusive). What is there keeps id, type, order and doc.
///
/// # Errors
/// [`Error::NewColumn`] if a parent is not there or a name is taken (ignoring case).
pub fn apply(schema: &Schema, last_column_id: i32, new: &[NewColumn]) -> Result<Schema, Error> {
    let mut last_id = last_column_id.max(schema.highest_field_id());
    let mut placed = vec![false; new.len()];
    let mut change = Change { new, placed: &mut placed, last_id: &mut last_id };
    let fields = change.fields(None, schema.as_struct().fields())?;
    if let Some(at) = placed.iter().position(|placed| !placed) {
        let reason = "its parent is not in the schema";
        return Err(Error::NewColumn { name: new[at].name.clone(), reason });
    }
    let built = Schema::builder()
        .with_fields(fields)
        .with_schema_id(schema.schema_id())
        .with_identifier_field_ids(schema.identifier_field_ids())
        .build()?;
    Ok(built)
}

struct Change<'a> {
    new: &'a [NewColumn],
    placed: &'a mut [bool],
    last_id: &'a mut i32,
}

impl Change<'_> {
    fn fields(
        &mut self,
        parent: Option<i32>,
        old: &[NestedFieldRef],
    ) -> Result<Vec<NestedFieldRef>, Error> {
        let mut fields = Vec::with_capacity(old.len());
        for field in old {
            let mut changed = NestedField::clone(field);
            *changed.field_type = self.inner(field)?;
            fields.push(Arc::new(changed));
        }
        let mut names: std::collections::HashSet<String> =
            old.iter().map(|field| field.name.to_lowercase()).collect();
        for (at, column) in self.new.iter().enumerate() {
            if column.parent != parent {
                continue;
            }
            if !names.insert(column.name.to_lowercase()) {
                let reason = "the name is taken";
                return Err(Error::NewColumn { name: column.name.clone(), reason });
            }
            self.placed[at] = true;
            let doc = column.doc.as_deref();
            fields.push(new_field(&column.name, &column.ty, doc, self.last_id));
        }
        Ok(fields)
    }

    fn inner(&mut self, field: &NestedFieldRef) -> Result<Type, Error> {
        Ok(match &*field.field_type {
            Type::Primitive(primitive) => Type::Primitive(primitive.clone()),
            Type::Struct(inner) => {
                Type::Struct(StructType::new(self.fields(Some(field.id), inner.fields())?))
            }
            Type::List(list) => {
                let mut element = NestedField::clone(&list.element_field);
                *element.field_type = self.inner(&list.element_field)?;
                Type::List(ListType::new(Arc::new(element)))
            }
            Type::Map(map) => {
                let mut value = NestedField::clone(&map.value_field);
                *value.field_type = self.inner(&map.value_field)?;
                Type::Map(MapType::new(Arc::clone(&map.key_field), Arc::new(value)))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(parent: Option<i32>, name: &str, ty: NewType) -> NewColumn {
        NewColumn { parent, name: name.to_owned(), ty, doc: None }
    }

    fn base() -> Schema {
        let inner = StructType::new(vec![
            NestedField::optional(3, "a", Type::Primitive(PrimitiveType::Long)).into(),
        ]);
        let list = ListType::new(NestedField::list_element(5, Type::Struct(inner), false).into());
        Schema::builder()
            .with_schema_id(7)
            .with_fields(vec![
                NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long)).into(),
                NestedField::optional(2, "items", Type::List(list)).with_doc("kept").into(),
            ])
            .with_identifier_field_ids([1])
            .build()
            .unwrap()
    }

    #[test]
    fn columns_are_appended_with_fresh_ids_and_the_rest_is_untouched() {
        let point = NewType::Struct(vec![NewField {
            name: "x".to_owned(),
            ty: NewType::List(Box::new(NewType::Double)),
            doc: Some(MIXED_DOC.to_owned()),
        }]);
        let new = [column(Some(5), "b", NewType::String), column(None, "point", point)];
        let schema = apply(&base(), 20, &new).unwrap();
        let id = |name: &str| schema.field_id_by_name(name).unwrap();
        assert_eq!(
            [id("id"), id("items"), id("items.element"), id("items.element.a")],
            [1, 2, 5, 3]
        );
        assert_eq!(id("items.element.b"), 21);
        assert_eq!([id("point"), id("point.x"), id("point.x.element")], [22, 23, 24]);
        assert_eq!(schema.field_by_id(23).unwrap().doc.as_deref(), Some(MIXED_DOC));
        assert_eq!(schema.field_by_id(2).unwrap().doc.as_deref(), Some("kept"));
        assert_eq!(schema.identifier_field_ids().collect::<Vec<_>>(), [1]);
        assert!(!schema.field_by_id(21).unwrap().required);
    }

    #[test]
    fn unknown_parents_and_taken_names_are_refused() {
        let error = apply(&base(), 5, &[column(Some(99), "b", NewType::Long)]).unwrap_err();
        assert!(error.to_string().contains("parent"), "{error}");
        let error = apply(&base(), 5, &[column(None, "ID", NewType::Long)]).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
    }

    #[test]
    fn sibling_docs_round_trip() {
        for kind in SiblingKind::ALL {
            assert_eq!(parse_sibling_doc(&sibling_doc(42, kind)), Some((42, kind)));
        }
        for foreign in ["", "floe:mixed", "floe:sibling-of=x kind=long", "floe:sibling-of=1"] {
            assert_eq!(parse_sibling_doc(foreign), None);
        }
    }
}
