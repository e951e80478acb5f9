//! What all events of a request have in common: record headers, a key, paths. Each event is stored, or
//! refused, with it: of a small body of very many events would become thousandfold.

use futures::future::{Either, ready};

use crate::http::ingest::body::Share;
use crate::http::ingest::engine::Engine;
use crate::http::ingest::event::Header;
use crate::http::ingest::rate::Sender;
use crate::http::problem::Problem;

/// All events together may have so many times the bytes of the largest body of it.
const FACTOR: usize = 4;

/// So much of it takes no memory besides that of the body; most requests have less.
const FREE_BYTES: usize = 256 << 10;

/// What all events of a body together may take of what they have in common, where a body may have
/// so many bytes.
pub(crate) fn bytes_max(body_bytes_max: usize) -> usize {
    body_bytes_max.saturating_mul(FACTOR)
}

/// Names and values of headers, bytes.
pub(crate) fn size_bytes(headers: &[Header]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, |it| it.len())).sum()
}

/// Checks what `events` make of `each` bytes that they have in common; gives how much it is.
///
/// # Errors
/// `too_large` above `bytes_max`.
pub(crate) fn check(each: usize, events: usize, bytes_max: usize) -> Result<usize, Problem> {
    let all = each.saturating_mul(events);
    if all <= bytes_max {
        return Ok(all);
    }
    let detail = format!(
        "{events} events with {each} bytes each that they have in common (headers, key, paths) take \
         more than {bytes_max} bytes: send fewer events at once, or less for all of them"
    );
    Err(Problem::new("too_large", detail).at_most(bytes_max))
}

impl Engine {
    /// Checks what the events of a body make of what they have in common, `(bytes, events)`, and holds it
    /// in the share of the body where it is more than the body is. `body` is how large that may be, and
    /// is.
    ///
    /// # Errors
    /// `too_large`; `overloaded` if the memory is not free in time.
    pub(crate) fn hold_shared<'s>(
        &'s self,
        from: Sender<'s>,
        (each, events): (usize, usize),
        body: (usize, usize),
        share: Share,
    ) -> impl Future<Output = Result<Share, Problem>> + Send + 's {
        match check(each, events, bytes_max(body.0)) {
            Err(problem) => Either::Left(ready(Err(problem))),
            Ok(all) if all <= body.1.max(FREE_BYTES) => Either::Left(ready(Ok(share))),
            Ok(all) => Either::Right(Box::pin(async move {
                let share = share.or_own(|| self.share_of(from));
                self.memory_of(from).hold_more(share, all).await
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_many_events_have_in_common_is_bounded() {
        let headers = [(Bytes::from_static(b"name"), Some(Bytes::from_static(b"value")))];
        let each = size_bytes(&headers);
        assert_eq!(check(each, 10, 90), Ok(90));
        for (events, bytes_max) in [(11, 90), (usize::MAX, 90)] {
            let refused = check(each, events, bytes_max).unwrap_err();
            assert_eq!((refused.code(), refused.max_bytes()), ("too_large", Some(90)));
        }
    }
}
