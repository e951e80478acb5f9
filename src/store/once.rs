//! What makes an HTTP request count once: marks in the frames of its events, and what the state
//! remembers of them. A mark is durable in the same write as the events, is applied with them and
//! is in metadata snapshots, so it outlives both fjall and the events (rules 7.2).
//!
//! ```text
//! Extension of a frame (integers little-endian):
//!  0x81  version u8 = 1 | scope u128 | fingerprint u128 | write_id u128
//!                       | accepted u32 | rejected u32 | partitions u32 | partition u32
//!  0x82  version u8 = 1 | topic 16 | token u64 | partition u32 | name utf-8
//!  0x83  version u8 = 1 | id u128 *
//!
//! Idempotency (integers in keys big-endian):
//!  1 | scope u128                version u8 = 1 | fingerprint u128 | write_id u128 | created_ms i64
//!                                | accepted u32 | rejected u32 | partitions u32
//!                                | (partition u32 | first i64 | last i64) *
//!  2 | created_ms u64 | scope    version u8 = 1
//!  3 | topic 16 | name           version u8 = 1 | updated_ms i64
//!                                | (token u64 | count u32 | (partition u32 | end i64) * count) *
//!  4 | pid u32 | base_offset u64 version u8 = 1 | append_ms i64 | id u128 *
//! ```
//!
//! Owns: these layouts and the rules of how marks become state. Does not own: what a scope, a
//! fingerprint or an id is made of, who is refused and what is forgotten (`http::ingest`).

use std::collections::BTreeMap;

use crate::store::keys::{malformed, versioned};
use crate::store::{Error, Space};
use crate::types::{Offset, PartitionId};
use crate::wal::ext;

/// Version of every mark and value here.
const VERSION: u8 = 1;

const KEY: u8 = 1;
const AGE: u8 = 2;
const CHANNEL: u8 = 3;
const EVENT_IDS: u8 = 4;

/// Tokens of a channel that are remembered with their offsets; the newest is always among them.
const STEPS_MAX: usize = 8;
/// The partition of a frame whose events are in another topic: refused ones that are kept.
pub const ELSEWHERE: u32 = u32::MAX;
/// Ids of events that one frame can carry.
pub const IDS_PER_FRAME_MAX: usize = 3_000;

/// Offsets in one partition of a topic, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpan {
    /// Index of the partition in its topic.
    pub partition: u32,
    /// First offset.
    pub first: Offset,
    /// Last offset, inclusive.
    pub last: Offset,
}

/// What each frame of a request with an idempotency key says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyMark {
    /// Hash of who sent it, the topic and the key.
    pub scope: u128,
    /// Hash of what was sent.
    pub fingerprint: u128,
    /// The request; never the same for two.
    pub write_id: u128,
    /// Events that it stored.
    pub accepted: u32,
    /// Events that it left out.
    pub rejected: u32,
    /// Partitions that the topic had.
    pub partitions: u32,
    /// Partition of this frame, or [`ELSEWHERE`].
    pub partition: u32,
}

/// What is remembered of a key: the answer to its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Hash of what was sent.
    pub fingerprint: u128,
    /// The request.
    pub write_id: u128,
    /// When it was appended, milliseconds.
    pub created_ms: i64,
    /// Events that it stored.
    pub accepted: u32,
    /// Events that it left out.
    pub rejected: u32,
    /// Partitions that the topic had.
    pub partitions: u32,
    /// Where its events lie, by partition.
    pub spans: Vec<KeySpan>,
}

impl KeyMark {
    /// The entry of an extension.
    pub fn entry(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        for word in [self.scope, self.fingerprint, self.write_id] {
            value.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.accepted, self.rejected, self.partitions, self.partition] {
            value.extend_from_slice(&word.to_le_bytes());
        }
        // 65 bytes, far below what an entry holds.
        ext::entry(ext::IDEMPOTENCY, &value).unwrap_or_default()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut input = Input::new("idempotency mark", value)?;
        let mark = Self {
            scope: input.u128()?,
            fingerprint: input.u128()?,
            write_id: input.u128()?,
            accepted: input.u32()?,
            rejected: input.u32()?,
            partitions: input.u32()?,
            partition: input.u32()?,
        };
        input.end()?;
        Ok(mark)
    }
}

