//! Request ids: the caller's `X-Request-Id` if it is 1 to 128 visible ASCII characters, else a
//! UUIDv7; echoed on every answer.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header that carries the id both ways.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request that runs in this task.
pub fn current() -> Option<String> {
    CURRENT.try_with(Clone::clone).ok()
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
