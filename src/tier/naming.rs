//! The names of tables that topics become (rules 6.3, 6.4). Pure.

use uuid::Uuid;

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

/// `wanted`, or where that is taken (ignoring case) `wanted_<hex of the id>` with 6 digits, and
/// more of them until it is free. The id is the topic's, or that of its sink.
pub fn free_name(wanted: &str, id: Uuid, taken: &[String]) -> String {
    if !is_taken(wanted, taken) {
        return wanted.to_owned();
    }
    let hex = id.simple().to_string();
    [6, 12, 32]
        .iter()
        .map(|digits| format!("{wanted}_{}", &hex[..*digits]))
        .find(|name| !is_taken(name, taken))
        .unwrap_or_else(|| format!("{wanted}_{hex}_"))
}

/// True if a table of that name is there, ignoring case.
pub fn is_taken(name: &str, taken: &[String]) -> bool {
    taken.iter().any(|other| other.eq_ignore_ascii_case(name))
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
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn is_legal(name: &str) -> bool {
        let fits = (1..=255).contains(&name.len());
        fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    proptest! {
        #[test]
        fn a_name_is_legal_and_stays_what_it_is(topic in prop_oneof!["\\PC{0,300}", "[a-zA-Z0-9._-]{1,249}"]) {
            let name = table_name(&topic);
            prop_assert!(is_legal(&name), "{name}");
            prop_assert_eq!(table_name(&name), name.clone(), "a name is its own name");
            // No engine that folds case may see another name than the folded one.
            let folded = |text: &str| text.chars().map(|c| c.to_ascii_lowercase()).collect::<String>();
            prop_assert_eq!(table_name(&folded(&topic)), name.to_ascii_lowercase());
            let id = TopicId(Uuid::from_u128(5));
            for longest in [former_name(&name, id), dlq_name(&former_name(&name, id))] {
                let free = free_name(&longest, id.0, std::slice::from_ref(&longest));
                prop_assert!(is_legal(&longest) && is_legal(&free), "{free}");
            }
        }

        #[test]
        fn no_two_tables_have_one_name_whatever_case_an_engine_sees(
            topics in prop::collection::vec(
                ("[aA](_|__dlq|\\.b|__1{8}|_1{6}|_1{12})?", 0..3_u8, any::<bool>()), 1..14,
            ),
        ) {
            let mut names: Vec<String> = Vec::new();
            for (number, (topic, kin, former)) in (0_u128..).zip(&topics) {
                // Ids that begin alike in 6, 12 or all but the last digits.
                let alike = u128::from_str_radix(&"1".repeat(32), 16).unwrap();
                let differs = (number + 1) << [96, 72, 0][usize::from(*kin)];
                let id = TopicId(Uuid::from_u128(alike ^ differs));
                let mut wanted = table_name(topic);
                if *former {
                    wanted = former_name(&wanted, id);
                }
                let name = free_name(&wanted, id.0, &names);
                prop_assert!(name.starts_with(&wanted));
                names.push(name.clone());
                names.push(free_name(&dlq_name(&name), id.0, &names));
            }
            let folded: HashSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
            prop_assert_eq!(folded.len(), names.len(), "{:?}", names);
            prop_assert!(names.iter().all(|name| is_legal(name)));
        }
    }

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
        assert_eq!(free_name("a", id().0, &taken(&["b"])), "a");
        assert_eq!(free_name("a", id().0, &taken(&["A"])), "a_123456");
        let both = taken(&["a", "A_123456"]);
        assert_eq!(free_name("a", id().0, &both), "a_123456789abc");
        assert_eq!(former_name("a", id()), "a__12345678");
    }
}
