//! What a template asks of its event.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

use chrono::DateTime;
use chrono::format::Item;
use chrono::format::StrftimeItems;
use rsjsonnet_lang::interner::InternedStr;
use rsjsonnet_lang::program::Callbacks;
use rsjsonnet_lang::program::EvalStackTraceItem;
use rsjsonnet_lang::program::ImportError;
use rsjsonnet_lang::program::NativeError;
use rsjsonnet_lang::program::Program;
use rsjsonnet_lang::program::Thunk;
use rsjsonnet_lang::program::Value;
use rsjsonnet_lang::span::SpanId;
use serde_json::Value as Json;

use crate::sink::mapping::Event;
use crate::sink::mapping::body;
use crate::sink::mapping::headers;
use crate::sink::mapping::path::Path;
use crate::sink::mapping::path::Paths;

/// Names of the native functions, and how many arguments they take.
pub(super) const NATIVES: [(&str, &[&str]); 8] = [
    ("_ip", &[]),
    ("_now", &["format"]),
    ("_headers", &[]),
    ("_header", &["name", "default"]),
    ("_headerStr", &[]),
    ("_body", &[]),
    ("_bodyPath", &["path", "default"]),
    ("_bodyStr", &[]),
];

/// Longest format of a time, in bytes.
const FORMAT_LEN_MAX: usize = 256;
/// Most values of JSON that one call gives to a template: each takes some hundred bytes.
const VALUES_MAX: usize = 100_000;
/// Paths that are kept ready.
const PATHS_MAX: usize = 256;

/// Paths that templates have asked for, ready to be looked up.
#[derive(Debug, Default)]
pub(super) struct KnownPaths(HashMap<String, Paths>);

impl KnownPaths {
    fn of(&mut self, text: &str) -> Result<&Paths, String> {
        if !self.0.contains_key(text) {
            let path = Path::parse(text).map_err(|error| error.to_string())?;
            if self.0.len() >= PATHS_MAX {
                self.0.clear();
            }
            self.0.insert(text.to_owned(), Paths::new([&path]));
        }
        Ok(&self.0[text])
    }
}

/// The answers to one template's calls for one event.
pub(super) struct Calls<'c, 'e> {
    pub(super) event: &'e Event<'e>,
    /// The body as JSON text, once it was asked for.
    pub(super) body: &'c mut Option<Result<Cow<'e, str>, String>>,
    pub(super) paths: &'c mut KnownPaths,
    /// Bytes of JSON that became values: names in it stay with the program.
    pub(super) converted: &'c mut usize,
    /// Why the last call failed.
    pub(super) failed: Option<String>,
}

impl Calls<'_, '_> {
    fn answer<'p>(
        &mut self,
        program: &mut Program<'p>,
        name: &str,
        arguments: &[Value<'p>],
    ) -> Result<Value<'p>, String> {
        match (name, arguments) {
            ("_ip", []) => Ok(self.event.ip.map_or_else(Value::null, Value::string)),
            ("_now", [format]) => {
                let format = format.to_string().ok_or("the format of a time is a string")?;
                Ok(Value::string(&now(self.event.received_ms, &format)?))
            }
            ("_headers", []) => {
                let text = headers::to_json(self.event.headers);
                self.value(program, &text)
            }
            ("_header", [name, default]) => {
                let name = name.to_string().ok_or("the name of a header is a string")?;
                let lower = name.to_ascii_lowercase();
                match headers::first(self.event.headers, lower.as_bytes()) {
                    Some(value) => Ok(Value::string(&headers::text(value))),
                    None if default.is_function() => {
                        Err(format!("header {:?} not found", headers::canonical(&name)))
                    }
                    None => Ok(default.clone()),
                }
            }
            ("_headerStr", []) => {
                let mut lines = String::new();
                for (name, value) in headers::sorted(self.event.headers) {
                    let value = value.unwrap_or_default();
                    writeln!(lines, "{name}: {value}").map_err(|error| error.to_string())?;
                }
                Ok(Value::string(&lines))
            }
            ("_body", []) => self.body_at(program, "", None),
            ("_bodyPath", [path, default]) => {
                let path = path.to_string().ok_or("a path is a string")?;
                self.body_at(program, &path, Some(default).filter(|value| !value.is_function()))
            }
            ("_bodyStr", []) => {
                let text = std::str::from_utf8(self.event.body);
                Ok(Value::string(text.map_err(|_| "the body is not UTF-8")?))
            }
            _ => Err(format!("{name} does not exist")),
        }
    }

    fn body_at<'p>(
        &mut self,
        program: &mut Program<'p>,
        path: &str,
        default: Option<&Value<'p>>,
    ) -> Result<Value<'p>, String> {
        let found = self.locate(path)?;
        let Some(range) = found else {
            return match default {
                Some(default) => Ok(default.clone()),
                None => Err(format!("path {path:?} not found in the body")),
            };
        };
        let Some(Ok(body)) = &*self.body else { return Err("there is no body".to_owned()) };
        *self.converted += range.len();
        to_value(program, &read(&body[range])?, &mut { VALUES_MAX })
    }

    fn locate(&mut self, path: &str) -> Result<Option<Range<usize>>, String> {
        let event = self.event;
        let body = self.body.get_or_insert_with(|| {
            body::to_json(event.headers, event.body).map_err(|error| error.to_string())
        });
        let body = body.as_ref().map_err(Clone::clone)?;
        let mut found = Vec::new();
        let located = self.paths.of(path)?.locate(body, &mut found);
        located.map_err(|error| format!("the body is not JSON: {error}"))?;
        Ok(found.into_iter().next().flatten())
    }

    fn value<'p>(&mut self, program: &mut Program<'p>, text: &str) -> Result<Value<'p>, String> {
        *self.converted += text.len();
        to_value(program, &read(text)?, &mut { VALUES_MAX })
    }
}

