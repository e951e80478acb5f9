//! The guard against one who saw everything that was ever done to the table.

use std::collections::HashMap;

use iceberg::spec::TableMetadata;
use proptest::prelude::*;

use crate::table::commit::newest::newest;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    /// The outstanding entry is tried: whether it is applied, and whether we hear of it.
    Ours {
        applied: bool,
        heard: bool,
    },
    Foreign,
    Expire,
    /// Moves the branch to one of the snapshots that are there.
    Rollback(usize),
    /// A restored backup or a second copy commits.
    Stranger,
    /// Another generation of ours commits: an older one, or a newer one.
    Generation {
        newer: bool,
    },
    ForeignProperty,
    DropProperty,
    Replace,
    /// A person goes on from what the table says, if it stands still.
    Resume,
}

fn any_act() -> impl Strategy<Value = Act> {
    let ours = (any::<bool>(), any::<bool>())
        .prop_map(|(applied, heard)| Act::Ours { applied, heard: heard && applied });
    prop_oneof![
        12 => ours,
        5 => Just(Act::Foreign),
        4 => Just(Act::Expire),
        4 => any::<usize>().prop_map(Act::Rollback),
        1 => Just(Act::Stranger),
        1 => any::<bool>().prop_map(|newer| Act::Generation { newer }),
        1 => Just(Act::ForeignProperty),
        1 => Just(Act::DropProperty),
        1 => Just(Act::Replace),
        4 => Just(Act::Resume),
    ]
}

/// What one snapshot is, and where it comes from.
#[derive(Debug, Clone, Copy)]
struct Seen {
    parent: Option<i64>,
    /// Generation and commit id, if it is of our topic.
    mark: Option<(u32, Uuid)>,
}

struct World {
    catalog: FakeCatalog,
    /// Every snapshot that ever was.
    snapshots: HashMap<i64, Seen>,
    next_id: u128,
    /// Our generation, and of it what is recorded as committed, newest last, and outstanding.
    generation: u32,
    committed: Vec<Uuid>,
    attempts: Vec<Uuid>,
    ends: i64,
    table_uuid: Uuid,
    /// The truth that no metadata tells any more: the branch was moved and the proof has expired.
    blurred: bool,
    moved: bool,
    /// The property was removed: without history nothing says what a new ledger missed.
    dropped: bool,
    /// What the last resume saw, and what was the newest of our commits then.
    accepted: Option<Accepted>,
    resumed_at: Option<Uuid>,
}

impl World {
    async fn new() -> Self {
        let catalog = catalog_with(&["orders"], true).await;
        let table_uuid = catalog.metadata(&ident("orders")).uuid();
        Self {
            catalog,
            snapshots: HashMap::new(),
            next_id: 100,
            generation: 1,
            committed: Vec::new(),
            attempts: Vec::new(),
            ends: 0,
            table_uuid,
            blurred: false,
            moved: false,
            dropped: false,
            accepted: None,
            resumed_at: None,
        }
    }

    fn metadata(&self) -> Arc<TableMetadata> {
        self.catalog.metadata(&ident("orders"))
    }

    fn fresh(&mut self) -> Uuid {
        self.next_id += 1;
        Uuid::from_u128(self.next_id)
    }

    fn look(&mut self, mark: Option<(u32, Uuid)>) {
        for snapshot in self.metadata().snapshots() {
            let parent = snapshot.parent_snapshot_id();
            self.snapshots.entry(snapshot.snapshot_id()).or_insert(Seen { parent, mark });
        }
    }

    fn commit(&mut self, generation: u32, id: Uuid, end: i64) {
        let metadata = self.metadata();
        let ends = Ends::from([(0, end)]);
        let updates = statement_updates(&metadata, source(generation), id, &ends).1;
        self.catalog.alter(&ident("orders"), updates);
        self.look(Some((generation, id)));
    }

