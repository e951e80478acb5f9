//! One task per table: owns its ledger entry and drives it from appends to commits.
//!
//! Owns: the order of steps (settle what is outstanding, gaps, commit), pauses after failures.
//! Does not own: the steps (`round`, `committer`, `upkeep`, `resume`), the cadence (`plan`).

use std::time::Duration;

use iceberg::spec::SchemaRef;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::table::catalog::LoadedTable;
use crate::table::commit::marker::Ends;
use crate::tier::Error;
use crate::tier::committer::Manifests;
use crate::tier::context::Context;
use crate::tier::context::Halt;
use crate::tier::feed::Feed;
use crate::tier::ledger::Entry;
use crate::tier::ledger::Prepared;
use crate::tier::ledger::StopState;
use crate::tier::ledger::put_entry;
use crate::tier::pending;
use crate::tier::pending::Oldest;
use crate::tier::pending::Part;
use crate::tier::pending::millis;
use crate::tier::pin;
use crate::tier::pin::Pin;
use crate::tier::pin::waiting;
use crate::tier::plan;
use crate::tier::plan::Cadence;
use crate::tier::plan::Decision;
use crate::tier::plan::Durations;
use crate::tier::plan::Waiting;
use crate::tier::resume::From;
use crate::tier::status::Cell;
use crate::topic::options::TableMode;

/// Pause of a table that stands still.
const STOPPED_PAUSE: Duration = Duration::from_secs(5);

/// Pauses after failures: doubled from the first to the second.
const FAILURE_PAUSE_MIN_MS: u64 = 200;
const FAILURE_PAUSE_MAX_MS: u64 = 30_000;

/// Between two looks for partitions that the log does not have yet.
const NEW_PARTITION_PAUSE: Duration = Duration::from_millis(100);

/// Flushes that may wait at one table.
const WAITERS_MAX: usize = 10_000;

/// What a worker works for, as it sees it.
#[derive(Clone)]
pub(super) struct View {
    pub(super) feed: Feed,
    /// The topic is deleted.
    pub(super) draining: bool,
    /// The sink is deleted.
    pub(super) removed: bool,
}

/// What a worker is asked for.
pub(super) enum Command {
    /// Answers once everything appended so far is committed.
    Flush { done: oneshot::Sender<Result<(), Error>> },
    /// Leaves a stopped state.
    Resume { from: From, allow_duplicates: bool, done: oneshot::Sender<Result<(), Error>> },
}

/// A flush that waits for these ends.
pub(super) struct Waiter {
    ends: Ends,
    done: oneshot::Sender<Result<(), Error>>,
}

/// What comes after a step.
pub(super) enum Next {
    /// The next step, at once.
    Again,
    /// The next step after this time, or when told.
    Sleep(Duration),
    /// Nothing until an append.
    Idle,
    /// Nothing until told.
    Parked,
    /// The topic is gone.
    Finished,
}

/// The owner of one table's ledger entry. Its `topic` is the topic as the table sees it.
pub(super) struct Worker {
    pub(super) context: Context,
    pub(super) topic: Feed,
    pub(super) draining: bool,
    pub(super) views: watch::Receiver<View>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) closing: CancellationToken,
    pub(super) cell: Cell,
    /// The schema whose columns the cell shows.
    pub(super) shown: Option<SchemaRef>,
    pub(super) entry: Entry,
    pub(super) prepared: Option<Prepared>,
    pub(super) table: Option<LoadedTable>,
    pub(super) manifests: Manifests,
    pub(super) durations: Durations,
    pub(super) last_commit: Option<Instant>,
    pub(super) oldest: Option<Oldest>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) failures: u32,
    pub(super) failure: Option<String>,
    /// A commit was made since the pin limit was reached.
    pub(super) tried_at_limit: bool,
    pub(super) pin: Pin,
    pub(super) since_maintenance: u64,
    /// Halved when a commit was too large for the ledger.
    pub(super) budget_shift: u32,
    /// The last round met rows that cannot be encoded.
    pub(super) careful: bool,
    /// The last commit had dead letters: the next one likely has.
    pub(super) had_dead_letters: bool,
    /// Where the partitions ended when the table was switched off.
    pub(super) off_at: Option<Ends>,
    /// It was seen switched on.
    pub(super) was_on: bool,
    /// The table is looked at even if nothing waits: somebody asked.
    pub(super) look: bool,
}

