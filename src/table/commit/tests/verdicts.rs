//! What the guard says of a table after each history (rules 4.1, 4.2).

use super::*;

#[allow(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn the_newest_marker_decides() {
    use Event::{BreakProperty, DropProperty, Expire, Foreign, Ours, OursOfGeneration, Rollback};
    type Case = (&'static str, Vec<Event>, Option<Uuid>, Vec<Uuid>, &'static str);
    let cases: Vec<Case> = vec![
        ("new table", vec![], None, vec![SECOND], "go"),
        ("foreign rows in a new table", vec![Foreign], None, vec![SECOND], "go"),
        ("foreign rows, history expired", vec![Foreign, Foreign, Expire], None, vec![], "go"),
        ("last commit on top", vec![Ours(FIRST)], Some(FIRST), vec![SECOND], "go"),
        ("foreign append on top", vec![Ours(FIRST), Foreign], Some(FIRST), vec![SECOND], "go"),
        (
            "attempt applied",
            vec![Ours(FIRST), Ours(SECOND)],
            Some(FIRST),
            vec![OTHER, SECOND],
            "done",
        ),
        (
            "applied, foreign on top",
            vec![Ours(FIRST), Ours(SECOND), Foreign],
            Some(FIRST),
            vec![SECOND],
            "done",
        ),
        ("first commit applied", vec![Ours(SECOND)], None, vec![SECOND], "done"),
        (
            "last commit expired",
            vec![Ours(FIRST), Foreign, Expire],
            Some(FIRST),
            vec![SECOND],
            "go",
        ),
        (
            "attempt applied and expired",
            vec![Ours(FIRST), Ours(SECOND), Foreign, Expire],
            Some(FIRST),
            vec![SECOND],
            "done, expired",
        ),
        (
            "restored backup",
            vec![Ours(FIRST), Ours(OTHER)],
            Some(FIRST),
            vec![SECOND],
            "log behind",
        ),
        ("restored backup, no ledger at all", vec![Ours(OTHER)], None, vec![], "log behind"),
        (
            "restored backup, expired",
            vec![Ours(FIRST), Ours(OTHER), Foreign, Expire],
            Some(FIRST),
            vec![SECOND],
            "log behind",
        ),
        (
            "newer generation",
            vec![Ours(FIRST), OursOfGeneration(2, OTHER)],
            Some(FIRST),
            vec![],
            "log behind",
        ),
        ("older generation only", vec![OursOfGeneration(0, OTHER)], None, vec![SECOND], "go"),
        (
            "rolled back to an older commit",
            vec![Ours(OTHER), Ours(FIRST), Rollback(0)],
            Some(FIRST),
            vec![SECOND],
            "rolled back",
        ),
        (
            "rolled back after the attempt",
            vec![Ours(FIRST), Ours(SECOND), Rollback(0)],
            Some(FIRST),
            vec![SECOND],
            "go",
        ),
        (
            "expired and property removed",
            vec![Ours(FIRST), Foreign, Expire, DropProperty],
            Some(FIRST),
            vec![],
            "ledger gap",
        ),
        (
            "expired and property damaged",
            vec![Ours(FIRST), Foreign, Expire, BreakProperty],
            Some(FIRST),
            vec![],
            "ledger gap",
        ),
        ("table without our commits", vec![Foreign], Some(FIRST), vec![SECOND], "rolled back"),
        ("empty table", vec![], Some(FIRST), vec![SECOND], "rolled back"),
    ];
    for (name, events, last, attempts, expected) in cases {
        let catalog = table_after(&events).await;
        let metadata = catalog.metadata(&ident("orders"));
        let ends = Ends::from([(0, 10)]);
        let view = LedgerView {
            source: source(1),
            table_uuid: metadata.uuid(),
            last,
            ends: &ends,
            attempts: &attempts,
            accepted: None,
        };
        let verdict = guard::evaluate(&metadata, view);
        assert_eq!(name_of(&verdict), expected, "{name}: {verdict:?}");
        let replaced = LedgerView { table_uuid: OTHER, ..view };
        assert_eq!(name_of(&guard::evaluate(&metadata, replaced)), "replaced", "{name}");
    }
}

#[tokio::test]
async fn a_property_without_its_snapshot_is_a_rollback() {
    let catalog = catalog_with(&["orders"], true).await;
    let name = ident("orders");
    catalog.foreign_append(&name);
    let foreign = catalog.metadata(&name).current_snapshot_id().unwrap();
    let metadata = catalog.metadata(&name);
    catalog.alter(&name, statement_updates(&metadata, source(1), FIRST, &Ends::new()).1);
    catalog.roll_back(&name, foreign);
    let metadata = catalog.metadata(&name);
    let ends = Ends::new();
    let view = LedgerView {
        source: source(1),
        table_uuid: metadata.uuid(),
        last: None,
        ends: &ends,
        attempts: &[],
        accepted: None,
    };
    assert_eq!(name_of(&guard::evaluate(&metadata, view)), "rolled back");
}

#[tokio::test]
async fn the_same_commit_with_other_ends_is_a_gap() {
    let catalog = table_after(&[Event::Ours(FIRST)]).await;
    let metadata = catalog.metadata(&ident("orders"));
    let ends = Ends::from([(0, 11)]);
    let view = LedgerView {
        source: source(1),
        table_uuid: metadata.uuid(),
        last: Some(FIRST),
        ends: &ends,
        attempts: &[],
        accepted: None,
    };
    assert_eq!(name_of(&guard::evaluate(&metadata, view)), "ledger gap");
}
