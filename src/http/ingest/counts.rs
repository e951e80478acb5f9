//! What is measured of requests with events. Handles are kept: each request has some of them, and
//! to find one by its label takes longer than to count.

use metrics::{Counter, Histogram};
use tokio::time::Instant;

use crate::http::ingest::ANSWER_MAX;
use crate::http::ingest::confirm::Queued;
use crate::http::ingest::event::Acked;
use crate::runtime::metrics as names;

/// Events by what became of them, and answers by what they mean.
pub(super) struct Counts {
    accepted: Counter,
    pub(super) rejected: Counter,
    quarantined: Counter,
    duplicate: Counter,
    /// By [`Acked`].
    acks: [Histogram; 4],
}

impl Counts {
    pub(super) fn new() -> Self {
        let of = |result: &'static str| metrics::counter!(names::HTTP_EVENTS, "result" => result);
        let acks = [Acked::Accepted, Acked::Written, Acked::Durable, Acked::Committed];
        let acks =
            acks.map(|ack| metrics::histogram!(names::HTTP_ACK_SECONDS, "ack" => ack.as_str()));
        Self {
            accepted: of("accepted"),
            rejected: of("rejected"),
            quarantined: of("quarantined"),
            duplicate: of("duplicate"),
            acks,
        }
    }

    /// Counts the events of a request that the log took; of most there are neither duplicates nor
    /// refused ones. Those are in the quarantine if it `keeps` them.
    pub(super) fn stored(&self, queued: &Queued, keeps: bool) {
        self.accepted.increment(queued.accepted as u64);
        if queued.duplicates > 0 {
            self.duplicate.increment(queued.duplicates as u64);
        }
        if !queued.errors.is_empty() {
            let bad = if keeps { &self.quarantined } else { &self.rejected };
            bad.increment(queued.errors.len() as u64);
        }
    }

    /// Measures the answer to a request whose answer must be out at `until`.
    pub(super) fn acknowledged(&self, ack: Acked, until: Instant) {
        self.acks[ack as usize].record((until - ANSWER_MAX).elapsed().as_secs_f64());
    }
}

/// What bodies are made of, and how long they wait for memory; cheap to clone.
#[derive(Clone)]
pub(super) struct Bodies {
    sent: Counter,
    decoded: Counter,
    waits: Histogram,
}

impl Bodies {
    pub(super) fn new() -> Self {
        let of = |form: &'static str| metrics::counter!(names::HTTP_BODY_BYTES, "form" => form);
        let waits = metrics::histogram!(names::HTTP_ADMISSION_WAIT_SECONDS);
        Self { sent: of("sent"), decoded: of("decoded"), waits }
    }

    pub(super) fn came(&self, sent_bytes: usize, decoded_bytes: usize) {
        self.sent.increment(sent_bytes as u64);
        self.decoded.increment(decoded_bytes as u64);
    }

    /// One that had to wait since `began`, whether it got what it waited for or not.
    pub(super) fn waited(&self, began: Instant) {
        self.waits.record(began.elapsed().as_secs_f64());
    }
}
