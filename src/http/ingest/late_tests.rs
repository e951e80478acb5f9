//! What a request is told whose time is over: where the log did not take its events, that nothing
//! was stored; where the disk did not confirm them, that nobody knows.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::response::IntoResponse;
use bytes::Bytes;
use futures::future::{Either, select};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::engine::{CONFIRM_MIN, Engine};
use super::event::{OwnedEvent, Stored, Terms, answer_by};
use super::{ANSWER_MAX, IdLimits};
use crate::config::Flush;
use crate::http::problem::Problem;
use crate::http::{OnceLimits, Options, Sns};
use crate::log::testing::{OPTIONS, Rig as LogRig};
use crate::runtime::{FailPoints, Tasks};
use crate::sink::Sinks;
use crate::source::Sources;
use crate::store::testing::Rig as StoreRig;
use crate::table::catalog::embedded::tests::Fixture;
use crate::tier::{self, Tiering};
use crate::topic::{NewTopic, Settings, Topics};
use crate::types::{PartitionId, Rate};

const TOPIC: &str = "orders";

fn options() -> Options {
    Options {
        body_max_bytes: 1 << 20,
        events_max: 10,
        in_bytes: 16 << 20,
        in_sender_bytes: 14 << 20,
        inflation_max: 100,
        auto_create_topics: false,
        once: OnceLimits {
            key_age_ms: 1_000,
            keys_max: 10,
            channel_age_ms: 1_000,
            channels_max: 10,
        },
        ids: IdLimits { window_ms: 1_000, ids_max: 10 },
        flush: Flush::Always,
        loopback_only: true,
        is_tls: false,
        cluster_id: "test".to_owned(),
        node_id: 1,
        catalog_names: Vec::new(),
        sns: Sns { topics: Vec::new(), endpoints: Vec::new() },
        rate: Rate::default(),
        token_in_query: false,
        keboola_project: 1,
        keboola_branch: 1,
        definitions: None,
        data_dir: std::path::PathBuf::new(),
        volume_warning: None,
    }
}

/// An engine with one topic over a log that writes when the test says so.
struct Slow {
    engine: Engine,
    log: LogRig,
    partition: PartitionId,
    _kept: (StoreRig, Fixture, Tasks),
}

impl Slow {
    async fn new() -> Self {
        let (log, store, fixture) = (LogRig::new(), StoreRig::new(), Fixture::new());
        let (tasks, clock) = (Tasks::for_tests(), log.clock.clone());
        let settings = Settings {
            server: BTreeMap::new(),
            num_partitions: 1,
            senders_have_rate: false,
            limits: Default::default(),
            check_partition_spec: |_| Ok(()),
        };
        let topics = Topics::open(store.store(), settings, clock.clone(), tasks.clone()).unwrap();
        let options_of = [("table.mode", "off"), ("topic.overload.status", "503")];
        let overrides = options_of.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let new =
            NewTopic { name: TOPIC.to_owned(), partitions: None, overrides: overrides.into() };
        let partition = topics.create(new, false).await.unwrap().partitions[0];
        log.set_options(partition, OPTIONS);
        let parts = tier::Parts {
            log: log.log.clone(),
            topics: topics.clone(),
            sinks: Sinks::open(store.store(), clock.clone(), tasks.clone()).unwrap(),
            sources: Sources::open(store.store(), clock.clone(), tasks.clone()).unwrap(),
            store: store.store(),
            catalog: std::sync::Arc::new(fixture.catalog.clone()),
            tasks: tasks.clone(),
            clock: clock.clone(),
            fail_points: FailPoints::none(),
        };
        let tiering = Tiering::start(parts, tier::Options::default());
        let (to, options) = (log.log.clone(), std::sync::Arc::new(options()));
        let engine = Engine::new(to, topics, tiering, store.store(), options, clock);
        log.frames.is_paused.store(true, Ordering::Relaxed);
        Self { engine, log, partition, _kept: (store, fixture, tasks) }
    }

    /// Sends one event of so many bytes, to be answered within `bound`; what it was told, and when.
    async fn send(&self, bytes: usize, bound: Duration) -> (Result<Stored, Problem>, Duration) {
        let (hold, begun) = (self.engine.memory().share(), Instant::now());
        let event = OwnedEvent { value: Some(noise(bytes)), ..OwnedEvent::default() };
        let terms = Terms::new(begun + bound);
        let told = self.engine.append(TOPIC, vec![event], hold, terms).await;
        (told.map_err(|problem| self.engine.told(TOPIC, problem)), begun.elapsed())
    }

    /// Lets the disk write what waits; how many events there are then.
    fn write(&self) -> i64 {
        self.log.frames.run();
        self.log.log.partition(self.partition).unwrap().high_watermark()
    }
}

/// Bytes that no codec makes fewer.
fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..bytes).map(next).collect()
}

async fn body(problem: Problem) -> Value {
    let response = problem.into_response();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Of these tests: a request has 25 s.
const SHORT: Duration = Duration::from_millis(200);

#[test]
fn a_request_is_answered_before_senders_give_up() {
    let (begun, until) = (Instant::now(), answer_by());
    assert!(until - begun >= ANSWER_MAX && Instant::now() + ANSWER_MAX >= until);
    // Most wait for 30 s.
    assert_eq!(ANSWER_MAX, Duration::from_secs(25));
    assert!(CONFIRM_MIN * 2 < ANSWER_MAX);
}

#[tokio::test]
async fn what_the_disk_does_not_confirm_in_time_may_be_stored_and_the_answer_says_so() {
    let slow = Slow::new().await;
    // The log takes it at once, so none of its time is needed for that.
    let (told, after) = slow.send(10, SHORT).await;
    let problem = told.err().unwrap();
    assert_eq!((problem.code(), problem.status()), ("outcome_unknown", 500));
    assert!(after >= SHORT && after < CONFIRM_MIN, "{after:?}");
    let body = body(problem).await;
    assert_eq!(body["retryable"], json!(true), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("may be stored"), "{body}");
    assert_eq!(slow.write(), 1, "and it was");
}

#[tokio::test]
async fn what_has_no_turn_in_time_is_told_so_and_never_stored() {
    let slow = Slow::new().await;
    // The queue of the log has room for one of them.
    let large = 600 << 10;
    let bound = CONFIRM_MIN + SHORT;
    let second = async {
        tokio::time::sleep(SHORT / 4).await;
        slow.send(large, bound).await
    };
    // The second one has its answer while the first one still waits for the disk.
    let first = Box::pin(slow.send(large, bound));
    let ((told, after), first) = match select(first, Box::pin(second)).await {
        Either::Right(both) => both,
        Either::Left(_) => panic!("the first one has an answer"),
    };
    let problem = told.err().unwrap();
    // As `topic.overload.status` says.
    assert_eq!((problem.code(), problem.status()), ("overloaded", 503));
    assert!(problem.retry_after_s().is_some_and(|seconds| seconds > 0));
    assert!(after >= SHORT && after < CONFIRM_MIN, "{after:?}");
    assert_eq!(body(problem).await["retryable"], json!(true));
    assert_eq!((slow.write(), slow.write()), (1, 1), "only the first one");
    assert_eq!(first.await.0.ok().unwrap().accepted, 1);
    // The log has room again.
    slow.log.frames.is_paused.store(false, Ordering::Relaxed);
    assert_eq!(slow.send(large, bound).await.0.ok().unwrap().spans[0].first_offset, 1);
}
