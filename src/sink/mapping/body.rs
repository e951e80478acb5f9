//! The body of a request as one JSON text. Pure.

use std::borrow::Cow;

use percent_encoding::percent_decode;
use serde_json::Map;
use serde_json::Value;

use crate::sink::mapping::headers;
use crate::sink::mapping::headers::Header;

/// Deepest nesting of a form's keys.
const KEY_PARTS_MAX: usize = 64;

/// Why a body is no JSON text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    /// Of a content type that is not read.
    #[error(
        "unsupported content type {0:?}, supported types: application/json and \
         application/x-www-form-urlencoded"
    )]
    Media(String),
    /// It is not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// It is no form.
    #[error("invalid form data: {0}")]
    Form(String),
}

/// The body as JSON text: as it is, or made from a form. It is not checked. Without a content type,
/// as Kafka's records come, it counts as JSON.
pub(super) fn to_json<'a>(
    headers: &[Header<'a>],
    body: &'a [u8],
) -> Result<Cow<'a, str>, BodyError> {
    let media = headers::first(headers, b"content-type").unwrap_or(b"application/json");
    let essence = media.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    match essence.strip_prefix(b"application/") {
        Some(kind) if kind == b"json" || kind.ends_with(b"+json") || is_bare(kind, body) => {
            let text = simdutf8::basic::from_utf8(body).map_err(|_| BodyError::NotUtf8)?;
            Ok(Cow::Borrowed(text))
        }
        Some(b"x-www-form-urlencoded") => form(body).map(Cow::Owned).map_err(BodyError::Form),
        _ => Err(BodyError::Media(headers::text(media).into_owned())),
    }
}

/// True for JSON that `curl -d` calls a form: in a form these brackets would be escaped.
fn is_bare(kind: &[u8], body: &[u8]) -> bool {
    let first = body.trim_ascii_start().first();
    kind == b"x-www-form-urlencoded" && matches!(first, Some(b'{' | b'['))
}

/// A form as a JSON object: `a[b]=x` is a member of an object, `a[]=x` and `a[0]=x` are items of
/// an array, and of a key that comes twice the last one counts. All values are strings.
fn form(body: &[u8]) -> Result<String, String> {
    let mut root = Value::Object(Map::new());
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let cut = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        let key = decode(&pair[..cut])?;
        let value = decode(pair.get(cut + 1..).unwrap_or_default())?;
        let parts = key_parts(&key)?;
        set(&mut root, &parts, value)
            .ok_or_else(|| format!("the key {key:?} does not go with another one"))?;
    }
    Ok(root.to_string())
}

fn decode(text: &[u8]) -> Result<String, String> {
    let spaced: Vec<u8> =
        text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    let decoded = percent_decode(&spaced).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "it is not UTF-8".to_owned())
}

/// `a[b][]` as `a`, `b` and an empty part.
fn key_parts(key: &str) -> Result<Vec<&str>, String> {
    let bad = || format!("the key {key:?} has brackets that cannot be read");
    let (first, mut rest) = key.split_at(key.find('[').unwrap_or(key.len()));
    let mut parts = vec![first];
    while let Some(inner) = rest.strip_prefix('[') {
        let (part, after) = inner.split_once(']').ok_or_else(bad)?;
        if part.contains('[') || (part.is_empty() && !after.is_empty()) {
            return Err(bad());
        }
        parts.push(part);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(bad());
    }
    if parts.len() > KEY_PARTS_MAX {
        return Err(format!("a key has more than {KEY_PARTS_MAX} parts"));
    }
    Ok(parts)
}

/// Sets a value; none where a part of the key leads into a value that has none.
fn set(root: &mut Value, parts: &[&str], value: String) -> Option<()> {
    let mut at = root;
    for (place, part) in parts.iter().enumerate() {
        let fresh = match parts.get(place + 1) {
            None => Value::Null,
            Some(&"" | &"0") => Value::Array(Vec::new()),
            Some(_) => Value::Object(Map::new()),
        };
        at = match at {
            Value::Object(members) => members.entry(*part).or_insert(fresh),
            Value::Array(items) => {
                let index = if part.is_empty() { items.len() } else { part.parse().ok()? };
                if index == items.len() {
                    items.push(fresh);
                }
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    *at = Value::String(value);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_become_objects() {
        for (body, json) in [
            ("one=two&three=four", r#"{"one":"two","three":"four"}"#),
            ("a=1&a=2&b", r#"{"a":"2","b":""}"#),
            ("k[]=x&k[]=y", r#"{"k":["x","y"]}"#),
            ("k[0]=x&k[1][z]=y", r#"{"k":["x",{"z":"y"}]}"#),
            ("k[5]=x", r#"{"k":{"5":"x"}}"#),
            ("a%20b=%C3%A9+%22&&c=100%", r#"{"a b":"é \"","c":"100%"}"#),
            ("", "{}"),
        ] {
            assert_eq!(form(body.as_bytes()).unwrap(), json, "{body}");
        }
        for (body, reason) in [
            ("a=%ff", "it is not UTF-8"),
            ("a[b=1", "the key \"a[b\" has brackets that cannot be read"),
            ("a[][b]=1", "the key \"a[][b]\" has brackets that cannot be read"),
            ("a=1&a[b]=2", "the key \"a[b]\" does not go with another one"),
            ("a[]=1&a[7]=2", "the key \"a[7]\" does not go with another one"),
            (&format!("a{}=1", "[b]".repeat(64)), "a key has more than 64 parts"),
        ] {
            assert_eq!(form(body.as_bytes()).unwrap_err(), reason, "{body}");
        }
    }

    #[test]
    fn the_content_type_says_how_a_body_is_read() {
        let json = |media: &str| {
            to_json(&[(b"Content-Type", Some(media.as_bytes()))], b"a=1").map(Cow::into_owned)
        };
        for media in ["application/json", "Application/JSON; charset=utf-8", "application/x.y+json"]
        {
            assert_eq!(json(media).unwrap(), "a=1", "{media}");
        }
        assert_eq!(json("application/x-www-form-urlencoded; a=b").unwrap(), r#"{"a":"1"}"#);
        let form: Header<'_> = (b"content-type", Some(b"application/x-www-form-urlencoded"));
        for bare in ["{\"a\":1}", " [1]", "{"] {
            assert_eq!(to_json(&[form], bare.as_bytes()).unwrap(), bare);
        }
        assert_eq!(json("text/plain"), Err(BodyError::Media("text/plain".to_owned())));
        assert_eq!(to_json(&[], b"1").unwrap(), "1");
        assert_eq!(to_json(&[], b"\xff"), Err(BodyError::NotUtf8));
    }
}
