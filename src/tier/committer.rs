//! Commits the outstanding entry of a table: the loop's steps over ledger and snapshot builder,
//! and what each end of the loop means.

use std::collections::BTreeMap;

use async_trait::async_trait;
use iceberg::TableUpdate;
use iceberg::spec::ManifestFile;
use uuid::Uuid;

use crate::runtime::metrics;
use crate::store::Change;
use crate::table;
use crate::table::AddedFile;
use crate::table::catalog::LoadedTable;
use crate::table::catalog::TableChange;
use crate::table::commit::BuildError;
use crate::table::commit::Built;
use crate::table::commit::Commit;
use crate::table::commit::Outcome;
use crate::table::commit::Role;
use crate::table::commit::Steps;
use crate::table::commit::guard::LedgerView;
use crate::table::commit::guard::Verdict;
use crate::table::commit::letters::TakenAway;
use crate::table::commit::marker::Statement;
use crate::table::maintenance;
use crate::table::snapshot;
use crate::table::snapshot::SnapshotChange;
use crate::table::snapshot::SnapshotTarget;
use crate::tier::Error;
use crate::tier::context::Context;
use crate::tier::context::Halt;
use crate::tier::feed::Feed;
use crate::tier::ledger::Entry;
use crate::tier::ledger::FileEntry;
use crate::tier::ledger::Prepared;
use crate::tier::ledger::StopState;
use crate::tier::ledger::TableRef;
use crate::tier::ledger::put_entry;
use crate::tier::ledger::put_entry_alone;
use crate::tier::lifecycle;
use crate::tier::rows::contract;
use crate::topic::options::TableMode;

/// How often one call looks for a table that moved, or makes a dead-letter table again that its
/// user dropped.
const TABLE_TRIES: u32 = 4;

/// The manifests of the newest snapshot of ours, so that the next commit need not read them.
pub(super) type Manifests = Option<(i64, Vec<ManifestFile>)>;

/// How a commit ended that did not halt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is in the table, and the ledger says so.
    Committed,
    /// A file is gone: encode the same ranges again.
    FilesMissing(String),
}

/// Commits `prepared`, the outstanding entry. `fresh` is its first attempt right after it was
/// prepared; after a restart there is none, and the files are looked at first.
///
/// # Errors
/// [`Halt`].
pub(super) async fn settle(
    context: &Context,
    topic: &Feed,
    entry: &mut Entry,
    prepared: &Prepared,
    mut fresh: Option<Uuid>,
    manifests: &mut Manifests,
) -> Result<Settled, Halt> {
    for _ in 0..TABLE_TRIES {
        let Some(table) = entry.table.clone() else {
            return Err(Halt::Stop(StopState::LedgerGap, "a commit without a table".to_owned()));
        };
        let name = table.display();
        let mut journal = Journal {
            context,
            topic,
            entry: &mut *entry,
            prepared,
            table_uuid: table.uuid,
            check_files: fresh.is_none(),
            builds: 0,
            parent: manifests.take(),
            built: None,
        };
        let outcome = journal.run(&table, fresh.take()).await?;
        let built = journal.built.take();
        match outcome {
            Outcome::Committed { commit_id, snapshot_id, recorded } => {
                *manifests = built.filter(|(id, _)| Some(*id) == snapshot_id);
                count(&name, "ok");
                let now_ms = context.clock.now_ms();
                entry.committed(commit_id, snapshot_id, now_ms, prepared)?;
                if !recorded {
                    context.ledger.write(put_entry(entry)).await?;
                }
                context.pass("tier.after_committed")?;
                return Ok(Settled::Committed);
            }
            Outcome::FilesMissing(path) => return Ok(Settled::FilesMissing(path)),
            Outcome::Missing(Role::DeadLetters) => {
                let main = table.ident()?;
                lifecycle::ensure_dead_letters(context, entry, &main).await?;
            }
            // It may have another name now: it goes by its UUID (rules 6.3).
            Outcome::Missing(Role::Main) | Outcome::Stopped(Verdict::Replaced(_)) => {
                lifecycle::ensure_table(context, topic, entry).await?;
            }
            other => {
                count(&name, "failed");
                return Err(halt(other));
            }
        }
    }
    Err(Halt::Later("the tables of this topic come and go".to_owned()))
}

