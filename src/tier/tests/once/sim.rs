//! The simulated worker, its disk, and the one who counts.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use iceberg::NamespaceIdent;
use iceberg::TableIdent;
use iceberg::TableRequirement;
use iceberg::TableUpdate;
use iceberg::spec::MAIN_BRANCH;
use iceberg::spec::NestedField;
use iceberg::spec::PrimitiveType;
use iceberg::spec::Schema;
use iceberg::spec::Type;
use uuid::Uuid;

use crate::runtime::FailPoints;
use crate::store::Change;
use crate::table::catalog::Catalog;
use crate::table::catalog::LoadedTable;
use crate::table::catalog::NewTable;
use crate::table::catalog::TableChange;
use crate::table::commit::BuildError;
use crate::table::commit::Built;
use crate::table::commit::Commit;
use crate::table::commit::Outcome;
use crate::table::commit::Retry;
use crate::table::commit::Role;
use crate::table::commit::Steps;
use crate::table::commit::fake::Answer;
use crate::table::commit::fake::FakeCatalog;
use crate::table::commit::fake::append;
use crate::table::commit::guard::LedgerView;
use crate::table::commit::guard::Verdict;
use crate::table::commit::letters::TakenAway;
use crate::table::commit::marker;
use crate::table::commit::marker::Ends;
use crate::table::commit::marker::Range;
use crate::table::commit::marker::Statement;
use crate::table::commit::marker::Writer;
use crate::table::commit::newest::newest;
use crate::tier::ledger;
use crate::tier::ledger::Entry;
use crate::tier::ledger::Prepared;
use crate::tier::ledger::StopState;
use crate::tier::ledger::put_entry;
use crate::tier::ledger::put_entry_alone;
use crate::tier::ledger::put_prepared;
use crate::types::TopicId;

use super::Death;

/// What survives a crash: the ledger's keys and values.
#[derive(Default)]
struct Disk(BTreeMap<Vec<u8>, Vec<u8>>);

impl Disk {
    pub(super) fn write(&mut self, change: Change) {
        for op in change.ops {
            match op.value {
                Some(value) => drop(self.0.insert(op.key.to_vec(), value.to_vec())),
                None => drop(self.0.remove(&op.key.to_vec())),
            }
        }
    }

    fn load(&self) -> (Entry, Option<Prepared>) {
        let value = |prefix: &[u8]| {
            self.0.iter().find(|(key, _)| key.starts_with(prefix)).map(|(_, value)| value)
        };
        let entry: Entry = ledger::decode(value(b"table/").unwrap()).unwrap();
        let prepared = entry.outstanding.as_ref().map(|outstanding| {
            let value = value(b"prepared/").expect("an outstanding commit is there");
            let prepared: Prepared = ledger::decode(value).unwrap();
            assert_eq!(prepared.entry_id, outstanding.entry_id);
            prepared
        });
        (entry, prepared)
    }
}

/// One snapshot that ever was: its parent and the rows it added.
struct Added {
    parent: Option<i64>,
    ranges: Vec<Range>,
}

pub(super) struct Sim {
    pub(super) catalog: FakeCatalog,
    pub(super) with_state: bool,
    /// Changes of the catalog that the disk has.
    applied: usize,
    disk: Disk,
    pub(super) entry: Entry,
    prepared: Option<Prepared>,
    pub(super) log_ends: Ends,
    seen: HashMap<i64, Added>,
    /// What each of our commits adds.
    pub(super) plans: HashMap<Uuid, Vec<Range>>,
    pub(super) name: TableIdent,
    names: u32,
    pub(super) files_lost: bool,
    /// Somebody moved the branch; an expiry would take the proof away.
    pub(super) moved: bool,
    /// Somebody with our identity has written to this table.
    pub(super) strange: bool,
}

/// The ledger's side of one run of the commit loop.
struct Clerk<'a> {
    entry: &'a mut Entry,
    prepared: &'a Prepared,
    disk: &'a mut Disk,
    plans: &'a mut HashMap<Uuid, Vec<Range>>,
    uuid: Uuid,
    files_lost: bool,
    dies: bool,
}

