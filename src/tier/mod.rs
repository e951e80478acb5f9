//! STREAM TO TABLE: what is in the log becomes rows of a table, exactly once (rules 4 to 6).
//!
//! Reading order: [`plan`] (when), [`ledger`] and [`state`] (what is durably known), `round` and
//! `encode` (records to data files), `committer` (data files to a snapshot, by
//! [`crate::table::commit`]), `worker` (one task per table), `supervisor` (one worker per table: a topic's own,
//! and each sink's), `hold` (what all tables of a topic hold back of its log).
//!
//! Owns: the state space `Ledger`, rows, the tiered offset. Does not own: the log, what a
//! snapshot is, shapes of values.

mod ahead;
mod apart;
mod committer;
mod context;
mod encode;
mod evolve;
mod feed;
mod files;
mod hold;
mod keyed;
pub mod ledger;
mod lifecycle;
pub mod naming;
mod pending;
mod pin;
pub mod plan;
mod poison;
mod principal;
mod restore;
mod resume;
mod round;
pub mod rows;
mod shapes;
mod sinks;
pub mod state;
mod status;
mod supervisor;
mod upkeep;
mod work;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::log::Log;
use crate::runtime::clock::Clock;
use crate::runtime::fail_points::FailPoints;
use crate::runtime::permits::ByteBudget;
use crate::runtime::tasks::Tasks;
use crate::sink::Sinks;
use crate::source::Sources;
use crate::store::Store;
use crate::table::catalog::Catalog;
use crate::tier::context::Context;
use crate::tier::hold::Holds;
use crate::tier::ledger::Ledger;
use crate::tier::supervisor::Supervisor;
use crate::tier::worker::Command;
use crate::topic::Topics;

pub use context::Options;
pub use principal::Service;
pub use resume::From;
pub use sinks::SinkRefused;
pub use status::ColumnStatus;
pub use status::FileStatus;
pub use status::PartitionStatus;
pub use status::TableStatus;

/// Why tiering did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The ledger holds something that this program did not write.
    #[error("ledger: {0}")]
    Corrupt(String),
    /// No such table.
    #[error("table {0} does not exist")]
    UnknownTable(String),
    /// The table stands still; the text says why.
    #[error("the table stands still: {0}")]
    Stopped(String),
    /// It did not happen in time; it goes on.
    #[error("not committed within {bound:?}{}; it goes on", because(.reason))]
    TimedOut {
        /// How long was waited.
        bound: Duration,
        /// What is in the way, if the table knows.
        reason: Option<String>,
    },
    /// Too many callers wait.
    #[error("too many callers wait for this table")]
    Busy,
    /// The table is gone: there is nothing in it to go on from.
    #[error(
        "the table is gone: it cannot go on from its own end (use ledger, log-start or latest)"
    )]
    NoTable,
    /// Only a stopped table can be resumed.
    #[error("the table does not stand still")]
    NotStopped,
    /// The rows would be in the table twice.
    #[error(
        "partition {partition} would go on at {start}, below the table's own end {end}: rows \
         would be there twice (--allow-duplicates permits it)"
    )]
    Duplicates {
        /// Partition index.
        partition: i32,
        /// Where it would go on.
        start: i64,
        /// The table's end, exclusive.
        end: i64,
    },
    /// The catalog could not be asked.
    #[error("catalog: {0}")]
    Catalog(String),
    /// The program ends.
    #[error("tiering is closed")]
    Closed,
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"))
}

/// What tiering is built from.
pub struct Parts {
    /// The log.
    pub log: Log,
    /// The topics.
    pub topics: Topics,
    /// Their sinks.
    pub sinks: Sinks,
    /// The sources of topics.
    pub sources: Sources,
    /// The state.
    pub store: Store,
    /// The catalog of all tables.
    pub catalog: Arc<dyn Catalog>,
    /// Its tasks.
    pub tasks: Tasks,
    /// Wall-clock time.
    pub clock: Clock,
    /// Fail points.
    pub fail_points: FailPoints,
}

/// Tiering of all topics; cheap to clone.
#[derive(Clone)]
pub struct Tiering {
    supervisor: Supervisor,
}

