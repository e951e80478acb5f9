//! The guard by tables, the loop against a catalog that lies.

use std::sync::Arc;

use iceberg::spec::MAIN_BRANCH;
use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};
use iceberg::{NamespaceIdent, TableRequirement, TableUpdate};

use crate::store::Space;
use crate::table::catalog::NewTable;
use crate::table::commit::fake::Answer;
use crate::table::commit::fake::FakeCatalog;
use crate::table::commit::fake::append;
use crate::table::commit::marker::Ends;
use crate::table::commit::marker::Range;
use crate::table::commit::marker::Source;
use crate::table::commit::marker::Statement;
use crate::table::commit::marker::Writer;
use crate::table::commit::newest::Accepted;
use crate::types::TopicId;

use super::*;

mod histories;
mod letters_taken;
mod scripts;
mod verdicts;

const FIRST: Uuid = Uuid::from_u128(1);
const SECOND: Uuid = Uuid::from_u128(2);
const OTHER: Uuid = Uuid::from_u128(3);

fn ident(name: &str) -> TableIdent {
    TableIdent::new(NamespaceIdent::new("streams".to_owned()), name.to_owned())
}

fn source(generation: u32) -> Source {
    Source { writer: Writer::topic(TopicId(Uuid::from_u128(77))), generation }
}

async fn catalog_with(names: &[&str], with_state: bool) -> FakeCatalog {
    let catalog = FakeCatalog::new(with_state);
    for name in names {
        let field = NestedField::optional(1, "a", Type::Primitive(PrimitiveType::Long));
        let new = NewTable {
            ident: ident(name),
            schema: Schema::builder().with_fields([Arc::new(field)]).build().unwrap(),
            spec: None,
            sort_order: None,
            location: None,
            properties: std::collections::HashMap::new(),
        };
        catalog.create(new).await.unwrap();
    }
    catalog
}

fn statement_updates(
    base: &iceberg::spec::TableMetadata,
    source: Source,
    commit_id: Uuid,
    ends: &Ends,
) -> (i64, Vec<TableUpdate>) {
    let more = [("rows", "1"), ("dlq-rows", "3")];
    let more = more.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let ranges = [Range { partition: 0, base: 0, end: 1 }];
    let statement = Statement {
        source,
        commit_id,
        cluster_id: "c",
        topic_name: "orders",
        ranges: &ranges,
        gaps: &[],
        ends,
        more: &more,
    };
    let id = i64::from_be_bytes(Uuid::new_v4().as_bytes()[..8].try_into().unwrap()) & i64::MAX;
    let (snapshot_id, mut updates) = append(base, statement.summary(), id);
    let (key, value) = statement.property();
    updates.push(TableUpdate::SetProperties { updates: [(key, value)].into() });
    (snapshot_id, updates)
}

/// What happens to a table before the guard looks.
#[derive(Clone, Copy)]
enum Event {
    Ours(Uuid),
    OursOfGeneration(u32, Uuid),
    Foreign,
    Rollback(usize),
    Expire,
    DropProperty,
    BreakProperty,
}

async fn table_after(events: &[Event]) -> FakeCatalog {
    let catalog = catalog_with(&["orders"], true).await;
    let name = ident("orders");
    let mut ours = Vec::new();
    for event in events {
        let metadata = catalog.metadata(&name);
        let commit = |generation, id| {
            statement_updates(&metadata, source(generation), id, &Ends::from([(0, 10)]))
        };
        match *event {
            Event::Ours(id) => {
                let (snapshot, updates) = commit(1, id);
                ours.push(snapshot);
                catalog.alter(&name, updates);
            }
            Event::OursOfGeneration(generation, id) => {
                catalog.alter(&name, commit(generation, id).1)
            }
            Event::Foreign => catalog.foreign_append(&name),
            Event::Rollback(index) => catalog.roll_back(&name, ours[index]),
            Event::Expire => catalog.expire(&name),
            Event::DropProperty => {
                let removals = vec![source(1).property()];
                catalog.alter(&name, vec![TableUpdate::RemoveProperties { removals }]);
            }
            Event::BreakProperty => {
                let updates = [(source(1).property(), "{".to_owned())].into();
                catalog.alter(&name, vec![TableUpdate::SetProperties { updates }]);
            }
        }
    }
    catalog
}

