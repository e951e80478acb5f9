//! The guarded, idempotent commit loop: load, look, build, record the attempt, commit (rules 4).
//!
//! Owns: the order of these steps and what each answer of a catalog means. Does not own: what a
//! commit holds or where attempts are recorded ([`Steps`], implemented by tiering), the guard's
//! rules ([`guard`], [`newest`]).

pub(crate) mod ends;
pub mod guard;
pub mod letters;
pub mod marker;
pub mod newest;

use std::time::Duration;

use async_trait::async_trait;
use iceberg::TableIdent;
use uuid::Uuid;

use crate::runtime::fail_points::FailPoints;
use crate::store::Change;
use crate::table::catalog;
use crate::table::catalog::Catalog;
use crate::table::catalog::LoadedTable;
use crate::table::catalog::TableChange;
use crate::table::commit::guard::LedgerView;
use crate::table::commit::guard::Verdict;
use crate::table::commit::letters::TakenAway;

/// Which of the two tables of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The table.
    Main,
    /// Its dead-letter table.
    DeadLetters,
}

/// A snapshot that is written but not committed.
#[derive(Debug, Clone)]
pub struct Built {
    /// What the catalog is asked for.
    pub change: TableChange,
    /// The id of the new snapshot.
    pub snapshot_id: i64,
    /// Manifests and manifest list that only this snapshot uses.
    pub files: Vec<String>,
}

/// Why no snapshot could be built.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError {
    /// Storage failed; try again.
    #[error("storage: {0}")]
    Storage(String),
    /// A data file of the entry is not there (any more).
    #[error("data file is missing: {0}")]
    FilesMissing(String),
    /// It can never be built.
    #[error("{0}")]
    Invalid(String),
}

/// What the loop needs of the one that keeps the ledger.
#[async_trait]
pub trait Steps: Send + Sync {
    /// What the ledger knows of the table.
    fn view(&self) -> LedgerView<'_>;
    /// Makes an attempt of the outstanding entry durable, before the catalog hears of it.
    async fn record_attempt(&mut self, commit_id: Uuid) -> Result<(), String>;
    /// Makes durable that a rollback took dead letters out of their table, before the next
    /// commit to it hides that. May hear of one rollback more than once.
    async fn record_taken_away(&mut self, lost: TakenAway) -> Result<(), String>;
    /// Writes the snapshot of one table on top of `base`.
    async fn build(
        &mut self,
        role: Role,
        base: &LoadedTable,
        commit_id: Uuid,
    ) -> Result<Built, BuildError>;
    /// The ledger writes that say that `commit_id` is committed.
    fn committed(&self, commit_id: Uuid, snapshot_id: i64) -> Result<Change, String>;
    /// Removes files of a snapshot that was definitely refused. Best effort.
    async fn discard(&mut self, files: &[String]);
}

/// How a run of the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The entry is in the table.
    Committed {
        /// The attempt that did it.
        commit_id: Uuid,
        /// Its snapshot; none if it has expired since.
        snapshot_id: Option<i64>,
        /// The ledger says so already (same frame as the pointer).
        recorded: bool,
    },
    /// The guard stopped it: nothing was committed.
    Stopped(Verdict),
    /// A table does not exist.
    Missing(Role),
    /// A data file of the entry is gone; no attempt is in the table.
    FilesMissing(String),
    /// The catalog will never take it.
    Refused(String),
    /// Not now: run the loop again later, it goes on where it was.
    Later(String),
}

/// Bounds of the loop.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Attempts of one run.
    pub tries_max: u32,
    /// First pause.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// Longest wait for one answer of the catalog; after it a commit's outcome is unknown.
    pub call_max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries_max: 8,
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(5),
            call_max: Duration::from_secs(60),
        }
    }
}

