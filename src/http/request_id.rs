//! Request ids: the caller's `X-Request-Id` if it is 1 to 128 visible ASCII characters, else a
//! UUIDv7; echoed on every answer.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

/// The header that carries the id both ways.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// All but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request that runs in this task.
pub fn current() -> Option<String> {
    CURRENT.try_with(Clone::clone).ok()
}

/// The same as a URI reference (RFC 9457, `instance`): what is no UUID is percent-encoded, so that
/// nothing in it is taken for a part of one.
pub(super) fn instance() -> Option<String> {
    let id = current()?;
    match Uuid::try_parse(&id) {
        Ok(uuid) => Some(uuid.urn().to_string()),
        Err(_) => Some(utf8_percent_encode(&id, RESERVED).to_string()),
    }
}

/// The id of a request with these headers, and the value that echoes it.
pub(super) fn of(headers: &HeaderMap) -> (String, Option<HeaderValue>) {
    let given = headers.get(HEADER).and_then(|value| Some((value.to_str().ok()?, value)));
    match given {
        Some((id, value)) if is_legal(id) => (id.to_owned(), Some(value.clone())),
        _ => {
            let id = Uuid::now_v7().to_string();
            let value = HeaderValue::from_str(&id).ok();
            (id, value)
        }
    }
}

/// Does `work` for the request `id`, which [`current`] tells meanwhile.
pub(super) fn within<T>(id: String, work: impl Future<Output = T>) -> impl Future<Output = T> {
    CURRENT.scope(id, work)
}

fn is_legal(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}
