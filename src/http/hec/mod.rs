//! Splunk's HTTP Event Collector: events as JSON or as lines, health, acknowledgements.
//! Source: Splunk, HTTP Event Collector REST API endpoints.
//!
//! Owns: forms of events and answers, ids of acknowledgements. Does not own: the append (`ingest`).
//!
//! What differs: an index is a topic; a request with an event that is refused stores nothing; `Success`
//! means that the events are durable, with or without an acknowledgement.

mod acks;
mod answer;
mod event;

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::http::Api;
use crate::http::auth::{self, Caller};
use crate::http::ingest::body::{self, Share};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{Ack, Source, Terms};
use crate::http::ingest::identity::Identity;
use crate::http::ingest::keys;
use crate::http::ingest::rate::{Sender, To};
use crate::http::ingest::shared;
use crate::http::problem::Problem;

use acks::Acks;
use answer::{Failure, answer};
use event::{Defaults, Group, Limits};

/// Names the channel of a request, which wants an acknowledgement then.
const CHANNEL: &str = "x-splunk-request-channel";
/// Longest parameter that each event gets, bytes: many small events would get much of it.
const DEFAULT_BYTES_MAX: usize = 255;
/// Largest question for acknowledgements, bytes.
const ACKS_BYTES_MAX: usize = 1 << 20;

/// How events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Objects,
    Lines,
}

/// All routes.
pub(super) fn routes(api: &Api) -> Router<Api> {
    Router::new()
        .route("/services/collector", events(Form::Objects))
        .route("/services/collector/event", events(Form::Objects))
        .route("/services/collector/event/1.0", events(Form::Objects))
        .route("/services/collector/raw", events(Form::Lines))
        .route("/services/collector/raw/1.0", events(Form::Lines))
        .route("/services/collector/ack", post(acknowledged))
        .route("/services/collector/health", get(health))
        .route("/services/collector/health/1.0", get(health))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(Extension(Acks::new(api.engine.now_ms())))
}

/// True for paths whose clients read errors in this protocol's form.
pub(super) fn is_route(path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    (parts.next(), parts.next()) == (Some("services"), Some("collector"))
}

/// A refusal in this protocol's form.
pub(super) fn refusal(problem: Problem) -> Response {
    Failure::from(problem).into_response()
}

async fn method_not_allowed() -> Response {
    let detail = "see /openapi.json for what is allowed here";
    refusal(Problem::new("method_not_allowed", detail))
}

async fn health(State(api): State<Api>) -> Response {
    match api.unready() {
        None => answer(17, None),
        Some(problem) if problem.code() == "draining" => refusal(problem),
        Some(problem) => Failure::new(18, problem.detail()).into_response(),
    }
}

fn events(form: Form) -> MethodRouter<Api> {
    post(
        move |State(api): State<Api>, Extension(acks): Extension<Acks>, request: Request| async move {
            let (parts, body) = request.into_parts();
            match store(&api, form, &parts, body).await {
                Ok(wants_ack) => answer(0, wants_ack.then(|| acks.give())),
                Err(failure) => failure.into_response(),
            }
        },
    )
}

/// What is known before the body is read.
struct Head {
    defaults: Defaults,
    has_channel: bool,
    identity: Identity,
    caller: Caller,
}

/// Stores the events of a request; true if an acknowledgement is wanted.
async fn store(api: &Api, form: Form, parts: &Parts, body: Body) -> Result<bool, Failure> {
    let limit = api.options.body_max_bytes;
    let head = match head(api, form, parts) {
        Ok(head) => head,
        Err(problem) => {
            return Err(body::refuse(&parts.headers, body, limit, problem).await.into());
        }
    };
    let Head { defaults, has_channel, identity, caller } = head;
    // Objects may name topics of their own.
    let to = (form == Form::Lines).then(|| api.engine.to(defaults.topic()));
    let read = api.engine.read(Sender::of(&caller), to, &parts.headers, body, limit);
    let decoded = read.await?;
    let bytes_max = shared::bytes_max(decoded.limit_bytes);
    let limits = Limits { events_max: api.options.events_max, bytes_max };
    let size_bytes = decoded.bytes.len();
    let principal = caller.key().to_owned();
    let (bytes, path) = (decoded.bytes, parts.uri.to_string());
    let (engine, topics) = (api.engine.clone(), api.topics.clone());
    let take_apart = move || {
        let groups = groups(form, &bytes, &defaults, limits);
        let by_body = groups.iter().flatten().any(|group| {
            let known = topics.get(&group.topic);
            engine.counts_by_body(&group.topic, known.as_deref())
        });
        let hash = || keys::hash(&[&bytes, path.as_bytes()]);
        Ok((groups, identity.or_body(by_body).once(&principal, hash)))
    };
    let (groups, once) = off_worker(size_bytes, take_apart).await?;
    let groups = groups?;
    for group in &groups {
        let first = group.places.first().copied().unwrap_or(0);
        let check = auth::may_write_events(api, &caller, &group.topic);
        let check = check.and_then(|()| api.engine.topic(&group.topic));
        check.map_err(|problem| Failure::from(problem).at(first))?;
    }
    if form == Form::Objects {
        api.engine.admit(None, &shares(api, &groups, decoded.sent_bytes))?;
    }
    let ack = if has_channel { Ack::Durable } else { Ack::Logged };
    let terms = Terms { ack, once, ..Terms::new(decoded.until) };
    append(api, groups, terms, decoded.share).await?;
    Ok(has_channel)
}

