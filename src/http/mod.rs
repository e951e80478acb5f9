//! THE WEB: ingest, administration, the Iceberg REST catalog, probes, problem answers.
//!
//! Owns: routes, limits and answers of the HTTP side. Does not own: the log (events take the same
//! road as Kafka's batches), tables (`tier`, `table`).

pub mod admin;
mod advice;
mod auth;
mod buffered;
mod confluent;
pub(crate) mod credentials;
mod deadlines;
mod definitions;
mod distinguished_name;
mod forwarded;
mod front;
mod head_size;
mod hec;
pub mod iceberg;
pub mod ingest;
mod keboola;
pub(crate) mod oauth;
pub mod openapi;
mod origin;
pub(crate) mod otlp;
mod parameters;
mod patience;
mod probes;
pub mod problem;
mod quarantine;
mod query_token;
mod records;
mod refusals;
pub mod request_id;
mod server;
mod sources;
mod starting;
mod status;
mod strangers;
mod streams;
mod tls;
mod trial;
mod ui;
mod webhooks;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::auth::Auth;
use crate::config::Flush;
use crate::log::Log;
use crate::runtime::files::FileSystem;
use crate::runtime::{Clock, Tasks};
use crate::sink::{Sink, Sinks};
use crate::source::Sources;
use crate::store::{self, Store};
use crate::stream::Streams;
use crate::table::catalog::{Catalog, Reach};
use crate::tier::Tiering;
use crate::topic::{Topic, Topics};
use crate::types::{Offset, Rate};

pub use definitions::Definitions;
pub use forwarded::Proxies;
pub use front::Site;
pub use ingest::{IdLimits, OnceLimits};
pub use server::serve;
pub use starting::Entry;
pub use tls::Tls;
pub use webhooks::Sns;

use problem::Problem;

/// Most requests at once that hold records, of a quarantine or any topic: a few MiB each.
const RECORD_TURNS: usize = 4;

/// Limits and switches of the HTTP side.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest body after decompression, bytes.
    pub body_max_bytes: usize,
    /// Most events of one request.
    pub events_max: usize,
    /// Memory for bodies, bytes.
    pub in_bytes: usize,
    /// How many of them one sender may hold.
    pub in_sender_bytes: usize,
    /// How many times what was sent a body of more than 1 MiB may be, decompressed.
    pub inflation_max: usize,
    /// A topic that is not there is made by its first event.
    pub auto_create_topics: bool,
    /// How much is remembered of requests that count once.
    pub once: OnceLimits,
    /// How much is remembered of events that count once.
    pub ids: IdLimits,
    /// What an answer to events means unless the sender asks for `ack=durable`.
    pub flush: Flush,
    /// Only requests meant for this machine are answered, as long as none needs a token.
    pub loopback_only: bool,
    /// The routes are reached over TLS.
    pub is_tls: bool,
    /// The cluster's id, as Kafka's clients see it.
    pub cluster_id: String,
    /// This node's id, as Kafka's clients see it.
    pub node_id: i32,
    /// Names of the catalog in `catalog.namespace.table`.
    pub catalog_names: Vec<String>,
    /// Whose subscriptions are confirmed.
    pub sns: Sns,
    /// What one sender may send in a second.
    pub rate: Rate,
    /// A token that can only write may stand in the URL.
    pub token_in_query: bool,
    /// Number of the project in Keboola's dialect.
    pub keboola_project: u64,
    /// Number of its branch.
    pub keboola_branch: u64,
    /// The file that says what sinks and sources there are; none: requests say it.
    pub definitions: Option<PathBuf>,
    /// The folder that holds everything.
    pub data_dir: PathBuf,
    /// What to tell where it has no volume of its own.
    pub volume_warning: Option<String>,
}

