//! What is told of requests that are refused or fail: a count by the code of the answer, and a line
//! in the log, which names the route and never what was sent.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use metrics::Counter;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::auth::Principal;
use crate::runtime::metrics as names;

/// Failures of one code are warned of once in this time; a full disk fails thousands a second.
const WARN_EVERY: Duration = Duration::from_secs(1);
/// What is counted where an answer has no code.
const OTHER: &str = "other";

/// The code of the problem that an answer tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason(pub(super) Cow<'static, str>);

impl Reason {
    /// Puts it on an answer.
    pub(super) fn mark(code: impl Into<Cow<'static, str>>, response: &mut Response) {
        response.extensions_mut().insert(Self(code.into()));
    }
}

/// Who sent what an answer refuses.
#[derive(Clone)]
struct By(Principal);

/// Puts who sent it on an answer that refuses something.
pub(super) fn name_sender(sender: Principal, response: &mut Response) {
    if is_refusal(response.status()) {
        response.extensions_mut().insert(By(sender));
    }
}

fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// All refusals; bounded by the codes there are.
#[derive(Default)]
pub(super) struct Refusals(RwLock<HashMap<String, Arc<Known>>>);

struct Known {
    counter: Counter,
    warned: Mutex<Warned>,
}

#[derive(Default)]
struct Warned {
    at: Option<Instant>,
    /// How many were left out since.
    more: u64,
}

impl Warned {
    /// How many were left out before this one, which is told; none if it is left out too.
    fn turn(&mut self, now: Instant) -> Option<u64> {
        if self.at.is_some_and(|at| now - at < WARN_EVERY) {
            self.more += 1;
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.more))
    }
}

impl Refusals {
    /// Counts an answer, and logs it, if it is a refusal; `id` is that of its request.
    pub(super) fn note(&self, route: &str, response: &Response, id: &HeaderValue) {
        let status = response.status();
        if !is_refusal(status) {
            return;
        }
        let reason = response.extensions().get::<Reason>();
        let code = reason.map_or(Cow::Borrowed(OTHER), |Reason(code)| code.clone());
        let known = self.known(&code);
        known.counter.increment(1);
        let principal = response.extensions().get::<By>().map(|By(principal)| principal.name());
        let principal = principal.unwrap_or("unknown");
        let request_id = id.to_str().unwrap_or_default();
        let (status, code) = (status.as_u16(), &*code);
        let told = if status >= 500 { known.warned.lock().turn(Instant::now()) } else { None };
        match told {
            Some(more) => tracing::warn!(
                request_id,
                route,
                status,
                code,
                principal,
                left_out = more,
                "a request failed"
            ),
            None => {
                tracing::debug!(request_id, route, status, code, principal, "a request is refused");
            }
        }
    }

    fn known(&self, code: &str) -> Arc<Known> {
        if let Some(known) = self.0.read().get(code) {
            return Arc::clone(known);
        }
        let new = || {
            let counter = metrics::counter!(names::HTTP_REFUSALS, "code" => code.to_owned());
            Arc::new(Known { counter, warned: Mutex::default() })
        };
        Arc::clone(self.0.write().entry(code.to_owned()).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;
    use crate::http::auth::shaped;
    use crate::http::problem::Problem;

    #[test]
    fn failures_of_a_code_are_told_once_a_second_with_how_many_there_were() {
        let (mut warned, now) = (Warned::default(), Instant::now());
        let told: Vec<_> = [0, 10, 999, 1_000, 1_500, 5_000]
            .map(|ms| warned.turn(now + Duration::from_millis(ms)))
            .into();
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1)]);
    }

    #[test]
    fn an_answer_of_every_route_has_its_code() {
        for path in [
            "/api/v1/topics/t/events",
            "/data-plane/n/event-stream/s/ingest",
            "/topics/t",
            "/services/collector",
            "/v0/events",
            "/v1/logs",
            "/iceberg/v1/config",
        ] {
            let answer = shaped(path, &HeaderMap::new(), Problem::new("overloaded", "d"));
            let reason = answer.extensions().get::<Reason>();
            assert_eq!(reason, Some(&Reason("overloaded".into())), "{path}");
        }
        let answer = shaped("/stream/1/s/x", &HeaderMap::new(), Problem::new("overloaded", "d"));
        let reason = answer.extensions().get::<Reason>();
        assert_eq!(reason, Some(&Reason("stream.in.tooManyRequests".into())));
    }
}