/// Ends of a worker's life that the supervisor passes in.
pub(super) struct Wiring {
    pub(super) views: watch::Receiver<View>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) closing: CancellationToken,
    pub(super) cell: Cell,
}

impl Worker {
    pub(super) fn new(context: Context, wiring: Wiring) -> Self {
        let View { feed: topic, draining, .. } = wiring.views.borrow().clone();
        let mut entry = Entry::new(topic.writer(), topic.name.as_str());
        if let Some(sink) = topic.sink() {
            entry.ends.clone_from(&sink.starts);
        }
        let pin = Pin::new(&context, topic.writer(), wiring.cell.clone());
        Self {
            context,
            topic,
            draining,
            views: wiring.views,
            commands: wiring.commands,
            closing: wiring.closing,
            cell: wiring.cell,
            entry,
            prepared: None,
            table: None,
            manifests: None,
            durations: Durations::default(),
            last_commit: None,
            oldest: None,
            waiters: Vec::new(),
            failures: 0,
            failure: None,
            pin,
            shown: None,
            tried_at_limit: false,
            off_at: None,
            was_on: false,
            look: false,
            since_maintenance: 0,
            budget_shift: 0,
            careful: false,
            had_dead_letters: false,
        }
    }

    /// Runs until the topic is gone or the program ends; then makes one last commit.
    ///
    /// Most tables do nothing most of the time. So the worker is boxed, and so is every step that does
    /// something: their state lies in memory while they run, and not as long as the worker waits.
    pub(super) async fn run(mut self: Box<Self>) {
        if !self.load().await {
            return;
        }
        // A worker before this one may have ended while producers were refused.
        self.pin.tell(&self.topic, None);
        loop {
            let next = Box::pin(self.watched_step()).await;
            self.publish();
            match next {
                Ok(Next::Finished) => return self.end_series(),
                Err(Halt::Closed) => return,
                _ if self.closing.is_cancelled() => break,
                Ok(Next::Again) => {}
                Ok(Next::Sleep(pause)) => Box::pin(self.rest(pause)).await,
                Ok(Next::Idle) => {
                    self.wait(None, true).await;
                }
                Ok(Next::Parked) => {
                    self.wait(None, false).await;
                }
                Err(Halt::Later(reason) | Halt::Poison(reason)) => {
                    let pause = self.failed(reason);
                    self.publish();
                    Box::pin(self.rest(pause)).await;
                }
                Err(Halt::Stop(state, reason)) => Box::pin(self.stopped(state, &reason)).await,
            }
            if self.closing.is_cancelled() {
                break;
            }
        }
        Box::pin(self.last_step()).await;
    }

    /// Reads the ledger. False if the program ends first.
    async fn load(&mut self) -> bool {
        loop {
            match self.context.ledger.load(self.topic.writer()) {
                Ok(Some((entry, prepared))) => {
                    (self.entry, self.prepared) = (entry, prepared);
                    return true;
                }
                Ok(None) => return true,
                Err(error) => {
                    tracing::error!(topic = %self.topic.name, %error, "ledger cannot be read");
                    self.cell.update(|status| {
                        status.topic = self.topic.name.to_string();
                        status.state = "RETRYING".to_owned();
                        status.reason = Some(error.to_string());
                    });
                }
            }
            tokio::select! {
                () = self.closing.cancelled() => return false,
                () = tokio::time::sleep(STOPPED_PAUSE) => {}
            }
        }
    }

    /// A step that is held up for as long as it takes, but not the look at the pin limit.
    async fn watched_step(&mut self) -> Result<Next, Halt> {
        let (pin, views) = (self.pin.clone(), self.views.clone());
        tokio::select! {
            next = self.step() => next,
            never = pin.watch(views) => match never {},
        }
    }

