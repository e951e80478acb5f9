//! The options of the broker as DescribeConfigs shows them. They are set at start and read-only on
//! the wire.

use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsSynonym,
};

use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::describe_configs::{SOURCE_DEFAULT, SOURCE_STATIC_BROKER, type_code};
use crate::kafka::handler::{ItemError, some_text, text};
use crate::kafka::options::Options;
use crate::topic::options::ValueType;

/// The name of a broker resource is its id; empty stands for all brokers.
pub(crate) fn check_name(name: &str, node: i32) -> Result<(), ItemError> {
    if name.is_empty() || name.parse() == Ok(node) {
        return Ok(());
    }
    Err(ItemError::new(
        ErrorCode::InvalidRequest,
        format!("broker {name:?} does not exist, expected {node} or nothing"),
    ))
}

/// All broker options with their values. Tools read several of these by name.
pub(crate) fn entries(options: &Options) -> Vec<DescribeConfigsResourceResult> {
    let default = Options::default();
    values(options)
        .into_iter()
        .zip(values(&default))
        .map(|(own, default)| entry(&own, &default))
        .collect()
}

struct Value {
    key: &'static str,
    kind: ValueType,
    value: String,
    doc: &'static str,
}

fn values(options: &Options) -> Vec<Value> {
    let mut values = topic_values(options);
    values.extend(single_broker_values());
    values.extend(wire_values(options));
    values
}

fn value(key: &'static str, kind: ValueType, value: impl ToString, doc: &'static str) -> Value {
    Value { key, kind, value: value.to_string(), doc }
}

/// What the server decides for topics.
fn topic_values(options: &Options) -> Vec<Value> {
    use ValueType::{Boolean, Int, List, Long};
    let topic = &options.topic_defaults;
    let policy = if topic.compacted { "compact" } else { "delete" };
    // No limit is -1.
    let retention_ms = topic.retention_ms.unwrap_or(-1);
    let retention_bytes = topic.retention_bytes.map_or("-1".to_owned(), |n| n.to_string());
    let created = "Unknown topics are made when a client asks for their metadata.";
    let max_bytes = topic.max_message_bytes;
    vec![
        value("auto.create.topics.enable", Boolean, options.auto_create_topics, created),
        value(
            "num.partitions",
            Int,
            options.num_partitions,
            "Partitions of a topic that names none.",
        ),
        value("log.cleanup.policy", List, policy, "Default of cleanup.policy."),
        value("log.retention.ms", Long, retention_ms, "Default of retention.ms."),
        value("log.retention.bytes", Long, retention_bytes, "Default of retention.bytes."),
        value("message.max.bytes", Int, max_bytes, "Default of max.message.bytes."),
    ]
}

/// What follows from there being one broker, and what clients expect of transactions.
fn single_broker_values() -> Vec<Value> {
    use ValueType::Int;
    let one = "There is one broker.";
    vec![
        value("default.replication.factor", Int, 1, one),
        value("offsets.topic.replication.factor", Int, 1, one),
        value("transaction.state.log.replication.factor", Int, 1, one),
        value("min.insync.replicas", Int, 1, one),
        value("transaction.max.timeout.ms", Int, 900_000, "Longest time-out of a transaction."),
    ]
}

fn wire_values(options: &Options) -> Vec<Value> {
    use ValueType::{Int, Long};
    let idle_ms = options.idle_timeout.as_millis();
    let idle = "A connection without a request for so long is closed.";
    let fetch = "Most record bytes of one Fetch answer.";
    let open = "Open connections over all listeners.";
    let queued = "Bytes of requests of all connections that wait for their answer.";
    vec![
        value("broker.id", Int, options.node_id, "Id of this broker."),
        value("socket.request.max.bytes", Int, options.frame_bytes_max, "Largest request."),
        value("fetch.max.bytes", Int, options.fetch_bytes_max, fetch),
        value("max.connections", Int, options.connections_max, open),
        value("connections.max.idle.ms", Long, idle_ms, idle),
        value("queued.max.request.bytes", Long, options.request_bytes_max, queued),
    ]
}

fn entry(own: &Value, default: &Value) -> DescribeConfigsResourceResult {
    let is_default = own.value == default.value;
    let source = if is_default { SOURCE_DEFAULT } else { SOURCE_STATIC_BROKER };
    let synonym = |value: &str, source| {
        DescribeConfigsSynonym::default()
            .with_name(text(own.key))
            .with_value(some_text(value))
            .with_source(source)
    };
    let mut synonyms = Vec::new();
    if !is_default {
        synonyms.push(synonym(&own.value, source));
    }
    synonyms.push(synonym(&default.value, SOURCE_DEFAULT));
    DescribeConfigsResourceResult::default()
        .with_name(text(own.key))
        .with_value(some_text(&own.value))
        .with_read_only(true)
        .with_config_source(source)
        .with_config_type(type_code(own.kind))
        .with_documentation(some_text(own.doc))
        .with_synonyms(synonyms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_tools_read_are_there() {
        let entries = entries(&Options { num_partitions: 9, ..Options::default() });
        for key in [
            "auto.create.topics.enable",
            "default.replication.factor",
            "num.partitions",
            "offsets.topic.replication.factor",
            "log.cleanup.policy",
            "transaction.max.timeout.ms",
            "message.max.bytes",
        ] {
            assert!(entries.iter().any(|entry| entry.name.as_str() == key), "{key}");
        }
        let partitions =
            entries.iter().find(|entry| entry.name.as_str() == "num.partitions").unwrap();
        assert_eq!((partitions.config_source, partitions.synonyms.len()), (4, 2));
    }

    #[test]
    fn only_this_broker_has_a_name() {
        assert!(check_name("1", 1).is_ok() && check_name("", 1).is_ok());
        assert_eq!(check_name("2", 1).unwrap_err().code, ErrorCode::InvalidRequest);
    }
}
