//! Errors of the native API as RFC 9457 `application/problem+json`.

use std::num::NonZeroUsize;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::http::refusals::Reason;
use crate::http::request_id;

/// Every problem there is: code, status, title, whether a later try may succeed.
/// The type URL is `/problems#<code>`.
pub const PROBLEMS: &[(&str, u16, &str, bool)] = &[
    ("bad_request", 400, "The request is not understood", false),
    ("invalid_json", 400, "An event is not valid JSON", false),
    ("invalid_topic", 400, "The topic name or its options are refused", false),
    ("missing_idempotency_key", 400, "The topic takes no request without a key", false),
    ("invalid_idempotency_key", 400, "The key or token of the request is malformed", false),
    ("invalid_token_wish", 400, "The name, a rule or the time of a token is refused", false),
    ("missing_table_header", 400, "The request names no table", false),
    ("invalid_table_name", 400, "The table's name is refused", false),
    ("expected_array", 400, "The body is not a JSON array of objects", false),
    ("schema_mismatch", 400, "An event does not fit its table; nothing was stored", false),
    ("table_unsupported", 400, "The table has a column that cannot be written", false),
    ("invalid_stream", 400, "The name or an option of a stream is refused", false),
    ("invalid_webhook", 400, "The name, topic, scheme or secret of a webhook is refused", false),
    ("invalid_sink", 400, "The id, table, mapping or an option of a sink is refused", false),
    ("invalid_source", 400, "The id, topic or an option of a source is refused", false),
    ("invalid_partition", 400, "The topic has no such partition", false),
    ("missing_token", 401, "The request needs a token", false),
    ("invalid_token", 401, "The token is unknown here or was revoked", false),
    ("expired_token", 401, "The token has expired", false),
    ("invalid_signature", 401, "The message is not signed with the secret of the webhook", false),
    ("forbidden", 403, "The token may not do this", false),
    ("no_stream_access", 403, "The token may not send to the stream", false),
    ("no_insert_permission", 403, "The token may not write to the table", false),
    ("read_only", 403, "A file says what sinks and sources there are", false),
    ("foreign_origin", 403, "The request comes from another site", false),
    ("not_found", 404, "There is no such thing here", false),
    ("unknown_topic", 404, "There is no such topic", false),
    ("unknown_ack", 404, "The token of an answer names nothing that is there", false),
    ("unknown_channel", 404, "There is no such channel", false),
    ("unknown_table", 404, "There is no such table", false),
    ("unknown_token", 404, "There is no such token", false),
    ("stream_not_found", 404, "There is no such stream", false),
    ("table_not_found", 404, "The catalog has no such table", false),
    ("unknown_sink", 404, "The topic has no such sink", false),
    ("unknown_source", 404, "There is no source with this id and secret", false),
    ("source_disabled", 404, "The source is disabled; nothing was stored", false),
    ("unknown_webhook", 404, "There is no such webhook", false),
    ("method_not_allowed", 405, "The method is not allowed here", false),
    ("timeout", 408, "The request took too long to arrive", true),
    ("exists", 409, "It exists already", false),
    ("request_in_flight", 409, "The same request is under way; nothing was stored", true),
    ("table_taken", 409, "The table belongs to others", false),
    ("limit_reached", 409, "There are as many as there may be", false),
    ("internal_token", 409, "The token is a sink's own", false),
    ("wrong_state", 409, "The table is not in a state that allows this", false),
    ("precondition_failed", 412, "It is not in the version that the request names", false),
    ("too_large", 413, "The body or an event is too large", false),
    ("payload_too_large", 413, "The body or an event is too large", false),
    ("uri_too_long", 414, "The path and its parameters are too long", false),
    ("unsupported_media_type", 415, "The content type or coding is not supported", false),
    ("invalid_events", 422, "Some events are refused; nothing was stored", false),
    ("unmappable_event", 422, "The mapping of the sink cannot fill a column", false),
    ("idempotency_key_reused", 422, "The key was used for another request", false),
    (
        "overloaded",
        429,
        "Too much is in flight (503 by topic.overload.status); nothing was stored",
        true,
    ),
    (
        "rate_limited",
        429,
        "Too much came in a second (503 by topic.overload.status); nothing was stored",
        true,
    ),
    ("headers_too_large", 431, "The headers are too large", false),
    ("internal", 500, "The server failed", true),
    ("outcome_unknown", 500, "The events may or may not have been stored", true),
    ("issuer_unavailable", 503, "The issuer's keys cannot be had; nothing was stored", true),
    (
        "subscription_unconfirmed",
        503,
        "Whoever asked for a confirmation did not take it; nothing was stored",
        true,
    ),
    ("starting", 503, "The server starts; nothing was stored", true),
    ("draining", 503, "The server is shutting down; nothing was stored", true),
    ("storage_full", 503, "Storage is full; nothing was stored", true),
    ("storage_unavailable", 503, "Storage is full; nothing was stored", true),
    ("stream_stopped", 503, "The stream was terminated; nothing was stored", true),
    ("catalog_unavailable", 503, "The catalog does not answer; nothing was stored", true),
    ("table_behind", 503, "The topic's table is too far behind; nothing was stored", true),
];

