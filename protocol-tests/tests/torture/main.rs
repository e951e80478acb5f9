//! Short histories of what the `torture` command does for hours: random faults under load, with
//! the catalog in the server and behind a proxy that loses and makes up answers. And each row of
//! the table of crashes around a commit by its name.

mod crash_table;

use std::time::Duration;

use protocol_tests::torture::{CatalogKind, Plan, run};

async fn history(seed: u64, catalog: CatalogKind) {
    let plan = Plan { seed, length: Duration::from_secs(8), catalog };
    let report = run(plan).await.unwrap_or_else(|why| panic!("{why}"));
    assert!(report.counts.acknowledged > 0, "{report:?}");
    assert_eq!(
        report.counts.rows + report.counts.dead_letters,
        report.counts.acknowledged + report.counts.unknown_stored,
        "{report:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_lose_and_double_nothing() {
    history(11, CatalogKind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_lies_loses_and_doubles_nothing() {
    history(12, CatalogKind::Rest).await;
}
