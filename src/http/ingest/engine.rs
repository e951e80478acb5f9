//! The one way in for events, whatever route they came by: topic, limits, batches, the append.
//!
//! Owns: all or nothing (rules 7.1), which events are refused, topics made by their first event,
//! the time an answer may take. Does not own: forms of bodies and answers (the routes), what may be
//! said of an append (`confirm`).

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, ready};
use uuid::Uuid;

use crate::http::ingest::batches::{self, Batches, EventIdList, Target};
use crate::http::ingest::body::{BodyMemory, Share};
use crate::http::ingest::claim::{Claim, Claimed, Sent};
use crate::http::ingest::confirm::{Outcome, Queued, problem};
use crate::http::ingest::counts::Counts;
use crate::http::ingest::event::{Ack, Event, OnError, Once, OwnedEvent, Source, Stored, Terms};
use crate::http::ingest::event_ids::{EventIds, IdHold};
use crate::http::ingest::keys::{Keys, Marked};
use crate::http::ingest::quarantine::Keep;
use crate::http::ingest::rate::Limits;
use crate::http::ingest::stranger;
use crate::http::ingest::topic_fields::{Completed, Said};
use crate::http::ingest::traced;
use crate::http::problem::{EventError, Problem};
use crate::http::{Options, unknown_topic};
use crate::log::{Append, AppendBatch, Log, Origin};
use crate::record::TimestampBounds;
use crate::runtime::Clock;
use crate::runtime::ids::uuid_v7;
use crate::store::{self, Store};
use crate::tier::Tiering;
use crate::topic::options::{Idempotency, Overrides, TableMode, TopicOptions};
use crate::topic::{self, NewTopic, Topic, Topics};
use crate::types::TopicName;

/// A log that has taken the events gets this long of an answer's time to confirm them.
pub(in crate::http) const CONFIRM_MIN: Duration = Duration::from_secs(5);
/// What is done with a body up to this size is done where the request runs: another thread would
/// not have woken up before.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Takes events; cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(super) log: Log,
    pub(super) topics: Topics,
    pub(super) tiering: Tiering,
    pub(super) options: Arc<Options>,
    pub(super) limits: Arc<Limits>,
    memory: BodyMemory,
    /// The same of strangers.
    pub(super) strangers: BodyMemory,
    keys: Keys,
    ids: EventIds,
    clock: Clock,
    counts: Arc<Counts>,
}

impl Engine {
    pub(crate) fn new(
        log: Log,
        topics: Topics,
        tiering: Tiering,
        store: Store,
        options: Arc<Options>,
        clock: Clock,
    ) -> Self {
        let memory = BodyMemory::new(options.in_bytes, options.inflation_max)
            .with_sender_bytes(options.in_sender_bytes);
        let strangers = stranger::memory(options.in_bytes, options.inflation_max);
        let keys = Keys::new(store.clone(), clock.clone(), options.once);
        let ids = EventIds::new(store, clock.clone(), options.ids);
        let counts = Arc::new(Counts::new());
        let of_new_topic = topics.resolve("topic", &Overrides::new()).unwrap_or_default();
        let limits = Arc::new(Limits::new(options.rate, &of_new_topic));
        Self { log, topics, tiering, options, limits, memory, strangers, keys, ids, clock, counts }
    }