/// The parts of the broker that the routes talk to.
pub struct Parts {
    /// All partitions.
    pub log: Log,
    /// All topics.
    pub topics: Topics,
    /// All tables.
    pub tiering: Tiering,
    /// All tokens.
    pub auth: Auth,
    /// All event streams.
    pub streams: Streams,
    /// All sinks of topics.
    pub sinks: Sinks,
    /// All sources.
    pub sources: Sources,
    /// The catalog of all tables.
    pub catalog: Arc<dyn Catalog>,
    /// Whether it answers.
    pub reach: Reach,
    /// The state.
    pub store: Store,
    /// Where durable files lie.
    pub files: Arc<dyn FileSystem>,
    /// Wall-clock time.
    pub clock: Clock,
    /// What is done beside the answers.
    pub tasks: Tasks,
    /// Renders what is scraped, if metrics are collected.
    pub metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
}

/// What the routes need. Every layer that a request passes clones it, so it is one pointer.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

impl Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What all clones of [`Api`] share.
pub struct Shared {
    pub(crate) log: Log,
    pub(crate) topics: Topics,
    pub(crate) tiering: Tiering,
    pub(crate) auth: Auth,
    pub(crate) sinks: Sinks,
    pub(crate) sources: Sources,
    pub(crate) options: Arc<Options>,
    pub(crate) engine: ingest::Engine,
    pub(crate) doors: streams::Doors,
    trials: trial::Trials,
    pub(crate) catalog: Arc<dyn Catalog>,
    metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    leaving: AtomicBool,
    draining: AtomicBool,
    /// A file says what streams there are.
    has_defined_streams: AtomicBool,
    /// Of requests that hold records.
    pub(crate) record_turns: Semaphore,
    /// Who follows records as they come.
    followers: records::Followers,
    tasks: Tasks,
    reach: Reach,
    files: Arc<dyn FileSystem>,
    /// When it began to answer: wall-clock milliseconds, and what the time since is counted from.
    started: (i64, Instant),
}

impl Api {
    /// Puts the parts together.
    pub fn new(parts: Parts, options: Options) -> Self {
        let Parts { log, topics, tiering, auth, streams, sinks, sources, .. } = parts;
        let Parts { catalog, reach, store, files, clock, metrics, tasks, .. } = parts;
        let started = (clock.now_ms(), Instant::now());
        let options = Arc::new(options);
        let (of_log, of_topics, limits) = (log.clone(), topics.clone(), Arc::clone(&options));
        let engine = ingest::Engine::new(of_log, of_topics, tiering.clone(), store, limits, clock);
        let doors = streams::Doors::new(streams, Arc::clone(&catalog));
        let (leaving, draining) = (AtomicBool::default(), AtomicBool::default());
        let record_turns = Semaphore::new(RECORD_TURNS);
        Self(Arc::new(Shared {
            log,
            topics,
            tiering,
            auth,
            sinks,
            sources,
            options,
            engine,
            doors,
            trials: trial::Trials::new(),
            catalog,
            metrics,
            leaving,
            draining,
            has_defined_streams: AtomicBool::default(),
            record_turns,
            followers: records::Followers::default(),
            tasks,
            reach,
            files,
            started,
        }))
    }

    /// Reads back what is remembered of requests; before the first one.
    ///
    /// # Errors
    /// [`store::Error`].
    pub async fn load(&self) -> Result<(), store::Error> {
        let engine = self.engine.clone();
        let loaded = tokio::task::spawn_blocking(move || engine.load());
        loaded.await.map_err(|_| store::Error::Closed)?
    }

    /// Runs what is to be done from time to time until the tasks stop.
    pub fn spawn_chores(&self, tasks: &Tasks) {
        self.engine.spawn_chores(tasks);
    }

