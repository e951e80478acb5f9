//! `POST /sources/{source}/{secret}`: a whole request is one record of the source's topic, unless the
//! source wants it split. The secret in the path stands for a token.
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
use tokio::time::Instant;

use crate::http::Api;
use crate::http::credentials;
use crate::http::ingest::body::{self, Decoded, Share};
use crate::http::ingest::engine::{off_worker, refusal};
use crate::http::ingest::event::{self, Ack, Event, Header, Once, Span, Stored, Terms};
use crate::http::ingest::identity::Identity;
use crate::http::ingest::keys;
use crate::http::ingest::rate::Sender;
use crate::http::ingest::split::{self, Form};
use crate::http::problem::{EventError, Problem};
use crate::http::request_id;
use crate::sink::Sink;
use crate::source::{Kind, Source, Split};
use crate::tier::rows::HEADER_IP;

/// What lies below needs a secret instead of a token.
pub(super) const PREFIX: &str = "/sources/";

/// Headers that each record of a split request has may take so many times the largest body.
const SHARED_FACTOR: usize = 4;

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
    let ack = if waits(&arrived.source, None) { Ack::Logged } else { Ack::Accepted };
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
    /// Of each record.
    pub(super) bodies: Vec<Bytes>,
    /// Of all records.
    pub(super) headers: Vec<Header>,
    share: Share,
    until: Instant,
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
    let principal = format!("source:{}", source.id);
    let (from, to) = (Sender::named(&principal), api.engine.to(&source.wish.topic));
    let read = api.engine.read(from, Some(to), &parts.headers, body, limit).await?;
    let Decoded { bytes, share, until, .. } = read;
    let form = form(source.wish.split, &parts.headers, &bytes);
    let events_max = api.options.events_max;
    let taken_apart = off_worker(bytes.len(), move || {
        let once = identity.once(&principal, || keys::hash(&[&bytes]));
        let bodies = match form {
            None => Ok(vec![bytes]),
            Some(form) => pieces(&bytes, form, events_max),
        };
        Ok(bodies.map(|bodies| (bodies, once)))
    });
    let (bodies, once) = taken_apart.await??;
    let mut headers = headers(parts);
    if form.is_some() {
        say_json(&mut headers);
        check_shared(&headers, bodies.len(), limit.saturating_mul(SHARED_FACTOR))?;
    }
    Ok(Arrived { source, bodies, headers, share, until, once })
}

/// How a body is told apart; none if it is one record.
fn form(split: Split, headers: &HeaderMap, body: &[u8]) -> Option<Form> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_lines = || kind.is_some_and(split::is_lines);
    let is_array = || body.trim_ascii_start().first() == Some(&b'[');
    match split {
        Split::Ndjson => Some(Form::Lines),
        Split::Auto if is_lines() => Some(Form::Lines),
        Split::Array | Split::Auto if is_array() => Some(Form::Json),
        _ => None,
    }
}

/// The records of a body; all or nothing.
fn pieces(body: &Bytes, form: Form, events_max: usize) -> Result<Vec<Bytes>, Problem> {
    let found = split::split(body, form, events_max);
    if !found.errors.is_empty() {
        return Err(refusal(found.errors));
    }
    Ok(found.events.into_iter().map(|(_, range)| body.slice(range)).collect())
}

/// Says of records that they are JSON, whatever they came in.
pub(super) fn say_json(headers: &mut Vec<Header>) {
    headers.retain(|(name, _)| *name != header::CONTENT_TYPE.as_str());
    let json = Bytes::from_static(b"application/json");
    headers.push((Bytes::from_static(b"content-type"), Some(json)));
}

/// True if the answer to what goes to `sink` waits for the disk.
pub(super) fn waits(source: &Source, sink: Option<&Sink>) -> bool {
    sink.and_then(|sink| sink.wish.wait).or(source.wish.wait).unwrap_or(true)
}

/// What an answer to all `sinks` waits for. The record is one for all of them: who waits is told of
/// it, who does not has what it wants.
pub(super) fn ack(source: &Source, sinks: &[Arc<Sink>]) -> Ack {
    let nobody_waits = !sinks.is_empty() && !sinks.iter().any(|sink| waits(source, Some(sink)));
    if nobody_waits { Ack::Accepted } else { Ack::Logged }
}

/// Names and values of headers, bytes.
pub(super) fn size_bytes(headers: &[Header]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len)).sum()
}

/// Checks how much becomes of headers that each record of a request has: small events would make
/// thousandfold of them.
pub(super) fn check_shared(
    headers: &[Header],
    records: usize,
    bytes_max: usize,
) -> Result<(), Problem> {
    let bytes = size_bytes(headers);
    if bytes.saturating_mul(records) <= bytes_max {
        return Ok(());
    }
    let detail = format!(
        "{records} records with headers of {bytes} bytes each take more than {bytes_max} bytes: \
         send fewer events at once, or fewer headers"
    );
    Err(Problem::new("too_large", detail))
}

/// The records of a request, which have its headers in common.
struct Records {
    bodies: Vec<Bytes>,
    headers: Vec<Header>,
}

