//! Pages of other sites that send events: allowed where the topic lists their origin
//! (`topic.cors.origins`), and for what needs the secret of a source or a webhook, which is made for
//! such senders; on every answer, refusals too. Elsewhere browsers keep them out.

use std::borrow::Cow;

use axum::RequestExt;
use axum::extract::{MatchedPath, RawPathParams, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use crate::http::ingest::tinybird;
use crate::http::problem::Problem;
use crate::http::{Api, streams};

/// The route of topics.
pub(in crate::http) const ROUTE: &str = "/api/v1/topics/{topic}/events";
/// What stands before and after its topic.
pub(in crate::http) const AROUND_TOPIC: [&str; 2] = ["/api/v1/topics/", "/events"];
/// Routes that need a secret.
const SECRET_ROUTES: [&str; 8] = [
    "/webhooks/{webhook}/{secret}",
    "/sources/{source}/{secret}",
    "/otlp/{project}/{source}/v1/logs",
    "/otlp/{project}/{source}/v1/metrics",
    "/otlp/{project}/{source}/v1/traces",
    "/otlp/{project}/{source}/{secret}/v1/logs",
    "/otlp/{project}/{source}/{secret}/v1/metrics",
    "/otlp/{project}/{source}/{secret}/v1/traces",
];
/// Routes of event streams, whose options are those of their topics.
pub(in crate::http) const STREAM_ROUTES: [&str; 3] = [
    "/api/v1/streams/{stream}/events",
    "/data-plane/{namespace}/event-stream/{stream}/ingest",
    "/data-plane/{namespace}/event-stream/{stream}/ingest/",
];
const METHODS: HeaderValue = HeaderValue::from_static("POST, PUT, PATCH");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "content-type, content-encoding, token, table, authorization, idempotency-key, \
     x-channel, x-offset-token, x-request-id, x-kafka-key, prefer",
);
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, location, idempotency-replayed, x-ratelimit-limit, \
     x-ratelimit-remaining, x-ratelimit-reset, ratelimit-policy, ratelimit",
);
/// How long a browser keeps the answer of a preflight, seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// What `Access-Control-Allow-Origin` says to `origin`; none if the topic does not list it.
fn allowed(listed: &[String], origin: &HeaderValue) -> Option<HeaderValue> {
    if listed.iter().any(|listed| listed == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let same = |listed: &String| listed.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
    listed.iter().any(same).then(|| origin.clone())
}

/// The topic of a request of Tinybird's clients.
fn tinybirds(query: Option<&str>) -> Option<Cow<'_, str>> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(name, _)| name == "name").map(|(_, topic)| topic)
}

/// On a request from a page whose origin is listed.
#[derive(Clone)]
struct Listed;

/// Refuses a request from a page that is not listed, where no header keeps such away: its sender did
/// not have to ask before.
///
/// # Errors
/// `foreign_origin`.
pub(in crate::http) fn check(request: &Request) -> Result<(), Problem> {
    let is_page = request.headers().contains_key(header::ORIGIN);
    if is_page && request.extensions().get::<Listed>().is_none() {
        return Err(foreign());
    }
    Ok(())
}

/// Refuses a request from a page that is not among `listed`.
///
/// # Errors
/// `foreign_origin`.
pub(in crate::http) fn check_listed(request: &Request, listed: &[String]) -> Result<(), Problem> {
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    if origins.all(|origin| allowed(listed, origin).is_some()) { Ok(()) } else { Err(foreign()) }
}

fn foreign() -> Problem {
    let detail = "the topic does not list this origin, see topic.cors.origins";
    Problem::new("foreign_origin", detail)
}

fn of_topic(api: &Api, topic: &str) -> Vec<String> {
    api.topics.get(topic).map_or_else(Vec::new, |topic| topic.options.cors_origins.clone())
}

/// A request from a page of another site, to a route that may take such.
pub(in crate::http) struct Page {
    /// What names the origin that may read the answer.
    allowed: Option<HeaderValue>,
    /// It is what a browser asks before it sends what a form could not (that has no token).
    is_preflight: bool,
}

impl Page {
    /// None of a request that comes from no page, or goes where none may send.
    pub(in crate::http) async fn of(api: &Api, request: &mut Request) -> Option<Self> {
        if !request.headers().contains_key(header::ORIGIN) {
            return None;
        }
        let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let allowed = match route {
            Some(route) if SECRET_ROUTES.contains(&route) => Some(HeaderValue::from_static("*")),
            Some(route) if route == ROUTE || STREAM_ROUTES.contains(&route) => {
                let parameters = request.extract_parts::<RawPathParams>().await.ok()?;
                let origin = request.headers().get(header::ORIGIN)?;
                let named = |wanted: &str| parameters.iter().find(|(name, _)| *name == wanted);
                match (named("topic"), named("stream")) {
                    (Some((_, topic)), _) => allowed(&of_topic(api, topic), origin),
                    (_, Some((_, stream))) => {
                        allowed(&streams::manage::cors_origins(api, stream), origin)
                    }
                    _ => None,
                }
            }
            Some(tinybird::ROUTE) => {
                let topic = tinybirds(request.uri().query())?;
                allowed(&of_topic(api, &topic), request.headers().get(header::ORIGIN)?)
            }
            _ => return None,
        };
        if allowed.is_some() {
            request.extensions_mut().insert(Listed);
        }
        let is_preflight = request.method() == Method::OPTIONS;
        Some(Self { allowed, is_preflight })
    }

    /// The answer to what a browser asks first; none of a request that is to be served.
    pub(in crate::http) fn preflight(&self) -> Option<Response> {
        self.is_preflight.then(|| preflight(self.allowed.is_some()))
    }

    /// Names the origin that may read an answer, a refusal too.
    pub(in crate::http) fn name_origin(self, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

fn preflight(is_allowed: bool) -> Response {
    if !is_allowed {
        return foreign().into_response();
    }
    let answer: [(HeaderName, HeaderValue); 4] = [
        (header::ALLOW, METHODS),
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, answer).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_allowed_as_it_is_listed() {
        let origin = HeaderValue::from_static("https://a.example");
        let listed = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|item| (*item).to_owned()).collect();
            allowed(&list, &origin)
        };
        assert_eq!(listed(&["https://b.example", "HTTPS://a.example"]), Some(origin.clone()));
        assert_eq!(listed(&["*"]), Some(HeaderValue::from_static("*")));
        assert_eq!(listed(&["https://a.example.evil"]), None);
        assert_eq!(listed(&[]), None);
    }
}
