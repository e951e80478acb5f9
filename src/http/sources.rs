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
use uuid::Uuid;

use crate::http::Api;
use crate::http::credentials;
use crate::http::ingest::body::{self, Decoded, Share};
use crate::http::ingest::engine::{CONFIRM_MIN, off_worker, refusal};
use crate::http::ingest::event::{self, Ack, Event, Header, Once, Span, Stored, Terms};
use crate::http::ingest::identity::Identity;
use crate::http::ingest::keys;
use crate::http::ingest::rate::Sender;
use crate::http::ingest::shared;
use crate::http::ingest::split::{self, Form};
use crate::http::problem::{EventError, Problem};
use crate::http::request_id;
use crate::http::trial::{NoRow, Refuse, Trial};
use crate::sink::mapping;
use crate::sink::{Sink, Validate};
use crate::source::{Kind, Source, Split};
use crate::tier::rows::HEADER_IP;

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
    let mut sinks = api.sinks_of(&arrived.source.wish.topic);
    sinks.retain(|sink| sink.is_on() && sink.wish.validate == Validate::Sync);
    let (arrived, missing) = check(&api, arrived, &sinks).await?;
    if !missing.is_empty() {
        let mut errors: Vec<EventError> = missing.iter().map(NoRow::told).collect();
        errors.sort_by_key(|error| error.index);
        errors.dedup_by_key(|error| error.index);
        return Err(refusal(errors));
    }
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
    records: Records,
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
    let Decoded { bytes, mut share, until, .. } = read;
    let (form, size) = (form(source.wish.split, &parts.headers, &bytes), (limit, bytes.len()));
    let events_max = api.options.events_max;
    let sender = principal.clone();
    let taken_apart = off_worker(bytes.len(), move || {
        let once = identity.once(&principal, || keys::hash(&[&bytes]));
        let bodies = match form {
            None => Ok(vec![(0, bytes)]),
            Some(form) => pieces(&bytes, form, events_max),
        };
        Ok(bodies.map(|bodies| (bodies, once)))
    });
    let (bodies, once) = taken_apart.await??;
    let mut headers = headers(parts);
    if form.is_some() {
        say_json(&mut headers);
        let (from, each) = (Sender::named(&sender), shared::size_bytes(&headers));
        share = api.engine.hold_shared(from, (each, bodies.len()), size, share).await?;
    }
    Ok(Arrived { source, records: Records { bodies, headers }, share, until, once })
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