    async fn act(&mut self, act: &Act) {
        let name = ident("orders");
        match act {
            Act::Ours { applied, heard } => {
                let id = self.fresh();
                self.attempts.push(id);
                if *applied {
                    self.commit(self.generation, id, self.ends + 10);
                }
                if *heard {
                    self.committed.push(id);
                    self.attempts.clear();
                    self.ends += 10;
                }
            }
            Act::Foreign => {
                self.catalog.foreign_append(&name);
                self.look(None);
            }
            Act::Expire => {
                self.catalog.expire(&name);
                let head = self.metadata().current_snapshot_id();
                let seen = head.and_then(|id| self.snapshots.get(&id));
                let marked =
                    seen.is_some_and(|seen| seen.mark.is_some_and(|mark| self.is_own(mark)));
                let is_known = self.committed.is_empty()
                    && self.accepted.is_some_and(|accepted| accepted.snapshot_id == head);
                self.blurred |= self.moved && !marked && !is_known;
            }
            Act::Rollback(number) => {
                let mut ids: Vec<i64> =
                    self.metadata().snapshots().map(|one| one.snapshot_id()).collect();
                ids.sort_unstable();
                if let Some(at) = number.checked_rem(ids.len()) {
                    self.moved |= self.metadata().current_snapshot_id() != Some(ids[at]);
                    self.catalog.roll_back(&name, ids[at]);
                }
            }
            Act::Stranger => {
                let id = self.fresh();
                self.commit(self.generation, id, self.ends + 10);
            }
            Act::Generation { newer } => {
                let id = self.fresh();
                let generation = self.generation;
                self.commit(if *newer { generation + 1 } else { generation - 1 }, id, 7);
            }
            Act::ForeignProperty => {
                let updates = [("owner".to_owned(), "somebody".to_owned())].into();
                self.catalog.alter(&name, vec![TableUpdate::SetProperties { updates }]);
            }
            Act::DropProperty => {
                self.dropped = true;
                let removals = (0..=self.generation).map(|one| source(one).property()).collect();
                self.catalog.alter(&name, vec![TableUpdate::RemoveProperties { removals }]);
            }
            Act::Resume => self.resume(),
            Act::Replace => {
                self.catalog.drop_table(&name);
                let other = catalog_with(&["orders"], true).await;
                self.catalog = other;
                self.snapshots.clear();
            }
        }
    }

    fn resume(&mut self) {
        if !["rolled back", "ledger gap"].contains(&self.verdict()) {
            return;
        }
        let found = newest(&self.metadata(), source(1).writer);
        self.resumed_at = self.branch().first().map(|(_, id)| *id);
        self.accepted = Some(found.accepted);
        self.ends = found.ends.unwrap_or_default().get(&0).copied().unwrap_or(0);
        self.generation += 1;
        self.committed.clear();
        self.attempts.clear();
    }

    fn is_own(&self, (generation, _): (u32, Uuid)) -> bool {
        generation == self.generation
    }

    /// Whether the branch shows the head that the resume saw, its newest commit, or its root.
    fn shows_accepted(&self, accepted: Accepted) -> bool {
        let metadata = self.metadata();
        let mut next = metadata.current_snapshot_id();
        while let Some(id) = next {
            let Some(snapshot) = metadata.snapshot_by_id(id) else { return false };
            let mark = self.snapshots[&id].mark.map(|(_, commit_id)| commit_id);
            if Some(id) == accepted.snapshot_id || (mark.is_some() && mark == accepted.commit_id) {
                return true;
            }
            next = snapshot.parent_snapshot_id();
        }
        true
    }

    /// Without the property a ledger that knows of no commit cannot know of one that has expired.
    fn is_blind(&self) -> bool {
        let metadata = self.metadata();
        let mut next = metadata.current_snapshot_id();
        while let Some(snapshot) = next.and_then(|id| metadata.snapshot_by_id(id)) {
            let seen = self.snapshots.get(&snapshot.snapshot_id());
            if seen.is_some_and(|seen| seen.mark.is_some_and(|mark| self.is_own(mark))) {
                return false;
            }
            next = snapshot.parent_snapshot_id();
        }
        self.dropped && self.committed.is_empty() && next.is_some()
    }

    /// Marks of our topic on the branch, newest first, expired snapshots included.
    fn branch(&self) -> Vec<(u32, Uuid)> {
        let mut next = self.metadata().current_snapshot_id();
        let mut marks = Vec::new();
        while let Some(seen) = next.and_then(|id| self.snapshots.get(&id)) {
            marks.extend(seen.mark);
            next = seen.parent;
        }
        marks
    }

