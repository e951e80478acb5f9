//! Mappings as users write them, and the rows they make.

use std::collections::BTreeMap;

use arrow_array::Array;
use arrow_array::ArrayRef;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use super::*;

const JSON: &[Header<'static>] = &[(b"content-type", Some(b"application/json"))];

fn event<'a>(headers: &'a [Header<'a>], body: &'a [u8]) -> Event<'a> {
    let id = Uuid::from_u128(0x018f_0000_0000_7000_8000_0000_0000_0001);
    Event { id, received_ms: 1_700_000_000_123, ip: Some("192.0.2.7"), headers, body }
}

fn mapping(columns: Value) -> Mapping {
    Mapping::parse(&json!({ "columns": columns })).unwrap()
}

fn faults(columns: Value) -> Vec<String> {
    let found = Mapping::parse(&json!({ "columns": columns })).unwrap_err();
    found.0.iter().map(ToString::to_string).collect()
}

/// The only value of a mapping of one column.
fn value(column: Value, event: &Event<'_>) -> Result<Value, String> {
    let mut mapper = mapping(json!([column])).compile();
    let row = mapper.row(event).map_err(|error| error.to_string())?;
    Ok(row.into_iter().next().unwrap().1)
}

fn path(path: &str, body: &str) -> Result<Value, String> {
    value(json!({"type": "path", "name": "x", "path": path}), &event(JSON, body.as_bytes()))
}

fn typed(kind: &str, body: &str) -> Result<Value, String> {
    let column = json!({"type": "path", "name": "x", "path": "v", "dataType": kind});
    value(column, &event(JSON, body.as_bytes()))
}

