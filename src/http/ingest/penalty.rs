//! Senders that repeat a request that cannot succeed: their answers come later and later, up to
//! two seconds. They are not told to slow down (429), which would turn those that give up into
//! those that repeat.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::http::credentials;
use crate::http::query_token::QueryToken;

/// The same refusal so often,
const FREE: u32 = 20;
/// within this time, is one too many.
const WINDOW: Duration = Duration::from_secs(10);
/// Each further one waits so much longer,
const STEP: Duration = Duration::from_millis(50);
/// up to this.
const DELAY_MAX: Duration = Duration::from_secs(2);
/// Senders that are remembered; above it those whose window has passed are forgotten, then all.
const SENDERS_MAX: usize = 10_000;

/// Who sends what where, and how it is refused.
type Key = u64;

/// Who sends what where.
pub(in crate::http) struct Sender(u64);

#[derive(Debug)]
struct Entry {
    since: Instant,
    count: u32,
}

/// The rule over plain state.
#[derive(Debug, Default)]
struct Senders(HashMap<Key, Entry>);

impl Senders {
    /// Counts a refusal; how long its answer waits.
    fn refused(&mut self, key: Key, now: Instant) -> Duration {
        if self.0.len() >= SENDERS_MAX && !self.0.contains_key(&key) {
            self.0.retain(|_, entry| now - entry.since < WINDOW);
            if self.0.len() >= SENDERS_MAX {
                self.0.clear();
            }
        }
        let entry = self.0.entry(key).or_insert(Entry { since: now, count: 0 });
        if now - entry.since >= WINDOW {
            // Who went on through the last window begins where it was, not at the beginning.
            let went_on = entry.count > FREE && now - entry.since < 2 * WINDOW;
            *entry = Entry { since: now, count: if went_on { entry.count } else { 0 } };
        }
        entry.count = entry.count.saturating_add(1);
        let over = entry.count.saturating_sub(FREE);
        STEP.saturating_mul(over).min(DELAY_MAX)
    }
}

/// All senders.
#[derive(Default)]
pub(in crate::http) struct PenaltyBox {
    senders: Mutex<Senders>,
    hasher: RandomState,
}

impl PenaltyBox {
    /// Who sends a request that counts, if it does.
    pub(in crate::http) fn sender(&self, request: &Request) -> Option<Sender> {
        is_counted(request).then(|| Sender(self.key(request)))
    }

    /// Lets an answer with this status wait as long as it must. By now the request holds nothing but
    /// its connection.
    pub(in crate::http) async fn delay(&self, Sender(key): Sender, status: StatusCode) {
        if !is_final(status) {
            return;
        }
        let key = self.hasher.hash_one((key, status.as_u16()));
        let delay = self.senders.lock().refused(key, Instant::now());
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    fn key(&self, request: &Request) -> u64 {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let names = [header::AUTHORIZATION.as_str(), "token", "x-api-key"];
        let value = |name| request.headers().get(name).map(HeaderValue::as_bytes);
        let credentials = credentials::are_sent(request.headers()).then(|| names.map(value));
        let in_query = request.extensions().get::<QueryToken>();
        self.hasher.hash_one((peer, credentials, in_query, request.uri().path()))
    }
}

/// A refusal that the same request would get again.
fn is_final(status: StatusCode) -> bool {
    let passing =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS];
    status.is_client_error() && !passing.contains(&status)
}

/// True where senders of events go; others ask for what is not there as a matter of course.
fn is_counted(request: &Request) -> bool {
    let sends = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    sends && !request.uri().path().starts_with("/iceberg")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::http::query_token;

    #[test]
    fn the_same_refusal_waits_longer_each_time_and_others_do_not() {
        let (mut senders, now) = (Senders::default(), Instant::now());
        for _ in 0..FREE {
            assert_eq!(senders.refused(1, now), Duration::ZERO);
        }
        assert_eq!(senders.refused(1, now), STEP);
        assert_eq!(senders.refused(1, now), 2 * STEP);
        assert_eq!(senders.refused(2, now), Duration::ZERO);
        for _ in 0..100 {
            senders.refused(1, now);
        }
        assert_eq!(senders.refused(1, now), DELAY_MAX);
        // Who goes on stays where it is; who stops for a while is forgiven.
        assert_eq!(senders.refused(1, now + WINDOW), DELAY_MAX);
        assert_eq!(senders.refused(1, now + 4 * WINDOW), Duration::ZERO);
    }

    #[test]
    fn senders_are_bounded() {
        let (mut senders, now) = (Senders::default(), Instant::now());
        for key in 0..3 * SENDERS_MAX as u64 {
            senders.refused(key, now);
            assert!(senders.0.len() <= SENDERS_MAX);
        }
    }

    #[test]
    fn a_token_in_the_url_tells_senders_apart() {
        let all = PenaltyBox::default();
        let key = |query: &str| {
            let request = Request::post(format!("/api/v1/topics/t/events{query}"));
            let mut request = request.body(Body::empty()).unwrap();
            query_token::take(&mut request);
            all.key(&request)
        };
        assert_eq!(key("?token=a&key=k"), key("?token=a"));
        assert_ne!(key("?token=a"), key("?token=b"));
        assert_ne!(key("?token=a"), key(""));
    }

    #[test]
    fn what_may_pass_is_not_counted() {
        for (status, wanted) in [(400, true), (415, true), (409, false), (429, false), (503, false)]
        {
            assert_eq!(is_final(StatusCode::from_u16(status).unwrap()), wanted, "{status}");
        }
    }
}
