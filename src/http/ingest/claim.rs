//! A request's claim to be the first: from the look at its key, token or ids until its events are
//! in the log, whoever waits for that.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::http::ingest::batches::Batch;
use crate::http::ingest::event::{Once, Span};
use crate::http::ingest::event_ids::{IdFrame, IdHold};
use crate::http::ingest::keys::{Begun, ChannelHold, KeyHold, Keys, Marked, Opened};
use crate::http::problem::Problem;
use crate::log::{AppendError, Appended, Settle};
use crate::store::once::{ELSEWHERE, KeyRecord, ids_entry};
use crate::topic::Topic;
use crate::types::PartitionId;

/// What the engine found.
pub(super) enum Claimed {
    /// The events are to be stored.
    First(Claim),
    /// They were, by an earlier request with the same key.
    Key(KeyRecord),
    /// They were: the channel is at that token or past it.
    Channel,
}

enum Request {
    Any,
    Key(KeyHold),
    Channel(Box<ChannelHold>),
}

/// Held while the request is under way. Dropped, the next one with the same key, token or ids is
/// the first.
pub(super) struct Claim {
    request: Request,
    ids: Option<IdHold>,
}

/// Where a batch goes and what is in it by id.
pub(super) struct Sent {
    /// Index of the partition in the topic.
    pub(super) index: usize,
    pub(super) partition: PartitionId,
    pub(super) ids: Vec<u128>,
}

impl Claim {
    /// Looks whether a request is the first.
    ///
    /// # Errors
    /// Those of [`Keys::begin`] and [`Keys::open`].
    pub(super) async fn of(
        keys: &Keys,
        topic: &Arc<Topic>,
        once: &Once,
    ) -> Result<Claimed, Problem> {
        if matches!(once, Once::No) {
            return Self::look(keys, topic, once);
        }
        // What was forgotten in memory is read from the disk.
        let (keys, topic, once) = (keys.clone(), Arc::clone(topic), once.clone());
        let looked = tokio::task::spawn_blocking(move || Self::look(&keys, &topic, &once));
        looked.await.unwrap_or_else(|error| Err(Problem::new("internal", error.to_string())))
    }

    fn look(keys: &Keys, topic: &Topic, once: &Once) -> Result<Claimed, Problem> {
        let first = |request| Claimed::First(Self { request, ids: None });
        Ok(match once {
            Once::No => first(Request::Any),
            Once::Key(key) => match keys.begin(topic.id, key)? {
                Begun::First(hold) => first(Request::Key(hold)),
                Begun::Repeat(record) => Claimed::Key(record),
            },
            Once::Channel(channel) => match keys.open(topic.id, channel)? {
                Opened::New(hold) => first(Request::Channel(hold)),
                Opened::Known => Claimed::Channel,
            },
        })
    }

    /// Adds the ids of its events.
    pub(super) fn hold_ids(&mut self, ids: IdHold) {
        self.ids = Some(ids);
    }

    /// The extension of the frame of a batch.
    pub(super) fn ext(&self, request: &Marked, batch: &Batch) -> Bytes {
        let mut ext = self.mark(request, batch.partition);
        if !batch.ids.is_empty() {
            ext.extend(ids_entry(&batch.ids));
        }
        ext.into()
    }

    /// The extension of a frame of refused events that are kept.
    pub(super) fn ext_elsewhere(&self, request: &Marked) -> Bytes {
        self.mark(request, ELSEWHERE as usize).into()
    }

    fn mark(&self, request: &Marked, partition: usize) -> Vec<u8> {
        match &self.request {
            Request::Any => Vec::new(),
            Request::Key(hold) => hold.mark(request, partition).entry(),
            Request::Channel(hold) => hold.mark(partition).entry(),
        }
    }

    /// Of a request whose events are all stored already. Its token counts all the same: the next one
    /// may go on from it.
    ///
    /// # Errors
    /// Those of [`Keys::pass`].
    pub(super) async fn pass(self, keys: &Keys) -> Result<(), Problem> {
        match self.request {
            Request::Channel(hold) => keys.pass(hold).await,
            Request::Any | Request::Key(_) => Ok(()),
        }
    }

    /// What to do when the log has taken the batches, or refused them. It keeps the claim,
    /// whether or not the sender waits.
    pub(super) fn settle(self, request: Marked, sent: Vec<Sent>) -> Option<Settle> {
        if matches!(self.request, Request::Any) && self.ids.is_none() {
            return None;
        }
        Some(Box::new(move |result: &Result<Vec<Appended>, AppendError>, end| {
            let Ok(appended) = result else { return };
            let indexes: Vec<usize> = sent.iter().map(|batch| batch.index).collect();
            let spans: Vec<Span> = spans(&indexes, appended).into_values().collect();
            let append_ms = appended.first().map_or(0, |part| part.append_ms);
            match self.request {
                Request::Any => {}
                Request::Key(hold) => hold.settle(&request, &spans, append_ms, end),
                Request::Channel(hold) => hold.settle(&spans, append_ms, end),
            }
            if let Some(hold) = self.ids {
                let frame = |(sent, part): (Sent, &Appended)| IdFrame {
                    partition: sent.partition,
                    base_offset: part.base_offset,
                    append_ms: part.append_ms,
                    ids: sent.ids,
                };
                hold.settle(sent.into_iter().zip(appended).map(frame).collect());
            }
        }))
    }
}

/// The offsets of a request by partition. Its batches are one chain, so those of a partition are
/// without a hole.
pub(super) fn spans(indexes: &[usize], appended: &[Appended]) -> BTreeMap<usize, Span> {
    let mut spans: BTreeMap<usize, Span> = BTreeMap::new();
    for (partition, part) in indexes.iter().copied().zip(appended) {
        let (first_offset, last_offset) = (part.base_offset, part.last_offset);
        let new = Span { partition, first_offset, last_offset };
        let span = spans.entry(partition).or_insert(new);
        span.first_offset = span.first_offset.min(first_offset);
        span.last_offset = span.last_offset.max(last_offset);
    }
    spans
}
