//! The values that the embedded catalog keeps in the store: versioned JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::table::catalog::Error;

const VERSION: u8 = 1;

/// Where a table's metadata lies: the pointer that a commit moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableRecord {
    /// Absolute URI of the current metadata file.
    pub(super) metadata_location: String,
    /// The one before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<String>,
    /// The table's UUID; unique in the catalog.
    pub(super) uuid: Uuid,
    /// Absolute URI of the table's folder.
    pub(super) location: String,
    /// When the table was created or registered here, in milliseconds since 1970.
    pub(super) created: i64,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamespaceRecord {
    /// Its properties.
    pub(super) properties: BTreeMap<String, String>,
    /// When it was created, in milliseconds since 1970.
    pub(super) created: i64,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u8,
    #[serde(flatten)]
    value: T,
}

/// The bytes of a record.
///
/// # Errors
/// [`Error::Invalid`] if it has no JSON form (it always has one).
pub(super) fn encode<T: Serialize>(value: T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(&Versioned { v: VERSION, value })
        .map_err(|error| Error::Invalid(format!("a catalog record has no JSON form: {error}")))
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Error::Storage`] for other bytes and for other versions.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let versioned: Versioned<T> = serde_json::from_slice(bytes)
        .map_err(|error| Error::Storage(format!("a catalog record is unreadable: {error}")))?;
    if versioned.v != VERSION {
        return Err(Error::Storage(format!(
            "a catalog record has version {}, this program knows {VERSION}",
            versioned.v
        )));
    }
    Ok(versioned.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_other_versions_are_refused() {
        let record = TableRecord {
            metadata_location: "file:///w/t/metadata/00001-x.metadata.json".into(),
            previous: None,
            uuid: Uuid::nil(),
            location: "file:///w/t".into(),
            created: 7,
        };
        let bytes = encode(record.clone()).unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"v":1,"metadata_location":"file:///w/t/metadata/00001-x.metadata.json","#
                .to_owned()
                + r#""uuid":"00000000-0000-0000-0000-000000000000","location":"file:///w/t","created":7}"#
        );
        assert_eq!(decode::<TableRecord>(&bytes).unwrap(), record);
        let other = String::from_utf8(bytes).unwrap().replace("\"v\":1", "\"v\":2");
        assert!(decode::<TableRecord>(other.as_bytes()).is_err());
        assert!(decode::<NamespaceRecord>(b"{").is_err());
    }
}
