//! Events that are refused and kept: what goes to `<topic>.quarantine` of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::http::ingest::batches::Batch;
use crate::http::ingest::engine::{self, Engine};
use crate::http::ingest::event::{OnError, OwnedEvent, Source, Terms, answer_by};
use crate::http::ingest::keys::REPLAY_CHANNELS;
use crate::http::ingest::topic_fields::{Completed, Said};
use crate::http::problem::{EventError, Problem};
use crate::http::request_id;
use crate::log::AppendBatch;
use crate::topic::Topic;
use crate::types::TopicId;

/// Ending of the topics that refused events go to.
const SUFFIX: &str = ".quarantine";
/// Bytes of a refused event that are kept; after a syntax error it is all of the rest.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// The topic that refused events of `topic` go to.
///
/// # Errors
/// `bad_request` for a topic that is one itself.
pub(in crate::http) fn topic(topic: &str) -> Result<String, Problem> {
    if topic.ends_with(SUFFIX) {
        let detail = format!("{topic:?} is where refused events go; send it what is valid");
        return Err(Problem::new("bad_request", detail));
    }
    Ok(format!("{topic}{SUFFIX}"))
}

/// The topic whose refused events go to `name`; none if that is no quarantine.
pub(in crate::http) fn source_of(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX).filter(|topic| !topic.is_empty() && !topic.ends_with(SUFFIX))
}

/// The channel of the topic by which a partition of this quarantine is sent again.
pub(in crate::http) fn channel_of(kept_in: TopicId, partition: usize) -> String {
    format!("{REPLAY_CHANNELS}{}.{partition}", kept_in.0.simple())
}

/// Where refused events are kept.
#[derive(Debug, Clone)]
pub(super) struct Keep {
    topic: String,
    into: String,
    request_id: Option<String>,
}

impl Keep {
    /// The refused events with the reason for each.
    pub(super) fn events(&self, source: &impl Source, errors: &[EventError]) -> Vec<OwnedEvent> {
        events(&self.topic, self.request_id.as_deref(), source, errors)
    }
}

impl Engine {
    /// Where refused events are kept, if they are.
    pub(super) fn keep(&self, name: &str, terms: &Terms) -> Result<Option<Keep>, Problem> {
        if terms.on_error != OnError::Quarantine {
            return Ok(None);
        }
        let into = topic(name)?;
        self.topic(&into)?;
        Ok(Some(Keep { topic: name.to_owned(), into, request_id: request_id::current() }))
    }

    /// The last token of a channel of the topic; 0 if there is none.
    ///
    /// # Errors
    /// `internal`.
    pub(in crate::http) async fn token(
        &self,
        topic: TopicId,
        channel: String,
    ) -> Result<u64, Problem> {
        let keys = self.keys().clone();
        let record = tokio::task::spawn_blocking(move || keys.channel(topic, &channel)).await;
        let record = record.map_err(|error| Problem::new("internal", error.to_string()))?;
        let record = record.map_err(|error| Problem::new("internal", error.to_string()))?;
        Ok(record.and_then(|record| record.token()).unwrap_or(0))
    }

    /// Those of the events that the topic would refuse. Nothing is stored.
    ///
    /// # Errors
    /// `internal`.
    pub(in crate::http) async fn would_refuse(
        &self,
        topic: &Topic,
        source: impl Source,
    ) -> Result<Vec<EventError>, Problem> {
        let target = self.target(topic, Uuid::now_v7(), &Terms::new(answer_by()));
        let source = Completed { source, said: Said::of(&topic.options, Vec::new) };
        Ok(engine::build(source, target, None).await?.0.errors)
    }

