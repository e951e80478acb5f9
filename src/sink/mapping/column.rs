//! One column of a mapping: its JSON form and what is wrong with it. Pure.

use iceberg::spec::PrimitiveType;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde_json::Value;

use crate::schema::columns::is_legal;
use crate::sink::mapping::path::Path;
use crate::sink::mapping::template::Source;
use crate::sink::mapping::template::TEMPLATE_LEN_MAX;
use crate::sink::mapping::template::lower;

/// The only language of templates.
const LANGUAGE: &str = "jsonnet";

/// What fills a column, as its `type` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A version 7 UUID of the event, the same on every replay.
    #[serde(alias = "id")]
    Uuid,
    /// When the event was received.
    Datetime,
    /// Address of the peer that sent it.
    Ip,
    /// The body as it came.
    Body,
    /// All headers as a JSON object.
    Headers,
    /// One value of the body.
    #[serde(alias = "json")]
    Path,
    /// What a template makes of the event.
    Template,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Datetime => "datetime",
            Self::Ip => "ip",
            Self::Body => "body",
            Self::Headers => "headers",
            Self::Path => "path",
            Self::Template => "template",
        }
    }
}

/// A template as users write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// `jsonnet`; there is no other.
    pub language: String,
    /// Its text.
    pub content: String,
}

/// A column as users write it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Column {
    /// What fills it.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Its name in the table.
    pub name: String,
    /// True if rows are told apart by it, and by the others that are marked so: of each key the table
    /// shows the newest row. An event without a value for it has no row.
    #[serde(default, skip_serializing_if = "is_false")]
    pub primary_key: bool,
    /// Where the value is, of [`Kind::Path`]; the empty path is the whole body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is taken where the path leads nowhere; without one the event has no row.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub default_value: Option<Value>,
    /// Strings are written without quotes and escapes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub raw_string: bool,
    /// What makes the value, of [`Kind::Template`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// Iceberg type of the column, such as `long` or `decimal(10,2)`; without one it is text: the
    /// value as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_type: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Tells `null` from nothing.
fn present<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(input).map(Some)
}

