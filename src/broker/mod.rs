//! The composition root: builds every part, starts them in order, stops them in order.
//!
//! Start: sockets, HTTP that says so (503), recovery of log and state, topics, write-ahead log,
//! catalog, tiering, then listeners accept. Stop: listeners drain, tiering commits what it can, the log writes its
//! marker, the store its snapshot.

mod catalog;
mod offline;
mod recovery;
mod volume;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::config::Config;
use crate::http;
use crate::kafka;
use crate::log::Log;
use crate::runtime::files::{Disk, FileSystem};
use crate::runtime::tasks::OnFatal;
use crate::runtime::{Clock, FailPoints, Tasks};
use crate::store::Store;
use crate::table::catalog::Catalog;
use crate::table::sink;
use crate::tier::{self, Tiering};
use crate::topic::Topics;
use crate::topic::options::{Overrides, TopicOptions};
use crate::wal::Wal;

pub use offline::Offline;

use catalog::Chosen;
use recovery::Recovered;

/// Longest final table commit at shutdown (rules 7.4).
const FINAL_COMMIT_MAX: Duration = Duration::from_secs(5);

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anyone could do everything (rules 8.2).
    #[error(
        "{bind} can be reached from other machines and no authentication is configured; make a \
         token with `floe token create admin --data-dir {data_dir}`, or add --auth-anonymous allow \
         to serve anyone, or bind 127.0.0.1"
    )]
    Exposed {
        /// The address that is no loopback.
        bind: SocketAddr,
        /// The folder whose tokens would count.
        data_dir: String,
    },
    /// Something is in the way.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    fn new(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }
}

/// Renders the metrics as they are scraped.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What tests replace: time, files, fail points, the end of the process.
#[derive(Clone)]
pub struct Components {
    /// Wall-clock time.
    pub clock: Clock,
    /// Where durable files lie.
    pub files: Arc<dyn FileSystem>,
    /// Hooks at durable steps.
    pub fail_points: FailPoints,
    /// Told why the process must end.
    pub on_fatal: OnFatal,
    /// Told after each completed sync of the whole state store.
    pub on_persisted: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Called with each value before it is decoded; tests make it panic.
    pub inspect: Option<Arc<dyn Fn(&[u8]) + Send + Sync>>,
    /// Called with each batch of rows before it is encoded; tests make it panic.
    pub inspect_rows: Option<sink::Inspect>,
    /// What `/metrics` answers, if metrics are collected.
    pub metrics: Option<RenderMetrics>,
}

impl Components {
    /// The machine's clock and disk, no hooks.
    pub fn real(on_fatal: OnFatal) -> Self {
        Self {
            clock: Clock::system(),
            files: Arc::new(Disk),
            fail_points: FailPoints::none(),
            on_fatal,
            on_persisted: None,
            inspect: None,
            inspect_rows: None,
            metrics: None,
        }
    }
}

/// A running broker.
pub struct Broker {
    data_dir: PathBuf,
    kafka: Vec<(String, SocketAddr)>,
    http: SocketAddr,
    api: http::Api,
    log: Log,
    topics: Topics,
    tiering: Tiering,
    catalog: Arc<dyn Catalog>,
    auth: Auth,
    store: Store,
    wal: Wal,
    tasks: Tasks,
    /// Ends listeners and connections before anything else stops.
    listeners_stop: CancellationToken,
}

struct Sockets {
    kafka: Vec<kafka::Listener>,
    kafka_addresses: Vec<(String, SocketAddr)>,
    http: TcpListener,
    http_address: SocketAddr,
    http_tls: Option<Arc<http::Tls>>,
}

