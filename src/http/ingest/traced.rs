//! Events that say which request they came by, where their topic wants it (`topic.trace.headers`):
//! record headers with the id of the request and the `traceparent` that it had.

use std::borrow::Cow;

use bytes::Bytes;

use crate::http::ingest::event::{Event, Header, Source};
use crate::http::problem::EventError;
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

/// Events with further headers, which an event that has them of its own keeps.
pub(super) struct Traced<S> {
    pub(super) source: S,
    /// Empty where the topic does not want them.
    pub(super) headers: Vec<Header>,
}

impl<S> Traced<S> {
    /// The headers of an event that has `own`.
    fn with<'h>(&'h self, own: &'h [Header]) -> Cow<'h, [Header]> {
        if own.is_empty() {
            return Cow::Borrowed(&self.headers);
        }
        let is_missing = |(name, _): &&Header| own.iter().all(|(known, _)| known != name);
        Cow::Owned(own.iter().chain(self.headers.iter().filter(is_missing)).cloned().collect())
    }
}

impl<S: Source> Source for Traced<S> {
    fn size_bytes(&self) -> usize {
        self.source.size_bytes()
    }

    fn refused(&self) -> &[EventError] {
        self.source.refused()
    }

    fn has_ids(&self) -> bool {
        self.source.has_ids()
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        self.source.raw(error)
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        if self.headers.is_empty() {
            return self.source.visit(take);
        }
        self.source.visit(&mut |event| match event {
            Ok(event) => {
                let headers = self.with(event.headers);
                take(Ok(Event { headers: &headers, ..event }));
            }
            refused => take(refused),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ingest::event::OwnedEvent;

    fn header(name: &'static str, value: &'static str) -> Header {
        (Bytes::from_static(name.as_bytes()), Some(Bytes::from_static(value.as_bytes())))
    }

    #[test]
    fn an_event_keeps_what_it_has_and_gets_the_rest() {
        let event =
            |headers: &[Header]| OwnedEvent { headers: headers.to_vec(), ..OwnedEvent::default() };
        let (id, trace) = (header("x-request-id", "r"), header("traceparent", "t"));
        let (own, more) = (header("x-request-id", "own"), header("a", "b"));
        let source = vec![event(&[]), event(&[own.clone(), more.clone()])];
        let found = |headers: Vec<Header>| {
            let mut found = Vec::new();
            Traced { source: source.clone(), headers }
                .visit(&mut |event| found.push(event.unwrap().headers.to_vec()));
            found
        };
        let both = [own.clone(), more.clone()];
        assert_eq!(found(Vec::new()), [Vec::new(), both.to_vec()]);
        let wanted = [vec![id.clone(), trace.clone()], vec![own, more, trace.clone()]];
        assert_eq!(found(vec![id, trace]), wanted);
    }
}
