use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int32Array, Int64Array, LargeBinaryArray, ListArray, MapArray,
    StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt64Array,
    new_null_array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::DataType;
use iceberg::expr::Reference;
use iceberg::spec::{Datum, FormatVersion, NestedField, Schema, StructType, Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::table::snapshot::SnapshotChange;
use crate::table::testing::TestTable;

fn two_groups(rows: usize) -> SinkOptions {
    SinkOptions { row_group_rows: Some(rows), ..SinkOptions::default() }
}

#[tokio::test]
async fn long_strings_in_several_row_groups_keep_true_bounds() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    let long = |letter: &str| letter.repeat(100);
    let (a, z) = (long("a"), long("z"));
    let rows = table.rows(0, &["m", "n", &a, &z]);
    let file = table.write(vec![rows], &two_groups(2)).await;
    assert_eq!(file.file.split_offsets().unwrap().len(), 2);
    let name = table.metadata.current_schema().field_by_name("name").unwrap().id;
    assert_eq!(file.file.lower_bounds()[&name], Datum::string("a".repeat(16)));
    let upper = format!("{}{{", "z".repeat(15));
    assert_eq!(file.file.upper_bounds()[&name], Datum::string(upper));
    table.change(SnapshotChange::append(vec![file], HashMap::new())).await;
    for wanted in ["m", "n", &a, &z] {
        let filter = Reference::new("name").equal_to(Datum::string(wanted));
        assert_eq!(table.count(Some(filter)).await, 1, "{wanted}");
    }
    let filter = Reference::new("name").greater_than(Datum::string("{"));
    assert_eq!(table.count(Some(filter)).await, 0);
}

#[tokio::test]
async fn nested_columns_are_measured_and_pruned_by() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    for base in [0, 100, 200] {
        table.append(base, &["a", "b", "c"]).await;
    }
    let schema = table.metadata.current_schema().clone();
    let id = schema.field_by_name("floe.offset").unwrap().id;
    let list = table.table().manifest_list_reader(table.metadata.current_snapshot().unwrap());
    let mut bounds = Vec::new();
    for manifest in list.load().await.unwrap().entries() {
        for entry in manifest.load_manifest(&table.file_io).await.unwrap().entries() {
            let file = entry.data_file();
            assert_eq!(file.value_counts()[&id], 3);
            assert_eq!(file.null_value_counts()[&id], 0);
            bounds.push((file.lower_bounds()[&id].clone(), file.upper_bounds()[&id].clone()));
        }
    }
    let expected = |base: i64| (Datum::long(base), Datum::long(base + 2));
    assert_eq!(bounds, [expected(200), expected(100), expected(0)]);
    // The crate's row filter knows no nested columns; its pruning does.
    for (offset, files) in [(101, 1), (103, 0), (200, 1)] {
        let filter = Reference::new("floe.offset").equal_to(Datum::long(offset));
        assert_eq!(table.planned(filter).await, files, "{offset}");
    }
}

/// One optional column per primitive type, then a list and a map.
fn all_types() -> Schema {
    let types = [
        ("boolean", PrimitiveType::Boolean),
        ("int", PrimitiveType::Int),
        ("long", PrimitiveType::Long),
        ("float", PrimitiveType::Float),
        ("double", PrimitiveType::Double),
        ("decimal9", PrimitiveType::Decimal { precision: 9, scale: 2 }),
        ("decimal18", PrimitiveType::Decimal { precision: 18, scale: 2 }),
        ("decimal38", PrimitiveType::Decimal { precision: 38, scale: 2 }),
        ("date", PrimitiveType::Date),
        ("time", PrimitiveType::Time),
        ("timestamp", PrimitiveType::Timestamp),
        ("timestamptz", PrimitiveType::Timestamptz),
        ("string", PrimitiveType::String),
        ("uuid", PrimitiveType::Uuid),
        ("fixed", PrimitiveType::Fixed(4)),
        ("binary", PrimitiveType::Binary),
    ];
    let mut fields: Vec<_> = types
        .into_iter()
        .zip(1..)
        .map(|((name, ty), id)| NestedField::optional(id, name, Type::Primitive(ty)).into())
        .collect();
    let long = Type::Primitive(PrimitiveType::Long);
    let list =
        iceberg::spec::ListType::new(NestedField::list_element(31, long.clone(), false).into());
    let map = iceberg::spec::MapType::optional(
        32,
        Type::Primitive(PrimitiveType::String),
        33,
        Type::Primitive(PrimitiveType::Double),
    );
    fields.push(NestedField::optional(20, "list", Type::List(list)).into());
    fields.push(NestedField::optional(21, "map", Type::Map(map)).into());
    Schema::builder().with_fields(fields).build().unwrap()
}

