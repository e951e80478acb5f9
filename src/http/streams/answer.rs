//! Answers of the ingest route. An error reads as the route's own (`error`), as RFC 9457 and as a
//! plain `message`.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::http::ingest::event::{Acked, Stored};
use crate::http::ingest::identity::REPLAYED;
use crate::http::problem::Problem;
use crate::http::request_id;
use crate::http::streams::array::Fault;
use crate::schema::json::contract::{Ignored, Mismatch};

/// Names of left out fields that a header has.
const IGNORED_TOLD_MAX: usize = 10;
/// The header that names them.
const IGNORED_FIELDS: &str = "x-ignored-fields";
/// Most refused events that an answer lists.
const ERRORS_MAX: usize = 100;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Refused {
    problem: Box<Problem>,
    errors: Vec<Value>,
    /// Events that are refused, of those that were looked at.
    pub(super) rejected: usize,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self { rejected: 1, ..Problem::new(fault.code, fault.message).into() }
    }
}

impl From<Problem> for Refused {
    /// Under the codes of this route.
    fn from(problem: Problem) -> Self {
        let errors = problem.errors().iter().map(|error| json!(error)).collect();
        let problem = match problem.code() {
            "too_large" => problem.named("payload_too_large"),
            // 400 is what this route's senders know of events that do not fit.
            "invalid_events" => problem.named("schema_mismatch"),
            "storage_full" => problem.named("storage_unavailable").retry_after(30),
            _ => problem,
        };
        Self { problem: Box::new(problem), errors, rejected: 0 }
    }
}

impl Refused {
    /// An event that does not fit its table.
    pub(super) fn mismatch(index: usize, value: &Mismatch) -> Self {
        let detail = format!(
            "events[{index}].{}: expected {}, got {}{}{}; nothing was stored",
            value.field,
            value.expected.to_uppercase(),
            value.got,
            if value.shown.is_empty() { "" } else { " " },
            value.shown,
        );
        let error = json!({
            "index": index,
            "field": value.field,
            "expected": value.expected,
            "got": value.got,
        });
        let problem = Box::new(Problem::new("schema_mismatch", detail));
        Self { problem, errors: vec![error], rejected: 1 }
    }

    /// The same, for a problem of one event.
    pub(super) fn of_event(problem: Problem) -> Self {
        Self { rejected: 1, ..problem.into() }
    }

