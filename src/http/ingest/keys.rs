//! Idempotency keys and channels: which requests were stored before, and what their answer was.
//!
//! Owns: scopes and fingerprints, the answers of repeats, forgetting by age and count. Does not
//! own: how records become state ([`crate::store::once`]), who is first among requests under way
//! ([`super::once`]).

mod forget;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::http::ingest::event::{Once, Span};
use crate::http::ingest::once::{Hold, Known, Latch};
use crate::http::ingest::quotas::{self, KeyCounts, Tag};
use crate::http::problem::Problem;
use crate::runtime::Clock;
use crate::store::once::{
    self, ChannelMark, ChannelRecord, KeyMark, KeyRecord, SPACE, channel_prefix,
};
use crate::store::{self, Change, Store};
use crate::types::{Lsn, TopicId};

/// Records that are forgotten by one change.
pub(super) const FORGET_MAX: usize = 1_000;
/// Longest name of a channel, bytes.
pub(crate) const CHANNEL_BYTES_MAX: usize = 255;

/// Beginning of the names of channels that replays of a quarantine have: senders have none of that
/// name.
pub(crate) const REPLAY_CHANNELS: &str = "floe.quarantine.";

/// 128 bits of SHA-256 over `parts`, each with its length before it: foreign parts cannot be cut
/// in another way to the same hash.
pub(crate) fn hash(parts: &[&[u8]]) -> u128 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    u128::from_le_bytes(std::array::from_fn(|i| digest[i]))
}

/// The key of a request: the same one again is answered and not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// Who sent it; keys of others are other keys. Empty without authentication.
    pub(crate) principal: String,
    /// As sent, with where it was found.
    pub(crate) key: String,
    /// [`hash`] of the decoded body, the target and the options.
    pub(crate) fingerprint: u128,
    /// How long it counts, where that is shorter than for all keys, milliseconds.
    pub(crate) window_ms: Option<i64>,
}

impl Key {
    /// What it is known by.
    fn scope(&self, topic: TopicId) -> u128 {
        quotas::scope(&self.principal, &[topic.0.as_bytes(), self.key.as_bytes()])
    }
}

/// A sender's place in its own sequence: tokens rise, and those up to the last are not stored
/// again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Channel {
    /// Its name, 1 to [`CHANNEL_BYTES_MAX`] bytes.
    pub(crate) name: String,
    /// The token of this request.
    pub(crate) token: u64,
    /// The token that must be the last one by now, where the sender knows it; 0 is none.
    pub(crate) after: Option<u64>,
}

impl Channel {
    /// Refuses to go on from a token that is not the last one any more.
    fn check_after(&self, record: &ChannelRecord) -> Result<(), Problem> {
        let last = record.token().unwrap_or(0);
        if self.after.is_some_and(|after| after != last) {
            Err(in_flight("channel"))
        } else {
            Ok(())
        }
    }
}

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub struct OnceLimits {
    /// Keys are forgotten at this age, milliseconds,
    pub key_age_ms: i64,
    /// and the oldest of more than this many.
    pub keys_max: usize,
    /// Channels that were silent for so long are forgotten, milliseconds.
    pub channel_age_ms: i64,
    /// Most channels.
    pub channels_max: usize,
}

type ChannelKey = (TopicId, String);

/// A change that forgets channels, and what is held until it is made.
type Forgetting = (Change, Vec<Hold<ChannelKey, ChannelRecord>>);

/// All keys and channels; cheap to clone.
#[derive(Clone)]
pub(super) struct Keys {
    store: Store,
    clock: Clock,
    limits: OnceLimits,
    keys: Latch<u128, KeyRecord>,
    channels: Latch<ChannelKey, ChannelRecord>,
    key_counts: KeyCounts,
    /// Up to where keys of others than these were passed when some were forgotten.
    passed: Arc<Mutex<(BTreeSet<Tag>, Vec<u8>)>>,
    /// How many there are, about.
    channel_count: Arc<AtomicUsize>,
}

