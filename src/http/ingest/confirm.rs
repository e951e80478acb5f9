//! What may be said of an append: that it is durable, where its events lie, that an earlier request
//! stored them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::config::Flush;
use crate::http::ingest::acks;
use crate::http::ingest::batches::Target;
use crate::http::ingest::claim::spans;
use crate::http::ingest::engine::{Engine, build};
use crate::http::ingest::event::{Ack, Acked, Once, Position, Source, Span, Stored, Terms};
use crate::http::problem::{EventError, Problem};
use crate::log::{AppendError, PendingAppend};
use crate::store::once::{KeyRecord, KeySpan};
use crate::topic::Topic;

/// What is left of the time for an answer when the wait for the table ends.
const ANSWER_SPARE: Duration = Duration::from_millis(500);

/// What became of a request that was not refused.
pub(super) enum Outcome {
    Queued(Queued),
    Repeat(Box<Stored>),
}

impl Stored {
    /// Of a request without an event, where that is no fault.
    pub(crate) fn nothing(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            accepted: 0,
            duplicates: 0,
            rejected: 0,
            errors: Vec::new(),
            spans: Vec::new(),
            positions: Vec::new(),
            ack: Acked::Durable,
            ack_token: None,
            write_id: None,
            duplicate: false,
        }
    }

    /// Events that an earlier request stored, of which nothing more is known.
    pub(super) fn repeat(topic: &Topic, ack: Acked) -> Self {
        Self { ack, duplicate: true, ..Self::nothing(topic.name.as_str()) }
    }
}

/// An append that the log has taken.
pub(super) struct Queued {
    pub(super) topic: Arc<Topic>,
    pub(super) write_id: Uuid,
    pub(super) accepted: usize,
    pub(super) duplicates: usize,
    pub(super) errors: Vec<EventError>,
    /// Index and partition of each event.
    pub(super) placed: Vec<(usize, usize)>,
    /// Partition index of each batch.
    pub(super) indexes: Vec<usize>,
    /// None if there was nothing to store.
    pub(super) pending: Option<PendingAppend>,
}

impl Queued {
    /// What is known before the log has confirmed anything.
    pub(super) fn accepted(self) -> Stored {
        Stored {
            topic: self.topic.name.to_string(),
            accepted: self.accepted,
            duplicates: self.duplicates,
            rejected: self.errors.len(),
            errors: self.errors,
            spans: Vec::new(),
            positions: Vec::new(),
            ack: Acked::Accepted,
            ack_token: None,
            write_id: Some(self.write_id),
            duplicate: false,
        }
    }
}

impl Engine {
    /// True if the request is stored already, so that [`Self::append`] will answer what it was told
    /// then: what would refuse its events now is no matter.
    pub(crate) async fn is_repeat(&self, topic: &str, once: &Once) -> bool {
        let Ok(Some(topic)) = self.topic(topic) else { return false };
        if matches!(once, Once::No) {
            return false;
        }
        let (keys, once) = (self.keys().clone(), once.clone());
        let known = tokio::task::spawn_blocking(move || keys.knows(topic.id, &once));
        known.await.unwrap_or(false)
    }

    /// What the first request with a key was told.
    pub(super) async fn repeat(
        &self,
        topic: &Topic,
        record: KeyRecord,
        source: impl Source,
        terms: &Terms,
    ) -> Result<Stored, Problem> {
        let write_id = Uuid::from_u128(record.write_id);
        let span = |span: &KeySpan| Span {
            partition: span.partition as usize,
            first_offset: span.first,
            last_offset: span.last,
        };
        let spans: BTreeMap<usize, Span> =
            record.spans.iter().map(|part| (part.partition as usize, span(part))).collect();
        let mut placed = Vec::new();
        if terms.positions {
            // The same events find the same partitions: those without key by the id of the request.
            let partitions = record.partitions as usize;
            let target = Target { partitions, ..self.target(topic, write_id, terms) };
            let (built, _) = build(source, target, None).await?;
            if built.accepted == record.accepted as usize {
                placed = built.placed;
            }
        }
        let spans_told: Vec<Span> = spans.values().copied().collect();
        Ok(Stored {
            accepted: record.accepted as usize,
            rejected: record.rejected as usize,
            positions: positions(&placed, &spans),
            ack_token: token(topic, &spans_told, terms),
            spans: spans_told,
            write_id: Some(write_id),
            ..Stored::repeat(topic, self.acknowledge(topic, terms).await?)
        })
    }

