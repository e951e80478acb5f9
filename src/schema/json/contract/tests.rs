//! Which objects fit, and what becomes of them.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::{
    ListType, Literal, MapType, NestedField, PrimitiveType as P, Schema, StructType, Type,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::cast::{Cell, Token, cast};
use super::{Checker, Decoder, IGNORED_NAMES_MAX, Misfit, Rules, Unit};
use crate::schema::columns::{Kind, Mode, Options, Plan};

fn plan(fields: Vec<NestedField>) -> Arc<Plan> {
    let fields = fields.into_iter().map(Into::into).collect::<Vec<_>>();
    let schema = Schema::builder().with_fields(fields).build().unwrap();
    let options = Options { mode: Mode::Contract, system: Vec::new(), ..Options::default() };
    Arc::new(Plan::new(&schema, options).unwrap())
}

fn optional(id: i32, name: &str, kind: P) -> NestedField {
    NestedField::optional(id, name, Type::Primitive(kind))
}

/// A table with a column of each kind, one of them required.
fn orders() -> Arc<Plan> {
    let line = StructType::new(vec![
        NestedField::required(21, "sku", Type::Primitive(P::String)).into(),
        optional(22, "price", P::Decimal { precision: 9, scale: 2 }).into(),
    ]);
    let element = NestedField::list_element(23, Type::Struct(line), false);
    let value = Type::Primitive(P::Long);
    let map = MapType::new(
        NestedField::map_key_element(24, Type::Primitive(P::String)).into(),
        NestedField::map_value_element(25, value, false).into(),
    );
    plan(vec![
        NestedField::required(1, "id", Type::Primitive(P::Long)),
        optional(2, "Name", P::String),
        optional(3, "ok", P::Boolean),
        optional(4, "n", P::Int),
        optional(5, "f", P::Float),
        optional(6, "d", P::Double),
        optional(7, "day", P::Date),
        optional(8, "at", P::Timestamptz),
        optional(9, "key", P::Fixed(4)),
        optional(10, "blob", P::Binary),
        optional(11, "u", P::Uuid),
        NestedField::optional(12, "lines", Type::List(ListType::new(element.into()))),
        NestedField::optional(13, "counts", Type::Map(map)),
    ])
}

/// What checker and decoder say, which must be the same; the row as JSON if it is one.
fn both(plan: &Arc<Plan>, rules: Rules, event: &str) -> Result<Value, Misfit> {
    let checked = Checker::new(Arc::clone(plan), rules).check(event);
    let mut decoder = Decoder::new(Arc::clone(plan), rules);
    // What is refused half way must leave no trace.
    let broken = decoder.push(Some(b"{\"id\":1,\"n\":1,\"a\":1,\"lines\":[{\"sku\":\"a\"}"));
    assert!(broken.is_err());
    let decoded = decoder.push(Some(event.as_bytes()));
    assert_eq!(checked, decoded, "{event}");
    decoded?;
    let arrow = Arc::new(ArrowSchema::new(plan.fields().to_vec()));
    let batch = RecordBatch::try_new(arrow, decoder.flush().unwrap()).unwrap();
    assert_eq!(batch.num_rows(), 1);
    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    Ok(serde_json::from_slice(&writer.into_inner()).unwrap())
}

fn strict(event: &str) -> Result<Value, String> {
    both(&orders(), Rules::default(), event).map_err(told)
}

fn lenient(event: &str) -> Result<Value, String> {
    both(&orders(), Rules { lenient: true, ..Rules::default() }, event).map_err(told)
}