fn count(table: &str, result: &'static str) {
    let labels = [("table", table.to_owned()), ("result", result.to_owned())];
    ::metrics::counter!(metrics::TABLE_COMMITS, &labels).increment(1);
}

/// Counts a rollback of the dead-letter table, once. Its rows are not written again: nothing says
/// that they are wanted, as after a drop.
pub(super) async fn dead_letters_taken_away(
    context: &Context,
    entry: &mut Entry,
    lost: TakenAway,
) -> Result<(), Error> {
    let mut next = entry.clone();
    if !next.take_away(lost) {
        return Ok(());
    }
    context.ledger.write(put_entry(&next)).await?;
    *entry = next;
    let table = entry.dlq.as_ref().map_or_else(String::new, TableRef::display);
    tracing::warn!(
        table, rows = lost.rows, newest = %lost.newest,
        "the dead-letter table was rolled back: its rows are not written again"
    );
    ::metrics::counter!(metrics::TABLE_DLQ_ROLLBACKS, "table" => table).increment(1);
    Ok(())
}

fn halt(outcome: Outcome) -> Halt {
    let stop = |state, reason: String| Halt::Stop(state, reason);
    match outcome {
        Outcome::Stopped(Verdict::LogBehind(reason)) => stop(StopState::LogBehind, reason),
        Outcome::Stopped(Verdict::RolledBack(reason)) => stop(StopState::RolledBack, reason),
        Outcome::Stopped(Verdict::LedgerGap(reason)) => stop(StopState::LedgerGap, reason),
        Outcome::Refused(reason) => stop(StopState::ConfigError, reason),
        Outcome::Later(reason) => Halt::Later(reason),
        other => Halt::Later(format!("{other:?}")),
    }
}

struct Journal<'a> {
    context: &'a Context,
    topic: &'a Feed,
    entry: &'a mut Entry,
    prepared: &'a Prepared,
    table_uuid: Uuid,
    check_files: bool,
    builds: u32,
    parent: Manifests,
    built: Manifests,
}

#[async_trait]
impl Steps for Journal<'_> {
    fn view(&self) -> LedgerView<'_> {
        self.entry.view(self.table_uuid)
    }

    async fn record_attempt(&mut self, commit_id: Uuid) -> Result<(), String> {
        let mut next = self.entry.clone();
        next.attempt(commit_id).map_err(|error| error.to_string())?;
        let written = self.context.ledger.write(put_entry(&next)).await;
        written.map_err(|error| error.to_string())?;
        *self.entry = next;
        Ok(())
    }

    async fn record_taken_away(&mut self, lost: TakenAway) -> Result<(), String> {
        let recorded = dead_letters_taken_away(self.context, self.entry, lost).await;
        recorded.map_err(|error| error.to_string())
    }

    async fn build(
        &mut self,
        role: Role,
        base: &LoadedTable,
        commit_id: Uuid,
    ) -> Result<Built, BuildError> {
        let files = match role {
            Role::Main => &self.prepared.files,
            Role::DeadLetters => &self.prepared.dlq_files,
        };
        if self.check_files {
            self.all_there(files).await?;
        }
        let added: Result<Vec<AddedFile>, _> =
            files.iter().map(|file| AddedFile::from_json(&file.json, &base.metadata)).collect();
        let more = self.more();
        let statement = Statement {
            source: self.entry.source(),
            commit_id,
            cluster_id: &self.context.options.cluster_id,
            topic_name: self.topic.name.as_str(),
            ranges: &self.prepared.ranges,
            gaps: &self.prepared.gaps,
            ends: &self.prepared.ends_after,
            more: &more,
        };
        let mut summary = statement.summary();
        let options = &self.topic.options;
        if role == Role::Main
            && options.table_mode == TableMode::Contract
            && !options.table_contract.write_id_of_request
        {
            let write_id = self.prepared.entry_id.to_string();
            summary.insert(contract::SUMMARY_WRITE_ID.to_owned(), write_id);
        }
        let change = SnapshotChange::row_delta(added.map_err(build_error)?, summary);
        let file_io = self.context.catalog.file_io().clone();
        let mut target = SnapshotTarget::main(base.metadata.clone(), file_io, commit_id);
        target.attempt = self.builds;
        self.builds += 1;
        if role == Role::Main {
            let head = base.metadata.current_snapshot_id();
            let parent = self.parent.as_ref().filter(|(id, _)| Some(*id) == head);
            target.parent_manifests = parent.map(|(_, manifests)| manifests.clone());
        }
        let built =
            snapshot::build(target, change, &self.context.clock).await.map_err(build_error)?;
        let mut updates = built.updates;
        let (key, value) = statement.property();
        updates.push(TableUpdate::SetProperties { updates: [(key, value)].into() });
        if role == Role::Main {
            self.built = Some((built.snapshot_id, built.manifests));
        }
        let ident = base.ident.clone();
        let change = TableChange { ident, requirements: built.requirements, updates };
        Ok(Built { change, snapshot_id: built.snapshot_id, files: built.files_written })
    }

    fn committed(&self, commit_id: Uuid, snapshot_id: i64) -> Result<Change, String> {
        let mut next = self.entry.clone();
        let now_ms = self.context.clock.now_ms();
        next.committed(commit_id, Some(snapshot_id), now_ms, self.prepared)
            .map_err(|error| error.to_string())?;
        Ok(put_entry_alone(&next))
    }

    async fn discard(&mut self, files: &[String]) {
        if !files.is_empty() {
            maintenance::delete_files(self.context.catalog.file_io(), files).await;
        }
    }
}

