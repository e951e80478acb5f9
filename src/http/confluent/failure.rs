//! Errors as the REST proxy tells them: `{"error_code", "message"}`.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::http::problem::{EventError, Problem};

/// The request is not understood.
pub(super) const BAD_REQUEST: u32 = 40_002;
/// The topic has no such partition.
const NO_PARTITION: u32 = 40_402;
/// The record needs a schema.
pub(super) const SCHEMA: u32 = 42_205;
/// The record is refused.
pub(super) const PAYLOAD: u32 = 42_206;
/// The batch is refused.
pub(super) const BATCH: u32 = 42_208;

/// Why a request, or one of its records, is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    /// An HTTP status, or five digits that start with one.
    #[serde(rename = "error_code")]
    pub(super) code: u32,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// An event that the engine refused.
    pub(super) fn of_event(error: &EventError) -> Self {
        let code = match error.code {
            "invalid_partition" => NO_PARTITION,
            "too_large" | "too_many_events" => 413,
            _ => PAYLOAD,
        };
        Self::new(code, error.message.clone())
    }

    /// The status that the code stands for.
    pub(super) fn status(&self) -> StatusCode {
        let status = if self.code < 1_000 { self.code } else { self.code / 100 };
        let status = u16::try_from(status).ok().and_then(|it| StatusCode::from_u16(it).ok());
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// An answer that is an error.
pub(super) enum Refused {
    Failure(Failure),
    Problem(Problem),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Failure(failure) => (failure.status(), Json(failure)).into_response(),
            Self::Problem(problem) => of_problem(problem),
        }
    }
}

/// The problem in the proxy's form, with its headers. 503 stays 503, which senders take for what it
/// is: nothing was stored.
fn of_problem(problem: Problem) -> Response {
    let (code, message) = (problem.code(), problem.detail().to_owned());
    let (mut parts, _) = problem.into_response().into_parts();
    let code = match code {
        "bad_request" | "invalid_json" | "invalid_topic" => BAD_REQUEST,
        "unknown_topic" => 40_401,
        "invalid_partition" => NO_PARTITION,
        "invalid_events" | "idempotency_key_reused" => PAYLOAD,
        "outcome_unknown" | "internal" => 50_002,
        "starting" | "draining" | "storage_full" | "table_behind" | "issuer_unavailable" => 50_003,
        _ => match parts.status.as_u16() {
            401 => 40_101,
            403 => 40_301,
            status => u32::from(status),
        },
    };
    let failure = Failure::new(code, message);
    if parts.status.is_client_error() {
        parts.status = failure.status();
    }
    let json = HeaderValue::from_static("application/json");
    parts.headers.insert(header::CONTENT_TYPE, json);
    let body = serde_json::to_vec(&failure).unwrap_or_default();
    Response::from_parts(parts, Body::from(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_problem_is_that_of_its_code() {
        for (code, status) in [
            ("invalid_partition", 404),
            ("invalid_events", 422),
            ("bad_request", 400),
            ("unknown_topic", 404),
            ("too_large", 413),
            ("overloaded", 429),
            ("rate_limited", 429),
            ("request_in_flight", 409),
            ("foreign_origin", 403),
            ("outcome_unknown", 500),
            ("draining", 503),
        ] {
            let response = Refused::from(Problem::new(code, "d")).into_response();
            assert_eq!(response.status(), status, "{code}");
        }
        let response = Refused::from(Problem::new("overloaded", "d").retry_after(7));
        assert_eq!(response.into_response().headers()[header::RETRY_AFTER], "7");
    }
}
