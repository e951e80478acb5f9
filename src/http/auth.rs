//! Who sends a request, settled before anything else is looked at, and what they may do.
//!
//! Owns: which paths are open, the answers 401 and 403, and 500 after a panic, for the native routes
//! and for the Iceberg ones. Does not own: tokens and rules (`auth`), which right a route needs (its handler).

use std::panic::AssertUnwindSafe;

use axum::extract::{FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use crate::auth::{Auth, Operation, Principal, Refusal, Resource};
use crate::http::front::Then;
use crate::http::ingest::{self, body, tinybird};
use crate::http::problem::Problem;
use crate::http::query_token::QueryToken;
use crate::http::tls::Certificate;
use crate::http::{
    Api, as_problem, confluent, credentials, head_size, hec, iceberg, keboola, otlp, query_token,
    refusals, request_id, sources, strangers, streams, ui,
};
use crate::runtime::metrics;
use crate::store::history::Edit;
use crate::topic::rights::MayWrite;

/// Paths that need no token: probes, what describes the server, and where tokens come from.
const OPEN: &[&str] = &[
    "/",
    "/healthz",
    "/readyz",
    "/status/ready",
    "/version",
    "/openapi.json",
    "/docs",
    "/problems",
    "/oauth/token",
    "/iceberg/v1/oauth/tokens",
    "/services/collector/health",
    "/services/collector/health/1.0",
];

/// What lies below needs a signature, or a secret in the path, instead of a token.
const SIGNED: &str = "/webhooks/";

/// Who sends the request. The middleware puts it there; without it nobody may do anything.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Principal);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::of(parts)
    }
}

impl Caller {
    /// Who sends the request of these headers.
    ///
    /// # Errors
    /// The problem `missing_token`, where the middleware did not see the request.
    pub(crate) fn of(parts: &Parts) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::new("missing_token", "nobody was asked who they are"))
    }

    /// True if they may do `operation` to `resource`.
    pub(crate) fn may(&self, operation: Operation, resource: Resource<'_>) -> bool {
        self.0.may(operation, resource)
    }

    /// Who they are, as what counts once is kept apart by it: the token's name, so that a new token
    /// of that name goes on where the old one ended; the address of a stranger; empty for anybody.
    pub(crate) fn key(&self) -> &str {
        match (self.0.token(), self.0.as_stranger()) {
            (Some(token), _) => &token.name,
            (None, Some(stranger)) => &stranger.origin,
            (None, None) => "",
        }
    }

    /// What a topic may lead to if they say so.
    pub(crate) fn may_write(&self) -> MayWrite {
        MayWrite { tables: self.0.may_write_tables(), topics: self.0.may_write_topics() }
    }

    /// What is kept of who changes something.
    pub(crate) fn edit(&self) -> Edit {
        Edit::by(self.0.name())
    }

    /// [`Caller::may`], as an answer.
    ///
    /// # Errors
    /// The problem `forbidden`, with the rule that is missing.
    pub(crate) fn check(
        &self,
        operation: Operation,
        resource: Resource<'_>,
    ) -> Result<(), Problem> {
        if self.may(operation, resource) {
            return Ok(());
        }
        Err(self.refused(operation, resource))
    }

    /// Checks the right to make a topic.
    ///
    /// # Errors
    /// The problem `forbidden`, with the rule that is missing.
    pub(crate) fn check_create_topic(&self, name: &str) -> Result<(), Problem> {
        if self.0.may_create_topic(name) {
            return Ok(());
        }
        Err(self.refused(Operation::Create, Resource::Topic(name)))
    }

    fn refused(&self, operation: Operation, resource: Resource<'_>) -> Problem {
        count("forbidden");
        Problem::new("forbidden", self.refusal_text(operation, resource))
    }

    /// Why they may not, and which rule would change that.
    pub(crate) fn refusal_text(&self, operation: Operation, resource: Resource<'_>) -> String {
        let (name, operation) = (self.0.name(), operation.as_str());
        if self.0.as_stranger().is_some() {
            return format!("to {operation} here needs a token with {operation}:{resource}");
        }
        format!("token {name:?} may not {operation} here: it lacks the rule {operation}:{resource}")
    }
}

