//! What holds for any JSON and any bytes.

use super::*;

pub(super) fn any_exact_json() -> impl Strategy<Value = Json> {
    let number = prop_oneof![
        "-?[0-9]".prop_filter("-0 and 0 are fine, 00 is not generated", |_| true),
        any::<i64>().prop_map(|value| value.to_string()),
        "-?[1-9][0-9]{0,25}(\\.[0-9]{1,20})?(e-?[0-9]{1,3})?",
        Just("1.50".to_owned()),
        Just("9007199254740993".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        number.prop_map(Json::Number),
        "[a1\"\\\\é]{0,3}".prop_map(Json::Text),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::List),
            any_object(inner),
        ]
    })
}

pub(super) fn any_object(inner: impl Strategy<Value = Json>) -> impl Strategy<Value = Json> {
    let key = prop_oneof![
        8 => "[abA]",
        1 => prop::sample::select(vec!["a.b", "a__long", "a__json", "floe", "_rest", "_value", "é\"", ""])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec((key, inner), 0..5).prop_map(Json::Object)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_value_is_ever_lost(
        segments in prop::collection::vec(
            prop::collection::vec(any_object(any_exact_json()), 1..5), 1..4,
        ),
        max_columns in prop::sample::select(vec![0_usize, 3, 8, 1_000]),
        infer_depth in 1_u32..4,
        rest in any::<bool>(),
        cut in prop::option::of(0_usize..40),
    ) {
        let conflict = if rest { Conflict::Rest } else { Conflict::Sibling };
        let options = Options { max_columns, infer_depth, conflict, ..Options::default() };
        let mut table = Table::new(options);
        for segment in segments {
            let mut texts: Vec<String> = segment.iter().map(Json::render).collect();
            if let (Some(cut), Some(text)) = (cut, texts.first_mut())
                && text.is_char_boundary(cut)
            {
                text.truncate(cut);
            }
            let records: Vec<&str> = texts.iter().map(String::as_str).collect();
            table.land_text(&records);
            let (schema, batch) = table.batches.last().unwrap();
            prop_assert_eq!(batch.num_rows(), records.len());
            for (row, record) in records.iter().enumerate() {
                check_row(schema, batch, row, record);
            }
        }
    }

    #[test]
    fn no_bytes_panic_and_every_record_is_a_row(
        records in prop::collection::vec(prop::option::of(prop::collection::vec(
            prop::sample::select(b"{}[]\":,\\u0de19.-tnf \xff\xc3\xa9ab".to_vec()), 0..20,
        )), 1..20),
    ) {
        let mut table = Table::new(Options::default());
        let records: Vec<_> = records.iter().map(Option::as_deref).collect();
        table.land(&records);
        prop_assert!(table.outcomes.iter().all(|outcome| *outcome == RowOutcome::Row));
    }
}
