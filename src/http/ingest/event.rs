//! What every route hands to the engine and what it gets back: plain values, no forms of HTTP.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use crate::auth::Stranger;
use crate::http::ingest::batches::{ID_HEADER, WRITE_ID_HEADER};
use crate::http::ingest::keys::{Channel, Key};
use crate::http::ingest::shared;
use crate::http::problem::EventError;
use crate::tier::rows::{HEADER_IP, HEADER_SIGNAL};

/// A record header: name, and value or null.
pub(crate) type Header = (Bytes, Option<Bytes>);

/// True if only the engine may set the record header `name`.
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    [ID_HEADER, WRITE_ID_HEADER, HEADER_IP, HEADER_SIGNAL].contains(&name)
}

/// One event, borrowed from what the route holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Event<'e> {
    /// Which event of the request, counted from 0.
    pub(crate) index: usize,
    /// Where it starts in the decoded body, bytes.
    pub(crate) offset_bytes: usize,
    /// The value, stored as it is; none is a null.
    pub(crate) value: Option<&'e [u8]>,
    /// The key; keyed events are partitioned as Kafka's Java client does.
    pub(crate) key: Option<Cow<'e, [u8]>>,
    /// Record headers. `floe.id` and `floe.write_id` are the engine's; see [`is_reserved`].
    pub(crate) headers: &'e [Header],
    /// Milliseconds since 1970; none is now.
    pub(crate) timestamp_ms: Option<i64>,
    /// Partition of the topic; none is by key, or one for all events without key.
    pub(crate) partition: Option<usize>,
    /// What the event is known by, where an event counts once (see [`Source::has_ids`]).
    pub(crate) id: Option<Cow<'e, [u8]>>,
    /// The field to name when the key is refused.
    pub(crate) key_field: Option<&'e str>,
    /// The field to name when the time is refused.
    pub(crate) timestamp_field: Option<&'e str>,
}

/// The events of one request. The engine visits them, off the async workers when there is much to
/// do.
pub(crate) trait Source: Send + Sync + 'static {
    /// How much there is to go through, bytes.
    fn size_bytes(&self) -> usize;

    /// Events that are refused whatever the topic is, in order of index; they are not visited.
    fn refused(&self) -> &[EventError] {
        &[]
    }

    /// True if each event has an id by which it counts once.
    fn has_ids(&self) -> bool {
        false
    }

    /// The bytes of a refused event, as far as they can be told.
    fn raw(&self, error: &EventError) -> &[u8];

    /// Hands over each event that is not in [`Source::refused`], or why it is refused, in order
    /// of index.
    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>));
}

/// A large source is cheaper to hand on in a box: each future on its way holds a copy.
impl<S: Source> Source for Box<S> {
    fn size_bytes(&self) -> usize {
        (**self).size_bytes()
    }

    fn refused(&self) -> &[EventError] {
        (**self).refused()
    }

    fn has_ids(&self) -> bool {
        (**self).has_ids()
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        (**self).raw(error)
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        (**self).visit(take);
    }
}

/// An event that the route had to decode: it is held whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnedEvent {
    /// The value; none is a null.
    pub(crate) value: Option<Bytes>,
    /// The key.
    pub(crate) key: Option<Bytes>,
    /// Record headers.
    pub(crate) headers: Vec<Header>,
    /// Milliseconds since 1970; none is now.
    pub(crate) timestamp_ms: Option<i64>,
    /// Partition of the topic; none is by key.
    pub(crate) partition: Option<usize>,
}

/// Their place in the list is their index.
impl Source for Vec<OwnedEvent> {
    fn size_bytes(&self) -> usize {
        let bytes = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let of = |event: &OwnedEvent| {
            bytes(&event.value) + bytes(&event.key) + shared::size_bytes(&event.headers)
        };
        self.iter().map(of).sum()
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        self.get(error.index).and_then(|event| event.value.as_deref()).unwrap_or_default()
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        for (index, event) in self.iter().enumerate() {
            take(Ok(Event {
                index,
                value: event.value.as_deref(),
                key: event.key.as_deref().map(Cow::Borrowed),
                headers: &event.headers,
                timestamp_ms: event.timestamp_ms,
                partition: event.partition,
                ..Event::default()
            }));
        }
    }
}

