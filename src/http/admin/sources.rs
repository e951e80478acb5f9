//! `/api/v1/sources`: list, describe, make or replace, give another secret, delete, try out. All need
//! the right to alter the cluster: a source writes to its topic without a token.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::infer;
use super::page::{Asked, Page};
use super::patch::{self, Patch, Tries};
use super::precondition::{self, PutQuery};
use super::sinks;
use super::try_out::{Sample, try_out};
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::buffered::MANAGED_BYTES_MAX;
use crate::http::ingest::event::answer_by;
use crate::http::otlp::{self, records::Limits};
use crate::http::problem::Problem;
use crate::sink::Sink;
use crate::source::{self, Kind, Source, Wish};
use crate::types::{Expected, Signal};

/// Members of an answer that a wish may repeat: they are not its to say.
pub(in crate::http) const SHOWN_ONLY: [&str; 8] =
    ["id", "path", "sinks", "version", "created_ms", "created_by", "changed_ms", "changed_by"];

/// Most records that one test maps.
const SAMPLES_MAX: usize = 100;

pub(in crate::http) async fn list(
    State(api): State<Api>,
    caller: Caller,
    asked: Asked,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let page = Page::of(asked, api.sources.list(), |source| source.id.clone())?;
    Ok(page.answer("sources", |source| shown(&api, source)))
}

pub(in crate::http) async fn describe(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let source = existing(&api, &caller, &id)?;
    Ok(answer(StatusCode::OK, &api, &source))
}

/// Makes or replaces a source. With `dry_run=true` nothing is changed, and the answer shows what
/// would be.
pub(in crate::http) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let dry_run = precondition::dry_run(query)?;
    api.may_define(&caller, dry_run)?;
    let expected = precondition::expected(&headers)?;
    let wish: Wish = precondition::wish(&body, &SHOWN_ONLY, "invalid_source")?;
    store(&api, &caller, (&id, wish), expected, dry_run).await
}

/// Replaces some members of a source, on the road of [`put`].
pub(in crate::http) async fn patch(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    existing(&api, &caller, &id)?;
    let dry_run = precondition::dry_run(query)?;
    api.may_define(&caller, dry_run)?;
    let callers = precondition::expected(&headers)?;
    let patch = Patch::read(&headers, &body, &SHOWN_ONLY)?;
    let mut tries = Tries::new();
    loop {
        let source = existing(&api, &caller, &id)?;
        let expected = patch::expected(&callers, source.tag())?;
        let wish = patch.applied_to(&source.wish, "invalid_source")?;
        let stored = store(&api, &caller, (&id, wish), expected, dry_run).await;
        if !tries.again(&stored) {
            return stored;
        }
    }
}

async fn store(
    api: &Api,
    caller: &Caller,
    (id, wish): (&str, Wish),
    expected: Expected,
    dry_run: bool,
) -> Result<Response, Problem> {
    let put = api.sources.put(id, wish, caller.edit(), expected, dry_run).await;
    let (source, is_new) = put.map_err(|error| problem(&error))?;
    if !dry_run {
        let version = source.version;
        tracing::info!(source = id, version, by = caller.0.name(), "source changed");
    }
    let status = if is_new && !dry_run { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(status, api, &source))
}

/// Gives the source another secret; the one before opens nothing from then on.
pub(in crate::http) async fn rotate(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let expected = precondition::expected(&headers)?;
    let source = api.sources.rotate(&id, caller.edit(), expected).await;
    let source = source.map_err(|error| problem(&error))?;
    tracing::info!(source = id, by = caller.0.name(), "source has another secret");
    Ok(answer(StatusCode::OK, &api, &source))
}