    /// From now on `/readyz` is 503, so that load balancers send no more; what comes is still taken.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// From now on events are refused with 503, and `/readyz` says so.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn draining(&self) -> Option<Problem> {
        let problem = || Problem::new("draining", "the server is shutting down").retry_after(5);
        self.is_draining().then(problem)
    }

    /// The sinks of the topic of that name; none of one that is not there.
    fn sinks_of(&self, topic: &str) -> Vec<Arc<Sink>> {
        let topic = self.topics.get(topic);
        topic.map_or_else(Vec::new, |topic| self.sinks.of_topic(topic.id))
    }

    /// Where the partitions of a topic end, by index.
    fn ends_of(&self, topic: &Topic) -> BTreeMap<i32, Offset> {
        self.log.ends(&topic.partitions)
    }

    /// Why nobody should send more: what probes are told.
    fn unready(&self) -> Option<Problem> {
        let is_leaving = self.leaving.load(Ordering::Relaxed);
        let problem = || Problem::new("draining", "the server will shut down").retry_after(5);
        self.not_ready().or_else(|| is_leaving.then(problem))
    }

    fn not_ready(&self) -> Option<Problem> {
        if let Some(draining) = self.draining() {
            return Some(draining);
        }
        self.log.admission().err().map(|reason| Problem::new("storage_full", reason).retry_after(5))
    }
}

/// Further tables of topics.
fn sinks_of_topics() -> Router<Api> {
    Router::new()
        .route("/api/v1/topics/{topic}/infer", post(admin::sinks::infer))
        .route("/api/v1/topics/{topic}/sinks", get(admin::sinks::list))
        .route(
            "/api/v1/topics/{topic}/sinks/{sink}",
            get(admin::sinks::describe)
                .put(admin::sinks::put)
                .patch(admin::sinks::patch)
                .delete(admin::sinks::delete),
        )
        .route("/api/v1/topics/{topic}/sinks/{sink}/test", post(admin::sinks::test))
        .route("/api/v1/topics/{topic}/sinks/{sink}/replay", post(admin::replay::replay))
}

fn managed() -> Router<Api> {
    Router::new()
        .route("/api/v1/topics", get(admin::topics::list).post(admin::topics::create))
        .route(
            "/api/v1/topics/{topic}",
            get(admin::topics::describe).patch(admin::topics::alter).delete(admin::topics::delete),
        )
        .merge(sinks_of_topics())
        .merge(streams::managed())
        .route("/api/v1/sources", get(admin::sources::list))
        .route(
            "/api/v1/sources/{source}",
            get(admin::sources::describe)
                .put(admin::sources::put)
                .patch(admin::sources::patch)
                .delete(admin::sources::delete),
        )
        .route("/api/v1/sources/{source}/rotate-secret", post(admin::sources::rotate))
        .route("/api/v1/sources/{source}/test", post(admin::sources::test))
        .route("/api/v1/sources/{source}/infer", post(admin::sources::infer))
        .route("/api/v1/topics/{topic}/records", get(records::of_topic))
        .route("/api/v1/topics/{topic}/tail", get(records::tail_of_topic))
        .route("/api/v1/streams/{stream}/records", get(records::of_stream))
        .route("/api/v1/streams/{stream}/tail", get(records::tail_of_stream))
        .route("/api/v1/quarantine", get(quarantine::list))
        .route("/api/v1/quarantine/{topic}", get(quarantine::records))
        .route("/api/v1/quarantine/{topic}/replay", post(quarantine::replay))
        .route("/api/v1/webhooks", get(admin::webhooks::list).post(admin::webhooks::create))
        .route("/api/v1/webhooks/{webhook}", delete(admin::webhooks::delete))
        .route("/api/v1/webhooks/{webhook}/rotate", post(admin::webhooks::rotate))
        .route("/api/v1/tables", get(admin::tables::list))
        .route("/api/v1/tables/{table}", get(admin::tables::describe))
        .route("/api/v1/tables/{table}/flush", post(admin::tables::flush))
        .route("/api/v1/tables/{table}/resume", post(admin::tables::resume))
        .route("/api/v1/topics/{topic}/channels/{channel}", get(ingest::channel))
        .route("/api/v1/acks/{token}", get(ingest::ack))
        .route("/api/v1/tokens", get(admin::tokens::list).post(admin::tokens::create))
        .route("/api/v1/tokens/{token}", delete(admin::tokens::revoke))
}

