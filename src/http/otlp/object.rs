//! Writes a record as one JSON object. What is not set has no member: no empty text, list or object,
//! so that tables get no columns that hold nothing. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use crate::http::otlp::model::{AnyValue, KeyValue, Value};

/// An object under way.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
    is_open: bool,
}

impl<'o> Object<'o> {
    /// An object.
    pub(super) fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true, is_open: true }
    }

    /// Members of an object, without its braces.
    pub(super) fn members(out: &'o mut Vec<u8>) -> Self {
        let is_empty = out.is_empty();
        Self { out, is_empty, is_open: false }
    }

    /// Ends it.
    pub(super) fn end(self) {
        if self.is_open {
            self.out.push(b'}');
        }
    }

    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        plain(self.out, name);
        self.out.push(b':');
        self.out
    }

    /// Members that are written already.
    pub(super) fn raw(&mut self, members: &[u8]) {
        if members.is_empty() {
            return;
        }
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        self.out.extend_from_slice(members);
    }

    pub(super) fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            plain(self.name(name), text);
        }
    }

    /// A whole number, or whether something is so.
    pub(super) fn plain(&mut self, name: &str, value: impl Serialize) {
        plain(self.name(name), value);
    }

    /// A count of what is left out: not there if nothing is.
    pub(super) fn dropped(&mut self, name: &str, count: u32) {
        if count > 0 {
            self.plain(name, count);
        }
    }

    pub(super) fn double(&mut self, name: &str, number: f64) {
        double(self.name(name), number);
    }

    /// A moment in UTC, to the nanosecond; 0 is none.
    pub(super) fn time(&mut self, name: &str, unix_nano: u64) {
        if unix_nano == 0 {
            return;
        }
        let (seconds, nanos) = (unix_nano / 1_000_000_000, unix_nano % 1_000_000_000);
        let seconds = i64::try_from(seconds).ok();
        let time = seconds.and_then(|it| DateTime::from_timestamp(it, nanos as u32));
        if let Some(time) = time {
            self.text(name, &time.to_rfc3339_opts(SecondsFormat::Nanos, true));
        }
    }

    /// An id, in hexadecimal.
    pub(super) fn id(&mut self, name: &str, id: &[u8]) {
        self.text(name, &hex::encode(id));
    }

    pub(super) fn value(&mut self, name: &str, value: Option<&AnyValue>) {
        if let Some(value) = value.and_then(|value| value.value.as_ref()) {
            any(self.name(name), value);
        }
    }

    pub(super) fn attributes(&mut self, name: &str, attributes: &[KeyValue]) {
        if !attributes.is_empty() {
            map(self.name(name), attributes);
        }
    }

    /// A list of objects.
    pub(super) fn objects<T>(
        &mut self,
        name: &str,
        items: &[T],
        write: impl Fn(&T, &mut Object<'_>),
    ) {
        if !items.is_empty() {
            list(self.name(name), items, |out, item| {
                let mut object = Object::begin(out);
                write(item, &mut object);
                object.end();
            });
        }
    }

    pub(super) fn doubles(&mut self, name: &str, numbers: &[f64]) {
        if !numbers.is_empty() {
            list(self.name(name), numbers, |out, number| double(out, *number));
        }
    }

    /// An object.
    pub(super) fn object(&mut self, name: &str, write: impl Fn(&mut Object<'_>)) {
        let mut object = Object::begin(self.name(name));
        write(&mut object);
        object.end();
    }
}

/// Writes what always has a form in JSON.
fn plain(out: &mut Vec<u8>, value: impl Serialize) {
    // Text, numbers and lists of them, into memory: neither has an error.
    let _ = serde_json::to_writer(out, &value);
}

/// JSON has no words for the three that are no numbers; text loses nothing.
fn double(out: &mut Vec<u8>, number: f64) {
    match number {
        _ if number.is_finite() => plain(out, number),
        _ if number.is_nan() => plain(out, "NaN"),
        _ if number > 0.0 => plain(out, "Infinity"),
        _ => plain(out, "-Infinity"),
    }
}

fn list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// The decoders bound how deep values nest.
fn any(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(text) => plain(out, text),
        Value::Bool(value) => plain(out, value),
        Value::Int(number) => plain(out, number),
        Value::Double(number) => double(out, *number),
        Value::Bytes(bytes) => plain(out, STANDARD.encode(bytes)),
        Value::Array(array) => list(out, &array.values, |out, item| optional(out, Some(item))),
        Value::Map(pairs) => map(out, &pairs.values),
    }
}

fn optional(out: &mut Vec<u8>, value: Option<&AnyValue>) {
    match value.and_then(|value| value.value.as_ref()) {
        Some(value) => any(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn map(out: &mut Vec<u8>, pairs: &[KeyValue]) {
    let mut object = Object::begin(out);
    for pair in pairs {
        optional(object.name(&pair.key), pair.value.as_ref());
    }
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Object<'_>)) -> String {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        write(&mut object);
        object.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_not_set_has_no_member() {
        let found = written(|object| {
            object.text("a", "");
            object.time("b", 0);
            object.id("c", &[]);
            object.value("d", Some(&AnyValue::default()));
            object.attributes("e", &[]);
            object.dropped("f", 0);
            object.doubles("g", &[]);
            object.raw(b"");
        });
        assert_eq!(found, "{}");
    }

    #[test]
    fn numbers_and_times_lose_nothing() {
        let found = written(|object| {
            object.plain("max", u64::MAX);
            object.double("one", 1.0);
            object.doubles("odd", &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1]);
            object.time("at", 1_700_000_000_123_456_789);
            object.time("last", u64::MAX);
            object.raw(b"\"r\":1");
        });
        let wanted = concat!(
            r#"{"max":18446744073709551615,"one":1.0,"odd":["NaN","Infinity","-Infinity",0.1],"#,
            r#""at":"2023-11-14T22:13:20.123456789Z","last":"2554-07-21T23:34:33.709551615Z","r":1}"#
        );
        assert_eq!(found, wanted);
    }

    #[test]
    fn values_nest() {
        let value = |value| Some(AnyValue { value: Some(value) });
        let pair = |key: &str, value| KeyValue { key: key.to_owned(), value };
        let list = crate::http::otlp::model::ArrayValue {
            values: vec![AnyValue { value: Some(Value::Int(-1)) }, AnyValue::default()],
        };
        let inner = crate::http::otlp::model::KeyValueList {
            values: vec![pair("bytes", value(Value::Bytes(vec![0, 255])))],
        };
        let pairs = [
            pair("a\"b", value(Value::Text("x\n".to_owned()))),
            pair("list", value(Value::Array(list))),
            pair("map", value(Value::Map(inner))),
            pair("none", None),
        ];
        let found = written(|object| object.attributes("attributes", &pairs));
        let wanted = concat!(
            r#"{"attributes":{"a\"b":"x\n","list":[-1,null],"map":{"bytes":"AP8="},"#,
            r#""none":null}}"#
        );
        assert_eq!(found, wanted);
    }
}
