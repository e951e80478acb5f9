//! Every option of the server: key, unit, default and doc; layers; checked once at start.
//!
//! Owns: plain data. Does not own: topic options (`topic`), components (clock, files, catalog),
//! which the broker hands to constructors. A flag, an environment variable and a TOML key say
//! the same thing under the same name: `kafka.listen` is `--kafka-listen`, `FLOE_KAFKA_LISTEN`
//! and `listen` under `[kafka]`.

mod catalog;
mod definitions;
mod listeners;
mod network;
mod options;
mod security;
pub mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::types::{RATE_REQUESTS_MAX, Rate};

pub use definitions::{Declared, DeclaredTopic, DefinitionsFile, FILE_BYTES_MAX};
pub use network::Network;
pub use options::{Kind, OLDER, OPTIONS, OptionSpec, current};
pub use security::{Oidc, Tls, check_issuer_url};

/// Values by key as given; several for a repeatable key.
pub type Settings = BTreeMap<String, Vec<String>>;

/// A wrong key or value; the text names both and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// One Kafka listener (rules 8.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaListener {
    /// Name that ties it to its advertised address; `default` if none is given.
    pub name: String,
    /// Where it binds.
    pub bind: SocketAddr,
    /// Host and port that clients are told; none means the address they came to.
    pub advertise: Option<(String, u16)>,
}

/// When the log calls `fdatasync`, and so what an answer to a producer means (rules 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flush {
    /// Before the answer: what is answered survives a power loss.
    #[default]
    Always,
    /// At most so long after it.
    Interval(Duration),
    /// When a file is full, when state, a table or a move needs it, or after half a minute, when
    /// the operating system has written most of it anyway.
    Os,
}

impl Flush {
    /// Longest time between a write and its sync; none: the sync comes before the answer.
    pub fn delay(self) -> Option<Duration> {
        match self {
            Self::Always => None,
            Self::Interval(delay) => Some(delay),
            Self::Os => Some(Duration::from_secs(30)),
        }
    }
}

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folder that holds everything.
    pub data_dir: PathBuf,
    /// Network file systems are allowed (rules 3.6).
    pub data_dir_network: bool,
    /// Kafka listeners, at least one.
    pub kafka_listeners: Vec<KafkaListener>,
    /// Where HTTP listens.
    pub http_listen: SocketAddr,
    /// HTTP over TLS; none is plain text.
    pub http_tls: Option<Tls>,
    /// JWTs count; none: they do not.
    pub oidc: Option<Oidc>,
    /// Proxies that are believed who sent what they pass on.
    pub trusted_proxies: Vec<Network>,
    /// Requests without credentials may do everything, from other machines too (rules 8.2).
    pub anonymous_allowed: bool,
    /// How long an access token holds, at most as long as the token that it was made with.
    pub access_token_lifetime: Duration,
    /// Partitions of a topic that is made without a number.
    pub num_partitions: u32,
    /// Topics are made when a producer asks for them.
    pub auto_create_topics: bool,
    /// Most topics there may be.
    pub topics_max: u32,
    /// Most partitions there may be, over all topics.
    pub partitions_max: u32,
    /// Most open Kafka connections.
    pub kafka_connections_max: usize,
    /// Largest Kafka request, bytes.
    pub kafka_frame_max_bytes: usize,
    /// A Kafka connection that is silent for so long is closed.
    pub kafka_idle_timeout: Duration,
    /// Memory for requests on their way in, bytes.
    pub kafka_in_bytes: usize,
    /// Memory for answers on their way out, bytes.
    pub kafka_out_bytes: usize,
    /// Largest HTTP body after decompression, bytes.
    pub http_body_max_bytes: usize,
    /// Most events in one HTTP request.
    pub http_events_max: usize,
    /// Memory for HTTP bodies, bytes.
    pub http_in_bytes: usize,
    /// How many of them one sender may hold, bytes; none is all but an eighth.
    pub http_in_sender_bytes: Option<usize>,
    /// How many times what was sent an HTTP body of more than 1 MiB may be, decompressed.
    pub http_inflation_max: usize,
    /// Most open HTTP connections.
    pub http_connections_max: usize,
    /// The idempotency key of a request is forgotten at this age.
    pub http_idempotency_age: Duration,
    /// Most idempotency keys that are remembered.
    pub http_idempotency_max: usize,
    /// A channel that is silent for so long is forgotten.
    pub http_channel_age: Duration,
    /// Most channels there may be.
    pub http_channels_max: usize,
    /// How long the id of an event is known.
    pub http_dedup_window: Duration,
    /// Most ids of events that are known.
    pub http_dedup_max: usize,
    /// What one sender may send in a second.
    pub http_rate: Rate,
    /// A token that can only write may stand in the URL of a request with events.
    pub http_token_in_query: bool,
    /// When records are synced to disk.
    pub log_flush: Flush,
    /// Memory for batches that wait for the disk, bytes.
    pub log_in_bytes: usize,
    /// Size of a file of the write-ahead log, bytes.
    pub wal_file_bytes: u64,
    /// A file of the write-ahead log is closed at this age, so that retention can free it.
    pub wal_file_age: Duration,
    /// Live records of a file that is less than half live for so long are moved.
    pub wal_move_delay: Duration,
    /// Free space below which records are refused, bytes; none picks it by disk size.
    pub disk_free_min_bytes: Option<u64>,
    /// How often stream retention looks.
    pub retention_check_interval: Duration,
    /// A producer id that is silent for so long is forgotten.
    pub producer_id_expiration: Duration,
    /// Block cache of the state store, bytes.
    pub store_cache_bytes: u64,
    /// Write buffer of the state store, bytes.
    pub store_write_buffer_bytes: u64,
    /// Memory for tiering, bytes.
    pub tier_memory_bytes: usize,
    /// Root of all tables, an absolute URI; none is `<data-dir>/warehouse`. For a REST catalog the
    /// name of its warehouse.
    pub warehouse: Option<String>,
    /// Address of an Iceberg REST catalog that keeps the tables; none is the embedded one.
    pub catalog_uri: Option<String>,
    /// Bearer token for it.
    pub catalog_token: Option<String>,
    /// Path element after `/v1` of its routes; none is what it says itself.
    pub catalog_prefix: Option<String>,
    /// Names of the catalog in `catalog.namespace.table`, its own first.
    pub catalog_names: Vec<String>,
    /// ARNs of Amazon SNS topics whose subscriptions are confirmed.
    pub sns_topics: Vec<String>,
    /// What addresses of SNS may begin with besides Amazon's.
    pub sns_endpoints: Vec<String>,
    /// Number of the project in Keboola's dialect.
    pub keboola_project: u64,
    /// Number of its branch.
    pub keboola_branch: u64,
    /// File that says what sinks and sources there are; none: requests say it.
    pub definitions: Option<DefinitionsFile>,
    /// Properties for the warehouse's storage (`s3.*`).
    pub storage: BTreeMap<String, String>,
    /// Properties handed out to clients of the catalog.
    pub catalog_client: BTreeMap<String, String>,
    /// How long everything is served after a signal, before the shutdown begins.
    pub shutdown_delay: Duration,
    /// Longest shutdown.
    pub shutdown_timeout: Duration,
    /// Topic options set for the whole server, canonical key to value.
    pub topic_defaults: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self::resolve(&Settings::new(), &[]).expect("the defaults are valid, a test says so")
    }
}