impl Broker {
    /// Starts a broker; it is ready when this returns.
    ///
    /// # Errors
    /// [`Error`] says what is in the way: a taken port, a locked or damaged data directory, an
    /// address that anyone could do everything at.
    pub async fn start(config: &Config, components: Components) -> Result<Self, Error> {
        if !components.files.exists(&config.data_dir.join("FORMAT")) {
            // There can be no token, and nothing need be made to say so.
            check_exposed(config, false)?;
        }
        let definitions = read_definitions(config).await?;
        let Sockets { kafka, kafka_addresses, http, http_address, http_tls } = bind(config).await?;
        let tasks = Tasks::new(Arc::clone(&components.on_fatal));
        // A start that fails lets go of the port.
        let listening = CancellationToken::new().drop_guard();
        let entry = open_http(config, (http, http_tls), &tasks, listening.token().clone());
        let recovered = recovery::open(config, &components, &tasks).await?;
        let Recovered { store, wal, log, topics, auth, streams, sinks, sources } = recovered;
        check_exposed(config, auth.is_set_up())?;
        let auth = trusting(auth, config);
        let cluster_id = store.cluster_id().await.map_err(|e| Error::new("cluster id", e))?;
        let Chosen { catalog, reach, routes } =
            catalog::choose(config, &components, &store, &tasks)?;
        let space = components.files.space(&config.data_dir).map_err(|e| Error::new("disk", e))?;
        let tiering = Tiering::start(
            tier::Parts {
                log: log.clone(),
                topics: topics.clone(),
                sinks: sinks.clone(),
                sources: sources.clone(),
                store: store.clone(),
                catalog: Arc::clone(&catalog),
                tasks: tasks.clone(),
                clock: components.clock.clone(),
                fail_points: components.fail_points.clone(),
            },
            tier_options(config, &components, &cluster_id, space.total_bytes),
        );
        log.spawn_chores(&tasks);
        store.spawn_chores(&tasks);
        let parts = http::Parts {
            log: log.clone(),
            topics: topics.clone(),
            tiering: tiering.clone(),
            auth: auth.clone(),
            streams,
            sinks,
            sources,
            catalog: Arc::clone(&catalog),
            reach,
            store: store.clone(),
            files: Arc::clone(&components.files),
            clock: components.clock.clone(),
            tasks: tasks.clone(),
            metrics: components.metrics.clone(),
        };
        let options = http_options(config, cluster_id.clone());
        let api = open_api(parts, options, &tasks, definitions).await?;
        let broker = Self {
            data_dir: config.data_dir.clone(),
            kafka: kafka_addresses,
            http: http_address,
            api,
            log,
            topics,
            tiering,
            catalog,
            auth,
            store,
            wal,
            tasks,
            listeners_stop: listening.disarm(),
        };
        broker.accept_kafka(config, &components.clock, cluster_id, kafka);
        entry.open(http::site(broker.api.clone(), routes));
        Ok(broker)
    }

    fn accept_kafka(
        &self,
        config: &Config,
        clock: &Clock,
        cluster_id: String,
        listeners: Vec<kafka::Listener>,
    ) {
        let none = Overrides::new();
        let topic_defaults =
            TopicOptions::resolve("topic", &none, &config.topic_defaults).unwrap_or_default();
        let options = kafka::Options {
            cluster_id,
            auto_create_topics: config.auto_create_topics,
            num_partitions: i32::try_from(config.num_partitions).unwrap_or(i32::MAX),
            topic_defaults,
            frame_bytes_max: config.kafka_frame_max_bytes,
            connections_max: config.kafka_connections_max,
            request_bytes_max: config.kafka_in_bytes,
            fetch_bytes_in_flight_max: config.kafka_out_bytes,
            idle_timeout: config.kafka_idle_timeout,
            stop_timeout: config.shutdown_timeout / 8,
            ..kafka::Options::default()
        };
        let (log, topics, auth) = (self.log.clone(), self.topics.clone(), self.auth.clone());
        let deps = kafka::Deps::new(log, topics, auth, clock.clone(), options);
        let stop = self.listeners_stop.clone();
        kafka::KafkaServer::new(deps, self.tasks.clone(), stop).serve(listeners);
    }

    /// Listener names with the addresses they are bound to.
    pub fn kafka_addresses(&self) -> Vec<(String, SocketAddr)> {
        self.kafka.clone()
    }

    /// Where HTTP is bound.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// The folder that holds everything.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// All topics.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Tiering.
    pub fn tiering(&self) -> &Tiering {
        &self.tiering
    }

    /// The catalog that tiering commits to.
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.catalog
    }

    /// All tokens.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// The state.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Says from now on that it is not ready, and goes on serving.
    pub fn leave(&self) {
        self.api.leave();
    }

    /// Stops within about `bound`: drains listeners, makes the last table commits, writes the
    /// durable end and a metadata snapshot. What is not in a table then stays in the log.
    pub async fn stop(self, bound: Duration) {
        self.api.drain();
        self.listeners_stop.cancel();
        self.tiering.shutdown(FINAL_COMMIT_MAX.min(bound)).await;
        if !self.tasks.stop(bound / 4).await {
            let tasks = self.tasks.running().join(", ");
            tracing::warn!(tasks, "some tasks did not end in time");
        }
        let Self { wal, store, tasks, .. } = self;
        let ended = tokio::task::spawn_blocking(move || {
            wal.shutdown();
            if let Err(error) = store.close() {
                tracing::warn!(%error, "no metadata snapshot at shutdown; the next start replays");
            }
            tasks.join_threads();
        });
        let _ = ended.await;
    }
}

/// The HTTP side with what it remembers, and with what the definitions say.
async fn open_api(
    parts: http::Parts,
    options: http::Options,
    tasks: &Tasks,
    definitions: Option<http::Definitions>,
) -> Result<http::Api, Error> {
    let api = http::Api::new(parts, options);
    api.load().await.map_err(|e| Error::new("what is remembered of HTTP requests", e))?;
    api.spawn_chores(tasks);
    if let Some(definitions) = definitions {
        let defined = api.define(&definitions).await;
        defined.map_err(|error| Error::new("definitions", error))?;
    }
    api.settle_streams().await;
    Ok(api)
}