    /// The answer to a request with these headers.
    pub(super) fn told(self, headers: &HeaderMap) -> Response {
        let (code, detail) = (self.problem.code(), self.problem.detail().to_owned());
        let (title, retryable) = self.problem.listed();
        let (retry_after, max_bytes) = (self.problem.retry_after_s(), self.problem.max_bytes());
        let (mut parts, _) = self.problem.into_response().into_parts();
        let mut body = json!({
            "type": format!("/problems#{code}"),
            "title": title,
            "status": parts.status.as_u16(),
            "error": error(parts.status),
            "code": code,
            "message": detail,
            "detail": detail,
            "errors": self.errors,
            "request_id": request_id::current(),
            "retryable": retryable,
        });
        for (name, value) in [
            ("instance", request_id::instance().map(Value::from)),
            ("retry_after", retry_after.map(Value::from)),
            ("max_bytes", max_bytes.map(Value::from)),
        ] {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        let kind =
            if takes_problems(headers) { "application/problem+json" } else { "application/json" };
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        parts.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(parts, body.to_string().into())
    }
}

/// The reason of a status as the route's documentation spells it: `TOO_MANY_REQUESTS`.
fn error(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or("Internal Server Error");
    reason.to_ascii_uppercase().replace([' ', '-'], "_")
}

/// True if the sender takes `application/problem+json`, or says nothing.
fn takes_problems(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter().peekable();
    if accepted.peek().is_none() {
        return true;
    }
    let all = accepted.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut kinds = all.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.any(|kind| ["*/*", "application/*", "application/problem+json"].contains(&kind))
}

/// What is told of events that were stored.
pub(super) struct Accepted {
    /// The table as the sender named it.
    pub(super) table: String,
    /// Fields that no column took.
    pub(super) ignored: Ignored,
    /// Values that became null.
    pub(super) nulled: u64,
    /// None where there was no event.
    pub(super) stored: Option<Stored>,
    /// The route is the one whose body is an array.
    pub(super) is_array: bool,
    /// The sender wants no body.
    pub(super) minimal: bool,
    /// The sender asked to wait for the table.
    pub(super) waits_for_table: bool,
}

impl Accepted {
    /// The answer. On the route whose body is an array it is 200, whatever else: senders repeat on any
    /// other status.
    pub(super) fn told(self) -> Response {
        let mut body = json!({
            "status": "OK",
            "accepted": self.stored.as_ref().map_or(0, |stored| stored.accepted),
            "table": self.table,
            "request_id": request_id::current(),
        });
        if self.nulled > 0 {
            body["nulled"] = json!(self.nulled);
        }
        if let Some(span) = self.stored.as_ref().and_then(|stored| stored.spans.first()) {
            body["partition"] = json!(span.partition);
            body["first_offset"] = json!(span.first_offset);
            body["last_offset"] = json!(span.last_offset);
        }
        let (mut status, mut location) = (StatusCode::OK, None);
        if let Some(stored) = self.stored.as_ref().filter(|_| !self.is_array) {
            let is_late = self.waits_for_table && stored.ack != Acked::Committed;
            if is_late || stored.ack == Acked::Accepted {
                status = StatusCode::ACCEPTED;
            }
            let ack_url = stored.ack_token.as_ref().map(|token| format!("/api/v1/acks/{token}"));
            add_rest(&mut body, stored, ack_url.as_deref());
            location = ack_url.filter(|_| is_late);
        }
        let is_replayed =
            self.stored.is_some_and(|stored| stored.duplicate && stored.write_id.is_some());
        let json = HeaderValue::from_static("application/json");
        let mut response = match self.minimal {
            true => status.into_response(),
            false => (status, [(header::CONTENT_TYPE, json)], body.to_string()).into_response(),
        };
        let headers = response.headers_mut();
        if is_replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        if let Some(url) = location.and_then(|url| HeaderValue::from_str(&url).ok()) {
            headers.insert(header::LOCATION, url);
        }
        if let Some(names) = names(&self.ignored) {
            headers.insert(IGNORED_FIELDS, names);
        }
        response
    }
}

/// What the answers of our own routes have besides.
fn add_rest(body: &mut Value, stored: &Stored, ack_url: Option<&str>) {
    body["rejected"] = json!(stored.rejected);
    body["duplicates"] = json!(stored.duplicates);
    body["duplicate"] = json!(stored.duplicate);
    body["topic"] = json!(stored.topic);
    body["partitions"] = json!(stored.spans);
    body["ack"] = json!(stored.ack.as_str());
    body["write_id"] = json!(stored.write_id);
    if let Some(url) = ack_url {
        body["ack_url"] = json!(url);
    }
    if !stored.errors.is_empty() {
        let told = &stored.errors[..stored.errors.len().min(ERRORS_MAX)];
        body["errors"] = json!(told);
    }
}

/// The first names, joined by commas; what a header cannot hold is percent-encoded.
fn names(ignored: &Ignored) -> Option<HeaderValue> {
    let names: Vec<String> =
        ignored.names.keys().take(IGNORED_TOLD_MAX).map(|name| encode(name)).collect();
    (!names.is_empty()).then(|| HeaderValue::from_str(&names.join(",")).ok()).flatten()
}

fn encode(name: &str) -> String {
    use std::fmt::Write;
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_graphic() && byte != b',' && byte != b'%' {
            text.push(byte as char);
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn body(response: Response) -> Value {
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn an_error_reads_as_the_routes_own_and_as_a_problem() {
        let value = Mismatch {
            field: "quantity".to_owned(),
            expected: "int".to_owned(),
            got: "string",
            shown: "\"two\"".to_owned(),
        };
        let told = Refused::mismatch(17, &value).told(&HeaderMap::new());
        assert_eq!(
            (told.status().as_u16(), &told.headers()["content-type"]),
            (400, &HeaderValue::from_static("application/problem+json"))
        );
        let told = body(told).await;
        assert_eq!(
            (&told["error"], &told["code"]),
            (&json!("BAD_REQUEST"), &json!("schema_mismatch"))
        );
        let message = "events[17].quantity: expected INT, got string \"two\"; nothing was stored";
        assert_eq!((&told["message"], &told["detail"]), (&json!(message), &json!(message)));
        let error = json!({"index": 17, "field": "quantity", "expected": "int", "got": "string"});
        assert_eq!((&told["errors"], &told["retryable"]), (&json!([error]), &json!(false)));
    }

    #[tokio::test]
    async fn problems_of_other_parts_have_the_codes_of_the_route() {
        for (code, wanted, error, after) in [
            ("too_large", "payload_too_large", "PAYLOAD_TOO_LARGE", None),
            ("storage_full", "storage_unavailable", "SERVICE_UNAVAILABLE", Some("30")),
            ("overloaded", "overloaded", "TOO_MANY_REQUESTS", Some("5")),
            ("rate_limited", "rate_limited", "TOO_MANY_REQUESTS", Some("5")),
            ("internal", "internal", "INTERNAL_SERVER_ERROR", None),
            ("missing_token", "missing_token", "UNAUTHORIZED", None),
        ] {
            let told = Refused::from(Problem::new(code, "d")).told(&HeaderMap::new());
            let retry = told.headers().get("retry-after").map(|it| it.to_str().unwrap().to_owned());
            let told = body(told).await;
            assert_eq!(
                (told["code"].as_str(), told["error"].as_str()),
                (Some(wanted), Some(error))
            );
            assert_eq!(retry.as_deref(), after, "{code}");
        }
    }

    #[test]
    fn the_form_of_an_error_is_what_the_sender_takes() {
        for (accept, problems) in [
            (None, true),
            (Some("*/*"), true),
            (Some("text/html, application/*;q=0.8"), true),
            (Some("application/json"), false),
            (Some("application/json, application/problem+json"), true),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert("accept", accept.parse().unwrap());
            }
            assert_eq!(takes_problems(&headers), problems, "{accept:?}");
        }
    }

    #[test]
    fn names_fit_a_header() {
        let mut ignored = Ignored::default();
        assert_eq!(names(&ignored), None);
        for name in ["a b", "\u{e9}", "x,y", "z"] {
            ignored.add_times(name.to_owned(), 1);
        }
        assert_eq!(names(&ignored).unwrap(), "a%20b,x%2Cy,z,%C3%A9");
        for number in 0..20 {
            ignored.add_times(format!("n{number}"), 1);
        }
        assert_eq!(names(&ignored).unwrap().to_str().unwrap().split(',').count(), 10);
    }
}
