//! The decoder as a whole; also the generators of JSON for the other tests.

use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::{ListType, MapType, NestedField, PrimitiveType, Schema, StructType, Type};
use proptest::prelude::*;
use serde_json::Value;

use crate::schema::columns::{Conflict, Mode, Options, Plan};
use crate::schema::evolve::{MIXED_DOC, apply};
use crate::schema::json::decode::{BadCode, Decoder, RowOutcome};
use crate::schema::json::lossless::{Json, check_row};

/// Any JSON value without non-finite numbers.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e6..1e6).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "[\"\\\\\n\t\u{1}é]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-cA-C_.]{0,2}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn empty_schema() -> Schema {
    let offset = NestedField::optional(2, "offset", Type::Primitive(PrimitiveType::Long));
    let system = Type::Struct(StructType::new(vec![offset.into()]));
    Schema::builder()
        .with_fields(vec![NestedField::optional(1, "floe", system).into()])
        .build()
        .unwrap()
}

/// A table as a worker would treat it.
struct Table {
    schema: Schema,
    options: Options,
    batches: Vec<(Schema, RecordBatch)>,
    outcomes: Vec<RowOutcome>,
}

impl Table {
    fn new(options: Options) -> Self {
        Self { schema: empty_schema(), options, batches: Vec::new(), outcomes: Vec::new() }
    }

    /// Lands a segment, evolving the schema as often as needed.
    fn land(&mut self, records: &[Option<&[u8]>]) {
        for _ in 0..4 {
            let plan = Arc::new(Plan::new(&self.schema, self.options.clone()).unwrap());
            let mut decoder = Decoder::new(Arc::clone(&plan));
            let outcomes: Vec<_> = records.iter().map(|record| decoder.push(*record)).collect();
            let rows = outcomes.iter().filter(|outcome| **outcome == RowOutcome::Row).count();
            assert_eq!(decoder.rows(), rows);
            let proposed = decoder.proposed();
            assert_eq!(decoder.pending(), !proposed.is_empty());
            if proposed.is_empty() {
                let arrow = Arc::new(ArrowSchema::new(plan.fields().to_vec()));
                let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
                let arrays = decoder.flush().unwrap();
                let batch = RecordBatch::try_new_with_options(arrow, arrays, &options).unwrap();
                self.batches.push((self.schema.clone(), batch));
                self.outcomes.extend(outcomes);
                return;
            }
            assert!(decoder.flush().is_err());
            self.schema = apply(&self.schema, self.schema.highest_field_id(), &proposed).unwrap();
        }
        panic!("the schema does not settle");
    }

    fn land_text(&mut self, records: &[&str]) {
        let records: Vec<_> = records.iter().map(|text| Some(text.as_bytes())).collect();
        self.land(&records);
    }