fn tier_options(
    config: &Config,
    components: &Components,
    cluster_id: &str,
    disk_bytes: u64,
) -> tier::Options {
    tier::Options {
        cluster_id: cluster_id.to_owned(),
        memory_bytes: config.tier_memory_bytes,
        pin_max_bytes: disk_bytes / 2,
        data_dir: config.data_dir.clone(),
        inspect: components.inspect.clone(),
        inspect_rows: components.inspect_rows.clone(),
        ..tier::Options::default()
    }
}

fn http_options(config: &Config, cluster_id: String) -> http::Options {
    let volume_warning = volume::warning(&config.data_dir);
    if let Some(warning) = &volume_warning {
        tracing::warn!("{warning}");
    }
    http::Options {
        body_max_bytes: config.http_body_max_bytes,
        events_max: config.http_events_max,
        in_bytes: config.http_in_bytes,
        // What is left is enough for others to begin with; they take turns for the rest.
        in_sender_bytes: config
            .http_in_sender_bytes
            .unwrap_or(config.http_in_bytes - config.http_in_bytes / 8),
        inflation_max: config.http_inflation_max,
        auto_create_topics: config.auto_create_topics,
        once: http::OnceLimits {
            key_age_ms: millis(config.http_idempotency_age),
            keys_max: config.http_idempotency_max,
            channel_age_ms: millis(config.http_channel_age),
            channels_max: config.http_channels_max,
        },
        ids: http::IdLimits {
            window_ms: millis(config.http_dedup_window),
            ids_max: config.http_dedup_max,
        },
        flush: config.log_flush,
        is_tls: config.http_tls.is_some(),
        loopback_only: config.http_listen.ip().is_loopback() && !config.anonymous_allowed,
        cluster_id,
        node_id: kafka::Options::default().node_id,
        catalog_names: config.catalog_names.clone(),
        sns: http::Sns {
            topics: config.sns_topics.clone(),
            endpoints: config.sns_endpoints.clone(),
        },
        rate: config.http_rate,
        token_in_query: config.http_token_in_query,
        keboola_project: config.keboola_project,
        keboola_branch: config.keboola_branch,
        definitions: config.definitions.as_ref().map(|file| file.path.clone()),
        data_dir: config.data_dir.clone(),
        volume_warning,
    }
}

/// The file that says what sinks and sources there are, if one is configured.
async fn read_definitions(config: &Config) -> Result<Option<http::Definitions>, Error> {
    let Some(file) = config.definitions.clone() else { return Ok(None) };
    let read = move || http::Definitions::read(&file.path, file.prune);
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.map_err(|error| Error::new("definitions", error))?;
    read.map(Some).map_err(|error| Error::new("definitions", error))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The tokens, and JWTs where an issuer is configured.
fn trusting(auth: Auth, config: &Config) -> Auth {
    match &config.oidc {
        Some(issuer) => auth.with_issuer(issuer.clone()),
        None => auth,
    }
}

/// Refuses to listen for other machines where nobody is asked who they are.
fn check_exposed(config: &Config, is_set_up: bool) -> Result<(), Error> {
    match config.exposed_listener() {
        Some(bind) if !is_set_up => {
            Err(Error::Exposed { bind, data_dir: config.data_dir.display().to_string() })
        }
        _ => Ok(()),
    }
}

/// Answers over HTTP from now on, that the server starts until the entry is opened to its site.
fn open_http(
    config: &Config,
    (socket, tls): (TcpListener, Option<Arc<http::Tls>>),
    tasks: &Tasks,
    stop: CancellationToken,
) -> http::Entry {
    let entry = http::Entry::new(http::Proxies::new(config.trusted_proxies.clone()));
    if let Some(tls) = &tls {
        tls.spawn_chores(tasks);
    }
    let serve = http::serve(
        socket,
        entry.clone(),
        tls,
        config.http_connections_max,
        tasks.clone(),
        stop,
        config.shutdown_timeout / 8,
    );
    tasks.spawn("http accept", serve);
    entry
}

async fn bind(config: &Config) -> Result<Sockets, Error> {
    let bind = async |what: &str, address: SocketAddr| {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Error::new(&format!("cannot bind {address} for {what}"), error))?;
        let bound = listener.local_addr().map_err(|error| Error::new("no local address", error))?;
        Ok((listener, bound))
    };
    let http_tls = config.http_tls.clone().map(http::Tls::open).transpose();
    let http_tls = http_tls.map_err(Error::Failed)?;
    let (http, http_address) = bind("HTTP", config.http_listen).await?;
    let mut kafka = Vec::new();
    let mut kafka_addresses = Vec::new();
    for listener in &config.kafka_listeners {
        let (socket, bound) = bind("Kafka", listener.bind).await?;
        kafka_addresses.push((listener.name.clone(), bound));
        let advertised = listener.advertise.clone();
        kafka.push(kafka::Listener { name: listener.name.clone(), socket, advertised });
    }
    Ok(Sockets { kafka, kafka_addresses, http, http_address, http_tls })
}
