//! A table's schema over many commits: it only grows.

use iceberg::spec::NestedFieldRef;

use super::properties::{any_exact_json, any_object};
use super::*;

/// Field by field: what is there keeps id, name, type, doc and place; what is new comes after it
/// with an id that no field ever had.
fn assert_grown(old: &[NestedFieldRef], new: &[NestedFieldRef], highest: i32) {
    assert!(old.len() <= new.len());
    for (old, new) in old.iter().zip(new) {
        let plain = |one: &NestedField| (one.id, one.name.clone(), one.required, one.doc.clone());
        assert_eq!(plain(old), plain(new));
        assert_grown_type(&old.field_type, &new.field_type, highest);
    }
    for new in &new[old.len()..] {
        assert!(new.id > highest && !new.required, "{new:?}");
    }
}

fn assert_grown_type(old: &Type, new: &Type, highest: i32) {
    match (old, new) {
        (Type::Struct(old), Type::Struct(new)) => assert_grown(old.fields(), new.fields(), highest),
        (Type::List(old), Type::List(new)) => {
            let (old, new) = (&old.element_field, &new.element_field);
            assert_grown(std::slice::from_ref(old), std::slice::from_ref(new), highest);
        }
        (old, new) => assert_eq!(old, new, "no column changes its type after its first commit"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_schema_only_grows_and_knows_what_it_has_seen(
        segments in prop::collection::vec(
            prop::collection::vec(any_object(any_exact_json()), 1..4), 1..6,
        ),
        max_columns in prop::sample::select(vec![3_usize, 8, 1_000]),
        infer_depth in 1_u32..4,
    ) {
        let options = Options { max_columns, infer_depth, ..Options::default() };
        let mut table = Table::new(options);
        let texts: Vec<Vec<String>> =
            segments.iter().map(|segment| segment.iter().map(Json::render).collect()).collect();
        for segment in &texts {
            let before = table.schema.clone();
            table.land_text(&segment.iter().map(String::as_str).collect::<Vec<_>>());
            let (old, new) = (before.as_struct().fields(), table.schema.as_struct().fields());
            assert_grown(old, new, before.highest_field_id());
        }
        // What came before its column went to `_rest`; the second time it may need a sibling.
        for segment in &texts {
            table.land_text(&segment.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let settled = table.schema.clone();
        for segment in &texts {
            table.land_text(&segment.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(&table.schema, &settled, "the same records need nothing new");
        }
    }
}
