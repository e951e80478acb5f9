//! The user guide names every option, every table state and every code of dead letters; what is to
//! be copied from the guide for senders is what the tests run.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::fs;
use std::path::Path;

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every quoted word of the source without its tests that `is_wanted`.
fn words(path: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let source = text(path);
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    source.split('"').skip(1).step_by(2).filter(|word| is_wanted(word)).map(str::to_owned).collect()
}

fn is_screaming(word: &str) -> bool {
    word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

fn assert_named(least: usize, names: &[String]) {
    assert!(names.len() >= least, "only {names:?} were found");
    let guide = text("docs/guide.md");
    let missing: Vec<_> =
        names.iter().filter(|name| !guide.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/guide.md does not name {missing:?}");
}

#[test]
fn the_guide_names_every_option() {
    let topic: Vec<String> =
        floe::topic::options::OPTIONS.iter().map(|def| def.key.to_owned()).collect();
    assert_named(50, &topic);
    let server: Vec<String> =
        floe::config::OPTIONS.iter().map(|spec| spec.key.to_owned()).collect();
    assert_named(25, &server);
}

#[test]
fn the_guide_names_every_table_state() {
    assert_named(6, &words("src/tier/ledger.rs", is_screaming_state));
    assert_named(5, &words("src/tier/upkeep.rs", is_screaming));
}

/// The rename rule of serde is no state.
fn is_screaming_state(word: &str) -> bool {
    is_screaming(word) && word != "SCREAMING_SNAKE_CASE"
}

#[test]
fn the_guide_names_every_code_of_dead_letters() {
    assert_named(2, &words("src/tier/rows/dlq.rs", is_screaming));
    assert_named(6, &words("src/schema/json/decode.rs", is_screaming));
}

#[test]
fn senders_quotes_every_snippet_as_it_is_run() {
    let page = text("docs/senders.md");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/snippets");
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 13, "{names:?}");
    for name in names {
        let snippet = text(&format!("docs/snippets/{name}"));
        let quoted = page.contains(&format!("\n{}\n```\n", snippet.trim_end()));
        assert!(quoted, "docs/senders.md does not quote docs/snippets/{name} as it is");
    }
}