fn name_of(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Go => "go",
        Verdict::Done { snapshot_id: Some(_), .. } => "done",
        Verdict::Done { snapshot_id: None, .. } => "done, expired",
        Verdict::LogBehind(_) => "log behind",
        Verdict::RolledBack(_) => "rolled back",
        Verdict::Replaced(_) => "replaced",
        Verdict::LedgerGap(_) => "ledger gap",
    }
}

/// A ledger in memory.
struct FakeSteps {
    table_uuid: Uuid,
    last: Option<Uuid>,
    ends: Ends,
    attempts: Vec<Uuid>,
    discarded: Vec<String>,
    built: u32,
    taken_away: Vec<TakenAway>,
}

#[async_trait]
impl Steps for FakeSteps {
    fn view(&self) -> LedgerView<'_> {
        LedgerView {
            source: source(1),
            table_uuid: self.table_uuid,
            last: self.last,
            ends: &self.ends,
            attempts: &self.attempts,
            accepted: None,
        }
    }

    async fn record_attempt(&mut self, commit_id: Uuid) -> Result<(), String> {
        self.attempts.push(commit_id);
        Ok(())
    }

    async fn record_taken_away(&mut self, lost: TakenAway) -> Result<(), String> {
        self.taken_away.push(lost);
        Ok(())
    }

    async fn build(
        &mut self,
        role: Role,
        base: &LoadedTable,
        commit_id: Uuid,
    ) -> Result<Built, BuildError> {
        assert!(self.attempts.contains(&commit_id), "an attempt is recorded before it is sent");
        self.built += 1;
        let after = Ends::from([(0, 20)]);
        let (snapshot_id, updates) =
            statement_updates(&base.metadata, source(1), commit_id, &after);
        let requirements = vec![
            TableRequirement::UuidMatch { uuid: base.metadata.uuid() },
            TableRequirement::RefSnapshotIdMatch {
                r#ref: MAIN_BRANCH.to_owned(),
                snapshot_id: base.metadata.current_snapshot_id(),
            },
        ];
        let change = TableChange { ident: base.ident.clone(), requirements, updates };
        Ok(Built { change, snapshot_id, files: vec![format!("{role:?}-{}", self.built)] })
    }

    fn committed(&self, commit_id: Uuid, _snapshot_id: i64) -> Result<Change, String> {
        Ok(Change::new().put(Space::Ledger, "entry", commit_id.to_string()))
    }

    async fn discard(&mut self, files: &[String]) {
        self.discarded.extend_from_slice(files);
    }
}

fn quick() -> Retry {
    let millisecond = Duration::from_millis(1);
    Retry { pause_min: millisecond, pause_max: millisecond, ..Retry::default() }
}

async fn run(
    catalog: &FakeCatalog,
    dead_letters: bool,
    answers: &[Answer],
) -> (Outcome, FakeSteps) {
    let mut steps = FakeSteps {
        table_uuid: catalog.metadata(&ident("orders")).uuid(),
        last: None,
        ends: Ends::new(),
        attempts: vec![FIRST],
        discarded: vec![],
        built: 0,
        taken_away: vec![],
    };
    catalog.script(answers);
    let (main, dlq) = (ident("orders"), ident("orders__dlq"));
    let commit = Commit {
        catalog,
        main: &main,
        dead_letters: dead_letters.then_some(&dlq),
        retry: quick(),
        fail_points: &FailPoints::none(),
    };
    let outcome = commit.run(&mut steps, Some(FIRST), |_, _| {}).await;
    (outcome, steps)
}