    /// What whoever saw everything says.
    fn truth(&self) -> &'static str {
        if self.metadata().uuid() != self.table_uuid {
            return "replaced";
        }
        let branch = self.branch();
        if branch.iter().any(|(generation, _)| *generation > self.generation) {
            return "log behind";
        }
        let newest = branch.iter().find(|mark| self.is_own(**mark)).map(|(_, id)| *id);
        let last = self.committed.last().copied();
        let is_moved = self.accepted.is_some()
            && self.resumed_at != branch.first().map(|(_, commit_id)| *commit_id);
        match newest {
            None if last.is_none() && is_moved => "rolled back",
            None if last.is_none() => "go",
            None => "rolled back",
            Some(id) if self.attempts.contains(&id) => "done",
            Some(id) if Some(id) == last => "go",
            Some(id) if self.committed.contains(&id) => "rolled back",
            Some(_) => "log behind",
        }
    }

    fn settle(&mut self) {
        let branch = self.branch();
        let newest = branch.iter().find(|mark| self.is_own(**mark)).map(|(_, id)| *id);
        if self.verdict() == "done" && self.truth() == "done" {
            self.committed.extend(newest);
            self.attempts.clear();
            self.ends += 10;
        }
    }

    fn verdict(&self) -> &'static str {
        let ends = Ends::from_iter((self.ends > 0).then_some((0, self.ends)));
        let view = LedgerView {
            source: source(self.generation),
            table_uuid: self.table_uuid,
            last: self.committed.last().copied(),
            ends: &ends,
            attempts: &self.attempts,
            accepted: self.accepted.filter(|_| self.committed.is_empty()),
        };
        match name_of(&guard::evaluate(&self.metadata(), view)) {
            "done, expired" => "done",
            name => name,
        }
    }
}

/// Whether `verdict` is right where `truth` is so. To go on and to be done are never wrong; of
/// several reasons to stop any may be named.
fn agrees(world: &World, truth: &str, verdict: &str) -> bool {
    let stops = ["rolled back", "log behind", "ledger gap", "replaced"];
    if truth == verdict {
        return true;
    }
    if stops.contains(&truth) {
        return stops.contains(&verdict);
    }
    // Somebody took away or changed what we go by: then a stop is right.
    let newest = world.branch().first().copied();
    let metadata = world.metadata();
    let property = metadata.properties().get(&source(world.generation).property()).cloned();
    let newer = metadata.properties().contains_key(&source(world.generation + 1).property());
    let is_blurred = match world.accepted.filter(|_| world.committed.is_empty()) {
        // Nothing of this generation yet: what the resume saw has expired, or an attempt of ours
        // was rolled back.
        Some(accepted) => property.is_some() || !world.shows_accepted(accepted),
        None => {
            property.is_none_or(|text| newest.is_none_or(|(_, id)| !text.contains(&id.to_string())))
        }
    };
    stops.contains(&verdict) && (is_blurred || newer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn the_guard_agrees_with_whoever_saw_everything(
        acts in prop::collection::vec(any_act(), 0..16),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut world = runtime.block_on(World::new());
        for act in &acts {
            if matches!(act, Act::Ours { .. }) {
                // What was not heard of is settled first; a worker that stops does not go on.
                world.settle();
                if world.verdict() != "go" {
                    continue;
                }
            }
            runtime.block_on(world.act(act));
            // A branch that was moved to an older commit of ours and lost its history looks like
            // one that was not: its property is the newest. Nothing in the table says otherwise.
            if world.blurred || world.is_blind() {
                break;
            }
            let (truth, verdict) = (world.truth(), world.verdict());
            prop_assert!(agrees(&world, truth, verdict), "{}: the truth is {truth}, the guard says {verdict}", world.attempts.len());
        }
    }
}

/// The verdict on a table where `last` was committed with an end of 10.
fn verdict_on(catalog: &FakeCatalog, last: Uuid) -> &'static str {
    let metadata = catalog.metadata(&ident("orders"));
    let ends = Ends::from([(0, 10)]);
    let view = LedgerView {
        source: source(1),
        table_uuid: metadata.uuid(),
        last: Some(last),
        ends: &ends,
        attempts: &[],
        accepted: None,
    };
    name_of(&guard::evaluate(&metadata, view))
}