/// A request with a key that was not seen before.
pub(super) struct KeyHold {
    hold: Hold<u128, KeyRecord>,
    scope: u128,
    fingerprint: u128,
    counts: KeyCounts,
}

/// A request with a token above all of its channel.
pub(super) struct ChannelHold {
    hold: Hold<ChannelKey, ChannelRecord>,
    topic: TopicId,
    channel: Channel,
    record: ChannelRecord,
    count: Arc<AtomicUsize>,
}

/// Whether a request with a key is the first.
pub(super) enum Begun {
    First(KeyHold),
    Repeat(KeyRecord),
}

/// Whether a token is new.
pub(super) enum Opened {
    New(Box<ChannelHold>),
    /// The channel is at it or past it.
    Known,
}

fn in_flight(what: &str) -> Problem {
    let detail = format!("another request with this {what} is under way; nothing was stored");
    Problem::new("request_in_flight", detail).retry_after(1)
}

fn failed(error: &store::Error) -> Problem {
    Problem::new("internal", error.to_string())
}

impl Keys {
    pub(super) fn new(store: Store, clock: Clock, limits: OnceLimits) -> Self {
        Self {
            store,
            clock,
            limits,
            keys: Latch::new(),
            channels: Latch::new(),
            key_counts: KeyCounts::default(),
            passed: Arc::default(),
            channel_count: Arc::default(),
        }
    }

    /// Decides whether a request is the first with its key.
    ///
    /// # Errors
    /// `request_in_flight`, `idempotency_key_reused`, `overloaded`.
    pub(super) fn begin(&self, topic: TopicId, key: &Key) -> Result<Begun, Problem> {
        let scope = key.scope(topic);
        let (known, hold) = self.keys.begin(&scope, self.store.applied());
        let Some(hold) = hold else {
            return match known {
                Known::Logged(record) => repeat(key, KeyRecord::clone(&record)),
                _ => Err(in_flight("idempotency key")),
            };
        };
        let remembered = self.remembered(scope, key.window_ms).map_err(|error| failed(&error))?;
        if let Some(record) = remembered {
            return repeat(key, record);
        }
        if self.key_counts.is_full(scope, self.limits.keys_max) {
            let detail = "more idempotency keys come than are forgotten";
            return Err(Problem::new("overloaded", detail).retry_after(5));
        }
        let (fingerprint, counts) = (key.fingerprint, self.key_counts.clone());
        Ok(Begun::First(KeyHold { hold, scope, fingerprint, counts }))
    }

    /// True if a request with that key or token is stored: it will be answered and not stored
    /// again. Takes nothing, and tells of no fault: the claim does. Blocks.
    pub(super) fn knows(&self, topic: TopicId, once: &Once) -> bool {
        match once {
            Once::No => false,
            Once::Key(key) => {
                let scope = key.scope(topic);
                let logged = self.keys.logged(&scope, self.store.applied());
                let record = logged.map(|record| KeyRecord::clone(&record));
                let record = record.or_else(|| self.remembered(scope, key.window_ms).ok()?);
                record.is_some_and(|record| record.fingerprint == key.fingerprint)
            }
            Once::Channel(channel) => {
                let record = self.channel(topic, &channel.name).ok().flatten();
                record.is_some_and(|record| record.token() >= Some(channel.token))
            }
        }
    }

    fn remembered(
        &self,
        scope: u128,
        window_ms: Option<i64>,
    ) -> Result<Option<KeyRecord>, store::Error> {
        let stored = self.store.get(SPACE, &once::key_of(scope))?;
        let record = stored.map(|value| KeyRecord::decode(&value)).transpose()?;
        let age_ms = window_ms.unwrap_or(i64::MAX).min(self.limits.key_age_ms);
        let oldest_ms = self.clock.now_ms() - age_ms;
        Ok(record.filter(|record| record.created_ms > oldest_ms))
    }

