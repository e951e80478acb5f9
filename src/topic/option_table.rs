//! THE table of topic options: key, spellings, type, default, check, doc, and whether it has an
//! effect. Everything that lists, parses or explains options reads it.
//!
//! Owns: the rows. Does not own: what a row is (`option_def`), reading values
//! (`option_value`), resolving them (`options`).

use crate::topic::option_def::{Effect, Kind, OptionDef, row};
use crate::types::RATE_REQUESTS_MAX;

const I32: i64 = i32::MAX as i64;
const I64: i64 = i64::MAX;
const DAY: i64 = 86_400_000;

const SHARED_FILES: Effect = Effect::None("all topics share the files of one log");
const ONE_FLUSH: Effect = Effect::None("log.flush decides it for the whole log");
const NO_COMPACTION: Effect = Effect::None("compacted topics keep every record for now");
const ONE_BROKER: Effect = Effect::None("there is one broker");
const AS_SENT: Effect = Effect::None("batches are stored as the producer sent them");
const NO_REMOTE: Effect = Effect::None("there is no remote storage but the table");
const ONE_FORMAT: Effect = Effect::None("there is one format on disk");

/// All options, by key (bounds and defaults of Kafka's:
/// `org.apache.kafka.storage.internals.log.LogConfig`).
pub const OPTIONS: &[OptionDef] = &[
    row(
        "cleanup.policy",
        Kind::List(&["delete", "compact"]),
        "delete",
        Effect::Active,
        "What becomes of old records. `compact` keeps everything until compaction \
         exists, and turns the table off by default.",
    ),
    row("compression.gzip.level", Kind::Int(-1, 9), "-1", AS_SENT, "Level of gzip."),
    row("compression.lz4.level", Kind::Int(1, 17), "9", AS_SENT, "Level of lz4."),
    row(
        "compression.type",
        Kind::Choice(&["producer", "uncompressed", "zstd", "lz4", "snappy", "gzip"]),
        "producer",
        AS_SENT,
        "Codec of stored batches.",
    ),
    row("compression.zstd.level", Kind::Int(-131_072, 22), "3", AS_SENT, "Level of zstd."),
    row(
        "delete.retention.ms",
        Kind::Long(0, I64),
        "86400000",
        NO_COMPACTION,
        "How long tombstones stay.",
    ),
    row(
        "file.delete.delay.ms",
        Kind::Long(0, I64),
        "60000",
        SHARED_FILES,
        "Wait before a file is removed.",
    ),
    row(
        "flush.messages",
        Kind::Long(1, I64),
        "9223372036854775807",
        ONE_FLUSH,
        "Records between two syncs.",
    ),
    row(
        "flush.ms",
        Kind::Long(0, I64),
        "9223372036854775807",
        ONE_FLUSH,
        "Time between two syncs.",
    ),
    row(
        "follower.replication.throttled.replicas",
        Kind::Replicas,
        "",
        ONE_BROKER,
        "Throttled followers.",
    ),
    row(
        "index.interval.bytes",
        Kind::Int(0, I32),
        "4096",
        SHARED_FILES,
        "Bytes between two index entries.",
    ),
    row(
        "leader.replication.throttled.replicas",
        Kind::Replicas,
        "",
        ONE_BROKER,
        "Throttled leaders.",
    ),
    row("local.retention.bytes", Kind::Long(-2, I64), "-2", NO_REMOTE, "Bytes kept locally."),
    row("local.retention.ms", Kind::Long(-2, I64), "-2", NO_REMOTE, "Time kept locally."),
    row(
        "max.compaction.lag.ms",
        Kind::Long(1, I64),
        "9223372036854775807",
        NO_COMPACTION,
        "Longest time a record stays uncompacted.",
    ),
    row(
        "max.message.bytes",
        Kind::Int(0, I32),
        "1048588",
        Effect::Active,
        "Largest record batch, in bytes, as sent.",
    ),
    row(
        "message.downconversion.enable",
        Kind::Boolean,
        "true",
        ONE_FORMAT,
        "Whether old consumers get old formats.",
    ),
    row("message.format.version", Kind::Text, "3.0-IV1", ONE_FORMAT, "Format on disk."),
    row(
        "message.timestamp.after.max.ms",
        Kind::Long(0, I64),
        "9223372036854775807",
        Effect::Active,
        "How far a record's timestamp may lie after the broker's time.",
    ),
    row(
        "message.timestamp.before.max.ms",
        Kind::Long(0, I64),
        "9223372036854775807",
        Effect::Active,
        "How far a record's timestamp may lie before the broker's time.",
    ),
    row(
        "message.timestamp.difference.max.ms",
        Kind::Long(0, I64),
        "9223372036854775807",
        Effect::Active,
        "Deprecated: sets both bounds of message.timestamp where they are not set.",
    ),
    row(
        "message.timestamp.type",
        Kind::Choice(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        Effect::Active,
        "Whose time a record carries: the producer's or the broker's.",
    ),
    row(
        "min.cleanable.dirty.ratio",
        Kind::Double(0.0, 1.0),
        "0.5",
        NO_COMPACTION,
        "How dirty a log must be to be compacted.",
    ),
    row(
        "min.compaction.lag.ms",
        Kind::Long(0, I64),
        "0",
        NO_COMPACTION,
        "Shortest time a record stays uncompacted.",
    ),
    row(
        "min.insync.replicas",
        Kind::Int(1, I32),
        "1",
        ONE_BROKER,
        "Replicas that must have a record with acks=all.",
    ),
    row("preallocate", Kind::Boolean, "false", SHARED_FILES, "Whether files are allocated ahead."),
    row(
        "remote.log.copy.disable",
        Kind::Boolean,
        "false",
        NO_REMOTE,
        "Stops copies to remote storage.",
    ),
    row(
        "remote.log.delete.on.disable",
        Kind::Boolean,
        "false",
        NO_REMOTE,
        "Removes the remote copy.",
    ),
    row(
        "remote.storage.enable",
        Kind::Boolean,
        "false",
        NO_REMOTE,
        "Tiered storage in Kafka's sense.",
    ),
    row(
        "retention.bytes",
        Kind::Long(-1, I64),
        "-1",
        Effect::Active,
        "Bytes kept per partition once they are in the table; -1 is without limit.",
    ),
    row(
        "retention.ms",
        Kind::Long(-1, I64),
        "604800000",
        Effect::Active,
        "How long records are kept once they are in the table; -1 is for ever.",
    ),
    row("segment.bytes", Kind::Int(14, I32), "1073741824", SHARED_FILES, "Size of a file."),
    row(
        "segment.index.bytes",
        Kind::Int(4, I32),
        "10485760",
        SHARED_FILES,
        "Size of an index file.",
    ),
    row("segment.jitter.ms", Kind::Long(0, I64), "0", SHARED_FILES, "Spread of segment.ms."),
    row(
        "segment.ms",
        Kind::Long(1, I64),
        "604800000",
        SHARED_FILES,
        "Age at which a file is closed.",
    ),
    row(
        "unclean.leader.election.enable",
        Kind::Boolean,
        "false",
        ONE_BROKER,
        "Whether a stale replica may lead.",
    ),
    row(
        "table.commit.min.interval.ms",
        Kind::Duration(0, DAY),
        "1000",
        Effect::Active,
        "Shortest time between two table commits.",
    ),
    row(
        "table.contract.coerce",
        Kind::Choice(&["strict", "lenient"]),
        "strict",
        Effect::Active,
        "With table.mode = contract: a value that its column does not take sends the record to the \
         dead-letter table (strict), or text that spells it is taken and the rest is null (lenient).",
    ),
    row(
        "table.contract.id.field",
        Kind::JsonPath,
        "",
        Effect::Active,
        "With table.mode = contract: path of what events over HTTP have as __id__; empty makes ids.",
    ),
    row(
        "table.contract.match",
        Kind::Choice(&["exact", "case_insensitive"]),
        "exact",
        Effect::Active,
        "With table.mode = contract: how names of fields find their columns.",
    ),
    row(
        "table.contract.timestamp.unit",
        Kind::Choice(&["s", "ms", "us", "ns"]),
        "ms",
        Effect::Active,
        "With table.mode = contract: what numbers in timestamp columns count from 1970 on.",
    ),
    row(
        "table.contract.write.id",
        Kind::Choice(&["flush", "request"]),
        "flush",
        Effect::Active,
        "With table.mode = contract: what has one value in the column __write_id__, a table commit \
         or an HTTP request.",
    ),
    row(
        "table.flush.bytes",
        Kind::Size(1 << 20, 1 << 40),
        "67108864",
        Effect::Active,
        "Bytes of the log that wait for the table at which a commit starts before the lag is \
         reached.",
    ),
    row(
        "table.max.columns",
        Kind::Count(1, 10_000),
        "1000",
        Effect::Active,
        "Columns that JSON fields may make; further ones go to _rest.",
    ),
    row(
        "table.mode",
        Kind::Choice(&["auto", "json", "raw", "contract", "off"]),
        "auto",
        Effect::Active,
        "How records become rows: JSON objects as columns and anything else as _value \
         (auto), only JSON objects (json), key and value as bytes (raw), JSON objects for the \
         columns of a table that is there (contract: table.namespace and table.name name it), no \
         table (off). Off by default for compacted topics and names that begin with _.",
    ),
    row(
        "table.name",
        Kind::TableName,
        "",
        Effect::Active,
        "Name of the table when it is made; empty makes it from the topic name. A table that \
         exists keeps its name. With table.mode = contract the table that is written to.",
    ),
    row(
        "table.namespace",
        Kind::Namespace,
        "streams",
        Effect::Active,
        "Namespace of the table when it is made, parts joined by dots.",
    ),
    row(
        "table.partition.spec",
        Kind::PartitionSpec,
        "",
        Effect::Active,
        "Partitioning of the table, such as `(hour(floe.timestamp))`; empty is \
         unpartitioned. It applies once all its columns exist.",
    ),
    row(
        "table.pin.max.bytes",
        Kind::Size(-1, I64),
        "-1",
        Effect::Active,
        "Bytes of the log that may wait for the table before table.pin.overflow \
         decides; -1 is half the disk.",
    ),
    row(
        "table.pin.overflow",
        Kind::Choice(&["block", "drop_oldest"]),
        "block",
        Effect::Active,
        "At the pin limit: refuse producers of the topic, or give up the oldest records \
         as a recorded gap.",
    ),
    row(
        "table.snapshot.max.age.ms",
        Kind::Duration(60_000, 3_650 * DAY),
        "432000000",
        Effect::Active,
        "Age at which snapshots of the table expire.",
    ),
    row(
        "table.snapshot.max.count",
        Kind::Count(1, 100_000),
        "1000",
        Effect::Active,
        "Snapshots of the table kept at most.",
    ),
    row(
        "table.snapshot.min.count",
        Kind::Count(1, 100_000),
        "10",
        Effect::Active,
        "Snapshots of the table kept at least, whatever their age.",
    ),
    row(
        "table.target.lag.ms",
        Kind::Duration(1_000, DAY),
        "60000",
        Effect::Active,
        "Longest time until a record is visible in the table.",
    ),
    row(
        "table.type.conflict",
        Kind::Choice(&["suffix", "rest", "dlq"]),
        "suffix",
        Effect::Active,
        "Where a value goes that does not fit its column: a typed sibling column, \
         _rest, or its row to the dead-letter table.",
    ),
    row(
        "topic.cors.origins",
        Kind::Origins,
        "",
        Effect::Active,
        "Origins whose pages may send events over HTTP, or *; empty is none.",
    ),
    row(
        "topic.dedup.field",
        Kind::JsonPath,
        "",
        Effect::Active,
        "Path of the id by which an event over HTTP is stored once within http.dedup.window, \
         such as $.id; empty is none.",
    ),
    row(
        "topic.delete.drain.max.ms",
        Kind::Duration(0, 30 * DAY),
        "3600000",
        Effect::Active,
        "How long a deleted topic's remaining rows are still committed; the rest are \
         recorded drops.",
    ),
    row(
        "topic.delete.untiered",
        Kind::Choice(&["drain", "discard"]),
        "drain",
        Effect::Active,
        "What becomes of a deleted topic's rows that are not in the table yet.",
    ),
    row(
        "topic.header.fields",
        Kind::HeaderFields,
        "",
        Effect::Active,
        "Record headers of events over HTTP with the paths of their values, such as \
         source=$.source,region=$.geo.region; empty is none.",
    ),
    row(
        "topic.idempotency",
        Kind::Choice(&["optional", "required", "body"]),
        "optional",
        Effect::Active,
        "Whether an event request over HTTP may (optional) or must (required) have an \
         Idempotency-Key, a channel, or ids of its events; body: without key and channel the same \
         body counts once in 10 minutes.",
    ),
    row(
        "topic.key.field",
        Kind::KeyField,
        "",
        Effect::Active,
        "Where the key of an event over HTTP is, if its sender does not say: a path such as \
         $.user.id, or the name of a record header such as ce_subject; empty is none.",
    ),
    row(
        "topic.overload.status",
        Kind::Choice(&["429", "503"]),
        "429",
        Effect::Active,
        "HTTP status when too much is in flight or a rate is exceeded: some senders give up at \
         429, others at 503.",
    ),
    row(
        "topic.public",
        Kind::Boolean,
        "false",
        Effect::Active,
        "Whether events are taken over HTTP without a token where others need one. It needs a rate: \
         topic.rate.* or http.rate.*; not to be set for the whole server.",
    ),
    row(
        "topic.rate.bytes",
        Kind::Size(0, I64),
        "0",
        Effect::Active,
        "Most bytes of bodies over HTTP in a second, as they are sent; more is answered with \
         rate_limited. 0 is without limit.",
    ),
    row(
        "topic.rate.requests",
        Kind::Count(0, RATE_REQUESTS_MAX as i64),
        "0",
        Effect::Active,
        "Most requests with events over HTTP in a second; more are answered with rate_limited. \
         0 is without limit.",
    ),
    row(
        "topic.timestamp.field",
        Kind::JsonPath,
        "",
        Effect::Active,
        "Path of the time of an event over HTTP, if its sender does not say: milliseconds or \
         RFC 3339, such as $.time; empty is none.",
    ),
    row(
        "topic.trace.headers",
        Kind::Boolean,
        "false",
        Effect::Active,
        "Whether an event over HTTP has record headers with the id of its request (x-request-id) \
         and its traceparent, if the request had one.",
    ),
    row(
        "redpanda.iceberg.delete",
        Kind::Choice(&["false"]),
        "false",
        Effect::None("a table outlives its topic"),
        "Whether the table goes with the topic; only `false` is accepted.",
    ),
    row(
        "redpanda.iceberg.invalid.record.action",
        Kind::Choice(&["dlq_table"]),
        "dlq_table",
        Effect::None("bad records always go to the dead-letter table"),
        "Where bad records go; only `dlq_table` is accepted.",
    ),
];

/// Spellings of other products, and our key for them.
pub(crate) const ALIASES: &[(&str, &str)] = &[
    ("redpanda.iceberg.mode", "table.mode"),
    ("redpanda.iceberg.partition.spec", "table.partition.spec"),
    ("redpanda.iceberg.target.lag.ms", "table.target.lag.ms"),
];

/// The option of that canonical key.
pub(crate) fn find(key: &str) -> Option<&'static OptionDef> {
    OPTIONS.iter().find(|def| def.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::option_value::check;

    #[test]
    fn every_key_is_there_once_and_its_default_is_legal() {
        for (at, def) in OPTIONS.iter().enumerate() {
            assert!(OPTIONS[at + 1..].iter().all(|other| other.key != def.key), "{}", def.key);
            assert_eq!(check(def, def.default, |_| Ok(())), Ok(()), "{}", def.key);
            assert!(!def.doc.is_empty());
        }
        for (alias, key) in ALIASES {
            assert!(find(key).is_some() && find(alias).is_none(), "{alias}");
        }
    }

    #[test]
    fn every_topic_config_of_kafka_is_accepted() {
        for key in [
            "cleanup.policy",
            "compression.type",
            "delete.retention.ms",
            "file.delete.delay.ms",
            "flush.messages",
            "flush.ms",
            "follower.replication.throttled.replicas",
            "index.interval.bytes",
            "leader.replication.throttled.replicas",
            "local.retention.bytes",
            "local.retention.ms",
            "max.compaction.lag.ms",
            "max.message.bytes",
            "message.timestamp.after.max.ms",
            "message.timestamp.before.max.ms",
            "message.timestamp.type",
            "min.cleanable.dirty.ratio",
            "min.compaction.lag.ms",
            "min.insync.replicas",
            "preallocate",
            "remote.storage.enable",
            "retention.bytes",
            "retention.ms",
            "segment.bytes",
            "segment.index.bytes",
            "segment.jitter.ms",
            "segment.ms",
            "unclean.leader.election.enable",
        ] {
            assert!(find(key).is_some(), "{key}");
        }
    }
}
