//! JSON into columns; partition specs.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::Schema as ArrowSchema;
use iceberg::spec::{ListType, MapType, NestedField, PrimitiveType, Schema, StructType, Type};

use crate::fuzzing::steer;
use crate::schema::columns::{Conflict, Mode, Options, Plan};
use crate::schema::evolve::apply;
use crate::schema::json::decode::{Decoder, RowOutcome};
use crate::schema::json::lexer::{ErrorKind, Lexer};
use crate::schema::json::lossless::check_row;
use crate::schema::partition_spec::{SpecText, TERMS_MAX, TEXT_LEN_MAX, check};

/// How often new columns may be proposed for one segment of records before the schema settles.
const ROUNDS_MAX: usize = 4;

/// The first byte picks options and schema; the rest are records, one a line, of two segments.
///
/// # Panics
/// If a property does not hold.
pub fn json_decoder(data: &[u8]) {
    let (first, rest) = steer(data);
    let bit = |place: u8| first >> place & 1 == 1;
    let options = Options {
        mode: if bit(0) { Mode::Json } else { Mode::Auto },
        conflict: match first >> 1 & 3 {
            0 | 1 => Conflict::Sibling,
            2 => Conflict::Rest,
            _ => Conflict::Dlq,
        },
        evolve: !bit(3),
        max_columns: if bit(4) { 3 } else { 1_000 },
        infer_depth: if bit(5) { 2 } else { 8 },
        ..Options::default()
    };
    let typed = bit(6);
    let mut schema = if typed { typed_schema() } else { schema_of(Vec::new()) };
    let records: Vec<&[u8]> = rest.split(|byte| *byte == b'\n').take(24).collect();
    let (before, after) = records.split_at(records.len() / 2);
    for segment in [before, after] {
        schema = land(schema, &options, segment, !typed);
    }
}

/// Lands a segment as a worker does; returns the schema afterwards.
fn land(mut schema: Schema, options: &Options, records: &[&[u8]], lossless: bool) -> Schema {
    for _ in 0..ROUNDS_MAX {
        let plan =
            Arc::new(Plan::new(&schema, options.clone()).expect("the schema has Arrow types"));
        let mut decoder = Decoder::new(Arc::clone(&plan));
        let outcomes: Vec<_> = records.iter().map(|record| decoder.push(Some(record))).collect();
        let rows = outcomes.iter().filter(|outcome| **outcome == RowOutcome::Row).count();
        assert_eq!(decoder.rows(), rows, "a bad record left a row");
        for (record, outcome) in records.iter().zip(&outcomes) {
            expected(record, outcome, options);
        }
        let proposed = decoder.proposed();
        assert_eq!(decoder.pending(), !proposed.is_empty());
        if proposed.is_empty() {
            let batch = batch(&plan, &mut decoder, rows);
            let good = records.iter().zip(&outcomes);
            let good = good.filter(|(_, outcome)| **outcome == RowOutcome::Row);
            for (row, (record, _)) in good.enumerate() {
                if let (true, Ok(text)) = (lossless, std::str::from_utf8(record))
                    && !too_deep(text, options)
                {
                    check_row(&schema, &batch, row, text);
                }
            }
            to_rest(&plan, records);
            return schema;
        }
        assert!(options.evolve && decoder.flush().is_err());
        schema = apply(&schema, schema.highest_field_id(), &proposed).expect("it was proposed");
    }
    panic!("the schema does not settle");
}

