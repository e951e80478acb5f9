//! The statement that makes a table of the columns of a mapping, for engines that speak Spark SQL
//! (Iceberg's documentation, "Spark type to Iceberg type"). Pure.

use std::fmt::Write;

use iceberg::spec::{PrimitiveType, Schema, Type};

/// `CREATE TABLE` of that name, part by part.
pub fn create_table(name: &[&str], schema: &Schema) -> String {
    let name: Vec<String> = name.iter().map(|part| quoted(part)).collect();
    let mut text = format!("CREATE TABLE {} (", name.join("."));
    for (index, field) in schema.as_struct().fields().iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let null = if field.required { " NOT NULL" } else { "" };
        let kind = spark_type(&field.field_type);
        let _ = write!(text, "{comma}\n  {} {kind}{null}", quoted(&field.name));
    }
    text.push_str("\n) USING iceberg");
    text
}

/// A name as Spark reads it whatever it is.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What Spark calls a type of a column; what it has none for is text, as it comes in JSON.
fn spark_type(kind: &Type) -> String {
    let Type::Primitive(kind) = kind else { return "STRING".to_owned() };
    let word = match kind {
        PrimitiveType::Boolean => "BOOLEAN",
        PrimitiveType::Int => "INT",
        PrimitiveType::Long => "BIGINT",
        PrimitiveType::Float => "FLOAT",
        PrimitiveType::Double => "DOUBLE",
        PrimitiveType::Decimal { precision, scale } => {
            return format!("DECIMAL({precision}, {scale})");
        }
        PrimitiveType::Date => "DATE",
        PrimitiveType::Timestamp => "TIMESTAMP_NTZ",
        PrimitiveType::Timestamptz => "TIMESTAMP",
        PrimitiveType::Binary | PrimitiveType::Fixed(_) => "BINARY",
        _ => "STRING",
    };
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use iceberg::spec::NestedField;

    use super::*;

    #[test]
    fn a_table_is_made_as_spark_says_it() {
        let decimal = PrimitiveType::Decimal { precision: 10, scale: 2 };
        let (long, time) = (PrimitiveType::Long, PrimitiveType::Timestamptz);
        let fields = vec![
            NestedField::required(1, "id", Type::Primitive(long)).into(),
            NestedField::optional(2, "a`b", Type::Primitive(decimal)).into(),
            NestedField::optional(3, "at", Type::Primitive(time)).into(),
        ];
        let schema = Schema::builder().with_fields(fields).build().unwrap();
        let wanted = "CREATE TABLE `floe`.`n`.`t` (\n  `id` BIGINT NOT NULL,\n  `a``b` DECIMAL(10, 2),\n  \
                      `at` TIMESTAMP\n) USING iceberg";
        assert_eq!(create_table(&["floe", "n", "t"], &schema), wanted);
    }
}
