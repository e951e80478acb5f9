//! `POST /api/v1/topics/{topic}/events`: parameters, forms of JSON and the answer; the rest is the
//! engine's.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::TryFutureExt;
use serde::Serialize;
use url::form_urlencoded;

use crate::http::auth::{self, Caller};
use crate::http::ingest::body::{self, Decoded, Share};
use crate::http::ingest::cloudevents::{CloudEvents, Mode};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{Ack, Acked, OnError, Source, Stored, Terms};
use crate::http::ingest::identity::{Identity, REPLAYED};
use crate::http::ingest::keys;
use crate::http::ingest::place::{JsonEvents, Placement};
use crate::http::ingest::prefer::Prefer;
use crate::http::ingest::quarantine;
use crate::http::ingest::rate::Sender;
use crate::http::ingest::request::{self, Parameters};
use crate::http::ingest::split::{self, Form, StoppedAt};
use crate::http::ingest::urlencoded;
use crate::http::problem::Problem;
use crate::http::{Api, request_id};

/// Most refused events that an answer lists.
const ERRORS_MAX: usize = 100;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What is known before the body is read.
struct Head {
    terms: Terms,
    placement: Placement,
    identity: Identity,
    /// Who sends it, as keys are kept apart by it.
    principal: String,
    /// How the events are sent, if they are CloudEvents.
    mode: Option<Mode>,
    /// A comma after the last event of an array is no mistake.
    is_lenient_json: bool,
    /// The answer has no body.
    minimal: bool,
}

pub(in crate::http) async fn events_of_path(
    State(api): State<Api>,
    Path(topic): Path<String>,
    caller: Caller,
    request: Request,
) -> Response {
    events(&api, &caller, topic, request).await
}

/// Takes events of a topic.
pub(in crate::http) async fn events(
    api: &Api,
    caller: &Caller,
    topic: String,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    take_if_allowed(api, caller, &topic, &parts, body).await.into_response()
}

async fn take_if_allowed(
    api: &Api,
    caller: &Caller,
    topic: &str,
    parts: &Parts,
    body: Body,
) -> Result<Response, Problem> {
    // The right that the path tells of is settled first, so that nobody uploads what is refused.
    if let Err(problem) = auth::may_write_events(api, caller, topic) {
        let problem = api.not_ready().unwrap_or(problem);
        let limit = api.options.body_max_bytes;
        return Err(Box::pin(body::refuse(&parts.headers, body, limit, problem)).await);
    }
    take(api, caller, topic, parts, body).await
}

/// Stores the events of a request for `caller`, who may write to the topic.
///
/// # Errors
/// Any problem that the route can answer with.
pub(in crate::http) fn take<'r>(
    api: &'r Api,
    caller: &'r Caller,
    topic: &'r str,
    parts: &'r Parts,
    body: Body,
) -> impl Future<Output = Result<Response, Problem>> + Send + 'r {
    let stored = store(api, caller, topic, parts, body);
    stored.map_err(|problem| api.engine.told(topic, problem))
}

async fn store(
    api: &Api,
    caller: &Caller,
    topic: &str,
    parts: &Parts,
    body: Body,
) -> Result<Response, Problem> {
    let (limit, headers) = (api.options.body_max_bytes, &parts.headers);
    let mut head = match head(api, caller, topic, parts) {
        Ok(head) => head,
        Err(problem) => return Err(Box::pin(body::refuse(headers, body, limit, problem)).await),
    };
    let (from, to) = (Sender::of(caller), api.engine.to(topic));
    let decoded = api.engine.read(from, Some(to), headers, body, limit).await?;
    if let Some(mode) = head.mode.take() {
        return Box::pin(store_cloud_events(api, topic, head, mode, (from, decoded))).await;
    }
    let Decoded { bytes, share, limit_bytes, .. } = decoded;
    let size = (limit_bytes, bytes.len());
    let empty = || Problem::new("bad_request", "the body is empty: there is no event in it");
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(empty());
    }
    let (bytes, form) = match urlencoded::event(headers, &bytes) {
        Some(event) => (event, Form::Json),
        None => {
            let form = request::form(headers, &bytes, request::EVENT_TYPES)?;
            let is_lenient = form == Form::Json && head.is_lenient_json;
            (bytes, if is_lenient { Form::Lenient } else { form })
        }
    };
    let minimal = head.minimal;
    let (source, terms) = take_apart(api, head, bytes, form).await?;
    if source.split.events.is_empty() && source.split.errors.is_empty() {
        return Err(empty());
    }
    let share = api.engine.hold_shared(from, source.shared(), size, share).await?;
    let stopped_at = source.split.stopped_at();
    append(api, topic, source, share, (terms, Told { minimal, stopped_at })).await
}