/// What becomes of the valid events when others are refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnError {
    /// Nothing is stored.
    #[default]
    Reject,
    /// They are stored, unless there is none.
    Skip,
    /// They are stored, and the others with the reason in `<topic>.quarantine`, together.
    Quarantine,
}

/// What the answer waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Nothing: the log has queued the events. They can still be lost.
    Accepted,
    /// What `log.flush` says.
    #[default]
    Logged,
    /// The disk, whatever `log.flush` says.
    Durable,
    /// The table, at most so long; it is durable then in any case.
    Committed(Duration),
}

/// What is known of stored events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acked {
    /// They are on their way.
    Accepted,
    /// They are in the log, before its next sync.
    Written,
    /// They survive a power loss.
    Durable,
    /// They are in the table.
    Committed,
}

impl Acked {
    /// As answers say it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Written => "written",
            Self::Durable => "durable",
            Self::Committed => "committed",
        }
    }
}

/// What tells a request from a repeat of an earlier one.
#[derive(Debug, Clone, Default)]
pub(crate) enum Once {
    /// Nothing: each request is stored.
    #[default]
    No,
    /// Its key.
    Key(Key),
    /// Its place in a channel.
    Channel(Channel),
}

/// How an append is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// What becomes of the valid events when others are refused.
    pub(crate) on_error: OnError,
    /// What tells a request from a repeat of an earlier one.
    pub(crate) once: Once,
    /// What the answer waits for.
    pub(crate) ack: Ack,
    /// [`Stored::positions`] is wanted.
    pub(crate) positions: bool,
    /// Whoever sends it without a token, where others need one.
    pub(crate) stranger: Option<Arc<Stranger>>,
    /// When the answer must be out at the latest.
    pub(crate) until: Instant,
}

/// When the answer to a request that comes now must be out at the latest.
pub(crate) fn answer_by() -> Instant {
    Instant::now() + super::ANSWER_MAX
}

impl Terms {
    /// All or nothing, acknowledged as `log.flush` says, answered by then.
    pub(crate) fn new(until: Instant) -> Self {
        Self {
            on_error: OnError::Reject,
            once: Once::No,
            ack: Ack::Logged,
            positions: false,
            stranger: None,
            until,
        }
    }
}

/// The offsets of a request's events in one partition, both inclusive, without a hole; as answers
/// tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Span {
    /// Index of the partition in its topic.
    pub(crate) partition: usize,
    /// First offset.
    pub(crate) first_offset: i64,
    /// Last offset, inclusive.
    pub(crate) last_offset: i64,
}

/// Where one event lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Which event of the request.
    pub(crate) index: usize,
    /// Index of the partition in its topic.
    pub(crate) partition: usize,
    /// Its offset.
    pub(crate) offset: i64,
}

/// What was stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// The topic.
    pub(crate) topic: String,
    /// Events in the log.
    pub(crate) accepted: usize,
    /// Events that were there already, by their id.
    pub(crate) duplicates: usize,
    /// Events that were left out.
    pub(crate) rejected: usize,
    /// Which, in order of index; not known of a repeat.
    pub(crate) errors: Vec<EventError>,
    /// By partition.
    pub(crate) spans: Vec<Span>,
    /// Of the events in the log, in order of index; empty unless wanted. Of a repeat they are as
    /// they were as long as the topic takes its events.
    pub(crate) positions: Vec<Position>,
    /// What is known of the events.
    pub(crate) ack: Acked,
    /// Whether they are in the table is told under `/api/v1/acks/<token>`; none where nothing was
    /// asked, or for more partitions than a URL can name.
    pub(crate) ack_token: Option<String>,
    /// Shared by all events of the request; none where nothing is remembered of it.
    pub(crate) write_id: Option<Uuid>,
    /// True if an earlier request stored the events: the rest is what it was told, as far as it
    /// is remembered.
    pub(crate) duplicate: bool,
}
