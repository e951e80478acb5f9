//! A body in any form splits into the events that a reference parser (`serde_json`) finds in it,
//! and is refused where that refuses it.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;
use serde_json::value::RawValue;

use super::split::{Form, split};

const EVENTS_MAX: usize = 1_000;
/// Of array, concatenated values, values as RFC 7464 separates them.
const SPACE: &str = "[ \t\r\n]{0,3}";
/// Between the parts of a value on one line.
const LINE_SPACE: &str = "[ \t\r]{0,3}";

/// A string with its escapes: as a writer makes them, as few as may be, all that there are.
fn string() -> impl Strategy<Value = String> {
    let escaped = |text: String| {
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        format!("\"{units}\"")
    };
    prop_oneof![
        "\\PC{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        "\\PC{0,4}".prop_map(escaped),
        r#""([a-z{}\[\],:é🙂]|\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\uD83D\\uDE00){0,10}""#,
    ]
}

/// The text of any value of a few levels, with `space` wherever it may be.
pub(super) fn text(space: &'static str) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        string(),
        "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,2})?",
        prop::sample::select(vec!["null", "true", "false", "[]", "{}"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 24, 4, move |inner| {
        let list = prop::collection::vec((space, inner.clone(), space), 0..4);
        let member = (space, string(), space, space, inner, space);
        let members = prop::collection::vec(member, 0..4);
        prop_oneof![
            list.prop_map(|list| {
                let list = list.into_iter().map(|(before, value, after)| before + &value + &after);
                format!("[{}]", list.collect::<Vec<_>>().join(","))
            }),
            members.prop_map(|members| {
                let members = members
                    .into_iter()
                    .map(|(a, name, b, c, value, d)| format!("{a}{name}{b}:{c}{value}{d}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

fn texts(space: &'static str) -> impl Strategy<Value = Vec<(String, String, String)>> {
    prop::collection::vec((space, text(space), space), 0..8)
}

/// Events as text, and how many errors there are.
fn found(body: &str, form: Form) -> (Vec<&str>, usize) {
    let split = split(body.as_bytes(), form, EVENTS_MAX);
    let indexes: Vec<usize> = split.events.iter().map(|(index, _)| *index).collect();
    if split.errors.is_empty() {
        assert_eq!(indexes, (0..indexes.len()).collect::<Vec<_>>(), "{body}");
    }
    (split.events.into_iter().map(|(_, range)| &body[range]).collect(), split.errors.len())
}

/// What the reference finds in a body, up to its first error.
fn reference(body: &str) -> (Vec<&str>, bool) {
    if body.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('[') {
        return match serde_json::from_str::<Vec<&RawValue>>(body) {
            Ok(values) => (values.into_iter().map(RawValue::get).collect(), true),
            Err(_) => (Vec::new(), false),
        };
    }
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_str(body).into_iter::<&RawValue>() {
        match value {
            Ok(value) => values.push(value.get()),
            Err(_) => return (values, false),
        }
    }
    (values, true)
}

fn values(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// A body of concatenated values; one that begins with a list would be an array.
fn concatenated(texts: &[(String, String, String)], separator: &str) -> String {
    let first = if texts.first().is_some_and(|(_, it, _)| it.starts_with('[')) { "{}" } else { "" };
    let texts = texts.iter().map(|(before, value, after)| format!("{before}{value}{after}"));
    first.to_owned() + &texts.map(|text| text + separator).collect::<String>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_array_of_any_values_splits_as_the_reference_does(
        texts in texts(SPACE), around in (SPACE, SPACE)
    ) {
        let inner: Vec<String> = texts.iter().map(|(a, value, b)| format!("{a}{value}{b}")).collect();
        let body = format!("{}[{}]{}", around.0, inner.join(","), around.1);
        let (events, errors) = found(&body, Form::Json);
        prop_assert_eq!(errors, 0, "{}", body);
        prop_assert_eq!(&events, &texts.iter().map(|(_, it, _)| it.as_str()).collect::<Vec<_>>());
        prop_assert_eq!((&events, true), (&reference(&body).0, reference(&body).1));
        let whole: Value = serde_json::from_str(&body).unwrap();
        prop_assert_eq!(Value::Array(values(&events)), whole);
    }

    #[test]
    fn values_in_a_row_split_as_the_reference_does(
        texts in texts(SPACE), separator in "[ \t\r\n]{1,2}"
    ) {
        let body = concatenated(&texts, &separator);
        let (events, errors) = found(&body, Form::Json);
        prop_assert_eq!(errors, 0, "{}", body);
        prop_assert_eq!((&events, true), (&reference(&body).0, reference(&body).1));
        let ends = events.iter().rev().zip(texts.iter().rev());
        prop_assert!(events.len() >= texts.len());
        prop_assert!(ends.clone().all(|(event, (_, text, _))| event == text), "{}", body);
    }

    /// RFC 7464: RS before a value, a line feed behind it. They are read so whatever the type says.
    #[test]
    fn a_sequence_with_separators_splits_as_without(texts in texts(LINE_SPACE)) {
        let body: String = texts.iter().map(|(a, it, b)| format!("\u{1e}{a}{it}{b}\n")).collect();
        let wanted: Vec<&str> = texts.iter().map(|(_, it, _)| it.as_str()).collect();
        prop_assert_eq!(found(&body, Form::Lines), (wanted.clone(), 0));
        if !texts.first().is_some_and(|(_, it, _)| it.starts_with('[')) {
            prop_assert_eq!(found(&body, Form::Json), (wanted, 0));
        }
    }

    /// A line that is no value spoils no other, and blank ones do not count.
    #[test]
    fn each_line_is_what_the_reference_says_of_it(
        lines in prop::collection::vec(
            prop_oneof![
                8 => (LINE_SPACE, text(LINE_SPACE), LINE_SPACE).prop_map(|(a, it, b)| a + &it + &b),
                1 => LINE_SPACE.prop_map(|space: String| space),
                2 => "[\\[\\]{}\",:0-9a-z\\\\ .-]{1,8}",
            ],
            0..12,
        ),
        is_ended in any::<bool>(),
    ) {
        let body = lines.join("\n") + if is_ended { "\n" } else { "" };
        let told = lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
        let (good, bad): (Vec<_>, Vec<_>) = told.enumerate().partition(|(_, line)| {
            serde_json::from_str::<&RawValue>(line).is_ok()
        });
        let split = split(body.as_bytes(), Form::Lines, EVENTS_MAX);
        let events: Vec<_> = split.events.iter().map(|(at, it)| (*at, &body[it.clone()])).collect();
        prop_assert_eq!(events, good);
        let errors = split.errors.iter().map(|error| error.index);
        prop_assert_eq!(errors.collect::<Vec<_>>(), bad.iter().map(|it| it.0).collect::<Vec<_>>());
    }

    /// One character that is another one, is gone, or is there twice: both take it, or neither.
    #[test]
    fn a_damaged_body_is_refused_where_the_reference_refuses_it(
        texts in texts(SPACE), is_array in any::<bool>(), at in any::<Index>(),
        with in prop::sample::select(vec!["", "[", "]", "{", "}", "\"", "\\", ",", ":", "1", " ", "\u{7f}", "é"]),
        is_kept in any::<bool>(),
    ) {
        let mut body = match is_array {
            true => {
                let inner = texts.iter().map(|(a, value, b)| format!("{a}{value}{b}"));
                format!("[{}]", inner.collect::<Vec<_>>().join(","))
            }
            false => concatenated(&texts, "\n"),
        };
        let places: Vec<_> = body.char_indices().map(|(at, it)| (at, it.len_utf8())).collect();
        if places.is_empty() {
            return Ok(());
        }
        let (at, length) = places[at.index(places.len())];
        body.replace_range(at..if is_kept { at } else { at + length }, with);
        let (wanted, is_good) = reference(&body);
        let (events, errors) = found(&body, Form::Json);
        prop_assert_eq!(errors == 0, is_good, "{}", body);
        // Of an array that is none the reference tells nothing of what came before.
        if is_good || !body.trim_start().starts_with('[') {
            prop_assert_eq!(events, wanted, "{}", body);
        }
    }
}