impl KeyRecord {
    /// What is remembered after the first frame of a request, before its offsets.
    pub fn new(mark: &KeyMark, created_ms: i64) -> Self {
        Self {
            fingerprint: mark.fingerprint,
            write_id: mark.write_id,
            created_ms,
            accepted: mark.accepted,
            rejected: mark.rejected,
            partitions: mark.partitions,
            spans: Vec::new(),
        }
    }

    /// Adds the offsets of one frame; those of a partition are without a hole. The same frame
    /// again changes nothing.
    pub fn add(&mut self, partition: u32, first: Offset, last: Offset) {
        if partition == ELSEWHERE {
            return;
        }
        match self.spans.iter_mut().find(|span| span.partition == partition) {
            Some(span) => {
                span.first = span.first.min(first);
                span.last = span.last.max(last);
            }
            None => self.spans.push(KeySpan { partition, first, last }),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&self.write_id.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        for word in [self.accepted, self.rejected, self.partitions] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for span in &self.spans {
            out.extend_from_slice(&span.partition.to_le_bytes());
            out.extend_from_slice(&span.first.to_le_bytes());
            out.extend_from_slice(&span.last.to_le_bytes());
        }
        out
    }

    /// A stored record.
    ///
    /// # Errors
    /// [`Error::Failed`] if it is malformed or of a later release.
    pub fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut input = Input::new("idempotency record", value)?;
        let mut record = Self {
            fingerprint: input.u128()?,
            write_id: input.u128()?,
            created_ms: input.i64()?,
            accepted: input.u32()?,
            rejected: input.u32()?,
            partitions: input.u32()?,
            spans: Vec::new(),
        };
        while !input.is_empty() {
            let (partition, first, last) = (input.u32()?, input.i64()?, input.i64()?);
            record.spans.push(KeySpan { partition, first, last });
        }
        Ok(record)
    }
}

/// What each frame of a request with an offset token says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelMark {
    /// The topic.
    pub topic: [u8; 16],
    /// The channel, 1 to 255 bytes.
    pub name: String,
    /// The token.
    pub token: u64,
    /// Partition of this frame, or [`ELSEWHERE`].
    pub partition: u32,
}

/// Where the events of one token end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelStep {
    /// The token.
    pub token: u64,
    /// By index of the partition: the offset after the last event.
    pub ends: BTreeMap<u32, Offset>,
}

/// What is remembered of a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelRecord {
    /// When it was last appended to, milliseconds.
    pub updated_ms: i64,
    /// Tokens in order, the newest last; some between the oldest and the newest are left out.
    pub steps: Vec<ChannelStep>,
}

impl ChannelMark {
    /// The entry of an extension.
    pub fn entry(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        value.extend_from_slice(&self.topic);
        value.extend_from_slice(&self.token.to_le_bytes());
        value.extend_from_slice(&self.partition.to_le_bytes());
        value.extend_from_slice(self.name.as_bytes());
        // At most 284 bytes.
        ext::entry(ext::CHANNEL, &value).unwrap_or_default()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut input = Input::new("channel mark", value)?;
        let topic = input.u128()?.to_le_bytes();
        let (token, partition) = (input.u64()?, input.u32()?);
        let name =
            String::from_utf8(input.rest.to_vec()).map_err(|_| malformed("channel mark", value))?;
        Ok(Self { topic, name, token, partition })
    }
}

impl ChannelRecord {
    /// The greatest token.
    pub fn token(&self) -> Option<u64> {
        self.steps.last().map(|step| step.token)
    }