fn uuid(first: u8) -> Uuid {
    Uuid::from_bytes([first; 16])
}

/// Low, high, null in the types of [`all_types`].
fn all_columns(schema: &arrow_schema::Schema) -> Vec<ArrayRef> {
    let decimal = |precision: u8| -> ArrayRef {
        let values = Decimal128Array::from(vec![Some(-1234), Some(5678), None]);
        Arc::new(values.with_precision_and_scale(precision, 2).unwrap())
    };
    let fixed = |size: i32, low: &[u8], high: &[u8]| -> ArrayRef {
        let values = [Some(low), Some(high), None].into_iter();
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, size).unwrap())
    };
    let micros = || TimestampMicrosecondArray::from(vec![Some(-5), Some(7), None]);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(false), Some(true), None])),
        Arc::new(Int32Array::from(vec![Some(-1), Some(2), None])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
        Arc::new(Float32Array::from(vec![Some(-1.5), Some(2.5), None])),
        Arc::new(Float64Array::from(vec![Some(f64::NEG_INFINITY), Some(2.5), None])),
        decimal(9),
        decimal(18),
        decimal(38),
        Arc::new(Date32Array::from(vec![Some(-1), Some(20_000), None])),
        Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None])),
        Arc::new(micros()),
        Arc::new(micros().with_timezone("+00:00")),
        Arc::new(StringArray::from(vec![Some("é"), Some("ü".repeat(20).as_str()), None])),
        fixed(16, uuid(1).as_bytes(), uuid(0x7F).as_bytes()),
        fixed(4, &[0, 0, 0, 1], &[0xFF, 0xFF, 0xFF, 0xFF]),
        Arc::new(LargeBinaryArray::from_opt_vec(vec![Some(b""), Some(&[0xFE; 30]), None])),
    ];
    columns.extend(nested_columns(schema));
    columns
}

/// A list and a map, whose leaves get no metrics.
fn nested_columns(schema: &arrow_schema::Schema) -> [ArrayRef; 2] {
    let DataType::List(item) = schema.field(16).data_type() else { panic!("a list") };
    let offsets = OffsetBuffer::from_lengths([2, 0, 0]);
    let values = Arc::new(Int64Array::from(vec![1, 2]));
    let list: ArrayRef = Arc::new(ListArray::new(item.clone(), offsets, values, None));
    let DataType::Map(entry, _) = schema.field(17).data_type() else { panic!("a map") };
    let DataType::Struct(fields) = entry.data_type() else { panic!("a struct") };
    let entries = StructArray::new(
        fields.clone(),
        vec![Arc::new(StringArray::from(vec!["k"])), Arc::new(Float64Array::from(vec![f64::NAN]))],
        None,
    );
    let offsets = OffsetBuffer::from_lengths([1, 0, 0]);
    [list, Arc::new(MapArray::new(entry.clone(), offsets, entries, None, false))]
}

