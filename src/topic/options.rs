//! The options of a topic, resolved: topic, then server, then default.
//!
//! Owns: the resolved values, rules that concern several options, the view that tools read.
//! Does not own: which options there are (`option_table`), reading one value (`option_value`).

use std::collections::BTreeMap;

use crate::topic::Error;
use crate::topic::event_fields::EventFields;
use crate::topic::option_def::{Effect, Kind, OptionDef};
use crate::topic::option_table;
use crate::topic::option_value::{self, CheckSpec, invalid};
use crate::types::Rate;

pub use crate::topic::choices::{DeleteUntiered, Idempotency, PinOverflow, TypeConflict};
pub use crate::topic::option_table::OPTIONS;

/// Options as somebody set them: canonical key to value as given.
pub type Overrides = BTreeMap<String, String>;

/// How a topic becomes a table (`table.mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TableMode {
    /// JSON objects become columns, anything else `_value` (rules 5.2).
    #[default]
    Auto,
    /// Like auto, but what is not a JSON object goes to the dead-letter table.
    Json,
    /// Key, value and the system column.
    Raw,
    /// JSON objects for the columns of a table that is there, see [`ContractOptions`].
    Contract,
    /// No table.
    Off,
}

impl TableMode {
    /// As in `table.mode`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Raw => "raw",
            Self::Contract => "contract",
            Self::Off => "off",
        }
    }
}

/// What numbers in timestamp columns count (`table.contract.timestamp.unit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampUnit {
    /// `s`.
    Seconds,
    /// `ms`.
    #[default]
    Millis,
    /// `us`.
    Micros,
    /// `ns`.
    Nanos,
}

/// How records become rows of a table whose schema is the contract (`table.contract.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContractOptions {
    /// `match` is `case_insensitive`.
    pub fold_case: bool,
    /// `coerce` is `lenient`.
    pub lenient: bool,
    /// `timestamp.unit`.
    pub timestamp_unit: TimestampUnit,
    /// `write.id` is `request`.
    pub write_id_of_request: bool,
}

/// All options of one topic with their values.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicOptions {
    /// `retention.ms`; none is for ever (-1).
    pub retention_ms: Option<i64>,
    /// `retention.bytes` per partition; none is without limit (-1).
    pub retention_bytes: Option<u64>,
    /// `cleanup.policy` contains `compact`.
    pub compacted: bool,
    /// `max.message.bytes`: largest record batch in bytes.
    pub max_message_bytes: u32,
    /// `message.timestamp.type` is `LogAppendTime`.
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `table.mode`, with the exceptions of the default already applied (`_`-topics, compacted).
    pub table_mode: TableMode,
    /// `table.namespace`, dot-separated.
    pub table_namespace: String,
    /// `table.name`; none means made from the topic name (rules 6.4).
    pub table_name: Option<String>,
    /// `table.contract.*`.
    pub table_contract: ContractOptions,
    /// `table.target.lag.ms`.
    pub table_target_lag_ms: i64,
    /// `table.flush.bytes`.
    pub table_flush_bytes: u64,
    /// `table.commit.min.interval.ms`.
    pub table_commit_min_interval_ms: i64,
    /// `table.partition.spec` as given; empty is unpartitioned.
    pub table_partition_spec: String,
    /// `table.type.conflict`.
    pub table_type_conflict: TypeConflict,
    /// `table.max.columns`.
    pub table_max_columns: u32,
    /// `table.pin.max.bytes`; none is half the disk.
    pub table_pin_max_bytes: Option<u64>,
    /// `table.pin.overflow`.
    pub table_pin_overflow: PinOverflow,
    /// One of `table.snapshot.*` is set on the topic itself.
    pub table_snapshot_is_set: bool,
    /// `table.snapshot.max.age.ms`.
    pub table_snapshot_max_age_ms: i64,
    /// `table.snapshot.min.count`.
    pub table_snapshot_min_count: u32,
    /// `table.snapshot.max.count`.
    pub table_snapshot_max_count: u32,
    /// `topic.delete.untiered`.
    pub delete_untiered: DeleteUntiered,
    /// `topic.delete.drain.max.ms`.
    pub delete_drain_max_ms: i64,
    /// `topic.dedup.field`: path of the id by which an event over HTTP counts once, with `$.`.
    pub dedup_field: Option<String>,
    /// `topic.key.field`, `topic.timestamp.field`, `topic.header.fields`.
    pub event_fields: EventFields,
    /// `table.contract.id.field`: path of what an event over HTTP has as id, with `$.`.
    pub contract_id_field: Option<String>,
    /// `topic.trace.headers`: events over HTTP say which request they came by.
    pub trace_headers: bool,
    /// `topic.idempotency`.
    pub idempotency: Idempotency,
    /// `topic.overload.status`: what too much in flight is answered with over HTTP.
    pub overload_status: u16,
    /// `topic.cors.origins`: whose pages may send events over HTTP.
    pub cors_origins: Vec<String>,
    /// `topic.public`: who sends events over HTTP needs no token, if the topic is within a rate.
    pub public: bool,
    /// `topic.rate.*`: how much may come over HTTP.
    pub rate: Rate,
}

