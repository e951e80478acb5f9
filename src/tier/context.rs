//! What all workers share, and how a step of theirs ends early.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::log::Log;
use crate::runtime::clock::Clock;
use crate::runtime::fail_points::FailPoints;
use crate::runtime::permits::ByteBudget;
use crate::runtime::tasks::Tasks;
use crate::sink::Sinks;
use crate::source::Sources;
use crate::table::catalog;
use crate::table::catalog::Catalog;
use crate::table::commit::Retry;
use crate::table::sink;
use crate::tier::Error;
use crate::tier::evolve::Refusals;
use crate::tier::hold::Holds;
use crate::tier::ledger::Ledger;
use crate::tier::ledger::StopState;
use crate::tier::rows::RowsError;
use crate::tier::rows::json::Inspect;
use crate::topic::Topics;

/// Settings of tiering.
#[derive(Clone)]
pub struct Options {
    /// Written into every snapshot.
    pub cluster_id: String,
    /// Memory of all commits that are being encoded, in bytes.
    pub memory_bytes: usize,
    /// Pin limit of topics that set none, in bytes.
    pub pin_max_bytes: u64,
    /// Bounds of the commit loop.
    pub retry: Retry,
    /// Commits between two rounds of table maintenance.
    pub maintain_every: u64,
    /// Called with each value before it is decoded; tests make it panic.
    pub inspect: Option<Inspect>,
    /// Called with each batch of rows before it is encoded; tests make it panic.
    pub inspect_rows: Option<sink::Inspect>,
    /// Where the data lies, for messages.
    pub data_dir: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cluster_id: String::new(),
            memory_bytes: 64 << 20,
            pin_max_bytes: u64::MAX,
            retry: Retry::default(),
            maintain_every: 10,
            inspect: None,
            inspect_rows: None,
            data_dir: PathBuf::new(),
        }
    }
}

/// What all workers share; cheap to clone.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) log: Log,
    pub(super) topics: Topics,
    pub(super) sinks: Sinks,
    /// What they commit by, where they do not say it.
    pub(super) sources: Sources,
    /// What the tables of a topic hold back of its log.
    pub(super) holds: Holds,
    pub(super) ledger: Ledger,
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) clock: Clock,
    pub(super) fail_points: FailPoints,
    pub(super) budget: ByteBudget,
    pub(super) options: Arc<Options>,
    pub(super) tasks: Tasks,
    /// Held while a free name is looked for and taken.
    pub(super) naming: Arc<Mutex<()>>,
    /// Tables that get no columns of ours.
    pub(super) refusals: Arc<Refusals>,
}

impl Context {
    /// Passes a fail point.
    pub(super) fn pass(&self, point: &'static str) -> Result<(), Halt> {
        self.fail_points.hit(point).map_err(Halt::Later)
    }
}

/// Why a step of a worker ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Halt {
    /// Not now: catalog, storage or disk failed; try again after a pause.
    Later(String),
    /// Rows could not be encoded: the next round looks for the record (rules 4.9).
    Poison(String),
    /// A person must decide (rules 4.4).
    Stop(StopState, String),
    /// The program ends.
    Closed,
}

impl From<catalog::Error> for Halt {
    fn from(error: catalog::Error) -> Self {
        match error {
            catalog::Error::Invalid(reason) => Self::Stop(StopState::ConfigError, reason),
            other => Self::Later(other.to_string()),
        }
    }
}

impl From<crate::table::Error> for Halt {
    fn from(error: crate::table::Error) -> Self {
        match error {
            crate::table::Error::Invalid(reason) => Self::Stop(StopState::ConfigError, reason),
            poison @ (crate::table::Error::Encode(_) | crate::table::Error::Panicked(_)) => {
                Self::Poison(poison.to_string())
            }
            other => Self::Later(other.to_string()),
        }
    }
}

impl From<RowsError> for Halt {
    fn from(error: RowsError) -> Self {
        Self::Stop(StopState::ConfigError, error.to_string())
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(crate::store::Error::Closed) => Self::Closed,
            Error::Corrupt(reason) => Self::Stop(StopState::LedgerGap, reason),
            other => Self::Later(other.to_string()),
        }
    }
}

impl From<crate::tier::state::Refused> for Halt {
    fn from(refused: crate::tier::state::Refused) -> Self {
        Self::Stop(StopState::LedgerGap, refused.to_string())
    }
}
