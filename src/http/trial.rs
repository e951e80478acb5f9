//! Rows that sinks with `validate = sync` would have of a request, tried before it is stored: all
//! columns, templates included.
//!
//! Nothing interrupts a template, so each runs on a thread of its own (`sink::mapping`) and somebody
//! waits for it on a blocking one. How many do at once is bounded: who gets no turn in time is told
//! to come back. Interpreters are kept warm, for making one takes longer than most events do.
//!
//! Owns: turns, warm interpreters, how long all records of a request may take. Does not own: how a
//! refusal is told (the routes), what a template may do (`sink::mapping`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use crate::http::ingest::event::{Event, Header, Source};
use crate::http::problem::{EventError, Problem};
use crate::http::sources;
use crate::sink::Sink;
use crate::sink::mapping::{self, FieldError, FieldErrorKind, Mapper, Mapping};
use crate::types::TopicId;

/// Requests whose templates run at once, on a machine of any size.
const TURNS: std::ops::RangeInclusive<usize> = 4..=8;
/// How long a request waits for its turn: its body is held meanwhile, and all requests have so much
/// memory together.
const WAIT: Duration = Duration::from_secs(2);
/// Mappings whose interpreters are kept.
const WARM_MAX: usize = 16;
/// Records that are mapped together, and about their bytes: they are held besides the body.
const CHUNK_RECORDS: usize = 64;
/// See [`CHUNK_RECORDS`].
const CHUNK_BYTES: usize = 1 << 20;
/// When to come back where no turn came, seconds.
const BACK_IN_S: u64 = 2;

/// Turns and warm interpreters of all requests; cheap to clone.
#[derive(Clone)]
pub(super) struct Trials {
    turns: Arc<Semaphore>,
    /// Most of them that the requests of one topic have.
    share: usize,
    /// What is left of that, of the topics whose requests have a turn or wait for one.
    topics: Arc<Mutex<HashMap<TopicId, Arc<Semaphore>>>>,
    warm: Arc<Mutex<Vec<(Arc<Mapping>, Mapper)>>>,
}

/// The right to run templates, until it is dropped.
pub(super) struct Turn {
    _of_topic: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// What becomes of a request that has a record without a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refuse {
    /// All of it is refused: the rest need not be looked at.
    Request,
    /// The others are stored.
    Record,
}

/// What is tried.
pub(super) struct Trial {
    /// Those whose templates are run.
    pub(super) sinks: Vec<Arc<Sink>>,
    /// Of each record.
    pub(super) headers: Vec<Header>,
    /// Milliseconds from 1970 on.
    pub(super) received_ms: i64,
    /// When it must be over.
    pub(super) until: Instant,
    pub(super) refuse: Refuse,
}

/// A record that a sink has no row of.
#[derive(Debug)]
pub(super) struct NoRow {
    pub(super) sink: Arc<Sink>,
    /// Which record of the request.
    pub(super) index: usize,
    /// Where it starts in the decoded body, bytes.
    pub(super) offset_bytes: usize,
    pub(super) error: FieldError,
}

impl NoRow {
    /// It as answers tell it.
    pub(super) fn told(&self) -> EventError {
        event_error((self.index, self.offset_bytes), &self.sink, &self.error)
    }
}

/// Why a sink has no row of a record, which is the `index`th and begins at `offset_bytes`.
pub(super) fn event_error(
    (index, offset_bytes): (usize, usize),
    sink: &Sink,
    error: &FieldError,
) -> EventError {
    let bad = error.bad_record();
    let (field, code) = (Some(bad.field_path), bad.code.as_str());
    let message = format!("sink {}: {error}", sink.id);
    EventError { index, offset_bytes, field, code, message }
}

