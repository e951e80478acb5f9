//! The ingest routes: their head, their body, the append.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;

use super::answer::{Accepted, Refused};
use super::head::{self, Door, Head};
use super::name::TableName;
use super::{array, manage};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::ingest::body::{self, Decoded};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{Ack, Event, Source, Terms, answer_by};
use crate::http::ingest::keys;
use crate::http::ingest::rate::{Sender, To};
use crate::http::ingest::request;
use crate::http::ingest::split::{self, Form};
use crate::http::problem::{EventError, Problem};
use crate::runtime::metrics;
use crate::schema::columns::Plan;
use crate::schema::json::contract::{Checker, Ignored, Misfit, Rules};
use crate::stream::Stream;
use crate::tier::rows::contract;
use crate::topic::options::{Idempotency, TopicOptions};
use crate::topic::{self, NewTopic, Topic};

/// Largest body of the route whose body is an array, decompressed, in bytes.
const BODY_BYTES_MAX: usize = 5 << 20;

pub(super) async fn ingest(
    State(api): State<Api>,
    caller: Caller,
    Path(names): Path<(String, String)>,
    query: Pairs,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let (namespace, stream) = names;
    let door = (Door::Array { namespace: &namespace }, stream.as_str());
    told(store(&api, &caller, door, query, &headers, body).await, &headers)
}

/// `POST /api/v1/streams/{stream}/events`: the same in every form of JSON, up to the size of any
/// body.
pub(super) async fn events(
    State(api): State<Api>,
    caller: Caller,
    Path(stream): Path<String>,
    query: Pairs,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let door = (Door::Any, stream.as_str());
    told(store(&api, &caller, door, query, &headers, body).await, &headers)
}

fn told(done: Result<Accepted, Refused>, headers: &HeaderMap) -> Response {
    match done {
        Ok(accepted) => accepted.told(),
        Err(refused) => refused.told(headers),
    }
}

async fn store(
    api: &Api,
    caller: &Caller,
    (door, name): (Door<'_>, &str),
    query: Pairs,
    headers: &HeaderMap,
    body: Body,
) -> Result<Accepted, Refused> {
    let until = answer_by();
    let limit = match door {
        Door::Array { .. } => BODY_BYTES_MAX.min(api.options.body_max_bytes),
        Door::Any => api.options.body_max_bytes,
    };
    let checked = async {
        let table = table(door, query)?;
        let head = head::head(api, caller, (door, name), table.as_deref(), headers).await?;
        let target = target(api, &head.stream, &head.table)?;
        let options = target.options(api)?.into_owned();
        Ok((head, target, options))
    };
    let (head, target, options) = match checked.await {
        Ok(checked) => checked,
        Err(problem) => return Err(body::refuse(headers, body, limit, problem).await.into()),
    };
    let told = |problem: Problem| problem.overloaded_as(options.overload_status);
    let topic = head.table.topic(&head.stream.name);
    let (from, to) = (Sender::of(caller), To::of(&topic, &options));
    let read = api.engine.read(from, Some(to), headers, body, limit).await;
    let Decoded { bytes, share, .. } = read.map_err(|problem| told(body::over(limit, problem)))?;
    if head.is_form && bytes.trim_ascii_start().first() != Some(&b'[') {
        return Err(head::unsupported("application/x-www-form-urlencoded").into());
    }
    let form = match door {
        Door::Array { .. } => None,
        Door::Any => Some(request::form(headers, &bytes, request::JSON_TYPES)?),
    };
    let Head { stream, table, plan, identity, principal, .. } = head;
    let rules = contract::rules(options.table_contract);
    let identity = identity.or_body(options.idempotency == Idempotency::Body);
    let (events_max, name) = (api.options.events_max, topic);
    let checked = off_worker(bytes.len(), move || {
        let hash = || keys::hash(&[&b"event-stream"[..], name.as_bytes(), &bytes]);
        let once = identity.once(&principal, hash);
        let ranges = match form {
            None => array::split(&bytes, events_max).map_err(Refused::from),
            Some(form) => split_any(&bytes, form, events_max),
        };
        let checked = ranges.and_then(|ranges| check(bytes, ranges, plan, rules));
        Ok(checked.map(|checked| (checked, once)))
    });
    let (Checked { events, ignored, nulled }, once) = checked.await??;
    let mut accepted = Accepted { table: table.text, ignored, nulled, stored: None };
    if !events.ranges.is_empty() {
        let topic = target.made(api).await?;
        let terms = Terms { once, ack: Ack::Durable, ..Terms::new(until) };
        accepted.stored =
            Some(api.engine.append_to(topic, events, share, terms).await.map_err(told)?);
        count(&stream, nulled);
        api.doors.ignore(&stream.name, accepted.ignored.clone());
    }
    Ok(accepted)
}

fn count(stream: &Stream, nulled: u64) {
    if nulled > 0 {
        let name = stream.name.clone();
        ::metrics::counter!(metrics::STREAM_NULLED, "stream" => name).increment(nulled);
    }
}

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// The table that the query names. A door of our own takes nothing else there, lest a sender thinks
/// that it counts.
fn table(door: Door<'_>, query: Pairs) -> Result<Option<String>, Problem> {
    let Query(pairs) = query.map_err(|error| Problem::new("bad_request", error.body_text()))?;
    let mut table = None;
    for (name, value) in pairs {
        match (door, name.as_str()) {
            (_, "table") if table.is_none() => table = Some(value),
            (_, "table") => {
                return Err(Problem::new("bad_request", "parameter table is given twice"));
            }
            (Door::Any, other) => {
                let detail = format!("parameter {other:?} is not known here; there is table");
                return Err(Problem::new("bad_request", detail));
            }
            (Door::Array { .. }, _) => {}
        }
    }
    Ok(table)
}

/// The topic of a stream and a table.
enum Target {
    There(Arc<Topic>),
    /// Its first events make it.
    New(NewTopic),
}

fn target(api: &Api, stream: &Stream, table: &TableName) -> Result<Target, Problem> {
    let name = table.topic(&stream.name);
    match api.topics.get(&name) {
        Some(topic) => Ok(Target::There(ours(topic, table)?)),
        None => Ok(Target::New(manage::topic_of(stream, &name, &table.namespace, &table.table))),
    }
}

/// A topic of that name may be somebody else's.
fn ours(topic: Arc<Topic>, table: &TableName) -> Result<Arc<Topic>, Problem> {
    if topic.contract_table().as_ref() == Some(&table.short()) {
        return Ok(topic);
    }
    let detail = format!(
        "topic {} is there already and does not write to table {}",
        topic.name,
        table.short()
    );
    Err(Problem::new("wrong_state", detail))
}

impl Target {
    /// The options that it has, or will have.
    fn options(&self, api: &Api) -> Result<Cow<'_, TopicOptions>, Problem> {
        match self {
            Self::There(topic) => Ok(Cow::Borrowed(&topic.options)),
            Self::New(new) => {
                let resolved = api.topics.resolve(&new.name, &new.overrides);
                resolved.map(Cow::Owned).map_err(|error| problem(&error))
            }
        }
    }

    async fn made(self, api: &Api) -> Result<Arc<Topic>, Problem> {
        let new = match self {
            Self::There(topic) => return Ok(topic),
            Self::New(new) => new,
        };
        let name = new.name.clone();
        match api.topics.create(new, false).await {
            // Somebody else's first events made it meanwhile.
            Err(topic::Error::Exists(_)) => api.topics.get(&name).ok_or_else(|| {
                Problem::new("outcome_unknown", "the topic of the stream comes and goes")
            }),
            done => done.map_err(|error| problem(&error)),
        }
    }
}