/// What the answer says besides what was stored.
struct Told {
    /// It has no body.
    minimal: bool,
    stopped_at: Option<StoppedAt>,
}

fn append<'r>(
    api: &'r Api,
    topic: &'r str,
    source: impl Source,
    share: Share,
    (terms, told): (Terms, Told),
) -> impl Future<Output = Result<Response, Problem>> + Send + 'r {
    let is_committed_asked = matches!(terms.ack, Ack::Committed(_));
    let stored = api.engine.append(topic, source, share, terms);
    stored.map_ok(move |stored| answer(stored, is_committed_asked, &told))
}

async fn store_cloud_events(
    api: &Api,
    topic: &str,
    head: Head,
    mode: Mode,
    (from, decoded): (Sender<'_>, Decoded),
) -> Result<Response, Problem> {
    let Head { mut terms, placement, identity, principal, minimal, .. } = head;
    let Decoded { bytes: body, share, limit_bytes, .. } = decoded;
    let (size_bytes, events_max) = (body.len(), api.options.events_max);
    let take_apart = move || {
        let options = [u8::MAX, terms.on_error as u8];
        terms.once = identity.once(&principal, || {
            let (placed, sent) = (placement.parts(), mode.parts());
            let mut parts: Vec<&[u8]> = vec![&body, &options];
            parts.extend(placed.iter().chain(&sent).map(Vec::as_slice));
            keys::hash(&parts)
        });
        Ok((CloudEvents::new(body, mode, placement, events_max), terms))
    };
    let (source, terms) = off_worker(size_bytes, take_apart).await?;
    let told = Told { minimal, stopped_at: source.stopped_at() };
    if source.is_empty() {
        return Ok(answer(Stored::nothing(topic), false, &told));
    }
    let size = (limit_bytes, size_bytes);
    let share = api.engine.hold_shared(from, source.shared(), size, share).await?;
    append(api, topic, source, share, (terms, told)).await
}

fn head(
    api: &Api,
    caller: &Caller,
    topic: &str,
    Parts { uri, headers, .. }: &Parts,
) -> Result<Head, Problem> {
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let parameters = Parameters::parse(pairs)?;
    if let Some(problem) = api.not_ready() {
        return Err(problem.closing());
    }
    let mut identity = Identity::of(headers)?;
    let placement = request::placement(&parameters, headers)?;
    let mode = Mode::of(headers)?;
    let known = api.engine.topic(topic)?;
    let by_body = api.engine.counts_by_body(topic, known.as_deref());
    identity = identity.or_body(parameters.is_body_key || by_body);
    if let Some(topic) = known {
        request::check_partition(&placement, &topic)?;
    }
    let prefer = Prefer::of(headers);
    let terms = parameters.terms(&prefer).sent_by(caller)?;
    if terms.on_error == OnError::Quarantine {
        auth::may_write_events(api, caller, &quarantine::topic(topic)?)?;
    }
    let principal = caller.key().to_owned();
    let (is_lenient_json, minimal) = (parameters.is_lenient_json, prefer.minimal);
    Ok(Head { terms, placement, identity, principal, mode, is_lenient_json, minimal })
}

/// Splits the body, and takes the fingerprint of the request if it has a key.
fn take_apart(
    api: &Api,
    head: Head,
    body: Bytes,
    form: Form,
) -> impl Future<Output = Result<(Box<JsonEvents>, Terms), Problem>> + Send + use<> {
    let events_max = api.options.events_max;
    let Head { mut terms, placement, identity, principal, .. } = head;
    off_worker(body.len(), move || {
        // Leniency changes no event.
        let options = [u8::from(form == Form::Lines), terms.on_error as u8];
        terms.once = identity.once(&principal, || {
            let placed = placement.parts();
            let mut parts: Vec<&[u8]> = vec![&body, &options];
            parts.extend(placed.iter().map(Vec::as_slice));
            keys::hash(&parts)
        });
        let split = split::split(&body, form, events_max);
        Ok((Box::new(JsonEvents { body, form, split, placement }), terms))
    })
}

/// 200, or 202 where the events are not known to be what was asked for: stored, or in the table.
fn answer(stored: Stored, is_committed_asked: bool, told: &Told) -> Response {
    let is_late = is_committed_asked && stored.ack != Acked::Committed;
    let status = match stored.ack {
        Acked::Accepted => StatusCode::ACCEPTED,
        _ if is_late => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    };
    let ack_url = stored.ack_token.as_ref().map(|token| format!("/api/v1/acks/{token}"));
    // Only of a key: the answer is the first one's. A channel knows its token alone.
    let is_replayed = stored.duplicate && stored.write_id.is_some();
    let mut response = match told.minimal {
        true => status.into_response(),
        false => match request_id::with(|id| document(&stored, ack_url.as_deref(), id, told)) {
            Ok(body) => (status, [(header::CONTENT_TYPE, JSON)], body).into_response(),
            Err(error) => Problem::new("internal", error.to_string()).into_response(),
        },
    };
    let headers = response.headers_mut();
    if is_replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    if let Some(url) = ack_url.filter(|_| is_late)
        && let Ok(url) = HeaderValue::from_str(&url)
    {
        headers.insert(header::LOCATION, url);
    }
    response
}

/// The answer's body. Its names are written as they are: to derive it takes twice as long, which is
/// as much as to split a small event.
fn document(
    stored: &Stored,
    ack_url: Option<&str>,
    request_id: Option<&str>,
    told: &Told,
) -> Result<Vec<u8>, serde_json::Error> {
    fn put(to: &mut Vec<u8>, name: &str, value: &impl Serialize) -> Result<(), serde_json::Error> {
        to.extend_from_slice(name.as_bytes());
        serde_json::to_writer(to, value)
    }
    // Room for the usual one, which would else be copied while it grows.
    let mut body = Vec::with_capacity(512);
    let to = &mut body;
    put(to, r#"{"accepted":"#, &stored.accepted)?;
    put(to, r#","rejected":"#, &stored.rejected)?;
    put(to, r#","duplicates":"#, &stored.duplicates)?;
    put(to, r#","topic":"#, &stored.topic)?;
    put(to, r#","partitions":"#, &stored.spans)?;
    put(to, r#","ack":"#, &stored.ack.as_str())?;
    put(to, r#","write_id":"#, &stored.write_id)?;
    put(to, r#","request_id":"#, &request_id)?;
    put(to, r#","duplicate":"#, &stored.duplicate)?;
    if let Some(url) = ack_url {
        put(to, r#","ack_url":"#, &url)?;
    }
    if !stored.errors.is_empty() {
        let listed = stored.errors.len().min(ERRORS_MAX);
        put(to, r#","errors":"#, &&stored.errors[..listed])?;
    }
    if let Some(stopped_at) = &told.stopped_at {
        put(to, r#","stopped_at":"#, stopped_at)?;
    }
    body.push(b'}');
    Ok(body)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::http::ingest::event::Span;
    use crate::http::problem::EventError;

    #[test]
    fn the_answer_is_the_document_that_is_described() {
        let spans = vec![Span { partition: 2, first_offset: 5, last_offset: 6 }];
        let error = |index| EventError {
            index,
            offset_bytes: 9,
            field: Some("$.\"a\"".to_owned()),
            code: "bad_key",
            message: "line\nbreak".to_owned(),
        };
        let stored = Stored {
            accepted: 2,
            rejected: 101,
            spans,
            errors: (0..101).map(error).collect(),
            write_id: Some(Uuid::nil()),
            ..Stored::nothing("orders")
        };
        let read = |body: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&body).unwrap();
        let stopped_at = split::split(b"[1,{]", Form::Json, 9).stopped_at();
        let told = Told { minimal: false, stopped_at };
        let whole = document(&stored, Some("/api/v1/acks/x"), Some("a\"b"), &told);
        let mut whole = read(whole.unwrap());
        let errors = whole.as_object_mut().unwrap().remove("errors").unwrap();
        assert_eq!(errors.as_array().unwrap().len(), ERRORS_MAX);
        assert_eq!(errors[0]["field"], "$.\"a\"");
        let wanted = json!({
            "accepted": 2, "rejected": 101, "duplicates": 0, "topic": "orders",
            "partitions": [{"partition": 2, "first_offset": 5, "last_offset": 6}],
            "ack": "durable", "write_id": Uuid::nil(), "request_id": "a\"b", "duplicate": false,
            "ack_url": "/api/v1/acks/x", "stopped_at": {"index": 1, "offset_bytes": 3},
        });
        assert_eq!(whole, wanted);
        let told = Told { minimal: false, stopped_at: None };
        let short = read(document(&Stored::nothing("t"), None, None, &told).unwrap());
        let none = (&short["write_id"], &short["request_id"], &short["partitions"]);
        assert_eq!(none, (&json!(null), &json!(null), &json!([])));
        assert!(["ack_url", "errors", "stopped_at"].iter().all(|name| short.get(name).is_none()));
    }
}