impl Column {
    /// A column of a kind that needs no more than a name.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            primary_key: false,
            path: None,
            default_value: None,
            raw_string: false,
            template: None,
            data_type: None,
        }
    }

    /// Reads its JSON form.
    pub(super) fn deserialize_from(value: &Value) -> Result<Self, String> {
        Self::deserialize(value).map_err(|error| error.to_string())
    }

    /// Its type in the table.
    pub(super) fn iceberg_type(&self) -> Result<PrimitiveType, String> {
        match (&self.data_type, self.kind) {
            (Some(text), _) => data_type(text),
            (None, Kind::Datetime) => Ok(PrimitiveType::Timestamptz),
            (None, _) => Ok(PrimitiveType::String),
        }
    }

    /// What a path that leads nowhere reads as, in JSON. A column without a type of its own has no
    /// null: there it says that no default is set, as in Keboola's API.
    pub(super) fn default_json(&self) -> Option<String> {
        let default = self.default_value.as_ref()?;
        (self.data_type.is_some() || !default.is_null()).then(|| default.to_string())
    }

    /// What is wrong with it by itself.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !is_legal(&self.name) {
            faults.push("the name must have 1 to 255 bytes and no control characters".to_owned());
        }
        if self.primary_key {
            faults.extend(self.key_fault());
        }
        match (&self.path, self.kind) {
            (Some(path), Kind::Path) => {
                faults.extend(Path::parse(path).err().map(|error| error.to_string()));
            }
            (None, Kind::Path) => {
                faults.push("a path is missing (\"\" is the whole body)".to_owned());
            }
            (Some(_), _) => faults.push(self.does_not_apply("path")),
            (None, _) => {}
        }
        if self.kind != Kind::Path && self.default_json().is_some() {
            faults.push(self.does_not_apply("defaultValue"));
        }
        faults.extend(self.template_fault());
        if !matches!(self.kind, Kind::Path | Kind::Template) && self.raw_string {
            faults.push(self.does_not_apply("rawString"));
        }
        if self.data_type.is_some() {
            match self.kind {
                Kind::Path | Kind::Body | Kind::Template => faults.extend(self.type_fault()),
                _ => faults.push(self.does_not_apply("dataType")),
            }
        }
        faults
    }

    /// Why it cannot be part of a primary key.
    fn key_fault(&self) -> Option<String> {
        match self.iceberg_type().ok()? {
            // Iceberg has no identifier fields of these types: equal values need not look equal.
            PrimitiveType::Float | PrimitiveType::Double => {
                Some("a primary key is neither float nor double".to_owned())
            }
            // Iceberg 1.12 for Spark does not find the rows to delete, DuckDB 1.5 ends.
            PrimitiveType::Uuid => Some(
                "a primary key is not uuid, by which engines do not delete: leave dataType out, \
                 and set rawString"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// What is wrong with its template without reading it.
    fn template_fault(&self) -> Option<String> {
        match (&self.template, self.kind) {
            (None, Kind::Template) => Some("a template is missing".to_owned()),
            (Some(_), kind) if kind != Kind::Template => Some(self.does_not_apply("template")),
            (Some(template), _) if template.language != LANGUAGE => Some(format!(
                "unsupported language {:?}, only {LANGUAGE:?} is supported",
                template.language
            )),
            (Some(template), _) if template.content.len() > TEMPLATE_LEN_MAX => {
                Some(format!("the template is longer than {TEMPLATE_LEN_MAX} bytes"))
            }
            _ => None,
        }
    }

    /// Its template, if that has to be run.
    pub(super) fn source(&self) -> Option<Source> {
        let template = self.template.as_ref()?;
        let content = template.content.as_str();
        lower(content).is_none().then(|| Source { content: content.into(), raw: self.raw_string })
    }

    fn does_not_apply(&self, member: &str) -> String {
        format!("{member} does not apply to the type {}", self.kind.name())
    }

    fn type_fault(&self) -> Option<String> {
        match self.iceberg_type() {
            Err(fault) => Some(fault),
            Ok(PrimitiveType::String | PrimitiveType::Binary) if self.kind == Kind::Body => None,
            Ok(_) if self.kind == Kind::Body => Some("a body is string or binary".to_owned()),
            Ok(_) if self.raw_string => {
                Some("rawString is for columns without dataType".to_owned())
            }
            Ok(_) => None,
        }
    }
}

/// Reads the name of an Iceberg type that one JSON value can be of.
fn data_type(text: &str) -> Result<PrimitiveType, String> {
    let name: String = text.to_ascii_lowercase().split_whitespace().collect();
    let found = serde_json::from_value(Value::String(name.replace(',', ", ")));
    let is_writable = |found: &PrimitiveType| match found {
        PrimitiveType::Decimal { precision, scale } => {
            (1..=38).contains(precision) && scale <= precision
        }
        PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs | PrimitiveType::Fixed(_) => {
            false
        }
        _ => true,
    };
    found.ok().filter(is_writable).ok_or_else(|| {
        format!(
            "dataType {text:?} is none of boolean, int, long, float, double, decimal(P,S), date, \
             time, timestamp, timestamptz, string, uuid, binary"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_as_iceberg_does() {
        let decimal = PrimitiveType::Decimal { precision: 10, scale: 2 };
        for (text, found) in [
            ("long", PrimitiveType::Long),
            (" TimestampTZ", PrimitiveType::Timestamptz),
            ("decimal(10,2)", decimal.clone()),
            ("decimal( 10, 2 )", decimal),
            ("binary", PrimitiveType::Binary),
        ] {
            assert_eq!(data_type(text), Ok(found), "{text}");
        }
        for bad in ["", "bigint", "fixed[3]", "timestamp_ns", "decimal(39,1)", "decimal(2,3)"] {
            assert!(data_type(bad).unwrap_err().starts_with("dataType"), "{bad}");
        }
    }
}