fn expected_bounds() -> Vec<(&'static str, Datum, Datum)> {
    let decimal = |unscaled: i128, precision: u32| {
        let ty = PrimitiveType::Decimal { precision, scale: 2 };
        Datum::try_from_bytes(&unscaled.to_be_bytes(), ty).unwrap()
    };
    let mut upper = "ü".repeat(15);
    upper.push('ý');
    let mut bytes = vec![0xFE; 15];
    bytes.push(0xFF);
    vec![
        ("boolean", Datum::bool(false), Datum::bool(true)),
        ("int", Datum::int(-1), Datum::int(2)),
        ("long", Datum::long(i64::MIN), Datum::long(i64::MAX)),
        ("float", Datum::float(-1.5), Datum::float(2.5)),
        ("double", Datum::double(f64::NEG_INFINITY), Datum::double(2.5)),
        ("decimal9", decimal(-1234, 9), decimal(5678, 9)),
        ("decimal18", decimal(-1234, 18), decimal(5678, 18)),
        ("decimal38", decimal(-1234, 38), decimal(5678, 38)),
        ("date", Datum::date(-1), Datum::date(20_000)),
        ("time", Datum::time_micros(0).unwrap(), Datum::time_micros(86_399_999_999).unwrap()),
        ("timestamp", Datum::timestamp_micros(-5), Datum::timestamp_micros(7)),
        ("timestamptz", Datum::timestamptz_micros(-5), Datum::timestamptz_micros(7)),
        ("string", Datum::string("é"), Datum::string(upper)),
        ("uuid", Datum::uuid(uuid(1)), Datum::uuid(uuid(0x7F))),
        ("fixed", Datum::fixed([0, 0, 0, 1]), Datum::fixed([0xFF; 4])),
        ("binary", Datum::binary([]), Datum::binary(bytes)),
    ]
}

#[tokio::test]
async fn every_primitive_type_has_bounds_and_reads_back() {
    let mut table = TestTable::with(all_types(), FormatVersion::V2).await;
    let arrow = table.arrow_schema();
    let columns = all_columns(&arrow);
    let rows = RecordBatch::try_new(arrow.clone(), columns).unwrap();
    let added = table.write(vec![rows.clone()], &SinkOptions::default()).await;
    let file = &added.file;
    let schema = table.metadata.current_schema().clone();
    for (name, lower, upper) in expected_bounds() {
        let id = schema.field_by_name(name).unwrap().id;
        assert_eq!(file.lower_bounds().get(&id), Some(&lower), "{name}");
        assert_eq!(file.upper_bounds().get(&id), Some(&upper), "{name}");
        assert_eq!(file.value_counts()[&id], 3, "{name}");
        assert_eq!(file.null_value_counts()[&id], 1, "{name}");
        assert!(file.column_sizes()[&id] > 0, "{name}");
        let nans = matches!(name, "float" | "double").then_some(&0);
        assert_eq!(file.nan_value_counts().get(&id), nans, "{name}");
    }
    for name in ["list.element", "map.key", "map.value"] {
        let id = schema.field_by_name(name).unwrap().id;
        assert!(!file.lower_bounds().contains_key(&id), "{name}");
        assert!(!file.value_counts().contains_key(&id), "{name}");
        assert!(!file.nan_value_counts().contains_key(&id), "{name}");
    }
    let text = added.to_json(&table.metadata).unwrap();
    assert_eq!(AddedFile::from_json(&text, &table.metadata).unwrap(), added);

    table.change(SnapshotChange::append(vec![added], HashMap::new())).await;
    let found = table.scan(None).await;
    assert_eq!(found.len(), 1);
    for (name, column) in arrow.fields().iter().zip(rows.columns()) {
        assert_eq!(found[0].column_by_name(name.name()).unwrap(), column, "{name}");
    }
    for (name, lower, upper) in expected_bounds() {
        // Pruning only: the crate's row filter does not know all types.
        for bound in [&lower, &upper] {
            let filter = Reference::new(name).equal_to(bound.clone());
            assert_eq!(table.planned(filter).await, 1, "{name}");
        }
        let filter = Reference::new(name).less_than(lower);
        assert_eq!(table.planned(filter).await, 0, "{name}");
        let filter = Reference::new(name).greater_than(upper);
        assert_eq!(table.planned(filter).await, 0, "{name}");
    }
}