fn read(text: &str) -> Result<Json, String> {
    serde_json::from_str(text).map_err(|error| format!("the body is not JSON: {error}"))
}

/// Numbers become doubles: Jsonnet has no others. Nesting is bounded by the parser (128); `left` is
/// how many more values may be made.
fn to_value<'p>(
    program: &mut Program<'p>,
    json: &Json,
    left: &mut usize,
) -> Result<Value<'p>, String> {
    let spent = left.checked_sub(1);
    *left = spent.ok_or_else(|| format!("a template gets at most {VALUES_MAX} values"))?;
    Ok(match json {
        Json::Null => Value::null(),
        Json::Bool(value) => Value::bool(*value),
        Json::Number(number) => Value::number(number.as_f64().unwrap_or(0.0)),
        Json::String(text) => Value::string(text),
        Json::Array(items) => {
            let items = items.iter().map(|item| to_value(program, item, left));
            let items = items.collect::<Result<Vec<_>, _>>()?;
            program.make_array(&items)
        }
        Json::Object(members) => {
            let mut fields = Vec::with_capacity(members.len());
            for (name, value) in members {
                fields.push((program.intern_str(name), to_value(program, value, left)?));
            }
            program.make_object(&fields)
        }
    })
}

/// A time in UTC by a format of `strftime`; `%f` is milliseconds, as in Keboola's templates.
fn now(millis: i64, format: &str) -> Result<String, String> {
    if format.len() > FORMAT_LEN_MAX {
        return Err(format!("the format of a time is longer than {FORMAT_LEN_MAX} bytes"));
    }
    let mut adapted = String::with_capacity(format.len() + 8);
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        adapted.push(letter);
        if letter == '%' {
            match letters.next() {
                Some('f') => adapted.push_str("3f"),
                Some(other) => adapted.push(other),
                None => {}
            }
        }
    }
    let items: Vec<Item<'_>> = StrftimeItems::new(&adapted).collect();
    if items.contains(&Item::Error) {
        return Err(format!("datetime format {format:?} is invalid"));
    }
    let time = DateTime::from_timestamp_millis(millis).ok_or("the time is out of range")?;
    let mut text = String::new();
    let written = write!(text, "{}", time.format_with_items(items.iter()));
    written.map_err(|_| format!("datetime format {format:?} is invalid"))?;
    Ok(text)
}

impl<'p> Callbacks<'p> for Calls<'_, '_> {
    fn import(
        &mut self,
        _: &mut Program<'p>,
        _: SpanId,
        _: &str,
    ) -> Result<Thunk<'p>, ImportError> {
        Err(ImportError)
    }

    fn import_str(
        &mut self,
        _: &mut Program<'p>,
        _: SpanId,
        _: &str,
    ) -> Result<String, ImportError> {
        Err(ImportError)
    }

    fn import_bin(
        &mut self,
        _: &mut Program<'p>,
        _: SpanId,
        _: &str,
    ) -> Result<Vec<u8>, ImportError> {
        Err(ImportError)
    }

    fn trace(&mut self, _: &mut Program<'p>, _: &str, _: &[EvalStackTraceItem]) {}

    fn native_call(
        &mut self,
        program: &mut Program<'p>,
        name: InternedStr<'p>,
        args: &[Value<'p>],
    ) -> Result<Value<'p>, NativeError> {
        self.answer(program, name.value(), args).map_err(|reason| {
            self.failed = Some(reason);
            NativeError
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted_with_milliseconds_for_f() {
        let at = 1_700_000_000_007;
        assert_eq!(now(at, "%Y-%m-%dT%H:%M:%S.%fZ").unwrap(), "2023-11-14T22:13:20.007Z");
        assert_eq!(now(at, "%%f %d").unwrap(), "%f 14");
        assert_eq!(now(-1, "%S.%f").unwrap(), "59.999");
        assert_eq!(now(at, "%!").unwrap_err(), "datetime format \"%!\" is invalid");
        assert_eq!(now(at, "%").unwrap_err(), "datetime format \"%\" is invalid");
        assert!(now(i64::MAX, "%Y").is_err());
        assert!(now(at, &"x".repeat(257)).is_err());
    }
}
