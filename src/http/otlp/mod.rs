//! OpenTelemetry over HTTP: logs, spans and metric points, as protobuf or JSON. Each becomes an event
//! of its own, a flat JSON object. Source: OTLP 1.9, OTLP/HTTP.
//!
//! Owns: the way from a request to its records, their flat form, answers. Does not own: the append
//! (`ingest`).
//!
//! Reading order: here, `records`, `flatten`, `answer`. Most of a request is never decoded at once:
//! `wire` and `encoding` find the bytes of its records, `model`, `points` and `json` say what one is.

mod answer;
pub(crate) mod encoding;
mod flatten;
mod json;
mod model;
mod object;
mod points;
pub(crate) mod records;
pub(in crate::http) mod sources;
mod wire;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::{MethodRouter, post};

use crate::http::Api;
use crate::http::auth::{self, Caller};
use crate::http::ingest::body::{self, Decoded};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{OnError, Stored, Terms};
use crate::http::ingest::identity::Identity;
use crate::http::ingest::keys;
use crate::http::ingest::rate::Sender;
use crate::http::ingest::shared;
use crate::http::problem::Problem;
use crate::types::Signal;

use encoding::Encoding;
use records::{Limits, Records};

/// Names the topic where the path and the parameter do not.
const STREAM: &str = "x-stream";

/// All routes.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/logs", export(Signal::Logs))
        .route("/v1/traces", export(Signal::Traces))
        .route("/v1/metrics", export(Signal::Metrics))
        .route("/otlp/{topic}/v1/logs", export_to(Signal::Logs))
        .route("/otlp/{topic}/v1/traces", export_to(Signal::Traces))
        .route("/otlp/{topic}/v1/metrics", export_to(Signal::Metrics))
        .merge(sources::routes())
        .method_not_allowed_fallback(method_not_allowed)
}

async fn method_not_allowed(headers: HeaderMap) -> Response {
    let detail = "see /openapi.json for what is allowed here";
    refusal(&headers, Problem::new("method_not_allowed", detail))
}

/// True for paths whose clients read errors in this protocol's form.
pub(super) fn is_route(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["", "v1", signal] => Signal::parse(signal).is_some(),
        ["", "otlp", topic, "v1", signal] => !topic.is_empty() && Signal::parse(signal).is_some(),
        _ => sources::has_secret(path),
    }
}

/// A refusal in the encoding of the request.
pub(super) fn refusal(headers: &HeaderMap, problem: Problem) -> Response {
    answer::refused(Encoding::named(headers).unwrap_or(Encoding::Json), problem)
}

fn export(signal: Signal) -> MethodRouter<Api> {
    post(move |State(api): State<Api>, request: Request| async move {
        take(&api, signal, None, request).await
    })
}

fn export_to(signal: Signal) -> MethodRouter<Api> {
    post(move |State(api): State<Api>, Path(topic): Path<String>, request: Request| async move {
        take(&api, signal, Some(topic), request).await
    })
}

async fn take(api: &Api, signal: Signal, topic: Option<String>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let stored = store(api, signal, topic, &parts, body).await;
    answered(&parts.headers, signal, stored)
}

/// The answer to a request of these headers; nothing was stored of one without records.
fn answered(
    headers: &HeaderMap,
    signal: Signal,
    stored: Result<Option<Stored>, Problem>,
) -> Response {
    match stored {
        // The encoding is known of what was stored.
        Ok(stored) => {
            let encoding = Encoding::of(headers).unwrap_or(Encoding::Json);
            let (rejected, errors) = stored.map_or((0, Vec::new()), |it| (it.rejected, it.errors));
            answer::stored(encoding, signal, rejected, &errors)
        }
        Err(problem) => refusal(headers, problem),
    }
}

/// Largest body, bytes: 20 MiB, as the protocol has it, where the option is what it is by default.
fn body_limit(api: &Api) -> usize {
    api.options.body_max_bytes / 4 * 5
}

