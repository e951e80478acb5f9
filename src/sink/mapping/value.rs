//! A cell as users see it.

use arrow_array::Array;
use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::types::Float64Type;
use arrow_array::types::Int32Type;
use arrow_array::types::Int64Type;
use arrow_array::types::TimestampMicrosecondType;
use arrow_cast::display::ArrayFormatter;
use arrow_cast::display::FormatOptions;
use arrow_schema::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use serde_json::Value;
use uuid::Uuid;

/// The first cell: null, a number or a boolean where the column has them, else text; times with as
/// many digits as they need, at least milliseconds.
pub(super) fn first(array: &ArrayRef) -> Value {
    if array.is_empty() || array.is_null(0) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(0).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(0).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(0).into(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(0).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(0).into(),
        DataType::Utf8 => array.as_string::<i32>().value(0).into(),
        DataType::LargeBinary => STANDARD.encode(array.as_binary::<i64>().value(0)).into(),
        DataType::FixedSizeBinary(16) => {
            let id = Uuid::from_slice(array.as_fixed_size_binary().value(0));
            id.map_or(Value::Null, |id| id.to_string().into())
        }
        DataType::Timestamp(_, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(0);
            timestamp(micros, zone.is_some())
        }
        _ => formatted(array),
    }
}

fn timestamp(micros: i64, zoned: bool) -> Value {
    let Some(time) = DateTime::from_timestamp_micros(micros) else {
        return micros.into();
    };
    let digits = if micros % 1_000 == 0 { "%.3f" } else { "%.6f" };
    let zone = if zoned { "Z" } else { "" };
    time.format(&format!("%Y-%m-%dT%H:%M:%S{digits}{zone}")).to_string().into()
}

fn formatted(array: &ArrayRef) -> Value {
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::default());
    formatter.map_or(Value::Null, |formatter| formatter.value(0).to_string().into())
}
