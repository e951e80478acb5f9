//! Whoever sends no token where others need one, and may send events all the same: by POST to a
//! topic, or to an event stream, that is public (`topic.public`). Everything else has the answer of
//! a missing token, whether it is there or not.
//!
//! Owns: which requests these are, and what they may not ask for. Does not own: when a topic is open
//! (`topic::public`), how much may come (`ingest::rate`).

use std::sync::Arc;

use axum::RequestExt;
use axum::extract::{MatchedPath, RawPathParams, Request};
use axum::http::{HeaderMap, Method, header};

use crate::auth::{Principal, Resource};
use crate::http::front::Then;
use crate::http::ingest::{self, cors, rate};
use crate::http::problem::Problem;
use crate::http::{Api, auth, streams};
use crate::topic::Topic;

/// Who sends a request without credentials.
///
/// # Errors
/// `missing_token`; to what is public also `foreign_origin`, and `forbidden` for a channel.
pub(super) async fn admit(
    api: &Api,
    request: &mut Request,
    then: &Then,
) -> Result<Principal, Problem> {
    let Some((topic, stream)) = open(api, request, then).await else {
        return Err(auth::missing());
    };
    cors::check(request)?;
    // The stream may list other origins.
    cors::check_listed(request, &topic.options.cors_origins)?;
    if request.headers().contains_key("x-channel") {
        let detail = "X-Channel needs a token: a channel belongs to all who send to the topic, and \
                      whoever likes could bring it forward";
        return Err(Problem::new("forbidden", detail));
    }
    let (origin, name) = (rate::address(), Resource::Topic(topic.name.as_str()));
    Ok(match &stream {
        None => Principal::stranger(origin, topic.id, [name]),
        Some(stream) => Principal::stranger(origin, topic.id, [name, Resource::Stream(stream)]),
    })
}

/// The open topic that the events go to, and the stream that leads there.
async fn open(
    api: &Api,
    request: &mut Request,
    then: &Then,
) -> Option<(Arc<Topic>, Option<String>)> {
    if request.method() != Method::POST || is_half_sent(request.headers()) {
        return None;
    }
    let open = |name: &str| api.topics.get(name).filter(|topic| api.topics.is_open(topic));
    if let Then::Events(name) = then {
        return Some((open(name)?, None));
    }
    let route = request.extensions().get::<MatchedPath>().cloned()?;
    let is_stream = cors::STREAM_ROUTES.contains(&route.as_str());
    if !is_stream && route.as_str() != ingest::ROUTE {
        return None;
    }
    let parameters = request.extract_parts::<RawPathParams>().await.ok()?;
    let named =
        |wanted: &str| parameters.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    if !is_stream {
        return Some((open(named("topic")?)?, None));
    }
    let (namespace, stream) = (named("namespace"), named("stream")?);
    let topic = streams::open_topic(api, (namespace, stream), request.headers(), request.uri())?;
    Some((topic, Some(stream.to_owned())))
}

/// True if something stands where a token would, though it can be none: whoever sent it means to be
/// known.
fn is_half_sent(headers: &HeaderMap) -> bool {
    headers.get_all(header::AUTHORIZATION).iter().any(|value| !value.is_empty())
}