/// Senders that can set no header.
fn pushed() -> Router<Api> {
    Router::new()
        .route(
            "/sources/{source}/{secret}",
            post(sources::receive).put(sources::receive).patch(sources::receive),
        )
        .route("/webhooks/{webhook}", post(webhooks::receive))
        .route(
            "/webhooks/{webhook}/{secret}",
            post(webhooks::receive_by_url)
                .put(webhooks::receive_by_url)
                .patch(webhooks::receive_by_url),
        )
}

fn tokens() -> Router<Api> {
    Router::new()
        .route("/oauth/token", post(oauth::token))
        .route("/iceberg/v1/oauth/tokens", post(oauth::token))
}

/// All routes. `iceberg` is the catalog's router, mounted under `/iceberg`.
pub fn site(api: Api, iceberg: Router) -> Site {
    let events = post(ingest::events_of_path);
    let events = events.put(ingest::events_of_path).patch(ingest::events_of_path);
    let managed = managed().route_layer(middleware::from_fn(parameters::layer));
    let managed = managed.merge(keboola::managed());
    let native = Router::new()
        .route("/api/v1/topics/{topic}/events", events)
        .merge(buffered::up_to(buffered::MANAGED_BYTES_MAX, managed, &api))
        .merge(buffered::up_to(buffered::FORM_BYTES_MAX, tokens(), &api))
        .merge(streams::routes())
        .merge(pushed())
        .route("/v0/events", post(ingest::tinybird::events))
        .merge(confluent::routes())
        .merge(otlp::routes())
        .merge(hec::routes(&api))
        .merge(keboola::routes())
        .route("/healthz", get(probes::healthz))
        .route("/readyz", get(probes::readyz))
        .route("/status/ready", get(probes::readyz))
        .route("/version", get(probes::version))
        .route("/metrics", get(probes::metrics))
        .route("/api/v1/status", get(status::status))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::routes))
        .route("/problems", get(openapi::problems))
        .route("/", get(ui::index))
        .route("/ui/{file}", get(ui::file))
        .method_not_allowed_fallback(async || {
            Problem::new("method_not_allowed", "see /openapi.json for what is allowed here")
        })
        .fallback(nothing_here)
        .with_state(api.clone());
    let (of_catalog, limit) = (api.clone(), iceberg::BODY_BYTES_MAX);
    let of_catalog = middleware::from_fn_with_state((of_catalog, limit), buffered::layer);
    let routes = Router::new().nest("/iceberg", iceberg).layer(of_catalog).merge(native);
    Site::new(api, routes)
}

/// The library's own refusals (a path that is not UTF-8, a body over its limit) are plain text;
/// clients get a problem all the same.
fn as_problem(response: Response) -> Response {
    if !response.status().is_client_error() {
        return response;
    }
    let plain = response.headers().get(header::CONTENT_TYPE);
    let plain = plain.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    match response.status() {
        StatusCode::BAD_REQUEST if plain => {
            Problem::new("bad_request", "the path or the body cannot be read").into_response()
        }
        StatusCode::PAYLOAD_TOO_LARGE if plain => {
            Problem::new("too_large", "the body is too large").into_response()
        }
        _ => response,
    }
}

async fn nothing_here(request: Request) -> Response {
    let problem = Problem::new("not_found", "see /openapi.json for what is here");
    match request.uri().path() {
        path if keboola::is_route(path) => keboola::refusal(path, &problem),
        _ => problem.into_response(),
    }
}

/// Takes a name from the path or answers that there is no such thing.
pub(crate) fn unknown_topic(name: &str) -> Problem {
    Problem::new("unknown_topic", format!("topic {name:?} does not exist"))
}
