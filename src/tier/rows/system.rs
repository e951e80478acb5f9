//! The system column `floe` (rules 5.1): where each row came from.
//!
//! ```text
//! floe struct<
//!   partition int, offset long,
//!   timestamp timestamptz,       record timestamp in microseconds
//!   timestamp_type int,          0 create time, 1 append time
//!   append_time timestamptz,     the broker's clock
//!   headers list<struct<key string, value binary>>,   order and duplicates kept, empty is null
//!   key binary, id string, write_id string, schema_id int>
//! ```
//!
//! All fields are optional and always written by us, `id` and `write_id` only for HTTP events.
//! -1 is "no timestamp" (source: `RecordBatch.NO_TIMESTAMP`). It, and what microseconds cannot
//! hold (beyond about 292,000 years from 1970), is replaced by the append time with type 1; all
//! else is written as it came, times before 1970 too. A header key that is not UTF-8 is written as `floe.hex:` and its bytes in hex.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::Int32Array;
use arrow_array::Int64Array;
use arrow_array::LargeBinaryArray;
use arrow_array::ListArray;
use arrow_array::StringArray;
use arrow_array::StructArray;
use arrow_array::TimestampMicrosecondArray;
use arrow_buffer::NullBuffer;
use arrow_buffer::OffsetBuffer;
use arrow_schema::DataType;
use arrow_schema::Field;
use arrow_schema::Fields;
use iceberg::spec::ListType;
use iceberg::spec::NestedField;
use iceberg::spec::NestedFieldRef;
use iceberg::spec::PrimitiveType;
use iceberg::spec::StructType;
use iceberg::spec::Type;

use crate::log::Origin;
use crate::tier::rows::HEADER_ID;
use crate::tier::rows::HEADER_SIGNAL;
use crate::tier::rows::HEADER_WRITE_ID;
use crate::tier::rows::HEADERS_OWN;
use crate::tier::rows::Header;
use crate::tier::rows::Row;
use crate::tier::rows::RowsError;
use crate::tier::rows::fit;
use crate::types::Signal;

/// Name of the system column.
pub const NAME: &str = "floe";

/// Name of its field for when the broker took the record.
pub const APPEND_TIME: &str = "append_time";

/// How a header key that is not UTF-8 begins.
const HEX_KEY: &str = "floe.hex:";

/// The column as Iceberg has it; field ids count up from `*next_id`.
pub fn field(next_id: &mut i32) -> NestedFieldRef {
    let mut id = || {
        let id = *next_id;
        *next_id += 1;
        id
    };
    let own = id();
    let mut optional = |name: &str, kind: PrimitiveType| {
        Arc::new(NestedField::optional(id(), name, Type::Primitive(kind)))
    };
    let mut fields = vec![
        optional("partition", PrimitiveType::Int),
        optional("offset", PrimitiveType::Long),
        optional("timestamp", PrimitiveType::Timestamptz),
        optional("timestamp_type", PrimitiveType::Int),
        optional(APPEND_TIME, PrimitiveType::Timestamptz),
    ];
    let key = optional("key", PrimitiveType::String);
    let value = optional("value", PrimitiveType::Binary);
    let tail = [
        optional("key", PrimitiveType::Binary),
        optional("id", PrimitiveType::String),
        optional("write_id", PrimitiveType::String),
        optional("schema_id", PrimitiveType::Int),
    ];
    let element = Type::Struct(StructType::new(vec![key, value]));
    let list = ListType::new(Arc::new(NestedField::list_element(id(), element, false)));
    fields.push(Arc::new(NestedField::optional(id(), "headers", Type::List(list))));
    fields.extend(tail);
    Arc::new(NestedField::optional(own, NAME, Type::Struct(StructType::new(fields))))
}

/// The record's time in microseconds and its type (0 create, 1 append).
pub fn timestamp(row: &Row<'_>) -> (i64, i32) {
    let append_us = row.append_ms.saturating_mul(1_000);
    match row.timestamp_ms.checked_mul(1_000) {
        Some(us) if row.timestamp_ms != -1 => (us, i32::from(row.is_append_time)),
        _ => (append_us, 1),
    }
}

/// The value of a header that counts only for HTTP events.
pub(super) fn own_header<'a>(row: &Row<'a>, name: &[u8]) -> Option<&'a str> {
    if row.origin != Origin::Http {
        return None;
    }
    let (_, value) = row.headers.iter().find(|(key, _)| *key == name)?;
    std::str::from_utf8((*value)?).ok()
}