impl Default for TopicOptions {
    fn default() -> Self {
        const DAY_MS: i64 = 86_400_000;
        Self {
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            compacted: false,
            max_message_bytes: 1_048_588,
            log_append_time: false,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: i64::MAX,
            table_mode: TableMode::Auto,
            table_namespace: "streams".to_owned(),
            table_name: None,
            table_contract: ContractOptions::default(),
            table_target_lag_ms: 60_000,
            table_flush_bytes: 64 << 20,
            table_commit_min_interval_ms: 1_000,
            table_partition_spec: String::new(),
            table_type_conflict: TypeConflict::Suffix,
            table_max_columns: 1_000,
            table_pin_max_bytes: None,
            table_pin_overflow: PinOverflow::Block,
            table_snapshot_is_set: false,
            table_snapshot_max_age_ms: 5 * DAY_MS,
            table_snapshot_min_count: 10,
            table_snapshot_max_count: 1_000,
            delete_untiered: DeleteUntiered::Drain,
            delete_drain_max_ms: 3_600_000,
            dedup_field: None,
            event_fields: EventFields::default(),
            contract_id_field: None,
            trace_headers: false,
            idempotency: Idempotency::Optional,
            overload_status: 429,
            cors_origins: Vec::new(),
            public: false,
            rate: Rate::default(),
        }
    }
}

/// Where the value of an option comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Set on the topic (Kafka: dynamic topic config, 1).
    Topic,
    /// Set for the server (Kafka: static broker config, 4).
    Server,
    /// Nobody set it (Kafka: default config, 5).
    Default,
}

/// Kafka's type of an option, as `DescribeConfigs` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// 1.
    Boolean,
    /// 2.
    String,
    /// 3.
    Int,
    /// 5.
    Long,
    /// 6.
    Double,
    /// 7.
    List,
}

/// One option of one topic as tools see it. None of them is sensitive or read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionView {
    /// Canonical key.
    pub key: &'static str,
    /// The value in effect, as it was given.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
    /// Value set for the server, if any.
    pub server: Option<String>,
    /// Value when nobody sets it.
    pub default: &'static str,
    /// Kafka's type.
    pub value_type: ValueType,
    /// What it does, and why not if it has no effect.
    pub doc: String,
    /// True if it is accepted but changes nothing.
    pub no_effect: bool,
}

/// Brings options to canonical keys and checks each value.
///
/// # Errors
/// [`Error::InvalidConfig`] names key, value and what is allowed.
pub fn normalise(given: &Overrides, check_spec: CheckSpec) -> Result<Overrides, Error> {
    let mut overrides = Overrides::new();
    for (key, value) in given {
        let (def, value) = option_value::canonical(key, value)?;
        option_value::check(def, &value, check_spec)
            .map_err(|allowed| invalid(key, &value, &allowed))?;
        if overrides.insert(def.key.to_owned(), value).is_some() {
            let text = format!("{} is set twice, in two spellings", def.key);
            return Err(Error::InvalidConfig(text));
        }
    }
    Ok(overrides)
}

