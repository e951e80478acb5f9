//! Kafka Connect's HTTP sinks, and other senders, as a server sees them: their bytes and headers,
//! and what they do with each answer.
//!
//! Aiven's sink is imitated after its source, Confluent's (closed) after its documented options
//! and recorded requests.

mod aiven;
mod aiven_cases;
mod aiven_keboola;
mod confluent;
mod confluent_cases;
mod doors;
mod matrix;
mod senders;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use protocol_tests::clients::read_all;
use protocol_tests::http1::Http1;
use protocol_tests::{Floe, first_token};
use serde_json::{Map, Value};

/// Records that a worker polls at once (`max.poll.records`).
const POLL_MAX: usize = 500;

/// Keys of a configuration that the worker reads, not the connector.
const WORKER_KEYS: &[&str] = &[
    "name",
    "connector.class",
    "tasks.max",
    "topics",
    "key.converter",
    "value.converter",
    "value.converter.schemas.enable",
    "errors.tolerance",
    "errors.deadletterqueue.topic.name",
];

/// A value as its converter hands it to the sink.
#[derive(Clone)]
enum Data {
    /// `StringConverter`.
    Text(String),
    /// `JsonConverter` without schemas: a map.
    Map(Value),
    /// A converter with schemas: a struct.
    Struct(Value),
    /// A tombstone.
    Null,
}

/// One record of the source topic.
#[derive(Clone)]
struct Record {
    key: &'static str,
    value: Data,
}

/// `count` records with these values, by number.
fn records(count: usize, value: impl Fn(usize) -> Data) -> Vec<Record> {
    (0..count).map(|i| Record { key: "k", value: value(i) }).collect()
}

/// The JSON of a value, as Connect's own converter writes it.
fn json(value: &Data) -> Option<String> {
    match value {
        Data::Text(text) => Some(text.clone()),
        Data::Map(value) | Data::Struct(value) => Some(value.to_string()),
        Data::Null => None,
    }
}

/// A sink: what a task hands its records to.
trait Sink {
    /// Delivers all of them, or says why the task fails.
    async fn put(&mut self, records: &[Record]) -> Result<(), String>;
}

/// A sink task: offsets are committed when all records of a poll were delivered, and a task that
/// is started again begins behind them.
struct Task<S> {
    sink: S,
    records: Vec<Record>,
    committed: usize,
}

impl<S: Sink> Task<S> {
    fn new(sink: S, records: Vec<Record>) -> Self {
        Self { sink, records, committed: 0 }
    }

    /// Runs until everything is committed.
    ///
    /// # Errors
    /// Why the task has failed.
    async fn run(&mut self) -> Result<(), String> {
        while self.committed < self.records.len() {
            let end = (self.committed + POLL_MAX).min(self.records.len());
            self.sink.put(&self.records[self.committed..end]).await?;
            self.committed = end;
        }
        Ok(())
    }
}

/// The configuration of a connector, as a worker gets it.
struct Config(BTreeMap<String, String>);

impl Config {
    /// Fails at a key that neither the worker nor the connector knows: a typo would be without
    /// effect.
    fn new(config: &Value, known: &[&str]) -> Self {
        let pairs = config.as_object().unwrap().iter();
        let config: BTreeMap<_, _> = pairs
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_else(|| panic!("{key}"))))
            .map(|(key, value)| (key, value.to_owned()))
            .collect();
        for key in config.keys() {
            let of_worker = ["transforms", "predicates"].iter().any(|it| key.starts_with(it));
            let of_worker = of_worker || WORKER_KEYS.contains(&key.as_str());
            assert!(
                of_worker || known.contains(&key.as_str()),
                "{key} is no key of this connector"
            );
        }
        Self(config)
    }

    fn get<'c>(&'c self, key: &str, default: &'c str) -> &'c str {
        self.0.get(key).map_or(default, String::as_str)
    }

    fn number(&self, key: &str, default: usize) -> usize {
        self.0.get(key).map_or(default, |value| value.parse().unwrap())
    }

    fn millis(&self, key: &str, default: usize) -> Duration {
        Duration::from_millis(self.number(key, default) as u64)
    }

    fn is(&self, key: &str, default: bool) -> bool {
        self.get(key, if default { "true" } else { "false" }) == "true"
    }
}

/// `base`, with other values for some keys.
fn with(base: &Value, more: Value) -> Value {
    let mut all: Map<String, Value> = base.as_object().unwrap().clone();
    all.extend(more.as_object().unwrap().clone());
    Value::Object(all)
}

/// What docs/senders.md says to post to a worker, with this server's address and token.
fn documented(text: &str, guarded: &Guarded) -> Value {
    let text = text.replace("http://127.0.0.1:8080", &guarded.floe.url(""));
    let text = text.replace("floe_TOKEN", &guarded.token);
    let mut posted: Value = serde_json::from_str(&text).unwrap();
    posted["config"].take()
}

/// `HOST:PORT` and the rest of a URL.
fn taken_apart(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap();
    rest.split_at(rest.find('/').unwrap())
}

/// `Authorization: Basic`.
fn basic(user: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}

/// What an answer to client credentials means to connectors: a map of strings, of which two fields
/// make the header. What is no plain value is an error to them.
fn access(body: &Value, field: &str) -> Result<String, String> {
    let map = body.as_object().ok_or("the answer is no map")?;
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let mut fields = BTreeMap::new();
    for (name, value) in map {
        fields.insert(name.as_str(), text(value).ok_or(format!("{name} is no text"))?);
    }
    let token = fields.get(field).ok_or(format!("no {field}"))?;
    let kind = fields.get("token_type").map_or("Bearer", String::as_str);
    Ok(format!("{kind} {token}"))
}

/// A server that needs tokens, one that may do everything, and where its data lies.
struct Guarded {
    floe: Floe,
    token: String,
    _dir: tempfile::TempDir,
}

impl Guarded {
    async fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let token = first_token(&data);
        let flags = [&["--num-partitions", "1"], flags].concat();
        Self { floe: Floe::start_in(&data, &flags).await, token, _dir: dir }
    }

    /// Lets everybody in, so that what is stored can be read.
    async fn open(&mut self) {
        self.floe.stop().await;
        let flags = ["--num-partitions", "1", "--auth-anonymous", "allow"];
        self.floe.restart_with(&flags).await;
    }
}

/// The values of a topic of one partition, in order.
fn stored(floe: &Floe, topic: &str) -> Vec<String> {
    let found = tokio::task::block_in_place(|| read_all(floe, topic, 1));
    let text = |value: Option<Vec<u8>>| String::from_utf8(value.unwrap()).unwrap();
    found.into_iter().map(|record| text(record.value)).collect()
}

/// The values of these records as they should be stored.
fn wanted(records: &[Record]) -> Vec<String> {
    records.iter().filter_map(|record| json(&record.value)).collect()
}

/// Sends one request over a connection of its own; status and JSON of the answer.
async fn ask(floe: &Floe, request: &[u8]) -> protocol_tests::http1::Answer {
    Http1::new(&floe.http_address()).exchange(request).await.unwrap()
}
