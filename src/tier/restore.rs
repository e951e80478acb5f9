//! Columns of ours that a user took away come back (rules 5.1): what we write has a place again,
//! under a new field id, before any row is written.
//!
//! Pure. Owns: which fields are missing and the schema with them. Does not own: the commit
//! (`evolve`), columns that are made from values (`schema`).

use std::sync::Arc;

use iceberg::spec::ListType;
use iceberg::spec::NestedField;
use iceberg::spec::NestedFieldRef;
use iceberg::spec::Schema;
use iceberg::spec::StructType;
use iceberg::spec::Type;

/// `schema` with every field of `ours` that it lacks by name, at the top level and in structs;
/// ids are counted up from `last_column_id` (exclusive). None if it lacks nothing. A field of
/// ours with another type stays: whether values fit shows when rows are built.
///
/// # Errors
/// Iceberg's, where the names of the user's columns clash with ours.
pub(super) fn restore(
    schema: &Schema,
    last_column_id: i32,
    ours: &Schema,
) -> Result<Option<Schema>, iceberg::Error> {
    let mut ids = Ids { last: last_column_id.max(schema.highest_field_id()), added: false };
    let fields = ids.fields(schema.as_struct().fields(), ours.as_struct().fields());
    if !ids.added {
        return Ok(None);
    }
    let built = Schema::builder()
        .with_fields(fields)
        .with_schema_id(schema.schema_id())
        .with_identifier_field_ids(schema.identifier_field_ids())
        .build()?;
    Ok(Some(built))
}

struct Ids {
    last: i32,
    added: bool,
}

impl Ids {
    fn fields(
        &mut self,
        theirs: &[NestedFieldRef],
        ours: &[NestedFieldRef],
    ) -> Vec<NestedFieldRef> {
        let mut fields = theirs.to_vec();
        for own in ours {
            let Some(found) = fields.iter_mut().find(|field| field.name == own.name) else {
                self.added = true;
                fields.push(self.fresh(own));
                continue;
            };
            if let (Type::Struct(is), Type::Struct(wanted)) = (&*found.field_type, &*own.field_type)
            {
                let inner = self.fields(is.fields(), wanted.fields());
                let mut changed = NestedField::clone(found);
                *changed.field_type = Type::Struct(StructType::new(inner));
                *found = Arc::new(changed);
            }
        }
        fields
    }

    fn fresh(&mut self, own: &NestedFieldRef) -> NestedFieldRef {
        self.last += 1;
        let mut field = NestedField::clone(own);
        field.id = self.last;
        *field.field_type = match &*own.field_type {
            Type::Struct(inner) => {
                let fields = inner.fields().iter().map(|field| self.fresh(field)).collect();
                Type::Struct(StructType::new(fields))
            }
            Type::List(list) => Type::List(ListType::new(self.fresh(&list.element_field))),
            other => other.clone(),
        };
        Arc::new(field)
    }
}

#[cfg(test)]
mod tests {
    use iceberg::spec::PrimitiveType;

    use crate::tier::rows::raw;

    use super::*;

    fn without(schema: &Schema, names: &[&str]) -> Schema {
        let keep = |field: &&NestedFieldRef| !names.contains(&field.name.as_str());
        let fields: Vec<_> = schema
            .as_struct()
            .fields()
            .iter()
            .filter(keep)
            .map(|field| {
                let mut field = NestedField::clone(field);
                if let Type::Struct(inner) = &*field.field_type {
                    let inner = inner.fields().iter().filter(keep).cloned().collect();
                    *field.field_type = Type::Struct(StructType::new(inner));
                }
                Arc::new(field)
            })
            .collect();
        Schema::builder().with_fields(fields).build().unwrap()
    }

    #[test]
    fn a_whole_schema_lacks_nothing() {
        let ours = raw::schema().unwrap();
        assert!(restore(&ours, 50, &ours).unwrap().is_none());
    }

    #[test]
    fn what_is_gone_comes_back_with_fresh_ids() {
        let ours = raw::schema().unwrap();
        let theirs = without(&ours, &["value", "offset"]);
        let restored = restore(&theirs, 50, &ours).unwrap().unwrap();
        let names = |schema: &Schema| {
            let mut names: Vec<_> = schema.field_id_to_name_map().values().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(names(&restored), names(&ours));
        assert_eq!(restored.field_id_by_name("floe.offset"), Some(51));
        assert_eq!(restored.field_id_by_name("value"), Some(52));
        let key = ours.field_id_by_name("key");
        assert_eq!(restored.field_id_by_name("key"), key, "what is there keeps its id");
        let without_system = without(&ours, &["floe"]);
        let restored = restore(&without_system, 50, &ours).unwrap().unwrap();
        assert_eq!(names(&restored), names(&ours));
    }

    #[test]
    fn a_field_of_another_type_stays_as_it_is() {
        let ours = raw::schema().unwrap();
        let mut fields = without(&ours, &["value"]).as_struct().fields().to_vec();
        let text = Type::Primitive(PrimitiveType::String);
        fields.push(Arc::new(NestedField::optional(99, "value", text)));
        let theirs = Schema::builder().with_fields(fields).build().unwrap();
        assert!(restore(&theirs, 99, &ours).unwrap().is_none());
    }
}
