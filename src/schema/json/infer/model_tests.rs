//! The lattice against a naive one that looks at all values of a field at once: so the order and
//! the number of records cannot matter.

use std::collections::BTreeSet;

use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::schema::columns::Options;

/// A column as a text, fields of a struct in order of their names.
fn shown(ty: &NewType, doc: Option<&str>) -> String {
    let mixed = if doc == Some(MIXED_DOC) { " mixed" } else { "" };
    match ty {
        NewType::Struct(fields) => {
            let field =
                |one: &NewField| format!("{} {}", one.name, shown(&one.ty, one.doc.as_deref()));
            let fields: BTreeSet<String> = fields.iter().map(field).collect();
            format!("struct<{}>{mixed}", fields.into_iter().collect::<Vec<_>>().join(", "))
        }
        NewType::List(element) => format!("list<{}>{mixed}", shown(element, None)),
        scalar => format!("{scalar:?}{mixed}"),
    }
}

/// What the observer wishes for after these records, in order of name.
fn wished(records: &[&Map<String, Value>], depth_max: u32) -> BTreeSet<String> {
    let long = Type::Primitive(PrimitiveType::Long);
    let schema = Schema::builder()
        .with_fields([NestedField::optional(1, "floe", long).into()])
        .build()
        .unwrap();
    let options = Options { infer_depth: depth_max, ..Options::default() };
    let plan = Plan::new(&schema, options).unwrap();
    let mut observer = Observer::new(&plan);
    for (name, value) in records.iter().copied().flatten() {
        observer.observe(&plan, Wish::Field { ordinal: 0 }, name, &value.to_string());
    }
    let columns = observer.proposed(&plan);
    let all = columns.iter().map(|one| {
        let ty =
            if one.name == REST { "rest".to_owned() } else { shown(&one.ty, one.doc.as_deref()) };
        format!("{} {ty}", one.name)
    });
    all.collect()
}

/// What a field's values have in common.
#[derive(Debug, PartialEq, Eq)]
enum Naive {
    Nothing,
    Is(String),
    Mixed,
}

/// True for an integer or other number that a double holds exactly.
fn is_double(value: &Value) -> bool {
    match value.as_i64() {
        Some(long) => long as f64 as i128 == i128::from(long),
        None => value.is_f64(),
    }
}

/// Looks at all values of one field together. `rest` is set where a value has no place.
fn naive(values: &[&Value], depth: u32, depth_max: u32, rest: &mut bool) -> Naive {
    let values: Vec<&Value> = values.iter().copied().filter(|value| !value.is_null()).collect();
    let Some(first) = values.first() else {
        return Naive::Nothing;
    };
    let all = |test: fn(&Value) -> bool| values.iter().all(|value| test(value));
    let is = |text: &str| Naive::Is(text.to_owned());
    if (first.is_object() || first.is_array()) && depth >= depth_max {
        return Naive::Mixed;
    }
    if all(Value::is_boolean) {
        is("Boolean")
    } else if all(Value::is_string) {
        is("String")
    } else if all(Value::is_i64) {
        is("Long")
    } else if all(Value::is_number) && all(is_double) {
        is("Double")
    } else if all(Value::is_object) {
        let objects: Vec<_> = values.iter().filter_map(|value| value.as_object()).collect();
        let fields = naive_fields(&objects, depth + 1, depth_max, rest);
        if fields.is_empty() {
            *rest = true;
            return Naive::Nothing;
        }
        Naive::Is(format!("struct<{}>", fields.into_iter().collect::<Vec<_>>().join(", ")))
    } else if all(Value::is_array) {
        let elements: Vec<&Value> =
            values.iter().filter_map(|value| value.as_array()).flatten().collect();
        let mut inner_rest = false;
        match naive(&elements, depth + 1, depth_max, &mut inner_rest) {
            Naive::Mixed => Naive::Mixed,
            Naive::Nothing => {
                *rest = true;
                Naive::Nothing
            }
            Naive::Is(element) => {
                *rest |= inner_rest;
                Naive::Is(format!("list<{element}>"))
            }
        }
    } else {
        Naive::Mixed
    }
}

fn naive_fields(
    objects: &[&Map<String, Value>],
    depth: u32,
    depth_max: u32,
    rest: &mut bool,
) -> BTreeSet<String> {
    let names: BTreeSet<&String> = objects.iter().flat_map(|object| object.keys()).collect();
    let mut fields = BTreeSet::new();
    for name in names {
        let values: Vec<&Value> = objects.iter().filter_map(|object| object.get(name)).collect();
        match naive(&values, depth, depth_max, rest) {
            Naive::Nothing => {}
            Naive::Is(ty) => drop(fields.insert(format!("{name} {ty}"))),
            Naive::Mixed => drop(fields.insert(format!("{name} String mixed"))),
        }
    }
    fields
}

fn any_record() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        2 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => (-3..3_i64).prop_map(Value::from),
        1 => prop::sample::select(vec![i64::MAX, 1 << 53, (1 << 53) + 1]).prop_map(Value::from),
        2 => prop::sample::select(vec![1.5, -0.25, 1e300]).prop_map(Value::from),
        1 => Just(Value::from(u64::MAX)),
        2 => "[ab]{0,2}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            any_object(inner).prop_map(Value::Object),
        ]
    });
    any_object(value)
}

fn any_object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec(("[abc]", inner), 0..4).prop_map(|fields| fields.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn types_are_those_of_all_values_together_in_any_order(
        records in prop::collection::vec(any_record(), 0..7),
        order in Just((0..7_usize).collect::<Vec<_>>()).prop_shuffle(),
        depth_max in 1..5_u32,
    ) {
        let all: Vec<&Map<String, Value>> = records.iter().collect();
        let found = wished(&all, depth_max);
        let mut rest = false;
        let mut expected = naive_fields(&all, 1, depth_max, &mut rest);
        if rest {
            expected.insert(format!("{REST} rest"));
        }
        prop_assert_eq!(&found, &expected);
        let shuffled: Vec<_> = order.iter().filter_map(|at| records.get(*at)).collect();
        prop_assert_eq!(&wished(&shuffled, depth_max), &found, "the order matters");
        let twice: Vec<_> = all.iter().chain(&shuffled).copied().collect();
        prop_assert_eq!(&wished(&twice, depth_max), &found, "a value seen again matters");
        // What was joined before joins as its parts do: no record takes a type back.
        for cut in 0..all.len() {
            let (left, right) = all.split_at(cut);
            let turned: Vec<_> = right.iter().chain(left).copied().collect();
            prop_assert_eq!(&wished(&turned, depth_max), &found, "the grouping matters");
        }
    }
}
