//! What every request passes on its way in, and its answer on the way out: the id of the request,
//! the count by route, where it comes from, senders that repeat what cannot succeed, who sends it,
//! what the answer says of rates.
//!
//! Owns: their order, and the short way to the route that has most requests. Does not own: the
//! rules (`request_id`, `origin`, `ingest::cors`, `ingest::penalty`, `ingest::rate`, `auth`).
//!
//! It is one layer, because each would take the request apart, copy the service below it and box
//! what it does: six of them cost more than the handler of a small request. The router does that
//! three times, so plain requests with events go past it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use metrics::Counter;
use parking_lot::RwLock;
use tower::ServiceExt;

use crate::http::ingest::{self, Page, PenaltyBox, rate};
use crate::http::refusals::Refusals;
use crate::http::{Api, auth, origin, query_token, request_id};
use crate::runtime::metrics as names;

/// What the layer needs; cheap to clone, as every request does.
#[derive(Clone)]
pub(super) struct Front(Arc<Parts>);

struct Parts {
    api: Api,
    penalties: PenaltyBox,
    requests: Requests,
    refusals: Refusals,
}

/// All that answers; cheap to clone, as every connection and request does.
#[derive(Clone)]
pub struct Site {
    front: Front,
    routes: Router,
}

impl Site {
    /// `routes` behind what every request passes.
    pub(super) fn new(api: Api, routes: Router) -> Self {
        let (penalties, requests) = (PenaltyBox::default(), Requests::default());
        let refusals = Refusals::default();
        let front = Front(Arc::new(Parts { api, penalties, requests, refusals }));
        let layer = middleware::from_fn_with_state(front.clone(), layer);
        Self { front, routes: routes.layer(layer) }
    }

    /// True if connections are about to be closed.
    pub(super) fn is_draining(&self) -> bool {
        self.front.0.api.is_draining()
    }

    /// The answer to a request.
    pub(super) async fn answer(&self, mut request: Request) -> Response {
        query_token::take(&mut request);
        if let Some(topic) = topic_of_events(&request) {
            return self.front.identified(ingest::ROUTE, request, Then::Events(topic)).await;
        }
        // Boxed: others would have room for it.
        match Box::pin(self.routes.clone().oneshot(request)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The topic of a request that posts events to one, if no page sends it and its path is written
/// as names of topics are. All others go through the router, to the same handlers.
fn topic_of_events(request: &Request) -> Option<String> {
    let [before, after] = ingest::AROUND_TOPIC;
    let topic = request.uri().path().strip_prefix(before)?.strip_suffix(after)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_express = request.method() == Method::POST
        && !topic.is_empty()
        && topic.bytes().all(is_plain)
        && !request.headers().contains_key(header::ORIGIN);
    is_express.then(|| topic.to_owned())
}

/// What a request goes on to when it is let in.
pub(super) enum Then {
    Routes(Next),
    /// Of this topic.
    Events(String),
}

/// Middleware.
async fn layer(State(front): State<Front>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    front.identified(route, request, Then::Routes(next)).await
}

impl Front {
    async fn identified(&self, route: &str, request: Request, then: Then) -> Response {
        let known = request_id::of(request.headers());
        let id = known.id.clone();
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
        // Boxed: it would be copied into each future around it, and kept for each connection.
        let answer = rate::within(peer, Box::pin(self.0.answer(request, then)));
        let mut response = request_id::within(known, answer).await;
        self.0.requests.count(route, response.status());
        self.0.refusals.note(route, &response, &id);
        response.headers_mut().insert(request_id::HEADER, id);
        response
    }
}

impl Parts {
    async fn answer(&self, mut request: Request, then: Then) -> Response {
        if let Err(problem) = origin::check(&self.api, request.headers()) {
            return problem.into_response();
        }
        let page = Page::of(&self.api, &mut request).await;
        let mut response = match page.as_ref().and_then(Page::preflight) {
            Some(answer) => answer,
            None => {
                let sender = self.penalties.sender(&request);
                let response = auth::admit(&self.api, request, then).await;
                if let Some(sender) = sender {
                    self.penalties.delay(sender, response.status()).await;
                }
                response
            }
        };
        if let Some(page) = page {
            page.name_origin(response.headers_mut());
        }
        response
    }
}

/// Handles of the counters of requests: to find one by its labels costs as much as all else that
/// is done with it. Bounded by the routes and the statuses there are.
#[derive(Default)]
struct Requests {
    all: RwLock<HashMap<StatusCode, HashMap<String, Counter>>>,
    /// Of events that were taken, which most requests are: no lock and no look-up.
    most: OnceLock<Counter>,
}

impl Requests {
    fn count(&self, route: &str, status: StatusCode) {
        if status == StatusCode::OK && route == ingest::ROUTE {
            self.most.get_or_init(|| Self::counter(route, status)).increment(1);
            return;
        }
        if let Some(known) = self.all.read().get(&status).and_then(|routes| routes.get(route)) {
            known.increment(1);
            return;
        }
        let counter = Self::counter(route, status);
        counter.increment(1);
        self.all.write().entry(status).or_default().insert(route.to_owned(), counter);
    }

    fn counter(route: &str, status: StatusCode) -> Counter {
        let labels = [("route", route.to_owned()), ("status", status.as_str().to_owned())];
        metrics::counter!(names::HTTP_REQUESTS, &labels)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn only_plain_requests_with_events_go_past_the_router() {
        let topic = |method: &str, uri: &str, origin: Option<&str>| {
            let mut request = Request::builder().method(method).uri(uri);
            if let Some(origin) = origin {
                request = request.header(header::ORIGIN, origin);
            }
            topic_of_events(&request.body(Body::empty()).unwrap())
        };
        let plain = "/api/v1/topics/a.b-C_9/events";
        assert_eq!(topic("POST", plain, None).as_deref(), Some("a.b-C_9"));
        assert_eq!(
            topic("POST", &format!("{plain}?ack=accepted"), None).as_deref(),
            Some("a.b-C_9")
        );
        let [before, after] = ingest::AROUND_TOPIC;
        assert_eq!(format!("{before}{{topic}}{after}"), ingest::ROUTE);
        for (method, uri, origin) in [
            ("PUT", plain, None),
            ("GET", plain, None),
            ("POST", plain, Some("https://shop.invalid")),
            ("POST", "/api/v1/topics/a%2eb/events", None),
            ("POST", "/api/v1/topics//events", None),
            ("POST", "/api/v1/topics/a/b/events", None),
            ("POST", "/api/v1/topics/a/events/", None),
            ("POST", "/api/v1/topics/events", None),
            ("POST", "/api/v1/streams/a/events", None),
        ] {
            assert_eq!(topic(method, uri, origin), None, "{method} {uri}");
        }
    }

    #[test]
    fn a_route_and_a_status_have_one_counter() {
        let requests = Requests::default();
        for (route, status) in [("/a", 200), ("/a", 200), ("/b", 200), ("/a", 404)] {
            requests.count(route, StatusCode::from_u16(status).unwrap());
        }
        let kept: usize = requests.all.read().values().map(HashMap::len).sum();
        assert_eq!(kept, 3);
    }
}
