//! Rows of the dead-letter table: the system column, the raw value, and what is wrong.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::LargeBinaryArray;
use arrow_array::RecordBatch;
use arrow_array::StringArray;
use arrow_array::TimestampMicrosecondArray;
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::NestedField;
use iceberg::spec::PrimitiveType;
use iceberg::spec::Schema;
use iceberg::spec::Type;

use crate::tier::rows::Row;
use crate::tier::rows::RowsError;
use crate::tier::rows::assemble;
use crate::tier::rows::raw::push_system;
use crate::tier::rows::system;

/// Longest error text in bytes: it must never become a second copy of the payload.
const MESSAGE_LEN_MAX: usize = 1_024;

/// Codes of dead letters; the list is closed.
pub mod code {
    /// The batch or record cannot be taken apart.
    pub const DECODE: &str = "DECODE";
    /// Decoding or encoding it failed by a defect of ours (rules 4.9).
    pub const INTERNAL: &str = "INTERNAL";
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// One of the closed list of codes.
    pub code: String,
    /// Text without payload.
    pub message: String,
    /// Where in the value.
    pub field_path: Option<String>,
    /// `decode` or `encode`.
    pub stage: &'static str,
}

/// A record, or a whole batch that cannot be taken apart, with its fault.
#[derive(Debug, Clone)]
pub struct DeadLetter<'a> {
    /// The record; of a batch the first offset and the batch's bytes as value.
    pub row: Row<'a>,
    /// What is wrong.
    pub fault: Fault,
}

/// The schema of a dead-letter table.
///
/// # Errors
/// Iceberg's, which the fixed shape never meets.
pub fn schema() -> Result<Schema, iceberg::Error> {
    let mut next_id = 1;
    let floe = system::field(&mut next_id);
    let columns = [
        ("value", PrimitiveType::Binary),
        ("error_code", PrimitiveType::String),
        ("error_message", PrimitiveType::String),
        ("field_path", PrimitiveType::String),
        ("stage", PrimitiveType::String),
        ("target_table", PrimitiveType::String),
        ("failed_at", PrimitiveType::Timestamptz),
    ];
    let mut fields = vec![floe];
    for (name, kind) in columns {
        fields.push(Arc::new(NestedField::optional(next_id, name, Type::Primitive(kind))));
        next_id += 1;
    }
    Schema::builder().with_fields(fields).build()
}

/// Rows for the dead-letter table's own `schema`. `failed_ms` is wall-clock milliseconds.
///
/// # Errors
/// [`RowsError`] where a foreign schema change cannot take them.
pub fn encode(
    schema: &Arc<ArrowSchema>,
    letters: &[DeadLetter<'_>],
    target_table: &str,
    failed_ms: i64,
) -> Result<RecordBatch, RowsError> {
    let text = |of: &dyn Fn(&Fault) -> Option<String>| -> ArrayRef {
        Arc::new(StringArray::from_iter(letters.iter().map(|letter| of(&letter.fault))))
    };
    let values = LargeBinaryArray::from_iter(letters.iter().map(|letter| letter.row.value));
    let failed = vec![failed_ms.saturating_mul(1_000); letters.len()];
    let failed = TimestampMicrosecondArray::from(failed).with_timezone("+00:00");
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("value".to_owned(), Arc::new(values)),
        ("error_code".to_owned(), text(&|fault| Some(fault.code.clone()))),
        ("error_message".to_owned(), text(&|fault| Some(clip(&fault.message)))),
        ("field_path".to_owned(), text(&|fault| fault.field_path.as_deref().map(clip))),
        ("stage".to_owned(), text(&|fault| Some(fault.stage.to_owned()))),
        ("target_table".to_owned(), text(&|_| Some(target_table.to_owned()))),
        ("failed_at".to_owned(), Arc::new(failed)),
    ];
    let rows: Vec<_> = letters.iter().map(|letter| letter.row.clone()).collect();
    push_system(schema, &rows, &mut columns)?;
    assemble(schema, columns, letters.len())
}

fn clip(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;

    use crate::log::Origin;

    use super::*;

    #[test]
    fn messages_are_clipped_at_a_character() {
        let text = "é".repeat(600);
        assert_eq!(clip(&text).len(), 1_024);
        assert_eq!(clip(&format!("x{text}")).len(), 1_023);
        assert_eq!(clip("short"), "short");
    }

    #[test]
    fn letters_carry_the_raw_value_and_the_fault() {
        let arrow = iceberg::arrow::schema_to_arrow_schema(&schema().unwrap()).unwrap();
        let row = Row {
            partition: 0,
            offset: 3,
            timestamp_ms: 1,
            is_append_time: false,
            append_ms: 2,
            origin: Origin::Kafka,
            key: Some(b"k"),
            value: Some(b"\xff{"),
            headers: vec![],
        };
        let fault = Fault {
            code: "JSON_PARSE".to_owned(),
            message: "expected a value".to_owned(),
            field_path: Some("a.b".to_owned()),
            stage: "decode",
        };
        let letters = [DeadLetter { row, fault }];
        let batch = encode(&Arc::new(arrow), &letters, "streams.orders", 9).unwrap();
        let value = batch.column_by_name("value").unwrap().as_binary::<i64>();
        assert_eq!(value.value(0), b"\xff{");
        let code = batch.column_by_name("error_code").unwrap().as_string::<i32>();
        assert_eq!(code.value(0), "JSON_PARSE");
    }
}
