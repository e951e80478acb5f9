//! `/api/v1/tokens`: list, make, revoke. All need the right to alter the cluster: who can make
//! tokens can make one that may do everything. The principals of sinks are listed too, to be seen: no
//! request can come with one.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::json as parse;
use super::page::{Asked, Page};
use crate::auth::{self, Identity, NewToken, Operation, Resource, State as TokenState, Token};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::sink::{Sink, Sinks};
use crate::source::Sources;
use crate::tier::Service;
use crate::topic::Topics;
use crate::types::OwnRate;

/// Why the principal of a sink cannot be revoked.
pub(crate) const SERVICE_STAYS: &str = "it is the principal of a sink, as which nobody can log in: \
    disable and enable the sink for another one, delete the sink to be rid of it";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    #[serde(default)]
    allow: Vec<String>,
    expires_in_ms: Option<u64>,
    subject: Option<String>,
    certificate: Option<String>,
    rate_requests: Option<u32>,
    rate_bytes: Option<u64>,
}

pub(in crate::http) async fn list(
    State(api): State<Api>,
    caller: Caller,
    asked: Asked,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let now_ms = api.auth.now_ms();
    let mut tokens: Vec<Value> = api.auth.list().iter().map(|token| shown(token, now_ms)).collect();
    let used = |sink: &Sink| api.tiering.sink(sink.topic_id, sink.uid)?.last_commit_ms;
    tokens.extend(services((&api.topics, &api.sinks, &api.sources), used));
    // Oldest first.
    let key = |token: &Value| {
        let made_ms = token["created_ms"].as_i64().unwrap_or_default();
        format!("{made_ms:020}/{}", token["id"].as_str().unwrap_or_default())
    };
    tokens.sort_by_cached_key(key);
    let page = Page::of(asked, tokens, key)?;
    Ok(page.answer("tokens", Value::clone))
}

pub(in crate::http) async fn create(
    State(api): State<Api>,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    if body.trim_ascii().is_empty() {
        let detail = "the body is empty: send at least {\"name\": \"NAME\"}";
        return Err(Problem::new("bad_request", detail));
    }
    let wish: Create = parse(&body)?;
    let expires_in = wish.expires_in_ms.map(Duration::from_millis);
    let identity = identity(wish.subject, wish.certificate).map_err(|error| problem(&error))?;
    let rate = OwnRate { requests: wish.rate_requests, bytes: wish.rate_bytes };
    let new = NewToken { name: wish.name, allow: wish.allow, expires_in, identity, rate };
    let made = api.auth.create(new).await.map_err(|error| problem(&error))?;
    tracing::info!(token = made.token.name, id = made.token.id, by = caller.0.name(), "token made");
    if made.enforces {
        tracing::info!("from now on every request needs a token");
    }
    let mut answer = shown(&made.token, api.auth.now_ms());
    if made.token.identity().is_none() {
        answer["token"] = made.text.into();
    }
    answer["enforces"] = made.enforces.into();
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(in crate::http) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let known = services((&api.topics, &api.sinks, &api.sources), |_| None);
    if known.iter().any(|one| one["id"] == name || one["name"] == name) {
        return Err(Problem::new("internal_token", SERVICE_STAYS));
    }
    let token = api.auth.revoke(&name).await.map_err(|error| problem(&error))?;
    tracing::info!(token = token.name, id = token.id, by = caller.0.name(), "token revoked");
    Ok(StatusCode::NO_CONTENT)
}

/// The principals of all sinks, as a list of tokens shows them. That of a sink that is off is revoked:
/// it has another one when it is on again. `used` tells when a sink last wrote.
pub(crate) fn services(
    (topics, sinks, sources): (&Topics, &Sinks, &Sources),
    used: impl Fn(&Sink) -> Option<i64>,
) -> Vec<Value> {
    let list = sources.list();
    let by_topic = list.iter().rev().map(|one| (one.wish.topic.as_str(), one.id.as_str()));
    let by_topic: BTreeMap<&str, &str> = by_topic.collect();
    let known = sinks.topics().into_iter().filter_map(|id| Some(topics.live_or_draining(id)?.0));
    let mut shown = Vec::new();
    for topic in known {
        let name = topic.name.as_str();
        let source = by_topic.get(name).copied().unwrap_or(name);
        for sink in sinks.of_topic(topic.id) {
            let Service { id, name, rules } = Service::of(name, &sink);
            let off = sink.trail.disabled.as_ref().map(|mark| mark.at_ms);
            shown.push(json!({
                "id": id,
                "name": name,
                "description": format!("[_internal] Stream Sink {source}/{}", sink.id),
                "internal": true,
                "allow": rules.texts(),
                "state": if off.is_some() { TokenState::Revoked } else { TokenState::Active }.as_str(),
                "created_ms": sink.trail.created.at_ms,
                "expires_ms": null,
                "revoked_ms": off,
                "last_used_ms": used(&sink),
            }));
        }
    }
    shown
}

/// Who has a token without a secret.
///
/// # Errors
/// [`auth::Error::InvalidIdentity`] for both at once.
pub(crate) fn identity(
    subject: Option<String>,
    certificate: Option<String>,
) -> Result<Option<Identity>, auth::Error> {
    match (subject, certificate) {
        (Some(_), Some(_)) => Err(auth::Error::InvalidIdentity("subject")),
        (subject, None) => Ok(subject.map(Identity::Subject)),
        (None, certificate) => Ok(certificate.map(Identity::Certificate)),
    }
}

/// A token without its secret.
pub(crate) fn shown(token: &Token, now_ms: i64) -> Value {
    let mut shown = json!({
        "id": token.id,
        "name": token.name,
        "allow": token.rules.texts(),
        "state": token.state(now_ms).as_str(),
        "created_ms": token.created_ms,
        "expires_ms": token.expires_ms,
        "revoked_ms": token.revoked_ms(),
        "last_used_ms": token.last_used_ms(),
        "rate_requests": token.rate.requests,
        "rate_bytes": token.rate.bytes,
    });
    if let Some(identity) = token.identity() {
        shown[identity.kind()] = identity.text().into();
    }
    shown
}

fn problem(error: &auth::Error) -> Problem {
    let code = match error {
        auth::Error::InvalidName(_)
        | auth::Error::InvalidRule(_)
        | auth::Error::InvalidIdentity(_)
        | auth::Error::NoRule(_)
        | auth::Error::InvalidExpiry
        | auth::Error::InvalidRate => "invalid_token_wish",
        auth::Error::Exists(_) | auth::Error::TooMany => "exists",
        auth::Error::Unknown(_) => "unknown_token",
        auth::Error::Store(_) => "internal",
    };
    Problem::new(code, error.to_string())
}