/// The signal of a record that a source of OpenTelemetry's took.
pub fn signal(row: &Row<'_>) -> Option<Signal> {
    own_header(row, HEADER_SIGNAL).and_then(Signal::parse)
}

/// The headers that are the user's.
pub(super) fn user_headers<'r, 'a>(row: &'r Row<'a>) -> impl Iterator<Item = &'r Header<'a>> {
    let http = row.origin == Origin::Http;
    row.headers.iter().filter(move |(key, _)| !http || !HEADERS_OWN.contains(key))
}

/// Builds the system column for the table's own `field`.
///
/// # Errors
/// [`RowsError`] where a foreign schema change cannot take our values.
pub fn build(field: &Field, rows: &[Row<'_>]) -> Result<ArrayRef, RowsError> {
    let DataType::Struct(children) = field.data_type() else {
        return Err(RowsError::Type {
            column: NAME.to_owned(),
            found: field.data_type().to_string(),
            ours: "struct".to_owned(),
        });
    };
    let arrays: Result<Vec<_>, _> = children.iter().map(|child| self::child(child, rows)).collect();
    Ok(Arc::new(StructArray::try_new(children.clone(), arrays?, None)?))
}

fn child(field: &Field, rows: &[Row<'_>]) -> Result<ArrayRef, RowsError> {
    let times = |values: Vec<i64>| TimestampMicrosecondArray::from(values).with_timezone("+00:00");
    let array: ArrayRef = match field.name().as_str() {
        "partition" => Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.partition))),
        "offset" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.offset))),
        "timestamp" => Arc::new(times(rows.iter().map(|row| timestamp(row).0).collect())),
        "timestamp_type" => {
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| timestamp(row).1)))
        }
        APPEND_TIME => {
            let of = |row: &Row<'_>| row.append_ms.saturating_mul(1_000);
            Arc::new(times(rows.iter().map(of).collect()))
        }
        "headers" => return headers(field, rows),
        "key" => Arc::new(LargeBinaryArray::from_iter(rows.iter().map(|row| row.key))),
        "id" => Arc::new(StringArray::from_iter(rows.iter().map(|row| own_header(row, HEADER_ID)))),
        "write_id" => {
            let of = |row: &Row<'_>| own_header(row, HEADER_WRITE_ID).map(str::to_owned);
            Arc::new(StringArray::from_iter(rows.iter().map(of)))
        }
        _ => return fit(field, None, rows.len()),
    };
    fit(field, Some(&array), rows.len())
}

