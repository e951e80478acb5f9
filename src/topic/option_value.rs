//! Reading the values of topic options: numbers with units, words, lists; and keys in all their
//! spellings. Every refusal names key, value and what is allowed.
//!
//! Owns: these rules. Does not own: which options there are (`option_table`).

use crate::config::units;
use crate::topic::Error;
use crate::topic::option_def::{Kind, OptionDef};
use crate::topic::option_table::{ALIASES, OPTIONS, find};

/// Checks the syntax of a partition spec; the text of a refusal says what is wrong.
pub type CheckSpec = fn(&str) -> Result<(), String>;

/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 8_192;

/// Canonical key and value of an option as somebody spelled them; the value is not checked yet.
///
/// # Errors
/// [`Error::InvalidConfig`] for a key that nobody knows.
pub(crate) fn canonical(key: &str, value: &str) -> Result<(&'static OptionDef, String), Error> {
    let def = definition(key)?;
    if key == "redpanda.iceberg.mode" {
        return Ok((def, mode_of_redpanda(value)?.to_owned()));
    }
    Ok((def, value.to_owned()))
}

/// The option that `key` names in any spelling.
///
/// # Errors
/// [`Error::InvalidConfig`] with the nearest key that exists.
pub(crate) fn definition(key: &str) -> Result<&'static OptionDef, Error> {
    let aliased = ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, ours)| *ours);
    if let Some(def) = find(aliased) {
        return Ok(def);
    }
    if let Some(def) = key.strip_prefix("floe.").and_then(find)
        && def.is_ours()
    {
        return Ok(def);
    }
    let shown: String = key.chars().take(200).collect();
    Err(Error::InvalidConfig(match nearest(key) {
        Some(near) => format!("unknown topic option {shown:?}, did you mean {near}?"),
        None => format!("unknown topic option {shown:?}"),
    }))
}

/// Checks a value of `def`.
///
/// # Errors
/// What is allowed.
pub(crate) fn check(def: &OptionDef, value: &str, check_spec: CheckSpec) -> Result<(), String> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("allowed are at most {VALUE_BYTES_MAX} bytes"));
    }
    match def.kind {
        Kind::Boolean => boolean(value).map(drop),
        Kind::Double(min, max) => match value.trim().parse::<f64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ => Err(format!("allowed are numbers from {min} to {max}")),
        },
        Kind::Choice(words) => choice(words, value).map(drop),
        Kind::List(words) => list(value).try_for_each(|item| choice(words, item).map(drop)),
        Kind::Replicas => replicas(value),
        Kind::Text => Ok(()),
        Kind::Namespace => namespace(value),
        Kind::TableName => table_name(value),
        Kind::PartitionSpec if value.trim().is_empty() => Ok(()),
        Kind::PartitionSpec => check_spec(value),
        Kind::JsonPath => json_path(value.trim()),
        Kind::KeyField => key_field(value.trim()),
        Kind::HeaderFields => list(value).try_for_each(header_field),
        Kind::Origins => list(value).try_for_each(origin),
        Kind::Int(..) | Kind::Long(..) | Kind::Count(..) | Kind::Duration(..) | Kind::Size(..) => {
            number(def.kind, value).map(drop)
        }
    }
}

/// A refusal of `value` for `key`.
pub(crate) fn invalid(key: &str, value: &str, allowed: &str) -> Error {
    let shown: String = value.chars().take(200).collect();
    Error::InvalidConfig(format!("invalid value {shown:?} for {key}: {allowed}"))
}

/// `true` or `false`, whatever the case (as Kafka reads it).
pub(crate) fn boolean(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("allowed are true and false".to_owned()),
    }
}

/// A number of one of the number kinds, in its base unit.
pub(crate) fn number(kind: Kind, value: &str) -> Result<i64, String> {
    let value = value.trim();
    let plain = value.parse::<i64>().ok();
    let (min, max, number, what) = match kind {
        Kind::Int(min, max) | Kind::Long(min, max) | Kind::Count(min, max) => {
            (min, max, plain, "whole numbers")
        }
        Kind::Duration(min, max) => {
            let number = plain.or_else(|| units::parse_duration_ms(value).ok());
            (min, max, number, "milliseconds or numbers with ms, s, m, h, d")
        }
        Kind::Size(min, max) => {
            let bytes = || i64::try_from(units::parse_bytes(value).ok()?).ok();
            let number = plain.or_else(bytes);
            (min, max, number, "bytes or numbers with KiB, MiB, GiB, TiB, KB, MB, GB, TB")
        }
        _ => return Err("it is no number".to_owned()),
    };
    let bounds = || {
        if max == i64::MAX {
            format!("allowed are {what} of at least {min}")
        } else {
            format!("allowed are {what} from {min} to {max}")
        }
    };
    let number = number.ok_or_else(bounds)?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(bounds()) }
}

