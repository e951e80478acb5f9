//! Splits a body into events: array, single value, concatenated values, one value per line.
//! Events keep their bytes as sent. Their depth is limited: what decodes them later recurses.

use std::ops::Range;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::http::ingest::hint;
use crate::http::problem::EventError;

/// Deepest nesting of one event.
pub(crate) const DEPTH_MAX: usize = 64;

/// How a body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `[` starts an array, anything else is one or more concatenated values.
    Json,
    /// The same, and a comma after the last value of the array is no mistake.
    Lenient,
    /// One value per line; blank lines do not count.
    Lines,
}

/// What splitting found.
#[derive(Debug, Default)]
pub(crate) struct Split {
    /// Valid events, as byte ranges of the body, with their index in the request.
    pub(crate) events: Vec<(usize, Range<usize>)>,
    /// Invalid ones. After a syntax error outside of lines nothing that follows is trusted.
    pub(crate) errors: Vec<EventError>,
    /// What follows the last of the errors was not looked at.
    pub(crate) is_cut: bool,
}

/// Where reading ended before the body did: the first event that was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct StoppedAt {
    index: usize,
    offset_bytes: usize,
}

impl Split {
    /// Where reading ended, if it did before the body.
    pub(super) fn stopped_at(&self) -> Option<StoppedAt> {
        let EventError { index, offset_bytes, .. } = *self.errors.last().filter(|_| self.is_cut)?;
        Some(StoppedAt { index, offset_bytes })
    }
}

/// True for a content type whose bodies are JSON by lines.
pub(crate) fn is_lines(content_type: &str) -> bool {
    const LINES: [&str; 5] = [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/json-lines",
        "application/json-seq",
    ];
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    LINES.iter().any(|lines| essence.eq_ignore_ascii_case(lines))
}

/// Splits `body`, at most `events_max` events.
pub(crate) fn split(body: &[u8], form: Form, events_max: usize) -> Split {
    let mut split = Split::default();
    match simdutf8::compat::from_utf8(body) {
        Ok(text) => match form {
            Form::Lines => lines(text, events_max, &mut split),
            Form::Json | Form::Lenient => {
                json(text, form == Form::Lenient, events_max, &mut split);
                split.is_cut = !split.errors.is_empty();
            }
        },
        Err(error) => {
            let message = "the body is not UTF-8".to_owned();
            split.errors.push(syntax(0, error.valid_up_to(), message));
            split.is_cut = true;
        }
    }
    split
}

fn syntax(index: usize, offset_bytes: usize, message: String) -> EventError {
    EventError { index, offset_bytes, field: None, code: "invalid_json", message }
}

fn lines(text: &str, events_max: usize, split: &mut Split) {
    let mut start = 0;
    let mut index = 0;
    let ends = memchr::memchr_iter(b'\n', text.as_bytes()).chain([text.len()]);
    for end in ends {
        let value = trimmed(&text[start..end]);
        start = end + 1;
        if value.is_empty() {
            continue;
        }
        let begin = value.as_ptr() as usize - text.as_ptr() as usize;
        if index == events_max {
            split.errors.push(too_many(index, begin, events_max));
            split.is_cut = true;
            return;
        }
        match whole(value) {
            Ok(()) => split.events.push((index, begin..begin + value.len())),
            Err(message) => split.errors.push(syntax(index, begin, message)),
        }
        index += 1;
    }
}

/// A line without the space around it; RFC 7464 separates records by RS.
fn trimmed(line: &str) -> &str {
    // Most lines have none.
    match line.as_bytes() {
        [first, .., last] if first.is_ascii_graphic() && last.is_ascii_graphic() => line,
        _ => line.trim().trim_matches('\u{1e}').trim(),
    }
}

fn whole(value: &str) -> Result<(), String> {
    if too_deep(value.as_bytes()) {
        return Err(format!("nested deeper than {DEPTH_MAX}"));
    }
    let parsed = serde_json::from_str::<&RawValue>(value).map(|_| ());
    parsed.map_err(|error| explained(error.to_string(), value, false))
}

/// What the parser says of `rest`, and the mistake behind it if it is a known one.
fn explained(message: String, rest: &str, in_array: bool) -> String {
    match hint::of(rest, in_array) {
        Some(hint) => format!("{message}: {hint}"),
        None => message,
    }
}

fn too_many(index: usize, offset_bytes: usize, events_max: usize) -> EventError {
    let message = format!("a request holds at most {events_max} events");
    EventError { index, offset_bytes, field: None, code: "too_many_events", message }
}

