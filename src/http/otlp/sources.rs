//! The routes of sources of type `otlp`, which Keboola's clients know: the secret of the source is in
//! the path, or the bearer token. Records go to the topic of the source with what its sinks may ask of
//! them: the headers of the request, the signal, the address of the sender.
//!
//! ```text
//! POST /otlp/{project}/{source}/{secret}/v1/{logs|metrics|traces}
//! POST /otlp/{project}/{source}/v1/{logs|metrics|traces}             Authorization: Bearer SECRET
//! ```
//!
//! A record that a sink has no row of is refused, and the others are stored (OTLP/HTTP, "Partial
//! Success").

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::encoding::Encoding;
use super::records::{Limits, Records};
use super::{answered, body_limit, read_body};
use crate::http::Api;
use crate::http::credentials;
use crate::http::ingest::body::{self, Decoded};
use crate::http::ingest::engine::{self, CONFIRM_MIN, off_worker};
use crate::http::ingest::event::{Event, Header, OnError, Source as Events, Stored, Terms};
use crate::http::ingest::identity::Identity;
use crate::http::ingest::keys;
use crate::http::ingest::rate::Sender;
use crate::http::ingest::shared;
use crate::http::problem::{EventError, Problem};
use crate::http::sources;
use crate::http::trial::{NoRow, Refuse, Trial, event_error};
use crate::sink::Sink;
use crate::sink::mapping;
use crate::source::{Kind, Source};
use crate::tier::rows::HEADER_SIGNAL;
use crate::types::Signal;

/// What a route names: project, source, and the secret unless a header has it.
type Address = (String, String, Option<String>);

/// All routes.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/otlp/{project}/{source}/v1/logs", by_header(Signal::Logs))
        .route("/otlp/{project}/{source}/v1/metrics", by_header(Signal::Metrics))
        .route("/otlp/{project}/{source}/v1/traces", by_header(Signal::Traces))
        .route("/otlp/{project}/{source}/{secret}/v1/logs", by_path(Signal::Logs))
        .route("/otlp/{project}/{source}/{secret}/v1/metrics", by_path(Signal::Metrics))
        .route("/otlp/{project}/{source}/{secret}/v1/traces", by_path(Signal::Traces))
}

/// True for paths that need the secret of a source instead of a token.
pub(in crate::http) fn has_secret(path: &str) -> bool {
    // Most are elsewhere.
    if !path.trim_start_matches('/').starts_with("otlp/") {
        return false;
    }
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["", "otlp", .., "v1", signal] => {
            let named = &parts[2..parts.len() - 2];
            matches!(named.len(), 2 | 3)
                && named.iter().all(|part| !part.is_empty())
                && Signal::parse(signal).is_some()
        }
        _ => false,
    }
}

fn by_header(signal: Signal) -> MethodRouter<Api> {
    let take = move |State(api): State<Api>, Path((project, source)), request: Request| async move {
        take(&api, signal, (project, source, None), request).await
    };
    post(take)
}

fn by_path(signal: Signal) -> MethodRouter<Api> {
    let take = move |State(api): State<Api>, Path(path), request: Request| async move {
        let (project, source, secret) = path;
        take(&api, signal, (project, source, Some(secret)), request).await
    };
    post(take)
}

async fn take(api: &Api, signal: Signal, address: Address, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let stored = store(api, signal, address, &parts, body).await;
    answered(&parts.headers, signal, stored)
}

/// Stores the records of a request; none if it has none.
async fn store(
    api: &Api,
    signal: Signal,
    address: Address,
    parts: &Parts,
    body: Body,
) -> Result<Option<Stored>, Problem> {
    let limit = body_limit(api);
    let (source, encoding, identity) = match head(api, address, parts) {
        Ok(head) => head,
        Err(problem) => return Err(body::refuse(&parts.headers, body, limit, problem).await),
    };
    let (principal, topic) = (format!("source:{}", source.id), &source.wish.topic);
    let read = read_body(api, (Sender::named(&principal), topic), parts, body).await?;
    let Decoded { bytes, share, until, .. } = read;
    let sinks = sinks(api, &source, signal);
    let ack = sources::ack(&source, &sinks);
    let (headers, received_ms) = (headers(parts, signal), api.engine.now_ms());
    let (limits, size_bytes) = (limits(api), bytes.len());
    let take_apart = move || {
        let once = identity.once(&principal, || keys::hash(&[&bytes, signal.as_str().as_bytes()]));
        let records = Records::new(bytes, encoding, signal, limits)?;
        let left = limits.bytes_max - records.size_bytes().min(limits.bytes_max);
        shared::check(shared::size_bytes(&headers), records.len(), left)?;
        let refused = Vec::new();
        Ok((Mapped { records, headers, sinks, received_ms, refused }, once))
    };
    let (mut mapped, once) = off_worker(size_bytes, || Ok(take_apart())).await??;
    if mapped.records.is_empty() {
        return Ok(None);
    }
    if !api.engine.is_repeat(topic, &once).await {
        let tried = mapped.tried(api, until - CONFIRM_MIN).await;
        mapped = tried.map_err(|problem| api.engine.told(topic, problem))?;
    }
    let terms = Terms { on_error: OnError::Skip, once, ack, ..Terms::new(until) };
    let stored = api.engine.append(&source.wish.topic, mapped, share, terms).await;
    stored.map(Some).map_err(|problem| api.engine.told(&source.wish.topic, problem))
}