fn commits_in(catalog: &FakeCatalog, name: &str) -> usize {
    let metadata = catalog.metadata(&ident(name));
    let ours = |snapshot: &iceberg::spec::SnapshotRef| {
        snapshot.summary().additional_properties.contains_key(marker::COMMIT_ID)
    };
    metadata.snapshots().filter(|snapshot| ours(snapshot)).count()
}

#[tokio::test]
async fn every_answer_leads_to_exactly_one_commit() {
    use Answer::{Conflict, DoubleDelivery, ForeignFirst, Honest, LostReply, LostRequest};
    let cases: Vec<(&str, Vec<Answer>, usize)> = vec![
        ("plain", vec![Honest], 1),
        ("conflict", vec![Conflict, Conflict, Honest], 3),
        ("foreign append between", vec![ForeignFirst], 2),
        ("reply lost, applied", vec![LostReply], 1),
        ("request lost", vec![LostRequest, Honest], 2),
        ("delivered twice", vec![DoubleDelivery], 1),
        ("all of it", vec![LostRequest, ForeignFirst, LostRequest, LostReply], 4),
    ];
    for with_state in [true, false] {
        for (name, answers, attempts) in &cases {
            let catalog = catalog_with(&["orders"], with_state).await;
            let (outcome, steps) = run(&catalog, false, answers).await;
            let Outcome::Committed { commit_id, snapshot_id, .. } = outcome else {
                panic!("{name}: {outcome:?}");
            };
            assert_eq!(commits_in(&catalog, "orders"), 1, "{name}");
            assert_eq!(steps.attempts.len(), *attempts, "{name}");
            assert!(steps.attempts.contains(&commit_id), "{name}");
            assert!(snapshot_id.is_some(), "{name}");
        }
    }
}

#[tokio::test]
async fn only_files_of_attempts_that_did_not_happen_are_removed() {
    let catalog = catalog_with(&["orders"], true).await;
    let (_, steps) = run(&catalog, false, &[Answer::Conflict, Answer::DoubleDelivery]).await;
    assert_eq!(steps.discarded, ["Main-1"]);
    let catalog = catalog_with(&["orders"], true).await;
    let (_, steps) = run(&catalog, false, &[Answer::LostRequest, Answer::LostReply]).await;
    assert!(steps.discarded.is_empty(), "an unknown outcome keeps its files");
}

#[tokio::test]
async fn dead_letters_are_in_their_table_exactly_once() {
    use Answer::{Conflict, DoubleDelivery, Honest, LostReply, LostRequest};
    // Without common state the first answer is the dead-letter table's.
    let scripts: Vec<Vec<Answer>> = vec![
        vec![],
        vec![LostReply],
        vec![LostRequest],
        vec![Honest, LostReply],
        vec![Honest, LostRequest],
        vec![Honest, Conflict, Honest],
        vec![DoubleDelivery, Conflict],
        vec![Conflict, Honest, Conflict],
    ];
    for with_state in [true, false] {
        for script in &scripts {
            let catalog = catalog_with(&["orders", "orders__dlq"], with_state).await;
            let (outcome, _) = run(&catalog, true, script).await;
            assert!(matches!(outcome, Outcome::Committed { .. }), "{script:?}: {outcome:?}");
            assert_eq!(commits_in(&catalog, "orders"), 1, "{script:?}");
            assert_eq!(commits_in(&catalog, "orders__dlq"), 1, "{script:?}");
        }
    }
}

#[tokio::test]
async fn the_ledger_goes_with_the_pointer_where_it_can() {
    let catalog = catalog_with(&["orders"], true).await;
    let (outcome, _) = run(&catalog, false, &[]).await;
    assert!(matches!(outcome, Outcome::Committed { recorded: true, .. }));
    assert_eq!(catalog.applied.lock().unwrap()[0].ops.len(), 1);
    let catalog = catalog_with(&["orders"], false).await;
    let (outcome, _) = run(&catalog, false, &[]).await;
    assert!(matches!(outcome, Outcome::Committed { recorded: false, .. }));
    assert!(catalog.applied.lock().unwrap()[0].ops.is_empty());
}