fn head(api: &Api, form: Form, parts: &Parts) -> Result<Head, Problem> {
    if let Some(problem) = api.not_ready() {
        return Err(problem.closing());
    }
    let caller = Caller::of(parts)?;
    let (defaults, has_channel) = query(parts)?;
    if form == Form::Lines {
        let topic = defaults.topic();
        auth::may_write_events(api, &caller, topic)?;
        api.engine.topic(topic)?;
    }
    let identity = Identity::of(&parts.headers)?;
    Ok(Head { defaults, has_channel, identity, caller })
}

/// What parameters say of all events, and whether they or a header name a channel. Others are
/// nothing to us.
fn query(parts: &Parts) -> Result<(Defaults, bool), Problem> {
    let query = parts.uri.query().unwrap_or_default();
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query)
        .map_err(|error| Problem::new("bad_request", error.to_string()))?;
    let mut found = Defaults::default();
    let mut has_channel = parts.headers.get(CHANNEL).is_some_and(|value| !value.is_empty());
    for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
        if value.len() > DEFAULT_BYTES_MAX {
            let detail = format!("parameter {name} is longer than {DEFAULT_BYTES_MAX} bytes");
            return Err(Problem::new("bad_request", detail));
        }
        match name.as_str() {
            "index" => found.index = Some(value),
            "host" => found.host = Some(value),
            "source" => found.source = Some(value),
            "sourcetype" => found.sourcetype = Some(value),
            "channel" => has_channel = true,
            _ => {}
        }
    }
    Ok((found, has_channel))
}

fn groups(
    form: Form,
    body: &Bytes,
    defaults: &Defaults,
    limits: Limits,
) -> Result<Vec<Group>, Failure> {
    match form {
        Form::Objects => event::objects(body, defaults, limits),
        Form::Lines => event::lines(body, defaults, limits),
    }
}

/// The topics of a request, each with its share of what was sent.
fn shares<'g>(api: &Api, groups: &'g [Group], sent_bytes: usize) -> Vec<(To<'g>, u64)> {
    let total: usize = groups.iter().map(|group| group.events.size_bytes()).sum();
    let share = |group: &Group| {
        let bytes = group.events.size_bytes() as u128 * sent_bytes as u128;
        u64::try_from(bytes / total.max(1) as u128).unwrap_or(u64::MAX)
    };
    groups.iter().map(|group| (api.engine.to(&group.topic), share(group))).collect()
}

/// Stores the events of each topic in a write of its own.
async fn append(api: &Api, groups: Vec<Group>, terms: Terms, share: Share) -> Result<(), Failure> {
    let (last, mut share) = (groups.len().saturating_sub(1), Some(share));
    for (at, group) in groups.into_iter().enumerate() {
        let Group { topic, events, places } = group;
        // The memory of the body is held until the last events are in the log.
        let hold = share.take_if(|_| at == last).unwrap_or_else(|| api.engine.memory().share());
        let appended = api.engine.append(&topic, events, hold, terms.clone()).await;
        appended.map_err(|problem| {
            let place = problem.errors().first().and_then(|it| places.get(it.index)).copied();
            let failure = Failure::from(problem);
            let failure = match place {
                Some(place) => failure.at(place),
                None => failure,
            };
            if at > 0 { failure.after_others() } else { failure }
        })?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Asked {
    acks: Vec<u64>,
}

#[derive(Serialize)]
struct Told {
    acks: BTreeMap<u64, bool>,
}

async fn acknowledged(
    State(api): State<Api>,
    Extension(acks): Extension<Acks>,
    request: Request,
) -> Result<Json<Told>, Failure> {
    let (parts, body) = request.into_parts();
    let read = body::read(&parts.headers, body, ACKS_BYTES_MAX, api.engine.memory()).await;
    let decoded = read.map_err(|problem| match problem.code() {
        "too_large" => Failure::new(27, format!("send at most {ACKS_BYTES_MAX} bytes of ids")),
        _ => problem.into(),
    })?;
    if !query(&parts)?.1 {
        let detail = "name the channel by the header X-Splunk-Request-Channel, or by ?channel=";
        return Err(Failure::new(10, detail));
    }
    let asked: Asked = serde_json::from_slice(&decoded.bytes)
        .map_err(|error| Failure::new(6, error.to_string()))?;
    let acks = asked.acks.into_iter().map(|id| (id, acks.is_given(id))).collect();
    Ok(Json(Told { acks }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(uri: &str, channel: Option<&str>) -> (Defaults, bool) {
        let mut request = Request::builder().uri(format!("http://host/{uri}"));
        if let Some(channel) = channel {
            request = request.header(CHANNEL, channel);
        }
        let (parts, _) = request.body(Body::empty()).unwrap().into_parts();
        query(&parts).unwrap()
    }

    #[test]
    fn parameters_stand_for_what_events_do_not_say() {
        let text = |text: &str| Some(text.to_owned());
        let (all, has_channel) = found("x?index=i&host=h%20h&source=&x=1&sourcetype=t", None);
        let wanted = Defaults {
            index: text("i"),
            host: text("h h"),
            sourcetype: text("t"),
            ..Defaults::default()
        };
        assert_eq!((all, has_channel), (wanted, false));
        assert!(found("x?channel=c", None).1 && found("x", Some("c")).1);
        assert!(!found("x?channel=", Some("")).1);
        let long = format!("http://host/x?host={}", "h".repeat(256));
        let (parts, _) = Request::builder().uri(long).body(()).unwrap().into_parts();
        assert_eq!(query(&parts).unwrap_err().code(), "bad_request");
    }

    #[test]
    fn routes_are_known_by_their_path() {
        for (path, wanted) in
            [("services/collector", true), ("services/collector/ack", true), ("services", false)]
        {
            assert_eq!(is_route(&format!("/{path}")), wanted, "{path}");
        }
    }
}
