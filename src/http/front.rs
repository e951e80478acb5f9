//! What every request passes on its way in, and its answer on the way out: the id of the request,
//! the count by route, where it comes from, senders that repeat what cannot succeed, who sends it,
//! what the answer says of rates.
//!
//! Owns: their order. Does not own: the rules (`request_id`, `origin`, `ingest::cors`,
//! `ingest::penalty`, `ingest::rate`, `auth`).
//!
//! It is one layer, because each would take the request apart, copy the service below it and box
//! what it does: six of them cost more than the handler of a small request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::Counter;
use parking_lot::RwLock;

use crate::http::ingest::{Page, PenaltyBox, rate};
use crate::http::{Api, auth, origin, request_id};
use crate::runtime::metrics as names;

/// What the layer needs; cheap to clone, as every request does.
#[derive(Clone)]
pub(super) struct Front(Arc<Parts>);

struct Parts {
    api: Api,
    penalties: PenaltyBox,
    requests: Requests,
}

/// Middleware.
pub(super) async fn layer(State(front): State<Front>, request: Request, next: Next) -> Response {
    let (id, echo) = request_id::of(request.headers());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
    let answer = rate::within(peer, front.0.counted(request, next));
    let mut response = request_id::within(id, answer).await;
    if let Some(echo) = echo {
        response.headers_mut().insert(request_id::HEADER, echo);
    }
    response
}

impl Front {
    pub(super) fn new(api: Api) -> Self {
        let (penalties, requests) = (PenaltyBox::default(), Requests::default());
        Self(Arc::new(Parts { api, penalties, requests }))
    }
}

impl Parts {
    async fn counted(&self, request: Request, next: Next) -> Response {
        let route = request.extensions().get::<MatchedPath>().cloned();
        let response = self.placed(request, next).await;
        let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
        self.requests.count(route, response.status());
        response
    }

    async fn placed(&self, mut request: Request, next: Next) -> Response {
        if let Err(problem) = origin::check(&self.api, request.headers()) {
            return problem.into_response();
        }
        let Some(page) = Page::of(&self.api, &mut request).await else {
            return self.penalised(request, next).await;
        };
        let mut response = match page.preflight() {
            Some(answer) => answer,
            None => self.penalised(request, next).await,
        };
        page.name_origin(response.headers_mut());
        response
    }

    async fn penalised(&self, request: Request, next: Next) -> Response {
        let sender = self.penalties.sender(&request);
        let response = auth::admit(&self.api, request, next).await;
        if let Some(sender) = sender {
            self.penalties.delay(sender, response.status()).await;
        }
        response
    }
}

/// Handles of the counters of requests: to find one by its labels costs as much as all else that
/// is done with it. Bounded by the routes and the statuses there are.
#[derive(Default)]
struct Requests(RwLock<HashMap<StatusCode, HashMap<String, Counter>>>);

impl Requests {
    fn count(&self, route: &str, status: StatusCode) {
        if let Some(known) = self.0.read().get(&status).and_then(|routes| routes.get(route)) {
            known.increment(1);
            return;
        }
        let labels = [("route", route.to_owned()), ("status", status.as_str().to_owned())];
        let counter = metrics::counter!(names::HTTP_REQUESTS, &labels);
        counter.increment(1);
        self.0.write().entry(status).or_default().insert(route.to_owned(), counter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_and_a_status_have_one_counter() {
        let requests = Requests::default();
        for (route, status) in [("/a", 200), ("/a", 200), ("/b", 200), ("/a", 404)] {
            requests.count(route, StatusCode::from_u16(status).unwrap());
        }
        let kept: usize = requests.0.read().values().map(HashMap::len).sum();
        assert_eq!(kept, 3);
    }
}