#[async_trait]
impl Steps for Clerk<'_> {
    fn view(&self) -> LedgerView<'_> {
        self.entry.view(self.uuid)
    }

    async fn record_attempt(&mut self, commit_id: Uuid) -> Result<(), String> {
        let mut next = self.entry.clone();
        next.attempt(commit_id).unwrap();
        if self.dies {
            return Err("dies".to_owned());
        }
        self.disk.write(put_entry(&next));
        *self.entry = next;
        Ok(())
    }

    async fn record_taken_away(&mut self, lost: TakenAway) -> Result<(), String> {
        Err(format!("there are no dead letters here: {lost:?}"))
    }

    async fn build(
        &mut self,
        _: Role,
        base: &LoadedTable,
        commit_id: Uuid,
    ) -> Result<Built, BuildError> {
        if self.files_lost {
            return Err(BuildError::FilesMissing("file".to_owned()));
        }
        self.plans.insert(commit_id, self.prepared.ranges.clone());
        let more = BTreeMap::new();
        let statement = Statement {
            source: self.entry.source(),
            commit_id,
            cluster_id: "c",
            topic_name: "orders",
            ranges: &self.prepared.ranges,
            gaps: &self.prepared.gaps,
            ends: &self.prepared.ends_after,
            more: &more,
        };
        let id = (commit_id.as_u128() & i64::MAX as u128) as i64;
        let (snapshot_id, mut updates) = append(&base.metadata, statement.summary(), id);
        let (key, value) = statement.property();
        updates.push(TableUpdate::SetProperties { updates: [(key, value)].into() });
        let requirements = vec![
            TableRequirement::UuidMatch { uuid: base.metadata.uuid() },
            TableRequirement::RefSnapshotIdMatch {
                r#ref: MAIN_BRANCH.to_owned(),
                snapshot_id: base.metadata.current_snapshot_id(),
            },
        ];
        let change = TableChange { ident: base.ident.clone(), requirements, updates };
        Ok(Built { change, snapshot_id, files: vec![] })
    }

    fn committed(&self, commit_id: Uuid, snapshot_id: i64) -> Result<Change, String> {
        let mut next = self.entry.clone();
        next.committed(commit_id, Some(snapshot_id), 0, self.prepared).unwrap();
        Ok(put_entry_alone(&next))
    }

    async fn discard(&mut self, _: &[String]) {}
}

impl Sim {
    pub(super) async fn new(with_state: bool) -> Self {
        let entry = Entry::new(Writer::topic(TopicId(Uuid::from_u128(7))), "orders");
        let mut sim = Self {
            catalog: FakeCatalog::new(with_state),
            with_state,
            applied: 0,
            disk: Disk::default(),
            entry,
            prepared: None,
            log_ends: Ends::new(),
            seen: HashMap::new(),
            plans: HashMap::new(),
            name: TableIdent::new(NamespaceIdent::new("streams".to_owned()), String::new()),
            names: 0,
            files_lost: false,
            moved: false,
            strange: false,
        };
        sim.make_table().await;
        sim
    }

    /// A new table under a name of its own.
    async fn make_table(&mut self) {
        self.names += 1;
        let namespace = self.name.namespace().clone();
        self.name = TableIdent::new(namespace, format!("orders_{}", self.names));
        let field = NestedField::optional(1, "a", Type::Primitive(PrimitiveType::Long));
        let new = NewTable {
            ident: self.name.clone(),
            schema: Schema::builder().with_fields([field.into()]).build().unwrap(),
            spec: None,
            sort_order: None,
            location: None,
            properties: HashMap::new(),
        };
        let loaded = self.catalog.create(new).await.unwrap();
        self.entry.table = Some(ledger::TableRef::new(&loaded.ident, loaded.metadata.uuid()));
        (self.moved, self.strange) = (false, false);
        self.write();
    }

    /// What the catalog wrote beside its pointers comes first: it was durable before.
    fn catch_up(&mut self) {
        let applied = self.catalog.applied.lock().unwrap();
        for change in &applied[self.applied..] {
            self.disk.write(change.clone());
        }
        self.applied = applied.len();
    }

    pub(super) fn write(&mut self) {
        self.catch_up();
        self.disk.write(put_entry(&self.entry));
    }

    pub(super) fn die(&mut self) {
        self.catch_up();
        (self.entry, self.prepared) = self.disk.load();
    }

    pub(super) fn look(&mut self) {
        let metadata = self.catalog.metadata(&self.name);
        for snapshot in metadata.snapshots() {
            let summary = &snapshot.summary().additional_properties;
            let id = summary.get(marker::COMMIT_ID).and_then(|id| id.parse::<Uuid>().ok());
            let ranges = id.and_then(|id| self.plans.get(&id)).cloned().unwrap_or_default();
            let parent = snapshot.parent_snapshot_id();
            self.seen.entry(snapshot.snapshot_id()).or_insert(Added { parent, ranges });
        }
    }

    /// How often each offset is in the table.
    pub(super) fn content(&mut self) -> BTreeMap<(i32, i64), u32> {
        self.look();
        let mut next = self.catalog.metadata(&self.name).current_snapshot_id();
        let mut content = BTreeMap::new();
        while let Some(added) = next.and_then(|id| self.seen.get(&id)) {
            for range in &added.ranges {
                for offset in range.base..range.end {
                    *content.entry((range.partition, offset)).or_insert(0) += 1;
                }
            }
            next = added.parent;
        }
        content
    }

    pub(super) fn check_none_twice(&mut self) {
        let content = self.content();
        assert!(content.values().all(|count| *count == 1), "twice: {content:?}");
    }

    /// Right after a commit each offset below the ends is in the table or in a recorded gap.
    fn check_none_lost(&mut self) {
        let content = self.content();
        let mut missing = Vec::new();
        for (partition, end) in &self.entry.ends {
            for offset in 0..*end {
                let passed = self.entry.gap_history.iter().any(|gap| {
                    gap.partition == *partition && gap.from <= offset && offset < gap.to
                });
                let is_there = content.contains_key(&(*partition, offset));
                if !is_there && !passed {
                    missing.push((*partition, offset));
                }
                // A person may ask for passed rows again, the worker does not.
                let wrong = is_there && passed && self.entry.generation == 1;
                assert!(!wrong, "{offset} of {partition} is in the table and a gap");
            }
        }
        assert!(missing.is_empty(), "the ledger has {:?}, missing {missing:?}", self.entry.ends);
    }

