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
    /// As the header that echoes it: to clone one takes no memory.
    static CURRENT: HeaderValue;
}

/// The id of the request that runs in this task.
pub fn current() -> Option<String> {
    with(|id| id.map(ToOwned::to_owned))
}

/// [`current`], lent.
pub(super) fn with<T>(look: impl FnOnce(Option<&str>) -> T) -> T {
    let id = CURRENT.try_with(Clone::clone).ok();
    look(id.as_ref().and_then(|id| id.to_str().ok()))
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

/// The id of a request with these headers.
pub(super) fn of(headers: &HeaderMap) -> HeaderValue {
    match headers.get(HEADER) {
        Some(given) if is_legal(given.as_bytes()) => given.clone(),
        _ => {
            let mut text = Uuid::encode_buffer();
            let id = Uuid::now_v7().hyphenated().encode_lower(&mut text);
            HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("-"))
        }
    }
}

/// Does `work` for the request `id`, which [`current`] tells meanwhile.
pub(super) fn within<T>(id: HeaderValue, work: impl Future<Output = T>) -> impl Future<Output = T> {
    CURRENT.scope(id, work)
}

fn is_legal(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}