    pub(super) async fn confirm(&self, queued: Queued, terms: &Terms) -> Result<Stored, Problem> {
        let appended = match queued.pending {
            Some(pending) => pending.wait().await.map_err(|error| problem(&error))?,
            None => Vec::new(),
        };
        let ack = self.acknowledge(&queued.topic, terms).await?;
        let spans = spans(&queued.indexes, &appended);
        let spans_told: Vec<Span> = spans.values().copied().collect();
        Ok(Stored {
            topic: queued.topic.name.to_string(),
            accepted: queued.accepted,
            duplicates: queued.duplicates,
            rejected: queued.errors.len(),
            errors: queued.errors,
            positions: positions(&queued.placed, &spans),
            ack,
            ack_token: token(&queued.topic, &spans_told, terms),
            spans: spans_told,
            write_id: Some(queued.write_id),
            duplicate: false,
        })
    }

    /// What an answer may say of events that are in the log; waits as it must.
    pub(super) async fn acknowledge(&self, topic: &Topic, terms: &Terms) -> Result<Acked, Problem> {
        if self.options.flush != Flush::Always {
            if matches!(terms.ack, Ack::Accepted | Ack::Logged) {
                return Ok(Acked::Written);
            }
            let failed =
                |_| Problem::new("outcome_unknown", "the log ended before the events were synced");
            self.log.sync().await.map_err(failed)?;
        }
        let Ack::Committed(wait) = terms.ack else { return Ok(Acked::Durable) };
        let left = terms.until.saturating_duration_since(Instant::now() + ANSWER_SPARE);
        // A commit begins while somebody waits. Whatever is in its way: the events are durable, and the table
        // goes on when it can.
        Ok(match self.tiering.flush(topic.name.as_str(), wait.min(left)).await {
            Ok(()) => Acked::Committed,
            Err(_) => Acked::Durable,
        })
    }
}

fn token(topic: &Topic, spans: &[Span], terms: &Terms) -> Option<String> {
    let is_asked = matches!(terms.ack, Ack::Committed(_)) && !spans.is_empty();
    is_asked.then(|| acks::token(topic.id, spans)).flatten()
}

/// Events of a partition have its offsets in their own order.
fn positions(placed: &[(usize, usize)], spans: &BTreeMap<usize, Span>) -> Vec<Position> {
    let mut next: BTreeMap<usize, i64> = BTreeMap::new();
    let mut positions = Vec::with_capacity(placed.len());
    for (index, partition) in placed.iter().copied() {
        let Some(span) = spans.get(&partition) else { continue };
        let offset = next.entry(partition).or_insert(span.first_offset);
        positions.push(Position { index, partition, offset: *offset });
        *offset += 1;
    }
    positions
}

/// Why the log did not take the events.
pub(super) fn problem(error: &AppendError) -> Problem {
    match error {
        AppendError::StorageFull(reason) => {
            Problem::new("storage_full", reason.clone()).retry_after(5)
        }
        AppendError::Blocked(reason) => Problem::new("table_behind", reason.clone()).retry_after(5),
        AppendError::TooLarge { limit, .. } => {
            let problem = Problem::new("too_large", format!("{error}: send fewer events at once"));
            problem.at_most(usize::try_from(*limit).unwrap_or(usize::MAX))
        }
        // The log ended while the batch was on its way.
        AppendError::Closed => Problem::new("outcome_unknown", error.to_string()),
        AppendError::UnknownPartition => Problem::new("unknown_topic", error.to_string()),
        _ => Problem::new("internal", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Appended;

    #[test]
    fn events_of_a_partition_lie_in_their_own_order() {
        let part = |base_offset, last_offset| Appended {
            base_offset,
            last_offset,
            append_ms: 0,
            log_start_offset: 0,
            duplicate: false,
        };
        let spans = spans(&[1, 0, 1], &[part(10, 11), part(5, 5), part(12, 12)]);
        let wanted = [(0, 5, 5), (1, 10, 12)];
        let found = spans.values().map(|s| (s.partition, s.first_offset, s.last_offset));
        assert_eq!(found.collect::<Vec<_>>(), wanted);
        let placed = positions(&[(0, 1), (2, 0), (3, 1), (4, 1)], &spans);
        let found = placed.iter().map(|p| (p.index, p.partition, p.offset)).collect::<Vec<_>>();
        assert_eq!(found, [(0, 1, 10), (2, 0, 5), (3, 1, 11), (4, 1, 12)]);
    }
}
