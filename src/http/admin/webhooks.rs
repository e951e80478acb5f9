//! `/api/v1/webhooks`: list, make, change the secret, delete. All need the right to alter the cluster: a webhook
//! writes to its topic without a token.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::json as parse;
use super::page::{Asked, Page};
use crate::auth::webhook::{Error, NewWebhook, Scheme, Webhook};
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::problem::Problem;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    topic: String,
    scheme: String,
    secret: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    secret: Option<String>,
}

pub(in crate::http) async fn list(
    State(api): State<Api>,
    caller: Caller,
    asked: Asked,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let page = Page::of(asked, api.auth.webhooks().list(), |webhook| webhook.name.clone())?;
    Ok(page.answer("webhooks", |webhook| shown(webhook)))
}

pub(in crate::http) async fn create(
    State(api): State<Api>,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let wish: Create = parse(&body)?;
    let scheme = Scheme::parse(&wish.scheme).ok_or_else(|| {
        let detail = format!("scheme {:?} is not one of github, standard and url", wish.scheme);
        Problem::new("invalid_webhook", detail)
    })?;
    let new = NewWebhook { name: wish.name, topic: wish.topic, scheme, secret: wish.secret };
    let (webhook, secret) =
        api.auth.webhooks().create(new).await.map_err(|error| problem(&error))?;
    let (name, topic) = (&webhook.name, &webhook.topic);
    tracing::info!(name, topic, by = caller.0.name(), "webhook made");
    Ok((StatusCode::CREATED, Json(told(&webhook, secret))))
}

pub(in crate::http) async fn rotate(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    let Rotate { secret } = parse(&body)?;
    let rotated = api.auth.webhooks().rotate(&name, secret).await;
    let (webhook, secret) = rotated.map_err(|error| problem(&error))?;
    tracing::info!(name, by = caller.0.name(), "webhook has a new secret");
    Ok(Json(told(&webhook, secret)))
}

/// A webhook with its secret, which is told only once.
fn told(webhook: &Webhook, secret: String) -> Value {
    let mut answer = shown(webhook);
    if webhook.scheme == Scheme::Url {
        answer["path"] = format!("/webhooks/{}/{secret}", webhook.name).into();
    }
    answer["secret"] = secret.into();
    answer
}

pub(in crate::http) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.check(Operation::Alter, Resource::Cluster)?;
    api.auth.webhooks().delete(&name).await.map_err(|error| problem(&error))?;
    tracing::info!(name, by = caller.0.name(), "webhook deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// A webhook without its secret.
fn shown(webhook: &Webhook) -> Value {
    json!({
        "name": webhook.name,
        "topic": webhook.topic,
        "scheme": webhook.scheme.as_str(),
        "path": match webhook.scheme {
            Scheme::Url => format!("/webhooks/{}/SECRET", webhook.name),
            Scheme::Github | Scheme::Standard => format!("/webhooks/{}", webhook.name),
        },
        "created_ms": webhook.created_ms,
    })
}

fn problem(error: &Error) -> Problem {
    let code = match error {
        Error::InvalidName(_) | Error::InvalidTopic(_) | Error::InvalidSecret => "invalid_webhook",
        Error::Exists(_) | Error::TooMany => "exists",
        Error::Unknown(_) => "unknown_webhook",
        Error::Store(_) => "internal",
    };
    Problem::new(code, error.to_string())
}