/// What can be said before the body is read.
fn head(
    api: &Api,
    (project, id, secret): Address,
    parts: &Parts,
) -> Result<(Arc<Source>, Encoding, Identity), Problem> {
    if let Some(problem) = api.not_ready() {
        return Err(problem.closing());
    }
    let number: Option<u64> = project.parse().ok();
    let number = number
        .ok_or_else(|| Problem::new("bad_request", format!("invalid project ID {project:?}")))?;
    let secret = secret.or_else(|| credentials::bearer(&parts.headers)).ok_or_else(|| {
        let detail =
            "send the secret of the source: `Authorization: Bearer SECRET`, or in the path";
        Problem::new("missing_token", detail)
    })?;
    if number != api.options.keboola_project {
        return Err(sources::unknown());
    }
    let source = sources::opened(api, (&id, &secret), Kind::Otlp)?;
    let encoding = Encoding::of(&parts.headers)?;
    let identity = sources::identity(api, &source, &parts.headers)?;
    Ok((source, encoding, identity))
}

/// The sinks that take records of the signal.
fn sinks(api: &Api, source: &Source, signal: Signal) -> Vec<Arc<Sink>> {
    let mut sinks = api.sinks_of(&source.wish.topic);
    sinks.retain(|sink| sink.is_on() && sink.wish.takes(signal));
    sinks
}

fn limits(api: &Api) -> Limits {
    let bytes_max = shared::bytes_max(body_limit(api));
    Limits { events_max: api.options.events_max, bytes_max }
}

/// The headers of a request as each of its records has them.
fn headers(parts: &Parts, signal: Signal) -> Vec<Header> {
    let mut headers = sources::headers(parts);
    sources::say_json(&mut headers);
    let signal = Bytes::from_static(signal.as_str().as_bytes());
    headers.push((Bytes::from_static(HEADER_SIGNAL), Some(signal)));
    headers
}

/// The flat records of a body that comes with these headers, within `limits`; all or nothing.
///
/// # Errors
/// `unsupported_media_type`, `bad_request`, `too_large`, `invalid_events`.
pub(in crate::http) fn flat(
    headers: &HeaderMap,
    body: Bytes,
    signal: Signal,
    limits: Limits,
) -> Result<Vec<Bytes>, Problem> {
    let records = Records::new(body, Encoding::of(headers)?, signal, limits)?;
    let (mut flat, mut errors) = (Vec::with_capacity(records.len()), Vec::new());
    records.visit(&mut |event| match event {
        Ok(event) => flat.push(Bytes::copy_from_slice(event.value.unwrap_or_default())),
        Err(error) => errors.push(error),
    });
    if errors.is_empty() { Ok(flat) } else { Err(engine::refusal(errors)) }
}

/// Records that each sink which takes them has a row of.
struct Mapped {
    records: Records,
    /// Of each record.
    headers: Vec<Header>,
    sinks: Vec<Arc<Sink>>,
    received_ms: i64,
    /// Those that a template has no result of, in order of index.
    refused: Vec<EventError>,
}

impl Mapped {
    /// The same, where the templates of sinks that want it (`validate = sync`) were run.
    ///
    /// # Errors
    /// `overloaded` where they had no turn, or did not get through in time.
    async fn tried(self, api: &Api, until: Instant) -> Result<Self, Problem> {
        let mut sinks = self.sinks.clone();
        sinks.retain(|sink| sink.runs_templates_first());
        let (headers, received_ms) = (self.headers.clone(), self.received_ms);
        let trial = Trial { sinks, headers, received_ms, until, refuse: Refuse::Record };
        let (mapped, missing) = api.trials.of(self, trial).await?;
        Ok(Self { refused: missing.iter().map(NoRow::told).collect(), ..mapped })
    }
}

impl Events for Mapped {
    fn size_bytes(&self) -> usize {
        let headers = shared::size_bytes(&self.headers).saturating_mul(self.records.len());
        let all = self.records.size_bytes().saturating_add(headers);
        // Each sink looks at all of it.
        all.saturating_mul(self.sinks.len().max(1))
    }

    fn refused(&self) -> &[EventError] {
        &self.refused
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        self.records.raw(error)
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        let mut mappers: Vec<_> = self.sinks.iter().map(|sink| sink.mapping.compile()).collect();
        let seen = sources::seen(&self.headers);
        let (ip, id, received_ms) = (sources::ip(&self.headers), Uuid::nil(), self.received_ms);
        let mut refused = self.refused.iter().map(|error| error.index).peekable();
        self.records.visit(&mut |event| {
            let index = event.as_ref().map_or_else(|error| error.index, |event| event.index);
            if refused.next_if_eq(&index).is_some() {
                return;
            }
            take(event.and_then(|event| {
                let body = event.value.unwrap_or_default();
                let seen = mapping::Event { id, received_ms, ip, headers: &seen, body };
                let refused = mappers.iter_mut().zip(&self.sinks).find_map(|(mapper, sink)| {
                    let at = (event.index, event.offset_bytes);
                    mapper.check(&seen).err().map(|error| event_error(at, sink, &error))
                });
                match refused {
                    None => Ok(Event { headers: &self.headers, ..event }),
                    Some(refused) => Err(refused),
                }
            }));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_with_a_secret_are_known_by_their_path() {
        for (path, wanted) in [
            ("/otlp/1/shop/v1/logs", true),
            ("/otlp/1/shop/SECRET/v1/traces", true),
            ("/otlp/shop/v1/logs", false),
            ("/otlp/1/shop/v1/profiles", false),
            ("/otlp/1/shop/SECRET/more/v1/logs", false),
            ("/otlp//shop/v1/logs", false),
            ("/otlp/1/shop//v1/logs", false),
            ("/v1/logs", false),
        ] {
            assert_eq!(has_secret(path), wanted, "{path}");
        }
    }
}