    /// Reads back what is remembered of requests. Blocks; before the first one.
    ///
    /// # Errors
    /// [`store::Error::Failed`].
    pub(crate) fn load(&self) -> Result<(), store::Error> {
        self.keys.recount()?;
        self.ids.load()
    }

    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// The memory of bodies: [`super::body::read`] takes from it.
    pub(crate) fn memory(&self) -> &BodyMemory {
        &self.memory
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn ids(&self) -> &EventIds {
        &self.ids
    }

    /// The topic, or none if its first event will make it. Cheap: to be asked before a body is
    /// read.
    ///
    /// # Errors
    /// `unknown_topic` or `invalid_topic` if it is not there and cannot be made either.
    pub(crate) fn topic(&self, name: &str) -> Result<Option<Arc<Topic>>, Problem> {
        if let Some(topic) = self.topics.get(name) {
            return Ok(Some(topic));
        }
        if !self.options.auto_create_topics {
            return Err(unknown_topic(name));
        }
        match TopicName::parse(name) {
            Ok(_) => Ok(None),
            Err(error) => Err(Problem::new("invalid_topic", error.to_string())),
        }
    }

    /// What tells requests to a topic from their repeats; `known` is none if its first event would
    /// make it.
    fn idempotency(&self, name: &str, known: Option<&Topic>) -> Idempotency {
        self.option(name, known, |options| options.idempotency).unwrap_or_default()
    }

    /// True if a request to the topic that says nothing else counts by its body
    /// (`topic.idempotency = body`).
    pub(crate) fn counts_by_body(&self, name: &str, known: Option<&Topic>) -> bool {
        self.idempotency(name, known) == Idempotency::Body
    }

    /// What the options of a topic say, or will say when its first event makes it.
    fn option<T>(
        &self,
        name: &str,
        known: Option<&Topic>,
        pick: impl Fn(&TopicOptions) -> T,
    ) -> Option<T> {
        match known {
            Some(topic) => Some(pick(&topic.options)),
            None => self.topics.resolve(name, &Overrides::new()).ok().map(|it| pick(&it)),
        }
    }

    /// A problem of events for that topic, with the status that its senders take for too much at
    /// once (`topic.overload.status`).
    pub(crate) fn told(&self, topic: &str, problem: Problem) -> Problem {
        let status = || self.topics.get(topic).map(|topic| topic.options.overload_status);
        match problem.code() {
            "overloaded" => problem.overloaded_as(status().unwrap_or(429)),
            _ => problem,
        }
    }

    /// Appends the events of one request to a topic: all of them, or as [`OnError`] says all
    /// valid ones, as one chain: a crash leaves all or none. Keyed events are partitioned by
    /// murmur2. `hold` is the memory of the body, kept until the events are in the log.
    ///
    /// # Errors
    /// 429, 503 and every 4xx mean that nothing was stored; `outcome_unknown` that it may have
    /// been. Refused events are in [`Problem::errors`].
    pub(crate) fn append<'s>(
        &'s self,
        topic: &'s str,
        source: impl Source,
        hold: Share,
        terms: Terms,
    ) -> impl Future<Output = Result<Stored, Problem>> + Send + 's {
        let checked = |known: Option<Arc<Topic>>| {
            terms.check_topic(&self.topics, known.as_deref())?;
            Ok(known)
        };
        match self.topic(topic).and_then(checked) {
            Ok(known) => Either::Left(self.store((topic, known), source, hold, terms)),
            Err(problem) => Either::Right(ready(Err(problem))),
        }
    }

    /// [`Self::append`] to this topic, not to another that has its name by now.
    ///
    /// # Errors
    /// As [`Self::append`]; `unknown_topic` if it was deleted.
    pub(crate) async fn append_to(
        &self,
        topic: Arc<Topic>,
        source: impl Source,
        hold: Share,
        terms: Terms,
    ) -> Result<Stored, Problem> {
        let name = topic.name.clone();
        self.store((name.as_str(), Some(topic)), source, hold, terms).await
    }

    async fn store(
        &self,
        (name, known): (&str, Option<Arc<Topic>>),
        source: impl Source,
        hold: Share,
        terms: Terms,
    ) -> Result<Stored, Problem> {
        let said = |options: &TopicOptions| Said::of(options, traced::headers);
        let said = self.option(name, known.as_deref(), said).flatten();
        let source = Completed { source, said };
        // Boxed, as all that is large: it would be copied on its way into each future around it.
        let mut queue = Box::pin(self.queue(name, known, source, &terms));
        // Most find room at once; they need no timer.
        let queued = match futures::poll!(&mut queue) {
            Poll::Ready(queued) => Ok(queued),
            Poll::Pending => tokio::time::timeout_at(terms.until - CONFIRM_MIN, queue).await,
        };
        // What is dropped here was not queued.
        let late = || Problem::new("overloaded", "the request did not get its turn in time");
        let queued =
            match queued.unwrap_or_else(|_| Err(late().retry_after(self.memory.back_in_s())))? {
                Outcome::Queued(queued) => queued,
                Outcome::Repeat(stored) => return Ok(*stored),
            };
        let stored = if terms.ack == Ack::Accepted {
            queued.accepted()
        } else {
            let confirm = Box::pin(self.confirm(queued, &terms));
            let stored = tokio::time::timeout_at(terms.until, confirm).await;
            drop(hold);
            stored.unwrap_or_else(|_| {
                let detail = "the disk did not confirm in time; the events may be stored";
                Err(Problem::new("outcome_unknown", detail))
            })?
        };
        self.counts.acknowledged(stored.ack, terms.until);
        Ok(stored)
    }

    async fn queue(
        &self,
        name: &str,
        known: Option<Arc<Topic>>,
        source: impl Source,
        terms: &Terms,
    ) -> Result<Outcome, Problem> {
        let is_keyed = !matches!(terms.once, Once::No) || source.has_ids();
        if !is_keyed && self.idempotency(name, known.as_deref()) == Idempotency::Required {
            let detail = "topic.idempotency = required: send an Idempotency-Key, or X-Channel with \
                          X-Offset-Token; nothing was stored";
            return Err(Problem::new("missing_idempotency_key", detail));
        }
        let keep = self.keep(name, terms)?;
        let refused = source.refused();
        if terms.on_error == OnError::Reject && !refused.is_empty() {
            self.count_rejected(refused.len());
            return Err(refusal(refused.to_vec()));
        }
        // Only now: what is refused makes no topic.
        let (topic, source) = match known {
            Some(topic) => (topic, source),
            None => {
                let source = self.look(source, terms.on_error).await?;
                (Box::pin(self.make_topic(name)).await?, source)
            }
        };
        if matches!(terms.ack, Ack::Committed(_)) && topic.options.table_mode == TableMode::Off {
            let detail = "ack=committed waits for the table, and this topic has none";
            return Err(Problem::new("bad_request", detail));
        }
        let mut claim = match Claim::of(&self.keys, &topic, &terms.once).await? {
            Claimed::First(claim) => claim,
            Claimed::Key(record) => {
                let repeat = Box::pin(self.repeat(&topic, record, source, terms)).await?;
                return Ok(Outcome::Repeat(Box::new(repeat)));
            }
            Claimed::Channel => {
                let ack = Box::pin(self.acknowledge(&topic, terms)).await?;
                return Ok(Outcome::Repeat(Box::new(Stored::repeat(&topic, ack))));
            }
        };
        let write_id = uuid_v7();
        let mut target = self.target(&topic, write_id, terms);
        let source = if source.has_ids() {
            let (source, list, hold) = self.take_ids(&topic, source, terms).await?;
            claim.hold_ids(hold);
            target.ids = Some(list);
            source
        } else {
            source
        };
        let (batches, kept) = build(source, target, keep.as_ref()).await?;
        let (rejected, keeps) = (batches.errors.len(), keep.is_some());
        let none_is_good = batches.accepted + batches.duplicates == 0 && !keeps;
        if rejected > 0 && (terms.on_error == OnError::Reject || none_is_good) {
            self.count_rejected(rejected);
            return Err(refusal(batches.errors).each_at_most(topic.options.max_message_bytes));
        }
        let kept = match keep {
            Some(keep) if !kept.is_empty() => {
                Box::pin(self.quarantine(keep, kept, write_id)).await?
            }
            _ => Vec::new(),
        };
        let queued = self.push((topic, terms.ack), batches, kept, write_id, claim).await?;
        self.counts.stored(&queued, keeps);
        Ok(Outcome::Queued(queued))
    }

    /// Counts events that are refused. What a route refuses itself it counts here.
    pub(crate) fn count_rejected(&self, events: usize) {
        self.counts.rejected.increment(events as u64);
    }

    /// Finds the events that are stored already, by their ids, and takes those of the others.
    async fn take_ids<S: Source>(
        &self,
        topic: &Topic,
        source: S,
        terms: &Terms,
    ) -> Result<(S, EventIdList, IdHold), Problem> {
        let (size_bytes, topic, known_by) = (source.size_bytes(), topic.id, terms.event_id());
        let find = move || {
            let mut ids = Vec::new();
            source.visit(&mut |event| {
                if let Ok(Event { index, id: Some(id), .. }) = event {
                    ids.push((index, known_by(topic, &id)));
                }
            });
            Ok((source, ids))
        };
        let (source, ids) = off_worker(size_bytes, find).await?;
        let (known, hold) = self.ids.take(ids.iter().map(|(_, id)| *id).collect()).await;
        let duplicates = known.into_iter().map(|at| ids[at].0).collect();
        Ok((source, EventIdList { ids, duplicates }, hold))
    }

    pub(super) async fn make_topic(&self, name: &str) -> Result<Arc<Topic>, Problem> {
        let new = NewTopic { name: name.to_owned(), ..NewTopic::default() };
        match self.topics.create(new, false).await {
            Ok(topic) => Ok(topic),
            // Somebody else's first event made it meanwhile.
            Err(topic::Error::Exists(_)) => {
                self.topics.get(name).ok_or_else(|| unknown_topic(name))
            }
            Err(topic::Error::Store(error)) => Err(Problem::new("internal", error.to_string())),
            Err(error) => Err(Problem::new("invalid_topic", error.to_string())),
        }
    }

    /// Looks at the first events of a topic before it is made.
    async fn look<S: Source>(&self, source: S, on_error: OnError) -> Result<S, Problem> {
        let size_bytes = source.size_bytes();
        let looked = move || {
            let (mut refused, mut good) = (source.refused().to_vec(), 0_usize);
            source.visit(&mut |event| match event {
                Ok(_) => good += 1,
                Err(error) => refused.push(error),
            });
            refused.sort_by_key(|error| error.index);
            Ok((source, refused, good))
        };
        let (source, refused, good) = off_worker(size_bytes, looked).await?;
        let is_refused = match on_error {
            OnError::Reject => true,
            OnError::Skip => good == 0,
            OnError::Quarantine => false,
        };
        if is_refused && !refused.is_empty() {
            self.count_rejected(refused.len());
            return Err(refusal(refused));
        }
        Ok(source)
    }

    pub(super) fn target(&self, topic: &Topic, write_id: Uuid, terms: &Terms) -> Target {
        let now_ms = self.clock.now_ms();
        let options = &topic.options;
        let bounds = TimestampBounds {
            before_max_ms: options.timestamp_before_max_ms,
            after_max_ms: options.timestamp_after_max_ms,
            now_ms,
        };
        // The last bytes of a version 7 UUID are random.
        let [.., high, low] = *write_id.as_bytes();
        Target {
            partitions: topic.partitions.len(),
            max_message_bytes: options.max_message_bytes as usize,
            now_ms,
            keyed: options.compacted,
            bounds: (!options.log_append_time).then_some(bounds),
            write_id,
            sticky: usize::from(high) << 8 | usize::from(low),
            positions: terms.positions,
            ids: None,
            id_field: options
                .contract_id_field
                .clone()
                .filter(|_| options.table_mode == TableMode::Contract),
        }
    }

    async fn push(
        &self,
        (topic, ack): (Arc<Topic>, Ack),
        batches: Batches,
        kept: Vec<AppendBatch>,
        write_id: Uuid,
        claim: Claim,
    ) -> Result<Queued, Problem> {
        let Batches { batches, accepted, duplicates, errors, placed } = batches;
        let (rejected, partitions) = (errors.len(), topic.partitions.len());
        let request = Marked { write_id, accepted, rejected, partitions };
        let (mut appends, mut sent, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
        for batch in batches {
            let (index, partition) = (batch.partition, topic.partitions[batch.partition]);
            let ext = claim.ext(&request, &batch);
            indexes.push(index);
            sent.push(Sent { index, partition, ids: batch.ids });
            appends.push(AppendBatch { partition, batch: batch.bytes, ext });
        }
        // After those of the topic, whose offsets are told.
        let elsewhere = claim.ext_elsewhere(&request);
        appends.extend(kept.into_iter().map(|kept| AppendBatch { ext: elsewhere.clone(), ..kept }));
        let mut pending = None;
        if appends.is_empty() {
            claim.pass(&self.keys).await?;
        } else {
            let settle = claim.settle(request, sent);
            let (origin, is_awaited) = (Origin::Http, ack != Ack::Accepted);
            let append = Append { batches: appends, origin, settle, is_awaited };
            pending = Some(self.log.append(append).await.map_err(|error| problem(&error))?);
        }
        Ok(Queued { topic, write_id, accepted, duplicates, errors, placed, indexes, pending })
    }
}

