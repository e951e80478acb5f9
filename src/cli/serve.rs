//! `floe serve`: the server, until SIGTERM or SIGINT.

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::client::Failure;
use super::{output, settings};
use crate::broker::{self, Broker, Components, RenderMetrics};
use crate::config::Config;
use crate::runtime::metrics;
use crate::runtime::tasks::OnFatal;

/// What is logged unless `--log` says otherwise: libraries only where they fail, and not each of
/// their own retries.
const LOG_DEFAULT: &str = "info,fjall=warn,lsm_tree=warn,opendal=error";

/// Upper bounds of histograms of seconds: from a sync on a fast disk to a slow commit.
const SECONDS_BUCKETS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    15.0, 60.0,
];

/// Upper bounds of histograms of bytes: 4 KiB to 1 GiB.
const BYTES_BUCKETS: [f64; 10] = [
    4096.0,
    16384.0,
    65536.0,
    262144.0,
    1048576.0,
    4194304.0,
    16777216.0,
    67108864.0,
    268435456.0,
    1073741824.0,
];

/// Between two rounds that fold the samples of histograms.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn command() -> Command {
    settings::add_flags(
        Command::new("serve")
            .about("Serves Kafka producers, HTTP clients and the Iceberg REST catalog")
            .long_about(
                "Serves Kafka producers, HTTP clients and the Iceberg REST catalog. Every option \
                 is a flag, an environment variable and a TOML key of the same name; flags win \
                 over variables, variables over the file.",
            ),
    )
    .arg(
        Arg::new("log")
            .long("log")
            .env("FLOE_LOG")
            .default_value(LOG_DEFAULT)
            .value_name("FILTER")
            .help("What is logged to standard error, such as info, debug or floe::tier=debug")
            .help_heading("Options"),
    )
    .arg(
        Arg::new("log-format")
            .long("log-format")
            .env("FLOE_LOG_FORMAT")
            .default_value("text")
            .value_parser(["text", "json"])
            .value_name("WORD")
            .help("How log lines look: text or json")
            .help_heading("Options"),
    )
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    init_log(matches)?;
    let config = settings::config(matches).map_err(|error| Failure::Usage(error.0))?;
    // Before the ports are open: who sees it ready may end it at once, and it must drain then too.
    let mut signals = Signals::new()?;
    let Some(broker) = start_unless_ended(&config, &mut signals).await? else {
        tracing::info!("ended before it was ready");
        return Ok(());
    };
    announce(&broker, &config);
    // Who was told to end before it was ready is in no load balancer.
    let delay = if signals.came { Duration::ZERO } else { config.shutdown_delay };
    signals.wait().await;
    if !delay.is_zero() {
        tracing::info!(?delay, "will stop: not ready any more, but serving for shutdown.delay");
        broker.leave();
        signals.came = false;
        let _ = tokio::time::timeout(delay, signals.wait()).await;
    }
    tracing::info!("stopping: draining, then the last commit");
    stop(broker, &config).await;
    tracing::info!("stopped");
    Ok(())
}

/// Starts a broker whose fatal errors end the process.
pub(super) async fn start(config: &Config) -> Result<Broker, Failure> {
    let on_fatal: OnFatal = Arc::new(|reason| {
        output::error(format!("fatal: {reason}"));
        std::process::exit(70);
    });
    let metrics =
        collect_metrics().map(|handle| -> RenderMetrics { Arc::new(move || handle.render()) });
    let components = Components { metrics, ..Components::real(on_fatal) };
    Broker::start(config, components).await.map_err(|error| match error {
        broker::Error::Exposed { .. } => Failure::Usage(error.to_string()),
        broker::Error::Failed(reason) => Failure::Refused(reason),
    })
}

/// The recorder that `/metrics` renders, installed at the first call; none if something else
/// has installed one.
fn collect_metrics() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let sizes = Matcher::Suffix("_bytes".to_owned());
        let handle = PrometheusBuilder::new()
            .set_buckets(&SECONDS_BUCKETS)
            .and_then(|builder| builder.set_buckets_for_metric(sizes, &BYTES_BUCKETS))
            .and_then(PrometheusBuilder::install_recorder)
            .ok()?;
        metrics::describe();
        Some(handle)
    };
    HANDLE.get_or_init(install).clone()
}

/// Stops the broker, at most `shutdown.timeout`.
pub(super) async fn stop(broker: Broker, config: &Config) {
    let bound = config.shutdown_timeout;
    if tokio::time::timeout(bound + Duration::from_millis(500), broker.stop(bound)).await.is_err() {
        tracing::warn!("the shutdown took too long; what is left is in the log");
    }
}

