//! Changes on their way through the log: one frame, durable, applied, then answered.
//!
//! Owns: the seam to the log, the supply of ids. Does not own: the log.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::store::{Change, Counter, Error, Space, Store, codec, keys};
use crate::types::{Lsn, PartitionId};
use crate::wal::{self, Done, FrameDraft, FrameKind, Request, Verdict, Wal};

/// The log as the store sees it.
#[async_trait::async_trait]
pub trait Appender: Send + Sync {
    /// Queues `request`; waits while the queue is full. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Closed`]; nothing was written and `done` will not be called.
    async fn append(&self, request: Request) -> Result<(), Error>;
}

#[async_trait::async_trait]
impl Appender for Wal {
    async fn append(&self, request: Request) -> Result<(), Error> {
        Self::append(self, request).await.map_err(|error| match error {
            wal::Error::Closed => Error::Closed,
            wal::Error::TooLarge { bytes, limit } => {
                let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
                Error::TooLarge { bytes: size(bytes), limit: size(limit) }
            }
            other => Error::Failed(other.to_string()),
        })
    }
}

/// Next number of each supply that was used since start.
#[derive(Debug, Default)]
pub(crate) struct Counters(HashMap<Counter, u64>);

impl Store {
    /// Connects the store to the log that its applier belongs to. Once, before any commit.
    ///
    /// # Panics
    /// If it was called before: frames would go to two logs.
    pub fn attach(&self, appender: Arc<dyn Appender>) {
        assert!(self.shared.appender.set(appender).is_ok(), "the store has a log already");
    }

    /// Writes `change` as a frame, waits until it is durable and applied: after it returns,
    /// [`Store::get`] shows it. If the future is dropped the change may still happen. The caller
    /// serialises its own check-then-commit (a lock held across this call is fine). Returns the
    /// position after the frame; a change without writes returns at once.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when nothing was written. [`Error::Closed`] when the log ended: the
    /// change may be found after the next start if it was under way.
    ///
    /// # Panics
    /// If it writes `Index` or fjall's own keys of `Meta`: those follow from frames.
    pub async fn commit(&self, change: Change) -> Result<Lsn, Error> {
        if change.ops.is_empty() {
            return Ok(self.applied());
        }
        let payload = Bytes::from(encode_checked(&change)?);
        drop(change);
        let appender = self.shared.appender.get().ok_or(Error::Closed)?;
        let (sender, receiver) = oneshot::channel();
        let done = Done::Applied(Box::new(move |ack| drop(sender.send(ack))));
        appender.append(Request { frames: vec![draft(payload)], done, permit: None }).await?;
        let ack = receiver.await.map_err(|_| Error::Closed)?;
        match ack.verdict {
            Verdict::Write => Ok(ack.end),
            Verdict::Reject(_) | Verdict::Duplicate { .. } => {
                Err(Error::Failed("the log refused a state frame".to_owned()))
            }
        }
    }

    /// The first of `count` numbers that were never handed out before and never will be again,
    /// durable when it returns.
    ///
    /// # Errors
    /// As [`Store::commit`]; the numbers are then given up.
    pub async fn reserve(&self, counter: Counter, count: u32) -> Result<u64, Error> {
        // The lock is held over the commit, so that no later block is durable before this one.
        let mut counters = self.shared.counters.lock().await;
        let first = match counters.0.get(&counter) {
            Some(next) => *next,
            None => self.counter(counter)?,
        };
        let next = first + u64::from(count);
        // Before the commit: it may happen although this future is dropped.
        counters.0.insert(counter, next);
        let change = Change::new().put(Space::Meta, counter.key(), keys::encode_u64(next));
        self.commit(change).await?;
        Ok(first)
    }

    /// The first number of a supply that was not handed out.
    fn counter(&self, counter: Counter) -> Result<u64, Error> {
        match self.get(Space::Meta, counter.key())? {
            Some(value) => keys::decode_u64(&value),
            // Kafka's producer ids start at 0; internal partition numbers may as well.
            None => Ok(0),
        }
    }

    /// The id of this cluster as clients see it (22 characters, URL-safe); made at the first
    /// call of a new data directory.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn cluster_id(&self) -> Result<String, Error> {
        let _serialised = self.shared.counters.lock().await;
        if let Some(value) = self.get(Space::Meta, keys::META_CLUSTER_ID)? {
            return keys::decode_text(&value);
        }
        let id = url_safe(uuid::Uuid::new_v4().as_bytes());
        let change = Change::new().put(Space::Meta, keys::META_CLUSTER_ID, keys::encode_text(&id));
        self.commit(change).await?;
        Ok(id)
    }
}

fn encode_checked(change: &Change) -> Result<Vec<u8>, Error> {
    let limit = codec::CHANGE_BYTES_MAX;
    let bytes = codec::encoded_len_max(change);
    if bytes > limit {
        return Err(Error::TooLarge { bytes, limit });
    }
    for op in &change.ops {
        let internal = op.space == Space::Meta
            && [keys::META_WAL_APPLIED, keys::META_LOG_ID].contains(&op.key.as_slice());
        assert!(op.space != Space::Index && !internal, "a change writes what follows from frames");
        assert!(!op.key.is_empty(), "a change writes an empty key");
        if op.key.len() > codec::KEY_BYTES_MAX {
            return Err(Error::TooLarge { bytes: op.key.len(), limit: codec::KEY_BYTES_MAX });
        }
    }
    Ok(codec::encode(change))
}

fn draft(payload: Bytes) -> FrameDraft {
    FrameDraft {
        kind: FrameKind::State,
        partition: PartitionId(0),
        base_offset: 0,
        record_count: 0,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        max_timestamp: 0,
        moved_ms: None,
        ext: Bytes::new(),
        payload,
    }
}

/// Base64 of 16 bytes as Kafka writes its cluster ids (source: `Uuid.toString`).
fn url_safe(bytes: &[u8; 16]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = u128::from_be_bytes(*bytes);
    let digit = |shift: u32| char::from(ALPHABET[((bits >> shift) & 63) as usize]);
    let mut text: String = (0..21).map(|i| digit(122 - 6 * i)).collect();
    text.push(char::from(ALPHABET[((bits & 3) << 4) as usize]));
    text
}

#[cfg(test)]
mod tests {
    use base64::Engine;

    use super::*;

    #[test]
    fn cluster_ids_are_base64_as_kafka_writes_them() {
        for seed in [[0u8; 16], [255; 16], std::array::from_fn(|i| (i * 37) as u8)] {
            let expected = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(seed);
            assert_eq!(url_safe(&seed), expected);
        }
    }
}