#[tokio::test]
async fn nans_are_counted_and_never_bound() {
    let double = || Type::Primitive(PrimitiveType::Double);
    let inner = StructType::new(vec![NestedField::optional(4, "x", double()).into()]);
    let schema = Schema::builder()
        .with_fields(vec![
            NestedField::optional(1, "some", double()).into(),
            NestedField::optional(2, "all", double()).into(),
            NestedField::optional(3, "s", Type::Struct(inner)).into(),
        ])
        .build()
        .unwrap();
    let table = TestTable::with(schema, FormatVersion::V2).await;
    let arrow = table.arrow_schema();
    let DataType::Struct(fields) = arrow.field(2).data_type() else { panic!("a struct") };
    let nan = f64::NAN;
    // The second struct is null; what its child holds there is no value.
    let inner: ArrayRef = Arc::new(Float64Array::from(vec![nan, nan, 3.0, nan]));
    let nulls = NullBuffer::from(vec![true, false, true, true]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Float64Array::from(vec![Some(nan), Some(1.0), None, Some(-2.0)])),
        Arc::new(Float64Array::from(vec![nan; 4])),
        Arc::new(StructArray::new(fields.clone(), vec![inner], Some(nulls))),
    ];
    let rows = RecordBatch::try_new(arrow.clone(), columns).unwrap();
    let file = table.write(vec![rows], &two_groups(2)).await.file;
    let id = |name: &str| table.metadata.current_schema().field_by_name(name).unwrap().id;
    assert_eq!(file.nan_value_counts()[&id("some")], 1);
    assert_eq!(file.nan_value_counts()[&id("all")], 4);
    assert_eq!(file.nan_value_counts()[&id("s.x")], 2);
    assert_eq!(file.null_value_counts()[&id("s.x")], 1);
    assert_eq!(file.lower_bounds()[&id("some")], Datum::double(-2.0));
    assert_eq!(file.upper_bounds()[&id("some")], Datum::double(1.0));
    assert!(!file.lower_bounds().contains_key(&id("all")));
    assert_eq!(file.lower_bounds()[&id("s.x")], Datum::double(3.0));
}

#[tokio::test]
async fn only_the_first_hundred_columns_are_measured() {
    let fields = (1..=120).map(|id| {
        NestedField::optional(id, format!("c{id}"), Type::Primitive(PrimitiveType::Int)).into()
    });
    let schema = Schema::builder().with_fields(fields).build().unwrap();
    let table = TestTable::with(schema, FormatVersion::V2).await;
    let arrow = table.arrow_schema();
    let column: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let rows = RecordBatch::try_new(arrow, vec![column; 120]).unwrap();
    let file = table.write(vec![rows], &SinkOptions::default()).await.file;
    assert_eq!(file.lower_bounds().len(), 100);
    assert!(file.value_counts().contains_key(&100) && !file.value_counts().contains_key(&101));
}

#[tokio::test]
async fn the_footer_has_field_ids_and_what_the_caller_gives() {
    let table = TestTable::new(FormatVersion::V2).await;
    let footer = vec![("floe.commit-id".to_owned(), "abc".to_owned())];
    let options = SinkOptions { footer, ..SinkOptions::default() };
    let added = table.write(vec![table.rows(0, &["a"])], &options).await;
    let path = added.file.file_path().strip_prefix("file://").unwrap().to_owned();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), added.file.file_size_in_bytes());
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
    let metadata = reader.metadata().file_metadata();
    let pairs = metadata.key_value_metadata().unwrap();
    assert!(
        pairs
            .iter()
            .any(|pair| { pair.key == "floe.commit-id" && pair.value.as_deref() == Some("abc") })
    );
    let ids: Vec<i32> = metadata
        .schema_descr()
        .columns()
        .iter()
        .map(|column| column.self_type().get_basic_info().id())
        .collect();
    assert_eq!(ids, [4, 5, 2, 3]);
    let chunk = reader.metadata().row_group(0).column(1);
    assert!(matches!(chunk.compression(), parquet::basic::Compression::ZSTD(_)));
    assert_eq!(reader.build().unwrap().next().unwrap().unwrap().num_rows(), 1);
}