fn problem(error: &topic::Error) -> Problem {
    Problem::new("internal", error.to_string())
}

/// A body whose events all fit the table.
struct Checked {
    events: Events,
    ignored: Ignored,
    nulled: u64,
}

/// Where the events of a body of any form lie.
fn split_any(body: &[u8], form: Form, events_max: usize) -> Result<Vec<Range<usize>>, Refused> {
    let split = split::split(body, form, events_max);
    match split.errors.first() {
        Some(error) if error.code == "too_many_events" => {
            Err(Problem::new("too_large", error.message.clone()).into())
        }
        Some(error) => {
            let EventError { index, offset_bytes, message, .. } = error;
            let detail = format!("events[{index}], at byte {offset_bytes}: {message}");
            Err(Problem::new("invalid_json", detail).into())
        }
        None if split.events.is_empty() => {
            let detail = "the body is empty: there is no event in it";
            Err(Problem::new("bad_request", detail).into())
        }
        None => Ok(split.events.into_iter().map(|(_, range)| range).collect()),
    }
}

fn check(
    body: Bytes,
    ranges: Vec<Range<usize>>,
    plan: Arc<Plan>,
    rules: Rules,
) -> Result<Checked, Refused> {
    let mut checker = Checker::new(plan, rules);
    for (index, range) in ranges.iter().enumerate() {
        let event = std::str::from_utf8(&body[range.clone()]).unwrap_or_default();
        checker.check(event).map_err(|misfit| match misfit {
            Misfit::Value(value) => Refused::mismatch(index, &value),
            Misfit::NotObject => {
                let detail = format!("events[{index}] is not an object: a row is made of one");
                Problem::new("schema_mismatch", detail).into()
            }
            other => {
                let detail = format!("events[{index}]: {}", other.bad_record().message);
                Problem::new("invalid_json", detail).into()
            }
        })?;
    }
    let (ignored, nulled) = (checker.ignored().clone(), checker.nulled());
    Ok(Checked { events: Events { body, ranges }, ignored, nulled })
}

/// The events of a request, as they were sent.
struct Events {
    body: Bytes,
    ranges: Vec<Range<usize>>,
}

impl Source for Events {
    fn size_bytes(&self) -> usize {
        self.body.len()
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        self.ranges.get(error.index).map(|range| &self.body[range.clone()]).unwrap_or_default()
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        for (index, range) in self.ranges.iter().enumerate() {
            take(Ok(Event {
                index,
                offset_bytes: range.start,
                value: Some(&self.body[range.clone()]),
                ..Event::default()
            }));
        }
    }
}
