//! `POST /v0/events?name=TOPIC`: what sends to Tinybird's Events API sends here by another address.
//! Source: Tinybird's documentation of the Events API.
//!
//! Lines of JSON (`format=ndjson`), or one value or array (`format=json`), whatever the content type
//! says. Rows that are no JSON go to `<topic>.quarantine`, and the answer counts them. 202, or 200
//! with `wait=true`; both mean here that the rows are in the log.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::http::Api;
use crate::http::auth::{self, Caller};
use crate::http::ingest::body::{self, Decoded};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{OnError, Stored, Terms};
use crate::http::ingest::identity::Identity;
use crate::http::ingest::keys;
use crate::http::ingest::place::{JsonEvents, Placement};
use crate::http::ingest::quarantine;
use crate::http::ingest::rate::Sender;
use crate::http::ingest::split::{self, Form};
use crate::http::problem::Problem;

/// The route.
pub(in crate::http) const ROUTE: &str = "/v0/events";

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// What the query string says.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    topic: String,
    form: Form,
    waits: bool,
}

impl Wish {
    fn parse(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let refused = |detail: String| Err(Problem::new("bad_request", detail));
        let (mut topic, mut form, mut waits) = (None, Form::Lines, false);
        for (name, value) in pairs {
            match (name.as_str(), value.as_str()) {
                ("name", _) if topic.is_none() => topic = Some(value),
                ("format", "ndjson") => form = Form::Lines,
                ("format", "json") => form = Form::Json,
                ("wait", "true" | "false") => waits = value == "true",
                _ => {
                    let known = "name, format (ndjson, json) and wait (true, false), each once";
                    return refused(format!(
                        "parameter {name}={value} is refused: there are {known}"
                    ));
                }
            }
        }
        match topic {
            Some(topic) => Ok(Self { topic, form, waits }),
            None => refused("the parameter name is missing: it names the topic".to_owned()),
        }
    }
}

pub(in crate::http) async fn events(
    State(api): State<Api>,
    caller: Caller,
    query: Pairs,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match store(&api, &caller, query, &headers, body).await {
        Ok((stored, waits)) => {
            let status = if waits { StatusCode::OK } else { StatusCode::ACCEPTED };
            let body = json!({
                "successful_rows": stored.accepted,
                "quarantined_rows": stored.rejected,
            });
            (status, Json(body)).into_response()
        }
        Err(problem) => refusal(problem),
    }
}

/// A refusal in this API's form.
pub(in crate::http) fn refusal(problem: Problem) -> Response {
    let body = json!({
        "error": problem.detail(),
        "code": problem.code(),
        "retryable": problem.listed().1,
        "documentation": format!("/problems#{}", problem.code()),
    });
    let (mut parts, _) = problem.into_response().into_parts();
    let kind = HeaderValue::from_static("application/json");
    parts.headers.insert(header::CONTENT_TYPE, kind);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body.to_string().into())
}

async fn store(
    api: &Api,
    caller: &Caller,
    query: Pairs,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Stored, bool), Problem> {
    let limit = api.options.body_max_bytes;
    let (wish, identity) = match head(api, caller, query, headers) {
        Ok(head) => head,
        Err(problem) => return Err(body::refuse(headers, body, limit, problem).await),
    };
    let (from, to) = (Sender::of(caller), api.engine.to(&wish.topic));
    let read = api.engine.read(from, Some(to), headers, body, limit).await?;
    let Decoded { bytes: body, share, until, .. } = read;
    let Wish { topic, form, waits } = wish;
    let known = api.engine.topic(&topic)?;
    let identity = identity.or_body(api.engine.counts_by_body(&topic, known.as_deref()));
    let (events_max, principal) = (api.options.events_max, caller.key().to_owned());
    let split = off_worker(body.len(), move || {
        let options = [u8::from(form == Form::Lines)];
        let once = identity.once(&principal, || keys::hash(&[&b"tinybird"[..], &body, &options]));
        let split = split::split(&body, form, events_max);
        Ok((JsonEvents { body, form, split, placement: Placement::default() }, once))
    });
    let (source, once) = split.await?;
    if source.split.events.is_empty() && source.split.errors.is_empty() {
        let detail = "the body is empty: there is no event in it";
        return Err(Problem::new("bad_request", detail));
    }
    let terms = Terms { on_error: OnError::Quarantine, once, ..Terms::new(until) };
    let stored = api.engine.append(&topic, source, share, terms).await;
    Ok((stored.map_err(|problem| api.engine.told(&topic, problem))?, waits))
}

fn head(
    api: &Api,
    caller: &Caller,
    query: Pairs,
    headers: &HeaderMap,
) -> Result<(Wish, Identity), Problem> {
    if let Some(problem) = api.not_ready() {
        return Err(problem.closing());
    }
    let Query(pairs) = query.map_err(|error| Problem::new("bad_request", error.body_text()))?;
    let wish = Wish::parse(pairs)?;
    api.engine.topic(&wish.topic)?;
    auth::may_write_events(api, caller, &wish.topic)?;
    auth::may_write_events(api, caller, &quarantine::topic(&wish.topic)?)?;
    Ok((wish, Identity::of(headers)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pairs: &[(&str, &str)]) -> Result<Wish, String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Wish::parse(pairs.collect()).map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn the_query_names_the_topic_and_how_the_body_is_read() {
        let wish = |topic: &str, form, waits| Ok(Wish { topic: topic.to_owned(), form, waits });
        assert_eq!(parsed(&[("name", "a")]), wish("a", Form::Lines, false));
        let all = [("wait", "true"), ("format", "json"), ("name", "a")];
        assert_eq!(parsed(&all), wish("a", Form::Json, true));
        for (pairs, wanted) in [
            (&[][..], "name is missing"),
            (&[("name", "a"), ("name", "b")], "each once"),
            (&[("name", "a"), ("format", "csv")], "format"),
            (&[("name", "a"), ("wait", "yes")], "wait"),
        ] {
            let refused = parsed(pairs).unwrap_err();
            assert!(refused.contains(wanted), "{refused}");
        }
    }
}
