//! Errors as Keboola's two APIs tell them: `{"statusCode", "error", "message"}`, with `exceptionId`
//! where the server is to blame. Sentences begin with a capital and end with a full stop.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::http::admin;
use crate::http::problem::Problem;
use crate::http::refusals::Reason;
use crate::http::request_id;
use crate::sink;
use crate::source;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: u16,
    /// With the prefix of its API.
    pub(super) name: String,
    pub(super) message: String,
    retry_after_s: Option<u64>,
    /// The connection ends after it (an unread body).
    closes: bool,
}

#[derive(Serialize)]
struct Body<'f> {
    #[serde(rename = "statusCode")]
    status: u16,
    error: &'f str,
    message: &'f str,
    #[serde(rename = "exceptionId", skip_serializing_if = "Option::is_none")]
    exception: Option<String>,
}

impl Failure {
    /// One of the management API.
    pub(super) fn api(status: u16, name: &str, message: impl AsRef<str>) -> Self {
        Self::new(status, format!("stream.api.{name}"), message.as_ref())
    }

    /// One of the ingest route.
    pub(super) fn ingest(status: u16, name: &str, message: impl AsRef<str>) -> Self {
        Self::new(status, format!("stream.in.{name}"), message.as_ref())
    }

    fn new(status: u16, name: String, message: &str) -> Self {
        Self { status, name, message: sentence(message), retry_after_s: None, closes: false }
    }

    /// Something that is not there.
    pub(super) fn not_found(what: &str, name: &str, within: &str) -> Self {
        let shown: String = name.chars().take(100).collect();
        let message = format!("{what} {shown:?} not found in the {within}");
        Self::api(404, &format!("{what}NotFound"), message)
    }

    /// A problem of what the management API is built on.
    pub(super) fn of_problem(problem: &Problem) -> Self {
        let (status, detail) = (problem.status(), problem.detail());
        let failure = match problem.code() {
            "missing_token" => {
                let text = "\"X-StorageApi-Token\" is missing from header";
                Self::api(400, "missingField", text)
            }
            "invalid_token" | "expired_token" => {
                Self::new(401, "storage.tokenInvalid".to_owned(), detail)
            }
            "not_found" => Self::api(404, "endpointNotFound", detail),
            "read_only" => Self::api(403, "readOnly", detail),
            "unknown_topic" => Self::api(404, "sinkNotFound", detail),
            "table_taken" => Self::api(409, "tableTaken", detail),
            "limit_reached" => Self::api(409, "sinkCountLimitReached", detail),
            "precondition_failed" => Self::api(409, "conflict", detail),
            "unmappable_event" => Self::api(422, "unprocessableContent", detail),
            "too_large" => Self::api(413, "bodyTooLarge", detail),
            _ => Self::api(status, name_of(status), detail),
        };
        Self { retry_after_s: problem.retry_after_s(), closes: problem.closes(), ..failure }
    }

    /// A problem of what the ingest route is built on.
    pub(super) fn of_ingest(problem: &Problem) -> Self {
        let (status, detail) = (problem.status(), problem.detail());
        let failure = match problem.code() {
            "unknown_source" => Self::ingest(
                404,
                "noSourceFound",
                "the specified combination of projectID, sourceID and secret was not found",
            ),
            "source_disabled" => Self::ingest(404, "disabledSource", detail),
            "not_found" | "method_not_allowed" => Self::ingest(404, "routeNotFound", "not found"),
            "too_large" => Self::ingest(413, "bodyTooLarge", detail),
            "headers_too_large" => Self::ingest(413, "headerTooLarge", detail),
            "unsupported_media_type" => Self::ingest(415, "unsupportedMediaType", detail),
            "draining" => Self::ingest(503, "shutdown", "node is shutting down"),
            "outcome_unknown" | "internal" => Self::ingest(500, "writeFailed", detail),
            _ => Self::ingest(status, name_of(status), detail),
        };
        Self { retry_after_s: problem.retry_after_s(), closes: problem.closes(), ..failure }
    }

