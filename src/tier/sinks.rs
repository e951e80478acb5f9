//! What tiering knows of sinks: their status, and whether a wish for one can work.

use iceberg::NamespaceIdent;
use iceberg::TableIdent;
use iceberg::spec::PrimitiveType;
use iceberg::spec::Schema;
use iceberg::spec::Type;
use uuid::Uuid;

use crate::sink::Mapping;
use crate::sink::TableName;
use crate::table::catalog;
use crate::table::commit::marker::Writer;
use crate::tier::Tiering;
use crate::tier::naming;
use crate::tier::status::TableStatus;
use crate::types::SinkUid;
use crate::types::TopicId;

/// Why a sink cannot be as somebody wishes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkRefused {
    /// Others write to the table.
    #[error("table {table} {whose}: a sink makes a table of its own")]
    Taken {
        /// `namespace.name`.
        table: String,
        /// Whose it is.
        whose: String,
    },
    /// The table has a column of another type.
    #[error(
        "column {column:?} is {found} in the table and {wanted} in the mapping: give it another name"
    )]
    Type {
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// The type that the mapping wants.
        wanted: String,
    },
    /// The catalog could not be asked.
    #[error("catalog: {0}")]
    Catalog(String),
}

impl Tiering {
    /// The table of a sink; none until its worker has started.
    pub fn sink(&self, topic_id: TopicId, uid: SinkUid) -> Option<TableStatus> {
        // One that was made a moment ago may have no worker yet.
        self.supervisor.look();
        self.supervisor.status(Writer { topic_id, sink: Some(uid) })
    }

    /// The UUID of the table that a topic or a sink writes to, once it is made. Blocks for microseconds.
    ///
    /// # Errors
    /// What the ledger says.
    pub fn table_uuid(&self, writer: Writer) -> Result<Option<Uuid>, String> {
        let entry = self.supervisor.ledger().load(writer).map_err(|error| error.to_string())?;
        Ok(entry.and_then(|(entry, _)| entry.table).map(|table| table.uuid))
    }

    /// Checks that nobody else has the table of a new sink, as far as can be seen now. Who takes it
    /// later makes the sink wait.
    ///
    /// # Errors
    /// [`SinkRefused::Taken`], [`SinkRefused::Catalog`].
    pub async fn check_new_sink(&self, table: &TableName) -> Result<(), SinkRefused> {
        let name = table.display();
        let taken = |whose: String| SinkRefused::Taken { table: name.clone(), whose };
        for status in self.supervisor.statuses().into_iter().filter(TableStatus::has_table) {
            let letters = naming::dlq_name(&status.table);
            let letters = status.dead_letter_table.as_ref().unwrap_or(&letters);
            if [&status.table, letters].iter().any(|other| other.eq_ignore_ascii_case(&name)) {
                return Err(taken(format!("belongs to topic {:?}", status.topic)));
            }
        }
        let ident = ident(table)?;
        let listed = self.supervisor.catalog().list(ident.namespace()).await;
        let idents = match listed {
            Ok(idents) => idents,
            Err(catalog::Error::NoSuchNamespace(_)) => return Ok(()),
            Err(error) => return Err(SinkRefused::Catalog(error.to_string())),
        };
        let names: Vec<String> = idents.iter().map(|ident| ident.name().to_owned()).collect();
        match naming::is_taken(ident.name(), &names) {
            true => Err(taken("is there already".to_owned())),
            false => Ok(()),
        }
    }

    /// Checks that the table of a sink takes what another mapping gives.
    ///
    /// # Errors
    /// [`SinkRefused::Type`], [`SinkRefused::Catalog`].
    pub async fn check_new_mapping(
        &self,
        (topic_id, uid): (TopicId, SinkUid),
        mapping: &Mapping,
    ) -> Result<(), SinkRefused> {
        let failed = |error: &dyn std::fmt::Display| SinkRefused::Catalog(error.to_string());
        let writer = Writer { topic_id, sink: Some(uid) };
        let entry = self.supervisor.ledger().load(writer).map_err(|error| failed(&error))?;
        let Some(table) = entry.and_then(|(entry, _)| entry.table) else { return Ok(()) };
        let ident = table.ident().map_err(|error| failed(&error))?;
        match self.supervisor.catalog().load(&ident).await {
            // What became of it shows in the sink's state.
            Err(catalog::Error::NoSuchTable(_) | catalog::Error::NoSuchNamespace(_)) => Ok(()),
            Err(error) => Err(failed(&error)),
            Ok(loaded) => check_types(loaded.metadata.current_schema(), &mapping.schema()),
        }
    }
}

fn ident(table: &TableName) -> Result<TableIdent, SinkRefused> {
    let levels = table.namespace.split('.').map(str::to_owned).collect();
    let namespace = NamespaceIdent::from_vec(levels)
        .map_err(|error| SinkRefused::Catalog(error.to_string()))?;
    Ok(TableIdent::new(namespace, table.name.clone()))
}

fn check_types(table: &Schema, mapping: &Schema) -> Result<(), SinkRefused> {
    for wanted in mapping.as_struct().fields() {
        let Some(found) = table.field_by_name(&wanted.name) else { continue };
        if !takes(&found.field_type, &wanted.field_type) {
            return Err(SinkRefused::Type {
                column: wanted.name.clone(),
                found: found.field_type.to_string(),
                wanted: wanted.field_type.to_string(),
            });
        }
    }
    Ok(())
}

/// True if a column of the type `found` takes values of the type `wanted`.
fn takes(found: &Type, wanted: &Type) -> bool {
    use PrimitiveType::{Double, Float, Int, Long};
    let widens = matches!(
        (found, wanted),
        (Type::Primitive(Long), Type::Primitive(Int))
            | (Type::Primitive(Double), Type::Primitive(Float))
    );
    found == wanted || widens
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::tier::rows::mapped;

    use super::*;

    fn mapping(kind: &str) -> Mapping {
        let column = json!({"type": "path", "name": "n", "path": "n", "dataType": kind});
        Mapping::parse(&json!({ "columns": [column] })).unwrap()
    }

    #[test]
    fn a_column_keeps_its_type_or_takes_a_narrower_one() {
        for (table, wanted, fits) in [
            ("long", "long", true),
            ("long", "int", true),
            ("double", "float", true),
            ("int", "long", false),
            ("string", "long", false),
            ("long", "string", false),
        ] {
            let table_schema = mapped::schema(&mapping(table)).unwrap();
            let checked = check_types(&table_schema, &mapping(wanted).schema());
            assert_eq!(checked.is_ok(), fits, "{table} {wanted}: {checked:?}");
        }
        let other = json!({"type": "path", "name": "m", "path": "m", "dataType": "date"});
        let other = Mapping::parse(&json!({ "columns": [other] })).unwrap();
        let table_schema = mapped::schema(&mapping("long")).unwrap();
        assert_eq!(check_types(&table_schema, &other.schema()), Ok(()));
    }
}