fn batch(plan: &Plan, decoder: &mut Decoder, rows: usize) -> RecordBatch {
    let arrow = Arc::new(ArrowSchema::new(plan.fields().to_vec()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let arrays = decoder.flush().expect("no column lacks");
    assert_eq!((decoder.rows(), decoder.bytes()), (0, 0));
    RecordBatch::try_new_with_options(arrow, arrays, &options).expect("arrays of the table's types")
}

/// A record that no longer decodes goes to a reserved column whole.
fn to_rest(plan: &Arc<Plan>, records: &[&[u8]]) {
    let mut decoder = Decoder::new(Arc::clone(plan));
    let outcomes: Vec<_> = records.iter().map(|record| decoder.push_to_rest(record)).collect();
    let rows = outcomes.iter().filter(|outcome| **outcome == RowOutcome::Row).count();
    assert_eq!(decoder.rows(), rows);
    if !decoder.pending() {
        batch(plan, &mut decoder, rows);
    }
}

/// What must or must not be a row, by what an ordinary parser says of it.
fn expected(record: &[u8], outcome: &RowOutcome, options: &Options) {
    let is_row = *outcome == RowOutcome::Row;
    if let RowOutcome::Bad(bad) = outcome {
        assert!(bad.message.len() < 1_024 && bad.field_path.len() <= 1_024);
    }
    let text = std::str::from_utf8(record).ok();
    let Some(valid) = text.map_or(Some(false), is_json) else { return };
    let object = valid && text.is_some_and(|text| text.trim_start().starts_with('{'));
    match options.mode {
        Mode::Auto if options.evolve && options.conflict != Conflict::Dlq => {
            assert!(is_row, "{outcome:?}");
        }
        Mode::Json if object && options.evolve && options.conflict != Conflict::Dlq => {
            assert!(is_row || too_deep(text.unwrap_or_default(), options), "{outcome:?}");
        }
        Mode::Json if !object => assert!(!is_row, "it is no object"),
        _ => {}
    }
}

/// Whether serde_json takes `text`; none where it cannot say: it refuses numbers that no double
/// holds, and nests less deep than some lexers.
fn is_json(text: &str) -> Option<bool> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Some(true),
        Err(error) => {
            let text = error.to_string();
            let unsure = text.contains("out of range") || text.contains("recursion limit");
            (!unsure).then_some(false)
        }
    }
}

fn too_deep(text: &str, options: &Options) -> bool {
    let mut lexer = Lexer::new(text, options.json_depth);
    lexer.skip(0).is_err_and(|error| error.kind == ErrorKind::TooDeep)
}

fn schema_of(fields: Vec<NestedField>) -> Schema {
    let offset = NestedField::optional(1_002, "offset", Type::Primitive(PrimitiveType::Long));
    let system = Type::Struct(StructType::new(vec![offset.into()]));
    let system = NestedField::optional(1_001, "floe", system);
    let fields = std::iter::once(system).chain(fields).map(Arc::new);
    Schema::builder().with_fields(fields).build().expect("ids and names are unique")
}

/// A column of every type.
pub(super) fn typed_schema() -> Schema {
    use PrimitiveType::{
        Binary, Boolean, Date, Decimal, Double, Fixed, Float, Int, Long, String, Time, Timestamp,
        Timestamptz, Uuid,
    };
    let simple = [
        ("b", Boolean),
        ("i", Int),
        ("l", Long),
        ("f", Float),
        ("d", Double),
        ("dec", Decimal { precision: 5, scale: 2 }),
        ("big", Decimal { precision: 38, scale: 0 }),
        ("day", Date),
        ("clock", Time),
        ("local", Timestamp),
        ("ts", Timestamptz),
        ("u", Uuid),
        ("bin", Binary),
        ("fix", Fixed(4)),
        ("s", String),
    ];
    let optional = |(id, (name, ty)): (i32, (&str, PrimitiveType))| {
        NestedField::optional(id, name, Type::Primitive(ty))
    };
    let mut fields: Vec<NestedField> = (1..).zip(simple).map(optional).collect();
    let value = NestedField::map_value_element(22, Type::Primitive(Long), false);
    let key = NestedField::map_key_element(21, Type::Primitive(String));
    let map = Type::Map(MapType::new(key.into(), value.into()));
    let element = NestedField::list_element(24, Type::Primitive(Int), true);
    let list = Type::List(ListType::new(element.into()));
    let strict = NestedField::required(26, "r", Type::Primitive(Long));
    let strict = Type::Struct(StructType::new(vec![strict.into()]));
    fields.push(NestedField::optional(20, "map", map));
    fields.push(NestedField::optional(23, "list", list));
    fields.push(NestedField::optional(25, "strict", strict));
    fields.push(NestedField::optional(30, "_rest", Type::Primitive(String)));
    schema_of(fields)
}

/// The text of a partition spec.
///
/// # Panics
/// If a property does not hold.
pub fn partition_spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = SpecText::parse(text);
    assert_eq!(check(text).is_ok(), parsed.is_ok());
    let spec = match parsed {
        Ok(spec) => spec,
        Err(error) => {
            assert!(error.at >= 1 && error.at <= text.chars().count().max(TEXT_LEN_MAX) + 1);
            return;
        }
    };
    let canonical = spec.to_string();
    // A canonical text is longer than some spellings, up to the quotes and the name of a transform.
    if canonical.len() <= TEXT_LEN_MAX {
        assert_eq!(SpecText::parse(&canonical), Ok(spec.clone()), "{canonical}");
    }
    if let Ok(bound) = spec.bind(&typed_schema()) {
        assert!(bound.fields().len() <= TERMS_MAX);
        assert_eq!(bound.fields().is_empty(), spec.is_unpartitioned());
    }
}
