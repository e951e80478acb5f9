//! The table of crashes around one table commit, row by row, with the tables in a catalog of
//! another server: what the ledger knows, what the catalog has, and what comes of it. The steps
//! before the request are fail points of the process (`src/tier/tests/roads.rs`).

use std::path::Path;
use std::sync::{Arc, Mutex};

use iceberg::spec::TableMetadata;
use protocol_tests::proxy::{Fault, Proxy, Rule, always, is_commit};
use protocol_tests::{Floe, eventually, table};
use serde_json::{Value, json};
use tokio::sync::oneshot;

const FLAGS: [&str; 3] =
    ["--table-target-lag=1s", "--table-commit-min-interval=0s", "--num-partitions=1"];

struct Scene {
    keeper: Floe,
    proxy: Proxy,
    floe: Floe,
}

async fn append(floe: &Floe, numbers: std::ops::Range<i64>) {
    let body: String = numbers.map(|i| format!("{{\"i\":{i}}}\n")).collect();
    let call = reqwest::Client::new().post(floe.url("/api/v1/topics/t/events"));
    let sent = call.header("content-type", "application/x-ndjson").body(body).send().await;
    assert_eq!(sent.expect("the server answers").status(), 200);
}

async fn status(floe: &Floe) -> Value {
    floe.get("/api/v1/tables/streams.t").await
}

/// Waits until the table stands still; its state.
async fn stopped(floe: &Floe) -> String {
    eventually("the table stands still", || async {
        let status = status(floe).await;
        // Only who stands still is told how to go on.
        status["resume"].as_str()?;
        status["state"].as_str().map(str::to_owned)
    })
    .await
}

async fn resume(floe: &Floe, from: &str) {
    let url = floe.url("/api/v1/tables/streams.t/resume");
    let sent = reqwest::Client::new().post(url).json(&json!({ "from": from })).send().await;
    let sent = sent.expect("the server answers");
    assert!(sent.status().is_success(), "{}", sent.text().await.unwrap_or_default());
}

/// The first commit meets `fault`, and after it nothing gets through.
fn cut_off_at_a_commit(fault: Fault) -> (Rule, oneshot::Receiver<()>) {
    let (told, arrived) = oneshot::channel();
    let mut told = Some(told);
    let rule = move |method: &_, path: &_| {
        if told.is_none() {
            return Fault::Reset;
        }
        if !is_commit(method, path) {
            return Fault::None;
        }
        told.take().map(|told| told.send(()));
        fault
    };
    (Box::new(rule), arrived)
}

impl Scene {
    /// Offsets 0 to 9 are in the table.
    async fn start() -> Self {
        let keeper = Floe::start(&["--table-mode=off"]).await;
        let proxy = Proxy::start(&keeper.url(""), always(Fault::None)).await;
        let floe = Floe::start(&Self::flags(&proxy)).await;
        append(&floe, 0..10).await;
        floe.flush("t").await;
        Self { keeper, proxy, floe }
    }