/// The keys that have no place of their own: topic options, and those of the storage and of the
/// catalog's client.
type Sorted = (BTreeMap<String, String>, [BTreeMap<String, String>; 2]);

fn sorted(settings: &Settings, topic_keys: &[&str]) -> Result<Sorted, Error> {
    let mut topic_defaults = BTreeMap::new();
    let mut prefixed: [BTreeMap<String, String>; 2] = Default::default();
    for (key, values) in settings {
        if let Some(topic_key) = topic_key(key, topic_keys) {
            topic_defaults.insert(topic_key.to_owned(), last(values));
        } else if key.starts_with("s3.") {
            prefixed[0].insert(key.clone(), last(values));
        } else if let Some(name) = key.strip_prefix("catalog.client.") {
            prefixed[1].insert(name.to_owned(), last(values));
        } else if spec(key).is_none() {
            return Err(unknown(key, topic_keys));
        }
    }
    Ok((topic_defaults, prefixed))
}

impl Config {
    /// Checks `settings` and fills in defaults. `topic_keys` are the canonical keys of topic
    /// options, which a server may set for all topics.
    ///
    /// # Errors
    /// [`Error`] names the key, the value and what is allowed.
    pub fn resolve(settings: &Settings, topic_keys: &[&str]) -> Result<Self, Error> {
        let (topic_defaults, [storage, catalog_client]) = sorted(settings, topic_keys)?;
        let read = Reader { settings };
        Ok(Self {
            data_dir: PathBuf::from(read.text("data.dir")),
            data_dir_network: read.one_of("data.dir.network")? == "allow",
            kafka_listeners: read.kafka_listeners()?,
            http_listen: read.address("http.listen")?,
            http_tls: read.tls()?,
            oidc: read.oidc()?,
            trusted_proxies: read.networks("http.trusted.proxies")?,
            anonymous_allowed: read.one_of("auth.anonymous")? == "allow",
            access_token_lifetime: read.duration("auth.access.token.lifetime")?,
            num_partitions: read.number("num.partitions", 1, 100_000)?,
            auto_create_topics: read.flag("auto.create.topics.enable")?,
            topics_max: read.number("topics.max", 1, u32::MAX)?,
            partitions_max: read.number("partitions.max", 1, u32::MAX)?,
            kafka_connections_max: read.size("kafka.connections.max", 1)?,
            kafka_frame_max_bytes: read.size("kafka.frame.max.bytes", 1024)?,
            kafka_idle_timeout: read.duration("kafka.idle.timeout")?,
            kafka_in_bytes: read.size("kafka.in.bytes", 1 << 20)?,
            kafka_out_bytes: read.size("kafka.out.bytes", 1 << 20)?,
            http_body_max_bytes: read.size("http.body.max.bytes", 1024)?,
            http_events_max: read.size("http.events.max", 1)?,
            http_in_bytes: read.size("http.in.bytes", 1 << 20)?,
            http_in_sender_bytes: read.optional_size("http.in.sender.bytes", 64 << 10)?,
            http_inflation_max: read.number("http.inflation.max", 1, u32::MAX)? as usize,
            sns_topics: read.names("webhook.sns.topic"),
            sns_endpoints: read.names("webhook.sns.endpoint"),
            keboola_project: u64::from(read.number("keboola.project.id", 0, u32::MAX)?),
            keboola_branch: u64::from(read.number("keboola.branch.id", 0, u32::MAX)?),
            http_connections_max: read.size("http.connections.max", 1)?,
            http_idempotency_age: read.duration("http.idempotency.age")?,
            http_idempotency_max: read.size("http.idempotency.max", 1)?,
            http_channel_age: read.duration("http.channel.age")?,
            http_channels_max: read.size("http.channels.max", 1)?,
            http_dedup_window: read.duration("http.dedup.window")?,
            http_dedup_max: read.size("http.dedup.max", 1)?,
            http_rate: read.rate()?,
            http_token_in_query: read.flag("http.token.in.query")?,
            log_flush: read.flush()?,
            log_in_bytes: read.size("log.in.bytes", 1 << 20)?,
            wal_file_bytes: read.bytes("wal.file.bytes", 1 << 20)?,
            wal_file_age: read.duration("wal.file.age")?,
            wal_move_delay: read.duration("wal.move.delay")?,
            disk_free_min_bytes: read.optional_bytes("disk.free.min.bytes")?,
            retention_check_interval: read.duration("retention.check.interval")?,
            producer_id_expiration: read.duration("producer.id.expiration")?,
            store_cache_bytes: read.bytes("store.cache.bytes", 1 << 20)?,
            store_write_buffer_bytes: read.bytes("store.write.buffer.bytes", 1 << 20)?,
            tier_memory_bytes: read.size("tier.memory.bytes", 1 << 20)?,
            warehouse: read.optional_text("catalog.warehouse"),
            catalog_uri: read.optional_text("catalog.uri"),
            catalog_token: read.optional_text("catalog.token"),
            catalog_prefix: read.optional_text("catalog.prefix"),
            catalog_names: read.catalog_names()?,
            definitions: read.definitions()?,
            storage,
            catalog_client,
            shutdown_delay: read.delay("shutdown.delay")?,
            shutdown_timeout: read.duration("shutdown.timeout")?,
            topic_defaults,
        })
    }