impl Retry {
    /// The pause before try `number` (from 1): doubled each time, with jitter of one half.
    pub fn pause(&self, number: u32) -> Duration {
        let doubled = self.pause_min.saturating_mul(1 << number.saturating_sub(1).min(16));
        let pause = doubled.min(self.pause_max);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// One guarded commit: the loop's constant part.
pub struct Commit<'a> {
    /// The catalog.
    pub catalog: &'a dyn Catalog,
    /// Name of the table.
    pub main: &'a TableIdent,
    /// Name of the dead-letter table, if the entry has rows for it.
    pub dead_letters: Option<&'a TableIdent>,
    /// Bounds.
    pub retry: Retry,
    /// Fail points.
    pub fail_points: &'a FailPoints,
}

/// Files of snapshots that were refused. A second delivery of one request by something between
/// us and the catalog is a conflict with ourselves: so they are removed only after a look at the
/// table showed that the attempt did not happen.
#[derive(Default)]
struct Refused {
    main: Vec<String>,
    dead_letters: Vec<String>,
}

enum Try {
    Finished(Outcome),
    Again { conflict: bool, reason: String },
}

fn again(reason: impl ToString) -> Try {
    Try::Again { conflict: false, reason: reason.to_string() }
}

impl Commit<'_> {
    /// Commits the outstanding entry. `first` is an attempt that is recorded and was never
    /// sent; a restart passes none. `on_retry` hears of every attempt that did not succeed.
    pub async fn run(
        &self,
        steps: &mut impl Steps,
        mut first: Option<Uuid>,
        mut on_retry: impl FnMut(bool, &str),
    ) -> Outcome {
        let mut reason = String::new();
        let mut refused = Refused::default();
        for number in 1..=self.retry.tries_max.max(1) {
            match self.attempt(steps, first.take(), &mut refused).await {
                Try::Finished(outcome) => return outcome,
                Try::Again { conflict, reason: why } => {
                    on_retry(conflict, &why);
                    reason = why;
                }
            }
            tokio::time::sleep(self.retry.pause(number)).await;
        }
        Outcome::Later(reason)
    }

    async fn attempt(
        &self,
        steps: &mut impl Steps,
        first: Option<Uuid>,
        refused: &mut Refused,
    ) -> Try {
        let main = match self.load(self.main, Role::Main).await {
            Ok(main) => main,
            Err(step) => return step,
        };
        match guard::evaluate(&main.metadata, steps.view()) {
            Verdict::Go => steps.discard(&std::mem::take(&mut refused.main)).await,
            Verdict::Done { commit_id, snapshot_id } => {
                let recorded = false;
                return Try::Finished(Outcome::Committed { commit_id, snapshot_id, recorded });
            }
            stop => return Try::Finished(Outcome::Stopped(stop)),
        }
        let dead_letters = match self.dead_letters_left(steps, refused).await {
            Ok(dead_letters) => dead_letters,
            Err(step) => return step,
        };
        let commit_id = match first {
            Some(first) => first,
            None => {
                let fresh = Uuid::now_v7();
                if let Err(error) = steps.record_attempt(fresh).await {
                    return Try::Finished(Outcome::Later(error));
                }
                fresh
            }
        };
        let built = match self.build(steps, &main, dead_letters.as_ref(), commit_id).await {
            Ok(built) => built,
            Err(step) => return step,
        };
        self.send_all(steps, built, commit_id, refused).await
    }

    /// The dead-letter table if the entry's rows are not in it yet.
    async fn dead_letters_left(
        &self,
        steps: &mut impl Steps,
        refused: &mut Refused,
    ) -> Result<Option<LoadedTable>, Try> {
        let Some(ident) = self.dead_letters else {
            return Ok(None);
        };
        let loaded = self.load(ident, Role::DeadLetters).await?;
        let view = steps.view();
        let lost = letters::taken_away(&loaded.metadata, view.source.writer, view.attempts);
        if let Some(lost) = lost {
            let recorded = steps.record_taken_away(lost).await;
            recorded.map_err(|error| Try::Finished(Outcome::Later(error)))?;
        }
        match guard::evaluate_dead_letters(&loaded.metadata, steps.view()) {
            Verdict::Done { .. } => Ok(None),
            _ => {
                steps.discard(&std::mem::take(&mut refused.dead_letters)).await;
                Ok(Some(loaded))
            }
        }
    }