impl TopicOptions {
    /// Resolves the options of the topic `name`; both maps have canonical keys.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a value that is refused, alone or beside another one.
    pub fn resolve(name: &str, topic: &Overrides, server: &Overrides) -> Result<Self, Error> {
        let layers = Layers { topic, server };
        let compacted = option_value::list(layers.raw("cleanup.policy").0).any(|p| p == "compact");
        let difference = layers.raw("message.timestamp.difference.max.ms");
        let bound = |key| -> Result<i64, Error> {
            // The deprecated option counts where the newer one is not set as near to the topic.
            let key = if layers.raw(key).1 as u8 <= difference.1 as u8 {
                key
            } else {
                "message.timestamp.difference.max.ms"
            };
            layers.number(key)
        };
        let options = Self {
            retention_ms: unless_negative(layers.number("retention.ms")?),
            retention_bytes: unsigned(layers.number("retention.bytes")?),
            compacted,
            max_message_bytes: small(layers.number("max.message.bytes")?),
            log_append_time: layers.raw("message.timestamp.type").0.trim() == "LogAppendTime",
            timestamp_before_max_ms: bound("message.timestamp.before.max.ms")?,
            timestamp_after_max_ms: bound("message.timestamp.after.max.ms")?,
            table_mode: layers.table_mode(name, compacted)?,
            table_namespace: layers.raw("table.namespace").0.to_owned(),
            table_name: Some(layers.raw("table.name").0.to_owned()).filter(|n| !n.is_empty()),
            table_contract: layers.contract()?,
            table_target_lag_ms: layers.number("table.target.lag.ms")?,
            table_flush_bytes: layers.number("table.flush.bytes")?.cast_unsigned(),
            table_commit_min_interval_ms: layers.number("table.commit.min.interval.ms")?,
            table_partition_spec: layers.raw("table.partition.spec").0.trim().to_owned(),
            table_type_conflict: layers.word("table.type.conflict", |word| match word {
                "suffix" => Some(TypeConflict::Suffix),
                "rest" => Some(TypeConflict::Rest),
                "dlq" => Some(TypeConflict::Dlq),
                _ => None,
            })?,
            table_max_columns: small(layers.number("table.max.columns")?),
            table_pin_max_bytes: unsigned(layers.number("table.pin.max.bytes")?),
            table_pin_overflow: layers.word("table.pin.overflow", |word| match word {
                "block" => Some(PinOverflow::Block),
                "drop_oldest" => Some(PinOverflow::DropOldest),
                _ => None,
            })?,
            table_snapshot_is_set: topic.keys().any(|key| key.starts_with("table.snapshot.")),
            table_snapshot_max_age_ms: layers.number("table.snapshot.max.age.ms")?,
            table_snapshot_min_count: small(layers.number("table.snapshot.min.count")?),
            table_snapshot_max_count: small(layers.number("table.snapshot.max.count")?),
            delete_untiered: layers.word("topic.delete.untiered", |word| match word {
                "drain" => Some(DeleteUntiered::Drain),
                "discard" => Some(DeleteUntiered::Discard),
                _ => None,
            })?,
            delete_drain_max_ms: layers.number("topic.delete.drain.max.ms")?,
            dedup_field: layers.path("topic.dedup.field"),
            event_fields: EventFields::read(|key| layers.raw(key).0),
            contract_id_field: layers.path("table.contract.id.field"),
            idempotency: layers.word("topic.idempotency", Idempotency::of)?,
            trace_headers: layers.word("topic.trace.headers", |word| word.parse().ok())?,
            overload_status: layers.word("topic.overload.status", |word| word.parse().ok())?,
            cors_origins: layers.items("topic.cors.origins"),
            public: layers.word("topic.public", |word| option_value::boolean(word).ok())?,
            rate: layers.rate()?,
        };
        cross_check(&layers)?;
        if options.table_mode == TableMode::Contract && options.table_name.is_none() {
            let allowed = "it needs table.name, and table.namespace: the table that is written to";
            return Err(invalid("table.mode", "contract", allowed));
        }
        Ok(options)
    }
}

/// Rules between two options: the first may not be above the second.
const ORDERED: &[(&str, &str)] = &[
    ("table.snapshot.min.count", "table.snapshot.max.count"),
    ("table.commit.min.interval.ms", "table.target.lag.ms"),
    ("min.compaction.lag.ms", "max.compaction.lag.ms"),
];

fn cross_check(layers: &Layers<'_>) -> Result<(), Error> {
    for (low, high) in ORDERED {
        if layers.number(low)? > layers.number(high)? {
            let (low_value, high_value) = (layers.raw(low).0, layers.raw(high).0);
            let allowed = format!("allowed is at most {high}, which is {high_value}");
            return Err(invalid(low, low_value, &allowed));
        }
    }
    Ok(())
}

/// Every option of a topic with its value and where that comes from, by the order of the table.
pub(crate) fn describe(
    topic: &Overrides,
    server: &Overrides,
    options: &TopicOptions,
) -> Vec<OptionView> {
    let layers = Layers { topic, server };
    let shown = OPTIONS.iter().filter(|def| !def.is_hidden() || topic.contains_key(def.key));
    shown
        .map(|def| {
            let (value, source) = layers.raw(def.key);
            let off = def.key == "table.mode"
                && source != Source::Topic
                && options.table_mode == TableMode::Off;
            // The exception of the default shows as the default of this topic.
            let (value, source) = match off && value.trim() != "off" {
                true => ("off", Source::Default),
                false => (value, source),
            };
            OptionView {
                key: def.key,
                value: value.to_owned(),
                source,
                server: server.get(def.key).cloned(),
                default: def.default,
                value_type: value_type(def.kind),
                doc: doc(def),
                no_effect: def.effect != Effect::Active,
            }
        })
        .collect()
}