/// The answer to a request, in what the dialect of its route adds.
pub(super) async fn admit(api: &Api, request: Request, then: Then) -> Response {
    let dress = match &then {
        Then::Events(_) => None,
        Then::Routes(_) => keboola::Dress::of(request.method(), request.uri().path()),
    };
    let response = match dress.as_ref().and_then(keboola::Dress::preflight) {
        Some(response) => response,
        None => admitted(api, request, then).await,
    };
    match dress {
        Some(dress) => dress.on(api, response),
        None => response,
    }
}

/// Settles who sends the request and goes on, for routes with [`Caller`] there, or answers 401.
async fn admitted(api: &Api, mut request: Request, then: Then) -> Response {
    if let Err(problem) = head_size::check(&request) {
        return Box::pin(refuse(request, problem, api)).await;
    }
    let then = match then {
        Then::Routes(next) if asks_nobody(request.uri().path()) => return run(request, next).await,
        then => then,
    };
    let caller = match identify(api, &mut request, &then).await {
        Ok(principal) => Caller(principal),
        Err(problem) => return Box::pin(refuse(request, problem, api)).await,
    };
    let mut response = match then {
        Then::Events(topic) => {
            answered(ingest::ROUTE, Box::pin(ingest::events(api, &caller, topic, request))).await
        }
        Then::Routes(next) => {
            request.extensions_mut().insert(caller.clone());
            run(request, next).await
        }
    };
    refusals::name_sender(caller.0, &mut response);
    response
}

/// True if the route settles itself who may.
fn asks_nobody(path: &str) -> bool {
    is_open(path) || has_own_secret(path)
}

fn is_open(path: &str) -> bool {
    OPEN.contains(&path) || keboola::OPEN.contains(&path) || path.starts_with(ui::PREFIX)
}

fn has_own_secret(path: &str) -> bool {
    [SIGNED, sources::PREFIX, keboola::INGEST].iter().any(|it| path.starts_with(it))
        || otlp::sources::has_secret(path)
}

/// Checks the right to append to a topic, and to make it where its first event does.
///
/// # Errors
/// The problem `forbidden`.
pub(super) fn may_write_events(api: &Api, caller: &Caller, topic: &str) -> Result<(), Problem> {
    caller.check(Operation::Write, Resource::Topic(topic))?;
    if api.topics.get(topic).is_none() && api.options.auto_create_topics {
        caller.check_create_topic(topic)?;
    }
    Ok(())
}

/// Who sends a request.
///
/// # Errors
/// One of the problems with status 401, `forbidden`, `issuer_unavailable`; those of
/// [`query_token::identify`] and [`strangers::admit`].
async fn identify(api: &Api, request: &mut Request, then: &Then) -> Result<Principal, Problem> {
    if let Some(token) = request.extensions_mut().remove::<QueryToken>() {
        return Box::pin(query_token::identify(api, token, request)).await;
    }
    let certificate = request.extensions().get::<Certificate>();
    match credited(&api.auth, request.headers(), certificate).await? {
        Some(principal) => Ok(principal),
        None => Box::pin(strangers::admit(api, request, then)).await,
    }
}

/// Who sends these headers; a token comes before the certificate of the connection. None is whoever
/// sends nothing where that is not enough.
///
/// # Errors
/// One of the problems with status 401, `forbidden`, `issuer_unavailable`.
async fn credited(
    auth: &Auth,
    headers: &HeaderMap,
    certificate: Option<&Certificate>,
) -> Result<Option<Principal>, Problem> {
    if let Some(token) = credentials::presented(headers) {
        auth.prepare(&token).await;
        return auth.authenticate(&token).map(Some).map_err(|refusal| unauthorized(auth, refusal));
    }
    if let Some(Certificate(subject)) = certificate {
        match auth.certified(subject) {
            Err(Refusal::NoRights(_)) if !auth.is_required() => {}
            known => {
                let shown = |problem: Problem| {
                    let detail = format!("{}: {subject:?}", problem.detail());
                    problem.detailed(detail)
                };
                return known.map(Some).map_err(|refusal| shown(unauthorized(auth, refusal)));
            }
        }
    }
    Ok(auth.anonymous())
}