#[tokio::test]
async fn a_batch_that_does_not_fit_is_refused_and_leaves_no_file() {
    let table = TestTable::new(FormatVersion::V2).await;
    let name = format!("{}/data/x.parquet", table.metadata.location());
    let output = table.file_io.new_output(&name).unwrap();
    let schema = table.metadata.current_schema();
    let mut sink = ParquetSink::create(&output, schema, &SinkOptions::default()).await.unwrap();
    let bad = RecordBatch::try_from_iter([("a", Arc::new(UInt64Array::from(vec![1])) as ArrayRef)]);
    assert!(matches!(sink.write(bad.unwrap()).await, Err(Error::Encode(_))));
    assert!(sink.write(table.rows(0, &["a"])).await.is_err(), "the sink has ended");
    drop(sink);
    for _ in 0..30_000 {
        if table.files("data").is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("left: {:?}", table.files("data"));
}

#[tokio::test]
async fn an_existing_data_file_is_never_overwritten() {
    let table = TestTable::new(FormatVersion::V2).await;
    let added = table.one_file(0, &["a"]).await;
    let output = table.file_io.new_output(added.file.file_path()).unwrap();
    let schema = table.metadata.current_schema();
    let result = ParquetSink::create(&output, schema, &SinkOptions::default()).await;
    assert!(matches!(result, Err(Error::Exists(_))));
}

#[tokio::test]
async fn memory_stays_near_one_row_group() {
    let table = TestTable::new(FormatVersion::V2).await;
    let options = SinkOptions { row_group_bytes: 1 << 20, ..SinkOptions::default() };
    let name = format!("{}/data/x.parquet", table.metadata.location());
    let output = table.file_io.new_output(&name).unwrap();
    let schema = table.metadata.current_schema();
    let mut sink = ParquetSink::create(&output, schema, &options).await.unwrap();
    let mut most = 0;
    for base in 0..40 {
        let names: Vec<String> =
            (0..1000).map(|_| format!("{}{}", Uuid::new_v4(), Uuid::new_v4())).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        sink.write(table.rows(base * 1000, &names)).await.unwrap();
        most = most.max(sink.memory_bytes());
    }
    assert_eq!(sink.rows(), 40_000);
    assert!(most < 8 << 20, "{most} bytes");
    let file = sink.finish(FilePartition::unpartitioned(0)).await.unwrap().file;
    assert!(file.split_offsets().unwrap().len() > 2);
    assert!(file.file_size_in_bytes() > 3 << 20);
}

#[test]
fn binary_types_of_arrow_are_those_of_the_schema() {
    // `BinaryArray` is not what iceberg's schema asks for; the sink must say so, not write it.
    let schema = Schema::builder()
        .with_fields(vec![
            NestedField::optional(1, "b", Type::Primitive(PrimitiveType::Binary)).into(),
        ])
        .build()
        .unwrap();
    let mut encoder = Encoder::new(&Arc::new(schema), &SinkOptions::default()).unwrap();
    let column: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"x"]));
    let batch = RecordBatch::try_from_iter([("b", column)]).unwrap();
    assert!(matches!(encoder.encode(batch), Err(Error::Encode(_))));
    let nulls = new_null_array(&DataType::LargeBinary, 3);
    let batch = RecordBatch::try_from_iter([("b", nulls)]).unwrap();
    encoder.encode(batch).unwrap();
    assert_eq!(encoder.finish().unwrap().rows, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The bounds of any strings, over any row groups, hold for each of them.
    #[test]
    fn bounds_hold_for_all_strings(
        texts in proptest::collection::vec(proptest::option::of("\\PC{0,90}"), 1..40),
        group in 1_usize..8,
    ) {
        let schema = Schema::builder()
            .with_fields(vec![
                NestedField::optional(1, "s", Type::Primitive(PrimitiveType::String)).into(),
            ])
            .build()
            .unwrap();
        let mut encoder = Encoder::new(&Arc::new(schema), &two_groups(group)).unwrap();
        let column: ArrayRef = Arc::new(StringArray::from(texts.clone()));
        encoder.encode(RecordBatch::try_from_iter([("s", column)]).unwrap()).unwrap();
        let metrics = encoder.finish().unwrap().metrics;
        let nulls = texts.iter().filter(|text| text.is_none()).count() as u64;
        prop_assert_eq!(metrics.null_value_counts[&1], nulls);
        for text in texts.iter().flatten() {
            let value = Datum::string(text);
            prop_assert!(metrics.lower_bounds[&1] <= value);
            if let Some(upper) = metrics.upper_bounds.get(&1) {
                prop_assert!(value <= *upper);
            }
        }
    }
}