/// Items of a comma-separated list, without spaces and empty ones.
pub(crate) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn choice(words: &'static [&'static str], value: &str) -> Result<&'static str, String> {
    words
        .iter()
        .find(|word| **word == value.trim())
        .copied()
        .ok_or_else(|| format!("allowed are {}", words.join(", ")))
}

fn json_path(value: &str) -> Result<(), String> {
    if value.is_empty() || value.strip_prefix("$.").is_some_and(|path| !path.is_empty()) {
        return Ok(());
    }
    Err("allowed is a path such as $.id, or nothing".to_owned())
}

fn key_field(value: &str) -> Result<(), String> {
    if json_path(value).is_ok() || is_header(value) {
        return Ok(());
    }
    Err("allowed is a path such as $.id, the name of a record header, or nothing".to_owned())
}

fn header_field(item: &str) -> Result<(), String> {
    let pair = header_pair(item);
    if pair.is_some_and(|(name, path)| is_header(name) && path.len() > 2 && json_path(path).is_ok())
    {
        return Ok(());
    }
    Err("allowed are names of record headers with paths, such as source=$.source".to_owned())
}

/// Name and path of an item of a list of headers.
pub(crate) fn header_pair(item: &str) -> Option<(&str, &str)> {
    item.split_once('=').map(|(name, path)| (name.trim(), path.trim()))
}

/// The server's own headers begin with `floe.`.
fn is_header(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.bytes().all(legal) && !name.to_ascii_lowercase().starts_with("floe.")
}

fn origin(value: &str) -> Result<(), String> {
    let is_origin = |value: &str| {
        let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
        host.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '*']))
    };
    if value == "*" || is_origin(value) {
        return Ok(());
    }
    Err("allowed are origins such as https://a.example, or *".to_owned())
}

fn replicas(value: &str) -> Result<(), String> {
    let pair = |item: &str| {
        item.split_once(':')
            .is_some_and(|(a, b)| a.parse::<u32>().is_ok() && b.parse::<u32>().is_ok())
    };
    if value.trim() == "*" || list(value).all(pair) {
        return Ok(());
    }
    Err("allowed are * and partition:broker pairs joined by commas".to_owned())
}

fn namespace(value: &str) -> Result<(), String> {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 255
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    if value.split('.').all(part) {
        return Ok(());
    }
    Err("allowed are parts of letters, digits, _ and - joined by dots".to_owned())
}

fn table_name(value: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    if value.len() <= 255 && value.bytes().all(legal) {
        return Ok(());
    }
    Err("allowed are at most 255 letters, digits, _ and -".to_owned())
}

fn mode_of_redpanda(value: &str) -> Result<&'static str, Error> {
    match value.trim() {
        "disabled" => Ok("off"),
        "key_value" => Ok("raw"),
        _ => Err(invalid(
            "redpanda.iceberg.mode",
            value,
            "allowed are disabled and key_value; modes that need a schema registry are not \
             there, table.mode has auto, json, raw and off",
        )),
    }
}

