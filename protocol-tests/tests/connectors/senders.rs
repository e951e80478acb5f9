//! How senders treat answers: what counts as delivered, what is sent again, and what comes after
//! that. Each is one row of the table in docs/senders.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol_tests::http1::{Http1, request};
use serde_json::json;

use super::doors::Door;

/// Between two attempts where the answer does not say when. Real senders wait a second and more.
const BACKOFF: Duration = Duration::from_millis(120);
/// Between two batches, unless a test takes its time.
const PAUSE: Duration = Duration::from_millis(15);
/// Events of a batch, where it is one.
const BATCH_EVENTS: usize = 4;
/// Bytes of a request at least: smaller ones have memory of their own in an overload.
const BATCH_BYTES: usize = 10_000;

/// What a sender does when it does not send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivesUp {
    /// It stops with an error; started again it begins with what was not delivered.
    Dies,
    /// It counts or logs the batch and goes on with the next one.
    Drops,
    /// It gives the batch back to where it came from, which hands it out again.
    Returns,
    /// It goes on, and keeps the batch for somebody who has it delivered again: GitHub by hand, AWS
    /// SNS from a dead-letter queue.
    Keeps,
}

/// How the events of a request are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Array,
    Lines,
    Single,
}

/// What makes a repeat countable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Once {
    /// `?dedup_field=$.id`, or the option of the topic or stream: needs nothing of the sender.
    Field,
    /// What the door knows a message by: the id of a delivery.
    Message,
    Key,
    Channel,
}

/// How a sender behaves, set up as docs/senders.md says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    pub(super) name: &'static str,
    pub(super) door: Door,
    pub(super) kind: Option<&'static str>,
    pub(super) form: Form,
    pub(super) is_delivered: fn(u16) -> bool,
    pub(super) is_retried: fn(u16) -> bool,
    /// Retries of one batch; none is for ever.
    pub(super) retries: Option<u32>,
    /// A connection that ends is one more reason to try again; else it is one to give up.
    pub(super) retries_connections: bool,
    pub(super) waits_as_told: bool,
    pub(super) gives_up: GivesUp,
    pub(super) once: Once,
}

const BASE: Sender = Sender {
    name: "",
    door: Door::Events,
    kind: Some("application/json"),
    form: Form::Array,
    is_delivered: |status| (200..300).contains(&status),
    is_retried: |_| true,
    retries: None,
    retries_connections: true,
    waits_as_told: false,
    gives_up: GivesUp::Dies,
    once: Once::Field,
};

/// Every sender, at its own door; `name` is its topic too.
pub(super) const SENDERS: &[Sender] = &[
    Sender {
        name: "aiven",
        kind: None,
        form: Form::Lines,
        is_delivered: |status| status < 400,
        retries: Some(200),
        ..BASE
    },
    Sender { name: "aiven-defaults", kind: None, form: Form::Single, retries: Some(1), ..BASE },
    Sender { name: "confluent", retries: Some(5), ..BASE },
    Sender {
        name: "vector",
        kind: Some("application/x-ndjson"),
        form: Form::Lines,
        is_retried: |status| status == 408 || status == 429 || (status >= 500 && status != 501),
        gives_up: GivesUp::Drops,
        ..BASE
    },
    Sender {
        name: "fluent-bit",
        // 207 would be a failure to it.
        is_delivered: |status| (200..=205).contains(&status),
        is_retried: |status| status == 408 || status == 429 || status >= 500,
        gives_up: GivesUp::Drops,
        ..BASE
    },
    Sender {
        name: "logstash",
        is_retried: |status| [429, 500, 502, 503, 504].contains(&status),
        gives_up: GivesUp::Drops,
        ..BASE
    },
    Sender { name: "redpanda-connect", retries: Some(3), gives_up: GivesUp::Returns, ..BASE },
    Sender {
        name: "flink",
        // 429 is fatal: its topic has topic.overload.status = 503.
        is_retried: |status| [500, 503, 504].contains(&status),
        retries: Some(200),
        retries_connections: false,
        ..BASE
    },
    Sender {
        name: "otlp-exporter",
        door: Door::Otlp,
        is_delivered: |status| status == 200,
        is_retried: |status| [429, 502, 503, 504].contains(&status),
        waits_as_told: true,
        gives_up: GivesUp::Drops,
        ..BASE
    },
    Sender { name: "debezium", form: Form::Single, retries: Some(5), ..BASE },
    Sender {
        name: "iomete",
        door: Door::EventStream,
        is_delivered: |status| status == 200,
        retries: Some(3),
        ..BASE
    },
    Sender {
        // As Vector's and Fluent Bit's outputs for Splunk.
        name: "splunk-hec",
        door: Door::Hec,
        is_retried: |status| status == 408 || status == 429 || status >= 500,
        gives_up: GivesUp::Drops,
        ..BASE
    },
    Sender {
        name: "github",
        door: Door::Github,
        form: Form::Single,
        is_retried: |_| false,
        retries: Some(0),
        retries_connections: false,
        gives_up: GivesUp::Keeps,
        once: Once::Message,
        ..BASE
    },
    Sender {
        name: "sns",
        door: Door::Sns,
        kind: Some("text/plain; charset=UTF-8"),
        form: Form::Single,
        is_retried: |status| status == 429 || status >= 500,
        retries: Some(3),
        gives_up: GivesUp::Keeps,
        once: Once::Message,
        ..BASE
    },
    Sender { name: "keyed", waits_as_told: true, once: Once::Key, ..BASE },
    Sender { name: "channel", waits_as_told: true, once: Once::Channel, ..BASE },
];

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Done,
    /// It has to be started again.
    Died(String),
}

