//! The tree keeps its shape: imports go downwards, files stay readable, no nickname modules.

#![allow(clippy::unwrap_used, reason = "a test may unwrap")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of one file without its tests. Raise it for nobody; split the file.
const FILE_LINES_MAX: usize = 500;

/// Module to the modules it may import besides `BASE`, bottom first.
const LAYERS: &[(&str, &[&str])] = &[
    ("record", &[]),
    ("wal", &[]),
    ("store", &["record", "wal"]),
    ("topic", &["store"]),
    ("log", &["record", "wal", "store", "topic"]),
    ("schema", &[]),
    ("table", &["store"]),
    ("sink", &["store", "schema"]),
    ("source", &["store", "sink"]),
    ("auth", &["store"]),
    ("tier", &["record", "store", "topic", "log", "schema", "table", "sink", "source", "auth"]),
    ("stream", &["store"]),
    ("kafka", &["record", "topic", "log", "auth"]),
    (
        "http",
        &[
            "record", "store", "topic", "log", "schema", "table", "sink", "tier", "auth", "stream",
            "source",
        ],
    ),
];

/// Modules that anyone may import and that import only each other.
const BASE: &[&str] = &["types", "config", "runtime"];

/// Modules that see everything.
const TOP: &[&str] = &["broker", "cli", "fuzzing", "main", "lib"];

/// Names that say nothing.
const NICKNAMES: &[&str] = &["utils", "util", "common", "helpers", "manager", "misc"];

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The file without its inline tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().is_some_and(|stem| {
            let stem = stem.to_string_lossy();
            stem == "tests" || stem.ends_with("_tests")
        })
}

fn top_module(path: &Path, src: &Path) -> String {
    let relative = path.strip_prefix(src).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn imports_go_downwards() {
    let src = src();
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut faults = Vec::new();
    for path in files.iter().filter(|path| !is_test(path)) {
        let module = top_module(path, &src);
        if TOP.contains(&module.as_str()) {
            continue;
        }
        let allowed = LAYERS.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
        if allowed.is_none() && !BASE.contains(&module.as_str()) {
            faults.push(format!("{}: module {module} has no row in LAYERS", path.display()));
            continue;
        }
        for (number, line) in code(path).lines().enumerate() {
            let line = line.split("//").next().unwrap();
            if line.contains("crate::{") || line.contains("super::super") {
                faults.push(format!("{}:{}: import on one line each", path.display(), number + 1));
            }
            for part in line.split("crate::").skip(1) {
                let name: String =
                    part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = name == module
                    || BASE.contains(&name.as_str())
                    || allowed.is_some_and(|allowed| allowed.contains(&name.as_str()));
                if !fine {
                    let at = format!("{}:{}", path.display(), number + 1);
                    faults.push(format!("{at}: {module} must not import {name}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_stay_readable() {
    let mut files = Vec::new();
    rust_files(&src(), &mut files);
    let long: Vec<String> = files
        .iter()
        .filter(|path| !is_test(path))
        .map(|path| (path, code(path).lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let mut files = Vec::new();
    rust_files(&src(), &mut files);
    let mut faults = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).unwrap();
        if !is_test(path) && !text.starts_with("//!") {
            faults.push(format!("{}: no head comment", path.display()));
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if NICKNAMES.contains(&stem.as_str()) {
            faults.push(format!("{}: a name that says nothing", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_metric_is_used() {
    let src = src();
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let table = fs::read_to_string(src.join("runtime/metrics.rs")).unwrap();
    let names = table.lines().filter_map(|line| line.trim().split_once(", "));
    let names = names.filter(|(_, rest)| {
        ["Counter,", "Gauge,", "Histogram,"].iter().any(|kind| rest.starts_with(kind))
    });
    let all: String = files
        .iter()
        .filter(|path| !path.ends_with("runtime/metrics.rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let unused: Vec<&str> =
        names.map(|(name, _)| name).filter(|name| !all.contains(&format!("::{name}"))).collect();
    assert!(unused.is_empty(), "described but never set: {unused:?}");
}