/// The records of a body and where each starts in it; all or nothing.
fn pieces(body: &Bytes, form: Form, events_max: usize) -> Result<Vec<(usize, Bytes)>, Problem> {
    let found = split::split(body, form, events_max);
    if !found.errors.is_empty() {
        return Err(refusal(found.errors));
    }
    let pieces = found.events.into_iter().map(|(_, range)| (range.start, body.slice(range)));
    Ok(pieces.collect())
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

/// The records of a request, which have its headers in common.
struct Records {
    /// With where each starts in the request's, bytes.
    bodies: Vec<(usize, Bytes)>,
    headers: Vec<Header>,
}

impl event::Source for Records {
    fn size_bytes(&self) -> usize {
        let headers = shared::size_bytes(&self.headers).saturating_mul(self.bodies.len());
        self.bodies.iter().map(|(_, body)| body.len()).sum::<usize>().saturating_add(headers)
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        self.bodies.get(error.index).map(|(_, body)| &body[..]).unwrap_or_default()
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        for (index, (offset_bytes, body)) in self.bodies.iter().enumerate() {
            let (value, headers) = (Some(&body[..]), &self.headers[..]);
            let offset_bytes = *offset_bytes;
            take(Ok(Event { index, offset_bytes, value, headers, ..Event::default() }));
        }
    }
}

/// Which of the `sinks` have no row of the request, and of which record of it. Templates are run for
/// those that want it (`validate = sync`), and only if no sink refuses the request without them. A
/// request that is stored already lacks nothing.
///
/// # Errors
/// `overloaded` where templates had no turn, or did not get through in time; nothing is stored then.
pub(super) async fn check(
    api: &Api,
    arrived: Arrived,
    sinks: &[Arc<Sink>],
) -> Result<(Arrived, Vec<NoRow>), Problem> {
    if sinks.is_empty() {
        return Ok((arrived, Vec::new()));
    }
    if api.engine.is_repeat(&arrived.source.wish.topic, &arrived.once).await {
        return Ok((arrived, Vec::new()));
    }
    let Arrived { source, records, share, until, once } = arrived;
    let received_ms = api.engine.now_ms();
    let (bytes, all) = (event::Source::size_bytes(&records), sinks.to_vec());
    let checked = off_worker(bytes, move || {
        let missing: Vec<NoRow> =
            all.iter().filter_map(|sink| records.missing(sink, received_ms)).collect();
        Ok((records, missing))
    });
    let (mut records, mut missing) = checked.await?;
    if missing.is_empty() {
        let mut sinks = sinks.to_vec();
        sinks.retain(|sink| sink.runs_templates_first());
        let (headers, until) = (records.headers.clone(), until - CONFIRM_MIN);
        let trial = Trial { sinks, headers, received_ms, until, refuse: Refuse::Request };
        let tried = api.trials.of(records, trial).await;
        let tried = tried.map_err(|problem| api.engine.told(&source.wish.topic, problem));
        (records, missing) = tried?;
    }
    Ok((Arrived { source, records, share, until, once }, missing))
}

impl Records {
    /// The first record that the sink has no row of, whatever its templates say.
    fn missing(&self, sink: &Arc<Sink>, received_ms: i64) -> Option<NoRow> {
        let mut mapper = sink.mapping.compile();
        let (headers, ip) = (seen(&self.headers), ip(&self.headers));
        let mut bodies = self.bodies.iter().enumerate();
        bodies.find_map(|(index, (offset_bytes, body))| {
            let (id, headers) = (Uuid::nil(), &headers[..]);
            let error =
                mapper.check(&mapping::Event { id, received_ms, ip, headers, body }).err()?;
            Some(NoRow { sink: Arc::clone(sink), index, offset_bytes: *offset_bytes, error })
        })
    }
}

/// Makes a request records of its source's topic; nothing of an empty array.
///
/// # Errors
/// As the engine's `append`.
pub(super) async fn append(api: &Api, arrived: Arrived, ack: Ack) -> Result<Stored, Problem> {
    let Arrived { source, records, share, until, once } = arrived;
    if records.bodies.is_empty() {
        return Ok(Stored::nothing(&source.wish.topic));
    }
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

/// Who sent a request of these headers, as [`headers`] has it.
pub(super) fn ip(headers: &[Header]) -> Option<&str> {
    let own = headers.iter().find(|(name, _)| name == HEADER_IP);
    own.and_then(|(_, ip)| std::str::from_utf8(ip.as_deref()?).ok())
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
                None => Ok(vec![(0, body)]),
                Some(form) => pieces(&body, form, 3).map_err(|problem| problem.code()),
            }
        };
        let (json, lines) = ("application/json", "application/x-ndjson; charset=utf-8");
        let array = " [{\"a\": 1}, 2]";
        let piece = |at, text: &'static str| (at, Bytes::from_static(text.as_bytes()));
        let whole = |text| Ok(vec![piece(0, text)]);
        let two = |first, second| Ok(vec![piece(first, "{\"a\": 1}"), piece(second, "2")]);
        for split in [Split::Array, Split::Auto] {
            assert_eq!(of(split, json, array), two(2, 12), "{split:?}");
            assert_eq!(of(split, json, "{\"a\": [1]}"), whole("{\"a\": [1]}"), "{split:?}");
            assert_eq!(of(split, json, "[]"), Ok(vec![]), "{split:?}");
            assert_eq!(of(split, json, "[1,"), Err("invalid_json"), "{split:?}");
            assert_eq!(of(split, json, "[1,2,3,4]"), Err("too_large"), "{split:?}");
        }
        assert_eq!(of(Split::Auto, lines, "{\"a\": 1}\n2\n"), two(0, 9));
        assert_eq!(of(Split::Ndjson, json, "{\"a\": 1}\n\n2"), two(0, 10));
        assert_eq!(of(Split::Array, lines, "1\n2"), whole("1\n2"));
        assert_eq!(of(Split::None, json, array), whole(array));
    }
}
