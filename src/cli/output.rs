//! The one place that prints.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command answers by printing")]

use serde_json::Value;

use crate::config::units;

/// One line of an answer.
pub(super) fn line(text: impl std::fmt::Display) {
    println!("{text}");
}

/// Progress, for a person who waits.
pub(super) fn progress(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// The reason for a failure.
pub(super) fn error(text: impl std::fmt::Display) {
    eprintln!("error: {text}");
}

/// An answer for a script.
pub(super) fn json(value: &Value) {
    println!("{value:#}");
}

/// A heading, and the key of what stands under it.
pub(super) type Column = (&'static str, &'static str);

/// What each of `items` has at the keys of `columns`, under their headings.
pub(super) fn objects<'a>(columns: &[Column], items: impl IntoIterator<Item = &'a Value>) {
    lines(columns, items).iter().for_each(line);
}

/// What [`objects`] prints.
pub(super) fn lines<'a>(
    columns: &[Column],
    items: impl IntoIterator<Item = &'a Value>,
) -> Vec<String> {
    let headings: Vec<&str> = columns.iter().map(|column| column.0).collect();
    let row = |item: &Value| columns.iter().map(|(_, key)| field(key, &item[*key])).collect();
    let rows: Vec<Vec<String>> = items.into_iter().map(row).collect();
    aligned(&headings, &rows)
}

/// Rows under headings, columns aligned.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) {
    aligned(headings, rows).iter().for_each(line);
}

fn aligned(headings: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    debug_assert!(rows.iter().all(|row| row.len() == headings.len()), "a heading for each cell");
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            let pad = width.saturating_sub(cell.chars().count()) + 2;
            text.extend(std::iter::repeat_n(' ', pad));
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headings.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines
}

/// The field `key` of a JSON object for a person: times of keys ending in `_ms` and sizes of those
/// ending in `bytes` with their units, all else as [`cell`].
pub(super) fn field(key: &str, value: &Value) -> String {
    let Some(number) = value.as_u64() else { return cell(value) };
    const MOMENTS: [&str; 6] =
        ["created_ms", "last_commit_ms", "at_ms", "expires_ms", "revoked_ms", "last_used_ms"];
    let is_moment = MOMENTS.contains(&key);
    if key.ends_with("_ms") && is_moment {
        let time = i64::try_from(number).ok().and_then(chrono::DateTime::from_timestamp_millis);
        return time.map_or_else(
            || cell(value),
            |time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        );
    }
    if key.ends_with("_ms") {
        return units::human_ms(number);
    }
    if key.ends_with("bytes") { units::human_bytes(number) } else { cell(value) }
}

/// A JSON value as a cell: text without quotes, `-` for nothing.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_and_sizes_are_shown_with_units() {
        assert_eq!(field("lag_ms", &json!(61_000)), "1 min 1 s");
        assert_eq!(field("last_commit_ms", &json!(1_704_067_200_000_i64)), "2024-01-01T00:00:00Z");
        assert_eq!(field("last_commit_ms", &Value::Null), "-");
        assert_eq!(field("pinned_bytes", &json!(2_048)), "2.0 KiB");
        assert_eq!(field("rows", &json!(2_048)), "2048");
    }

    #[test]
    fn cells_stand_under_their_headings() {
        let items = [json!({"name": "a", "rows": 1}), json!({"name": "longer"})];
        let wanted = ["NAME    ROWS", "a       1", "longer  -"];
        assert_eq!(lines(&[("NAME", "name"), ("ROWS", "rows")], &items), wanted);
    }
}