impl event::Source for Records {
    fn size_bytes(&self) -> usize {
        self.bodies.iter().map(Bytes::len).sum()
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        self.bodies.get(error.index).map(|body| &body[..]).unwrap_or_default()
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        for (index, body) in self.bodies.iter().enumerate() {
            let (value, headers) = (Some(&body[..]), &self.headers[..]);
            take(Ok(Event { index, value, headers, ..Event::default() }));
        }
    }
}

/// Makes a request records of its source's topic; nothing of an empty array.
///
/// # Errors
/// As the engine's `append`.
pub(super) async fn append(api: &Api, arrived: Arrived, ack: Ack) -> Result<Stored, Problem> {
    let Arrived { source, bodies, headers, share, until, once } = arrived;
    if bodies.is_empty() {
        return Ok(Stored::nothing(&source.wish.topic));
    }
    let records = Records { bodies, headers };
    let (topic, terms) = (&source.wish.topic, Terms { once, ack, ..Terms::new(until) });
    let stored = api.engine.append(topic, records, share, terms).await;
    stored.map_err(|problem| api.engine.told(topic, problem))
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
    let source = opened(api, (id, secret), Kind::Http)?;
    let identity = identity(api, &source, headers)?;
    Ok((source, identity))
}

/// The source of that id and kind, if the secret is its own and it takes something.
///
/// # Errors
/// `unknown_source`, whichever of the three is wrong: that is nobody's business; `source_disabled`.
pub(super) fn opened(
    api: &Api,
    (id, secret): (&str, &str),
    kind: Kind,
) -> Result<Arc<Source>, Problem> {
    let source = api.sources.get(id).filter(|source| source.is_opened_by(secret));
    let source = source.filter(|source| source.wish.kind == kind).ok_or_else(unknown)?;
    if !source.wish.enabled {
        return Err(Problem::new("source_disabled", "the source is disabled"));
    }
    Ok(source)
}

/// The problem of a wrong id or secret.
pub(super) fn unknown() -> Problem {
    Problem::new("unknown_source", "there is no source with this id and secret")
}

/// What tells a request to the source from a repeat.
pub(super) fn identity(
    api: &Api,
    source: &Source,
    headers: &HeaderMap,
) -> Result<Identity, Problem> {
    let identity = Identity::of(headers)?;
    let known = api.engine.topic(&source.wish.topic)?;
    let by_body = api.engine.counts_by_body(&source.wish.topic, known.as_deref());
    Ok(identity.or_body(by_body))
}

/// True for a header that a record has of its request.
pub(super) fn is_kept(name: &HeaderName) -> bool {
    !credentials::is_secret(name)
        && !OF_THE_CONNECTION.contains(name)
        && !event::is_reserved(name.as_str().as_bytes())
}

/// The headers of the request as record headers, without credentials, and who sent it.
pub(super) fn headers(parts: &Parts) -> Vec<Header> {
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

/// Headers as a mapping sees them: without what is the server's own.
pub(super) fn seen(headers: &[Header]) -> Vec<(&[u8], Option<&[u8]>)> {
    let seen = headers.iter().filter(|(name, _)| !event::is_reserved(name));
    seen.map(|(name, value)| (&**name, value.as_deref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_told_apart_as_its_source_wants_it() {
        let of = |split: Split, kind: &str, body: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            let body = Bytes::from_static(body.as_bytes());
            match form(split, &headers, &body) {
                None => Ok(vec![body]),
                Some(form) => pieces(&body, form, 3).map_err(|problem| problem.code()),
            }
        };
        let (json, lines) = ("application/json", "application/x-ndjson; charset=utf-8");
        let array = " [{\"a\": 1}, 2]";
        let whole = |text: &'static str| Ok(vec![Bytes::from_static(text.as_bytes())]);
        let two = Ok(vec![Bytes::from_static(b"{\"a\": 1}"), Bytes::from_static(b"2")]);
        for split in [Split::Array, Split::Auto] {
            assert_eq!(of(split, json, array), two, "{split:?}");
            assert_eq!(of(split, json, "{\"a\": [1]}"), whole("{\"a\": [1]}"), "{split:?}");
            assert_eq!(of(split, json, "[]"), Ok(vec![]), "{split:?}");
            assert_eq!(of(split, json, "[1,"), Err("invalid_json"), "{split:?}");
            assert_eq!(of(split, json, "[1,2,3,4]"), Err("too_large"), "{split:?}");
        }
        assert_eq!(of(Split::Auto, lines, "{\"a\": 1}\n2\n"), two);
        assert_eq!(of(Split::Ndjson, json, "{\"a\": 1}\n\n2"), two);
        assert_eq!(of(Split::Array, lines, "1\n2"), whole("1\n2"));
        assert_eq!(of(Split::None, json, array), whole(array));
    }

    #[test]
    fn headers_of_many_records_are_bounded() {
        let headers = [(Bytes::from_static(b"name"), Some(Bytes::from_static(b"value")))];
        assert_eq!(check_shared(&headers, 10, 90), Ok(()));
        for (records, bytes_max) in [(11, 90), (usize::MAX, 90)] {
            let refused = check_shared(&headers, records, bytes_max).unwrap_err();
            assert_eq!(refused.code(), "too_large");
        }
    }
}