    fn flags(proxy: &Proxy) -> Vec<&'static str> {
        let uri: &'static str = format!("--catalog-uri={}/iceberg", proxy.url()).leak();
        FLAGS.into_iter().chain([uri]).collect()
    }

    /// The commit of offsets 10 to 19 meets `fault`, and the process is killed before it learns
    /// more. True if the catalog has the commit.
    async fn crash(fault: Fault) -> (Self, bool) {
        let mut scene = Self::start().await;
        let before = scene.snapshots().await;
        let (rule, arrived) = cut_off_at_a_commit(fault);
        scene.proxy.set(rule);
        append(&scene.floe, 10..20).await;
        arrived.await.expect("a commit is sent");
        if fault == Fault::LostReply {
            eventually("the commit is applied", || async {
                (scene.snapshots().await > before).then_some(())
            })
            .await;
        }
        scene.floe.kill();
        scene.proxy.calm();
        let applied = scene.snapshots().await > before;
        (scene, applied)
    }

    fn catalog(&self) -> String {
        self.keeper.url("/iceberg")
    }

    async fn metadata(&self) -> TableMetadata {
        table::metadata(&self.catalog(), "t").await.expect("the table is there")
    }

    async fn snapshots(&self) -> usize {
        self.metadata().await.snapshots().len()
    }

    async fn update(&self, updates: Value) {
        let uuid = self.metadata().await.uuid();
        let requirements = json!([{ "type": "assert-table-uuid", "uuid": uuid }]);
        assert_eq!(table::update(&self.catalog(), "t", requirements, updates).await, 200);
    }

    /// Another writer replaces the files of the table by themselves: a snapshot without our marks.
    async fn compact(&self) {
        let metadata = self.metadata().await;
        let head = metadata.current_snapshot().expect("a commit is there");
        let snapshot_id = head.snapshot_id() ^ 0x5555;
        let snapshot = json!({
            "snapshot-id": snapshot_id,
            "parent-snapshot-id": head.snapshot_id(),
            "sequence-number": metadata.last_sequence_number() + 1,
            "timestamp-ms": metadata.last_updated_ms() + 1,
            "manifest-list": head.manifest_list(),
            "summary": { "operation": "replace" },
            "schema-id": metadata.current_schema_id(),
        });
        self.update(json!([
            { "action": "add-snapshot", "snapshot": snapshot },
            {
                "action": "set-snapshot-ref", "ref-name": "main", "type": "branch",
                "snapshot-id": snapshot_id,
            },
        ]))
        .await;
    }

    /// Another writer expires every snapshot but the newest.
    async fn expire(&self) {
        let metadata = self.metadata().await;
        let head = metadata.current_snapshot_id();
        let ids = metadata.snapshots().map(|snapshot| snapshot.snapshot_id());
        let old: Vec<i64> = ids.filter(|id| Some(*id) != head).collect();
        self.update(json!([{ "action": "remove-snapshots", "snapshot-ids": old }])).await;
    }

    /// The offsets in the table, sorted; each has the value that was sent with it.
    async fn offsets(&self) -> Vec<i64> {
        let rows = table::rows(&self.catalog(), "t").await.expect("the table is there");
        assert!(rows.iter().all(|row| row.i == Some(row.offset)), "{rows:?}");
        let mut offsets: Vec<i64> = rows.iter().map(|row| row.offset).collect();
        offsets.sort_unstable();
        offsets
    }

    /// After a restart offsets 0 to 24 are in the table, each once.
    async fn goes_on(mut self) {
        self.floe.restart().await;
        append(&self.floe, 20..25).await;
        self.floe.flush("t").await;
        assert_eq!(status(&self.floe).await["state"], "RUNNING");
        assert_eq!(self.offsets().await, (0..25).collect::<Vec<i64>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_and_killed_before_the_request_arrives_commits_the_same_files() {
    let (scene, applied) = Scene::crash(Fault::Reset).await;
    assert!(!applied);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_refused_without_being_applied_is_sent_again() {
    for status in [409, 500, 503] {
        let (scene, applied) = Scene::crash(Fault::Answer(status)).await;
        assert!(!applied);
        scene.goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_request_whose_reply_is_lost_is_found_and_not_repeated() {
    let (scene, applied) = Scene::crash(Fault::LostReply).await;
    assert!(applied);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_commit_under_a_foreign_compaction_is_found_among_the_ancestors() {
    let (scene, applied) = Scene::crash(Fault::LostReply).await;
    assert!(applied);
    scene.compact().await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_commit_whose_snapshot_was_expired_is_known_by_the_tables_property() {
    let (scene, applied) = Scene::crash(Fault::LostReply).await;
    assert!(applied);
    scene.compact().await;
    scene.expire().await;
    assert_eq!(scene.snapshots().await, 1);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_not_applied_comes_after_a_foreign_compaction_and_expiry() {
    let (scene, applied) = Scene::crash(Fault::Reset).await;
    assert!(!applied);
    scene.compact().await;
    scene.expire().await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_made_again_by_others_between_prepare_and_commit_stops() {
    let (mut scene, _) = Scene::crash(Fault::Reset).await;
    let schema = serde_json::to_value(scene.metadata().await.current_schema().as_ref()).unwrap();
    let tables = format!("{}/v1/namespaces/streams/tables", scene.catalog());
    let http = reqwest::Client::new();
    assert_eq!(http.delete(format!("{tables}/t")).send().await.unwrap().status(), 204);
    let made = http.post(&tables).json(&json!({ "name": "t", "schema": schema })).send().await;
    assert_eq!(made.unwrap().status(), 200);
    scene.floe.restart().await;
    assert_eq!(stopped(&scene.floe).await, "REPLACED");
    assert_eq!(scene.snapshots().await, 0, "nothing was written to a table of others");
    resume(&scene.floe, "log-start").await;
    append(&scene.floe, 20..25).await;
    let name = eventually("a table of its own", || async {
        let tables = scene.floe.get("/api/v1/tables").await;
        let name = tables["tables"][0]["table"].as_str()?.to_owned();
        (tables["tables"][0]["rows"].as_i64() == Some(25)).then_some(name)
    })
    .await;
    let rows = table::rows(&scene.catalog(), name.strip_prefix("streams.").unwrap()).await.unwrap();
    assert_eq!(rows.len(), 25);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Two servers with one history, as after a restored backup beside the original: the second one
/// commits while the first one stands still inside the catalog's call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_of_one_topic_the_late_one_stops() {
    let scene = Scene::start().await;
    let (told, arrived) = oneshot::channel();
    let told = Arc::new(Mutex::new(Some(told)));
    scene.proxy.set(Box::new(move |method, path| {
        if !is_commit(method, path) {
            return Fault::None;
        }
        match told.lock().unwrap().take() {
            Some(told) => {
                let _ = told.send(());
                Fault::Held
            }
            None => Fault::None,
        }
    }));
    append(&scene.floe, 10..20).await;
    arrived.await.unwrap();
    scene.floe.pause(true);
    let backup = tempfile::tempdir().unwrap();
    copy(&scene.floe.dir().join("data"), backup.path());
    let second = Floe::start_in(backup.path(), &Scene::flags(&scene.proxy)).await;
    append(&second, 20..23).await;
    second.flush("t").await;
    assert_eq!(scene.offsets().await, (0..23).collect::<Vec<i64>>());
    scene.proxy.release();
    scene.floe.pause(false);
    append(&scene.floe, 20..25).await;
    let state = stopped(&scene.floe).await;
    assert_eq!(state, "LOG_BEHIND", "{}", status(&scene.floe).await);
    append(&second, 23..30).await;
    second.flush("t").await;
    assert_eq!(scene.offsets().await, (0..30).collect::<Vec<i64>>());
}

/// A second server committed the first half of what the first one has prepared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_prefix_that_somebody_else_committed_stops_the_table() {
    let mut scene = Scene::start().await;
    scene.floe.kill();
    let backup = tempfile::tempdir().unwrap();
    copy(&scene.floe.dir().join("data"), backup.path());
    let (rule, arrived) = cut_off_at_a_commit(Fault::Reset);
    scene.proxy.set(rule);
    scene.floe.restart().await;
    append(&scene.floe, 10..20).await;
    arrived.await.unwrap();
    scene.floe.kill();
    scene.proxy.calm();
    let second = Floe::start_in(backup.path(), &Scene::flags(&scene.proxy)).await;
    append(&second, 10..15).await;
    second.flush("t").await;
    scene.floe.restart().await;
    let state = stopped(&scene.floe).await;
    assert_eq!(state, "LOG_BEHIND", "{}", status(&scene.floe).await);
    assert_eq!(scene.offsets().await, (0..15).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_state_store_is_made_again_from_the_log() {
    for fault in [Fault::Reset, Fault::LostReply] {
        let (scene, _) = Scene::crash(fault).await;
        std::fs::remove_dir_all(scene.floe.dir().join("data/state")).unwrap();
        scene.goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_data_directory_leaves_the_old_table_alone_and_says_so() {
    let (mut scene, _) = Scene::crash(Fault::LostReply).await;
    std::fs::remove_dir_all(scene.floe.dir().join("data")).unwrap();
    scene.floe.restart().await;
    append(&scene.floe, 0..5).await;
    let table = eventually("the new topic's table has its rows", || async {
        let tables = scene.floe.get("/api/v1/tables").await;
        let table = tables["tables"].as_array()?.first()?.clone();
        (table["rows"] == 5).then_some(table)
    })
    .await;
    assert_ne!(table["table"], "streams.t", "{table}");
    assert_eq!(scene.offsets().await, (0..20).collect::<Vec<i64>>());
}