impl Journal<'_> {
    /// One run of the commit loop.
    async fn run(&mut self, table: &TableRef, fresh: Option<Uuid>) -> Result<Outcome, Halt> {
        let context = self.context;
        let main = table.ident()?;
        let dead_letters = match (&self.entry.dlq, self.prepared.dlq_files.is_empty()) {
            (_, true) => None,
            (Some(dlq), false) => Some(dlq.ident()?),
            (None, false) => {
                Some(lifecycle::ensure_dead_letters(context, self.entry, &main).await?.ident)
            }
        };
        let commit = Commit {
            catalog: &*context.catalog,
            main: &main,
            dead_letters: dead_letters.as_ref(),
            retry: context.options.retry,
            fail_points: &context.fail_points,
        };
        let name = table.display();
        let on_retry = |conflict, reason: &str| {
            let result = if conflict { "conflict" } else { "unknown" };
            count(&name, result);
            tracing::info!(table = name, result, reason, "table commit is tried again");
        };
        Ok(commit.run(self, fresh, on_retry).await)
    }

    async fn all_there(&self, files: &[FileEntry]) -> Result<(), BuildError> {
        for file in files {
            match self.context.catalog.file_io().exists(&file.path).await {
                Ok(true) => {}
                Ok(false) => return Err(BuildError::FilesMissing(file.path.clone())),
                Err(error) => return Err(BuildError::Storage(error.to_string())),
            }
        }
        Ok(())
    }

    fn more(&self) -> BTreeMap<String, String> {
        let mut more = BTreeMap::from([
            ("version".to_owned(), "1".to_owned()),
            ("rows".to_owned(), self.prepared.rows.to_string()),
            ("dlq-rows".to_owned(), self.prepared.dlq_rows.to_string()),
        ]);
        if self.prepared.superseded_rows > 0 {
            let rows = self.prepared.superseded_rows.to_string();
            more.insert("superseded-rows".to_owned(), rows);
        }
        let optional = [
            ("watermark-ms", self.prepared.watermark_ms),
            ("max-record-ts-ms", self.prepared.max_record_ts_ms),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                more.insert(key.to_owned(), value.to_string());
            }
        }
        more
    }
}

fn build_error(error: table::Error) -> BuildError {
    match error {
        table::Error::Storage(error) => BuildError::Storage(error.to_string()),
        table::Error::Exists(path) => BuildError::Storage(format!("{path} exists already")),
        table::Error::NotLive(_) | table::Error::Encode(_) | table::Error::Panicked(_) => {
            BuildError::Storage(error.to_string())
        }
        table::Error::Invalid(reason) => BuildError::Invalid(reason),
    }
}
