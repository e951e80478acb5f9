//! The one place that prints.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command answers by printing")]

use serde_json::Value;

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

/// Rows under headings, columns aligned.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            let pad = width.saturating_sub(cell.chars().count()) + 2;
            text.extend(std::iter::repeat_n(' ', pad));
        }
        println!("{}", text.trim_end());
    };
    print(&mut headings.iter().copied());
    for row in rows {
        print(&mut row.iter().map(String::as_str));
    }
}

/// A JSON value as a cell: text without quotes, `-` for nothing.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
