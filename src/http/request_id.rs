//! Request ids: the caller's `X-Request-Id` if it is 1 to 128 visible ASCII characters, else a
//! UUIDv7; echoed on every answer. With it goes `traceparent` (W3C Trace Context, 3.2), if a request
//! has one that is well formed.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

use crate::runtime::ids::uuid_v7;

/// The header that carries the id both ways.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// All but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The header that says of which trace a request is part.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a request is known by.
pub(super) struct Known {
    /// As the header that echoes it: to clone one takes no memory.
    pub(super) id: HeaderValue,
    traceparent: Option<HeaderValue>,
}

tokio::task_local! {
    static CURRENT: Known;
}

/// The id of the request that runs in this task.
pub fn current() -> Option<String> {
    with(|id| id.map(ToOwned::to_owned))
}

/// [`current`], lent.
pub(super) fn with<T>(look: impl FnOnce(Option<&str>) -> T) -> T {
    let id = CURRENT.try_with(|known| known.id.clone()).ok();
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

/// The `traceparent` of the request that runs in this task.
pub(super) fn traceparent() -> Option<Bytes> {
    let trace = CURRENT.try_with(|known| known.traceparent.clone()).ok().flatten();
    trace.filter(|trace| is_trace(trace.as_bytes())).map(|it| Bytes::copy_from_slice(it.as_bytes()))
}

/// What a request with these headers is known by.
pub(super) fn of(headers: &HeaderMap) -> Known {
    Known { id: id_of(headers), traceparent: headers.get(TRACEPARENT).cloned() }
}

fn id_of(headers: &HeaderMap) -> HeaderValue {
    match headers.get(HEADER) {
        Some(given) if is_legal(given.as_bytes()) => given.clone(),
        _ => {
            let mut text = Uuid::encode_buffer();
            let id = uuid_v7().hyphenated().encode_lower(&mut text);
            HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("-"))
        }
    }
}

/// Does `work` for the request `known`, which [`current`] tells of meanwhile.
pub(super) fn within<T>(known: Known, work: impl Future<Output = T>) -> impl Future<Output = T> {
    CURRENT.scope(known, work)
}

/// True for `version-trace-parent-flags`; what a later version adds follows behind another `-`.
fn is_trace(text: &[u8]) -> bool {
    let is_hex =
        |part: &[u8]| part.iter().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(it));
    let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|it| *it != b'0');
    let parts: Vec<&[u8]> = text.splitn(5, |byte| *byte == b'-').collect();
    let ([version, trace, parent, flags] | [version, trace, parent, flags, _]) = parts[..] else {
        return false;
    };
    let lengths = [version, trace, parent, flags].map(<[u8]>::len);
    let is_known = parts.len() == 4 || version != b"00";
    lengths == [2, 32, 16, 2]
        && is_known
        && is_hex(version)
        && version != b"ff"
        && is_id(trace)
        && is_id(parent)
        && is_hex(flags)
}

fn is_legal(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_taken_if_it_is_well_formed() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let good = [
            format!("00-{trace}-b7ad6b7169203331-01"),
            format!("01-{trace}-b7ad6b7169203331-01"),
            format!("01-{trace}-b7ad6b7169203331-01-what-is-new"),
        ];
        let bad = [
            String::new(),
            format!("00-{trace}-b7ad6b7169203331-01-more"),
            format!("ff-{trace}-b7ad6b7169203331-01"),
            format!("00-{trace}-b7ad6b7169203331"),
            format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}x-b7ad6b7169203331-01"),
        ];
        for (texts, wanted) in [(&good[..], true), (&bad, false)] {
            for text in texts {
                assert_eq!(is_trace(text.as_bytes()), wanted, "{text}");
            }
        }
    }
}