/// When to try again what may succeed then and says nothing else: 429 and 503 always say it.
const RETRY_AFTER_S: u64 = 5;

/// One refused event of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventError {
    /// Which event, counted from 0.
    pub index: usize,
    /// Where it starts in the decoded body, bytes.
    pub offset_bytes: usize,
    /// Which field, if one is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Machine-readable reason.
    pub code: &'static str,
    /// Reason for a person.
    pub message: String,
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: &'static str,
    detail: String,
    /// As small as it can be: every result with a problem in it is moved about.
    retry_after_s: Option<u32>,
    errors: Vec<EventError>,
    rejected: Option<usize>,
    max_bytes: Option<NonZeroUsize>,
    /// The connection cannot be used further (an unread body).
    close: bool,
    /// Instead of the listed one.
    status: Option<u16>,
    /// The content type of patches that is asked for (RFC 5789, section 3.1).
    accept_patch: Option<&'static str>,
}

#[derive(Serialize)]
struct Body<'p> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    code: &'static str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<usize>,
    #[serde(skip_serializing_if = "<[EventError]>::is_empty")]
    errors: &'p [EventError],
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl Problem {
    /// The problem `code` (one of [`PROBLEMS`]) with what is wrong this time.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        debug_assert!(PROBLEMS.iter().any(|problem| problem.0 == code), "{code} is not listed");
        Self {
            code,
            detail: detail.into(),
            retry_after_s: None,
            errors: Vec::new(),
            rejected: None,
            max_bytes: None,
            close: false,
            status: None,
            accept_patch: None,
        }
    }

    /// Tells when to try again, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        self
    }

    /// Tells the limit that something is above, in bytes.
    #[must_use]
    pub(crate) fn at_most(mut self, bytes: usize) -> Self {
        self.max_bytes = NonZeroUsize::new(bytes);
        self
    }

    /// Tells the limit of one event, where events are refused for nothing but that.
    #[must_use]
    pub(crate) fn each_at_most(self, bytes: u32) -> Self {
        if self.code == "too_large" && self.errors.iter().all(|error| error.code == "too_large") {
            return self.at_most(bytes as usize);
        }
        self
    }

    /// Adds the refused events, at most 100 of them; `rejected` is how many there are.
    #[must_use]
    pub fn with_errors(mut self, mut errors: Vec<EventError>, rejected: usize) -> Self {
        errors.truncate(100);
        self.errors = errors;
        self.rejected = Some(rejected);
        self
    }

    /// Answers `overloaded` and `rate_limited` with the status that the topic's senders understand.
    #[must_use]
    pub fn overloaded_as(mut self, status: u16) -> Self {
        if matches!(self.code, "overloaded" | "rate_limited") {
            self.status = Some(status);
        }
        self
    }

    /// Says that the connection ends after this answer.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Names the content type of patches that is taken, as an answer of 415 has to.
    #[must_use]
    pub(crate) fn accepting_patches(mut self, kind: &'static str) -> Self {
        self.accept_patch = Some(kind);
        self
    }

    /// The same under another listed code.
    #[must_use]
    pub(crate) fn named(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// The same with another text.
    #[must_use]
    pub(crate) fn detailed(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Title and whether a later try may succeed.
    pub(crate) fn listed(&self) -> (&'static str, bool) {
        let listed = PROBLEMS.iter().find(|problem| problem.0 == self.code);
        listed.map_or(("The server failed", true), |(_, _, title, again)| (title, *again))
    }

    /// Its code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What is wrong this time.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> u16 {
        let listed = PROBLEMS.iter().find(|problem| problem.0 == self.code);
        self.status.unwrap_or(listed.map_or(500, |(_, status, ..)| *status))
    }

    /// When to try again, in seconds.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        let is_asked = matches!(self.status(), 429 | 503);
        self.retry_after_s.map(u64::from).or(is_asked.then_some(RETRY_AFTER_S))
    }

    /// The limit that something is above, in bytes.
    pub(crate) fn max_bytes(&self) -> Option<usize> {
        self.max_bytes.map(NonZeroUsize::get)
    }

    /// True if the connection ends after this answer.
    pub(crate) fn closes(&self) -> bool {
        self.close
    }

    /// The refused events, at most 100 of them.
    pub fn errors(&self) -> &[EventError] {
        &self.errors
    }

    /// What the answer says about how to authenticate (RFC 6750, section 3).
    fn challenge(&self) -> Option<HeaderValue> {
        Some(HeaderValue::from_static(match self.code {
            "missing_token" => "Bearer realm=\"floe\"",
            "invalid_token" => "Bearer realm=\"floe\", error=\"invalid_token\"",
            "expired_token" => {
                "Bearer realm=\"floe\", error=\"invalid_token\", error_description=\"expired\""
            }
            _ => return None,
        }))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let listed = PROBLEMS.iter().find(|problem| problem.0 == self.code);
        let (.., title, retryable) =
            *listed.unwrap_or(&("internal", 500, "The server failed", true));
        let status = self.status();
        let body = Body {
            r#type: format!("/problems#{}", self.code),
            title,
            status,
            detail: &self.detail,
            instance: request_id::instance(),
            code: self.code,
            retryable,
            retry_after: self.retry_after_s(),
            max_bytes: self.max_bytes(),
            rejected: self.rejected,
            errors: &self.errors,
            request_id: request_id::current(),
        };
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, bytes).into_response();
        Reason::mark(self.code, &mut response);
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(kind) = self.accept_patch {
            headers.insert("accept-patch", HeaderValue::from_static(kind));
        } else if self.code == "unsupported_media_type" {
            let codings = HeaderValue::from_static("gzip, zstd, deflate");
            headers.insert(header::ACCEPT_ENCODING, codings);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::HeaderMap;
    use serde_json::Value;

    use super::*;
    use crate::http::auth;

    #[test]
    fn every_429_and_503_says_when_to_come_back_in_every_form() {
        let mut seen = 0;
        for (code, ..) in PROBLEMS {
            for path in [
                "/api/v1/topics/t/events",
                "/data-plane/n/event-stream/s/ingest",
                "/topics/t",
                "/v3/clusters/c/topics/t/records",
                "/services/collector",
                "/v0/events",
                "/v1/logs",
                "/iceberg/v1/namespaces",
                "/v1/branches/1/sources",
                "/stream/1/a/b",
            ] {
                let answer = auth::shaped(path, &HeaderMap::new(), Problem::new(code, "d"));
                if !matches!(answer.status().as_u16(), 429 | 503) {
                    continue;
                }
                let after = answer.headers().get(header::RETRY_AFTER);
                let seconds = after.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
                assert!(seconds.is_some_and(|it| it > 0), "{code} on {path}: {after:?}");
                seen += 1;
            }
        }
        assert!(seen > 100, "{seen}");
        let asked = Problem::new("overloaded", "d").retry_after(7);
        assert_eq!(asked.retry_after_s(), Some(7));
        assert_eq!(Problem::new("outcome_unknown", "d").retry_after_s(), None);
    }

    #[tokio::test]
    async fn a_problem_names_its_request_as_a_uri() {
        let uuid = "019abc00-0000-7000-8000-000000000000";
        let known = |id| {
            request_id::of(
                &[(request_id::HEADER, HeaderValue::from_static(id))].into_iter().collect(),
            )
        };
        for (id, wanted) in [
            (uuid, format!("urn:uuid:{uuid}")),
            ("r-1.a_b~", "r-1.a_b~".to_owned()),
            ("a:b/c%<d>", "a%3Ab%2Fc%25%3Cd%3E".to_owned()),
        ] {
            let answer = async { Problem::new("bad_request", "d").into_response() };
            let answer = request_id::within(known(id), answer).await;
            let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&body["instance"], &body["request_id"]), (&wanted.into(), &id.into()));
        }
    }
}
