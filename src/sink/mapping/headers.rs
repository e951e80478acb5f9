//! Headers of a request as columns show them. Pure.
//!
//! Names are written as Go's `net/http` does (`Content-Type`), ignoring how they came; of a name
//! that comes twice the first value counts. Bytes that are not UTF-8 are read as Latin-1, as
//! HTTP has it (RFC 9110, 5.5).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

/// One header: name and value.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// The first value of a header; `name` in lower case.
pub(super) fn first<'a>(headers: &[Header<'a>], name: &[u8]) -> Option<&'a [u8]> {
    headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).and_then(|(_, value)| *value)
}

/// Bytes of a header as text.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    match simdutf8::basic::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into(),
    }
}

/// A name as Go writes it: letters at the start and after a dash are capitals, others are not. One
/// that has what no name may have stays as it is (source: `net/textproto`, `CanonicalMIMEHeaderKey`).
pub(super) fn canonical(name: &str) -> String {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.bytes().all(is_token) {
        return name.to_owned();
    }
    let mut upper = true;
    let letters = name.chars().map(|letter| {
        let letter = if upper { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        upper = letter == '-';
        letter
    });
    letters.collect()
}

/// Names as [`canonical`] and values, sorted by name.
pub(super) fn sorted(headers: &[Header<'_>]) -> BTreeMap<String, Option<String>> {
    let mut sorted = BTreeMap::new();
    for (name, value) in headers {
        let value = value.map(|value| text(value).into_owned());
        sorted.entry(canonical(&text(name))).or_insert(value);
    }
    sorted
}

/// All headers as a JSON object.
pub(super) fn to_json(headers: &[Header<'_>]) -> String {
    let members = sorted(headers).into_iter().map(|(name, value)| (name, Value::from(value)));
    Value::Object(members.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_an_object_with_names_as_go_writes_them() {
        let headers: [Header<'_>; 5] = [
            (b"x-b", Some(b"1")),
            (b"CONTENT-type", Some(b"text/\"plain\"")),
            (b"X-B", Some(b"2")),
            (b"a b", Some(b"\xe9")),
            (b"none", None),
        ];
        assert_eq!(
            to_json(&headers),
            r#"{"Content-Type":"text/\"plain\"","None":null,"X-B":"1","a b":"é"}"#
        );
        assert_eq!(first(&headers, b"content-type"), Some(&b"text/\"plain\""[..]));
        assert_eq!(canonical("x--y_Z9"), "X--Y_z9");
    }
}
