//! `PATCH` with a JSON merge patch (RFC 7396): some members of a document get other values, and it is
//! replaced by what comes out, on the road of `PUT`.

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::http::problem::Problem;
use crate::types::Expected;

/// How often a patch is applied anew because the document changed meanwhile.
const TRIES_MAX: usize = 8;
/// Content types of patches.
const TYPES: [&str; 2] = ["application/merge-patch+json", "application/json"];

/// Members that get other values; null takes one away.
pub(super) struct Patch(Map<String, Value>);

impl Patch {
    /// Reads a patch. Members that only answers have are left aside, as `PUT` does it.
    ///
    /// # Errors
    /// `unsupported_media_type`; `bad_request` for what is no JSON object.
    pub(super) fn read(
        headers: &HeaderMap,
        body: &Bytes,
        shown_only: &[&str],
    ) -> Result<Self, Problem> {
        check_type(headers)?;
        let refused = |reason: &dyn std::fmt::Display| {
            Problem::new("bad_request", format!("a patch must be a JSON object: {reason}"))
        };
        let mut members: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| refused(&error))?;
        members.retain(|name, _| !shown_only.contains(&name.as_str()));
        Ok(Self(members))
    }

    /// What `wish` is with the patch.
    ///
    /// # Errors
    /// `code` where it is no wish then.
    pub(super) fn applied_to<T: Serialize + DeserializeOwned>(
        &self,
        wish: &T,
        code: &'static str,
    ) -> Result<T, Problem> {
        let refused = |error: serde_json::Error| {
            Problem::new(code, format!("what the patch makes of it is refused: {error}"))
        };
        let mut document = serde_json::to_value(wish).map_err(refused)?;
        for (name, value) in &self.0 {
            merge(&mut document, name, value);
        }
        serde_json::from_value(document).map_err(refused)
    }
}

/// Patches that meet changes of others: each try is against the version that it read, so none is lost.
pub(super) struct Tries(usize);

impl Tries {
    pub(super) fn new() -> Self {
        Self(0)
    }

    /// True if what `stored` tells is that the document changed since it was read, and that is to be
    /// tried again. A caller that named a version hears of it when it is read again.
    pub(super) fn again(&mut self, stored: &Result<Response, Problem>) -> bool {
        let changed = matches!(stored, Err(problem) if problem.code() == "precondition_failed");
        self.0 += 1;
        changed && self.0 < TRIES_MAX
    }
}

/// What a patch of the version `tag` expects to be there, if the caller's own condition is met.
///
/// # Errors
/// `precondition_failed`.
pub(super) fn expected(callers: &Expected, tag: String) -> Result<Expected, Problem> {
    let unmet = |reason| Problem::new("precondition_failed", reason);
    callers.check(Some(&tag)).map_err(unmet)?;
    Ok(Expected::Tags(vec![tag]))
}

/// A patch may come without a type.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let given = given.to_str().unwrap_or("?");
    let essence = given.split(';').next().unwrap_or_default().trim();
    if TYPES.iter().any(|one| essence.eq_ignore_ascii_case(one)) {
        return Ok(());
    }
    let shown: String = given.chars().take(100).collect();
    let detail = format!("content type {shown:?} is refused: allowed are {}", TYPES.join(", "));
    Err(Problem::new("unsupported_media_type", detail).accepting_patches(TYPES[0]))
}

/// RFC 7396, section 2, for one member of what becomes an object.
fn merge(target: &mut Value, name: &str, patch: &Value) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(members) = target.as_object_mut() else { return };
    match patch {
        Value::Null => {
            members.remove(name);
        }
        Value::Object(inner) => {
            let member = members.entry(name).or_insert(Value::Null);
            if !member.is_object() {
                *member = Value::Object(Map::new());
            }
            for (name, patch) in inner {
                merge(member, name, patch);
            }
        }
        value => {
            members.insert(name.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::response::IntoResponse;
    use serde_json::json;

    use super::*;

    fn read(kind: Option<&'static str>, body: &'static str) -> Result<Patch, Problem> {
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        Patch::read(&headers, &Bytes::from_static(body.as_bytes()), &["id"])
    }

    /// Those of RFC 7396, appendix A, whose patch is an object.
    #[test]
    fn patches_are_applied_as_the_rfc_says() {
        for (target, patch, wanted) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({"a": 1}), json!({}), json!({"a": 1})),
        ] {
            let patch = Patch(patch.as_object().unwrap().clone());
            let patched: Value = patch.applied_to(&target, "bad_request").unwrap();
            assert_eq!(patched, wanted);
        }
    }

    #[test]
    fn a_patch_is_an_object_of_a_known_type_and_says_nothing_of_what_is_only_shown() {
        for kind in
            [None, Some("application/json; charset=utf-8"), Some("Application/Merge-Patch+JSON")]
        {
            assert_eq!(read(kind, r#"{"id": "x", "a": 1}"#).unwrap().0.len(), 1);
        }
        for body in ["", "[]", "null", "{"] {
            assert_eq!(read(None, body).err().map(|it| it.code()), Some("bad_request"), "{body}");
        }
        let refused = read(Some("application/json-patch+json"), "{}").err().unwrap();
        assert_eq!(refused.code(), "unsupported_media_type");
        let answer = refused.into_response();
        assert_eq!(answer.headers()["accept-patch"], "application/merge-patch+json");
        assert_eq!(answer.headers().get(header::ACCEPT_ENCODING), None);
    }

    #[test]
    fn a_patch_is_tried_again_only_when_the_document_changed_and_not_for_ever() {
        let of = |code| Err(Problem::new(code, "x"));
        assert!(!Tries::new().again(&of("invalid_sink")));
        let mut tries = Tries::new();
        let again = (0..100).take_while(|_| tries.again(&of("precondition_failed"))).count();
        assert_eq!(again, TRIES_MAX - 1);
        assert_eq!(expected(&Expected::Some, "a".into()), Ok(Expected::Tags(vec!["a".into()])));
        let stale = expected(&Expected::Tags(vec!["b".into()]), "a".into());
        assert_eq!(stale.unwrap_err().code(), "precondition_failed");
    }
}