fn json(text: &str, is_lenient: bool, events_max: usize, split: &mut Split) {
    let mut cursor = Cursor { text, at: 0 };
    cursor.skip_space();
    let array = cursor.take('[');
    cursor.skip_space();
    if array && cursor.take(']') {
        return cursor.expect_end(0, split);
    }
    let mut index = 0;
    loop {
        if !array && cursor.at_end() {
            return;
        }
        if index == events_max {
            split.errors.push(too_many(index, cursor.at, events_max));
            return;
        }
        match cursor.value() {
            Ok(range) if too_deep(&text.as_bytes()[range.clone()]) => {
                let message = format!("nested deeper than {DEPTH_MAX}");
                split.errors.push(syntax(index, range.start, message));
                return;
            }
            Ok(range) => split.events.push((index, range)),
            Err(message) => {
                let message = explained(message, cursor.rest(), array);
                split.errors.push(syntax(index, cursor.at, message));
                return;
            }
        }
        index += 1;
        cursor.skip_space();
        if array {
            if cursor.take(']') {
                return cursor.expect_end(index, split);
            }
            if !cursor.take(',') {
                split.errors.push(syntax(index, cursor.at, "expected `,` or `]`".to_owned()));
                return;
            }
            cursor.skip_space();
            if is_lenient && cursor.take(']') {
                return cursor.expect_end(index, split);
            }
        }
    }
}

struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl Cursor<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        let space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{1e}');
        self.at += rest.len() - rest.trim_start_matches(space).len();
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn value(&mut self) -> Result<Range<usize>, String> {
        let start = self.at;
        let mut values = serde_json::Deserializer::from_str(self.rest()).into_iter::<&RawValue>();
        match values.next() {
            Some(Ok(value)) => {
                let length = value.get().len();
                self.at = start + length;
                Ok(start..start + length)
            }
            Some(Err(error)) => Err(error.to_string()),
            None => Err("expected a value".to_owned()),
        }
    }

    fn expect_end(&mut self, index: usize, split: &mut Split) {
        self.skip_space();
        if !self.at_end() {
            let message = "something follows the array".to_owned();
            split.errors.push(syntax(index, self.at, message));
        }
    }
}

/// True if nesting passes [`DEPTH_MAX`], looking past strings.
fn too_deep(bytes: &[u8]) -> bool {
    // Most values do not open as many at all: to count them takes a tenth of the time.
    opens(bytes) > DEPTH_MAX && is_deep(bytes)
}

/// How many `[` and `{` there are, which differ in one bit. Counted in bytes, which one of them
/// cannot overflow, sixteen at once.
fn opens(bytes: &[u8]) -> usize {
    let of = |part: &[u8]| part.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    bytes.chunks(usize::from(u8::MAX)).map(|part| usize::from(of(part))).sum()
}