fn doc(def: &OptionDef) -> String {
    match def.effect {
        Effect::Active => def.doc.to_owned(),
        Effect::None(why) => format!("{} Accepted, no effect: {why}.", def.doc),
    }
}

fn value_type(kind: Kind) -> ValueType {
    match kind {
        Kind::Boolean => ValueType::Boolean,
        Kind::Int(..) | Kind::Count(..) => ValueType::Int,
        Kind::Long(..) => ValueType::Long,
        Kind::Double(..) => ValueType::Double,
        Kind::List(_) | Kind::Replicas | Kind::Origins | Kind::HeaderFields => ValueType::List,
        // With a unit they are no numbers to Kafka's tools.
        Kind::Duration(..) | Kind::Size(..) => ValueType::String,
        Kind::Choice(_) | Kind::Text | Kind::Namespace | Kind::TableName => ValueType::String,
        Kind::PartitionSpec | Kind::JsonPath | Kind::KeyField => ValueType::String,
    }
}

struct Layers<'a> {
    topic: &'a Overrides,
    server: &'a Overrides,
}

impl<'a> Layers<'a> {
    fn raw(&self, key: &str) -> (&'a str, Source) {
        if let Some(value) = self.topic.get(key) {
            return (value, Source::Topic);
        }
        if let Some(value) = self.server.get(key) {
            return (value, Source::Server);
        }
        let def = option_table::find(key).expect("only keys of the table are asked for");
        (def.default, Source::Default)
    }

    fn number(&self, key: &str) -> Result<i64, Error> {
        let def = option_table::find(key).expect("only keys of the table are asked for");
        let value = self.raw(key).0;
        option_value::number(def.kind, value).map_err(|allowed| invalid(key, value, &allowed))
    }

    fn word<T>(&self, key: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
        let value = self.raw(key).0;
        read(value.trim()).ok_or_else(|| invalid(key, value, "it is not an allowed word"))
    }

    /// A path with `$.`; none where it is empty.
    fn path(&self, key: &str) -> Option<String> {
        Some(self.raw(key).0.trim().to_owned()).filter(|path| !path.is_empty())
    }

    fn items(&self, key: &str) -> Vec<String> {
        option_value::list(self.raw(key).0).map(str::to_owned).collect()
    }

    fn rate(&self) -> Result<Rate, Error> {
        let requests = small(self.number("topic.rate.requests")?);
        Ok(Rate { requests, bytes: self.number("topic.rate.bytes")?.cast_unsigned() })
    }

    fn contract(&self) -> Result<ContractOptions, Error> {
        let is = |key: &str, wanted: &str| self.raw(key).0.trim() == wanted;
        Ok(ContractOptions {
            fold_case: is("table.contract.match", "case_insensitive"),
            lenient: is("table.contract.coerce", "lenient"),
            timestamp_unit: self.word("table.contract.timestamp.unit", |word| match word {
                "s" => Some(TimestampUnit::Seconds),
                "ms" => Some(TimestampUnit::Millis),
                "us" => Some(TimestampUnit::Micros),
                "ns" => Some(TimestampUnit::Nanos),
                _ => None,
            })?,
            write_id_of_request: is("table.contract.write.id", "request"),
        })
    }

    fn table_mode(&self, name: &str, compacted: bool) -> Result<TableMode, Error> {
        // Changelogs and internal topics make no useful table unless someone asks for one.
        if (name.starts_with('_') || compacted) && !self.topic.contains_key("table.mode") {
            return Ok(TableMode::Off);
        }
        self.word("table.mode", |word| match word {
            "auto" => Some(TableMode::Auto),
            "json" => Some(TableMode::Json),
            "raw" => Some(TableMode::Raw),
            "contract" => Some(TableMode::Contract),
            "off" => Some(TableMode::Off),
            _ => None,
        })
    }
}

fn unless_negative(value: i64) -> Option<i64> {
    (value >= 0).then_some(value)
}

fn unsigned(value: i64) -> Option<u64> {
    u64::try_from(value).ok()
}