    /// Decides whether a token is above all of its channel.
    ///
    /// # Errors
    /// `request_in_flight`, `overloaded`.
    pub(super) fn open(&self, topic: TopicId, channel: &Channel) -> Result<Opened, Problem> {
        let key = (topic, channel.name.clone());
        let (known, hold) = self.channels.begin(&key, self.store.applied());
        let (record, hold) = match (known, hold) {
            (Known::Logged(record), _) => {
                channel.check_after(&record)?;
                if record.token() >= Some(channel.token) {
                    return Ok(Opened::Known);
                }
                let hold = self.channels.retake(&key).ok_or_else(|| in_flight("channel"))?;
                (ChannelRecord::clone(&record), hold)
            }
            (Known::Fresh, Some(hold)) => {
                let stored = self.channel(topic, &channel.name).map_err(|error| failed(&error))?;
                (stored.unwrap_or_default(), hold)
            }
            _ => return Err(in_flight("channel")),
        };
        channel.check_after(&record)?;
        if record.token() >= Some(channel.token) {
            return Ok(Opened::Known);
        }
        let is_new = record.steps.is_empty();
        if is_new && self.channel_count.load(Ordering::Relaxed) >= self.limits.channels_max {
            let detail =
                format!("there are http.channels.max = {} channels", self.limits.channels_max);
            return Err(Problem::new("overloaded", detail).retry_after(30));
        }
        let (channel, count) = (channel.clone(), Arc::clone(&self.channel_count));
        Ok(Opened::New(Box::new(ChannelHold { hold, topic, channel, record, count })))
    }

    /// Remembers the token of a request of which nothing is left to store.
    ///
    /// # Errors
    /// `internal`.
    pub(super) async fn pass(&self, hold: Box<ChannelHold>) -> Result<(), Problem> {
        let now_ms = self.clock.now_ms();
        let mut record = hold.record.clone();
        record.add(&hold.mark(once::ELSEWHERE as usize), 0, now_ms);
        let key = once::channel_of(*hold.topic.0.as_bytes(), &hold.channel.name);
        let change = Change::new().put(SPACE, key, record.encode());
        // Where nobody waits any more: later tokens are behind it in the log.
        let end = self.store.commit(change).await.map_err(|error| failed(&error))?;
        hold.settle(&[], now_ms, end);
        Ok(())
    }

    /// What is known of a channel.
    ///
    /// # Errors
    /// [`store::Error::Failed`].
    pub(super) fn channel(
        &self,
        topic: TopicId,
        name: &str,
    ) -> Result<Option<ChannelRecord>, store::Error> {
        let key = (topic, name.to_owned());
        if let Some(record) = self.channels.logged(&key, self.store.applied()) {
            return Ok(Some(ChannelRecord::clone(&record)));
        }
        let stored = self.store.get(SPACE, &once::channel_of(*topic.0.as_bytes(), name))?;
        stored.map(|value| ChannelRecord::decode(&value)).transpose()
    }