/// Builds the batches of all events that are not refused, and what is kept of the others.
pub(super) async fn build(
    source: impl Source,
    target: Target,
    keep: Option<&Keep>,
) -> Result<(Batches, Vec<OwnedEvent>), Problem> {
    let size_bytes = source.size_bytes();
    let keep = keep.cloned();
    let build = move || {
        let mut batches = batches::build(&source, &target)?;
        batches.errors.extend_from_slice(source.refused());
        batches.errors.sort_by_key(|error| error.index);
        let events = |keep: Keep| keep.events(&source, &batches.errors);
        let kept = keep.map(events).unwrap_or_default();
        Ok((batches, kept))
    };
    off_worker(size_bytes, build).await
}

/// Runs work over a body off the async workers; small bodies are done before this returns, sooner
/// than another thread would have woken up.
pub(crate) fn off_worker<T: Send + 'static>(
    body_bytes: usize,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> impl Future<Output = Result<T, Problem>> + Send {
    let failed = |reason| Problem::new("internal", reason);
    if body_bytes <= INLINE_BYTES_MAX {
        return Either::Left(ready(work().map_err(failed)));
    }
    let worked = tokio::task::spawn_blocking(work);
    Either::Right(
        worked.map(move |worked| {
            worked.unwrap_or_else(|error| Err(error.to_string())).map_err(failed)
        }),
    )
}

