//! Where key, time and headers of events over HTTP are, if their senders do not say.
//!
//! Owns: the options' values as they are used. Does not own: which values are legal (`option_value`),
//! finding things in events (`http`).

use crate::topic::option_value::{header_pair, list};

/// `topic.key.field`, `topic.timestamp.field`, `topic.header.fields`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFields {
    /// Where the key is.
    pub key: Option<KeyField>,
    /// Path of the time, with `$.`.
    pub timestamp: Option<String>,
    /// Names of record headers, and the paths of their values, with `$.`.
    pub headers: Vec<(String, String)>,
}

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyField {
    /// At a path in the event, with `$.`.
    Path(String),
    /// In the record header of that name.
    Header(String),
}

impl EventFields {
    /// What checked options say.
    pub(super) fn read<'v>(value: impl Fn(&str) -> &'v str) -> Self {
        let said = |key: &str| Some(value(key).trim().to_owned()).filter(|it| !it.is_empty());
        let key = said("topic.key.field").map(|field| match field.starts_with("$.") {
            true => KeyField::Path(field),
            false => KeyField::Header(field),
        });
        let pairs = list(value("topic.header.fields")).filter_map(header_pair);
        let headers = pairs.map(|(name, path)| (name.to_owned(), path.to_owned())).collect();
        Self { key, timestamp: said("topic.timestamp.field"), headers }
    }

    /// True if nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::option_def::Kind;
    use crate::topic::option_value::check;

    #[test]
    fn fields_are_paths_and_a_key_may_be_a_header() {
        let read = |key: &'static str, text: &'static str| {
            EventFields::read(move |asked| if asked == key { text } else { "" })
        };
        assert!(read("", "").is_empty());
        let key = |text| read("topic.key.field", text).key.unwrap();
        assert_eq!(key(" $.user.id "), KeyField::Path("$.user.id".to_owned()));
        assert_eq!(key("ce_subject"), KeyField::Header("ce_subject".to_owned()));
        let headers = read("topic.header.fields", "a=$.a, b-c = $.d.e,").headers;
        let pair = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        assert_eq!(headers, [pair("a", "$.a"), pair("b-c", "$.d.e")]);
        assert_eq!(read("topic.timestamp.field", "$.t").timestamp.as_deref(), Some("$.t"));
    }

    #[test]
    fn what_is_no_field_is_refused() {
        let refused = |kind: Kind, text: &str| {
            let row = crate::topic::option_table::OPTIONS.iter().find(|row| row.kind == kind);
            check(row.unwrap(), text, |_| Ok(())).is_err()
        };
        for text in ["$.", "a b", "floe.id", "Floe.x", "a=$.b"] {
            assert!(refused(Kind::KeyField, text), "{text}");
        }
        for text in ["a", "a=b", "a=$.", "=$.a", "floe.id=$.a", "a=$.a,b"] {
            assert!(refused(Kind::HeaderFields, text), "{text}");
        }
        assert!(!refused(Kind::KeyField, "ce_subject") && !refused(Kind::HeaderFields, ""));
    }
}
