//! Events that say which request they came by, where their topic wants it (`topic.trace.headers`):
//! record headers with the id of the request and the `traceparent` that it had.

use std::borrow::Cow;

use bytes::Bytes;

use crate::http::ingest::event::Header;
use crate::http::request_id;

/// The record headers of events of the request that runs in this task.
pub(super) fn headers() -> Vec<Header> {
    let id = request_id::current().map(|id| (request_id::HEADER, Bytes::from(id)));
    let trace = request_id::traceparent().map(|trace| (request_id::TRACEPARENT, trace));
    let header = |(name, value): (_, Bytes)| -> Header {
        let name: axum::http::HeaderName = name;
        (Bytes::copy_from_slice(name.as_str().as_bytes()), Some(value))
    };
    id.into_iter().chain(trace).map(header).collect()
}

/// The headers of an event that has `own`: these, and of `more` those that it has not.
pub(super) fn with<'h>(more: &'h [Header], own: &'h [Header]) -> Cow<'h, [Header]> {
    if own.is_empty() {
        return Cow::Borrowed(more);
    }
    let is_missing = |(name, _): &&Header| own.iter().all(|(known, _)| known != name);
    Cow::Owned(own.iter().chain(more.iter().filter(is_missing)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &'static str, value: &'static str) -> Header {
        (Bytes::from_static(name.as_bytes()), Some(Bytes::from_static(value.as_bytes())))
    }

    #[test]
    fn an_event_keeps_what_it_has_and_gets_the_rest() {
        let (id, trace) = (header("x-request-id", "r"), header("traceparent", "t"));
        let (own, more) = (header("x-request-id", "own"), header("a", "b"));
        let (request, both) = ([id, trace.clone()], [own.clone(), more.clone()]);
        assert_eq!(with(&request, &[]), request.to_vec());
        assert_eq!(with(&[], &both), both.to_vec());
        assert_eq!(with(&request, &both), vec![own, more, trace]);
    }
}