/// The key with the fewest edits, if it is near enough to be what was meant.
fn nearest(key: &str) -> Option<&'static str> {
    let key = key.strip_prefix("floe.").unwrap_or(key);
    if key.len() > 100 {
        return None;
    }
    let known = OPTIONS.iter().map(|def| def.key).chain(ALIASES.iter().map(|(alias, _)| *alias));
    let (near, edits) =
        known.map(|known| (known, distance(key, known))).min_by_key(|near| near.1)?;
    (edits <= (near.len() / 3).max(2)).then_some(near)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replace = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(key: &str, value: &str) -> Option<String> {
        let spec = |spec: &str| {
            if spec == "bad" { Err("no".to_owned()) } else { Ok(()) }
        };
        check(find(key).unwrap(), value, spec).err()
    }

    #[test]
    fn values_are_checked_by_their_kind() {
        for (key, good, bad) in [
            ("retention.ms", &["-1", "0", "604800000"][..], &["-2", "1s", "x", "", "1.5"][..]),
            ("max.message.bytes", &["0", "2147483647"], &["-1", "2147483648", "1MiB"]),
            ("cleanup.policy", &["delete", "compact", "compact,delete", ""], &["squash"]),
            ("min.cleanable.dirty.ratio", &["0", "0.5", "1"], &["1.1", "x", "NaN"]),
            ("preallocate", &["true", "FALSE"], &["yes", ""]),
            ("follower.replication.throttled.replicas", &["", "*", "0:1,1:2"], &["x", "0"]),
            ("table.target.lag.ms", &["1000", "1s", "5 m", "1h", "1d"], &["1", "2d", "1y", "s"]),
            ("table.flush.bytes", &["1048576", "64MiB", "64 mb"], &["1", "1.5MiB", "64Mi"]),
            ("table.pin.max.bytes", &["-1", "0", "10GiB"], &["-2", "9999999999TiB"]),
            ("table.mode", &["auto", "off"], &["Auto ,", "csv"]),
            ("table.namespace", &["a", "a.b-c"], &["", "a..b", "a b"]),
            ("table.name", &["", "orders"], &["a.b", "a/b"]),
            ("table.partition.spec", &["", "(day(x))"], &["bad"]),
            ("table.max.columns", &["1", "10000"], &["0", "1k"]),
            ("topic.rate.requests", &["0", "1000000"], &["-1", "1000001", "1k"]),
            ("topic.rate.bytes", &["0", "10MiB"], &["-1", "x"]),
        ] {
            for value in good {
                assert_eq!(refusal(key, value), None, "{key}={value}");
            }
            for value in bad {
                assert!(refusal(key, value).is_some(), "{key}={value}");
            }
        }
    }

    #[test]
    fn units_are_read_in_base_units() {
        let lag = find("table.target.lag.ms").unwrap().kind;
        assert_eq!(number(lag, "90s"), Ok(90_000));
        let size = find("table.flush.bytes").unwrap().kind;
        assert_eq!(number(size, "3MiB"), Ok(3 << 20));
        assert_eq!(number(size, "3MB"), Ok(3_000_000));
    }

    #[test]
    fn a_refusal_names_what_is_allowed() {
        assert_eq!(
            refusal("table.mode", "csv").unwrap(),
            "allowed are auto, json, raw, contract, off"
        );
        assert_eq!(
            refusal("max.message.bytes", "x").unwrap(),
            "allowed are whole numbers from 0 to 2147483647"
        );
    }

    #[test]
    fn keys_are_known_in_all_their_spellings() {
        for (spelling, key) in [
            ("table.mode", "table.mode"),
            ("floe.table.mode", "table.mode"),
            ("floe.topic.delete.untiered", "topic.delete.untiered"),
            ("redpanda.iceberg.target.lag.ms", "table.target.lag.ms"),
            ("retention.ms", "retention.ms"),
        ] {
            assert_eq!(definition(spelling).unwrap().key, key);
        }
        for unknown in ["floe.retention.ms", "floe.floe.table.mode", "Retention.ms", ""] {
            assert!(definition(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn an_unknown_key_gets_the_nearest_one() {
        for (key, near) in [
            ("retention.m", "retention.ms"),
            ("table.modes", "table.mode"),
            ("floe.table.moed", "table.mode"),
            ("tabel.target.lag.ms", "table.target.lag.ms"),
        ] {
            let error = definition(key).unwrap_err().to_string();
            assert!(error.ends_with(&format!("did you mean {near}?")), "{error}");
        }
        let far = definition("something.else.entirely").unwrap_err().to_string();
        assert_eq!(far, "unknown topic option \"something.else.entirely\"");
    }

    #[test]
    fn modes_of_redpanda_are_translated_or_explained() {
        assert_eq!(canonical("redpanda.iceberg.mode", "disabled").unwrap().1, "off");
        assert_eq!(canonical("redpanda.iceberg.mode", "key_value").unwrap().1, "raw");
        let error = canonical("redpanda.iceberg.mode", "value_schema_id_prefix").unwrap_err();
        assert!(error.to_string().contains("schema registry"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(key in ".{0,60}", value in ".{0,60}") {
            let _ = canonical(&key, &value);
            for def in OPTIONS {
                let _ = check(def, &value, |_| Ok(()));
            }
        }
    }
}