    /// There are `max` sources already.
    pub(super) fn too_many_sources(max: usize) -> Self {
        let message = format!("maximum source count limit is {max}");
        Self::api(409, "sourceCountLimitReached", message)
    }

    /// Why a source is refused.
    pub(super) fn of_source(error: &source::Error) -> Self {
        match error {
            source::Error::Unknown(id) => Self::not_found("source", id, "branch"),
            source::Error::TooMany => Self::too_many_sources(source::SOURCES_MAX),
            other => Self::of_problem(&admin::sources::problem(other)),
        }
    }

    /// Why the sink `id` is refused.
    pub(super) fn of_sink(id: &str, error: &sink::Error) -> Self {
        match error {
            sink::Error::Unknown(_) => Self::not_found("sink", id, "source"),
            sink::Error::Invalid(faults) => {
                // In Keboola's words.
                let reworded = |fault: &String| {
                    fault.replacen(": the template is invalid: ", " template is invalid: ", 1)
                };
                let faults: Vec<String> = faults.iter().map(reworded).collect();
                Self::api(400, "badRequest", listed(&faults))
            }
            other => Self::of_problem(&admin::sinks::problem(id, other)),
        }
    }
}

/// What a status alone is called.
fn name_of(status: u16) -> &'static str {
    match status {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "notFound",
        405 => "methodNotAllowed",
        408 => "requestTimeout",
        409 => "conflict",
        422 => "unprocessableContent",
        429 => "tooManyRequests",
        503 => "serviceUnavailable",
        500.. => "internalError",
        _ => "badRequest",
    }
}

/// Several faults as one text.
pub(super) fn listed(faults: &[String]) -> String {
    match faults {
        [one] => one.clone(),
        many => many.iter().map(|fault| format!("- {fault}")).collect::<Vec<_>>().join("\n"),
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::of_problem(&problem)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let id = || request_id::current().unwrap_or_default();
        let exception = (self.status >= 500).then(|| format!("keboola-stream-{}", id()));
        let (error, message) = (self.name.as_str(), self.message.as_str());
        let body = Body { status: self.status, error, message, exception };
        let mut response = (status, Json(body)).into_response();
        Reason::mark(self.name.clone(), &mut response);
        let retry_after_s = self.retry_after_s.or(matches!(self.status, 429 | 503).then_some(5));
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_sentences_and_several_faults_are_a_list() {
        let failure = Failure::not_found("source", "shop", "branch");
        assert_eq!((failure.status, failure.name.as_str()), (404, "stream.api.sourceNotFound"));
        assert_eq!(failure.message, "Source \"shop\" not found in the branch.");
        let faults = ["a is refused".to_owned(), "b is refused".to_owned()];
        assert_eq!(listed(&faults), "- a is refused\n- b is refused");
        let invalid = "column \"a\": the template is invalid: 1:1-8 Unknown variable: Invalid";
        let failure = Failure::of_sink("s", &sink::Error::Invalid(vec![invalid.to_owned()]));
        let wanted = "Column \"a\" template is invalid: 1:1-8 Unknown variable: Invalid.";
        assert_eq!(failure.message, wanted);
        assert_eq!(sentence("done."), "Done.");
        assert_eq!(sentence(""), ".");
    }

    #[test]
    fn problems_keep_their_status_and_when_to_come_back() {
        for code in ["overloaded", "rate_limited"] {
            let problem = Problem::new(code, "too much").retry_after(3);
            let failure = Failure::of_ingest(&problem);
            assert_eq!((failure.status, failure.name.as_str()), (429, "stream.in.tooManyRequests"));
            assert_eq!(failure.into_response().headers()[header::RETRY_AFTER], "3");
        }
        let missing = Failure::of_problem(&Problem::new("missing_token", "send a token"));
        assert_eq!((missing.status, missing.name.as_str()), (400, "stream.api.missingField"));
        let wrong = Failure::of_ingest(&Problem::new("unknown_source", "no"));
        assert_eq!((wrong.status, wrong.name.as_str()), (404, "stream.in.noSourceFound"));
    }
}