    /// The snapshots of one attempt, dead letters first.
    async fn build(
        &self,
        steps: &mut impl Steps,
        main: &LoadedTable,
        dead_letters: Option<&LoadedTable>,
        commit_id: Uuid,
    ) -> Result<Vec<(Role, Built)>, Try> {
        let mut built = Vec::with_capacity(2);
        let bases = dead_letters.map(|table| (Role::DeadLetters, table)).into_iter();
        for (role, base) in bases.chain([(Role::Main, main)]) {
            let one = steps.build(role, base, commit_id).await.map_err(|error| match error {
                BuildError::Storage(reason) => again(reason),
                BuildError::FilesMissing(path) => Try::Finished(Outcome::FilesMissing(path)),
                BuildError::Invalid(reason) => Try::Finished(Outcome::Refused(reason)),
            })?;
            built.push((role, one));
        }
        Ok(built)
    }

    async fn send_all(
        &self,
        steps: &mut impl Steps,
        built: Vec<(Role, Built)>,
        commit_id: Uuid,
        refused: &mut Refused,
    ) -> Try {
        let snapshot_id = built.last().map(|(_, main)| main.snapshot_id);
        if let Err(reason) = self.fail_points.hit("tier.before_commit") {
            return Try::Finished(Outcome::Later(reason));
        }
        let recorded = self.catalog.commits_with_state();
        // Where tables do not commit together, dead letters go first (rules 4.3): the main
        // table's marker is the one that counts.
        let requests: Vec<_> =
            if recorded { vec![built] } else { built.into_iter().map(|one| vec![one]).collect() };
        for request in requests {
            let with = match (recorded, snapshot_id) {
                (true, Some(snapshot_id)) => match steps.committed(commit_id, snapshot_id) {
                    Ok(with) => with,
                    Err(error) => return Try::Finished(Outcome::Refused(error)),
                },
                _ => Change::new(),
            };
            if let Err(step) = self.send(request, with, refused).await {
                return step;
            }
        }
        if let Err(reason) = self.fail_points.hit("tier.after_commit") {
            return Try::Finished(Outcome::Later(reason));
        }
        Try::Finished(Outcome::Committed { commit_id, snapshot_id, recorded })
    }

    async fn send(
        &self,
        request: Vec<(Role, Built)>,
        with: Change,
        refused: &mut Refused,
    ) -> Result<(), Try> {
        let changes = request.iter().map(|(_, one)| one.change.clone()).collect();
        let answer =
            tokio::time::timeout(self.retry.call_max, self.catalog.commit(changes, with)).await;
        let error = match answer {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => catalog::Error::Unknown("no answer in time".to_owned()),
        };
        match error {
            catalog::Error::Conflict(reason) => {
                for (role, one) in request {
                    match role {
                        Role::Main => refused.main.extend(one.files),
                        Role::DeadLetters => refused.dead_letters.extend(one.files),
                    }
                }
                Err(Try::Again { conflict: true, reason })
            }
            catalog::Error::Invalid(reason) => Err(Try::Finished(Outcome::Refused(reason))),
            // The next look finds out: a load names what is missing, the guard what happened.
            other => Err(again(other)),
        }
    }

    async fn load(&self, ident: &TableIdent, role: Role) -> Result<LoadedTable, Try> {
        match tokio::time::timeout(self.retry.call_max, self.catalog.load(ident)).await {
            Ok(Ok(loaded)) => Ok(loaded),
            Ok(Err(catalog::Error::NoSuchTable(_) | catalog::Error::NoSuchNamespace(_))) => {
                Err(Try::Finished(Outcome::Missing(role)))
            }
            Ok(Err(error)) => Err(again(error)),
            Err(_) => Err(again("the catalog did not answer a load in time")),
        }
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