    /// The last batch as one JSON text per row, nulls left out.
    fn rows(&self) -> Vec<String> {
        let (_, batch) = self.batches.last().unwrap();
        let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
        writer.write(batch).unwrap();
        writer.finish().unwrap();
        let text = String::from_utf8(writer.into_inner()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Name and type of the value columns.
    fn columns(&self) -> Vec<String> {
        let fields = self.schema.as_struct().fields();
        fields[1..].iter().map(|field| format!("{} {}", field.name, field.field_type)).collect()
    }
}

fn landed(records: &[&str]) -> Table {
    let mut table = Table::new(Options::default());
    table.land_text(records);
    table
}

#[test]
fn fields_become_columns_and_the_lattice_widens_before_the_first_commit() {
    let table = landed(&[
        r#"{"id": 1, "price": 2, "ok": true, "name": "a", "none": null}"#,
        r#"{"price": 2.5, "tags": ["x", null], "at": {"x": 1, "y": null}, "mix": 1}"#,
        r#"{"mix": "two", "at": {"y": [1]}, "m": [1, "a"]}"#,
    ]);
    let scalars = ["id long", "price double", "ok boolean", "name string"];
    assert_eq!(table.columns()[..4], scalars);
    assert_eq!(table.columns()[6..], ["mix string", "m string"]);
    let ty = |name: &str| table.schema.field_by_name(name).unwrap().field_type.to_string();
    assert_eq!([ty("tags.element"), ty("at.x"), ty("at.y.element")], ["string", "long", "long"]);
    assert_eq!(
        table.rows(),
        [
            r#"{"id":1,"price":2.0,"ok":true,"name":"a"}"#,
            r#"{"price":2.5,"tags":["x",null],"at":{"x":1},"mix":"1"}"#,
            r#"{"at":{"y":[1]},"mix":"two","m":"[1, \"a\"]"}"#,
        ]
    );
    let mixed = table.schema.field_by_name("mix").unwrap();
    assert_eq!(mixed.doc.as_deref(), Some(MIXED_DOC));
}

#[test]
fn a_value_that_does_not_fit_goes_to_a_sibling_and_survives_a_rename() {
    let mut table = landed(&[r#"{"a":1,"s":{"b":true},"l":[1]}"#]);
    table.land_text(&[
        r#"{"a":"x","s":{"b":1.5},"l":["y"]}"#,
        r#"{"a":18446744073709551616}"#,
        r#"{"a":{"z": 1}}"#,
        r#"{"a":7,"a__string":"user"}"#,
    ]);
    assert_eq!(
        table.rows(),
        [
            r#"{"s":{"b__double":1.5},"a__string":"x","l__json":"[\"y\"]"}"#,
            r#"{"a__json":"18446744073709551616"}"#,
            r#"{"a__json":"{\"z\": 1}"}"#,
            r#"{"a":7,"_rest":"{\"a__string\":\"user\"}"}"#,
        ]
    );
    let renamed: Vec<_> = table
        .schema
        .as_struct()
        .fields()
        .iter()
        .map(|field| {
            let mut field = NestedField::clone(field);
            if field.name == "a__string" {
                field.name = "other".to_owned();
            }
            Arc::new(field)
        })
        .collect();
    table.schema = Schema::builder().with_fields(renamed).build().unwrap();
    table.land_text(&[r#"{"a":"again"}"#]);
    assert_eq!(table.rows(), [r#"{"other":"again"}"#]);
}

#[test]
fn conflict_policies_are_kept() {
    let mut table = landed(&[r#"{"a":1,"s":{"b":1}}"#]);
    table.options.conflict = Conflict::Rest;
    table.land_text(&[r#"{"a":1.5,"s":{"b":"x","b":2}}"#]);
    assert_eq!(table.rows(), [r#"{"s":{"b":2},"_rest":"{\"a\":1.5,\"s\":{\"b\":\"x\"}}"}"#]);
    table.options.conflict = Conflict::Dlq;
    table.land_text(&[r#"{"a":2,"s":{"b":"secret"}}"#, r#"{"a":3}"#]);
    assert_eq!(table.rows(), [r#"{"a":3}"#]);
    let RowOutcome::Bad(bad) = &table.outcomes[2] else { panic!("{:?}", table.outcomes) };
    assert_eq!((bad.code.as_str(), bad.field_path.as_str()), ("TYPE_MISMATCH", "s.b"));
    assert!(bad.message.contains("column s.b of type long"), "{}", bad.message);
    assert!(!bad.message.contains("secret"));
}

#[test]
fn what_is_no_object_is_a_row_of_its_own() {
    let mut table = Table::new(Options::default());
    table.land(&[
        Some(b"hello"),
        Some(b"[1]"),
        Some(b"\xff\xfe"),
        None,
        Some(b""),
        Some(br#"{"a":1,"b":[2]"#),
        Some(br#"{"a":1}"#),
        Some(br#"{"a":2} x"#),
    ]);
    assert_eq!(table.columns(), ["a long", "_value string", "_value__binary binary"]);
    assert_eq!(
        table.rows(),
        [
            r#"{"_value":"hello"}"#,
            r#"{"_value":"[1]"}"#,
            r#"{"_value__binary":"fffe"}"#,
            "{}",
            r#"{"_value":""}"#,
            r#"{"_value":"{\"a\":1,\"b\":[2]"}"#,
            r#"{"a":1}"#,
            r#"{"_value":"{\"a\":2} x"}"#,
        ]
    );
}

#[test]
fn mode_json_refuses_what_is_no_object_without_a_trace() {
    let mut table = Table::new(Options { mode: Mode::Json, ..Options::default() });
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
    table.land(&[
        Some(b"{\"a\":1}"),
        Some(b"7"),
        Some(b"hello"),
        Some(b"{\"a\":2,\"new\":1"),
        Some(b"\xff"),
        Some(deep.as_bytes()),
        None,
    ]);
    let codes: Vec<_> = table
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            RowOutcome::Row => None,
            RowOutcome::Bad(bad) => Some(bad.code),
        })
        .collect();
    use BadCode::{JsonParse, TooDeep, TypeMismatch};
    let parse = Some(JsonParse);
    assert_eq!(codes, [None, Some(TypeMismatch), parse, parse, parse, Some(TooDeep), None]);
    assert_eq!(table.rows(), [r#"{"a":1}"#, "{}"]);
    assert_eq!(table.columns(), ["a long"]);
}

#[test]
fn names_that_cannot_be_columns_go_to_rest_verbatim() {
    let record = r#"{"Id":1,"iD": 2.50,"floe":{"x":1},"_rest":[],"_value":"v","Id":3,"":0,"e":[],"k\u0065y":1}"#;
    let table = landed(&[record]);
    assert_eq!(table.columns(), ["Id long", "key long", "_rest string"]);
    assert_eq!(
        table.rows(),
        [
            r#"{"Id":1,"key":1,"_rest":"{\"iD\":2.50,\"floe\":{\"x\":1},\"_rest\":[],\"_value\":\"v\",\"Id\":3,\"\":0,\"e\":[]}"}"#
        ]
    );
}

#[test]
fn dotted_names_do_not_collide_with_paths() {
    let table = landed(&[r#"{"a.b":1,"a":{"b":2},"c.d":3}"#]);
    assert_eq!(table.rows(), [r#"{"a.b":1,"c.d":3,"_rest":"{\"a\":{\"b\":2}}"}"#]);
}

#[test]
fn caps_send_the_surplus_to_rest() {
    let mut table = Table::new(Options { max_columns: 3, infer_depth: 3, ..Options::default() });
    table.land_text(&[r#"{"a":1,"b":{"c":{"d":[1]}},"e":1}"#]);
    assert_eq!(table.rows(), [r#"{"a":1,"e":1,"_rest":"{\"b\":{\"c\":{\"d\":[1]}}}"}"#]);
    let mut table = Table::new(Options { infer_depth: 3, ..Options::default() });
    table.land_text(&[r#"{"b":{"c":{"d":[1]}}}"#]);
    assert_eq!(table.rows(), [r#"{"b":{"c":{"d":"[1]"}}}"#]);
}

#[test]
fn unknown_fields_within_lists_keep_their_position() {
    let mut table = landed(&[r#"{"l":[{"a":1}]}"#]);
    table.options.max_columns = 0;
    table.land_text(&[r#"{"l":[{"a":1},{"a":2,"x":[true]},null,{"y":{}}]}"#]);
    assert_eq!(
        table.rows(),
        [
            r#"{"l":[{"a":1},{"a":2},null,{}],"_rest":"{\"l\":[null,{\"x\":[true]},null,{\"y\":{}}]}"}"#
        ]
    );
    table.options.max_columns = 100;
    table.land_text(&[r#"{"l":[{"x":[true]},{"a":"no"}]}"#]);
    assert_eq!(table.rows(), [r#"{"l":[{"x":[true]},{"a__string":"no"}]}"#]);
}

fn typed_schema() -> Schema {
    let primitive =
        |id, name: &str, ty| NestedField::optional(id, name, Type::Primitive(ty)).into();
    let value = NestedField::map_value_element(22, Type::Primitive(PrimitiveType::Long), false);
    let map = MapType::new(
        NestedField::map_key_element(21, Type::Primitive(PrimitiveType::String)).into(),
        value.into(),
    );
    let element = NestedField::list_element(24, Type::Primitive(PrimitiveType::Int), true);
    let strict = StructType::new(vec![
        NestedField::required(26, "r", Type::Primitive(PrimitiveType::Long)).into(),
    ]);
    Schema::builder()
        .with_fields(vec![
            primitive(1, "i", PrimitiveType::Int),
            primitive(2, "f", PrimitiveType::Float),
            primitive(3, "dec", PrimitiveType::Decimal { precision: 5, scale: 2 }),
            primitive(4, "day", PrimitiveType::Date),
            primitive(5, "clock", PrimitiveType::Time),
            primitive(6, "local", PrimitiveType::Timestamp),
            primitive(7, "ts", PrimitiveType::Timestamptz),
            primitive(8, "u", PrimitiveType::Uuid),
            primitive(9, "bin", PrimitiveType::Binary),
            primitive(10, "fix", PrimitiveType::Fixed(4)),
            NestedField::optional(20, "map", Type::Map(map)).into(),
            NestedField::optional(23, "list", Type::List(ListType::new(element.into()))).into(),
            NestedField::optional(25, "strict", Type::Struct(strict)).into(),
            primitive(30, "_rest", PrimitiveType::String),
        ])
        .build()
        .unwrap()
}

#[test]
fn every_type_takes_what_it_holds_exactly_and_nothing_else() {
    let options = Options { conflict: Conflict::Rest, ..Options::default() };
    let mut table = Table { schema: typed_schema(), ..Table::new(options) };
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    for (record, row) in [
        (r#"{"i":-5,"f":1.5,"dec":1.5}"#.to_owned(), r#"{"i":-5,"f":1.5,"dec":1.50}"#.to_owned()),
        (
            r#"{"dec":"12.340","day":"2024-02-29","clock":"01:02:03.5"}"#.to_owned(),
            r#"{"dec":12.34,"day":"2024-02-29","clock":"01:02:03.500"}"#.to_owned(),
        ),
        (
            r#"{"local":"2024-01-01T00:00:00.000001","ts":"2024-01-01T02:00:00+02:00"}"#.to_owned(),
            r#"{"local":"2024-01-01T00:00:00.000001","ts":"2024-01-01T00:00:00Z"}"#.to_owned(),
        ),
        (format!(r#"{{"u":"{uuid}"}}"#), format!(r#"{{"u":"{}"}}"#, uuid.replace('-', ""))),
        (
            r#"{"map":{"a":1,"b":null},"list":[1,2]}"#.to_owned(),
            r#"{"map":{"a":1},"list":[1,2]}"#.to_owned(),
        ),
        (r#"{"strict":{"r":1}}"#.to_owned(), r#"{"strict":{"r":1}}"#.to_owned()),
    ] {
        table.land_text(&[&record]);
        assert_eq!(table.rows(), [row], "{record}");
    }
    for record in [
        r#"{"i":2147483648}"#,
        r#"{"i":1.0}"#,
        r#"{"f":16777217}"#,
        r#"{"dec":1.239}"#,
        r#"{"dec":1000}"#,
        r#"{"dec":"1,5"}"#,
        r#"{"day":"2024-02-30"}"#,
        r#"{"day":1}"#,
        r#"{"clock":"25:00:00"}"#,
        r#"{"ts":1700000000}"#,
        r#"{"ts":"2024-01-01T00:00:00"}"#,
        r#"{"local":"2024-01-01T00:00:00Z"}"#,
        r#"{"ts":"2024-01-01T00:00:00.0000001Z"}"#,
        r#"{"u":"67e5504410b1426f9247bb680e5fe0c8"}"#,
        r#"{"bin":"abcd"}"#,
        r#"{"fix":"abcd"}"#,
        r#"{"map":{"a":"x"}}"#,
        r#"{"map":{"a":1,"a":2}}"#,
        r#"{"list":[1,null]}"#,
        r#"{"list":{"a":1}}"#,
        r#"{"strict":{}}"#,
        r#"{"strict":{"r":null}}"#,
        r#"{"strict":{"r":1.5}}"#,
    ] {
        table.land_text(&[record]);
        let rest = serde_json::json!({ "_rest": record }).to_string();
        assert_eq!(table.rows(), [rest], "{record}");
    }
}

#[test]
fn a_required_column_without_a_value_makes_the_record_bad() {
    let required = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long));
    let schema = Schema::builder().with_fields(vec![required.into()]).build().unwrap();
    let mut table = Table { schema, ..Table::new(Options::default()) };
    table.land(&[Some(b"{\"id\":1}"), Some(b"{}"), Some(b"{\"id\":null}"), None, Some(b"text")]);
    assert_eq!(table.rows(), [r#"{"id":1}"#]);
    for outcome in &table.outcomes[1..] {
        let RowOutcome::Bad(bad) = outcome else { panic!("{outcome:?}") };
        assert_eq!((bad.code, bad.field_path.as_str()), (BadCode::RequiredFieldNull, "id"));
    }
}

#[test]
fn without_evolution_a_value_without_a_place_makes_the_record_bad() {
    let mut table = Table::new(Options { evolve: false, ..Options::default() });
    table.land(&[Some(b"{\"a\":1}"), Some(b"{}"), Some(b"x")]);
    assert_eq!(table.rows(), ["{}"]);
    assert!(matches!(&table.outcomes[0], RowOutcome::Bad(bad)
        if bad.code == BadCode::IncompatibleSchema && bad.field_path == "a"));
    assert!(matches!(&table.outcomes[2], RowOutcome::Bad(bad)
        if bad.code == BadCode::IncompatibleSchema));
}

#[test]
fn a_whole_record_can_be_put_into_rest() {
    let mut table = landed(&[r#"{"a":1,"b":[]}"#, "text"]);
    let plan = Arc::new(Plan::new(&table.schema, table.options.clone()).unwrap());
    let mut decoder = Decoder::new(Arc::clone(&plan));
    for value in [&br#"{"a":1}"#[..], b"{broken", b"{}"] {
        assert_eq!(decoder.push_to_rest(value), RowOutcome::Row);
    }
    let arrow = Arc::new(ArrowSchema::new(plan.fields().to_vec()));
    let batch = RecordBatch::try_new(arrow, decoder.flush().unwrap()).unwrap();
    table.batches.push((table.schema.clone(), batch));
    let rest = |text| serde_json::json!({ "_rest": text }).to_string();
    assert_eq!(table.rows(), [rest("{\"a\":1}"), r#"{"_value":"{broken"}"#.to_owned(), rest("{}")]);
}

#[test]
fn the_arrays_of_a_flush_have_the_table_types() {
    let options = Options { evolve: false, ..Options::default() };
    let plan = Arc::new(Plan::new(&typed_schema(), options).unwrap());
    let mut decoder = Decoder::new(Arc::clone(&plan));
    for rows in [0, 3] {
        for _ in 0..rows {
            decoder.push(None);
        }
        let arrays = decoder.flush().unwrap();
        for (array, field) in arrays.iter().zip(plan.fields()) {
            assert_eq!(array.data_type(), field.data_type());
            assert_eq!((array.len(), array.null_count()), (rows, rows));
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_arrow_json_on_rows_that_fit(rows in prop::collection::vec((
        prop::option::of(any::<i64>()), prop::option::of(-1e9..1e9), prop::option::of(any::<bool>()),
        prop::option::of("\\PC{0,6}[\"\\\\\n]{0,2}"), prop::option::of(prop::collection::vec(any::<i32>(), 0..3)),
        any::<u8>(),
    ), 1..12)) {
        let all = r#"{"l":1,"d":1.5,"b":true,"s":"","n":[1],"o":{"x":1,"y":""}}"#;
        let table = landed(&[all]);
        let options = Options::default();
        let plan = Arc::new(Plan::new(&table.schema, options).unwrap());
        let mut decoder = Decoder::new(Arc::clone(&plan));
        let arrow = Arc::new(ArrowSchema::new(plan.fields().to_vec()));
        let mut oracle = arrow_json::ReaderBuilder::new(arrow).build_decoder().unwrap();
        for (l, d, b, s, n, mask) in rows {
            let mut row = serde_json::Map::new();
            let object = serde_json::json!({ "x": l, "y": s });
            let fields = [
                ("l", Value::from(l)), ("d", Value::from(d)), ("b", Value::from(b)),
                ("s", Value::from(s)), ("n", Value::from(n)), ("o", object),
            ];
            for (at, (name, value)) in fields.into_iter().enumerate() {
                if mask >> at & 1 == 0 {
                    row.insert(name.to_owned(), value);
                }
            }
            let text = Value::Object(row).to_string();
            prop_assert_eq!(decoder.push(Some(text.as_bytes())), RowOutcome::Row);
            oracle.decode(text.as_bytes()).unwrap();
        }
        let expected = oracle.flush().unwrap().unwrap();
        let found = decoder.flush().unwrap();
        for (found, expected) in found.iter().zip(expected.columns()) {
            prop_assert_eq!(found.as_ref(), expected.as_ref());
        }
    }
}

mod promotion;
mod properties;