#[test]
fn every_kind_of_column_has_its_value() {
    let mapping = mapping(json!([
        {"type": "id", "name": "id"},
        {"type": "datetime", "name": "at"},
        {"type": "ip", "name": "ip"},
        {"type": "body", "name": "body"},
        {"type": "headers", "name": "headers"},
        {"type": "json", "name": "label", "path": "issue.labels[0]", "primaryKey": false},
    ]));
    let body = r#"{"issue": {"labels": ["a"]}}"#;
    let row = mapping.compile().row(&event(JSON, body.as_bytes())).unwrap();
    let row: BTreeMap<String, Value> = row.into_iter().collect();
    assert_eq!(row["id"], json!("018f0000-0000-7000-8000-000000000001"));
    assert_eq!(row["at"], json!("2023-11-14T22:13:20.123Z"));
    assert_eq!(row["ip"], json!("192.0.2.7"));
    assert_eq!(row["body"], json!(body));
    assert_eq!(row["headers"], json!(r#"{"Content-Type":"application/json"}"#));
    assert_eq!(row["label"], json!("\"a\""));
    let types: Vec<String> = mapping
        .schema()
        .as_struct()
        .fields()
        .iter()
        .map(|field| format!("{} {} {}", field.name, field.field_type, field.required))
        .collect();
    assert_eq!(types[..2], ["id string false", "at timestamptz false"]);
    assert_eq!(mapping.schema().identifier_field_ids().count(), 0);
    // Aliases come back under the names of the API, and what comes back is read again.
    let written = mapping.to_json();
    assert_eq!(written["columns"][0], json!({"type": "uuid", "name": "id"}));
    assert_eq!(written["columns"][5]["type"], "path");
    assert_eq!(Mapping::parse(&written).unwrap().columns(), mapping.columns());
}

#[test]
fn a_path_column_is_json_text_unless_raw() {
    let body = r#"{"s": "a\u00e9\"", "n": 1.10, "o": { "k": [ 1 ] }, "z": null}"#;
    assert_eq!(path("s", body).unwrap(), json!(r#""a\u00e9\"""#));
    assert_eq!(path("n", body).unwrap(), json!("1.10"));
    assert_eq!(path("o", body).unwrap(), json!(r#"{"k":[1]}"#));
    assert_eq!(path("z", body).unwrap(), json!("null"));
    assert_eq!(path("", "[1, 2]").unwrap(), json!("[1,2]"));
    let raw = |path: &str| {
        let column = json!({"type": "path", "name": "x", "path": path, "rawString": true});
        value(column, &event(JSON, body.as_bytes())).unwrap()
    };
    assert_eq!(raw("s"), json!("aé\""));
    assert_eq!(raw("n"), json!("1.10"));
    assert_eq!(raw("z"), json!("null"));
}

#[test]
fn a_path_that_leads_nowhere_has_its_default_or_no_row() {
    assert_eq!(path("a.b", "{}").unwrap_err(), "column \"x\": path \"a.b\" not found in the body");
    let with = |default: Value, raw: bool, body: &str| {
        let column = json!({
            "type": "path", "name": "x", "path": "a", "defaultValue": default, "rawString": raw,
        });
        value(column, &event(JSON, body.as_bytes()))
    };
    assert_eq!(with(json!("d\""), false, "{}").unwrap(), json!(r#""d\"""#));
    assert_eq!(with(json!("d\""), true, "{}").unwrap(), json!("d\""));
    assert_eq!(with(json!(""), true, "{}").unwrap(), json!(""));
    assert_eq!(with(json!(7), false, "{}").unwrap(), json!("7"));
    assert_eq!(with(json!("d"), true, r#"{"a":"v"}"#).unwrap(), json!("v"));
    // Keboola's clients write null for no default.
    assert!(with(Value::Null, false, "{}").unwrap_err().contains("not found"));
    // A default is for a path, not for a body that cannot be read.
    let error = with(json!("d"), true, "{").unwrap_err();
    assert_eq!(error, "column \"x\": the body is not JSON: unexpected end at byte 1");
}

#[test]
fn bodies_are_read_by_their_content_type() {
    let column = || json!({"type": "path", "name": "x", "path": "k[1]", "rawString": true});
    let form: &[Header<'_>] =
        &[(b"Content-Type", Some(b"application/x-www-form-urlencoded; charset=utf-8"))];
    assert_eq!(value(column(), &event(form, b"k[]=a&k[]=b+c")).unwrap(), json!("b c"));
    let text: &[Header<'_>] = &[(b"Content-Type", Some(b"text/plain"))];
    let mut mapper = mapping(json!([column()])).compile();
    let error = mapper.append(&event(text, b"{}")).unwrap_err();
    assert_eq!(error.kind, FieldErrorKind::Media);
    assert_eq!(
        error.to_string(),
        "column \"x\": unsupported content type \"text/plain\", supported types: \
         application/json and application/x-www-form-urlencoded"
    );
    assert_eq!(error.bad_record().code.as_str(), "MEDIA_TYPE");
    // A record without headers counts as JSON, and other columns take any body.
    assert_eq!(value(column(), &event(&[], br#"{"k":[0,"b"]}"#)).unwrap(), json!("b"));
    let body = json!({"type": "body", "name": "b"});
    assert_eq!(value(body.clone(), &event(text, b"x")).unwrap(), json!("x"));
    let error = value(body, &event(text, b"\xff")).unwrap_err();
    assert_eq!(error, "column \"b\": the body is not UTF-8");
    let bytes = json!({"type": "body", "name": "b", "dataType": "binary"});
    assert_eq!(value(bytes, &event(text, b"\xff")).unwrap(), json!("/w=="));
    let deep = "[".repeat(200);
    assert_eq!(
        mapper.append(&event(JSON, deep.as_bytes())).unwrap_err().kind,
        FieldErrorKind::TooDeep
    );
}

#[test]
fn a_data_type_casts_exactly_or_not_at_all() {
    for (kind, body, expected) in [
        ("long", r#"{"v": 7}"#, json!(7)),
        ("long", r#"{"v": "7"}"#, json!(7)),
        ("int", r#"{"v": 7.0}"#, json!(7)),
        ("double", r#"{"v": 0.5}"#, json!(0.5)),
        ("boolean", r#"{"v": true}"#, json!(true)),
        ("boolean", r#"{"v": "false"}"#, json!(false)),
        ("decimal(10,2)", r#"{"v": 12.5}"#, json!("12.50")),
        ("date", r#"{"v": "2024-02-29"}"#, json!("2024-02-29")),
        ("time", r#"{"v": "01:02:03.5"}"#, json!("01:02:03.500")),
        ("timestamptz", r#"{"v": "2024-01-01T01:00:00+01:00"}"#, json!("2024-01-01T00:00:00.000Z")),
        ("timestamptz", r#"{"v": 1700000000123}"#, json!("2023-11-14T22:13:20.123Z")),
        (
            "timestamp",
            r#"{"v": "2024-01-01T00:00:00.000001"}"#,
            json!("2024-01-01T00:00:00.000001"),
        ),
        (
            "uuid",
            r#"{"v": "018F0000-0000-7000-8000-000000000001"}"#,
            json!("018f0000-0000-7000-8000-000000000001"),
        ),
        ("binary", r#"{"v": "/w=="}"#, json!("/w==")),
        ("string", r#"{"v": "a\n"}"#, json!("a\n")),
        ("string", r#"{"v": [1, 2]}"#, json!("[1, 2]")),
        ("string", r#"{"v": null}"#, Value::Null),
        ("long", r#"{"v": null}"#, Value::Null),
    ] {
        assert_eq!(typed(kind, body).as_ref(), Ok(&expected), "{kind} {body}");
    }
    for (kind, body, reason) in [
        ("long", r#"{"v": 1.5}"#, "expected long, got number"),
        ("long", r#"{"v": [1]}"#, "expected long, got array"),
        ("int", r#"{"v": 2147483648}"#, "expected int, got number"),
        ("boolean", r#"{"v": {}}"#, "expected boolean, got object"),
        ("decimal(3,1)", r#"{"v": 1.25}"#, "expected decimal(3, 1), got number"),
        ("date", r#"{"v": "yesterday"}"#, "expected date, got string"),
        ("long", "{}", "path \"v\" not found in the body"),
    ] {
        assert_eq!(typed(kind, body).unwrap_err(), format!("column \"x\": {reason}"), "{body}");
    }
    // Null is a default of its own where the column has it.
    let column = json!({
        "type": "path", "name": "x", "path": "v", "dataType": "long", "defaultValue": null,
    });
    assert_eq!(value(column.clone(), &event(JSON, b"{}")).unwrap(), Value::Null);
    assert_eq!(mapping(json!([column])).to_json()["columns"][0]["defaultValue"], Value::Null);
}

#[test]
fn all_faults_are_listed_with_their_columns() {
    assert_eq!(
        faults(json!([
            {"type": "path", "name": "a", "path": "x", "dataType": "float", "primaryKey": true},
            {"type": "body", "name": "A", "path": "x"},
            {"type": "path", "name": "b"},
            {"type": "path", "name": "c", "path": "k[x]"},
            {"type": "tape", "name": "d"},
            {"type": "path", "name": "e", "path": "x", "dataType": "bigint"},
            {"type": "path", "name": "f", "path": "x", "dataType": "long", "rawString": true},
            {"type": "ip", "name": "g", "defaultvalue": ""},
            {"type": "ip"},
            {"type": "datetime", "name": "", "dataType": "date"},
        ]))
        .iter()
        .map(|fault| fault.split_once(": ").unwrap().0)
        .collect::<Vec<_>>(),
        [
            "column \"a\"",
            "column \"A\"",
            "column \"A\"",
            "column \"b\"",
            "column \"c\"",
            "column \"d\"",
            "column \"e\"",
            "column \"f\"",
            "column \"g\"",
            "column 9",
            "column \"\"",
            "column \"\"",
        ]
    );
    let only = |column: Value| faults(json!([column])).remove(0);
    assert_eq!(
        only(json!({
            "type": "path", "name": "a", "path": "k", "dataType": "double", "primaryKey": true,
        })),
        "column \"a\": a primary key is neither float nor double"
    );
    let uuid = only(json!({
        "type": "path", "name": "a", "path": "k", "dataType": "uuid", "primaryKey": true,
    }));
    assert!(uuid.starts_with("column \"a\": a primary key is not uuid"), "{uuid}");
    assert_eq!(
        only(json!({"type": "path", "name": "a", "path": "k[x]"})),
        "column \"a\": only a number may stand in brackets"
    );
    assert_eq!(
        only(json!({
            "type": "path", "name": "a", "path": "k", "dataType": "long", "defaultValue": "x",
        })),
        "column \"a\": the default value does not fit: expected long, got string"
    );
    let whole = |value: Value| Mapping::parse(&value).unwrap_err().to_string();
    assert_eq!(whole(json!({"columns": []})), "a mapping has 1 to 100 columns, not 0");
    let many: Vec<Value> = (0..101).map(|n| json!({"type": "ip", "name": n.to_string()})).collect();
    assert_eq!(whole(json!({"columns": many})), "a mapping has 1 to 100 columns, not 101");
    assert!(Mapping::parse(&json!({"columns": many[..100]})).is_ok());
    assert!(whole(json!({"columns": [], "x": 1})).starts_with("a mapping is an object"));
}

#[test]
fn a_row_that_was_good_before_is_a_row_with_nulls() {
    let mut mapper = mapping(json!([
        {"type": "path", "name": "n", "path": "n", "dataType": "long"},
        {"type": "body", "name": "b"},
    ]))
    .compile();
    for body in [&b"{\"n\":1}"[..], b"{\"n\":\"x\"}", b"{", b"\xff"] {
        mapper.append_lossy(&event(JSON, body)).unwrap();
    }
    let columns = mapper.finish().unwrap();
    let nulls: Vec<usize> = columns.iter().map(|(_, array)| array.null_count()).collect();
    assert_eq!((columns[0].1.len(), nulls), (4, vec![3, 1]));
}

#[test]
fn the_primary_key_is_required_and_identifies_rows() {
    let mapping = mapping(json!([
        {"type": "path", "name": "v", "path": "v"},
        {"type": "path", "name": "k", "path": "k", "dataType": "long", "primaryKey": true},
        {"type": "ip", "name": "ip", "primaryKey": true},
    ]));
    let schema = mapping.schema();
    let required: Vec<bool> =
        schema.as_struct().fields().iter().map(|field| field.required).collect();
    assert_eq!(required, [false, true, true]);
    let mut ids: Vec<i32> = schema.identifier_field_ids().collect();
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
    let again = Mapping::parse(&mapping.to_json()).unwrap();
    assert!(mapping.has_key_of(&again) && !mapping.is_key_of_event());
}

#[test]
fn an_event_without_a_value_for_the_key_has_no_row_not_even_one_with_nulls() {
    let mut mapper = mapping(json!([
        {"type": "path", "name": "v", "path": "v", "dataType": "long"},
        {"type": "path", "name": "k", "path": "k", "dataType": "long", "primaryKey": true,
         "defaultValue": null},
        {"type": "ip", "name": "ip", "primaryKey": true},
    ]))
    .compile();
    let fine = event(JSON, b"{\"k\":1,\"v\":1}");
    let no_peer = Event { ip: None, ..fine };
    let cases: [(&Event<'_>, &str); 3] = [
        (&event(JSON, b"{\"k\":null,\"v\":1}"), "k"),
        (&event(JSON, b"{\"v\":1}"), "k"),
        (&no_peer, "ip"),
    ];
    for (event, column) in cases {
        for refused in [mapper.append(event), mapper.append_lossy(event)] {
            let error = refused.unwrap_err();
            assert_eq!((error.column.as_str(), error.kind), (column, FieldErrorKind::Missing));
            assert_eq!(error.bad_record().code, BadCode::RequiredFieldNull);
        }
    }
    mapper.append(&fine).unwrap();
    mapper.append_lossy(&event(JSON, b"{\"k\":2,\"v\":\"x\"}")).unwrap();
    let columns = mapper.finish().unwrap();
    let nulls: Vec<usize> = columns.iter().map(|(_, array)| array.null_count()).collect();
    assert_eq!(nulls, [1, 0, 0]);
}

#[test]
fn a_key_is_another_where_other_columns_or_other_values_make_it() {
    let column = |name: &str, path: &str, key: bool| json!({"type": "path", "name": name, "path": path, "primaryKey": key});
    let of = |columns: Value| mapping(columns);
    let old = of(json!([column("a", "a", true), column("b", "b", true), column("c", "c", false)]));
    let same = of(json!([column("b", "b", true), column("a", "a", true), column("d", "c", false)]));
    assert!(old.has_key_of(&same), "the order and other columns are nothing to it");
    for other in [
        json!([column("a", "a", true)]),
        json!([column("a", "a", true), column("b", "b", true), column("c", "c", true)]),
        json!([column("a", "a", true), column("b", "x", true)]),
        json!([column("a", "a", false), column("b", "b", false)]),
    ] {
        assert!(!old.has_key_of(&of(other.clone())), "{other}");
    }
    let id = of(json!([{"type": "uuid", "name": "id", "primaryKey": true}]));
    assert!(id.is_key_of_event());
}

proptest! {
    #[test]
    fn a_row_is_whole_or_not_there(
        bodies in prop::collection::vec(
            prop::sample::select(vec![
                r#"{"a":1,"b":"x","c":[1]}"#, r#"{"a":1.5,"b":"y","c":1}"#, r#"{"a":2}"#, "{", "",
                r#"{"c":0,"b":"z","a":3,"a":4}"#, r#"{"a":null,"b":null,"c":null}"#, "\u{7f}",
            ]),
            0..12,
        ),
        cut in 0_usize..12,
    ) {
        let mapping = mapping(json!([
            {"type": "path", "name": "c", "path": "c"},
            {"type": "uuid", "name": "id"},
            {"type": "path", "name": "b", "path": "b", "rawString": true},
            {"type": "path", "name": "a", "path": "a", "dataType": "long"},
        ]));
        let mut mapper = mapping.compile();
        let mut alone = mapping.compile();
        let mut expected = Vec::new();
        let mut batches = Vec::new();
        for (place, body) in bodies.iter().enumerate() {
            let event = event(JSON, body.as_bytes());
            let row = alone.row(&event);
            prop_assert_eq!(mapper.append(&event).is_ok(), row.is_ok());
            expected.extend(row);
            if place == cut {
                batches.push(mapper.finish().unwrap());
            }
        }
        batches.push(mapper.finish().unwrap());
        let rows: Vec<Vec<(String, Value)>> = batches
            .iter()
            .flat_map(|columns| {
                (0..columns[0].1.len()).map(|row| {
                    let cell = |(name, array): &(String, ArrayRef)| {
                        (name.clone(), super::value::first(&array.slice(row, 1)))
                    };
                    columns.iter().map(cell).collect()
                })
            })
            .collect();
        prop_assert_eq!(rows, expected);
    }
}

#[test]
fn a_check_says_what_a_row_would_and_keeps_nothing() {
    let template = json!({"language": "jsonnet", "content": "error 'never run'"});
    let columns = json!([
        {"type": "path", "name": "k", "path": "k", "dataType": "long", "primaryKey": true},
        {"type": "path", "name": "n", "path": "n", "defaultValue": "x"},
        {"type": "template", "name": "t", "template": template, "primaryKey": false},
    ]);
    let mut mapper = mapping(columns).compile();
    let mut check = |body: &str| {
        let checked = mapper.check(&event(JSON, body.as_bytes()));
        checked.map_err(|error| (error.column, error.kind))
    };
    let refused = |kind| Err(("k".to_owned(), kind));
    assert_eq!(check(r#"{"k": 1}"#), Ok(()));
    assert_eq!(check("{}"), refused(FieldErrorKind::Missing));
    assert_eq!(check(r#"{"k": null}"#), refused(FieldErrorKind::Missing));
    assert_eq!(check(r#"{"k": "a"}"#), refused(FieldErrorKind::Mismatch));
    assert_eq!(check("{"), refused(FieldErrorKind::Body));
    assert_eq!(mapper.rows(), 0);
}
