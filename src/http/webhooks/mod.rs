//! `POST /webhooks/{webhook}`: messages that their sender signs (GitHub, Standard Webhooks). The
//! signature stands for a token, the id of a message for an idempotency key.
//!
//! `POST /webhooks/{webhook}/{secret}`: events of senders that can neither sign nor set a header, as
//! the native route takes them. The path is neither logged nor measured.
//!
//! Owns: the order of checks, what is stored. Does not own: webhooks and secrets (`auth::webhook`).

mod signature;
mod sns;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::auth::webhook::{Scheme, Webhook};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::ingest;
use crate::http::ingest::body::{self, Decoded};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{Header, OwnedEvent, Stored, Terms};
use crate::http::ingest::identity::Identity;
use crate::http::ingest::keys;
use crate::http::ingest::rate::Sender;
use crate::http::problem::Problem;
use crate::http::request_id;

use signature::Signed;
pub use sns::Sns;

/// Largest message that asks for a confirmation, bytes.
const CONFIRMATION_BYTES_MAX: usize = 64 << 10;

pub(super) async fn receive(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let (parts, body) = request.into_parts();
    let stored = store(&api, &name, &parts, body).await?;
    Ok(Json(json!({
        "accepted": stored.accepted,
        "topic": stored.topic,
        "ack": stored.ack.as_str(),
        "duplicate": stored.duplicate,
        "request_id": request_id::current(),
    })))
}

async fn store(api: &Api, name: &str, parts: &Parts, body: Body) -> Result<Stored, Problem> {
    let limit = api.options.body_max_bytes;
    let checked = head(api, name, &parts.headers);
    let (webhook, signed) = match checked {
        Ok(checked) => checked,
        Err(problem) => return Err(body::refuse(&parts.headers, body, limit, problem).await),
    };
    // Whose it is, is known when it was read.
    let memory = (api.engine.memory(), || api.engine.share_of(Sender::named("")));
    let read = body::read_into(&parts.headers, body, limit, memory).await?;
    let Decoded { bytes, sent_bytes, share, until, .. } = read;
    let (topic, principal) = (webhook.topic.clone(), format!("webhook:{}", webhook.name));
    let sender = principal.clone();
    let event = event(bytes.clone(), &parts.headers, &signed);
    let check = move || {
        Ok(signed.check(&webhook, &bytes).map(|()| {
            let identity = signed.id.clone().map_or(Identity::None, Identity::Key);
            identity.once(&principal, || keys::hash(&[&bytes]))
        }))
    };
    let size_bytes = event.value.as_ref().map_or(0, Bytes::len);
    let once = off_worker(size_bytes, check).await??;
    // Not before: anybody may send what is not signed, and would take what the sender has.
    let (sent_bytes, to) = (sent_bytes as u64, api.engine.to(&topic));
    api.engine.admit(Some((Sender::named(&sender), sent_bytes)), &[(to, sent_bytes)])?;
    if size_bytes == 0 {
        return Err(Problem::new("bad_request", "the body is empty: there is no event in it"));
    }
    let terms = Terms { once, ..Terms::new(until) };
    let stored = api.engine.append(&topic, vec![event], share, terms).await;
    stored.map_err(|problem| api.engine.told(&topic, problem))
}

/// Hands over to the native route, as somebody who may write to the webhook's topic. A wrong secret
/// is answered as a webhook that is not there.
pub(super) async fn receive_by_url(
    State(api): State<Api>,
    Path((name, secret)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let webhook = api.auth.webhooks().get(&name).filter(|webhook| webhook.is_secret(&secret));
    let Some(webhook) = webhook else {
        let unknown = || Problem::new("unknown_webhook", "there is no webhook with this URL");
        let problem = api.not_ready().unwrap_or_else(unknown);
        let limit = api.options.body_max_bytes;
        return Err(body::refuse(&parts.headers, body, limit, problem).await);
    };
    if sns::is_confirmation(&parts.headers) {
        let limit = api.options.body_max_bytes.min(CONFIRMATION_BYTES_MAX);
        let from = Caller(webhook.principal());
        let read = api.engine.read(Sender::of(&from), None, &parts.headers, body, limit).await?;
        return sns::confirm(&api.options.sns, &read.bytes).await;
    }
    let (caller, topic) = (Caller(webhook.principal()), webhook.topic.clone());
    ingest::take(&api, &caller, &topic, &parts, body).await
}

/// What can be said before the body is read.
fn head(
    api: &Api,
    name: &str,
    headers: &HeaderMap,
) -> Result<(std::sync::Arc<Webhook>, Signed), Problem> {
    if let Some(problem) = api.not_ready() {
        return Err(problem.closing());
    }
    let webhook = api.auth.webhooks().get(name);
    let unknown = || Problem::new("unknown_webhook", format!("there is no webhook {name:?}"));
    let webhook = webhook.filter(|webhook| webhook.scheme != Scheme::Url).ok_or_else(unknown)?;
    let signed = Signed::of(webhook.scheme, headers, api.engine.now_ms().div_euclid(1_000))?;
    if headers.contains_key(header::CONTENT_ENCODING) {
        let detail = "the signature is of the body as it comes: send it without content-encoding";
        return Err(Problem::new("unsupported_media_type", detail));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if is_form && webhook.scheme == Scheme::Github {
        let detail = "choose the content type application/json in the settings of the webhook";
        return Err(Problem::new("unsupported_media_type", detail));
    }
    api.engine.topic(&webhook.topic)?;
    Ok((webhook, signed))
}

/// The message as it came, with what its sender says of it as record headers.
fn event(body: Bytes, headers: &HeaderMap, signed: &Signed) -> OwnedEvent {
    let own_header = |name: &'static str, value: &[u8]| -> Header {
        (Bytes::from_static(name.as_bytes()), Some(Bytes::copy_from_slice(value)))
    };
    let mut own: Vec<Header> =
        signed.headers.iter().map(|(name, value)| own_header(name, value.as_bytes())).collect();
    let kind = headers.get(header::CONTENT_TYPE);
    own.extend(kind.map(|kind| own_header("content-type", kind.as_bytes())));
    OwnedEvent { value: Some(body), headers: own, ..OwnedEvent::default() }
}
