//! What a rollback took out of a dead-letter table, case by case.

use super::*;

/// What is done to the table, in order.
#[derive(Clone, Copy)]
enum Step {
    /// A commit of ours with three dead letters.
    Ours(Uuid),
    Foreign,
    /// The branch goes back to the snapshot of this number, all counted.
    Back(usize),
    Expire,
}

fn lost(newest: Uuid, rows: u64) -> Option<TakenAway> {
    Some(TakenAway { newest, rows })
}

#[tokio::test]
async fn rows_that_are_not_on_the_branch_any_more_are_counted() {
    use Step::{Back, Expire, Foreign, Ours};
    type Case = (&'static str, Vec<Step>, Vec<Uuid>, Option<TakenAway>);
    let cases: Vec<Case> = vec![
        ("no commit", vec![Foreign], vec![], None),
        ("as it was", vec![Ours(FIRST), Ours(SECOND), Foreign], vec![], None),
        ("one commit", vec![Ours(FIRST), Ours(SECOND), Back(0)], vec![], lost(SECOND, 3)),
        (
            "two commits, others above",
            vec![Foreign, Ours(FIRST), Ours(SECOND), Back(0), Foreign],
            vec![],
            lost(SECOND, 6),
        ),
        (
            "an attempt that is tried again",
            vec![Ours(FIRST), Ours(SECOND), Back(0)],
            vec![SECOND],
            None,
        ),
        (
            "an attempt and the one before",
            vec![Foreign, Ours(FIRST), Ours(SECOND), Back(0)],
            vec![SECOND],
            lost(FIRST, 3),
        ),
        (
            "what was lost before counts no more",
            vec![Ours(FIRST), Ours(SECOND), Back(0), Ours(OTHER), Back(0)],
            vec![],
            lost(OTHER, 3),
        ),
        ("expired, not moved", vec![Ours(FIRST), Foreign, Expire], vec![], None),
        (
            "its snapshot is gone",
            vec![Ours(FIRST), Ours(SECOND), Back(0), Expire],
            vec![],
            lost(SECOND, 0),
        ),
        (
            "moved to where history has expired",
            vec![Foreign, Foreign, Expire, Ours(FIRST), Back(1)],
            vec![],
            lost(FIRST, 3),
        ),
        ("moved forward again", vec![Ours(FIRST), Ours(SECOND), Back(0), Back(1)], vec![], None),
    ];
    for (name, steps, attempts, expected) in cases {
        let catalog = catalog_with(&["orders"], true).await;
        let table = ident("orders");
        let mut all = Vec::new();
        for step in steps {
            let metadata = catalog.metadata(&table);
            match step {
                Ours(id) => {
                    let updates = statement_updates(&metadata, source(1), id, &Ends::new()).1;
                    catalog.alter(&table, updates);
                }
                Foreign => catalog.foreign_append(&table),
                Back(number) => catalog.roll_back(&table, all[number]),
                Expire => catalog.expire(&table),
            }
            if matches!(step, Ours(_) | Foreign) {
                all.extend(catalog.metadata(&table).current_snapshot_id());
            }
        }
        let metadata = catalog.metadata(&table);
        let found = letters::taken_away(&metadata, source(1).writer, &attempts);
        assert_eq!(found, expected, "{name}");
    }
}
