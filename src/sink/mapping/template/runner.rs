//! The threads that templates run on.
//!
//! A template can loop for ever, and nothing can stop the interpreter. So it has a thread of its
//! own, which is left to itself if it does not answer in time: the event then has no row, and
//! another thread goes on with the next one. How many may be left like that is bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use parking_lot::Mutex;
use rsjsonnet_lang::arena::Arena;
use tokio::time::Instant;
use uuid::Uuid;

use crate::sink::mapping::Event;
use crate::sink::mapping::Header;
use crate::sink::mapping::template::NoResult;
use crate::sink::mapping::template::Outcome;
use crate::sink::mapping::template::Source;
use crate::sink::mapping::template::engine::Engine;

/// How long all templates of a sink may take for one event. Far more than they need: the time that
/// a busy machine does not give the thread counts too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Threads of commits that may be left to themselves; above it templates have no results there.
static COMMITS: Left = Left::at_most(4);

/// Those of requests, which have less time ([`Runner::until`]): they take nothing from commits.
static REQUESTS: Left = Left::at_most(8);

/// Events that are handed over at once.
const BATCH_EVENTS_MAX: usize = 64;

/// Bytes of events that are handed over at once.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Stack of a thread: the parser recurses, at most some thousand times for a template of the
/// greatest length. Memory is taken only as it is used.
const STACK_BYTES: usize = 64 << 20;

/// Why what comes too late is not run.
const NO_TIME: &str = "there was no time left for the template";

/// Why no more threads are left to themselves.
const OFF: &str =
    "templates are off: several have not ended; they run again once those end, or Floe restarts";

/// Threads that were left to themselves and have not ended.
#[derive(Debug)]
struct Left {
    count: AtomicUsize,
    max: usize,
    /// The texts of the templates of those threads, and of others before.
    whose: Mutex<Vec<Arc<str>>>,
}

/// Most texts that are kept; beyond it they are forgotten.
const WHOSE_MAX: usize = 64;

impl Left {
    const fn at_most(max: usize) -> Self {
        Self { count: AtomicUsize::new(0), max, whose: Mutex::new(Vec::new()) }
    }

    fn is_full(&self) -> bool {
        self.count.load(Ordering::SeqCst) >= self.max
    }

    /// Takes note of templates that did not end.
    fn note(&self, sources: &[Source]) {
        let mut whose = self.whose.lock();
        for source in sources {
            if whose.len() >= WHOSE_MAX {
                whose.clear();
            }
            if !whose.contains(&source.content) {
                whose.push(Arc::clone(&source.content));
            }
        }
    }

    /// True if one of these templates did not end before.
    fn is_fault_of(&self, sources: &[Source]) -> bool {
        let whose = self.whose.lock();
        sources.iter().any(|source| whose.contains(&source.content))
    }
}

/// An event that a thread may keep.
struct Owned {
    id: Uuid,
    received_ms: i64,
    ip: Option<String>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    body: Vec<u8>,
}

impl Owned {
    fn new(event: &Event<'_>) -> Self {
        let header = |(name, value): &Header<'_>| (name.to_vec(), value.map(<[u8]>::to_vec));
        Self {
            id: event.id,
            received_ms: event.received_ms,
            ip: event.ip.map(str::to_owned),
            headers: event.headers.iter().map(header).collect(),
            body: event.body.to_vec(),
        }
    }

    fn run(&self, engine: &mut Engine<'_>) -> Vec<Outcome> {
        let headers: Vec<Header<'_>> =
            self.headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect();
        engine.run(&Event {
            id: self.id,
            received_ms: self.received_ms,
            ip: self.ip.as_deref(),
            headers: &headers,
            body: &self.body,
        })
    }
}

/// A thread with an interpreter.
#[derive(Debug)]
struct Worker {
    tasks: SyncSender<Vec<Arc<Owned>>>,
    /// One for each event of a batch, in order.
    answers: Receiver<Vec<Outcome>>,
    fate: Arc<Fate>,
}

/// Whether a thread that was left has ended: both sides say what they know, the second one counts.
#[derive(Debug)]
struct Fate {
    state: AtomicUsize,
    /// Where it counts.
    left: &'static Left,
}

impl Fate {
    const LEFT: usize = 1;
    const ENDED: usize = 2;