#[tokio::test]
async fn definite_answers_end_the_loop() {
    let catalog = catalog_with(&["orders"], true).await;
    let (outcome, _) = run(&catalog, false, &[Answer::Invalid]).await;
    assert!(matches!(outcome, Outcome::Refused(_)));
    let (outcome, _) = run(&catalog, true, &[]).await;
    assert_eq!(outcome, Outcome::Missing(Role::DeadLetters));
    let (outcome, _) = run(&catalog, false, &[Answer::LostRequest; 20]).await;
    assert!(matches!(outcome, Outcome::Later(_)));
    let uuid = catalog.metadata(&ident("orders")).uuid();
    catalog.drop_table(&ident("orders"));
    let mut steps = FakeSteps {
        table_uuid: uuid,
        last: None,
        ends: Ends::new(),
        attempts: vec![],
        discarded: vec![],
        built: 0,
        taken_away: vec![],
    };
    let main = ident("orders");
    let commit = Commit {
        catalog: &catalog,
        main: &main,
        dead_letters: None,
        retry: quick(),
        fail_points: &FailPoints::none(),
    };
    let outcome = commit.run(&mut steps, None, |_, _| {}).await;
    assert_eq!(outcome, Outcome::Missing(Role::Main));
}

#[tokio::test]
async fn a_crash_around_the_commit_is_settled_by_the_next_run() {
    for (point, expected) in [("tier.before_commit", 0), ("tier.after_commit", 1)] {
        let catalog = catalog_with(&["orders"], false).await;
        let fail_points = FailPoints::none();
        fail_points.set(point, || Err("crash".to_owned()));
        let main = ident("orders");
        let mut steps = FakeSteps {
            table_uuid: catalog.metadata(&main).uuid(),
            last: None,
            ends: Ends::new(),
            attempts: vec![FIRST],
            discarded: vec![],
            built: 0,
            taken_away: vec![],
        };
        let commit = Commit {
            catalog: &catalog,
            main: &main,
            dead_letters: None,
            retry: quick(),
            fail_points: &fail_points,
        };
        let outcome = commit.run(&mut steps, Some(FIRST), |_, _| {}).await;
        assert!(matches!(outcome, Outcome::Later(_)), "{point}: {outcome:?}");
        assert_eq!(commits_in(&catalog, "orders"), expected, "{point}");
        fail_points.clear(point);
        let outcome = commit.run(&mut steps, None, |_, _| {}).await;
        assert!(matches!(outcome, Outcome::Committed { .. }), "{point}: {outcome:?}");
        assert_eq!(commits_in(&catalog, "orders"), 1, "{point}");
    }
}

#[tokio::test]
async fn a_rollback_of_the_dead_letters_is_recorded_before_the_next_commit_hides_it() {
    for with_state in [true, false] {
        let catalog = catalog_with(&["orders", "orders__dlq"], with_state).await;
        let dlq = ident("orders__dlq");
        let mut heads = Vec::new();
        for id in [SECOND, OTHER] {
            let metadata = catalog.metadata(&dlq);
            let (head, updates) = statement_updates(&metadata, source(1), id, &Ends::new());
            catalog.alter(&dlq, updates);
            heads.push(head);
        }
        catalog.roll_back(&dlq, heads[0]);
        let (outcome, steps) = run(&catalog, true, &[Answer::LostRequest]).await;
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
        let lost = TakenAway { newest: OTHER, rows: 3 };
        assert!(!steps.taken_away.is_empty());
        assert!(steps.taken_away.iter().all(|one| *one == lost), "{:?}", steps.taken_away);
        let metadata = catalog.metadata(&dlq);
        assert_eq!(letters::taken_away(&metadata, source(1).writer, &[]), None);
    }
}