/// Between two tries to reach the worker of a table.
const WORKER_PAUSE: Duration = Duration::from_millis(20);

impl Tiering {
    /// Starts one worker per table, now and as topics and their sinks come.
    pub fn start(parts: Parts, options: Options) -> Self {
        let context = Context {
            holds: Holds::new(parts.log.clone()),
            log: parts.log,
            topics: parts.topics,
            sinks: parts.sinks,
            sources: parts.sources,
            ledger: Ledger::new(parts.store),
            catalog: parts.catalog,
            clock: parts.clock,
            fail_points: parts.fail_points,
            budget: ByteBudget::new(options.memory_bytes),
            options: Arc::new(options),
            tasks: parts.tasks,
            naming: Arc::default(),
            refusals: Arc::default(),
        };
        Self { supervisor: Supervisor::start(context) }
    }

    /// All tables, by name; those of topics without a table (`table.mode = off`) too.
    pub fn tables(&self) -> Vec<TableStatus> {
        let mut tables = self.supervisor.statuses();
        tables.sort_by(|a, b| (&a.table, &a.topic).cmp(&(&b.table, &b.topic)));
        tables
    }

    /// One table by its name (with or without namespace) or its topic.
    pub fn table(&self, name: &str) -> Option<TableStatus> {
        self.supervisor.find(name).map(|(_, cell)| cell.get())
    }

    /// Waits until everything that was appended before the call is in the table, at most `bound`: of
    /// every topic that writes to it.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::Stopped`], [`Error::TimedOut`], [`Error::Busy`],
    /// [`Error::Closed`].
    pub async fn flush(&self, name: &str, bound: Duration) -> Result<(), Error> {
        let asked = async {
            loop {
                match self.flush_once(name).await {
                    // That worker has ended, as one does whose topic was deleted; the topic that
                    // has the name now has another.
                    Err(Error::Closed) if !self.supervisor.is_closing() => {
                        tokio::time::sleep(WORKER_PAUSE).await;
                    }
                    answered => return answered,
                }
            }
        };
        match tokio::time::timeout(bound, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                let reason = self.table(name).and_then(|status| status.reason);
                Err(Error::TimedOut { bound, reason })
            }
        }
    }

    async fn flush_once(&self, name: &str) -> Result<(), Error> {
        self.supervisor.look();
        let found = self.supervisor.find_all(name);
        if found.is_empty() {
            return Err(Error::UnknownTable(name.to_owned()));
        }
        let mut answers = Vec::with_capacity(found.len());
        for (commands, _) in found {
            let (done, answer) = oneshot::channel();
            send(&commands, Command::Flush { done }).await?;
            answers.push(answer);
        }
        for answer in answers {
            answer.await.unwrap_or(Err(Error::Closed))?;
        }
        Ok(())
    }

    /// Lets a stopped table go on at `from`, in a new generation (rules 4.4).
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::NotStopped`], [`Error::Duplicates`],
    /// [`Error::Catalog`], [`Error::Store`], [`Error::Closed`].
    pub async fn resume(
        &self,
        name: &str,
        from: From,
        allow_duplicates: bool,
    ) -> Result<(), Error> {
        let commands = self.commands(name)?;
        let (done, answer) = oneshot::channel();
        send(&commands, Command::Resume { from, allow_duplicates, done }).await?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Makes a last commit of every table that can, and ends the workers. True if all were done
    /// within `bound`; what is left stays in the log (rules 7.4).
    pub async fn shutdown(&self, bound: Duration) -> bool {
        self.supervisor.shutdown(bound).await
    }

    fn commands(&self, name: &str) -> Result<mpsc::Sender<Command>, Error> {
        // A topic that was made a moment ago may have no worker yet.
        self.supervisor.look();
        let found = self.supervisor.find(name);
        found.map(|(commands, _)| commands).ok_or_else(|| Error::UnknownTable(name.to_owned()))
    }
}

async fn send(commands: &mpsc::Sender<Command>, command: Command) -> Result<(), Error> {
    commands.send(command).await.map_err(|_| Error::Closed)
}

#[cfg(test)]
mod tests;