    pub(super) fn plan(&self, cut: i64) -> Prepared {
        let mut prepared = Prepared { entry_id: Uuid::now_v7(), ..Prepared::default() };
        prepared.gaps = self.entry.pending_gaps.clone();
        prepared.ends_after = self.entry.ends.clone();
        for gap in &prepared.gaps {
            prepared.ends_after.insert(gap.partition, gap.to);
        }
        for (partition, log_end) in &self.log_ends {
            let base = self.entry.next(*partition).unwrap_or(0);
            let end = (base + cut).min(*log_end);
            if end > base {
                prepared.ranges.push(Range { partition: *partition, base, end });
                prepared.ends_after.insert(*partition, end);
            }
        }
        prepared
    }

    pub(super) async fn turn(&mut self, cut: i64, answers: &[Answer], death: Option<Death>) {
        if self.entry.stop.is_some() {
            return;
        }
        let mut first = None;
        if self.prepared.is_none() {
            let prepared = self.plan(cut);
            if prepared.ranges.is_empty() {
                return;
            }
            let id = Uuid::now_v7();
            self.entry.prepare(&prepared, id).unwrap();
            if death == Some(Death::BeforePrepared) {
                return self.die();
            }
            self.catch_up();
            self.disk.write(put_prepared(&self.entry, &prepared));
            (self.prepared, self.files_lost) = (Some(prepared), false);
            if death == Some(Death::AfterPrepared) {
                return self.die();
            }
            first = Some(id);
        }
        self.catalog.script(answers);
        let outcome = self.settle(first, death).await;
        self.catalog.forget_script();
        match outcome {
            _ if matches!(
                death,
                Some(Death::Record | Death::BeforeCommit | Death::AfterCommit)
            ) =>
            {
                if matches!(outcome, Outcome::Later(_)) {
                    return self.die();
                }
                self.conclude(outcome);
            }
            _ if death == Some(Death::BeforeCommitted) => self.die(),
            outcome => self.conclude(outcome),
        }
    }

    async fn settle(&mut self, first: Option<Uuid>, death: Option<Death>) -> Outcome {
        let fail_points = FailPoints::none();
        match death {
            Some(Death::BeforeCommit) => {
                fail_points.set("tier.before_commit", || Err("dies".to_owned()));
            }
            Some(Death::AfterCommit) => {
                fail_points.set("tier.after_commit", || Err("dies".to_owned()));
            }
            _ => {}
        }
        let retry = Retry { tries_max: 3, pause_max: Duration::ZERO, ..Retry::default() };
        let commit = Commit {
            catalog: &self.catalog,
            main: &self.name,
            dead_letters: None,
            retry,
            fail_points: &fail_points,
        };
        let mut clerk = Clerk {
            uuid: self.entry.table.as_ref().unwrap().uuid,
            entry: &mut self.entry,
            prepared: self.prepared.as_ref().unwrap(),
            disk: &mut self.disk,
            plans: &mut self.plans,
            files_lost: self.files_lost && first.is_none(),
            dies: death == Some(Death::Record),
        };
        commit.run(&mut clerk, first, |_, _| {}).await
    }

    /// As the worker and `tier::committer` do.
    fn conclude(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Committed { commit_id, snapshot_id, recorded } => {
                let prepared = self.prepared.take().unwrap();
                self.entry.committed(commit_id, snapshot_id, 0, &prepared).unwrap();
                self.moved = false;
                if !recorded {
                    self.write();
                }
                self.check_none_lost();
            }
            Outcome::FilesMissing(_) => {
                let prepared = self.prepared.take().unwrap();
                self.entry.unprepare(&prepared);
                self.write();
            }
            Outcome::Later(_) => {}
            Outcome::Stopped(verdict) => {
                let state = match verdict {
                    Verdict::LogBehind(_) => StopState::LogBehind,
                    Verdict::RolledBack(_) => StopState::RolledBack,
                    Verdict::LedgerGap(_) => StopState::LedgerGap,
                    other => panic!("{other:?}"),
                };
                self.entry.stop(state, "found");
            }
            Outcome::Missing(_) => self.entry.stop(StopState::TableDropped, "gone"),
            Outcome::Refused(reason) => panic!("{reason}"),
        }
    }

    /// A person resumes the table where it says that it ends, or starts a new one with all rows.
    pub(super) async fn resume(&mut self) {
        let Some(stop) = self.entry.stop.clone() else { return };
        self.prepared = None;
        if matches!(stop.state, StopState::RolledBack | StopState::LedgerGap) {
            let found = newest(&self.catalog.metadata(&self.name), self.entry.writer());
            self.entry.resume(found.ends.unwrap_or_default(), vec![], Some(found.accepted));
            self.write();
        } else {
            self.entry.resume(Ends::new(), vec![], None);
            self.make_table().await;
        }
    }
}