/// Forgets a source. Its topic and the sinks of that stay.
pub(in crate::http) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    api.may_define(&caller, false)?;
    let expected = precondition::expected(&headers)?;
    api.sources.delete(&id, expected).await.map_err(|error| problem(&error))?;
    tracing::info!(source = id, by = caller.0.name(), "source deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Maps the request, as if it was one of the source, to the rows that its sinks would have of it.
/// Nothing is stored.
pub(in crate::http) async fn test(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Result<Query<SignalQuery>, QueryRejection>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let source = existing(&api, &caller, &id)?;
    let query = query.map_err(|error| Problem::new("bad_request", error.body_text()))?;
    let peer = peer.map(|Extension(ConnectInfo(peer))| peer);
    let samples = Samples::of(&api, &source, &query, (peer, headers, body)).await?;
    let mut tried = Vec::new();
    for sink in api.sinks_of(&source.wish.topic) {
        if !samples.are_for(&sink) {
            continue;
        }
        for (record, sample) in samples.each.iter().enumerate() {
            let row = try_out(&api.trials, &sink, sample, samples.until).await?;
            let mut row = row.unwrap_or_else(|error| sinks::refused(&sink, &error));
            if samples.signal.is_some() {
                row["record"] = record.into();
            }
            tried.push(row);
        }
    }
    Ok(Json(json!({ "source": source.id, "topic": source.wish.topic, "sinks": tried })))
}

/// Proposes a mapping for sinks of its topic, as the topic does.
pub(in crate::http) async fn infer(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let source = existing(&api, &caller, &id)?;
    infer::propose(&api, &source.wish.topic, &body).await
}

/// Which signal the body of a test is of.
#[derive(Deserialize)]
pub(in crate::http) struct SignalQuery {
    signal: Option<Signal>,
}

/// A request that is mapped as if it was one of a source.
pub(in crate::http) struct Samples {
    /// Its records.
    pub(in crate::http) each: Vec<Arc<Sample>>,
    /// When all rows must be known: of 100 records and 20 sinks each could take seconds.
    pub(in crate::http) until: Instant,
    /// Of all of them, if the source is of type `otlp`.
    signal: Option<Signal>,
}

impl Samples {
    /// The records that a request would be.
    ///
    /// # Errors
    /// `bad_request` without the signal of what a source of type `otlp` takes; `too_large` above 100
    /// records, or above the largest body with what they share; and as the source refuses it.
    pub(in crate::http) async fn of(
        api: &Api,
        source: &Source,
        query: &SignalQuery,
        (peer, headers, body): (Option<SocketAddr>, HeaderMap, Bytes),
    ) -> Result<Self, Problem> {
        let until = answer_by();
        if source.wish.kind == Kind::Http {
            let each = vec![Arc::new(Sample::new(api, peer, headers, body))];
            return Ok(Self { each, until, signal: None });
        }
        let signal = query.signal.ok_or_else(|| {
            let detail = "say what the body is: signal=logs, signal=metrics or signal=traces";
            Problem::new("bad_request", detail)
        })?;
        let limits = Limits { events_max: SAMPLES_MAX, bytes_max: MANAGED_BYTES_MAX };
        let named = headers.clone();
        let flat = move || otlp::sources::flat(&named, body, signal, limits);
        let flat = tokio::task::spawn_blocking(flat).await;
        let flat = flat.map_err(|_| Problem::new("internal", "reading the records failed"))??;
        let mut headers = headers;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sample = |body| Arc::new(Sample::new(api, peer, headers.clone(), body));
        Ok(Self { each: flat.into_iter().map(sample).collect(), until, signal: Some(signal) })
    }

    /// True if the sink takes such records.
    pub(in crate::http) fn are_for(&self, sink: &Sink) -> bool {
        self.signal.is_none_or(|signal| sink.wish.takes(signal))
    }
}

fn existing(api: &Api, caller: &Caller, id: &str) -> Result<Arc<Source>, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let unknown = || problem(&source::Error::Unknown(id.chars().take(100).collect()));
    api.sources.get(id).ok_or_else(unknown)
}

fn answer(status: StatusCode, api: &Api, source: &Source) -> Response {
    let tag = [(header::ETAG, format!("\"{}\"", source.tag()))];
    (status, tag, Json(shown(api, source))).into_response()
}

fn shown(api: &Api, source: &Source) -> Value {
    let sinks = api.sinks_of(&source.wish.topic);
    let (id, secret) = (&source.id, &source.secret);
    let path = match source.wish.kind {
        Kind::Http => format!("/sources/{id}/{secret}"),
        Kind::Otlp => format!("/otlp/{}/{id}/{secret}", api.options.keboola_project),
    };
    json!({
        "id": source.id,
        "type": source.wish.kind,
        "name": source.wish.name,
        "description": source.wish.description,
        "topic": source.wish.topic,
        "enabled": source.wish.enabled,
        "commit": source.wish.commit,
        "staging": source.wish.staging,
        "wait": source.wish.wait.unwrap_or(true),
        "split": source.wish.split,
        "path": path,
        "sinks": sinks.iter().map(|sink| sink.id.clone()).collect::<Vec<_>>(),
        "version": source.version,
        "created_ms": source.trail.created.at_ms,
        "created_by": source.trail.created.by,
        "changed_ms": source.trail.changed.at_ms,
        "changed_by": source.trail.changed.by,
    })
}

pub(in crate::http) fn problem(error: &source::Error) -> Problem {
    let code = match error {
        source::Error::Invalid(_) => "invalid_source",
        source::Error::Precondition(_) => "precondition_failed",
        source::Error::Unknown(_) => "unknown_source",
        source::Error::TooMany => "limit_reached",
        source::Error::Store(_) => "internal",
    };
    Problem::new(code, error.to_string())
}
