//! The ingest routes: their head, their body, the append.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::answer::{Accepted, Refused};
use super::fit::{self, Checked};
use super::head::{self, Behind, Door, Head, Owned};
use super::name::{DIRECT, TableName};
use super::said::{Pairs, Said};
use super::{array, manage, open};
use crate::http::Api;
use crate::http::auth::{self, Caller};
use crate::http::ingest;
use crate::http::ingest::body::{self, Decoded};
use crate::http::ingest::engine::{self, off_worker};
use crate::http::ingest::event::{Ack, OnError, Terms};
use crate::http::ingest::keys;
use crate::http::ingest::rate::{Sender, To};
use crate::http::ingest::request;
use crate::http::problem::Problem;
use crate::runtime::metrics;
use crate::tier::rows::contract;
use crate::topic::options::{Idempotency, TopicOptions};
use crate::topic::{self, NewTopic, Topic};
use crate::types::TopicId;

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
    let door = Door::Array { namespace: &namespace, stream: &stream };
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
    let door = Door::Any { stream: &stream };
    told(store(&api, &caller, door, query, &headers, body).await, &headers)
}

/// `POST /api/v1/tables/{table}/events`: to the topic that made the table, as to any topic; to a table
/// of others as by a stream.
pub(super) async fn events_of_table(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Pairs,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let found = match Caller::of(&parts) {
        Ok(caller) => way(&api, &caller, &name).await.map(|way| (caller, way)),
        Err(problem) => Err(problem),
    };
    let (caller, way) = match found {
        Ok(found) => found,
        Err(problem) => {
            let limit = api.options.body_max_bytes;
            let problem = body::refuse(&parts.headers, body, limit, problem).await;
            return Refused::from(problem).told(&parts.headers);
        }
    };
    match way {
        Way::Topic(topic) => {
            ingest::take(&api, &caller, &topic, &parts, body).await.into_response()
        }
        Way::Contract(table) => {
            let (door, headers) = (Door::Table { table: &table }, &parts.headers);
            told(store(&api, &caller, door, query, headers, body).await, headers)
        }
    }
}

/// The way that events for a table go.
enum Way {
    /// To the topic that made it.
    Topic(String),
    /// By its schema: others made it.
    Contract(TableName),
}

async fn way(api: &Api, caller: &Caller, name: &str) -> Result<Way, Problem> {
    if let Some(problem) = api.not_ready() {
        return Err(problem.closing());
    }
    let table = TableName::parse(name)?;
    let known = head::owner(api, &table).await;
    let owned = known.as_ref().ok().and_then(Option::as_ref);
    let behind = owned.map(|owned| owned.topic.name.to_string());
    // Who may not write to it does not hear whether it is there.
    head::may_insert(caller, &table, &behind.unwrap_or_else(|| table.topic(DIRECT)))?;
    let Some(Owned { topic, is_of_sink }) = known? else {
        return Ok(Way::Contract(table));
    };
    if is_of_sink {
        head::may_feed(caller, &table, topic.name.as_str())?;
    }
    Ok(Way::Topic(topic.name.to_string()))
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
    door: Door<'_>,
    query: Pairs,
    headers: &HeaderMap,
    body: Body,
) -> Result<Accepted, Refused> {
    let limit = match door.is_array() {
        true => BODY_BYTES_MAX.min(api.options.body_max_bytes),
        false => api.options.body_max_bytes,
    };
    let checked = async {
        let head = head::head(api, caller, door, query, headers).await?;
        let target = target(api, &head.behind, &head.table)?;
        if caller.0.as_stranger().is_some_and(|stranger| !target.is_there(stranger.topic)) {
            return Err(auth::missing());
        }
        let options = target.options(api)?.into_owned();
        Ok((head, target, options))
    };
    let (head, target, options) = match checked.await {
        Ok(checked) => checked,
        Err(problem) => return Err(body::refuse(headers, body, limit, problem).await.into()),
    };
    let told = |problem: Problem| problem.overloaded_as(options.overload_status);
    let (from, to) = (Sender::of(caller), To::of(&head.behind.topic, &options));
    let read = api.engine.read(from, Some(to), headers, body, limit).await;
    let decoded = read.map_err(|problem| told(body::over(limit, problem)))?;
    let Head { table, said: Said { minimal, .. }, .. } = &head;
    let (table, minimal, stream) = (table.clone(), *minimal, head.behind.stream.clone());
    let is_array = door.is_array();
    let (Checked { events, ignored, nulled }, terms, share) =
        take_apart(api, (head, &options), headers, (decoded, is_array)).await?;
    let waits_for_table = matches!(terms.ack, Ack::Committed(_));
    let mut accepted = Accepted {
        table: table.text.clone(),
        ignored,
        nulled,
        stored: None,
        is_array,
        minimal,
        waits_for_table,
    };
    if terms.on_error == OnError::Skip && events.are_refused() {
        // Before a topic is made for them.
        let refused = events.into_refused();
        api.engine.count_rejected(refused.len());
        return Err(engine::refusal(refused).into());
    }
    if !events.is_empty() {
        let topic = target.made(api, &stream, &table).await?;
        open::check_again(api, &terms, &stream, topic.name.as_str())?;
        let stored = api.engine.append_to(topic, events, share, terms).await.map_err(told)?;
        if !stored.duplicate {
            count(&stream, nulled);
            api.doors.ignore(&stream, accepted.ignored.clone());
        }
        accepted.stored = Some(stored);
    }
    Ok(accepted)
}