    /// Counts what is there. Blocks.
    ///
    /// # Errors
    /// [`store::Error::Failed`].
    pub(super) fn recount(&self) -> Result<(), store::Error> {
        let mut keys: HashMap<Tag, usize> = HashMap::new();
        self.store.for_each(SPACE, &once::age_prefix(), |key, _| {
            let (_, scope) = once::decode_age(key)?;
            *keys.entry(quotas::tag(scope)).or_default() += 1;
            Ok(())
        })?;
        let channels = self.store.count(SPACE, &channel_prefix())?;
        self.key_counts.set(keys);
        self.channel_count.store(channels, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets channels that were silent for too long, and counts what is left. Walks over all. Those
    /// of replays stay as long as `is_there` says it of their topic.
    ///
    /// # Errors
    /// [`store::Error`].
    pub(super) async fn forget_channels(
        &self,
        is_there: impl Fn(TopicId) -> bool + Send + 'static,
    ) -> Result<(), store::Error> {
        let keys = self.clone();
        let found = tokio::task::spawn_blocking(move || keys.silent_channels(is_there));
        let (change, holds) = found.await.map_err(|_| store::Error::Closed)??;
        self.store.commit(change).await?;
        drop(holds);
        let keys = self.clone();
        let recounted = tokio::task::spawn_blocking(move || keys.recount());
        recounted.await.map_err(|_| store::Error::Closed)?
    }

    /// The change that forgets them, as for keys, at most [`FORGET_MAX`].
    fn silent_channels(
        &self,
        is_there: impl Fn(TopicId) -> bool,
    ) -> Result<Forgetting, store::Error> {
        let oldest_ms = self.clock.now_ms() - self.limits.channel_age_ms;
        let mut silent = Vec::new();
        self.store.for_each(SPACE, &channel_prefix(), |key, value| {
            if silent.len() < FORGET_MAX && ChannelRecord::decode(value)?.updated_ms <= oldest_ms {
                let (topic, name) = once::decode_channel(key)?;
                let topic = TopicId(Uuid::from_bytes(topic));
                if !name.starts_with(REPLAY_CHANNELS) || !is_there(topic) {
                    silent.push(key.to_vec());
                }
            }
            Ok(())
        })?;
        let (mut change, mut holds) = (Change::new(), Vec::new());
        for key in silent {
            let (topic, name) = once::decode_channel(&key)?;
            let name = (TopicId(Uuid::from_bytes(topic)), name);
            let Some(hold) = self.channels.begin(&name, self.store.applied()).1 else { continue };
            // It may have gone on since.
            let record = self.store.get(SPACE, &key)?.map(|value| ChannelRecord::decode(&value));
            if record.transpose()?.is_some_and(|record| record.updated_ms <= oldest_ms) {
                change = change.delete(SPACE, key);
                holds.push(hold);
            }
        }
        Ok((change, holds))
    }
}

impl KeyHold {
    /// What the frame of a batch says of the request.
    pub(super) fn mark(&self, request: &Marked, partition: usize) -> KeyMark {
        KeyMark {
            scope: self.scope,
            fingerprint: self.fingerprint,
            write_id: request.write_id.as_u128(),
            accepted: count_of(request.accepted),
            rejected: count_of(request.rejected),
            partitions: count_of(request.partitions),
            partition: count_of(partition),
        }
    }

    /// The events are in the log, up to `end`.
    pub(super) fn settle(self, request: &Marked, spans: &[Span], append_ms: i64, end: Lsn) {
        let mut record = KeyRecord::new(&self.mark(request, 0), append_ms);
        for span in spans {
            record.add(count_of(span.partition), span.first_offset, span.last_offset);
        }
        self.counts.add(self.scope);
        self.hold.settle(record, end);
    }
}

impl ChannelHold {
    /// As [`KeyHold::mark`].
    pub(super) fn mark(&self, partition: usize) -> ChannelMark {
        ChannelMark {
            topic: *self.topic.0.as_bytes(),
            name: self.channel.name.clone(),
            token: self.channel.token,
            partition: count_of(partition),
        }
    }

    /// As [`KeyHold::settle`].
    pub(super) fn settle(mut self, spans: &[Span], append_ms: i64, end: Lsn) {
        self.count.fetch_add(usize::from(self.record.steps.is_empty()), Ordering::Relaxed);
        // The token counts although no event of it may be in the topic.
        self.record.add(&self.mark(once::ELSEWHERE as usize), 0, append_ms);
        for span in spans {
            let mark = self.mark(span.partition);
            self.record.add(&mark, span.last_offset + 1, append_ms);
        }
        self.hold.settle(self.record, end);
    }
}

/// What every frame of a request has in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marked {
    pub(super) write_id: Uuid,
    pub(super) accepted: usize,
    pub(super) rejected: usize,
    /// Partitions that the topic has.
    pub(super) partitions: usize,
}

/// Events and partitions of a request are far fewer.
fn count_of(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn repeat(key: &Key, record: KeyRecord) -> Result<Begun, Problem> {
    if record.fingerprint == key.fingerprint {
        return Ok(Begun::Repeat(record));
    }
    let detail = "this idempotency key was used for other events, another topic or other options";
    Err(Problem::new("idempotency_key_reused", detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::Rig;

    #[tokio::test]
    async fn a_channel_of_a_replay_stays_with_its_topic_and_goes_on_from_its_last_token() {
        let rig = Rig::new();
        let limits =
            OnceLimits { key_age_ms: 1, keys_max: 1, channel_age_ms: 1_000, channels_max: 10 };
        let keys = Keys::new(rig.store(), rig.clock.clone(), limits);
        let (topic, replay) = (TopicId(Uuid::from_u128(1)), format!("{REPLAY_CHANNELS}x.0"));
        for name in ["c", &replay] {
            let mark = ChannelMark {
                topic: *topic.0.as_bytes(),
                name: name.to_owned(),
                token: 5,
                partition: once::ELSEWHERE,
            };
            let mut record = ChannelRecord::default();
            record.add(&mark, 0, rig.clock.now_ms());
            let key = once::channel_of(*topic.0.as_bytes(), name);
            rig.store().commit(Change::new().put(SPACE, key, record.encode())).await.unwrap();
        }
        let open = |token, after| {
            let opened = keys.open(topic, &Channel { name: replay.clone(), token, after });
            opened.map(|it| matches!(it, Opened::New(_))).map_err(|problem| problem.code())
        };
        for (token, after, wanted) in [
            (9, Some(5), Ok(true)),
            (9, None, Ok(true)),
            (5, Some(5), Ok(false)),
            // Another replay went on meanwhile, or what was known is older.
            (9, Some(3), Err("request_in_flight")),
            (4, Some(3), Err("request_in_flight")),
            (9, Some(0), Err("request_in_flight")),
        ] {
            assert_eq!(open(token, after), wanted, "{token} after {after:?}");
        }
        let knows = |token| {
            let channel = Channel { name: replay.clone(), token, after: None };
            keys.knows(topic, &Once::Channel(channel))
        };
        assert_eq!([4, 5, 6].map(knows), [true, true, false]);
        rig.clock.advance(1_001);
        keys.forget_channels(|_| true).await.unwrap();
        let known = |name: &str| keys.channel(topic, name).unwrap().and_then(|it| it.token());
        assert_eq!((known("c"), known(&replay)), (None, Some(5)));
        keys.forget_channels(|_| false).await.unwrap();
        assert_eq!(known(&replay), None);
    }

    #[tokio::test]
    async fn a_token_without_events_to_store_is_remembered() {
        let rig = Rig::new();
        let limits =
            OnceLimits { key_age_ms: 1, keys_max: 1, channel_age_ms: 1_000, channels_max: 10 };
        let new = || Keys::new(rig.store(), rig.clock.clone(), limits);
        let (keys, topic) = (new(), TopicId(Uuid::from_u128(1)));
        for (token, after) in [(3, 0), (8, 3)] {
            let channel = Channel { name: "c".to_owned(), token, after: Some(after) };
            let Ok(Opened::New(hold)) = keys.open(topic, &channel) else { panic!("it is new") };
            keys.pass(hold).await.unwrap();
            assert!(keys.open(topic, &channel).is_err(), "it went on");
            let again = Channel { after: None, ..channel };
            assert!(matches!(keys.open(topic, &again), Ok(Opened::Known)));
        }
        let stored = new().channel(topic, "c").unwrap();
        assert_eq!(stored.and_then(|record| record.token()), Some(8), "on the disk too");
        assert_eq!(keys.channel_count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_key_counts_for_its_own_time_where_that_is_shorter() {
        let rig = Rig::new();
        let limits =
            OnceLimits { key_age_ms: 86_400_000, keys_max: 10, channel_age_ms: 1, channels_max: 1 };
        let keys = Keys::new(rig.store(), rig.clock.clone(), limits);
        let topic = TopicId(Uuid::from_u128(1));
        let key = |window_ms| Key {
            principal: String::new(),
            key: "body:7".to_owned(),
            fingerprint: 7,
            window_ms,
        };
        let scope = key(None).scope(topic);
        let Ok(Begun::First(hold)) = keys.begin(topic, &key(None)) else { panic!("it is new") };
        let request = Marked { write_id: Uuid::nil(), accepted: 1, rejected: 0, partitions: 1 };
        let record = KeyRecord::new(&hold.mark(&request, 0), rig.clock.now_ms());
        drop(hold);
        let change = Change::new().put(SPACE, once::key_of(scope), record.encode());
        rig.store().commit(change).await.unwrap();
        let is_repeat =
            |window_ms| matches!(keys.begin(topic, &key(window_ms)), Ok(Begun::Repeat(_)));
        let knows = |key: Key| keys.knows(topic, &Once::Key(key));
        assert!(knows(key(None)) && !knows(Key { fingerprint: 8, ..key(None) }));
        assert!(!knows(Key { principal: "ann".to_owned(), ..key(None) }));
        rig.clock.advance(599_999);
        assert!(is_repeat(Some(600_000)) && is_repeat(None));
        rig.clock.advance(1);
        assert!(!is_repeat(Some(600_000)) && is_repeat(None));
        assert!(!knows(key(Some(600_000))) && knows(key(None)));
        assert!(is_repeat(Some(i64::MAX)));
        rig.clock.advance(86_400_000);
        assert!(!is_repeat(Some(i64::MAX)), "no longer than all keys");
    }
    #[tokio::test]
    async fn of_too_many_keys_the_oldest_of_whoever_has_most_are_forgotten() {
        let rig = Rig::new();
        let limits =
            OnceLimits { key_age_ms: 86_400_000, keys_max: 4, channel_age_ms: 1, channels_max: 1 };
        let new = || Keys::new(rig.store(), rig.clock.clone(), limits);
        let topic = TopicId(Uuid::from_u128(1));
        let key = |principal: &str, number: usize| Key {
            principal: principal.to_owned(),
            key: number.to_string(),
            fingerprint: 7,
            window_ms: None,
        };
        let store = async |keys: &Keys, key: &Key| {
            let Ok(Begun::First(hold)) = keys.begin(topic, key) else { panic!("it is new") };
            let request = Marked { write_id: Uuid::nil(), accepted: 1, rejected: 0, partitions: 1 };
            let record = KeyRecord::new(&hold.mark(&request, 0), rig.clock.now_ms());
            let (scope, created_ms) = (hold.scope, record.created_ms);
            let change = Change::new().put(SPACE, once::key_of(scope), record.encode()).put(
                SPACE,
                once::age_of(created_ms, scope),
                vec![1],
            );
            let end = rig.store().commit(change).await.unwrap();
            hold.settle(&request, &[], created_ms, end);
            rig.clock.advance(1);
        };
        let keys = new();
        for number in 0..2 {
            store(&keys, &key("quiet", number)).await;
        }
        for number in 0..6 {
            store(&keys, &key("loud", number)).await;
        }
        assert!(keys.begin(topic, &key("loud", 9)).is_err(), "twice as many as there may be");
        assert!(matches!(keys.begin(topic, &key("quiet", 9)), Ok(Begun::First(_))));
        // After a restart it is known as well whose they are.
        let keys = new();
        keys.recount().unwrap();
        assert_eq!(keys.forget_keys().await.unwrap(), 4);
        assert_eq!(keys.forget_keys().await.unwrap(), 0);
        let knows = |principal, number| keys.knows(topic, &Once::Key(key(principal, number)));
        assert_eq!([0, 1].map(|number| knows("quiet", number)), [true, true]);
        let loud = [0, 1, 2, 3, 4, 5].map(|number| knows("loud", number));
        assert_eq!(loud, [false, false, false, false, true, true]);
        // Too old is too old for everybody.
        rig.clock.advance(86_400_000);
        assert_eq!(keys.forget_keys().await.unwrap(), 4);
        assert!(keys.key_counts.excess(0).is_empty());
    }
}