fn is_deep(bytes: &[u8]) -> bool {
    let (mut depth, mut at) = (0_usize, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(body: &str, form: Form) -> (Vec<String>, usize) {
        let split = split(body.as_bytes(), form, 1000);
        let events = split.events.iter().map(|(_, range)| body[range.clone()].to_owned());
        (events.collect(), split.errors.len())
    }

    #[test]
    fn all_forms_are_split() {
        let one = vec!["{\"a\":1}".to_owned()];
        let two = vec!["{\"a\":1}".to_owned(), "[2,3]".to_owned()];
        assert_eq!(texts(" {\"a\":1} ", Form::Json), (one.clone(), 0));
        assert_eq!(texts("[{\"a\":1}, [2,3]]", Form::Json), (two.clone(), 0));
        assert_eq!(texts("{\"a\":1}[2,3]", Form::Json).1, 0);
        assert_eq!(texts("{\"a\":1}\n\n[2,3]\r\n", Form::Lines), (two, 0));
        assert_eq!(texts("[]", Form::Json), (vec![], 0));
        assert_eq!(texts("", Form::Json), (vec![], 0));
        assert_eq!(texts("\u{1e}{\"a\":1}\n", Form::Json), (one, 0));
    }

    #[test]
    fn errors_name_the_event_and_its_position() {
        let split = split(b"[{\"a\":1},{\"b\":]", Form::Json, 1000);
        assert_eq!(split.events.len(), 1);
        assert_eq!((split.errors[0].index, split.errors[0].offset_bytes), (1, 9));
        assert_eq!(texts("{\"a\":1}\n{bad\n{\"c\":2}\n", Form::Lines).1, 1);
        assert_eq!(texts("[1] x", Form::Json).1, 1);
        assert_eq!(texts("[1 2]", Form::Json).1, 1);
        assert_eq!(texts("[1,]", Form::Json).1, 1);
    }

    #[test]
    fn where_reading_ended_is_told() {
        for (body, form, events_max, wanted) in [
            ("[{\"a\":1},{\"b\":]", Form::Json, 9, Some((1, 9))),
            ("{\"a\":1}\n{bad\n2", Form::Json, 9, Some((1, 8))),
            ("[1] x", Form::Json, 9, Some((1, 4))),
            ("[1,2,3]", Form::Json, 2, Some((2, 5))),
            ("1\n2\n3", Form::Lines, 2, Some((2, 4))),
            ("{\"a\":1}\n{bad\n2", Form::Lines, 9, None),
            ("[1,2]", Form::Json, 9, None),
        ] {
            let at = split(body.as_bytes(), form, events_max).stopped_at();
            assert_eq!(at.map(|at| (at.index, at.offset_bytes)), wanted, "{body}");
        }
        let text = split(b"[1,\"\xff\"]", Form::Lines, 9).stopped_at().unwrap();
        assert_eq!((text.index, text.offset_bytes), (0, 4));
    }

    #[test]
    fn a_comma_after_the_last_event_is_taken_where_that_is_asked_for() {
        let one = vec!["{\"a\":1}".to_owned()];
        for body in ["[{\"a\":1},]", " [ {\"a\":1} , ] ", "[{\"a\":1}]", "{\"a\":1}"] {
            assert_eq!(texts(body, Form::Lenient), (one.clone(), 0), "{body}");
        }
        for body in ["[,]", "[1,,]", "[1,", "[1,] 2", "1,", "{\"a\":[1,]}"] {
            assert_eq!(texts(body, Form::Lenient).1, 1, "{body}");
        }
        let full = split(b"[1,2,]", Form::Lenient, 2);
        assert_eq!((full.events.len(), full.errors.len()), (2, 0));
    }

    #[test]
    fn known_mistakes_are_explained() {
        for (body, form, index, word) in [
            ("{a=1, b=x}", Form::Json, 0, "toString"),
            ("[{a=1}]", Form::Json, 0, "toString"),
            ("{\"a\":1}\n{a=1}\n", Form::Lines, 1, "toString"),
            ("Struct{a=1}", Form::Json, 0, "toString"),
            ("{\"a\":1},{\"a\":2}", Form::Json, 1, "need [ before"),
            ("[1, ]", Form::Json, 1, "follow the last event"),
        ] {
            let error = split(body.as_bytes(), form, 9).errors.remove(0);
            assert!(error.message.contains(word), "{body}: {}", error.message);
            assert_eq!(error.index, index, "{body}");
        }
    }

    #[test]
    fn depth_and_count_are_limited() {
        let deep = "[".repeat(200_000);
        assert_eq!(texts(&deep, Form::Json).1, 1);
        let nested = format!("{}1{}", "[".repeat(65), "]".repeat(65));
        assert_eq!(texts(&nested, Form::Json).1, 0, "64 levels inside of the array");
        assert_eq!(texts(&nested, Form::Lines).1, 1);
        for form in [Form::Json, Form::Lines] {
            let objects = |depth| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
            assert_eq!(texts(&objects(64), form).1, 0, "{form:?}");
            assert_eq!(texts(&objects(65), form).1, 1, "{form:?}");
        }
        let many = split(b"[1,2,3]", Form::Json, 2);
        assert_eq!((many.events.len(), many.errors[0].code), (2, "too_many_events"));
    }

    #[test]
    fn what_opens_is_counted_and_nothing_else() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!((opens(&all), opens(&[])), (2, 0));
        assert_eq!((opens(&[b'['; 1000]), opens(&[b'{'; 256])), (1000, 256));
    }

    proptest! {
        #[test]
        fn any_bytes_are_split_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = split(&body, Form::Json, 10);
            let _ = split(&body, Form::Lines, 10);
        }

        #[test]
        fn an_array_splits_as_a_reference_parser_does(
            values in proptest::collection::vec("[a-z\"\\\\{}\\[\\]é]{0,8}", 0..8)
        ) {
            let body = serde_json::to_string(&values).unwrap();
            let (events, errors) = texts(&body, Form::Json);
            prop_assert_eq!(errors, 0);
            let parsed: Vec<String> =
                events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
            prop_assert_eq!(parsed, values);
        }
    }
}
