//! What `PUT` routes of the native API have in common: replace as a whole, only the version that is
//! meant (RFC 9110, 13.1), or only check.

use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, HeaderName, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::json as parse;
use crate::http::problem::Problem;
use crate::types::Expected;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PutQuery {
    #[serde(default)]
    dry_run: bool,
}

/// True if nothing is to be changed.
pub(in crate::http) fn dry_run(
    query: Result<Query<PutQuery>, QueryRejection>,
) -> Result<bool, Problem> {
    let bad = |error: QueryRejection| Problem::new("bad_request", error.body_text());
    Ok(query.map_err(bad)?.0.dry_run)
}

/// What the caller says it knows of what it changes.
pub(in crate::http) fn expected(headers: &HeaderMap) -> Result<Expected, Problem> {
    let text = |name: HeaderName| {
        let all: Vec<&str> =
            headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect();
        (!all.is_empty()).then(|| all.join(","))
    };
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Expected::Any),
        (Some(any), None) if any.trim() == "*" => Ok(Expected::Some),
        (Some(tags), None) => {
            let tags = tags.split(',').map(|tag| tag.trim().trim_matches('"').to_owned());
            Ok(Expected::Tags(tags.collect()))
        }
        (None, Some(any)) if any.trim() == "*" => Ok(Expected::None),
        _ => {
            let detail = "send If-Match with a tag or *, or If-None-Match: *";
            Err(Problem::new("bad_request", detail))
        }
    }
}

/// Reads what is asked for. Members that only answers have are left aside, so that what was read can
/// be sent back.
pub(super) fn wish<T: DeserializeOwned>(
    body: &Bytes,
    shown_only: &[&str],
    code: &'static str,
) -> Result<T, Problem> {
    wish_of(parse(body)?, shown_only, code)
}

/// [`wish`] of a body that is read already.
pub(in crate::http) fn wish_of<T: DeserializeOwned>(
    mut value: Value,
    shown_only: &[&str],
    code: &'static str,
) -> Result<T, Problem> {
    if let Some(members) = value.as_object_mut() {
        members.retain(|name, _| !shown_only.contains(&name.as_str()));
    }
    serde_json::from_value(value)
        .map_err(|error| Problem::new(code, format!("the body is refused: {error}")))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(pairs: &[(HeaderName, &'static str)]) -> Result<Expected, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        expected(&headers).map_err(|problem| problem.code())
    }

    #[test]
    fn conditions_are_those_of_http() {
        let (is, is_none) = (header::IF_MATCH, header::IF_NONE_MATCH);
        let tags =
            |tags: &[&str]| Ok(Expected::Tags(tags.iter().map(|tag| (*tag).to_owned()).collect()));
        assert_eq!(read(&[]), Ok(Expected::Any));
        assert_eq!(read(&[(is.clone(), "*")]), Ok(Expected::Some));
        assert_eq!(read(&[(is_none.clone(), "*")]), Ok(Expected::None));
        assert_eq!(read(&[(is.clone(), "\"a\", \"b\"")]), tags(&["a", "b"]));
        assert_eq!(read(&[(is.clone(), "\"a\""), (is.clone(), "\"b\"")]), tags(&["a", "b"]));
        // A weak tag names no version that can be changed.
        assert_eq!(read(&[(is.clone(), "W/\"a\"")]), tags(&["W/\"a"]));
        assert_eq!(read(&[(is_none.clone(), "\"a\"")]), Err("bad_request"));
        assert_eq!(read(&[(is, "*"), (is_none, "*")]), Err("bad_request"));
    }
}