#[tokio::test]
async fn a_branch_moved_back_to_where_history_has_expired_is_a_rollback() {
    let catalog = table_after(&[Event::Foreign, Event::Foreign, Event::Expire]).await;
    let name = ident("orders");
    let foreign = catalog.metadata(&name).current_snapshot_id().unwrap();
    let metadata = catalog.metadata(&name);
    let ends = Ends::from([(0, 10)]);
    catalog.alter(&name, statement_updates(&metadata, source(1), FIRST, &ends).1);
    assert_eq!(verdict_on(&catalog, FIRST), "go");
    catalog.roll_back(&name, foreign);
    assert_eq!(verdict_on(&catalog, FIRST), "rolled back");
    // Its rows began at 0: from there on they are written again.
    let ends = newest(&catalog.metadata(&name), source(1).writer).ends;
    assert_eq!(ends, Some(Ends::from([(0, 0)])));
}

#[tokio::test]
async fn an_old_snapshot_that_somebody_keeps_is_no_rollback() {
    let catalog = table_after(&[Event::Ours(FIRST), Event::Foreign]).await;
    let name = ident("orders");
    let between = catalog.metadata(&name).current_snapshot_id().unwrap();
    catalog.foreign_append(&name);
    // A tag keeps ours, what came after it has expired.
    catalog.alter(&name, vec![TableUpdate::RemoveSnapshots { snapshot_ids: vec![between] }]);
    assert_eq!(verdict_on(&catalog, FIRST), "go");
    let ends = newest(&catalog.metadata(&name), source(1).writer).ends;
    assert_eq!(ends, Some(Ends::from([(0, 10)])));
}

/// The verdict on a table for a generation that a resume began with what it found there.
fn verdict_after(catalog: &FakeCatalog, accepted: Accepted, end: i64) -> &'static str {
    let metadata = catalog.metadata(&ident("orders"));
    let ends = Ends::from([(0, end)]);
    let view = LedgerView {
        source: source(2),
        table_uuid: metadata.uuid(),
        last: None,
        ends: &ends,
        attempts: &[SECOND],
        accepted: Some(accepted),
    };
    name_of(&guard::evaluate(&metadata, view))
}

#[tokio::test]
async fn until_the_first_commit_the_branch_must_be_where_the_resume_found_it() {
    let name = ident("orders");
    let writer = source(1).writer;
    let catalog = catalog_with(&["orders"], true).await;
    catalog.foreign_append(&name);
    let mut heads = vec![catalog.metadata(&name).current_snapshot_id().unwrap()];
    for (id, end) in [(FIRST, 10), (OTHER, 20)] {
        let ends = Ends::from([(0, end)]);
        let (head, updates) = statement_updates(&catalog.metadata(&name), source(1), id, &ends);
        catalog.alter(&name, updates);
        heads.push(head);
    }
    let cases = [
        ("where it was", 1, 10, 1, "go"),
        ("forward to what was taken away", 1, 10, 2, "ledger gap"),
        ("further back", 1, 10, 0, "rolled back"),
        ("forward, the rows are left out", 1, 20, 2, "rolled back"),
        ("nothing of ours, as it was", 0, 0, 0, "go"),
        ("nothing of ours, then forward", 0, 0, 1, "ledger gap"),
    ];
    for (case, seen, end, then, expected) in cases {
        catalog.roll_back(&name, heads[seen]);
        let found = newest(&catalog.metadata(&name), writer);
        catalog.roll_back(&name, heads[then]);
        catalog.foreign_append(&name);
        assert_eq!(verdict_after(&catalog, found.accepted, end), expected, "{case}");
    }
    // What the resume saw has expired under rows of others: the property decides if it can.
    catalog.roll_back(&name, heads[2]);
    let latest = newest(&catalog.metadata(&name), writer).accepted;
    catalog.roll_back(&name, heads[1]);
    let older = newest(&catalog.metadata(&name), writer).accepted;
    catalog.foreign_append(&name);
    catalog.expire(&name);
    assert_eq!(verdict_after(&catalog, older, 10), "ledger gap");
    assert_eq!(verdict_after(&catalog, latest, 20), "go");
}
