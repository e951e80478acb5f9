//! Bodies of HTML forms: one event with a member of text for each field. Pure.

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::http::ingest::hint;

/// Most fields of a form.
const FIELDS_MAX: usize = 1_000;

/// The event of a form; none if the body is none: another content type, or text without `=`, which
/// `curl -d` sends under this type too, JSON, and what Java prints. A field that is there several times is an array.
pub(super) fn event(headers: &HeaderMap, body: &[u8]) -> Option<Bytes> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return None;
    }
    let body = body.trim_ascii();
    // `Struct{a=1}` would pass for a form of one field, and nobody would hear of the mistake.
    if hint::is_java(body) {
        return None;
    }
    let is_field =
        |pair: &[u8]| pair.iter().position(|byte| *byte == b'=').is_some_and(|at| at > 0);
    let is_form = !matches!(body.first(), None | Some(b'{' | b'['))
        && body.split(|byte| *byte == b'&').take(FIELDS_MAX + 1).all(is_field);
    let pairs: Vec<(String, String)> =
        if is_form { serde_urlencoded::from_bytes(body).ok()? } else { return None };
    if pairs.len() > FIELDS_MAX {
        return None;
    }
    let mut members: Map<String, Value> = Map::new();
    for (name, value) in pairs {
        match members.get_mut(&name) {
            None => {
                members.insert(name, Value::String(value));
            }
            Some(Value::Array(list)) => list.push(Value::String(value)),
            Some(first) => *first = Value::Array(vec![first.take(), Value::String(value)]),
        }
    }
    serde_json::to_vec(&members).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: &str, body: &str) -> Option<String> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
        event(&headers, body.as_bytes()).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn a_form_is_one_event() {
        let form = "application/x-www-form-urlencoded";
        let with_charset = "Application/X-WWW-Form-Urlencoded; charset=utf-8";
        for (kind, body, wanted) in [
            (form, "name=Ada+L&mail=a%40b", Some(r#"{"name":"Ada L","mail":"a@b"}"#)),
            (with_charset, "tag=a&n=1&tag=b&tag=", Some(r#"{"tag":["a","b",""],"n":"1"}"#)),
            (form, "{\"a\":\"b=c\"}", None),
            (form, "[1]", None),
            (form, "some text", None),
            (form, "Struct{a=1,b=x}", None),
            (form, "Struct=1", Some(r#"{"Struct":"1"}"#)),
            (form, "a=1&b", None),
            (form, "=1", None),
            (form, "", None),
            ("text/plain", "a=1", None),
        ] {
            assert_eq!(told(kind, body).as_deref(), wanted, "{body}");
        }
        let most = vec!["a=1"; FIELDS_MAX].join("&");
        assert!(told(form, &most).is_some());
        assert_eq!(told(form, &format!("{most}&a=1")), None);
    }
}
