//! The ingest route: its head, its body, the append.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;

use super::answer::{Accepted, Refused};
use super::head::{self, Head};
use super::name::TableName;
use super::{array, manage};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::ingest::body::{self, Decoded};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{Ack, Event, Source, Terms};
use crate::http::ingest::keys;
use crate::http::problem::{EventError, Problem};
use crate::runtime::metrics;
use crate::schema::columns::Plan;
use crate::schema::json::contract::{Checker, Ignored, Misfit, Rules};
use crate::stream::Stream;
use crate::tier::rows::contract;
use crate::topic::{self, NewTopic, Topic};

/// Largest body, decompressed, in bytes.
const BODY_BYTES_MAX: usize = 5 << 20;

pub(super) async fn ingest(
    State(api): State<Api>,
    caller: Caller,
    Path(names): Path<(String, String)>,
    query: Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let parameter = query.get("table").map(String::as_str);
    let done = store(&api, &caller, (&names.0, &names.1), parameter, &headers, body).await;
    match done {
        Ok(accepted) => accepted.told(),
        Err(refused) => refused.told(&headers),
    }
}

async fn store(
    api: &Api,
    caller: &Caller,
    names: (&str, &str),
    parameter: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Accepted, Refused> {
    let limit = BODY_BYTES_MAX.min(api.options.body_max_bytes);
    let head = match head::head(api, caller, names, parameter, headers).await {
        Ok(head) => head,
        Err(problem) => return Err(body::refuse(headers, body, limit, problem).await.into()),
    };
    let read = body::read(headers, body, limit, api.engine.memory()).await;
    let Decoded { bytes, share } = read.map_err(|problem| too_large(problem, limit))?;
    if head.is_form && bytes.trim_ascii_start().first() != Some(&b'[') {
        return Err(head::unsupported("application/x-www-form-urlencoded").into());
    }
    let target = target(api, &head.stream, &head.table)?;
    let Head { stream, table, plan, identity, principal, .. } = head;
    let rules = target.rules(api)?;
    let (events_max, name) = (api.options.events_max, table.topic(&stream.name));
    let checked = off_worker(bytes.len(), move || {
        let hash = || keys::hash(&[&b"event-stream"[..], name.as_bytes(), &bytes]);
        let once = identity.once(&principal, hash);
        Ok(check(bytes, plan, rules, events_max).map(|checked| (checked, once)))
    });
    let (Checked { events, ignored, nulled }, once) = checked.await??;
    let mut accepted = Accepted { table: table.text, ignored, nulled, stored: None };
    if !events.ranges.is_empty() {
        let topic = target.made(api).await?;
        let terms = Terms { once, ack: Ack::Durable, ..Terms::new() };
        accepted.stored = Some(api.engine.append(topic.name.as_str(), events, share, terms).await?);
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

/// The limit is this route's, not that of the server.
fn too_large(problem: Problem, limit: usize) -> Problem {
    if problem.code() != "too_large" {
        return problem;
    }
    problem.detailed(format!("the body is larger than {limit} bytes, decompressed"))
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
    /// How its events are cast.
    fn rules(&self, api: &Api) -> Result<Rules, Problem> {
        let options = match self {
            Self::There(topic) => topic.options.table_contract,
            Self::New(new) => {
                let resolved = api.topics.resolve(&new.name, &new.overrides);
                resolved.map_err(|error| problem(&error))?.table_contract
            }
        };
        Ok(contract::rules(options))
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

fn check(
    body: Bytes,
    plan: Arc<Plan>,
    rules: Rules,
    events_max: usize,
) -> Result<Checked, Refused> {
    let ranges = array::split(&body, events_max)
        .map_err(|fault| Refused::from(Problem::new(fault.code, fault.message)))?;
    let mut checker = Checker::new(plan, rules);
    for (index, range) in ranges.iter().enumerate() {
        let event = std::str::from_utf8(&body[range.clone()]).unwrap_or_default();
        checker.check(event).map_err(|misfit| match misfit {
            Misfit::Value(value) => Refused::mismatch(index, &value),
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