impl Trials {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_turns(cores.clamp(*TURNS.start(), *TURNS.end()))
    }

    fn with_turns(turns: usize) -> Self {
        let (share, turns) = ((turns / 2).max(1), Arc::new(Semaphore::new(turns)));
        Self { turns, share, topics: Arc::default(), warm: Arc::default() }
    }

    /// Waits for a turn for a sink of that topic, at most `until` and not for long.
    ///
    /// # Errors
    /// `overloaded`.
    pub(super) async fn turn(&self, topic: TopicId, until: Instant) -> Result<Turn, Problem> {
        let of_topic = {
            let mut topics = self.topics.lock();
            topics.retain(|_, turns| Arc::strong_count(turns) > 1);
            let own = || Arc::new(Semaphore::new(self.share));
            Arc::clone(topics.entry(topic).or_insert_with(own))
        };
        let of_all = Arc::clone(&self.turns);
        // That of the topic first: who waits for it takes nothing from others.
        let both = async {
            let (_of_topic, _of_all) =
                (of_topic.acquire_owned().await.ok()?, of_all.acquire_owned().await.ok()?);
            Some(Turn { _of_topic, _of_all })
        };
        let turn = tokio::time::timeout_at(until.min(Instant::now() + WAIT), both).await;
        let late = || late("no thread for the templates of its sinks was free in time");
        turn.ok().flatten().ok_or_else(late)
    }

    /// Tries the rows of the records that `source` does not refuse itself; which have none, in order
    /// of index for [`Refuse::Record`].
    ///
    /// # Errors
    /// `overloaded` where no turn came, or not all was done in time: nothing is stored then.
    pub(super) async fn of<S: Source>(
        &self,
        source: S,
        trial: Trial,
    ) -> Result<(S, Vec<NoRow>), Problem> {
        let Some(topic) = trial.sinks.first().map(|sink| sink.topic_id) else {
            return Ok((source, Vec::new()));
        };
        let until = trial.until;
        let turn = self.turn(topic, until).await?;
        let trials = self.clone();
        let tried = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let found = trials.run(&source, &trial);
            found.map(|found| (source, found))
        });
        match tokio::time::timeout_at(until, tried).await {
            Ok(Ok(tried)) => tried,
            Ok(Err(_)) => Err(Problem::new("internal", "mapping the request failed")),
            Err(_) => Err(late("its templates did not get through in time")),
        }
    }

    fn run<S: Source>(&self, source: &S, trial: &Trial) -> Result<Vec<NoRow>, Problem> {
        let mut mappers: Vec<Mapper> =
            trial.sinks.iter().map(|sink| self.take(&sink.mapping)).collect();
        for mapper in &mut mappers {
            mapper.until(trial.until);
        }
        let mut walk = Walk { trial, mappers, chunk: Vec::new(), bytes: 0, found: Vec::new() };
        let mut walked = Ok(());
        source.visit(&mut |event| {
            if let (Ok(()), Ok(event)) = (&walked, event) {
                walked = walk.take(&event);
            }
        });
        walked.and_then(|()| walk.end_chunk())?;
        let Walk { mut found, mappers, .. } = walk;
        // Only those that got through: others may hold results of events that are no more.
        for (sink, mapper) in trial.sinks.iter().zip(mappers) {
            self.give(&sink.mapping, mapper);
        }
        found.sort_by_key(|no_row| no_row.index);
        Ok(found)
    }

    fn take(&self, mapping: &Arc<Mapping>) -> Mapper {
        let mut warm = self.warm.lock();
        match warm.iter().rposition(|(of, _)| Arc::ptr_eq(of, mapping)) {
            Some(place) => warm.remove(place).1,
            None => mapping.compile(),
        }
    }

    /// Keeps an interpreter, in the place of the one that was not used for longest.
    fn give(&self, mapping: &Arc<Mapping>, mapper: Mapper) {
        let mut warm = self.warm.lock();
        if warm.len() >= WARM_MAX {
            warm.remove(0);
        }
        warm.push((Arc::clone(mapping), mapper));
    }
}

fn late(what: &str) -> Problem {
    Problem::new("overloaded", format!("{what}; nothing was stored")).retry_after(BACK_IN_S)
}

/// A record that is looked at: its bytes are there only as long as its visit lasts.
struct Held {
    index: usize,
    offset_bytes: usize,
    body: Vec<u8>,
}

/// The walk over the records of a request.
struct Walk<'t> {
    trial: &'t Trial,
    mappers: Vec<Mapper>,
    chunk: Vec<Held>,
    bytes: usize,
    found: Vec<NoRow>,
}

