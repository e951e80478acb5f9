//! `/api/v1/tokens`: list, make, revoke. All need the right to alter the cluster: who can make
//! tokens can make one that may do everything.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::json as parse;
use crate::auth::{self, Identity, NewToken, Operation, Resource, Token};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::types::OwnRate;

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
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let now_ms = api.auth.now_ms();
    let tokens: Vec<Value> = api.auth.list().iter().map(|token| shown(token, now_ms)).collect();
    Ok(Json(json!({ "tokens": tokens })))
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
    let token = api.auth.revoke(&name).await.map_err(|error| problem(&error))?;
    tracing::info!(token = token.name, id = token.id, by = caller.0.name(), "token revoked");
    Ok(StatusCode::NO_CONTENT)
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
