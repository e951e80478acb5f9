//! What an answer says of the limits that its request was within, or not: `X-RateLimit-*` of the
//! one that is nearest, `RateLimit-Policy` and `RateLimit` of all (source:
//! draft-ietf-httpapi-ratelimit-headers).

use std::cell::RefCell;
use std::fmt::Write;
use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;

use crate::http::ingest::rate::bucket::Left;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Which limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Requests of a sender.
    Requests,
    /// Bytes of a sender.
    Bytes,
    /// Requests to a topic.
    TopicRequests,
    /// Bytes to a topic.
    TopicBytes,
}

impl Limit {
    /// Its name in headers and metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::TopicRequests => "topic-requests",
            Self::TopicBytes => "topic-bytes",
        }
    }

    fn counts_bytes(self) -> bool {
        matches!(self, Self::Bytes | Self::TopicBytes)
    }

    /// The rule in words.
    pub(super) fn detail(self, limit: u64) -> String {
        let (who, what, option) = match self {
            Self::Requests => ("a sender", "requests", "http.rate.requests, or that of its token"),
            Self::Bytes => ("a sender", "bytes", "http.rate.bytes, or that of its token"),
            Self::TopicRequests => ("the topic", "requests", "topic.rate.requests"),
            Self::TopicBytes => ("the topic", "bytes", "topic.rate.bytes"),
        };
        format!("{who} has {limit} {what} in a second ({option}); nothing was stored")
    }
}

/// What is known of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) limit: Limit,
    pub(super) left: Left,
    /// It is why the request is refused.
    pub(super) refuses: bool,
}

impl Told {
    /// True if this is nearer to its end than `other`.
    fn is_nearer(&self, other: &Self) -> bool {
        let share = |of: &Left, by: &Left| u128::from(of.left) * u128::from(by.limit);
        let (own, others) = (share(&self.left, &other.left), share(&other.left, &self.left));
        let (until, others_until) = (self.left.full_in_s, other.left.full_in_s);
        (self.refuses, others, until) > (other.refuses, own, others_until)
    }
}

/// The request that runs in this task.
struct Visit {
    peer: Option<IpAddr>,
    told: RefCell<Vec<Told>>,
}

tokio::task_local! {
    static CURRENT: Visit;
}

/// Answers a request of `peer`, and says on the answer what [`note`] got to know of its limits.
pub(in crate::http) async fn within(
    peer: Option<IpAddr>,
    answer: impl Future<Output = Response>,
) -> Response {
    let visit = Visit { peer, told: RefCell::default() };
    let answer = async {
        let mut response = answer.await;
        let told = CURRENT.with(|visit| visit.told.take());
        write(&told, response.headers_mut());
        response
    };
    CURRENT.scope(visit, answer).await
}

/// Where the request that runs in this task comes from.
pub(super) fn peer() -> Option<IpAddr> {
    CURRENT.try_with(|visit| visit.peer).ok().flatten()
}

/// Has the answer say this of a limit. A request that is within several of one kind (topics of its
/// events) tells of the nearest.
pub(super) fn note(told: Told) {
    // Elsewhere than in a request nobody is told.
    let _ = CURRENT.try_with(|visit| {
        let mut all = visit.told.borrow_mut();
        match all.iter_mut().find(|known| known.limit == told.limit) {
            Some(known) if told.is_nearer(known) => *known = told,
            Some(_) => {}
            None => all.push(told),
        }
    });
}

fn write(told: &[Told], headers: &mut HeaderMap) {
    let nearest = told.iter().reduce(|a, b| if b.is_nearer(a) { b } else { a });
    let Some(Told { left: nearest, .. }) = nearest else { return };
    headers.insert(LIMIT, HeaderValue::from(nearest.limit));
    headers.insert(REMAINING, HeaderValue::from(nearest.left));
    headers.insert(RESET, HeaderValue::from(nearest.full_in_s));
    let (mut policy, mut state) = (String::new(), String::new());
    for Told { limit, left: Left { limit: quota, left, full_in_s }, .. } in told {
        let (name, comma) = (limit.as_str(), if policy.is_empty() { "" } else { ", " });
        let unit = if limit.counts_bytes() { ";qu=\"content-bytes\"" } else { "" };
        // A string takes whatever is written to it.
        let _ = write!(policy, "{comma}\"{name}\";q={};w=1{unit}", shown(*quota));
        let _ = write!(state, "{comma}\"{name}\";r={};t={full_in_s}", shown(*left));
    }
    for (name, text) in [(POLICY, policy), (STATE, state)] {
        if let Ok(text) = HeaderValue::from_str(&text) {
            headers.insert(name, text);
        }
    }
}

/// The largest number that a structured field can tell (RFC 9651, section 3.3.1) is less than the
/// largest limit.
fn shown(number: u64) -> u64 {
    number.min(999_999_999_999_999)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    fn told(limit: Limit, quota: u64, left: u64, full_in_s: u64) -> Told {
        Told { limit, left: Left { limit: quota, left, full_in_s }, refuses: false }
    }

    async fn headers(notes: Vec<Told>) -> Vec<(String, String)> {
        let answer = within(None, async {
            notes.into_iter().for_each(note);
            ().into_response()
        });
        let answer = answer.await;
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[tokio::test]
    async fn all_limits_are_told_and_the_nearest_as_senders_know_it() {
        assert!(headers(Vec::new()).await.is_empty());
        let half = told(Limit::Requests, 100, 50, 1);
        let less = told(Limit::TopicBytes, 1_000, 400, 1);
        let wanted = [
            ("x-ratelimit-limit", "1000"),
            ("x-ratelimit-remaining", "400"),
            ("x-ratelimit-reset", "1"),
            (
                "ratelimit-policy",
                "\"requests\";q=100;w=1, \"topic-bytes\";q=1000;w=1;qu=\"content-bytes\"",
            ),
            ("ratelimit", "\"requests\";r=50;t=1, \"topic-bytes\";r=400;t=1"),
        ];
        assert_eq!(headers(vec![half, less]).await, pairs(&wanted));
        let why = Told { refuses: true, ..half };
        let told = headers(vec![why, less]).await;
        assert_eq!(
            told[..2],
            pairs(&[("x-ratelimit-limit", "100"), ("x-ratelimit-remaining", "50")])
        );
    }

    #[tokio::test]
    async fn of_several_of_a_kind_the_nearest_is_told() {
        let (near, far) =
            (told(Limit::TopicRequests, 10, 1, 1), told(Limit::TopicRequests, 1_000, 900, 1));
        for notes in [vec![near, far], vec![far, near]] {
            let told = headers(notes).await;
            assert_eq!(told[4], ("ratelimit".to_owned(), "\"topic-requests\";r=1;t=1".to_owned()));
        }
        let why = Told { refuses: true, ..told(Limit::TopicRequests, 10, 0, 7) };
        let none = told(Limit::TopicRequests, 10, 0, 9);
        assert_eq!(headers(vec![why, none]).await[4].1, "\"topic-requests\";r=0;t=7");
        // What was not known at first is more in the end.
        let later = told(Limit::TopicRequests, 10, 0, 11);
        assert_eq!(headers(vec![none, later]).await[4].1, "\"topic-requests\";r=0;t=11");
    }
}
