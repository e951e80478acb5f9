//! `POST /sources/{source}/{secret}`: a whole request is one record of the source's topic. The secret
//! in the path stands for a token.
//!
//! Owns: the order of checks, what of a request is stored. Does not own: sources and secrets
//! (`source`), what sinks make of the record (`sink`).

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::http::Api;
use crate::http::credentials;
use crate::http::ingest::body::{self, Decoded, Share};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{Ack, Header, Once, OwnedEvent, Span, Stored, Terms};
use crate::http::ingest::identity::Identity;
use crate::http::ingest::keys;
use crate::http::problem::Problem;
use crate::http::request_id;
use crate::source::Source;
use crate::tier::rows::HEADER_IP;
use crate::topic::options::Idempotency;

/// What lies below needs a secret instead of a token.
pub(super) const PREFIX: &str = "/sources/";

/// Headers that are of the connection, or of a coding that is undone.
const OF_THE_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
];

pub(super) async fn receive(
    State(api): State<Api>,
    Path((id, secret)): Path<(String, String)>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let (parts, body) = request.into_parts();
    let arrived = read(&api, (&id, &secret), &parts, body).await?;
    let waits = arrived.source.wish.wait.unwrap_or(true);
    let ack = if waits { Ack::Logged } else { Ack::Accepted };
    let stored = append(&api, arrived, ack).await?;
    let span = |span: &Span| {
        json!({
            "partition": span.partition,
            "first_offset": span.first_offset,
            "last_offset": span.last_offset,
        })
    };
    Ok(Json(json!({
        "accepted": stored.accepted,
        "topic": stored.topic,
        "partitions": stored.spans.iter().map(span).collect::<Vec<_>>(),
        "ack": stored.ack.as_str(),
        "duplicate": stored.duplicate,
        "request_id": request_id::current(),
    })))
}

/// A request to a source that may take it, as it will be stored.
pub(super) struct Arrived {
    pub(super) source: Arc<Source>,
    pub(super) body: Bytes,
    pub(super) headers: Vec<Header>,
    share: Share,
    once: Once,
}

/// Reads a request to the source of this id and secret.
///
/// # Errors
/// Every problem means that nothing is stored.
pub(super) async fn read(
    api: &Api,
    path: (&str, &str),
    parts: &Parts,
    body: Body,
) -> Result<Arrived, Problem> {
    let limit = api.options.body_max_bytes;
    let (source, identity) = match head(api, path, &parts.headers) {
        Ok(checked) => checked,
        Err(problem) => return Err(body::refuse(&parts.headers, body, limit, problem).await),
    };
    let Decoded { bytes, share } =
        body::read(&parts.headers, body, limit, api.engine.memory()).await?;
    let principal = format!("source:{}", source.id);
    let fingerprinted = bytes.clone();
    let once = off_worker(bytes.len(), move || {
        Ok(identity.once(&principal, || keys::hash(&[&fingerprinted])))
    });
    let (once, headers) = (once.await?, headers(parts));
    Ok(Arrived { source, body: bytes, headers, share, once })
}

/// Makes a request a record of its source's topic.
///
/// # Errors
/// As the engine's `append`.
pub(super) async fn append(api: &Api, arrived: Arrived, ack: Ack) -> Result<Stored, Problem> {
    let Arrived { source, body, headers, share, once } = arrived;
    let event = OwnedEvent { value: Some(body), headers, ..OwnedEvent::default() };
    let terms = Terms { once, ack, ..Terms::new() };
    api.engine.append(&source.wish.topic, vec![event], share, terms).await
}

/// What can be said before the body is read.
fn head(
    api: &Api,
    (id, secret): (&str, &str),
    headers: &HeaderMap,
) -> Result<(Arc<Source>, Identity), Problem> {
    if let Some(problem) = api.not_ready() {
        return Err(problem.closing());
    }
    // Which of the two is wrong is nobody's business.
    let source = api.sources.get(id).filter(|source| source.is_opened_by(secret));
    let unknown = || Problem::new("unknown_source", "there is no source with this id and secret");
    let source = source.ok_or_else(unknown)?;
    if !source.wish.enabled {
        return Err(Problem::new("source_disabled", "the source is disabled"));
    }
    let identity = Identity::of(headers)?;
    let known = api.engine.topic(&source.wish.topic)?;
    let idempotency = api.engine.idempotency(&source.wish.topic, known.as_deref());
    Ok((source, identity.or_body(idempotency == Idempotency::Body)))
}

/// The headers of the request as record headers, without credentials, and who sent it.
fn headers(parts: &Parts) -> Vec<Header> {
    let is_kept = |name: &HeaderName| {
        !credentials::is_secret(name)
            && !OF_THE_CONNECTION.contains(name)
            && name.as_str().as_bytes() != HEADER_IP
    };
    let kept = parts.headers.iter().filter(|(name, _)| is_kept(name)).map(|(name, value)| {
        let name = Bytes::copy_from_slice(name.as_str().as_bytes());
        (name, Some(Bytes::copy_from_slice(value.as_bytes())))
    });
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let ip = peer.map(|ConnectInfo(peer)| {
        let ip = peer.ip().to_canonical().to_string();
        (Bytes::from_static(HEADER_IP), Some(Bytes::from(ip)))
    });
    kept.chain(ip).collect()
}