    /// Nobody waits for the thread any more.
    fn leave(&self) {
        self.left.count.fetch_add(1, Ordering::SeqCst);
        if self.state.swap(Self::LEFT, Ordering::SeqCst) == Self::ENDED {
            self.left.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Ends with the thread, also by a panic.
struct Life(Arc<Fate>);

impl Drop for Life {
    fn drop(&mut self) {
        let fate = &self.0;
        if fate.state.swap(Fate::ENDED, Ordering::SeqCst) == Fate::LEFT {
            fate.left.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Runs templates.
#[derive(Debug)]
pub(in crate::sink::mapping) struct Runner {
    sources: Arc<[Source]>,
    worker: Option<Worker>,
    patience: Duration,
    /// When it gives up whatever is not done.
    until: Option<Instant>,
    /// Where the threads count that it leaves.
    left: &'static Left,
    /// Results of events to come, by their ids.
    ready: VecDeque<(Uuid, Vec<Outcome>)>,
}

impl Runner {
    /// It starts no thread before it needs one.
    pub(in crate::sink::mapping) fn new(sources: Vec<Source>) -> Self {
        let (patience, ready) = (PATIENCE, VecDeque::new());
        Self { sources: sources.into(), worker: None, patience, until: None, left: &COMMITS, ready }
    }

    /// Gives up at that moment: what is not done by then was not run. For requests: the threads
    /// that are left for it are none of those of commits.
    pub(in crate::sink::mapping) fn until(&mut self, at: Instant) {
        self.until = Some(at);
        self.left = &REQUESTS;
    }

    /// True if one of the templates is why others are not run: it did not end before, and may have
    /// been left to itself.
    pub(in crate::sink::mapping) fn is_at_fault(&self) -> bool {
        self.left.is_fault_of(&self.sources)
    }

    /// True if there is no template to run.
    pub(in crate::sink::mapping) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// What is wrong with templates, in order.
    pub(in crate::sink::mapping) fn check(sources: &[Source]) -> Vec<Option<String>> {
        if sources.is_empty() {
            return Vec::new();
        }
        let (owned, count) = (sources.to_vec(), sources.len());
        let (send, receive) = sync_channel(1);
        let started = start(move || {
            let arena = Arena::new();
            let mut engine = Engine::new(&arena);
            let found: Vec<_> = owned.iter().map(|source| engine.add(source).err()).collect();
            // If nobody waits for it any more, it is of no use.
            drop(send.send(found));
        });
        let found = started.and_then(|()| {
            receive.recv_timeout(PATIENCE).map_err(|_| "it cannot be read".to_owned())
        });
        found.unwrap_or_else(|reason| vec![Some(reason); count])
    }

    /// Finds the results for events that [`Self::take`] will ask for soon, in this order.
    pub(in crate::sink::mapping) fn prepare(&mut self, events: &[Event<'_>]) {
        self.ready.clear();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for event in events {
            batch.push(Arc::new(Owned::new(event)));
            bytes += event.body.len();
            if batch.len() >= BATCH_EVENTS_MAX || bytes >= BATCH_BYTES_MAX {
                self.run(&std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        self.run(&batch);
    }

    /// The results for an event, prepared or not.
    pub(in crate::sink::mapping) fn take(&mut self, event: &Event<'_>) -> Vec<Outcome> {
        if self.ready.front().is_none_or(|(id, _)| *id != event.id) {
            self.prepare(std::slice::from_ref(event));
        }
        self.ready.pop_front().map(|(_, outcomes)| outcomes).unwrap_or_default()
    }

    fn run(&mut self, batch: &[Arc<Owned>]) {
        let mut rest = batch;
        while !rest.is_empty() {
            let worker = match self.hand_over(rest) {
                Ok(worker) => worker,
                Err(reason) => return self.not_run(rest, reason),
            };
            let mut done = Vec::with_capacity(rest.len());
            let failed = loop {
                if done.len() == rest.len() {
                    break None;
                }
                let time = self.time_left();
                match worker.answers.recv_timeout(self.patience.min(time)) {
                    Ok(outcomes) => done.push(outcomes),
                    Err(RecvTimeoutError::Timeout) => {
                        worker.fate.leave();
                        self.left.note(&self.sources);
                        break Some(match time < self.patience {
                            true => NoResult::NotRun(NO_TIME),
                            false => "the template did not end in time".to_owned().into(),
                        });
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        let reason = "the template failed by a defect of its interpreter";
                        break Some(reason.to_owned().into());
                    }
                }
            };
            let (answered, unanswered) = rest.split_at(done.len());
            self.ready.extend(answered.iter().map(|event| event.id).zip(done));
            rest = unanswered;
            match (failed, unanswered) {
                (Some(reason), [event, after @ ..]) => {
                    self.fail(event, &reason);
                    rest = after;
                }
                _ => self.worker = Some(worker),
            }
        }
    }

    /// The time until it gives up.
    fn time_left(&self) -> Duration {
        self.until.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Gives a batch to a thread, which then is the caller's.
    fn hand_over(&mut self, batch: &[Arc<Owned>]) -> Result<Worker, &'static str> {
        if self.time_left().is_zero() {
            return Err(NO_TIME);
        }
        if let Some(worker) = self.worker.take()
            && worker.tasks.send(batch.to_vec()).is_ok()
        {
            return Ok(worker);
        }
        if self.left.is_full() {
            return Err(OFF);
        }
        let (tasks, taken) = sync_channel(1);
        let (give, answers) = sync_channel(BATCH_EVENTS_MAX);
        let fate = Arc::new(Fate { state: AtomicUsize::new(0), left: self.left });
        let (sources, life) = (Arc::clone(&self.sources), Life(Arc::clone(&fate)));
        let started = start(move || {
            let _life = life;
            serve(&sources, &taken, &give);
        });
        let sent = started.is_ok() && tasks.send(batch.to_vec()).is_ok();
        sent.then_some(Worker { tasks, answers, fate }).ok_or("no thread could be started for it")
    }

    fn not_run(&mut self, events: &[Arc<Owned>], reason: &'static str) {
        for event in events {
            self.fail(event, &NoResult::NotRun(reason));
        }
    }

    fn fail(&mut self, event: &Owned, reason: &NoResult) {
        let outcomes = self.sources.iter().map(|_| Err(reason.clone())).collect();
        self.ready.push_back((event.id, outcomes));
    }
}

/// Starts a thread that nobody joins: it may never end.
fn start(work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().name("floe-template".to_owned());
    let started = thread.stack_size(STACK_BYTES).spawn(work);
    started.map(drop).map_err(|error| format!("no thread could be started for it: {error}"))
}

/// Takes batches until nobody gives them, with a new interpreter whenever one is worn out.
fn serve(sources: &[Source], taken: &Receiver<Vec<Arc<Owned>>>, give: &SyncSender<Vec<Outcome>>) {
    loop {
        let arena = Arena::new();
        let mut engine = Engine::new(&arena);
        for source in sources {
            // What is no template says so for each event.
            drop(engine.add(source));
        }
        while !engine.is_worn_out() {
            let Ok(batch) = taken.recv() else { return };
            for event in batch {
                if give.send(event.run(&mut engine)).is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(content: &str, patience: Duration) -> Runner {
        let source = Source { content: content.into(), raw: true };
        assert_eq!(Runner::check(std::slice::from_ref(&source)), [None]);
        Runner { patience, ..Runner::new(vec![source]) }
    }

    fn event<'a>(number: u128, body: &'a [u8]) -> Event<'a> {
        Event { id: Uuid::from_u128(number), received_ms: 0, ip: None, headers: &[], body }
    }

    /// Some seconds for the body 1, next to nothing for others, and little memory.
    const SLOW: &str = "local text = std.repeat('x', 999999);
        if Body('') == 1
        then std.foldl(function(sum, n) sum + std.length(std.sha512(text)), std.range(1, 2000), 0)
        else 'quick'";

    #[test]
    fn an_event_that_takes_too_long_has_no_result_and_the_others_do() {
        let mut runner = runner(SLOW, Duration::from_secs(1));
        let bodies = [b"0", b"1", b"2"];
        let events: Vec<Event<'_>> =
            (0..).zip(bodies).map(|(number, body)| event(number, body)).collect();
        runner.prepare(&events);
        let outcomes: Vec<Vec<Outcome>> = events.iter().map(|event| runner.take(event)).collect();
        let late = Err("the template did not end in time".to_owned().into());
        assert_eq!(outcomes, [[Ok("quick".to_owned())], [late], [Ok("quick".to_owned())]]);
        drop(runner);
        // The thread that was left ends some time later and does not count any more.
        for _ in 0..12_000 {
            if COMMITS.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the thread still counts");
    }

    #[test]
    fn what_is_not_done_at_the_end_of_the_time_was_not_run() {
        let mut runner = runner(SLOW, PATIENCE);
        let bodies = [b"0", b"1", b"2"];
        let events: Vec<Event<'_>> =
            (0..).zip(bodies).map(|(number, body)| event(number, body)).collect();
        runner.until(Instant::now() + Duration::from_secs(1));
        runner.prepare(&events);
        let outcomes: Vec<Vec<Outcome>> = events.iter().map(|event| runner.take(event)).collect();
        let not_run = || [Err(NoResult::NotRun(NO_TIME))];
        assert_eq!(outcomes[1..], [not_run(), not_run()]);
        assert_eq!(outcomes[0], [Ok("quick".to_owned())]);
        // It goes on with what comes later and has time.
        runner.until(Instant::now() + PATIENCE);
        assert_eq!(runner.take(&events[2]), [Ok("quick".to_owned())]);
    }

    #[test]
    fn threads_that_requests_leave_are_none_of_those_of_commits() {
        let requests: &'static Left = Box::leak(Box::new(Left::at_most(1)));
        let commits: &'static Left = Box::leak(Box::new(Left::at_most(1)));
        let of = |left, time: Option<Duration>| {
            let mut runner = runner(SLOW, PATIENCE);
            assert!(std::ptr::eq(runner.left, &COMMITS));
            if let Some(time) = time {
                runner.until(Instant::now() + time);
                assert!(std::ptr::eq(runner.left, &REQUESTS));
            }
            Runner { left, ..runner }
        };
        let cut_off = of(requests, Some(Duration::from_millis(100))).take(&event(0, b"1"));
        assert_eq!(cut_off, [Err(NoResult::NotRun(NO_TIME))]);
        assert!(requests.is_full() && commits.count.load(Ordering::SeqCst) == 0);
        // As long as the thread goes on no request gets another, and a commit does.
        let refused = of(requests, Some(PATIENCE)).take(&event(0, b"0"));
        assert_eq!(refused, [Err(NoResult::NotRun(OFF))]);
        assert_eq!(of(commits, None).take(&event(0, b"0")), [Ok("quick".to_owned())]);
    }

    #[test]
    fn who_left_threads_is_at_fault_and_others_are_not() {
        let left: &'static Left = Box::leak(Box::new(Left::at_most(1)));
        let of = |text| Runner { left, ..runner(text, Duration::from_millis(100)) };
        assert!(!of(SLOW).is_at_fault());
        assert!(of(SLOW).take(&event(0, b"1"))[0].is_err());
        let mut other = of("'quick'");
        assert_eq!(other.take(&event(0, b"0")), [Err(NoResult::NotRun(OFF))]);
        assert!(of(SLOW).is_at_fault() && !other.is_at_fault());
    }

    #[test]
    fn results_go_to_their_own_events() {
        let mut runner = runner("Body('', 'none') + ''", PATIENCE);
        let bodies: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        let events: Vec<Event<'_>> =
            (0..).zip(&bodies).map(|(number, body)| event(number, body.as_bytes())).collect();
        runner.prepare(&events);
        for (event, body) in events.iter().zip(&bodies) {
            assert_eq!(runner.take(event), [Ok(body.clone())]);
        }
        // One that was not prepared is run by itself, whatever was.
        runner.prepare(&events[..2]);
        assert_eq!(runner.take(&events[7]), [Ok("7".to_owned())]);
        assert_eq!(runner.take(&events[0]), [Ok("0".to_owned())]);
    }

    #[test]
    fn a_worn_out_interpreter_is_replaced() {
        let mut runner = runner("Body('n')", PATIENCE);
        let bodies: Vec<String> = (0..10_100).map(|number| format!("{{\"n\":{number}}}")).collect();
        let events: Vec<Event<'_>> =
            (0..).zip(&bodies).map(|(number, body)| event(number, body.as_bytes())).collect();
        runner.prepare(&events);
        for (number, event) in events.iter().enumerate() {
            assert_eq!(runner.take(event), [Ok(number.to_string())]);
        }
    }
}
