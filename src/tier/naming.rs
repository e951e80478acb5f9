//! The names of tables that topics become (rules 6.3, 6.4). Pure.

use crate::types::TopicId;

/// Longest name we make: file systems stop at 255 bytes, and suffixes need room.
const NAME_LEN_MAX: usize = 200;

/// Suffix of the dead-letter table.
pub const DLQ_SUFFIX: &str = "__dlq";

/// The table name of a topic: every character outside `[A-Za-z0-9_]` becomes `_`. Never empty,
/// never refused; at most 200 characters.
pub fn table_name(topic: &str) -> String {
    let mut name: String = topic
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' })
        .take(NAME_LEN_MAX)
        .collect();
    if name.is_empty() {
        name.push('_');
    }
    name
}

/// `wanted`, or where that is taken (ignoring case) `wanted_<hex of the topic id>` with 6 digits,
/// and more of them until it is free.
pub fn free_name(wanted: &str, topic_id: TopicId, taken: &[String]) -> String {
    let is_taken = |name: &str| taken.iter().any(|other| other.eq_ignore_ascii_case(name));
    if !is_taken(wanted) {
        return wanted.to_owned();
    }
    [6, 12, 32]
        .iter()
        .map(|digits| format!("{wanted}_{}", topic_id.short(*digits)))
        .find(|name| !is_taken(name))
        .unwrap_or_else(|| format!("{wanted}_{}_", topic_id.short(32)))
}

/// The name that the table of a deleted topic gets when its topic's name is used again.
pub fn former_name(table: &str, old_topic: TopicId) -> String {
    format!("{table}__{}", old_topic.short(8))
}

/// The dead-letter table of a table.
pub fn dlq_name(table: &str) -> String {
    format!("{table}{DLQ_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id() -> TopicId {
        TopicId(Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0))
    }

    #[test]
    fn names_keep_only_word_characters() {
        let cases =
            [("orders", "orders"), ("orders.v1-eu", "orders_v1_eu"), ("...", "___"), ("", "_")];
        for (topic, table) in cases {
            assert_eq!(table_name(topic), table, "{topic}");
        }
        assert_eq!(table_name(&"x".repeat(249)).len(), NAME_LEN_MAX);
    }

    #[test]
    fn a_taken_name_gets_a_suffix_ignoring_case() {
        let taken = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(free_name("a", id(), &taken(&["b"])), "a");
        assert_eq!(free_name("a", id(), &taken(&["A"])), "a_123456");
        let both = taken(&["a", "A_123456"]);
        assert_eq!(free_name("a", id(), &both), "a_123456789abc");
        assert_eq!(former_name("a", id()), "a__12345678");
    }
}