/// A sender at work.
pub(super) struct Run {
    pub(super) sender: Sender,
    connection: Http1,
    pub(super) token: Option<String>,
    /// Of its webhook.
    pub(super) secret: String,
    batches: usize,
    /// This one is larger than any body may be.
    pub(super) oversize: Option<usize>,
    /// Between two batches.
    pub(super) pause: Duration,
    /// Batches that it is done with.
    next: usize,
    pub(super) delivered: BTreeSet<usize>,
    pub(super) dropped: BTreeSet<usize>,
    /// What is to be delivered again.
    kept: BTreeSet<usize>,
    /// Answers by status.
    pub(super) seen: BTreeMap<u16, usize>,
    /// Counts the runs that were refused at least once.
    pub(super) refused: Arc<AtomicUsize>,
    was_refused: bool,
}

enum Sent {
    Delivered,
    /// A status, or 0 for a connection that ended.
    GaveUp(u16),
}

impl Run {
    pub(super) fn new(sender: Sender, secret: String, address: &str, batches: usize) -> Self {
        Self {
            sender,
            connection: Http1::new(address),
            token: None,
            secret,
            batches,
            oversize: None,
            pause: PAUSE,
            next: 0,
            delivered: BTreeSet::new(),
            dropped: BTreeSet::new(),
            kept: BTreeSet::new(),
            seen: BTreeMap::new(),
            refused: Arc::default(),
            was_refused: false,
        }
    }

    /// Ids of the events of a batch.
    pub(super) fn ids(&self, batch: usize) -> Vec<String> {
        let count = if self.sender.form == Form::Single { 1 } else { BATCH_EVENTS };
        (0..count).map(|event| format!("{batch}-{event}")).collect()
    }

    /// Ids of all events.
    pub(super) fn all_ids(&self) -> BTreeSet<String> {
        (0..self.batches).flat_map(|batch| self.ids(batch)).collect()
    }

    fn body(&self, batch: usize) -> String {
        let ids = self.ids(batch);
        let bytes = if self.oversize == Some(batch) { 40 * BATCH_BYTES } else { BATCH_BYTES };
        let padding = "x".repeat(bytes / ids.len());
        let events: Vec<_> = ids.into_iter().map(|id| (id, padding.clone())).collect();
        if let Some(body) = self.sender.door.body(&events) {
            return body;
        }
        let event = |(id, text): &(String, String)| json!({"id": id, "padding": text}).to_string();
        let events: Vec<String> = events.iter().map(event).collect();
        match self.sender.form {
            Form::Array => format!("[{}]", events.join(",")),
            Form::Lines => events.join("\n") + "\n",
            Form::Single => events.concat(),
        }
    }