    /// An address that other machines reach, unless anyone may: it needs authentication
    /// (rules 8.2).
    pub fn exposed_listener(&self) -> Option<SocketAddr> {
        if self.anonymous_allowed {
            return None;
        }
        let mut binds = self.kafka_listeners.iter().map(|listener| listener.bind);
        binds
            .find(|bind| !bind.ip().is_loopback())
            .or_else(|| (!self.http_listen.ip().is_loopback()).then_some(self.http_listen))
    }
}

fn spec(key: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|spec| spec.key == key)
}

fn last(values: &[String]) -> String {
    values.last().cloned().unwrap_or_default()
}

/// The canonical topic key that `key` means: itself, or without its unit (`table.target.lag`).
fn topic_key<'k>(key: &str, topic_keys: &[&'k str]) -> Option<&'k str> {
    topic_keys.iter().copied().find(|known| *known == key || options::without_unit(known) == key)
}

fn unknown(key: &str, topic_keys: &[&str]) -> Error {
    let known = OPTIONS.iter().map(|spec| spec.key).chain(topic_keys.iter().copied());
    let nearest = known.map(|known| (distance(key, known), known)).min();
    // What is further off is no slip of the fingers, and a wrong hint is worse than none.
    let near = nearest.filter(|(distance, _)| *distance <= 1 + key.len() / 5);
    let hint = near.map(|(_, known)| format!("; did you mean {known:?}?")).unwrap_or_default();
    Error(format!("unknown option {key:?}{hint} (see floe serve --help)"))
}

