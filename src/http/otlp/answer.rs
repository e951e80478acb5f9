//! Answers in the encoding of their request: `Export...ServiceResponse`, or `google.rpc.Status`.
//! Source: OTLP 1.9, OTLP/HTTP Response.
//!
//! Exporters send again what is answered 429 or 503 and drop what is answered anything else. So what
//! passes is one of these two, with the time to wait, and nothing else is.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message;
use serde_json::json;

use crate::http::otlp::encoding::Encoding;
use crate::http::problem::{EventError, Problem};
use crate::http::request_id;
use crate::types::Signal;

/// Refused records that an answer tells the reasons of.
const REASONS_MAX: usize = 3;

/// All three responses: their members have the same tags.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn answer(status: StatusCode, encoding: Encoding, body: Vec<u8>) -> Response {
    let kind = HeaderValue::from_static(encoding.content_type());
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

/// What is wrong, with the first reasons and the id of the request.
fn message(what: String, errors: &[EventError]) -> String {
    let first = errors.iter().take(REASONS_MAX);
    let mut told = vec![what];
    told.extend(first.map(|error| format!("{}: {}", error.index, error.message)));
    told.extend(request_id::current().map(|id| format!("request {id}")));
    told.join("; ")
}

/// What the records of a signal are called, several of them.
fn noun(signal: Signal) -> &'static str {
    match signal {
        Signal::Logs => "log records",
        Signal::Traces => "spans",
        Signal::Metrics => "data points",
    }
}

/// Records were stored, all but those that are refused.
pub(super) fn stored(
    encoding: Encoding,
    signal: Signal,
    rejected: usize,
    errors: &[EventError],
) -> Response {
    let message = message(format!("{rejected} {} refused", noun(signal)), errors);
    let body = match encoding {
        Encoding::Protobuf => {
            let rejected = i64::try_from(rejected).unwrap_or(i64::MAX);
            let partial = PartialSuccess { rejected, error_message: message };
            Export { partial_success: Some(partial).filter(|it| it.rejected > 0) }.encode_to_vec()
        }
        Encoding::Json if rejected == 0 => b"{}".to_vec(),
        Encoding::Json => {
            let name = match signal {
                Signal::Logs => "rejectedLogRecords",
                Signal::Traces => "rejectedSpans",
                Signal::Metrics => "rejectedDataPoints",
            };
            let partial = json!({name: rejected.to_string(), "errorMessage": message});
            json!({"partialSuccess": partial}).to_string().into_bytes()
        }
    };
    answer(StatusCode::OK, encoding, body)
}

/// Nothing is known to be stored.
pub(super) fn refused(encoding: Encoding, problem: Problem) -> Response {
    let message = message(problem.detail().to_owned(), problem.errors());
    let is_bad_data = problem.code() == "invalid_events";
    let (mut parts, _) = problem.into_response().into_parts();
    // Source: OTLP/HTTP, "Bad Data".
    if is_bad_data {
        parts.status = StatusCode::BAD_REQUEST;
    }
    // What was not stored and may be stored next time.
    if matches!(parts.status, StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT) {
        parts.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    let passes =
        matches!(parts.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if passes && !parts.headers.contains_key(header::RETRY_AFTER) {
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    let code = code(parts.status);
    let body = match encoding {
        Encoding::Protobuf => Status { code, message }.encode_to_vec(),
        Encoding::Json => json!({"code": code, "message": message}).to_string().into_bytes(),
    };
    let kind = HeaderValue::from_static(encoding.content_type());
    parts.headers.insert(header::CONTENT_TYPE, kind);
    Response::from_parts(parts, Body::from(body))
}

/// `google.rpc.Code` of a status.
fn code(status: StatusCode) -> i32 {
    match status.as_u16() {
        401 => 16,
        403 => 7,
        404 => 5,
        405 => 12,
        429 => 8,
        503 => 14,
        500..=599 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    async fn bytes(response: Response) -> (u16, String, Vec<u8>) {
        let status = response.status().as_u16();
        let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, body.to_vec())
    }

    fn error(index: usize) -> EventError {
        let message = format!("reason {index}");
        EventError { index, offset_bytes: 0, field: None, code: "invalid_otlp", message }
    }

    #[tokio::test]
    async fn success_is_an_empty_message() {
        let protobuf = bytes(stored(Encoding::Protobuf, Signal::Logs, 0, &[])).await;
        assert_eq!(protobuf, (200, "application/x-protobuf".to_owned(), Vec::new()));
        let json = bytes(stored(Encoding::Json, Signal::Logs, 0, &[])).await;
        assert_eq!(json, (200, "application/json".to_owned(), b"{}".to_vec()));
    }

    #[tokio::test]
    async fn partial_success_tells_how_many_and_the_first_reasons() {
        let errors: Vec<EventError> = (4..9).map(error).collect();
        let (_, _, body) = bytes(stored(Encoding::Protobuf, Signal::Traces, 5, &errors)).await;
        let partial = Export::decode(&body[..]).unwrap().partial_success.unwrap();
        let wanted = "5 spans refused; 4: reason 4; 5: reason 5; 6: reason 6";
        assert_eq!((partial.rejected, &*partial.error_message), (5, wanted));
        for (signal, name) in [
            (Signal::Logs, "rejectedLogRecords"),
            (Signal::Traces, "rejectedSpans"),
            (Signal::Metrics, "rejectedDataPoints"),
        ] {
            let (_, _, body) = bytes(stored(Encoding::Json, signal, 5, &errors)).await;
            let told: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(told["partialSuccess"][name], "5", "{told}");
        }
    }

    #[tokio::test]
    async fn only_what_passes_is_429_or_503_and_says_when() {
        for (name, status, code) in [
            ("bad_request", 400, 3),
            ("invalid_events", 400, 3),
            ("missing_token", 401, 16),
            ("invalid_token", 401, 16),
            ("forbidden", 403, 7),
            ("unknown_topic", 404, 5),
            ("method_not_allowed", 405, 12),
            ("too_large", 413, 3),
            ("unsupported_media_type", 415, 3),
            ("timeout", 503, 14),
            ("request_in_flight", 503, 14),
            ("draining", 503, 14),
            ("storage_full", 503, 14),
            ("overloaded", 429, 8),
            ("rate_limited", 429, 8),
            ("outcome_unknown", 500, 2),
        ] {
            let response = refused(Encoding::Protobuf, Problem::new(name, "why"));
            let waits = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(waits, [429, 503].contains(&status), "{name}");
            let (found, _, body) = bytes(response).await;
            let told = Status::decode(&body[..]).unwrap();
            assert_eq!((found, told.code, &*told.message), (status, code, "why"), "{name}");
        }
        let problem = Problem::new("invalid_events", "all").with_errors(vec![error(0)], 1);
        let (_, kind, body) = bytes(refused(Encoding::Json, problem)).await;
        let told: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&*kind, &told["code"]), ("application/json", &json!(3)));
        assert_eq!(told["message"], "all; 0: reason 0");
    }
}