    /// The batches of refused events that are kept.
    pub(super) async fn quarantine(
        &self,
        keep: Keep,
        events: Vec<OwnedEvent>,
        write_id: Uuid,
    ) -> Result<Vec<AppendBatch>, Problem> {
        let topic = match self.topic(&keep.into)? {
            Some(topic) => topic,
            None => self.make_topic(&keep.into).await?,
        };
        let target = self.target(&topic, write_id, &Terms::new(answer_by()));
        let (batches, _) = engine::build(events, target, None).await?;
        if let Some(error) = batches.errors.into_iter().next() {
            let detail = format!("topic {} does not take them: {}", keep.into, error.message);
            return Err(Problem::new("invalid_events", detail));
        }
        let batch = |batch: Batch| AppendBatch {
            partition: topic.partitions[batch.partition],
            batch: batch.bytes,
            ext: Bytes::new(),
        };
        Ok(batches.batches.into_iter().map(batch).collect())
    }
}

fn events(
    topic: &str,
    request_id: Option<&str>,
    source: &impl Source,
    errors: &[EventError],
) -> Vec<OwnedEvent> {
    let event = |error: &EventError| {
        let raw = source.raw(error);
        let kept = &raw[..cut(raw)];
        let (text, bytes) = match std::str::from_utf8(kept) {
            Ok(text) => (Some(text), None),
            Err(_) => (None, Some(STANDARD.encode(kept))),
        };
        let mut value = json!({
            "topic": topic,
            "index": error.index,
            "code": error.code,
            "message": error.message,
        });
        let parts: [(&str, Value); 5] = [
            ("field", json!(error.field)),
            ("request_id", json!(request_id)),
            ("event", json!(text)),
            ("event_base64", json!(bytes)),
            ("cut_at_bytes", json!((kept.len() < raw.len()).then_some(kept.len()))),
        ];
        for (name, part) in parts {
            if !part.is_null() {
                value[name] = part;
            }
        }
        OwnedEvent { value: Some(Bytes::from(value.to_string())), ..OwnedEvent::default() }
    };
    errors.iter().map(event).collect()
}

/// Where to cut: between two characters if it is text.
fn cut(raw: &[u8]) -> usize {
    if raw.len() <= KEPT_BYTES_MAX {
        return raw.len();
    }
    let begins = |at: &usize| raw[*at] & 0xc0 != 0x80;
    (KEPT_BYTES_MAX - 3..=KEPT_BYTES_MAX).rev().find(begins).unwrap_or(KEPT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(index: usize, field: Option<&str>) -> EventError {
        EventError {
            index,
            offset_bytes: 0,
            field: field.map(ToOwned::to_owned),
            code: "bad_key",
            message: "why".to_owned(),
        }
    }

    #[test]
    fn a_refused_event_is_kept_with_its_reason() {
        let owned = |value: &[u8]| OwnedEvent {
            value: Some(Bytes::copy_from_slice(value)),
            ..OwnedEvent::default()
        };
        let long = "é".repeat(KEPT_BYTES_MAX);
        let source =
            vec![owned(b"{\"a\":1}"), owned(b"\xff"), owned(format!("x{long}").as_bytes())];
        let errors = [error(0, Some("$.k")), error(1, None), error(2, None)];
        let kept = events("t", Some("r"), &source, &errors);
        let kept: Vec<Value> = kept
            .iter()
            .map(|event| serde_json::from_slice(event.value.as_ref().unwrap()).unwrap())
            .collect();
        let wanted = json!({"topic": "t", "index": 0, "code": "bad_key", "message": "why",
            "field": "$.k", "request_id": "r", "event": "{\"a\":1}"});
        assert_eq!(kept[0], wanted);
        assert_eq!(kept[1]["event_base64"], json!("/w=="));
        let text = kept[2]["event"].as_str().unwrap();
        assert_eq!((text.len(), kept[2]["cut_at_bytes"].as_u64()), (65_535, Some(65_535)));
    }

    #[test]
    fn quarantine_has_no_quarantine() {
        assert_eq!(topic("t").unwrap(), "t.quarantine");
        assert_eq!(topic("t.quarantine").unwrap_err().code(), "bad_request");
        assert_eq!(source_of("t.quarantine"), Some("t"));
        for name in ["t", ".quarantine", "t.quarantine.quarantine"] {
            assert_eq!(source_of(name), None, "{name}");
        }
    }
}
