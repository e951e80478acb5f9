//! Bodies and lists of the management API: what is asked for, page by page.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use crate::types::Signal;

/// Longest page.
const LIMIT_MAX: usize = 100;
/// Longest name and description, in characters.
const NAME_LEN_MAX: usize = 40;
pub(super) const DESCRIPTION_LEN_MAX: usize = 4_096;

/// Where a page begins and how long it may be.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Paging {
    after_id: Option<String>,
    limit: Option<usize>,
}

pub(super) type Asked = Result<Query<Paging>, QueryRejection>;

/// The page of `items`, which are in the order of their ids, under `name` among the members of `at`.
pub(super) fn page(
    asked: Asked,
    (at, name): (Value, &str),
    items: Vec<(String, Value)>,
) -> Result<Json<Value>, Failure> {
    let (page, shown) = select(asked, items)?;
    Ok(answer((at, name), page, shown))
}

/// The answer of a page with what it shows.
pub(super) fn answer((at, name): (Value, &str), page: Value, shown: Vec<Value>) -> Json<Value> {
    let mut answer = at;
    answer["page"] = page;
    answer[name] = Value::Array(shown);
    Json(answer)
}

/// Which page it is, and those of `items` that it has.
pub(super) fn select<T>(asked: Asked, items: Vec<(String, T)>) -> Result<(Value, Vec<T>), Failure> {
    let bad = |error: QueryRejection| Failure::api(400, "badRequest", error.body_text());
    let Query(Paging { after_id, limit }) = asked.map_err(bad)?;
    let limit = limit.unwrap_or(LIMIT_MAX);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let message = format!("limit must be between 1 and {LIMIT_MAX} but got value {limit}");
        return Err(Failure::api(400, "invalidRange", message));
    }
    let after_id = after_id.unwrap_or_default();
    let (total, mut last_id) = (items.len(), String::new());
    let mut shown = Vec::new();
    for (id, item) in items.into_iter().filter(|(id, _)| *id > after_id).take(limit) {
        shown.push(item);
        last_id = id;
    }
    let page =
        json!({ "limit": limit, "totalCount": total, "afterId": after_id, "lastId": last_id });
    Ok((page, shown))
}

/// The members of a body; without a body there are none.
pub(super) fn members(body: &Bytes) -> Result<Map<String, Value>, Failure> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Failure::api(400, "badRequest", "the body must be a JSON object")),
        Err(error) => {
            Err(Failure::api(400, "badRequest", format!("the body is not JSON: {error}")))
        }
    }
}

/// A member that is text; none if it is not there.
pub(super) fn text(members: &Map<String, Value>, name: &str) -> Result<Option<String>, Failure> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => {
            let message = format!("invalid type for body.{name}: expected string");
            Err(Failure::api(400, "invalidFieldType", message))
        }
    }
}

/// A member that has to be there.
pub(super) fn required(members: &Map<String, Value>, name: &str) -> Result<String, Failure> {
    text(members, name)?.ok_or_else(|| missing(name))
}

/// The signals that a member lists; none if it is not there.
pub(super) fn signals(
    members: &Map<String, Value>,
    name: &str,
) -> Result<Option<BTreeSet<Signal>>, Failure> {
    let Some(value) = members.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let invalid = || {
        let message = format!("invalid type for body.{name}: expected array of strings");
        Failure::api(400, "invalidFieldType", message)
    };
    let named = |value: &Value| {
        let word = value.as_str().ok_or_else(invalid)?;
        one_of(&format!("{name}[*]"), word, &Signal::ALL.map(Signal::as_str))?;
        Signal::parse(word).ok_or_else(invalid)
    };
    value.as_array().ok_or_else(invalid)?.iter().map(named).collect::<Result<_, _>>().map(Some)
}

/// Says that a member is not there.
pub(super) fn missing(name: &str) -> Failure {
    Failure::api(400, "missingField", format!("{name:?} is missing from body"))
}