/// The table's bounds keep these within 32 bits.
fn small(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Overrides {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn resolve(name: &str, topic: &[(&str, &str)], server: &[(&str, &str)]) -> TopicOptions {
        TopicOptions::resolve(name, &map(topic), &map(server)).unwrap()
    }

    #[test]
    fn the_table_and_the_struct_agree_on_defaults() {
        assert_eq!(resolve("t", &[], &[]), TopicOptions::default());
    }

    #[test]
    fn topic_wins_over_server_wins_over_default() {
        let server = [("retention.ms", "5"), ("table.target.lag.ms", "2s")];
        let options = resolve("t", &[("retention.ms", "-1")], &server);
        assert_eq!((options.retention_ms, options.table_target_lag_ms), (None, 2_000));
    }

    #[test]
    fn the_table_is_off_for_internal_and_compacted_topics_unless_the_topic_says_so() {
        let compact = ("cleanup.policy", "compact,delete");
        assert_eq!(resolve("_t", &[], &[]).table_mode, TableMode::Off);
        assert_eq!(resolve("t", &[compact], &[]).table_mode, TableMode::Off);
        assert_eq!(resolve("t", &[compact], &[("table.mode", "json")]).table_mode, TableMode::Off);
        let set = ("table.mode", "raw");
        assert_eq!(resolve("_t", &[compact, set], &[]).table_mode, TableMode::Raw);
        let topic = map(&[compact]);
        let options = TopicOptions::resolve("t", &topic, &map(&[])).unwrap();
        let views = describe(&topic, &map(&[]), &options);
        let view = views.iter().find(|view| view.key == "table.mode").unwrap();
        assert_eq!((view.value.as_str(), view.source), ("off", Source::Default));
    }

    #[test]
    fn the_deprecated_timestamp_option_counts_where_the_newer_are_not_set() {
        let difference = ("message.timestamp.difference.max.ms", "7");
        let before = ("message.timestamp.before.max.ms", "9");
        let options = resolve("t", &[difference, before], &[]);
        assert_eq!(options.timestamp_before_max_ms, 9);
        assert_eq!(options.timestamp_after_max_ms, 7);
        let options = resolve("t", &[difference], &[before]);
        assert_eq!(options.timestamp_before_max_ms, 7, "the topic is nearer than the server");
    }

    #[test]
    fn rates_are_none_unless_they_are_set() {
        assert_eq!(resolve("t", &[], &[]).rate, Rate::default());
        let (of_topic, of_server) = (("topic.rate.bytes", "2MiB"), ("topic.rate.requests", "7"));
        let rate = resolve("t", &[of_topic], &[of_server]).rate;
        assert_eq!(rate, Rate { requests: 7, bytes: 2 << 20 });
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for (key, value, other) in [
            ("table.snapshot.min.count", "2000", "table.snapshot.max.count"),
            ("table.commit.min.interval.ms", "2m", "table.target.lag.ms"),
        ] {
            let error = TopicOptions::resolve("t", &map(&[(key, value)]), &map(&[])).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(key) && text.contains(value) && text.contains(other), "{text}");
        }
    }

    #[test]
    fn a_contract_needs_its_table() {
        let contract = [("table.mode", "contract")];
        let error = TopicOptions::resolve("t", &map(&contract), &map(&[])).unwrap_err().to_string();
        assert!(error.contains("table.mode") && error.contains("table.name"), "{error}");
        let more = [("table.name", "sales"), ("table.contract.timestamp.unit", "us")];
        let options = resolve("t", &[contract[0], more[0], more[1]], &[]);
        assert_eq!(options.table_mode, TableMode::Contract);
        assert_eq!(options.table_contract.timestamp_unit, TimestampUnit::Micros);
    }

    #[test]
    fn two_spellings_of_one_option_are_refused() {
        let given = map(&[("table.mode", "raw"), ("floe.table.mode", "off")]);
        assert!(normalise(&given, |_| Ok(())).is_err());
        let given = map(&[("floe.table.mode", "off")]);
        assert_eq!(normalise(&given, |_| Ok(())).unwrap(), map(&[("table.mode", "off")]));
    }

    #[test]
    fn a_description_shows_value_source_and_what_has_no_effect() {
        let (topic, server) = (map(&[("segment.bytes", "100")]), map(&[("retention.ms", "5")]));
        let options = TopicOptions::resolve("t", &topic, &server).unwrap();
        let views = describe(&topic, &server, &options);
        let view = |key: &str| views.iter().find(|view| view.key == key).unwrap();
        assert_eq!(view("segment.bytes").source, Source::Topic);
        assert!(view("segment.bytes").no_effect);
        assert!(view("segment.bytes").doc.contains("no effect: all topics share"));
        assert_eq!(view("retention.ms").source, Source::Server);
        assert_eq!(view("retention.ms").default, "604800000");
        assert_eq!(view("retention.bytes").source, Source::Default);
        assert!(views.iter().all(|view| !view.key.starts_with("redpanda.")));
    }
}