    async fn step(&mut self) -> Result<Next, Halt> {
        let View { feed, draining, removed } = self.views.borrow_and_update().clone();
        (self.topic, self.draining) = (feed, draining);
        // A deleted topic takes its sinks along at its very end.
        if removed && !draining {
            return self.remove().await;
        }
        if self.draining {
            return self.drain().await;
        }
        if self.topic.options.table_mode == TableMode::Off {
            return self.off().await;
        }
        (self.off_at, self.was_on) = (None, true);
        if self.entry.off {
            self.on_again().await?;
        }
        self.release();
        if self.entry.stop.is_some() {
            self.check_overflow().await?;
            self.refuse_waiters();
            return Ok(Next::Sleep(STOPPED_PAUSE));
        }
        if self.prepared.is_some() {
            // A dead catalog must not keep the log from its pin limit.
            self.check_overflow().await?;
            self.settle(None).await?;
            return Ok(Next::Again);
        }
        self.check_overflow().await?;
        if std::mem::take(&mut self.look) && self.entry.table.is_some() {
            self.open().await?;
        }
        let parts = self.parts();
        match self.decide(&parts) {
            Decision::Idle => Ok(Next::Idle),
            Decision::Wait(ms) => Ok(Next::Sleep(Duration::from_millis(ms.unsigned_abs()))),
            Decision::Commit(trigger) => {
                tracing::debug!(topic = %self.topic.name, ?trigger, "table commit starts");
                self.tried_at_limit = waiting(&parts) > self.pin.limit(&self.topic);
                self.commit(&parts).await?;
                Ok(Next::Again)
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part> {
        pending::parts(&self.context.log, &self.topic, &self.entry)
    }

    fn decide(&mut self, parts: &[Part]) -> Decision {
        self.answer_waiters();
        if parts.iter().all(|part| part.offsets() == 0) {
            self.oldest = None;
        } else if self.oldest.is_none() {
            self.oldest = Oldest::find(parts, self.context.clock.now_ms());
        }
        let options = &self.topic.options;
        let cadence = Cadence {
            target_lag_ms: options.table_target_lag_ms,
            flush_bytes: options.table_flush_bytes,
            flush_records: self.topic.flush_records(),
            pin_max_bytes: self.pin.limit(&self.topic),
            min_interval_ms: options.table_commit_min_interval_ms,
            jitter_permille: i64::from(self.topic.spread()) * 100 / 255,
        };
        let waiting = Waiting {
            oldest_age_ms: self.oldest.map(|oldest| oldest.age_ms()),
            bytes: waiting(parts),
            records: parts.iter().map(|part| part.offsets().unsigned_abs()).sum(),
            flush: !self.waiters.is_empty(),
            since_commit_ms: self.last_commit.map(|at| millis(at.elapsed())),
            commit_p95_ms: self.durations.p95_ms(),
        };
        plan::decide(cadence, waiting)
    }

    /// Waits for the end of `pause` or until told, and looks at the pin limit meanwhile.
    async fn rest(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !self.wait(Some(left.min(pin::LOOK_INTERVAL)), false).await {
                return;
            }
            // The next step begins with a look of its own.
            if Instant::now() >= until || self.closing.is_cancelled() {
                return;
            }
            if self.draining || self.topic.options.table_mode == TableMode::Off {
                continue;
            }
            if self.check_overflow().await.is_err() {
                // The next step meets the same trouble and tells of it.
                return;
            }
            self.publish();
        }
    }

    /// Waits for whatever comes first; true if that was the end of `pause`.
    async fn wait(&mut self, pause: Option<Duration>, wake_on_append: bool) -> bool {
        let parts = if wake_on_append { self.parts() } else { Vec::new() };
        // A new topic's partitions come to the log a moment after the topic: nobody wakes us then.
        let unheard = wake_on_append && parts.len() < self.topic.partitions.len();
        let pause = pause.or(unheard.then_some(NEW_PARTITION_PAUSE));
        let pause = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let command = tokio::select! {
            () = self.closing.cancelled() => None,
            changed = self.views.changed() => {
                if changed.is_err() {
                    self.closing.cancel();
                }
                None
            }
            command = self.commands.recv() => command,
            () = pause => return true,
            () = pending::woken(&parts), if wake_on_append => None,
        };
        match command {
            Some(Command::Flush { done }) => self.flush(done),
            Some(Command::Resume { from, allow_duplicates, done }) => {
                let result = Box::pin(self.resume(from, allow_duplicates)).await;
                self.publish();
                // The caller may have gone; the resume stands.
                let _ = done.send(result);
            }
            None => {}
        }
        false
    }

    fn flush(&mut self, done: oneshot::Sender<Result<(), Error>>) {
        if self.waiters.len() >= WAITERS_MAX {
            let _ = done.send(Err(Error::Busy));
            return;
        }
        let parts = self.parts();
        let ends = parts.iter().map(|part| (part.index, part.high_watermark)).collect();
        self.waiters.push(Waiter { ends, done });
        self.look = true;
        if self.topic.options.table_mode == TableMode::Off {
            self.refuse_waiters();
        }
    }

    /// Answers the flushes whose offsets are all committed or passed.
    pub(super) fn answer_waiters(&mut self) {
        let entry = &self.entry;
        let is_done = |ends: &Ends| {
            ends.iter().all(|(partition, end)| {
                *end == 0 || entry.released(*partition).is_some_and(|released| released >= *end)
            })
        };
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .filter(|waiter| !waiter.done.is_closed())
            .partition(|waiter| is_done(&waiter.ends));
        self.waiters = waiting;
        for waiter in done {
            let _ = waiter.done.send(Ok(()));
        }
    }

    pub(super) fn refuse_waiters(&mut self) {
        let reason = match &self.entry.stop {
            Some(stop) => format!("{}: {}", stop.state.name(), stop.reason),
            None => "the topic has no table".to_owned(),
        };
        for waiter in std::mem::take(&mut self.waiters) {
            let _ = waiter.done.send(Err(Error::Stopped(reason.clone())));
        }
    }

    /// Remembers a failure; gives the pause before the next try.
    fn failed(&mut self, reason: String) -> Duration {
        let doubled = FAILURE_PAUSE_MIN_MS << self.failures.min(10);
        let pause = Duration::from_millis(doubled.min(FAILURE_PAUSE_MAX_MS))
            .mul_f64(rand::random_range(0.5..=1.0));
        self.failures += 1;
        if self.failure.as_ref() != Some(&reason) {
            tracing::warn!(topic = %self.topic.name, reason, "table commit waits");
        }
        self.failure = Some(reason);
        pause
    }

    async fn stopped(&mut self, state: StopState, reason: &str) {
        tracing::error!(topic = %self.topic.name, state = state.name(), reason, "table stands still");
        self.entry.stop(state, reason);
        if let Err(error) = self.context.ledger.write(put_entry(&self.entry)).await {
            // It stops again after a restart, by the same look at the table.
            tracing::warn!(topic = %self.topic.name, %error, "stopped state is not recorded");
        }
        // Who waited for the commit sees why it will not come.
        self.publish();
        self.refuse_waiters();
    }

    /// The last commit before the program ends (rules 7.4); the caller bounds its time.
    async fn last_step(&mut self) {
        // A program that ends without goodbye leaves it to the next start.
        let can_commit = !self.context.tasks.stop_token().is_cancelled()
            && self.entry.stop.is_none()
            && !self.entry.off
            && !self.draining
            && !self.views.borrow().removed
            && self.topic.options.table_mode != TableMode::Off;
        if !can_commit {
            return;
        }
        if self.prepared.is_some()
            && let Err(halt) = self.settle(None).await
        {
            tracing::info!(topic = %self.topic.name, ?halt, "last table commit is left to the next start");
            return;
        }
        let parts = self.parts();
        if parts.iter().any(|part| part.offsets() > 0)
            && let Err(halt) = self.commit(&parts).await
        {
            tracing::info!(topic = %self.topic.name, ?halt, "last table commit is left to the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the future that `call` gives.
    fn future_bytes<A, F: Future>(_call: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_table_takes_little_memory() {
        let future = future_bytes(Worker::run);
        assert!(future <= 1_024, "the worker's future takes {future} bytes while it waits");
        let worker = size_of::<Worker>();
        assert!(worker <= 2_048, "the worker takes {worker} bytes");
    }
}
