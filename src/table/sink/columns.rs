//! The leaf columns of a table's schema: which get metrics, and how each is encoded.

use std::collections::HashMap;

use iceberg::spec::{PrimitiveType, Schema, StructType, Type};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::SinkOptions;

/// Columns that get metrics, counted in schema order (Iceberg's default,
/// `write.metadata.metrics.max-inferred-column-defaults`).
const METRICS_COLUMNS_MAX: usize = 100;

/// A dictionary that grows beyond this is given up: the values do not repeat.
const DICTIONARY_BYTES_MAX: usize = 256 * 1024;

/// In the form that parquet-java parses (`VersionParser`): it ignores the statistics of strings in
/// files whose writer it cannot make out.
const CREATED_BY: &str = concat!("floe version ", env!("CARGO_PKG_VERSION"), " (build parquet-rs)");

/// A primitive column that is not inside a list or map.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) field_id: i32,
    pub(super) path: Vec<String>,
    pub(super) ty: PrimitiveType,
}

/// The primitive columns of `schema` outside of lists and maps, in schema order.
pub(super) fn columns(schema: &Schema) -> Vec<Column> {
    let mut found = Vec::new();
    walk(schema.as_struct(), &mut Vec::new(), &mut found);
    found
}

fn walk(fields: &StructType, path: &mut Vec<String>, found: &mut Vec<Column>) {
    for field in fields.fields() {
        path.push(field.name.clone());
        match field.field_type.as_ref() {
            Type::Primitive(ty) => {
                found.push(Column { field_id: field.id, path: path.clone(), ty: ty.clone() });
            }
            Type::Struct(inner) => walk(inner, path, found),
            Type::List(_) | Type::Map(_) => {}
        }
        path.pop();
    }
}

/// The columns that get counts and bounds, by field id.
pub(super) fn measured(columns: &[Column]) -> HashMap<i32, PrimitiveType> {
    columns.iter().take(METRICS_COLUMNS_MAX).map(|c| (c.field_id, c.ty.clone())).collect()
}

/// How the file is written. Memory is bounded by bytes, not rows: the whole open row group is
/// held encoded.
pub(super) fn writer_properties(
    columns: &[Column],
    options: &SinkOptions,
) -> Result<WriterProperties> {
    let metadata =
        options.footer.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_bytes(Some(options.row_group_bytes))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
        .set_created_by(CREATED_BY.to_owned())
        .set_key_value_metadata(Some(metadata.collect()));
    if let Some(rows) = options.row_group_rows {
        builder = builder.set_max_row_group_row_count(Some(rows));
    }
    for column in columns {
        let path = ColumnPath::from(column.path.clone());
        if matches!(column.ty, PrimitiveType::String | PrimitiveType::Binary) {
            // Page bounds of long texts cost more than they prune.
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::Chunk);
        }
        if is_unique_like(column) {
            builder = builder.set_column_dictionary_enabled(path.clone(), false);
            if options.delta_encoding && is_integer(&column.ty) {
                builder = builder.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
        }
    }
    Ok(builder.build())
}

/// Columns whose values hardly repeat: a dictionary would be built and thrown away.
fn is_unique_like(column: &Column) -> bool {
    match column.ty {
        PrimitiveType::Timestamp
        | PrimitiveType::Timestamptz
        | PrimitiveType::TimestampNs
        | PrimitiveType::TimestamptzNs
        | PrimitiveType::Uuid => true,
        PrimitiveType::Long | PrimitiveType::String | PrimitiveType::Binary => {
            let name = column.path.last().map_or("", String::as_str).to_ascii_lowercase();
            matches!(name.as_str(), "id" | "uuid" | "offset" | "__id__") || name.ends_with("_uuid")
        }
        _ => false,
    }
}

fn is_integer(ty: &PrimitiveType) -> bool {
    matches!(
        ty,
        PrimitiveType::Long
            | PrimitiveType::Timestamp
            | PrimitiveType::Timestamptz
            | PrimitiveType::TimestampNs
            | PrimitiveType::TimestamptzNs
    )
}
