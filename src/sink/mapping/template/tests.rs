//! Templates as columns: what they know, what they may not do.

use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::sink::mapping::Event;
use crate::sink::mapping::FieldErrorKind;
use crate::sink::mapping::Header;
use crate::sink::mapping::Mapping;

const JSON: &[Header<'static>] =
    &[(b"content-TYPE", Some(b"application/json")), (b"Content-Encoding", Some(b"gzip"))];
const FORM: &[Header<'static>] = &[(b"Content-Type", Some(b"application/x-www-form-urlencoded"))];

fn event<'a>(headers: &'a [Header<'a>], body: &'a str) -> Event<'a> {
    let (id, ip) = (Uuid::from_u128(7), Some("192.0.2.7"));
    Event { id, received_ms: 1_700_000_000_123, ip, headers, body: body.as_bytes() }
}

fn column(content: &str, raw: bool) -> Value {
    let template = json!({"language": "jsonnet", "content": content});
    json!({"columns": [
        {"type": "template", "name": "x", "template": template, "rawString": raw},
    ]})
}

fn run(content: &str, raw: bool, event: &Event<'_>) -> Result<String, String> {
    let mapping = Mapping::parse(&column(content, raw)).unwrap();
    mapping.verify().unwrap();
    let row = mapping.compile().row(event).map_err(|error| {
        assert!(matches!(error.kind, FieldErrorKind::Template | FieldErrorKind::Missing));
        error.reason
    })?;
    Ok(row[0].1.as_str().unwrap().to_owned())
}

fn json(content: &str, body: &str) -> Result<String, String> {
    run(content, false, &event(JSON, body))
}

#[test]
fn templates_ask_for_parts_of_the_event() {
    let body = r#"{"key1":{"key2":"val2"},"key3":["a",{"b":1.5}]}"#;
    for (content, result) in [
        ("Body('key1.key2')", r#""val2""#),
        ("Body('key1.' + 'key2')", r#""val2""#),
        ("Body('key3[1].b') + 1", "2.5"),
        ("Body()", body),
        ("Body('')", body),
        ("Body('key1.no', 123)", "123"),
        ("Body('key1.' + 'no', [1, 2])", "[1,2]"),
        ("std.length(BodyStr())", "47"),
        ("Ip()", r#""192.0.2.7""#),
        ("Now()", r#""2023-11-14T22:13:20.123Z""#),
        ("Now('%d.%m.%Y %f')", r#""14.11.2023 123""#),
        ("Header('CONTENT-encoding')", r#""gzip""#),
        ("Header('x-no', 'abc')", r#""abc""#),
        ("Header('x-no', null)", "null"),
        ("Header()", r#"{"Content-Encoding":"gzip","Content-Type":"application/json"}"#),
        ("HeaderStr()", r#""Content-Encoding: gzip\nContent-Type: application/json\n""#),
        ("{ b: Body('key3[0]'), 'a': [ 1, 'x  y' ] }", r#"{"a":[1,"x  y"],"b":"a"}"#),
        ("local f(x) = x * 2; f(21)", "42"),
        ("std.join('-', std.map(function(n) n + '', std.range(1, 3))) // end", r#""1-2-3""#),
        ("std.repeat('ab', 2) + std.length(std.makeArray(3, function(i) i))", r#""abab3""#),
    ] {
        assert_eq!(json(content, body).as_deref(), Ok(result), "{content}");
    }
    let form = event(FORM, "key1=bar1&key2[]=bar2&key2[]=bar3");
    assert_eq!(
        run("Body()", false, &form).as_deref(),
        Ok(r#"{"key1":"bar1","key2":["bar2","bar3"]}"#)
    );
    assert_eq!(run("Body('key1') + Body('key2[1]')", true, &form).as_deref(), Ok("bar1bar3"));
    assert_eq!(run("{a: 'x'}", true, &form).as_deref(), Ok(r#"{"a":"x"}"#));
}

#[test]
fn a_template_without_a_result_says_why() {
    let body = r#"{"a":1}"#;
    for (content, reason) in [
        ("Body('a.b')", "path \"a.b\" not found in the body"),
        ("Body('a.' + 'b')", "path \"a.b\" not found in the body"),
        ("Body('a[' + 'b]')", "only a number may stand in brackets"),
        ("Body(1)", "a path is a string"),
        ("Header('invalid-KEY')", "header \"Invalid-Key\" not found"),
        ("Now('%!')", "datetime format \"%!\" is invalid"),
        ("error 'no ' + Body('a')", "no 1"),
        ("assert Body('a') == 2 : 'not two'; 1", "not two"),
        ("{}.x", "field does not exist: x"),
        ("function(x) x", "Manifest function"),
        ("local f(x) = f(x + 1); f(0)", "Stack overflow"),
        ("local x = x; x + 1", "Infinite recursion"),
        ("std.length(1)", "Invalid std func arg type"),
        ("import 'x.libsonnet'", "imports are not allowed"),
        ("importstr '/etc/passwd'", "imports are not allowed"),
        ("std.extVar('x')", "Unknown ext var"),
        ("std.native('_ip')(1)", "Too many call args"),
        ("std.range(1, 1e9)", "std.range: more than 100000 items"),
        ("std.makeArray(1e9, function(i) i)", "std.makeArray: more than 100000 items"),
        ("std.repeat('x', 1e9)", "std.repeat: more than 1000000 items"),
        ("std.repeat('x', 70000)", "the result has 70002 bytes, 65536 are allowed"),
    ] {
        assert_eq!(json(content, body), Err(reason.to_owned()), "{content}");
    }
    assert_eq!(
        json("Body('' + 'a')", "{"),
        Err("the body is not JSON: unexpected end at byte 1".into())
    );
    let zeros = |count: usize| format!("[0{}]", ",0".repeat(count - 1));
    assert_eq!(json("std.length(Body())", &zeros(99_999)).as_deref(), Ok("99999"));
    let reason = json("std.length(Body())", &zeros(100_000)).unwrap_err();
    assert_eq!(reason, "a template gets at most 100000 values");
    let text: &[Header<'_>] = &[(b"Content-Type", Some(b"text/plain"))];
    assert!(run("Body()", false, &event(text, "")).unwrap_err().starts_with("unsupported content"));
    assert_eq!(run("BodyStr()", true, &event(text, "x")).as_deref(), Ok("x"));
}

#[test]
fn what_is_no_template_is_refused_with_its_place() {
    let fault = |content: &str| {
        let mapping = Mapping::parse(&column(content, false)).unwrap();
        let faults = mapping.verify().unwrap_err().to_string();
        // Where it is run all the same, events have no rows, and it says why.
        let error = mapping.compile().append(&event(JSON, "{}")).unwrap_err();
        assert_eq!(error.to_string(), faults);
        let reason = faults.strip_prefix("column \"x\": the template is invalid: ");
        reason.unwrap().to_owned()
    };
    assert_eq!(fault("Invalid"), "1:1-8 Unknown variable: Invalid");
    assert_eq!(fault("\n  Body('a') +\n é\n"), "3:2-3 Invalid char");
    assert_eq!(fault("1 +\n  Nope('x')"), "2:3-7 Unknown variable: Nope");
    assert_eq!(fault("{ a: 1"), "1:7 Unexpected end of file");
    assert_eq!(fault("1) + (2"), "1:2-3 Unexpected right paren");
    assert_eq!(fault(""), "1:1 Unexpected end of file");
    assert!(fault("'a\nb").ends_with("Unfinished string"));
    assert_eq!(fault("local a = 1, a = 2; a"), "1:14-15 Repeated local name");
    let other = json!({"columns": [
        {"type": "template", "name": "x", "template": {"language": "jq", "content": "."}},
    ]});
    assert_eq!(
        Mapping::parse(&other).unwrap_err().to_string(),
        "column \"x\": unsupported language \"jq\", only \"jsonnet\" is supported"
    );
    let long = column(&" ".repeat(TEMPLATE_LEN_MAX + 1), false);
    assert!(Mapping::parse(&long).unwrap_err().to_string().contains("longer than 4096 bytes"));
}

/// Whatever of the greatest length nests deepest is read or refused; nothing overflows a stack.
#[test]
fn templates_may_nest_as_deep_as_they_are_long() {
    let nested = |open: &str, inner: &str, close: &str| {
        let depth = (TEMPLATE_LEN_MAX - inner.len()) / (open.len() + close.len());
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    for content in [
        nested("(", "1", ")"),
        nested("[", "1", "]"),
        nested("{a:", "1", "}"),
        nested("!", "true", ""),
        nested("-", "1", ""),
        nested("if true then ", "1", ""),
        nested("function(a)", "1", ""),
        nested("local a=1;", "1", ""),
        nested("std.length(", "1", ")"),
        nested("[x for x in ", "[1]", "]"),
        nested("1+", "1", ""),
        nested("{a::", "1", "}.a"),
        nested("error ", "1", ""),
        "(".repeat(TEMPLATE_LEN_MAX),
        "{[".repeat(TEMPLATE_LEN_MAX / 2),
    ] {
        let mapping = Mapping::parse(&column(&content, false)).unwrap();
        let is_read = mapping.verify().is_ok();
        // A result or an error; the interpreter goes on with the next event.
        let mut mapper = mapping.compile();
        let first = mapper.append(&event(JSON, "{}"));
        assert!(is_read || first.is_err(), "{content:.20}");
        assert_eq!(mapper.append(&event(JSON, "{}")), first, "{content:.20}");
    }
    let deep = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    assert_eq!(json("Body()", &deep), Ok(deep.clone()));
    let reason = json("Body()", &format!("[{deep}]")).unwrap_err();
    assert!(reason.starts_with("the body is not JSON: recursion limit"), "{reason}");
    let text = "[".repeat(100_000);
    assert!(json("std.parseJson(BodyStr())", &text).is_err());
}

#[test]
fn results_are_cast_like_values_of_paths() {
    let mapping = Mapping::parse(&json!({"columns": [
        {"type": "template", "name": "n", "dataType": "long",
            "template": {"language": "jsonnet", "content": "Body('n') * 2"}},
        {"type": "template", "name": "t", "dataType": "string",
            "template": {"language": "jsonnet", "content": "Body('t', null)"}},
        {"type": "template", "name": "u", "dataType": "string",
            "template": {"language": "jsonnet", "content": "std.asciiUpper(Body('u'))"}},
    ]}))
    .unwrap();
    let mut mapper = mapping.compile();
    let body = r#"{"n": 21, "u": "x"}"#;
    let row = mapper.row(&event(JSON, body)).unwrap();
    let values: Vec<Value> = row.into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [json!(42), Value::Null, json!("X")]);
    let error = mapper.append(&event(JSON, r#"{"n": 0.25, "u": "x"}"#)).unwrap_err();
    assert_eq!(error.to_string(), "column \"n\": expected long, got number");
    mapper.append_lossy(&event(JSON, r#"{"n": 1, "u": 1}"#)).unwrap();
    assert_eq!(mapper.rows(), 1);
}
