//! Keys and values of records: base64, text, or JSON as it was sent. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a key or value is sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Binary,
    Json,
    String,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "BINARY",
            Self::Json => "JSON",
            Self::String => "STRING",
        }
    }

    /// The bytes to store; a null is none. `raw` is a part of `body`, and JSON stays one.
    pub(super) fn bytes(
        self,
        raw: Option<&RawValue>,
        body: &Bytes,
    ) -> Result<Option<Bytes>, String> {
        let Some(raw) = raw.map(RawValue::get) else { return Ok(None) };
        let text = || serde_json::from_str::<String>(raw).ok();
        let bytes = match self {
            Self::Json => Some(body.slice_ref(raw.as_bytes())),
            Self::Binary => text().and_then(|text| decode(&text)),
            Self::String => text().map(Bytes::from),
        };
        let what = if self == Self::Binary { "a base64 string" } else { "a string" };
        bytes.map(Some).ok_or_else(|| format!("data={} is not {what}.", short(raw)))
    }
}

/// Reads an object; what derives `Deserialize` would take its fields from an array too.
pub(super) fn object<'b, T: Deserialize<'b>>(json: &'b [u8]) -> Result<T, String> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err("expected an object".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// The bytes of a base64 text.
pub(super) fn decode(text: &str) -> Option<Bytes> {
    STANDARD.decode(text).ok().map(Bytes::from)
}

/// What an error shows of a value.
pub(super) fn short(raw: &str) -> &str {
    let mut end = raw.len().min(100);
    while !raw.is_char_boundary(end) {
        end -= 1;
    }
    &raw[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: Kind, raw: &str) -> Result<Option<Bytes>, String> {
        let body = Bytes::copy_from_slice(raw.as_bytes());
        kind.bytes(serde_json::from_slice(&body).unwrap(), &body)
    }

    #[test]
    fn values_are_stored_as_their_kind_says() {
        let stored = |kind, raw| bytes(kind, raw).unwrap().unwrap();
        assert_eq!(
            stored(Kind::Json, "{ \"b\":1.10, \"a\" : [ ] }"),
            "{ \"b\":1.10, \"a\" : [ ] }"
        );
        assert_eq!(stored(Kind::Json, "\"x\""), "\"x\"");
        assert_eq!(stored(Kind::String, r#""a\u00e4\n""#), "a\u{e4}\n");
        assert_eq!(stored(Kind::Binary, r#""AAH/""#), &[0, 1, 255][..]);
        assert_eq!(stored(Kind::Binary, "\"\""), "");
        for kind in [Kind::Binary, Kind::Json, Kind::String] {
            assert_eq!(bytes(kind, "null"), Ok(None));
        }
    }

    #[test]
    fn an_array_is_no_object() {
        #[derive(Debug, Deserialize)]
        struct One {
            n: i32,
        }
        assert_eq!(object::<One>(b" {\"n\": 1}").unwrap().n, 1);
        assert!(object::<One>(b"[1]").is_err());
    }

    #[test]
    fn what_is_no_text_is_refused_with_what_was_sent() {
        let refused = |kind, raw| bytes(kind, raw).unwrap_err();
        assert_eq!(refused(Kind::Binary, "1"), "data=1 is not a base64 string.");
        assert!(refused(Kind::Binary, "\"?\"").ends_with("is not a base64 string."));
        assert_eq!(refused(Kind::String, "[1]"), "data=[1] is not a string.");
        let long = format!("[\"{}\"]", "\u{e4}".repeat(1_000));
        assert!(refused(Kind::String, &long).len() < 200);
    }
}