/// Edit distance, for the hint in an error.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// Reads typed values out of [`Settings`], naming key and value in errors.
struct Reader<'s> {
    settings: &'s Settings,
}

impl Reader<'_> {
    fn text(&self, key: &str) -> String {
        self.optional_text(key).unwrap_or_default()
    }

    fn optional_text(&self, key: &str) -> Option<String> {
        let given = self.settings.get(key).and_then(|values| values.last().cloned());
        let default = || spec(key).map(|spec| spec.default.to_owned());
        given.or_else(default).filter(|value| !value.is_empty())
    }

    fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Error> {
        let value = self.text(key);
        parse(&value).map_err(|allowed| Error(format!("{key} = {value:?} is refused: {allowed}")))
    }

    /// The value, one of the words that the option's kind names.
    fn one_of(&self, key: &str) -> Result<String, Error> {
        let Some(OptionSpec { kind: Kind::OneOf(allowed), .. }) = spec(key) else {
            return Ok(self.text(key));
        };
        self.parsed(key, |value| {
            if allowed.contains(&value) {
                Ok(value.to_owned())
            } else {
                Err(format!("allowed are {}", allowed.join(", ")))
            }
        })
    }

    fn flush(&self) -> Result<Flush, Error> {
        let interval = self.duration("log.flush.interval")?;
        Ok(match self.one_of("log.flush")?.as_str() {
            "interval" => Flush::Interval(interval),
            "os" => Flush::Os,
            _ => Flush::Always,
        })
    }

    fn flag(&self, key: &str) -> Result<bool, Error> {
        self.parsed(key, |value| value.parse().map_err(|_| "allowed are true and false".to_owned()))
    }

    fn number(&self, key: &str, min: u32, max: u32) -> Result<u32, Error> {
        self.parsed(key, |value| match value.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(format!("it must be a whole number from {min} to {max}")),
        })
    }

    fn bytes(&self, key: &str, min: u64) -> Result<u64, Error> {
        self.parsed(key, |value| match units::parse_bytes(value) {
            Ok(bytes) if bytes >= min => Ok(bytes),
            Ok(_) => Err(format!("it must be at least {min}")),
            Err(allowed) => Err(allowed),
        })
    }

    fn size(&self, key: &str, min: u64) -> Result<usize, Error> {
        let bytes = self.bytes(key, min)?;
        usize::try_from(bytes).map_err(|_| Error(format!("{key} = {bytes} is too large")))
    }

    fn optional_size(&self, key: &str, min: u64) -> Result<Option<usize>, Error> {
        self.optional_text(key).map(|_| self.size(key, min)).transpose()
    }

    fn optional_bytes(&self, key: &str) -> Result<Option<u64>, Error> {
        match self.optional_text(key) {
            None => Ok(None),
            Some(_) => self.bytes(key, 0).map(Some),
        }
    }

    fn rate(&self) -> Result<Rate, Error> {
        let requests = self.number("http.rate.requests", 0, RATE_REQUESTS_MAX)?;
        Ok(Rate { requests, bytes: self.bytes("http.rate.bytes", 0)? })
    }

    fn duration(&self, key: &str) -> Result<Duration, Error> {
        self.parsed(key, |value| match delay(value)? {
            Duration::ZERO => Err("it must be longer than nothing".to_owned()),
            longer => Ok(longer),
        })
    }

    /// A duration that may be nothing.
    fn delay(&self, key: &str) -> Result<Duration, Error> {
        self.parsed(key, delay)
    }

    fn address(&self, key: &str) -> Result<SocketAddr, Error> {
        self.parsed(key, units::parse_address)
    }

    fn names(&self, key: &str) -> Vec<String> {
        self.settings.get(key).cloned().unwrap_or_default()
    }
}

