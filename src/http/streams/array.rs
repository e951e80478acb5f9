//! A body as a JSON array of objects: where each lies, or what is wrong and where. Pure.

use std::ops::Range;

use crate::schema::json::lexer::{Error, ErrorKind, Lexer};

/// Deepest nesting: that of an event, and the array around it.
const DEPTH_MAX: u32 = 65;

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Code of the problem.
    pub(super) code: &'static str,
    /// Why, for a person.
    pub(super) message: String,
}

/// Splits a body into the ranges of its events. Syntax comes first: only of JSON it is asked whether
/// it is an array of objects.
pub(super) fn split(body: &[u8], events_max: usize) -> Result<Vec<Range<usize>>, Fault> {
    let text = simdutf8::compat::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        Fault { code: "invalid_json", message: format!("the body is not UTF-8 at byte {at}") }
    })?;
    let mut lexer = Lexer::new(text, DEPTH_MAX);
    if lexer.peek().is_some_and(|first| first != b'[') {
        // Of several values the first one tells.
        lexer.skip(1).map_err(|error| syntax(text, error, None))?;
        let message = "the body must be a JSON array of events, also of one event".to_owned();
        return Err(Fault { code: "expected_array", message });
    }
    let mut events = Vec::new();
    lexer.open(b'[', 1).map_err(|error| syntax(text, error, None))?;
    let mut more = !lexer.take_if(b']');
    while more {
        if events.len() == events_max {
            let message = format!("a request holds at most {events_max} events");
            return Err(Fault { code: "payload_too_large", message });
        }
        let index = events.len();
        let read = lexer.skip(1).and_then(|range| Ok((range, lexer.more(b']')?)));
        let (range, next) = read.map_err(|error| syntax(text, error, Some(index)))?;
        events.push(range);
        more = next;
    }
    lexer.end().map_err(|error| syntax(text, error, None))?;
    let other = events.iter().position(|range| text.as_bytes()[range.start] != b'{');
    if let Some(index) = other {
        let message =
            format!("events[{index}] is not an object: the body must be an array of objects");
        return Err(Fault { code: "expected_array", message });
    }
    Ok(events)
}

fn syntax(text: &str, error: Error, index: Option<usize>) -> Fault {
    let at = (error.at as usize).min(text.len());
    let before = &text.as_bytes()[..at];
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    let column =
        text[text.floor_char_boundary(start)..text.floor_char_boundary(at)].chars().count() + 1;
    let event = index.map(|index| format!(", in events[{index}]")).unwrap_or_default();
    let message = match error.kind {
        ErrorKind::End if text.trim().is_empty() => "the body is empty".to_owned(),
        _ => format!("{error}, line {line}, column {column}{event}"),
    };
    Fault { code: "invalid_json", message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(body: &str) -> (&'static str, String) {
        let fault = split(body.as_bytes(), 3).unwrap_err();
        (fault.code, fault.message)
    }

    #[test]
    fn events_are_the_objects_of_an_array() {
        assert_eq!(split(b" [ ] ", 3), Ok(vec![]));
        let body = br#" [{"a":[1]} , {} ] "#;
        let events = split(body, 3).unwrap();
        let texts: Vec<_> = events.iter().map(|range| &body[range.clone()]).collect();
        assert_eq!(texts, [&br#"{"a":[1]}"#[..], b"{}"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let (code, message) = told("[{\"a\":1},\n {\"\u{e9}\": x}]");
        assert_eq!(code, "invalid_json");
        assert_eq!(message, "unexpected character at byte 18, line 2, column 8, in events[1]");
        for broken in [
            "",
            " ",
            "[",
            "[{}",
            "[{},]",
            "[{}]x",
            "[{}}",
            "{",
            "\u{feff}[]",
            "[{\"a\":\"\\ud800\"}]",
        ] {
            assert_eq!(told(broken).0, "invalid_json", "{broken}");
        }
        assert_eq!(told("").1, "the body is empty");
        for other in ["{}", "1", "null", "{} {}", "{\"a\":1}\n{\"a\":2}\n"] {
            assert_eq!(told(other).0, "expected_array", "{other}");
        }
        let (code, message) = told("[{}, 1]");
        assert!(code == "expected_array" && message.starts_with("events[1]"), "{message}");
        assert_eq!(told("[1, x]").0, "invalid_json", "syntax comes first");
        assert_eq!(told("[{},{},{},{}]").0, "payload_too_large");
        assert_eq!(split(b"\xff", 3).unwrap_err().code, "invalid_json");
        let deep = |depth: usize| format!("[{}1{}]", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(split(deep(64).as_bytes(), 3).is_ok());
        assert_eq!(told(&deep(65)).0, "invalid_json");
    }

    proptest! {
        #[test]
        fn it_agrees_with_an_ordinary_parser(body in "[\\[\\]{},:\"a1 \n\u{e9}]{0,24}") {
            let parsed: Option<serde_json::Value> = serde_json::from_str(&body).ok();
            let objects = parsed.as_ref().and_then(|value| value.as_array());
            let objects = objects.filter(|all| all.iter().all(serde_json::Value::is_object));
            match split(body.as_bytes(), 100) {
                Ok(events) => prop_assert_eq!(events.len(), objects.unwrap().len()),
                Err(fault) if fault.code == "invalid_json" => prop_assert!(parsed.is_none()),
                Err(_) => prop_assert!(objects.is_none()),
            }
        }

        #[test]
        fn any_bytes_are_told_without_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = split(&body, 3);
        }
    }
}