/// Splits the body and checks its events; takes the fingerprint of the request if it has a key.
async fn take_apart(
    api: &Api,
    (head, options): (Head, &TopicOptions),
    headers: &HeaderMap,
    (decoded, is_array): (Decoded, bool),
) -> Result<(Checked, Terms, body::Share), Refused> {
    let Head { behind, plan, identity, principal, said, is_form, .. } = head;
    let Decoded { bytes, share, .. } = decoded;
    if is_form && bytes.trim_ascii_start().first() != Some(&b'[') {
        return Err(head::unsupported("application/x-www-form-urlencoded").into());
    }
    let form =
        if is_array { None } else { Some(request::form(headers, &bytes, request::JSON_TYPES)?) };
    let shape = (plan, contract::rules(options.table_contract));
    let identity = identity.or_body(options.idempotency == Idempotency::Body);
    let (events_max, name, mut terms) = (api.options.events_max, behind.topic, said.terms);
    let on_error = terms.on_error;
    let checked = off_worker(bytes.len(), move || {
        let hash = || {
            let lenient = [on_error as u8];
            let mut parts = vec![&b"event-stream"[..], name.as_bytes(), &bytes];
            parts.extend((on_error != OnError::Reject).then_some(&lenient[..]));
            keys::hash(&parts)
        };
        let once = identity.once(&principal, hash);
        let checked = match form {
            None => array::split(&bytes, events_max)
                .map_err(Refused::from)
                .and_then(|ranges| fit::all(bytes, ranges, shape)),
            Some(form) => fit::any((bytes, form), events_max, shape, on_error),
        };
        Ok(checked.map(|checked| (checked, once)))
    });
    let refused = |refused: &Refused| api.engine.count_rejected(refused.rejected);
    let (checked, once) = checked.await?.inspect_err(refused)?;
    terms.once = once;
    Ok((checked, terms, share))
}

fn count(stream: &str, nulled: u64) {
    if nulled > 0 {
        let name = stream.to_owned();
        ::metrics::counter!(metrics::STREAM_NULLED, "stream" => name).increment(nulled);
    }
}

/// The topic of a stream and a table.
enum Target {
    There(Arc<Topic>),
    /// Its first events make it.
    New(NewTopic),
}

fn target(api: &Api, behind: &Behind, table: &TableName) -> Result<Target, Problem> {
    let Behind { topic, options, .. } = behind;
    match api.topics.get(topic) {
        Some(topic) => Ok(Target::There(ours(topic, table)?)),
        None => Ok(Target::New(manage::bound(options, topic, &table.namespace, &table.table))),
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
    /// True if it is this topic.
    fn is_there(&self, id: TopicId) -> bool {
        matches!(self, Self::There(topic) if topic.id == id)
    }

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

    /// The topic. One that is not there is made as its stream is by now, not as it was before the body
    /// came.
    async fn made(self, api: &Api, stream: &str, table: &TableName) -> Result<Arc<Topic>, Problem> {
        let name = match self {
            Self::There(topic) => return Ok(topic),
            Self::New(new) => new.name,
        };
        let (own, of, table) = (api.clone(), stream.to_owned(), table.clone());
        let make = async move {
            let options = match of.as_str() {
                DIRECT => BTreeMap::new(),
                of => manage::existing(&own, of)?.options.clone(),
            };
            let new = manage::bound(&options, &name, &table.namespace, &table.table);
            match own.topics.create_behind(new).await {
                // Somebody else's first events made it meanwhile, or somebody for themselves.
                Err(topic::Error::Exists(_)) => match own.topics.get(&name) {
                    Some(topic) => ours(topic, &table),
                    None => {
                        let detail = "the topic of the stream comes and goes";
                        Err(Problem::new("outcome_unknown", detail))
                    }
                },
                done => done.map_err(|error| problem(&error)),
            }
        };
        manage::alone(api, stream, make).await
    }
}

fn problem(error: &topic::Error) -> Problem {
    Problem::new("internal", error.to_string())
}