    /// The greatest token known of which every event, and every event of the tokens before it, is
    /// below `tiered`, which gives an offset by partition.
    pub fn committed(&self, tiered: impl Fn(u32) -> Offset) -> Option<u64> {
        let in_table = |step: &&ChannelStep| {
            step.ends.iter().all(|(partition, end)| *end <= tiered(*partition))
        };
        self.steps.iter().take_while(in_table).last().map(|step| step.token)
    }

    /// Adds the end of one frame. A token below the newest changes nothing.
    pub fn add(&mut self, mark: &ChannelMark, end: Offset, append_ms: i64) {
        match self.steps.last_mut() {
            Some(last) if mark.token < last.token => return,
            Some(last) if mark.token == last.token => {
                if mark.partition != ELSEWHERE {
                    let known = last.ends.entry(mark.partition).or_insert(end);
                    *known = (*known).max(end);
                }
            }
            _ => {
                if self.steps.len() == STEPS_MAX {
                    // The oldest may be in the table already, the newest must be known.
                    let gone = self.steps.remove(1);
                    for (partition, end) in gone.ends {
                        self.steps[1].ends.entry(partition).or_insert(end);
                    }
                }
                let here = (mark.partition != ELSEWHERE).then_some((mark.partition, end));
                let ends = here.into_iter().collect();
                self.steps.push(ChannelStep { token: mark.token, ends });
            }
        }
        self.updated_ms = append_ms;
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.updated_ms.to_le_bytes());
        for step in &self.steps {
            out.extend_from_slice(&step.token.to_le_bytes());
            out.extend_from_slice(&(step.ends.len() as u32).to_le_bytes());
            for (partition, end) in &step.ends {
                out.extend_from_slice(&partition.to_le_bytes());
                out.extend_from_slice(&end.to_le_bytes());
            }
        }
        out
    }

    /// A stored record.
    ///
    /// # Errors
    /// [`Error::Failed`] if it is malformed or of a later release.
    pub fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut input = Input::new("channel record", value)?;
        let mut record = Self { updated_ms: input.i64()?, steps: Vec::new() };
        while !input.is_empty() {
            let (token, count) = (input.u64()?, input.u32()?);
            let mut ends = BTreeMap::new();
            for _ in 0..count {
                let (partition, end) = (input.u32()?, input.i64()?);
                ends.insert(partition, end);
            }
            record.steps.push(ChannelStep { token, ends });
        }
        Ok(record)
    }
}

/// The entry of an extension for the ids of the events of a frame, at most
/// [`IDS_PER_FRAME_MAX`] of them.
pub fn ids_entry(ids: &[u128]) -> Vec<u8> {
    debug_assert!(ids.len() <= IDS_PER_FRAME_MAX);
    let mut value = vec![VERSION];
    value.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    // At most 48,001 bytes.
    ext::entry(ext::EVENT_IDS, &value).unwrap_or_default()
}

/// The ids of one frame as they are stored, with the time of its append in milliseconds.
///
/// # Errors
/// [`Error::Failed`] if it is malformed or of a later release.
pub fn decode_ids(value: &[u8]) -> Result<(i64, Vec<u128>), Error> {
    let mut input = Input::new("event ids", value)?;
    let append_ms = input.i64()?;
    let mut ids = Vec::with_capacity(input.rest.len() / 16);
    while !input.is_empty() {
        ids.push(input.u128()?);
    }
    Ok((append_ms, ids))
}

pub(crate) fn encode_ids(append_ms: i64, mark: &[u8]) -> Result<Vec<u8>, Error> {
    let ids = versioned(mark)?;
    if ids.len() % 16 != 0 {
        return Err(malformed("event ids", mark));
    }
    let mut out = vec![VERSION];
    out.extend_from_slice(&append_ms.to_le_bytes());
    out.extend_from_slice(ids);
    Ok(out)
}