/// Why the request is refused as a whole, given its refused events (at least one).
pub(crate) fn refusal(rejected: Vec<EventError>) -> Problem {
    let total = rejected.len();
    let only = |codes: &[&str]| rejected.iter().all(|error| codes.contains(&error.code));
    let code = if only(&["invalid_json"]) {
        "invalid_json"
    } else if only(&["too_large", "too_many_events"]) {
        "too_large"
    } else if only(&["invalid_partition"]) {
        "invalid_partition"
    } else {
        "invalid_events"
    };
    let first = &rejected[0];
    let detail = format!("event {}: {}; nothing was stored", first.index, first.message);
    Problem::new(code, detail).with_errors(rejected, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &'static str) -> EventError {
        EventError { index: 3, offset_bytes: 0, field: None, code, message: "m".to_owned() }
    }

    #[test]
    fn a_request_is_refused_with_the_code_that_all_its_events_share() {
        for (codes, wanted) in [
            (&["invalid_json"][..], "invalid_json"),
            (&["too_large", "too_many_events"], "too_large"),
            (&["invalid_partition"], "invalid_partition"),
            (&["invalid_json", "bad_key"], "invalid_events"),
        ] {
            let refused = refusal(codes.iter().map(|code| error(code)).collect());
            assert_eq!(refused.code(), wanted);
            assert_eq!(refused.errors().len(), codes.len());
        }
    }
}