/// Checks that a member is one of few words.
pub(super) fn one_of(name: &str, value: &str, allowed: &[&str]) -> Result<(), Failure> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let words: Vec<String> = allowed.iter().map(|word| format!("{word:?}")).collect();
    let words = words.join(", ");
    let message = format!("value of body.{name} must be one of {words} but got value {value:?}");
    Err(Failure::api(400, "invalidEnumValue", message))
}

/// Checks the length of a member, in characters.
pub(super) fn at_most(name: &str, value: &str, max: usize) -> Result<(), Failure> {
    let length = value.chars().count();
    if length <= max {
        return Ok(());
    }
    let message =
        format!("length of body.{name} must be lesser or equal than {max} but got len={length}");
    Err(Failure::api(400, "invalidLength", message))
}

/// Checks the texts that sources and sinks have for people.
pub(super) fn check_texts(name: &str, description: &str) -> Result<(), Failure> {
    if name.is_empty() {
        return Err(Failure::api(400, "invalidLength", "body.name must not be empty"));
    }
    at_most("name", name, NAME_LEN_MAX)?;
    at_most("description", description, DESCRIPTION_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(after_id: &str, limit: usize) -> Asked {
        Ok(Query(Paging { after_id: Some(after_id.to_owned()), limit: Some(limit) }))
    }

    fn items() -> Vec<(String, Value)> {
        ["a", "b", "c"].map(|id| (id.to_owned(), json!({ "id": id }))).to_vec()
    }

    #[test]
    fn pages_follow_each_other_by_the_last_id() {
        let Json(first) = page(asked("", 2), (json!({}), "sources"), items()).unwrap();
        assert_eq!(first["sources"], json!([{"id": "a"}, {"id": "b"}]));
        let wanted = json!({"limit": 2, "totalCount": 3, "afterId": "", "lastId": "b"});
        assert_eq!(first["page"], wanted);
        let Json(last) = page(asked("b", 2), (json!({}), "sources"), items()).unwrap();
        assert_eq!(
            (&last["sources"], &last["page"]["lastId"]),
            (&json!([{"id": "c"}]), &"c".into())
        );
        let Json(none) = page(asked("c", 2), (json!({}), "sources"), items()).unwrap();
        assert_eq!((&none["sources"], &none["page"]["lastId"]), (&json!([]), &"".into()));
        for limit in [0, 101] {
            assert!(page(asked("", limit), (json!({}), "sources"), items()).is_err());
        }
    }

    #[test]
    fn members_are_checked_one_by_one() {
        let body = Bytes::from_static(br#"{"name": "x", "type": 1, "empty": null}"#);
        let members = members(&body).unwrap();
        assert_eq!(required(&members, "name").unwrap(), "x");
        assert_eq!(text(&members, "empty").unwrap(), None);
        assert_eq!(text(&members, "type").unwrap_err().name, "stream.api.invalidFieldType");
        let missing = required(&members, "other").unwrap_err();
        assert_eq!(missing.message, "\"other\" is missing from body.");
        let refused = one_of("type", "ftp", &["http", "otlp"]).unwrap_err();
        assert_eq!(
            refused.message,
            "Value of body.type must be one of \"http\", \"otlp\" but got value \"ftp\"."
        );
        assert!(at_most("name", "é", 1).is_ok() && at_most("name", "éé", 1).is_err());
        assert!(super::members(&Bytes::from_static(b"[1]")).is_err());
        let of = |list: Value| signals(json!({ "s": list }).as_object().unwrap(), "s");
        assert_eq!(of(json!(null)), Ok(None));
        let twice = json!(["traces", "logs", "logs"]);
        assert_eq!(of(twice), Ok(Some([Signal::Logs, Signal::Traces].into())));
        assert_eq!(of(json!(["profiles"])).unwrap_err().name, "stream.api.invalidEnumValue");
        assert_eq!(of(json!("logs")).unwrap_err().name, "stream.api.invalidFieldType");
        assert!(super::members(&Bytes::from_static(b"{")).is_err());
    }
}