/// Where the state keeps all this.
pub const SPACE: Space = Space::Idempotency;

/// Key of the record of a request's key.
pub fn key_of(scope: u128) -> Vec<u8> {
    let mut key = vec![KEY];
    key.extend_from_slice(&scope.to_be_bytes());
    key
}

/// Key that finds old records: prefix [`age_prefix`], in order of time.
pub fn age_of(created_ms: i64, scope: u128) -> Vec<u8> {
    let mut key = age_prefix();
    key.extend_from_slice(&created_ms.max(0).cast_unsigned().to_be_bytes());
    key.extend_from_slice(&scope.to_be_bytes());
    key
}

/// Prefix of all keys of [`age_of`].
pub fn age_prefix() -> Vec<u8> {
    vec![AGE]
}

/// What all of them are below.
pub fn age_prefix_end() -> Vec<u8> {
    vec![AGE + 1]
}

/// Time in milliseconds and scope of a key of [`age_of`].
///
/// # Errors
/// [`Error::Failed`] if it is malformed.
pub fn decode_age(key: &[u8]) -> Result<(i64, u128), Error> {
    let bytes: &[u8; 25] = key.try_into().map_err(|_| malformed("age of a key", key))?;
    let ms = u64::from_be_bytes(std::array::from_fn(|i| bytes[1 + i])).cast_signed();
    Ok((ms, u128::from_be_bytes(std::array::from_fn(|i| bytes[9 + i]))))
}

/// Key of a channel; with an empty name the prefix of all channels of a topic.
pub fn channel_of(topic: [u8; 16], name: &str) -> Vec<u8> {
    let mut key = channel_prefix();
    key.extend_from_slice(&topic);
    key.extend_from_slice(name.as_bytes());
    key
}

/// Prefix of all channels.
pub fn channel_prefix() -> Vec<u8> {
    vec![CHANNEL]
}

/// Topic and name of a key of [`channel_of`].
///
/// # Errors
/// [`Error::Failed`] if it is malformed.
pub fn decode_channel(key: &[u8]) -> Result<([u8; 16], String), Error> {
    let bad = || malformed("key of a channel", key);
    let (topic, name) = key.get(1..).and_then(<[u8]>::split_first_chunk).ok_or_else(bad)?;
    Ok((*topic, String::from_utf8(name.to_vec()).map_err(|_| bad())?))
}

/// Key of the ids of the frame at a base offset.
pub fn ids_of(partition: PartitionId, base_offset: Offset) -> Vec<u8> {
    let mut key = ids_prefix();
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.extend_from_slice(&base_offset.cast_unsigned().to_be_bytes());
    key
}

/// Prefix of all ids.
pub fn ids_prefix() -> Vec<u8> {
    vec![EVENT_IDS]
}

/// Partition and base offset of a key of [`ids_of`].
///
/// # Errors
/// [`Error::Failed`] if it is malformed.
pub fn decode_ids_key(key: &[u8]) -> Result<(PartitionId, Offset), Error> {
    let bytes: &[u8; 13] = key.try_into().map_err(|_| malformed("key of event ids", key))?;
    let partition = u32::from_be_bytes(std::array::from_fn(|i| bytes[1 + i]));
    let base = u64::from_be_bytes(std::array::from_fn(|i| bytes[5 + i]));
    Ok((PartitionId(partition), base.cast_signed()))
}

struct Input<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn new(what: &'static str, value: &'a [u8]) -> Result<Self, Error> {
        Ok(Self { what, rest: versioned(value)? })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or_else(|| malformed(self.what, self.rest))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn i64(&mut self) -> Result<i64, Error> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    fn u128(&mut self) -> Result<u128, Error> {
        Ok(u128::from_le_bytes(self.take()?))
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn end(&self) -> Result<(), Error> {
        if self.is_empty() { Ok(()) } else { Err(malformed(self.what, self.rest)) }
    }
}

#[cfg(test)]
mod tests;
