//! What is different for the events of a stranger, who sends no token to a public topic: they go to
//! that very topic, have no table commit begin, their ids are their own, and a body is small.

use crate::http::auth::{self, Caller};
use crate::http::ingest::body::BodyMemory;
use crate::http::ingest::event::{Ack, Terms};
use crate::http::ingest::{event_ids, keys};
use crate::http::problem::Problem;
use crate::topic::{Topic, Topics};
use crate::types::TopicId;

/// Largest body of a stranger, decompressed, in bytes; where the topic takes less in a second, that is
/// the largest: one body is not to keep all others out for longer.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Bodies of strangers have this share of the memory of all, on top of it.
const MEMORY_SHARE: usize = 8;

/// The largest body of a stranger to a topic that takes so many bytes in a second; 0 is no limit.
pub(super) fn body_max(limit_bytes: usize, rate_bytes: u64) -> usize {
    let rate = usize::try_from(rate_bytes).ok().filter(|bytes| *bytes > 0);
    limit_bytes.min(BODY_BYTES_MAX).min(rate.unwrap_or(usize::MAX))
}

/// The memory for bodies of strangers, where all others have `in_bytes`: room for some at least.
pub(super) fn memory(in_bytes: usize, ratio_max: usize) -> BodyMemory {
    BodyMemory::new((in_bytes / MEMORY_SHARE).max(2 * BODY_BYTES_MAX), ratio_max)
}

impl Terms {
    /// The same, for a request of `caller`.
    ///
    /// # Errors
    /// `forbidden` for what a stranger may not ask for.
    pub(crate) fn sent_by(self, caller: &Caller) -> Result<Self, Problem> {
        let stranger = caller.0.as_stranger().cloned();
        if stranger.is_some() && matches!(self.ack, Ack::Committed(_)) {
            let detail = "ack=committed needs a token: it has a commit of the table begin";
            return Err(Problem::new("forbidden", detail));
        }
        Ok(Self { stranger, ..self })
    }

    /// Keeps a stranger out of a topic that was closed while the body came, of another that has the
    /// name by now, and of one that would be made.
    ///
    /// # Errors
    /// `missing_token`.
    pub(crate) fn check_topic(
        &self,
        topics: &Topics,
        known: Option<&Topic>,
    ) -> Result<(), Problem> {
        let Some(stranger) = &self.stranger else { return Ok(()) };
        let is_it = |topic: &Topic| topic.id == stranger.topic && topics.is_open(topic);
        if known.is_some_and(is_it) { Ok(()) } else { Err(auth::missing()) }
    }

    /// What the id of an event of this request is known by: ids of a stranger are no others', lest
    /// whoever likes takes them first.
    pub(super) fn event_id(&self) -> impl Fn(TopicId, &[u8]) -> u128 + use<> {
        let origin = self.stranger.as_ref().map(|stranger| stranger.origin.clone());
        move |topic, id| match &origin {
            None => event_ids::marked(keys::hash(&[topic.0.as_bytes(), id]), false),
            Some(origin) => {
                event_ids::marked(keys::hash(&[topic.0.as_bytes(), origin.as_bytes(), id]), true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_a_stranger_is_what_the_topic_takes_in_a_second_at_most() {
        let (mib, limit) = (1 << 20, 16 << 20);
        for (limit, rate, most) in [
            (limit, 0, mib),
            (limit, 1_000, 1_000),
            (limit, u64::MAX, mib),
            (100, 0, 100),
            (100, 1_000, 100),
        ] {
            assert_eq!(body_max(limit, rate), most, "{limit} {rate}");
        }
    }
}
