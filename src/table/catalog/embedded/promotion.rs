//! Which changes of a column's type Iceberg allows (Iceberg spec, "Schema Evolution"). Pure: the
//! metadata builder of the `iceberg` crate checks none of it, and a table with an illegal change
//! can no longer be read.

use iceberg::spec::{FormatVersion, PrimitiveType, Schema, TableMetadata, Type};

/// Checks that the data files of `base` can be read with `schema`: a column keeps its type or
/// gets a wider one. A table without snapshots has no data files.
///
/// # Errors
/// Names the column and both types.
pub(super) fn check_evolution(base: &TableMetadata, schema: &Schema) -> Result<(), String> {
    if base.snapshots().len() == 0 {
        return Ok(());
    }
    for (id, field) in schema.field_id_to_fields() {
        let Some(before) = last_type(base, *id) else {
            continue;
        };
        if !is_promotion(before, &field.field_type, base.format_version()) {
            let name = schema.name_by_field_id(*id).unwrap_or(&field.name);
            return Err(format!(
                "column {name} (id {id}) cannot change its type from {before} to {}",
                field.field_type
            ));
        }
    }
    Ok(())
}

/// The type of a column now, or when it was dropped.
fn last_type(base: &TableMetadata, id: i32) -> Option<&Type> {
    if let Some(field) = base.current_schema().field_by_id(id) {
        return Some(&field.field_type);
    }
    let newest = base
        .schemas_iter()
        .filter(|schema| schema.field_by_id(id).is_some())
        .max_by_key(|schema| schema.schema_id())?;
    newest.field_by_id(id).map(|field| &*field.field_type)
}

fn is_promotion(before: &Type, after: &Type, version: FormatVersion) -> bool {
    match (before, after) {
        (Type::Primitive(before), Type::Primitive(after)) => {
            before == after || is_primitive_promotion(before, after, version)
        }
        // What is inside has ids of its own and is compared by them.
        (Type::Struct(_), Type::Struct(_))
        | (Type::List(_), Type::List(_))
        | (Type::Map(_), Type::Map(_)) => true,
        _ => false,
    }
}

fn is_primitive_promotion(
    before: &PrimitiveType,
    after: &PrimitiveType,
    version: FormatVersion,
) -> bool {
    match (before, after) {
        (PrimitiveType::Int, PrimitiveType::Long)
        | (PrimitiveType::Float, PrimitiveType::Double) => true,
        (
            PrimitiveType::Decimal { precision: before, scale: old_scale },
            PrimitiveType::Decimal { precision: after, scale: new_scale },
        ) => old_scale == new_scale && before <= after,
        (PrimitiveType::Date, PrimitiveType::Timestamp | PrimitiveType::TimestampNs) => {
            version >= FormatVersion::V3
        }
        _ => false,
    }
}

/// Checks that a table of `version` may have the types of `schema`.
///
/// # Errors
/// Names the column, its type and the version.
pub(super) fn check_types(version: FormatVersion, schema: &Schema) -> Result<(), String> {
    if version >= FormatVersion::V3 {
        return Ok(());
    }
    for field in schema.field_id_to_fields().values() {
        let nanoseconds = matches!(
            &*field.field_type,
            Type::Primitive(PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs)
        );
        if nanoseconds {
            return Err(format!(
                "column {} has type {}, which needs format version 3; the table has {}",
                field.name, field.field_type, version as u8
            ));
        }
        if field.initial_default.is_some() {
            return Err(format!(
                "column {} has an initial default, which needs format version 3; the table has {}",
                field.name, version as u8
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceberg::spec::PrimitiveType as P;

    #[test]
    fn only_the_promotions_of_the_specification_are_legal() {
        let decimal = |precision, scale| P::Decimal { precision, scale };
        let legal = [
            (P::Int, P::Long),
            (P::Float, P::Double),
            (decimal(9, 2), decimal(18, 2)),
            (P::String, P::String),
        ];
        let illegal = [
            (P::Long, P::Int),
            (P::Long, P::Double),
            (P::Int, P::Double),
            (P::Double, P::Float),
            (P::Long, P::String),
            (P::String, P::Binary),
            (P::Date, P::Timestamp),
            (P::Timestamp, P::Timestamptz),
            (P::Fixed(4), P::Fixed(8)),
            (decimal(9, 2), decimal(18, 3)),
            (decimal(18, 2), decimal(9, 2)),
        ];
        let allowed = |(before, after): &(P, P), version| {
            let types = (Type::Primitive(before.clone()), Type::Primitive(after.clone()));
            is_promotion(&types.0, &types.1, version)
        };
        for pair in &legal {
            assert!(allowed(pair, FormatVersion::V2), "{pair:?}");
        }
        for pair in &illegal {
            assert!(!allowed(pair, FormatVersion::V2), "{pair:?}");
        }
        assert!(allowed(&(P::Date, P::Timestamp), FormatVersion::V3));
        assert!(!allowed(&(P::Date, P::Timestamptz), FormatVersion::V3));
    }
}