/// The refusal of whoever sends nothing.
pub(super) fn missing() -> Problem {
    count("missing");
    Problem::new("missing_token", "send a token: `token: TOKEN` or `Authorization: Bearer TOKEN`")
}

pub(super) fn unauthorized(auth: &Auth, refusal: Refusal) -> Problem {
    count(refusal.label());
    match refusal {
        Refusal::Invalid if !auth.is_set_up() => {
            let detail = "no token was ever made here: send none, or make one (floe token create)";
            Problem::new("invalid_token", detail)
        }
        Refusal::Unavailable => {
            Problem::new("issuer_unavailable", refusal.to_string()).retry_after(5)
        }
        _ => Problem::new(refusal.label(), refusal.to_string()),
    }
}

pub(super) fn count(reason: &'static str) {
    ::metrics::counter!(metrics::AUTH_FAILURES, "side" => "http", "reason" => reason).increment(1);
}

/// The answer of a route, with refusals in the form of ours; the catalog's have their own.
async fn run(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let response = answered(uri.path(), Box::pin(next.run(request))).await;
    if uri.path().starts_with("/iceberg") { response } else { as_problem(response) }
}

/// The answer of a route; where it panics, which is a defect, 500 and not a connection that ends.
async fn answered(path: &str, answer: impl Future<Output = Response>) -> Response {
    // What the route held is dropped, and what others see of it is behind locks that do not poison.
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            let request_id = request_id::current();
            tracing::error!(request_id, "a route panicked");
            let detail = "the server failed; the events may be stored";
            shaped(path, &HeaderMap::new(), Problem::new("internal", detail).closing())
        }
    }
}

/// Answers `problem` without having read the body.
async fn refuse(request: Request, problem: Problem, api: &Api) -> Response {
    let (parts, rest) = request.into_parts();
    let limit = api.options.body_max_bytes;
    // Who comes while the server goes away should come back, whoever it is; what is there, and what
    // was terminated, is told to those alone who may know.
    let closed = streams::closed(api, parts.uri.path()).or_else(|| api.draining());
    let problem = body::refuse(&parts.headers, rest, limit, closed.unwrap_or(problem)).await;
    shaped(parts.uri.path(), &parts.headers, problem)
}

/// A problem in the form that the route's clients read.
pub(super) fn shaped(path: &str, headers: &HeaderMap, problem: Problem) -> Response {
    if path.starts_with("/iceberg/") {
        return iceberg::refusal(&problem);
    }
    if confluent::is_route(path) {
        return confluent::refusal(problem);
    }
    if otlp::is_route(path) {
        return otlp::refusal(headers, problem);
    }
    if hec::is_route(path) {
        return hec::refusal(problem);
    }
    if path == tinybird::ROUTE {
        return tinybird::refusal(problem);
    }
    if keboola::is_route(path) {
        return keboola::refusal(path, &problem);
    }
    if streams::is_route(path) {
        return streams::refusal(problem, headers);
    }
    problem.into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn a_route_that_panics_answers_in_its_own_form() {
        for (path, key, wanted) in [
            ("/api/v1/topics/t/events", "code", Value::from("internal")),
            ("/data-plane/n/event-stream/s/ingest", "error", "INTERNAL_SERVER_ERROR".into()),
            ("/topics/t", "error_code", 50_002.into()),
            ("/services/collector", "code", 8.into()),
        ] {
            let answer = answered(path, async { panic!("a defect") }).await;
            assert_eq!(answer.status(), 500, "{path}");
            let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body[key], wanted, "{path}: {body}");
        }
        let fine = answered("/", async { "fine".into_response() }).await;
        assert_eq!(fine.status(), 200);
    }
}