fn told(misfit: Misfit) -> String {
    match misfit {
        Misfit::Value(value) => format!("{}: {value}", value.field),
        other => format!("{other:?}"),
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table of cases")]
fn scalars_are_cast_by_the_rules() {
    let decimal = || Kind::Decimal { precision: 5, scale: 2 };
    let zoned = || Kind::Timestamp { zoned: true };
    let local = || Kind::Timestamp { zoned: false };
    let uuid = "\"67e55044-10b1-426f-9247-bb680e5fe0c8\"";
    let long = |value| Some(Cell::I64(value));
    let bytes = |value: &[u8]| Some(Cell::Bytes(value.to_vec()));
    // Kind, value, what strict and what lenient rules make of it.
    let cases: Vec<(Kind, &str, Option<Cell>, Option<Cell>)> = vec![
        (Kind::Boolean, "true", Some(Cell::Boolean(true)), Some(Cell::Boolean(true))),
        (Kind::Boolean, "1", None, Some(Cell::Boolean(true))),
        (Kind::Boolean, "2", None, None),
        (Kind::Boolean, "\"false\"", None, Some(Cell::Boolean(false))),
        (Kind::Boolean, "\"yes\"", None, None),
        (Kind::Int, "7", Some(Cell::I32(7)), Some(Cell::I32(7))),
        (Kind::Int, "2147483648", None, None),
        (Kind::Int, "true", None, None),
        (Kind::Long, "2.0", long(2), long(2)),
        (Kind::Long, "2.5", None, None),
        (Kind::Long, "-0", long(0), long(0)),
        (Kind::Long, "1e3", long(1_000), long(1_000)),
        (Kind::Long, "-9223372036854775808", long(i64::MIN), long(i64::MIN)),
        (Kind::Long, "9223372036854775808", None, None),
        (Kind::Long, "1e400", None, None),
        (Kind::Long, "\"12\"", None, long(12)),
        (Kind::Long, "\"12 \"", None, None),
        (Kind::Long, "\"\"", None, None),
        (Kind::Double, "0.1", Some(Cell::F64(0.1)), Some(Cell::F64(0.1))),
        (
            Kind::Double,
            "9007199254740993",
            Some(Cell::F64(9007199254740992.0)),
            Some(Cell::F64(9007199254740992.0)),
        ),
        (Kind::Double, "1e400", None, None),
        (Kind::Double, "\"NaN\"", None, None),
        (Kind::Double, "\"1.5\"", None, Some(Cell::F64(1.5))),
        (Kind::Float, "16777217", Some(Cell::F32(16777216.0)), Some(Cell::F32(16777216.0))),
        (Kind::Float, "1e39", None, None),
        (decimal(), "1.25", Some(Cell::I128(125)), Some(Cell::I128(125))),
        (decimal(), "1.250", Some(Cell::I128(125)), Some(Cell::I128(125))),
        (decimal(), "1.255", None, None),
        (decimal(), "1000", None, None),
        (decimal(), "-0.00", Some(Cell::I128(0)), Some(Cell::I128(0))),
        (decimal(), "\"1.25\"", None, Some(Cell::I128(125))),
        (zoned(), "1700000000000", long(1_700_000_000_000_000), long(1_700_000_000_000_000)),
        (zoned(), "1.5", None, None),
        (zoned(), "9223372036854775807", None, None),
        (zoned(), "253402300800000", None, None),
        (zoned(), "\"1970-01-01T01:00:00+01:00\"", long(0), long(0)),
        (zoned(), "\"1970-01-01T00:00:00\"", None, None),
        (zoned(), "\"1970-01-01T00:00:00.1234567Z\"", None, long(123_456)),
        (zoned(), "\"1\"", None, long(1_000)),
        (local(), "\"1970-01-01T00:00:00.5\"", long(500_000), long(500_000)),
        (local(), "\"1970-01-01T01:00:00+01:00\"", long(0), long(0)),
        (Kind::Date, "\"1970-01-02\"", Some(Cell::I32(1)), Some(Cell::I32(1))),
        (Kind::Date, "\"0000-01-01\"", None, None),
        (Kind::Date, "1", None, None),
        (Kind::Time, "\"00:00:01.5\"", long(1_500_000), long(1_500_000)),
        (Kind::Time, "\"00:00:00.0000019\"", None, long(1)),
        (Kind::Binary, "\"AAE=\"", bytes(&[0, 1]), bytes(&[0, 1])),
        (Kind::Binary, "\"AAE\"", bytes(&[0, 1]), bytes(&[0, 1])),
        (Kind::Binary, "\"!\"", None, None),
        (Kind::Fixed(2), "\"AAE=\"", bytes(&[0, 1]), bytes(&[0, 1])),
        (Kind::Fixed(3), "\"AAE=\"", None, None),
        (Kind::Uuid, "\"x\"", None, None),
    ];
    for (kind, text, by_strict, by_lenient) in cases {
        let name = kind.name();
        assert_eq!(cell(&kind, text, Rules::default()), by_strict, "{name} {text}");
        let rules = Rules { lenient: true, ..Rules::default() };
        assert_eq!(cell(&kind, text, rules), by_lenient, "{name} {text}, lenient");
    }
    let parsed = cell(&Kind::Uuid, uuid, Rules::default());
    assert!(matches!(parsed, Some(Cell::Bytes(bytes)) if bytes.len() == 16));
    for (unit, text, micros) in [
        (Unit::Seconds, "2", Some(2_000_000)),
        (Unit::Seconds, "9223372036854775", None),
        (Unit::Micros, "2", Some(2)),
        (Unit::Nanos, "2000", Some(2)),
        (Unit::Nanos, "2001", None),
    ] {
        let rules = Rules { unit, ..Rules::default() };
        assert_eq!(cell(&zoned(), text, rules), micros.map(Cell::I64), "{unit:?} {text}");
    }
}

fn cell(kind: &Kind, text: &str, rules: Rules) -> Option<Cell> {
    let token = match text.as_bytes()[0] {
        b'"' => Token::Text(&text.as_bytes()[1..text.len() - 1]),
        b't' | b'f' => Token::Boolean(text == "true"),
        _ => Token::Number(text),
    };
    cast(kind, rules, token)
}

#[test]
fn a_string_column_takes_any_value_as_it_is_written() {
    for (value, text) in [
        (r#""a\u00e9\n""#, "aé\n"),
        ("1.10", "1.10"),
        ("12345678901234567890", "12345678901234567890"),
        ("true", "true"),
        ("[1, {\"a\" :2}]", "[1, {\"a\" :2}]"),
        ("{\"b\":  1.0}", "{\"b\":  1.0}"),
    ] {
        let row = strict(&format!("{{\"id\":1,\"Name\":{value}}}")).unwrap();
        assert_eq!(row["Name"], text);
    }
}

#[test]
fn containers_are_read_to_the_bottom() {
    let row = strict(
        r#"{"id":1,"lines":[{"sku":"a","price":1.5,"more":[1]},null,{"sku":2}],"counts":{"a":1,"b":null,"a":3}}"#,
    );
    let row = row.unwrap();
    assert_eq!(row["lines"][0], json!({"sku": "a", "price": 1.5}));
    assert_eq!((&row["lines"][1], &row["lines"][2]["sku"]), (&Value::Null, &json!("2")));
    assert_eq!(row["counts"]["a"], 3, "of two keys the last one counts");
}

#[test]
fn a_refusal_names_the_place_and_what_is_there() {
    for (event, text) in [
        (r#"{"id":1,"n":"two"}"#, r#"n: expected int, got string "two""#),
        (r#"{"n":1}"#, "id: expected long, got nothing"),
        (r#"{"id":null}"#, "id: expected long, got null"),
        (
            r#"{"id":1,"lines":[{"sku":"a"},{"price":1}]}"#,
            "lines[1].sku: expected string, got nothing",
        ),
        (
            r#"{"id":1,"lines":[{"sku":"a","price":1.234}]}"#,
            "lines[0].price: expected decimal(9, 2), got number 1.234",
        ),
        (r#"{"id":1,"lines":{}}"#, "lines: expected list, got object"),
        (r#"{"id":1,"counts":{"a":"x"}}"#, r#"counts.value: expected long, got string "x""#),
        (r#"{"id":1,"day":true}"#, "day: expected date, got boolean true"),
        ("[1]", "NotObject"),
        ("null", "NotObject"),
    ] {
        assert_eq!(strict(event).unwrap_err(), text, "{event}");
    }
    let long = format!("{{\"id\":\"{}\"}}", "é".repeat(100));
    assert!(strict(&long).unwrap_err().len() < 120);
    for broken in
        ["{", "{\"id\":1", "{\"id\":1}x", "{\"id\":tru}", "{\"id\":1,}", "", "{\"x\":\"\\ud800\"}"]
    {
        assert!(strict(broken).unwrap_err().starts_with("Syntax"), "{broken}");
    }
}

#[test]
fn leniently_what_does_not_fit_is_null_where_it_may_be() {
    let row = lenient(
        r#"{"id":"1","n":"x","ok":1,"lines":[{"sku":"a","price":"y"},5,{"price":1}],"counts":[]}"#,
    );
    let row = row.unwrap();
    assert_eq!((&row["id"], row.get("n"), &row["ok"]), (&json!(1), None, &json!(true)));
    assert_eq!(row["lines"], json!([{"sku": "a"}, null, null]));
    assert_eq!(lenient(r#"{"id":"x"}"#).unwrap_err(), r#"id: expected long, got string "x""#);
    let rules = Rules { lenient: true, ..Rules::default() };
    let mut checker = Checker::new(orders(), rules);
    checker.check(r#"{"id":1,"n":"x","f":{}}"#).unwrap();
    assert_eq!(checker.nulled(), 2);
}

#[test]
fn names_are_matched_exactly_or_ignoring_case() {
    let name = |rules, event: &str| both(&orders(), rules, event).map(|row| row["Name"].clone());
    let event = r#"{"id":1,"name":"a"}"#;
    assert_eq!(name(Rules::default(), event).unwrap(), Value::Null);
    let fold = Rules { fold_case: true, ..Rules::default() };
    assert_eq!(name(fold, event).unwrap(), "a");
    assert_eq!(name(fold, r#"{"id":1,"name":"a","name":"b"}"#).unwrap(), "b");
    let twice = name(fold, r#"{"id":1,"Name":"a","NAME":"b"}"#).map_err(told).unwrap_err();
    assert!(twice.starts_with("Name: expected one field"), "{twice}");
    let two = plan(vec![optional(1, "a", P::Long), optional(2, "A", P::Long)]);
    assert_eq!(both(&two, fold, r#"{"a":1,"A":2}"#).unwrap(), json!({"a": 1, "A": 2}));
    let three = plan(vec![optional(1, "aB", P::Long), optional(2, "Ab", P::Long)]);
    assert_eq!(both(&three, fold, r#"{"AB":1}"#).unwrap(), json!({}), "it could be either");
}

#[test]
fn fields_without_a_column_are_counted_within_bounds() {
    let mut checker = Checker::new(orders(), Rules::default());
    checker.check(r#"{"id":1,"x":1,"x":2,"lines":[{"sku":"a","y":{"z":1}}]}"#).unwrap();
    let names: Vec<_> = checker.ignored().names.iter().map(|(n, c)| (n.as_str(), *c)).collect();
    assert_eq!(names, [("lines.element.y", 1), ("x", 2)]);
    for number in 0..2 * IGNORED_NAMES_MAX {
        checker.check(&format!("{{\"id\":1,\"f{number}\":1}}")).unwrap();
    }
    let ignored = checker.ignored();
    assert_eq!((ignored.names.len(), ignored.others), (IGNORED_NAMES_MAX, 102));
}

#[test]
fn defaults_of_the_table_fill_what_is_absent() {
    let with = |id, name: &str, kind: P, default: Literal| {
        NestedField::required(id, name, Type::Primitive(kind)).with_write_default(default)
    };
    let table = plan(vec![
        with(1, "n", P::Int, Literal::int(7)),
        with(2, "s", P::String, Literal::string("a\"b")),
        with(3, "d", P::Decimal { precision: 5, scale: 2 }, Literal::decimal(125)),
        with(4, "t", P::Timestamptz, Literal::timestamptz(1_500_000)),
        with(5, "l", P::Timestamp, Literal::timestamp(1_500_000)),
        with(6, "day", P::Date, Literal::date(1)),
        with(7, "b", P::Binary, Literal::binary(vec![0, 1])),
        optional(8, "o", P::Long).with_write_default(Literal::long(3)),
    ]);
    let row = both(&table, Rules::default(), r#"{"n":null}"#).unwrap();
    assert_eq!((&row["n"], &row["s"], &row["d"]), (&json!(7), &json!("a\"b"), &json!(1.25)));
    assert_eq!((&row["b"], &row["o"]), (&json!("0001"), &json!(3)));
    assert!(row["t"].as_str().unwrap().starts_with("1970-01-01T00:00:01.5"), "{row}");
    assert_eq!(both(&table, Rules::default(), r#"{"n":1,"o":null}"#).unwrap()["o"], 3);
}

#[test]
fn a_record_that_must_stay_a_row_loses_what_does_not_fit() {
    let mut decoder = Decoder::new(orders(), Rules::default());
    let value = br#"{"id":1,"n":"x"}"#;
    assert!(decoder.push(Some(value)).is_err());
    assert_eq!((decoder.push_lossy(Some(value)), decoder.nulled()), (Ok(()), 1));
    assert_eq!(decoder.push_lossy(None), Err(Misfit::NotObject));
    assert_eq!(decoder.push(Some(b"\xff")), Err(Misfit::NotUtf8));
}

/// Objects that are often near to what the table takes.
fn events() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        (-100_i32..100).prop_map(|value| value.to_string()),
        any::<f64>().prop_filter("JSON", |value| value.is_finite()).prop_map(|v| format!("{v:e}")),
        "-?[0-9]{1,3}\\.[0-9]{1,3}",
        "\"[a-zA-Z0-9+/=: -]{0,9}\"",
        "\"20[0-9]{2}-[01][0-9]-[0-3][0-9](T[0-2][0-9]:00:00(\\.[0-9]{1,8})?Z)?\"",
        Just("\"67e55044-10b1-426f-9247-bb680e5fe0c8\"".to_owned()),
        Just("\"\\u00e9\\ud83d\\ude00\"".to_owned()),
    ];
    let value = scalar.prop_recursive(3, 12, 3, |inner| {
        let name = prop::sample::select(vec!["sku", "price", "a", "id", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec((name, inner), 0..4).prop_map(object),
        ]
    });
    let names = vec![
        "id", "Name", "name", "ok", "n", "f", "d", "day", "at", "key", "blob", "u", "lines",
        "counts", "other",
    ];
    prop::collection::vec((prop::sample::select(names), value), 0..8).prop_map(|mut members| {
        members.push(("id", "1".to_owned()));
        object(members)
    })
}

fn object(members: Vec<(&str, String)>) -> String {
    let members = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

proptest! {
    /// What is taken at the door is a row of the table, and nothing else is.
    #[test]
    fn what_the_checker_takes_the_decoder_takes(
        event in events(), fold_case in any::<bool>(), lenient in any::<bool>(),
    ) {
        let rules = Rules { fold_case, lenient, unit: Unit::Millis };
        let _ = both(&orders(), rules, &event);
    }

    #[test]
    fn many_records_after_each_other_are_as_each_alone(
        all in prop::collection::vec(events(), 1..6), lenient in any::<bool>(),
    ) {
        let rules = Rules { lenient, ..Rules::default() };
        let plan = orders();
        let mut decoder = Decoder::new(Arc::clone(&plan), rules);
        let mut alone = Vec::new();
        for event in &all {
            let row = both(&plan, rules, event);
            prop_assert_eq!(decoder.push(Some(event.as_bytes())).is_ok(), row.is_ok());
            alone.extend(row.ok());
        }
        let arrow = Arc::new(ArrowSchema::new(plan.fields().to_vec()));
        let batch = RecordBatch::try_new(arrow, decoder.flush().unwrap()).unwrap();
        let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let text = String::from_utf8(writer.into_inner()).unwrap();
        let together: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        prop_assert_eq!(together, alone);
    }

    #[test]
    fn any_text_is_told_without_panic(text in "\\PC{0,60}", cut in 0_usize..60) {
        let _ = both(&orders(), Rules::default(), &text);
        let event = r#"{"id":1,"lines":[{"sku":"a","price":1.5}],"counts":{"a":1}}"#;
        let mut broken = event[..cut.min(event.len())].to_owned();
        broken.push_str(&text);
        let _ = both(&orders(), Rules::default(), &broken);
    }
}