fn headers(field: &Field, rows: &[Row<'_>]) -> Result<ArrayRef, RowsError> {
    let mismatch = || RowsError::Type {
        column: format!("{NAME}.headers"),
        found: field.data_type().to_string(),
        ours: "list<struct<key string, value binary>>".to_owned(),
    };
    let DataType::List(element) = field.data_type() else {
        return Err(mismatch());
    };
    let DataType::Struct(parts) = element.data_type() else {
        return Err(mismatch());
    };
    let all: Vec<&Header<'_>> = rows.iter().flat_map(user_headers).collect();
    let lengths: Vec<usize> = rows.iter().map(|row| user_headers(row).count()).collect();
    let valid = NullBuffer::from(lengths.iter().map(|length| *length > 0).collect::<Vec<_>>());
    let parts = header_parts(parts, &all)?;
    let list = ListArray::try_new(
        Arc::clone(element),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(parts),
        Some(valid),
    )?;
    Ok(Arc::new(list))
}

fn header_parts(parts: &Fields, all: &[&Header<'_>]) -> Result<StructArray, RowsError> {
    let mut arrays = Vec::with_capacity(parts.len());
    for part in parts {
        let array: Option<ArrayRef> = match part.name().as_str() {
            "key" => {
                let keys = all.iter().map(|(key, _)| header_key(key));
                Some(Arc::new(StringArray::from_iter_values(keys)))
            }
            "value" => {
                Some(Arc::new(LargeBinaryArray::from_iter(all.iter().map(|(_, value)| *value))))
            }
            _ => None,
        };
        arrays.push(fit(part, array.as_ref(), all.len())?);
    }
    if parts.is_empty() {
        return Ok(StructArray::new_empty_fields(all.len(), None));
    }
    Ok(StructArray::try_new(parts.clone(), arrays, None)?)
}

fn header_key(key: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(key) {
        Ok(text) => text.into(),
        Err(_) => format!("{HEX_KEY}{}", hex::encode(key)).into(),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int32Type;
    use arrow_array::types::TimestampMicrosecondType;
    use iceberg::spec::Schema;

    use super::*;

    fn arrow_field() -> Field {
        let schema = Schema::builder().with_fields([field(&mut 1)]).build().unwrap();
        let arrow = iceberg::arrow::schema_to_arrow_schema(&schema).unwrap();
        arrow.field(0).clone()
    }

    fn row(timestamp_ms: i64, origin: Origin) -> Row<'static> {
        Row {
            partition: 2,
            offset: 9,
            timestamp_ms,
            is_append_time: false,
            append_ms: 5_000,
            origin,
            key: None,
            value: None,
            headers: vec![],
        }
    }

    #[test]
    fn field_ids_are_unique_and_the_shape_is_the_documented_one() {
        let mut next = 1;
        let Type::Struct(shape) = field(&mut next).field_type.as_ref().clone() else {
            panic!("not a struct");
        };
        assert_eq!(next, 15);
        let names: Vec<_> = shape.fields().iter().map(|one| one.name.clone()).collect();
        let expected = "partition offset timestamp timestamp_type append_time headers key id \
                        write_id schema_id";
        assert_eq!(names.join(" "), expected);
        assert!(shape.fields().iter().all(|one| !one.required));
        assert!(Schema::builder().with_fields([field(&mut 1)]).build().is_ok());
    }

    #[test]
    fn only_timestamps_that_say_nothing_or_do_not_fit_become_the_append_time() {
        let cases = [
            (0, (0, 0)),
            (1_234, (1_234_000, 0)),
            (-1, (5_000_000, 1)),
            (-2, (-2_000, 0)),
            (-62_135_596_800_000, (-62_135_596_800_000_000, 0)),
            (253_402_300_800_000, (253_402_300_800_000_000, 0)),
            (i64::MAX / 1_000, (i64::MAX / 1_000 * 1_000, 0)),
            (i64::MAX / 1_000 + 1, (5_000_000, 1)),
            (i64::MIN, (5_000_000, 1)),
            (i64::MAX, (5_000_000, 1)),
        ];
        for (timestamp_ms, expected) in cases {
            assert_eq!(timestamp(&row(timestamp_ms, Origin::Kafka)), expected, "{timestamp_ms}");
        }
        let broker = Row { is_append_time: true, ..row(7, Origin::Kafka) };
        assert_eq!(timestamp(&broker), (7_000, 1));
    }

    #[test]
    fn headers_keep_order_duplicates_and_nulls() {
        let headers: Vec<Header<'_>> = vec![
            (b"a", Some(b"1")),
            (b"a", None),
            (b"\xff", Some(b"")),
            (HEADER_ID, Some(b"id-1")),
        ];
        let rows = [
            Row { headers: headers.clone(), ..row(1, Origin::Kafka) },
            Row { headers, ..row(1, Origin::Http) },
            row(1, Origin::Http),
        ];
        let built = build(&arrow_field(), &rows).unwrap();
        let built = built.as_struct();
        let lists = built.column_by_name("headers").unwrap().as_list::<i32>();
        let keys = |index: usize| {
            let value = lists.value(index);
            let keys = value.as_struct().column_by_name("key").unwrap().clone();
            keys.as_string::<i32>().iter().map(|key| key.unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(keys(0), ["a", "a", "floe.hex:ff", "floe.id"], "kafka keeps floe.id");
        assert_eq!(keys(1), ["a", "a", "floe.hex:ff"]);
        assert!(lists.is_null(2), "empty is null");
        let first = lists.value(0);
        let values = first.as_struct().column_by_name("value").unwrap().clone();
        assert_eq!((values.is_null(1), values.is_null(2)), (true, false));
        let ids = built.column_by_name("id").unwrap().as_string::<i32>();
        assert_eq!((ids.is_null(0), ids.value(1)), (true, "id-1"));
        let partitions = built.column_by_name("partition").unwrap();
        assert_eq!(partitions.as_primitive::<Int32Type>().value(0), 2);
        let times = built.column_by_name("append_time").unwrap();
        assert_eq!(times.as_primitive::<TimestampMicrosecondType>().value(0), 5_000_000);
    }
}