impl Walk<'_> {
    fn take(&mut self, event: &Event<'_>) -> Result<(), Problem> {
        if self.trial.refuse == Refuse::Request && !self.found.is_empty() {
            return Ok(());
        }
        let (index, offset_bytes) = (event.index, event.offset_bytes);
        let body = event.value.unwrap_or_default().to_vec();
        self.bytes += body.len();
        self.chunk.push(Held { index, offset_bytes, body });
        if self.chunk.len() >= CHUNK_RECORDS || self.bytes >= CHUNK_BYTES {
            self.end_chunk()?;
        }
        Ok(())
    }

    /// Maps what is held. If the request is refused, each sink tells of it; one is enough for a
    /// record that is refused by itself.
    fn end_chunk(&mut self) -> Result<(), Problem> {
        self.bytes = 0;
        let chunk = std::mem::take(&mut self.chunk);
        let mut refused = vec![false; chunk.len()];
        let Trial { sinks, headers, received_ms, refuse, .. } = self.trial;
        let (seen, ip) = (sources::seen(headers), sources::ip(headers));
        for (sink, mapper) in sinks.iter().zip(&mut self.mappers) {
            let left = chunk.iter().enumerate().filter(|(place, _)| !refused[*place]);
            let left: Vec<(usize, mapping::Event<'_>)> = left
                .map(|(place, held)| {
                    let id = Uuid::from_u128(held.index as u128);
                    let (received_ms, headers, body) = (*received_ms, &seen[..], &held.body[..]);
                    (place, mapping::Event { id, received_ms, ip, headers, body })
                })
                .collect();
            let events: Vec<mapping::Event<'_>> = left.iter().map(|(_, event)| *event).collect();
            mapper.prepare(&events);
            for (place, event) in &left {
                let Err(error) = mapper.try_row(event) else { continue };
                if error.kind == FieldErrorKind::NotRun {
                    return Err(self.not_run(sink, &error));
                }
                refused[*place] = *refuse == Refuse::Record;
                let Held { index, offset_bytes, .. } = chunk[*place];
                let sink = Arc::clone(sink);
                self.found.push(NoRow { sink, index, offset_bytes, error });
            }
        }
        Ok(())
    }

    /// Fewer events help only where the time was too short for all.
    fn not_run(&self, sink: &Sink, error: &FieldError) -> Problem {
        let is_over = Instant::now() >= self.trial.until;
        let advice = if is_over { " (send fewer events at once)" } else { "" };
        late(&format!("sink {}: {error}{advice}", sink.id))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use crate::runtime::Tasks;
    use crate::sink::{Asked, Sinks};
    use crate::store::history::Edit;
    use crate::store::testing::Rig;
    use crate::types::Expected;

    use super::*;

    struct Bodies(Vec<&'static str>);

    impl Source for Bodies {
        fn size_bytes(&self) -> usize {
            self.0.iter().map(|body| body.len()).sum()
        }

        fn raw(&self, error: &EventError) -> &[u8] {
            self.0[error.index].as_bytes()
        }

        fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
            for (index, body) in self.0.iter().enumerate() {
                take(Ok(Event { index, value: Some(body.as_bytes()), ..Event::default() }));
            }
        }
    }

    /// Sinks with these templates, by their places.
    async fn sinks(templates: &[&str]) -> Vec<Arc<Sink>> {
        let rig = Rig::new();
        let sinks = Sinks::open(rig.store(), rig.clock.clone(), Tasks::for_tests()).unwrap();
        for (place, content) in templates.iter().enumerate() {
            let template = json!({"language": "jsonnet", "content": content});
            let column = json!({"type": "template", "name": "t", "template": template});
            let (id, mapping) = (format!("s{place}"), json!({ "columns": [column] }));
            let wish = json!({"table": {"name": id}, "mapping": mapping, "validate": "sync"});
            let wish = serde_json::from_value(wish).unwrap();
            let asked = Asked {
                wish,
                ends: BTreeMap::new(),
                starts: BTreeMap::new(),
                edit: Edit::by("ann"),
            };
            sinks.put((TopicId(Uuid::nil()), &id), asked, Expected::Any, false).await.unwrap();
        }
        sinks.of_topic(TopicId(Uuid::nil()))
    }

    fn trial(sinks: &[Arc<Sink>], refuse: Refuse) -> Trial {
        let (sinks, headers) = (sinks.to_vec(), Vec::new());
        assert!(sinks.iter().all(|sink| sink.runs_templates_first()));
        let until = Instant::now() + Duration::from_secs(20);
        Trial { sinks, headers, received_ms: 0, until, refuse }
    }

    /// Sinks and records without a row.
    fn places(found: &[NoRow]) -> Vec<(&str, usize)> {
        found.iter().map(|no_row| (no_row.sink.id.as_str(), no_row.index)).collect()
    }

    #[tokio::test]
    async fn every_sink_tells_of_a_request_and_the_first_of_each_record() {
        let sinks = sinks(&["Body('a') + 1", "Body('a') + Body('b')"]).await;
        let trials = Trials::with_turns(1);
        let bodies = || Bodies(vec!["{\"a\":1,\"b\":1}", "{\"a\":1}", "{}", "{\"b\":1}"]);
        let (_, found) = trials.of(bodies(), trial(&sinks, Refuse::Record)).await.unwrap();
        assert_eq!(places(&found), [("s1", 1), ("s0", 2), ("s0", 3)]);
        assert_eq!(found[0].told().code, "TEMPLATE");
        let (_, found) = trials.of(bodies(), trial(&sinks, Refuse::Request)).await.unwrap();
        assert_eq!(places(&found), [("s1", 1), ("s0", 2), ("s1", 2), ("s0", 3), ("s1", 3)]);
        // The same interpreters go on; a request that is refused is not looked at to its end.
        assert_eq!(trials.warm.lock().len(), 2);
        let many = || Bodies(std::iter::repeat_n("{}", 1_000).collect());
        let (_, found) = trials.of(many(), trial(&sinks[..1], Refuse::Request)).await.unwrap();
        assert_eq!(found.len(), CHUNK_RECORDS);
        let (_, found) = trials.of(many(), trial(&sinks[..1], Refuse::Record)).await.unwrap();
        assert_eq!(found.len(), 1_000);
        assert_eq!(trials.warm.lock().len(), 2);
    }

    #[tokio::test]
    async fn interpreters_that_are_kept_are_bounded() {
        let templates: Vec<String> = (0..20).map(|n| format!("Body('a') + {n}")).collect();
        let templates: Vec<&str> = templates.iter().map(String::as_str).collect();
        let sinks = sinks(&templates).await;
        let trials = Trials::with_turns(2);
        for _ in 0..2 {
            let bodies = Bodies(vec!["{\"a\":1}"]);
            let (_, found) = trials.of(bodies, trial(&sinks, Refuse::Request)).await.unwrap();
            assert!(found.is_empty());
            assert_eq!(trials.warm.lock().len(), WARM_MAX);
        }
    }

    #[tokio::test]
    async fn who_gets_no_turn_in_time_is_told_to_come_back() {
        let sinks = sinks(&["Body('a') + 1"]).await;
        let trials = Trials::with_turns(1);
        let other = TopicId(Uuid::from_u128(1));
        let turn = trials.turn(other, trial(&sinks, Refuse::Request).until).await.unwrap();
        let until = Instant::now() + Duration::from_millis(50);
        let waiting = Trial { until, ..trial(&sinks, Refuse::Request) };
        let asked = trials.of(Bodies(vec!["{}"]), waiting).await;
        let refused = asked.err().unwrap();
        assert_eq!((refused.code(), refused.retry_after_s()), ("overloaded", Some(BACK_IN_S)));
        assert!(refused.detail().contains("no thread") && Instant::now() >= until);
        // Without templates nobody waits for a turn.
        let none = trials.of(Bodies(vec!["{}"]), trial(&[], Refuse::Request)).await;
        assert!(none.unwrap().1.is_empty());
        drop(turn);
    }

    #[tokio::test]
    async fn nobody_waits_long_for_a_turn_and_no_topic_has_them_all() {
        let trials = Trials::with_turns(4);
        let [busy, other, third] = [1, 2, 3].map(|id| TopicId(Uuid::from_u128(id)));
        let until = Instant::now() + Duration::from_secs(20);
        let held = [trials.turn(busy, until).await, trials.turn(busy, until).await];
        assert!(held.iter().all(Result::is_ok));
        let began = Instant::now();
        let refused = trials.turn(busy, until).await.err().unwrap();
        assert_eq!(refused.code(), "overloaded");
        assert!((WAIT..Duration::from_secs(15)).contains(&began.elapsed()));
        let others = [trials.turn(other, until).await, trials.turn(other, until).await];
        assert!(others.iter().all(Result::is_ok));
        let soon = Instant::now() + Duration::from_millis(50);
        assert!(trials.turn(third, soon).await.is_err(), "there are no more");
        drop(held);
        assert!(trials.turn(busy, until).await.is_ok());
        drop(others);
        drop(trials.turn(third, until).await);
        assert_eq!(trials.topics.lock().len(), 1, "topics without requests are forgotten");
    }

    #[tokio::test]
    async fn fewer_events_are_advised_only_where_time_ran_out() {
        let sinks = sinks(&["Body('a') + 1"]).await;
        let (column, reason) = ("t".to_owned(), "it was not run".to_owned());
        let error = FieldError { column, kind: FieldErrorKind::NotRun, reason };
        let told = |until| {
            let trial = Trial { until, ..trial(&sinks, Refuse::Request) };
            let (mappers, chunk) = (Vec::new(), Vec::new());
            let walk = Walk { trial: &trial, mappers, chunk, bytes: 0, found: Vec::new() };
            walk.not_run(&sinks[0], &error).detail().to_owned()
        };
        assert!(told(Instant::now()).contains("it was not run (send fewer events"));
        assert!(!told(Instant::now() + WAIT).contains("fewer"));
    }

    #[tokio::test]
    async fn what_does_not_get_through_in_time_is_refused_whole() {
        let sinks = sinks(&["Body('a') + 1"]).await;
        let trials = Trials::with_turns(1);
        let over = Trial { until: Instant::now(), ..trial(&sinks, Refuse::Record) };
        // The turn itself is there: only the time is not.
        let found = trials.run(&Bodies(vec!["{\"a\":1}"]), &over);
        let refused = found.unwrap_err();
        assert_eq!(refused.code(), "overloaded");
        assert!(refused.detail().contains("send fewer events"), "{}", refused.detail());
        assert!(trials.warm.lock().is_empty(), "what was cut off is not used again");
    }
}