/// A duration with its unit: milliseconds are that of Kafka's options only; here a person would mean
/// seconds.
fn delay(value: &str) -> Result<Duration, String> {
    if value.trim().bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it needs a unit, such as 250ms, 8s, 5m, 2h or 7d".to_owned());
    }
    Ok(Duration::from_millis(units::parse_duration_ms(value)?.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::new();
        for (key, value) in pairs {
            settings.entry((*key).to_owned()).or_default().push((*value).to_owned());
        }
        settings
    }

    #[test]
    fn defaults_are_valid_and_bind_loopback() {
        let config = Config::default();
        assert_eq!(config.kafka_listeners.len(), 1);
        assert_eq!(config.exposed_listener(), None);
        assert_eq!(config.num_partitions, 4);
    }

    #[test]
    fn a_wrong_key_names_the_nearest() {
        let error = Config::resolve(&settings(&[("kafka.lisen", "x")]), &[]).unwrap_err();
        assert!(error.0.contains("kafka.lisen") && error.0.contains("kafka.listen"), "{error}");
        let error = Config::resolve(&settings(&[("nonsense", "1")]), &["flush.ms"]).unwrap_err();
        assert!(!error.0.contains("did you mean"), "{error}");
    }

    #[test]
    fn a_duration_needs_its_unit() {
        let error = Config::resolve(&settings(&[("shutdown.timeout", "5")]), &[]).unwrap_err();
        assert!(error.0.contains("shutdown.timeout") && error.0.contains("unit"), "{error}");
        let config = Config::resolve(&settings(&[("shutdown.timeout", "5s")]), &[]).unwrap();
        assert_eq!(config.shutdown_timeout, Duration::from_secs(5));
        assert_eq!(config.shutdown_delay, Duration::ZERO);
        let config = Config::resolve(&settings(&[("shutdown.delay", "0s")]), &[]).unwrap();
        assert_eq!(config.shutdown_delay, Duration::ZERO);
        for (key, value) in [("shutdown.timeout", "0s"), ("shutdown.delay", "-1s")] {
            let error = Config::resolve(&settings(&[(key, value)]), &[]).unwrap_err();
            assert!(error.0.contains(key), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_names_key_value_and_what_is_allowed() {
        for (key, value) in [
            ("wal.file.bytes", "many"),
            ("http.listen", "nowhere"),
            ("auth.anonymous", "perhaps"),
            ("kafka.idle.timeout", "soon"),
            ("num.partitions", "0"),
            ("http.trusted.proxies", "10.0.0.0/99"),
        ] {
            let error = Config::resolve(&settings(&[(key, value)]), &[]).unwrap_err();
            assert!(error.0.contains(key) && error.0.contains(value), "{error}");
        }
    }

    #[test]
    fn listeners_are_tied_to_their_advertised_address_by_name() {
        let config = Config::resolve(
            &settings(&[
                ("kafka.listen", "host=0.0.0.0:9092"),
                ("kafka.listen", "internal=0.0.0.0:29092"),
                ("kafka.advertise", "internal=floe:29092"),
            ]),
            &[],
        )
        .unwrap();
        assert_eq!(config.kafka_listeners[0].advertise, None);
        assert_eq!(config.kafka_listeners[1].advertise, Some(("floe".to_owned(), 29092)));
        assert!(config.exposed_listener().is_some());
    }

    #[test]
    fn listeners_that_contradict_each_other_are_refused_with_their_names() {
        for (pairs, named) in [
            (&[("kafka.advertise", "x=floe:1")][..], &["\"x\"", "default"][..]),
            (
                &[("kafka.listen", "a=127.0.0.1:1"), ("kafka.advertise", "floe:1")],
                &["default", "a"],
            ),
            (&[("kafka.listen", "127.0.0.1:1"), ("kafka.listen", "127.0.0.1:2")], &["default"]),
            (&[("kafka.advertise", "floe:1"), ("kafka.advertise", "floe:2")], &["floe:2"]),
            (&[("kafka.listen", "=127.0.0.1:1")], &["=127.0.0.1:1", "empty"]),
            (&[("kafka.advertise", "floe")], &["floe", "HOST:PORT"]),
            (&[("kafka.advertise", "floe:0")], &["floe:0", "HOST:PORT"]),
        ] {
            let error = Config::resolve(&settings(pairs), &[]).unwrap_err().0;
            assert!(named.iter().all(|name| error.contains(name)), "{error}");
        }
    }

    #[test]
    fn topic_options_are_accepted_with_and_without_their_unit() {
        let keys = ["table.target.lag.ms", "table.mode"];
        let given = settings(&[("table.target.lag", "1s"), ("table.mode", "off")]);
        let config = Config::resolve(&given, &keys).unwrap();
        assert_eq!(config.topic_defaults["table.target.lag.ms"], "1s");
        assert_eq!(config.topic_defaults["table.mode"], "off");
    }
}