    fn request(&self, batch: usize) -> Vec<u8> {
        let (door, body) = (self.sender.door, self.body(batch));
        let (path, own) = door.head(self, batch, &body);
        let (length, number) = (body.len().to_string(), batch.to_string());
        let token = self.token.as_deref().filter(|_| door.has_token());
        let token = token.map(|token| door.token(token));
        let mut headers =
            vec![("Host", self.connection.address()), ("Content-Length", length.as_str())];
        headers.extend(self.sender.kind.map(|kind| ("Content-Type", kind)));
        headers.extend(own.iter().chain(&token).map(|(name, value)| (*name, value.as_str())));
        match self.sender.once {
            Once::Field | Once::Message => {}
            Once::Key => headers.push(("Idempotency-Key", number.as_str())),
            Once::Channel => {
                headers.extend([("X-Channel", "c"), ("X-Offset-Token", number.as_str())]);
            }
        }
        request("POST", &path, &headers, &body)
    }

    /// Sends all batches that are left.
    pub(super) async fn go(&mut self) -> End {
        while self.next < self.batches {
            let batch = self.next;
            match (self.send(batch).await, self.sender.gives_up) {
                (Sent::Delivered, _) => {
                    self.delivered.insert(batch);
                }
                (Sent::GaveUp(status), GivesUp::Dies) => {
                    return End::Died(format!("batch {batch}: {status}"));
                }
                // Nobody can have this one delivered.
                (Sent::GaveUp(_), GivesUp::Drops) | (Sent::GaveUp(413), GivesUp::Keeps) => {
                    self.dropped.insert(batch);
                }
                (Sent::GaveUp(_), GivesUp::Keeps) => {
                    self.kept.insert(batch);
                }
                // It would come back for ever: that an operator has to see.
                (Sent::GaveUp(status @ (401 | 413)), GivesUp::Returns) => {
                    return End::Died(format!("batch {batch} comes back: {status}"));
                }
                (Sent::GaveUp(_), GivesUp::Returns) => continue,
            }
            self.next += 1;
            tokio::time::sleep(self.pause).await;
        }
        End::Done
    }

    /// Delivers again what is kept; how much still is.
    pub(super) async fn redeliver(&mut self) -> usize {
        for batch in std::mem::take(&mut self.kept) {
            match self.send(batch).await {
                Sent::Delivered => self.delivered.insert(batch),
                Sent::GaveUp(_) => self.kept.insert(batch),
            };
        }
        self.kept.len()
    }

    /// True if it goes on with the next batch after one that is not delivered.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self.sender.gives_up, GivesUp::Drops | GivesUp::Keeps)
    }

    /// Retries no more often than most do by default: what is refused for good is refused soon.
    pub(super) fn be_impatient(&mut self) {
        self.sender.retries = Some(self.sender.retries.unwrap_or(3).min(5));
    }

    /// What an operator does with a batch that cannot be delivered.
    pub(super) fn skip(&mut self) {
        self.dropped.insert(self.next);
        self.next += 1;
    }

    /// One batch, with its retries.
    async fn send(&mut self, batch: usize) -> Sent {
        let request = self.request(batch);
        let mut attempts = 0;
        loop {
            let (status, wait) = match self.connection.exchange(&request).await {
                Ok(answer) => {
                    *self.seen.entry(answer.status).or_default() += 1;
                    if (self.sender.is_delivered)(answer.status) {
                        return Sent::Delivered;
                    }
                    if !std::mem::replace(&mut self.was_refused, true) {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                    }
                    let told = answer.header("retry-after").and_then(|text| text.parse().ok());
                    let told = told.filter(|_| self.sender.waits_as_told);
                    (answer.status, told.map_or(BACKOFF, Duration::from_secs))
                }
                Err(_) => (0, BACKOFF),
            };
            let is_retried = match status {
                0 => self.sender.retries_connections,
                status => (self.sender.is_retried)(status),
            };
            if !is_retried || self.sender.retries.is_some_and(|most| attempts >= most) {
                return Sent::GaveUp(status);
            }
            attempts += 1;
            tokio::time::sleep(wait).await;
        }
    }
}
