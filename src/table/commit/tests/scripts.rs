//! The loop against every kind of answer in any order, and a table that others work on.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Honest),
        Just(Answer::Conflict),
        Just(Answer::LostReply),
        Just(Answer::LostRequest),
        Just(Answer::DoubleDelivery),
        Just(Answer::ForeignFirst),
        Just(Answer::Late),
    ]
}

/// A ledger in memory that remembers which files are whose.
struct Scribe {
    inner: FakeSteps,
    files: Vec<(Uuid, Role, Vec<String>)>,
}

#[async_trait]
impl Steps for Scribe {
    fn view(&self) -> LedgerView<'_> {
        self.inner.view()
    }

    async fn record_attempt(&mut self, commit_id: Uuid) -> Result<(), String> {
        self.inner.record_attempt(commit_id).await
    }

    async fn record_taken_away(&mut self, lost: TakenAway) -> Result<(), String> {
        self.inner.record_taken_away(lost).await
    }

    async fn build(
        &mut self,
        role: Role,
        base: &LoadedTable,
        commit_id: Uuid,
    ) -> Result<Built, BuildError> {
        let built = self.inner.build(role, base, commit_id).await?;
        self.files.push((commit_id, role, built.files.clone()));
        Ok(built)
    }

    fn committed(&self, commit_id: Uuid, snapshot_id: i64) -> Result<Change, String> {
        self.inner.committed(commit_id, snapshot_id)
    }

    async fn discard(&mut self, files: &[String]) {
        self.inner.discard(files).await;
    }
}

/// Commit ids of ours in a table, in any of its snapshots.
fn ours_in(catalog: &FakeCatalog, name: &str) -> Vec<Uuid> {
    let metadata = catalog.metadata(&ident(name));
    let id = |snapshot: &iceberg::spec::SnapshotRef| {
        snapshot.summary().additional_properties.get(marker::COMMIT_ID)?.parse().ok()
    };
    metadata.snapshots().filter_map(id).collect()
}

fn scribe(catalog: &FakeCatalog) -> Scribe {
    let inner = FakeSteps {
        table_uuid: catalog.metadata(&ident("orders")).uuid(),
        last: None,
        ends: Ends::new(),
        attempts: vec![FIRST],
        discarded: vec![],
        built: 0,
        taken_away: vec![],
    };
    Scribe { inner, files: Vec::new() }
}

struct Script {
    answers: Vec<Answer>,
    with_state: bool,
    dead_letters: bool,
    tries_max: u32,
    invalid_at: Option<usize>,
}

async fn play(script: Script) {
    let catalog = catalog_with(&["orders", "orders__dlq"], script.with_state).await;
    let mut answers = script.answers;
    if let Some(at) = script.invalid_at.filter(|at| *at < answers.len()) {
        answers[at] = Answer::Invalid;
    }
    catalog.script(&answers);
    let mut scribe = scribe(&catalog);
    let (main, dlq) = (ident("orders"), ident("orders__dlq"));
    let commit = Commit {
        catalog: &catalog,
        main: &main,
        dead_letters: script.dead_letters.then_some(&dlq),
        retry: Retry { tries_max: script.tries_max, pause_max: Duration::ZERO, ..quick() },
        fail_points: &FailPoints::none(),
    };
    let mut first = Some(FIRST);
    // A `Later` is taken up again by the next run, which no attempt of before may disturb.
    for _ in 0..20 {
        let outcome = commit.run(&mut scribe, first.take(), |_, _| {}).await;
        let (rows, dlq_rows) = (ours_in(&catalog, "orders"), ours_in(&catalog, "orders__dlq"));
        assert!(rows.len() <= 1 && dlq_rows.len() <= 1, "{answers:?}: {rows:?} {dlq_rows:?}");
        // Whatever an unknown attempt or a snapshot of the table refers to is still there.
        let live: HashSet<&String> = scribe
            .files
            .iter()
            .filter(|(id, role, _)| match role {
                Role::Main => rows.contains(id),
                Role::DeadLetters => dlq_rows.contains(id),
            })
            .flat_map(|(.., files)| files)
            .collect();
        assert!(!scribe.inner.discarded.iter().any(|path| live.contains(path)), "{answers:?}");
        match outcome {
            Outcome::Committed { commit_id, .. } => {
                assert_eq!(rows, [commit_id], "{answers:?}");
                assert_eq!(dlq_rows.len(), usize::from(script.dead_letters), "{answers:?}");
                // What comes in late now finds another head.
                catalog.deliver_late();
                assert_eq!(ours_in(&catalog, "orders"), rows, "{answers:?}");
                return;
            }
            Outcome::Refused(_) => {
                assert!(answers.contains(&Answer::Invalid), "{answers:?}");
                // Only what came late can be there: nobody could see it yet.
                assert!(rows.is_empty() || answers.contains(&Answer::Late), "{answers:?}");
                return;
            }
            Outcome::Later(_) => {}
            other => panic!("{answers:?}: {other:?}"),
        }
    }
    panic!("{answers:?} never ends");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn any_script_of_answers_leads_to_one_snapshot_or_a_definite_error(
        answers in prop::collection::vec(any_answer(), 0..14),
        with_state in any::<bool>(),
        dead_letters in any::<bool>(),
        tries_max in 1_u32..9,
        invalid_at in prop::option::weighted(0.2, 0..14_usize),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let script = Script { answers, with_state, dead_letters, tries_max, invalid_at };
        runtime.block_on(play(script));
    }
}