fn init_log(matches: &ArgMatches) -> Result<(), Failure> {
    let filter = matches.get_one::<String>("log").map_or(LOG_DEFAULT, String::as_str);
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| Failure::Usage(format!("--log {filter:?} is refused: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let json = matches.get_one::<String>("log-format").is_some_and(|format| format == "json");
    let result = if json { builder.json().try_init() } else { builder.try_init() };
    result.map_err(|error| Failure::Refused(format!("cannot log: {error}")))
}

fn announce(broker: &Broker, config: &Config) {
    for (name, address) in broker.kafka_addresses() {
        output::line(format!("kafka    {address}  ({name})"));
    }
    let scheme = if config.http_tls.is_some() { "https" } else { "http" };
    let http = format!("{scheme}://{}", broker.http_address());
    output::line(format!("http     {http}"));
    let own = format!("{http}/iceberg");
    let catalog = config.catalog_uri.as_ref().unwrap_or(&own);
    output::line(format!("catalog  {catalog}"));
    output::line(format!("data     {}", broker.data_dir().display()));
    if let Some(delay) = config.log_flush.delay() {
        output::line(format!(
            "log.flush  answers come before the sync, which may take {delay:?}: a power loss can \
             take answered records"
        ));
    }
    output::line(auth_line(broker, config, &http));
    output::line("");
    let kafka = broker.kafka_addresses().into_iter().next().map(|(_, address)| address);
    let kafka = kafka.map_or_else(String::new, |address| address.to_string());
    let needs_token = broker.auth().is_required();
    // A catalog of others has tokens of its own.
    let argument = if needs_token && *catalog == own { ", token='$FLOE_TOKEN'" } else { "" };
    show_commands(&kafka, &http, needs_token);
    output::line("query the table, first rows after a second (pip install 'pyiceberg[pyarrow]'):");
    output::line(format!(
        "  python3 -c \"from pyiceberg.catalog import load_catalog as c; \
         print(c('floe', type='rest', uri='{catalog}'{argument})\
         .load_table('streams.orders').scan().to_arrow().to_pylist())\""
    ));
    output::line("");
    // As `/readyz` says it.
    match broker.log().admission() {
        Ok(()) => output::line("ready"),
        Err(reason) => output::line(format!("ready (no appends: {reason})")),
    }
}

/// Who may do something, and the command that changes it.
fn auth_line(broker: &Broker, config: &Config, url: &str) -> String {
    let auth = broker.auth();
    let first = format!("floe token create admin --url {url}");
    if config.anonymous_allowed {
        "auth     requests without a token may do everything (auth.anonymous = allow)".to_owned()
    } else if auth.is_required() {
        "auth     every request needs a token: FLOE_TOKEN here (floe token create makes more)"
            .to_owned()
    } else {
        format!("auth     none, so this machine only; the first token changes that: {first}")
    }
}

/// Commands that send events. With `needs_token` they take it from the environment.
fn show_commands(kafka: &str, http: &str, needs_token: bool) {
    let (sasl, header) = match needs_token {
        true => (
            " -X security.protocol=SASL_PLAINTEXT -X sasl.mechanism=PLAIN -X sasl.username=token \
             -X sasl.password=$FLOE_TOKEN",
            " -H \"token: $FLOE_TOKEN\"",
        ),
        false => ("", ""),
    };
    output::line("send events:");
    output::line(format!(
        "  echo '{{\"id\":1,\"name\":\"ada\"}}' | kcat -b {kafka} -t orders -P{sasl}"
    ));
    output::line(format!(
        "  curl {http}/api/v1/topics/orders/events{header} -d '{{\"id\":2,\"name\":\"bob\"}}'"
    ));
}

/// The signals that end the server, from when this is made.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// One came already.
    came: bool,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let of =
            |kind| signal(kind).map_err(|error| Failure::Refused(format!("no signals: {error}")));
        let (terminate, interrupt) = (of(SignalKind::terminate())?, of(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, came: false })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.came = true;
    }

    /// Waits for one, unless one came.
    async fn wait(&mut self) {
        let metrics = collect_metrics();
        let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
        while !self.came {
            tokio::select! {
                () = self.next() => {}
                // Samples of histograms are kept until somebody asks; nobody may.
                _ = upkeep.tick() => if let Some(metrics) = &metrics { metrics.run_upkeep() },
            }
        }
    }
}

/// Starts a broker. After a signal it is stopped as soon as it stands; none after a second one,
/// which loses nothing: what was there is recovered again.
async fn start_unless_ended(
    config: &Config,
    signals: &mut Signals,
) -> Result<Option<Broker>, Failure> {
    let mut starting = std::pin::pin!(start(config));
    loop {
        let again = signals.came;
        tokio::select! {
            biased;
            broker = &mut starting => return broker.map(Some),
            () = signals.next() => {}
        }
        if again {
            return Ok(None);
        }
        tracing::info!("will stop once it has started; a second signal ends it at once");
    }
}
