//! Answers as the Event Collector gives them: `{"text", "code"}`, here with `detail`.
//! Source: Splunk, Troubleshoot HTTP Event Collector, possible error codes.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::http::problem::Problem;
use crate::http::refusals::Reason;

/// Code, status, text.
const ANSWERS: &[(u16, u16, &str)] = &[
    (0, 200, "Success"),
    (2, 401, "Token is required"),
    (3, 401, "Invalid authorization"),
    (4, 403, "Invalid token"),
    (5, 400, "No data"),
    (6, 400, "Invalid data format"),
    (7, 400, "Incorrect index"),
    (8, 500, "Internal server error"),
    (9, 503, "Server is busy"),
    (10, 400, "Data channel is missing"),
    (12, 400, "Event field is required"),
    (13, 400, "Event field cannot be blank"),
    (15, 400, "Error in handling indexed fields"),
    (17, 200, "HEC is healthy"),
    (18, 503, "HEC is unhealthy, queues are full"),
    (23, 503, "Server is shutting down"),
    (27, 413, "Request entity too large"),
    (405, 405, "Method not allowed"),
];

#[derive(Serialize)]
struct Body<'b> {
    text: &'static str,
    code: u16,
    #[serde(rename = "invalid-event-number", skip_serializing_if = "Option::is_none")]
    event: Option<usize>,
    #[serde(rename = "ackId", skip_serializing_if = "Option::is_none")]
    ack_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'b str>,
}

fn listed(code: u16) -> (StatusCode, &'static str) {
    let listed = ANSWERS.iter().find(|answer| answer.0 == code);
    let (_, status, text) = *listed.unwrap_or(&(8, 500, "Internal server error"));
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), text)
}

/// An answer that is no refusal.
pub(super) fn answer(code: u16, ack_id: Option<u64>) -> Response {
    let (status, text) = listed(code);
    (status, Json(Body { text, code, event: None, ack_id, detail: None })).into_response()
}

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Failure {
    code: u16,
    status: StatusCode,
    detail: String,
    /// Which event of the request is to blame.
    event: Option<usize>,
    headers: Box<HeaderMap>,
    /// The code of the problem that it was.
    reason: Option<&'static str>,
}

impl Failure {
    /// The failure `code` with what is wrong this time.
    pub(super) fn new(code: u16, detail: impl Into<String>) -> Self {
        let headers = Box::default();
        let detail = detail.into();
        Self { code, status: listed(code).0, detail, event: None, headers, reason: None }
    }

    /// Names the event that is to blame.
    pub(super) fn at(mut self, event: usize) -> Self {
        self.event = Some(event);
        self
    }

    /// Says that events of the request are stored: to send it again would store them twice.
    pub(super) fn after_others(self) -> Self {
        let detail = format!("{}; events for other indexes are stored", self.detail);
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                Self { event: self.event, reason: self.reason, ..Self::new(8, detail) }
            }
            _ => Self { detail, ..self },
        }
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> u16 {
        self.code
    }

    #[cfg(test)]
    pub(super) fn event(&self) -> Option<usize> {
        self.event
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = match problem.code() {
            "missing_token" => 2,
            "expired_token" => 3,
            "invalid_token" => 4,
            "forbidden" | "unknown_topic" | "invalid_topic" => 7,
            "too_large" => 27,
            "method_not_allowed" => 405,
            // All of these say that nothing was stored and that it may be next time.
            "overloaded" | "rate_limited" | "storage_full" | "table_behind" | "timeout"
            | "request_in_flight" | "issuer_unavailable" | "starting" => 9,
            "draining" => 23,
            "outcome_unknown" | "internal" => 8,
            _ => 6,
        };
        let (detail, reason) = (problem.detail().to_owned(), Some(problem.code()));
        let is_of_events = problem.code() == "invalid_events";
        let (parts, _) = problem.into_response().into_parts();
        let status = match code {
            // What the token lacks, the coding of the body, or a head that is too long.
            6 | 7
                if [403, 414, 415, 422, 431].contains(&parts.status.as_u16()) && !is_of_events =>
            {
                parts.status
            }
            code => listed(code).0,
        };
        let mut headers = parts.headers;
        headers.remove(header::CONTENT_TYPE);
        Self { code, status, detail, event: None, headers: Box::new(headers), reason }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { code, status, detail, event, mut headers, reason } = self;
        if status == StatusCode::SERVICE_UNAVAILABLE && !headers.contains_key(header::RETRY_AFTER) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        let (_, text) = listed(code);
        let body = Body { text, code, event, ack_id: None, detail: Some(&detail) };
        let mut response = (status, *headers, Json(body)).into_response();
        if let Some(reason) = reason {
            Reason::mark(reason, &mut response);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_have_the_codes_that_senders_know() {
        for (name, status, code) in [
            ("missing_token", 401, 2),
            ("expired_token", 401, 3),
            ("invalid_token", 403, 4),
            ("forbidden", 403, 7),
            ("unknown_topic", 400, 7),
            ("bad_request", 400, 6),
            ("idempotency_key_reused", 422, 6),
            ("unsupported_media_type", 415, 6),
            ("too_large", 413, 27),
            ("overloaded", 503, 9),
            ("rate_limited", 503, 9),
            ("timeout", 503, 9),
            ("storage_full", 503, 9),
            ("draining", 503, 23),
            ("outcome_unknown", 500, 8),
            ("method_not_allowed", 405, 405),
        ] {
            let failure = Failure::from(Problem::new(name, "why"));
            assert_eq!(failure.code, code, "{name}");
            let response = failure.into_response();
            assert_eq!(response.status(), status, "{name}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json", "{name}");
            let waits = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(waits, status == 503, "{name}");
        }
        let others = Failure::from(Problem::new("overloaded", "d")).at(3).after_others();
        assert_eq!((others.code, others.status.as_u16(), others.event), (8, 500, Some(3)));
        let others = Failure::from(Problem::new("bad_request", "d")).after_others();
        assert_eq!((others.code, &*others.detail), (6, "d; events for other indexes are stored"));
        let later = Failure::from(Problem::new("overloaded", "d").retry_after(7));
        assert_eq!(later.into_response().headers()[header::RETRY_AFTER], "7");
    }
}