async fn read_body(
    api: &Api,
    (from, topic): (Sender<'_>, &str),
    parts: &Parts,
    body: Body,
) -> Result<Decoded, Problem> {
    let (limit, to) = (body_limit(api), api.engine.to(topic));
    let read = api.engine.read(from, Some(to), &parts.headers, body, limit).await;
    read.map_err(|problem| match problem.code() {
        "too_large" if problem.max_bytes().is_some() => problem.detailed(format!(
            "the body is larger than {limit} bytes, 5/4 of http.body.max.bytes: send less at once"
        )),
        _ => problem,
    })
}

/// What is known before the body is read.
struct Head {
    encoding: Encoding,
    topic: String,
    identity: Identity,
    caller: Caller,
}

/// Stores the records of a request; none if it has none.
async fn store(
    api: &Api,
    signal: Signal,
    topic: Option<String>,
    parts: &Parts,
    body: Body,
) -> Result<Option<Stored>, Problem> {
    let limit = body_limit(api);
    let head = match head(api, signal, topic, parts) {
        Ok(head) => head,
        Err(problem) => return Err(body::refuse(&parts.headers, body, limit, problem).await),
    };
    let Head { encoding, topic, identity, caller } = head;
    let read = read_body(api, (Sender::of(&caller), &topic), parts, body).await?;
    let Decoded { bytes, share, until, .. } = read;
    let principal = caller.key().to_owned();
    // Records take the resource and the scope that they share each for itself.
    let bytes_max = shared::bytes_max(limit);
    let limits = Limits { events_max: api.options.events_max, bytes_max };
    let size_bytes = bytes.len();
    let take_apart = move || {
        let once =
            identity.once(&principal, || keys::hash(&[&bytes, usual_topic(signal).as_bytes()]));
        Ok(Records::new(bytes, encoding, signal, limits).map(|records| (records, once)))
    };
    let (records, once) = off_worker(size_bytes, take_apart).await??;
    if records.is_empty() {
        return Ok(None);
    }
    let terms = Terms { on_error: OnError::Skip, once, ..Terms::new(until) };
    api.engine.append(&topic, records, share, terms).await.map(Some)
}

fn head(api: &Api, signal: Signal, topic: Option<String>, parts: &Parts) -> Result<Head, Problem> {
    if let Some(problem) = api.not_ready() {
        return Err(problem.closing());
    }
    let topic = match topic {
        Some(topic) => topic,
        None => named(parts)?.unwrap_or_else(|| usual_topic(signal).to_owned()),
    };
    let caller = Caller::of(parts)?;
    auth::may_write_events(api, &caller, &topic)?;
    let encoding = Encoding::of(&parts.headers)?;
    let known = api.engine.topic(&topic)?;
    let by_body = api.engine.counts_by_body(&topic, known.as_deref());
    let identity = Identity::of(&parts.headers)?.or_body(by_body);
    Ok(Head { encoding, topic, identity, caller })
}

/// The topic of requests that name none.
fn usual_topic(signal: Signal) -> &'static str {
    match signal {
        Signal::Logs => "otel_logs",
        Signal::Traces => "otel_traces",
        Signal::Metrics => "otel_metrics",
    }
}

/// The topic that the parameter `topic` or a header names. Other parameters are nothing to us.
fn named(parts: &Parts) -> Result<Option<String>, Problem> {
    let query = parts.uri.query().unwrap_or_default();
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query)
        .map_err(|error| Problem::new("bad_request", error.to_string()))?;
    let parameter = pairs.into_iter().find(|(name, _)| name == "topic").map(|(_, topic)| topic);
    let header = || parts.headers.get(STREAM).and_then(|value| value.to_str().ok());
    Ok(parameter.or_else(|| header().map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_known_by_their_path() {
        for (path, wanted) in [
            ("v1/logs", true),
            ("v1/traces", true),
            ("v1/metrics", true),
            ("otlp/a/v1/logs", true),
            ("v1/branches", false),
            ("otlp//v1/logs", false),
            ("otlp/a/b/v1/logs", true),
            ("otlp/a/b/c/v1/logs", true),
            ("otlp/a/b/c/d/v1/logs", false),
            ("v3/v1/logs", false),
            ("v1/logs/x", false),
        ] {
            assert_eq!(is_route(&format!("/{path}")), wanted, "{path}");
        }
    }
}
