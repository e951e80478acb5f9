//! Record batches in, rows and dead letters out.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use bytes::Bytes;
use iceberg::spec::PartitionSpec;
use iceberg::spec::Schema;

use crate::log::Origin;
use crate::record::BatchBuilder;
use crate::record::Codec;
use crate::record::NewRecord;
use crate::schema::columns;
use crate::tier::apart::HEADERS_MAX;
use crate::tier::rows::HEADER_SIGNAL;

use super::*;

fn stored(base_offset: Offset, values: &[Option<&[u8]>]) -> StoredBatch {
    let mut builder = BatchBuilder::new();
    for value in values {
        let record = NewRecord { key: Some(b"k"), value: *value, headers: &[], timestamp: 5 };
        builder.push(&record).unwrap();
    }
    let mut bytes = builder.build(Codec::None).unwrap().to_vec();
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
    StoredBatch {
        base_offset,
        end_offset: base_offset + values.len() as i64,
        append_ms: 9,
        origin: Origin::Kafka,
        bytes: Bytes::from(bytes),
    }
}

fn target(schema: Schema) -> Target {
    Target::new(Arc::new(schema), Arc::new(PartitionSpec::unpartition_spec())).unwrap()
}

fn job(schema: Schema, mode: columns::Mode) -> Job {
    let options = columns::Options { mode, system: vec!["floe".to_owned()], ..Default::default() };
    let plan = Plan::new(&schema, options).unwrap();
    Job {
        partition: 0,
        from: 0,
        until: i64::MAX,
        values: Values::Json(Arc::new(plan)),
        signals: BTreeSet::new(),
        target: target(schema),
        dead_letters: Some(target(dlq::schema().unwrap())),
        kept: None,
        poison: Offsets::default(),
        trial: None,
        inspect: None,
        target_name: "streams.orders".to_owned(),
        now_ms: 1,
    }
}

/// A job whose schema has the columns that `batches` need.
fn evolved(mode: columns::Mode, batches: &[StoredBatch]) -> Job {
    let mut schema = json::schema().unwrap();
    for _ in 0..3 {
        let output = encode(&job(schema.clone(), mode), batches).unwrap();
        if output.proposed.is_empty() {
            break;
        }
        let last = schema.highest_field_id();
        schema = crate::schema::evolve::apply(&schema, last, &output.proposed).unwrap();
    }
    job(schema, mode)
}

fn offsets(output: &Output) -> Vec<i64> {
    let of = |batch: &RecordBatch| {
        let floe = batch.column_by_name("floe").unwrap().as_struct().clone();
        let offsets = floe.column_by_name("offset").unwrap().clone();
        offsets.as_primitive::<Int64Type>().values().to_vec()
    };
    output.rows.iter().flat_map(|(_, batch)| of(batch)).collect()
}

#[test]
fn records_of_other_signals_are_neither_rows_nor_dead_letters() {
    let signals = ["logs", "traces", "metrics"];
    let mut builder = BatchBuilder::new();
    for signal in signals.map(Some).into_iter().chain([None]) {
        let header = signal.map(|signal| (HEADER_SIGNAL, Some(signal.as_bytes())));
        let headers: Vec<_> = header.into_iter().collect();
        let value = Some(&b"1"[..]);
        builder.push(&NewRecord { key: None, value, headers: &headers, timestamp: 5 }).unwrap();
    }
    let bytes = Bytes::from(builder.build(Codec::None).unwrap().to_vec());
    let of = |origin| StoredBatch { origin, bytes: bytes.clone(), ..stored(0, &[None; 4]) };
    let taken = |origin, signals: &[Signal]| {
        let signals = signals.iter().copied().collect();
        let job = Job { signals, ..evolved(columns::Mode::Auto, &[of(origin)]) };
        let output = encode(&job, &[of(origin)]).unwrap();
        assert!(output.letters.is_none() && output.taken == 1);
        offsets(&output)
    };
    assert_eq!(taken(Origin::Http, &[Signal::Traces]), [1, 3], "and what has no signal");
    assert_eq!(taken(Origin::Http, &[Signal::Logs, Signal::Metrics]), [0, 2, 3]);
    assert_eq!(taken(Origin::Http, &[]), [0, 1, 2, 3]);
    // A Kafka producer may set any header: to it this one says nothing.
    assert_eq!(taken(Origin::Kafka, &[Signal::Traces]), [0, 1, 2, 3]);
}

#[test]
fn rows_begin_and_end_where_the_range_does() {
    let values: Vec<Option<&[u8]>> = vec![Some(br#"{"a":1}"#); 5];
    let batches = [stored(10, &values), stored(15, &values)];
    let job = Job { from: 12, until: 18, ..evolved(columns::Mode::Auto, &batches) };
    let output = encode(&job, &batches).unwrap();
    assert_eq!((output.taken, output.stats.rows), (2, 6));
    assert_eq!(offsets(&output), [12, 13, 14, 15, 16, 17]);
    assert_eq!(output.stats.oldest_append_ms, Some(9));
}

#[test]
fn what_is_no_object_is_a_dead_letter_only_in_mode_json() {
    let values: Vec<Option<&[u8]>> = vec![Some(br#"{"a":1}"#), Some(b"hello"), None];
    let batches = [stored(0, &values)];
    let auto = encode(&evolved(columns::Mode::Auto, &batches), &batches).unwrap();
    assert_eq!((auto.stats.rows, offsets(&auto)), (3, vec![0, 1, 2]));
    let json = encode(&evolved(columns::Mode::Json, &batches), &batches).unwrap();
    assert_eq!(offsets(&json), [0, 2]);
    assert_eq!(json.letters.unwrap().num_rows(), 1);
    assert_eq!(json.stats.dlq_ranges, [Range { partition: 0, base: 1, end: 2 }]);
}

#[test]
fn a_panic_costs_only_its_record() {
    let values: Vec<Option<&[u8]>> = (0..100)
        .map(|n| if n % 40 == 7 { Some(&b"{\"a\":666}"[..]) } else { Some(&b"{\"a\":1}"[..]) })
        .collect();
    let batches = [stored(0, &values)];
    let inspect: json::Inspect =
        Arc::new(|value| assert!(!value.windows(3).any(|part| part == b"666"), "poison"));
    let job = Job { inspect: Some(inspect), ..evolved(columns::Mode::Auto, &batches) };
    let output = encode(&job, &batches).unwrap();
    assert_eq!(output.stats.rows, 97);
    assert_eq!(output.stats.dlq_codes["INTERNAL"], 3);
    let bad: Vec<_> = output.stats.dlq_ranges.iter().map(|range| range.base).collect();
    assert_eq!(bad, [7, 47, 87]);
}

#[test]
fn a_batch_that_cannot_be_read_is_one_dead_letter_and_the_rest_goes_on() {
    let values: Vec<Option<&[u8]>> = vec![Some(br#"{"a":1}"#); 2];
    let mut broken = stored(2, &values);
    let mut bytes = broken.bytes.to_vec();
    let last = bytes.len() - 1;
    bytes.truncate(last);
    broken.bytes = Bytes::from(bytes.clone());
    let batches = [stored(0, &values), broken, stored(4, &values)];
    let output = encode(&evolved(columns::Mode::Auto, &batches[..1]), &batches).unwrap();
    assert_eq!(offsets(&output), [0, 1, 4, 5]);
    let letters = output.letters.unwrap();
    assert_eq!(letters.num_rows(), 1);
    let value = letters.column_by_name("value").unwrap().as_binary::<i64>().value(0).to_vec();
    assert_eq!(value, bytes);
    let code = letters.column_by_name("error_code").unwrap().as_string::<i32>();
    assert_eq!(code.value(0), "DECODE");
}

#[test]
fn a_later_attempt_keeps_the_split() {
    let values: Vec<Option<&[u8]>> = vec![Some(br#"{"a":1}"#), Some(b"[1"), Some(br#"{"a":2}"#)];
    let batches = [stored(0, &values)];
    // Offset 0 went to the dead-letter table before, offset 1 did not, whatever it is now.
    let kept = Offsets::new(vec![Range { partition: 0, base: 0, end: 1 }]);
    let schema_of = [stored(0, &values[..1])];
    let mut job = Job { kept: Some(kept), ..evolved(columns::Mode::Json, &schema_of) };
    for _ in 0..3 {
        let output = encode(&job, &batches).unwrap();
        if output.proposed.is_empty() {
            assert_eq!(offsets(&output), [1, 2]);
            assert_eq!(output.letters.unwrap().num_rows(), 1);
            return;
        }
        let schema = &job.target.schema;
        let last = schema.highest_field_id();
        let next = crate::schema::evolve::apply(schema, last, &output.proposed).unwrap();
        let kept = job.kept.take();
        job = Job { kept, ..super::tests::job(next, columns::Mode::Json) };
    }
    panic!("the schema never settles");
}

#[test]
fn without_a_dead_letter_table_one_is_asked_for() {
    let batches = [stored(0, &[Some(b"hello")])];
    let mut job = evolved(columns::Mode::Json, &batches);
    job.dead_letters = None;
    assert!(encode(&job, &batches).unwrap().needs_dead_letters);
}

/// Rows whose `a` is 666 take the Parquet encoder down.
fn planted() -> SinkOptions {
    let inspect = |batch: &RecordBatch| {
        if let Some(column) = batch.column_by_name("a") {
            let values = column.as_primitive::<Int64Type>();
            assert!(!values.values().contains(&666), "planted");
        }
    };
    SinkOptions { inspect: Some(sink::Inspect(Arc::new(inspect))), ..SinkOptions::default() }
}

#[test]
fn a_row_that_the_file_does_not_take_is_found_and_is_the_only_dead_letter() {
    let values: Vec<Option<&[u8]>> = (0..50)
        .map(|n| if n % 20 == 3 { Some(&b"{\"a\":666}"[..]) } else { Some(&b"{\"a\":1}"[..]) })
        .collect();
    let batches = [stored(0, &values), stored(50, &values), stored(100, &values[..3])];
    let mut job = Job { trial: Some(planted()), ..evolved(columns::Mode::Auto, &batches) };
    assert!(matches!(encode(&job, &batches), Err(Failed::Poison(_))));
    let found = crate::tier::poison::find(&job, &batches);
    let bases: Vec<_> = found.iter().map(|range| (range.base, range.end)).collect();
    assert_eq!(bases, [3, 23, 43, 53, 73, 93].map(|base| (base, base + 1)));
    job.poison = Offsets::new(found);
    let output = encode(&job, &batches).unwrap();
    assert_eq!((output.taken, output.stats.rows), (3, 97));
    assert_eq!(output.stats.dlq_codes["INTERNAL"], 6);
    assert_eq!(output.letters.unwrap().num_rows(), 6);
}

#[test]
fn rows_that_fail_only_in_company_all_become_dead_letters() {
    let batches = [stored(0, &[Some(&b"{\"a\":1}"[..]); 8])];
    let many = |batch: &RecordBatch| {
        assert!(batch.column_by_name("a").is_none() || batch.num_rows() < 3, "planted");
    };
    let options =
        SinkOptions { inspect: Some(sink::Inspect(Arc::new(many))), ..SinkOptions::default() };
    let job = Job { trial: Some(options), ..evolved(columns::Mode::Auto, &batches) };
    let found = crate::tier::poison::find(&job, &batches);
    let bases: Vec<_> = found.iter().map(|range| (range.base, range.end)).collect();
    assert_eq!(bases, [(0, 4), (4, 8)]);
}

#[test]
fn poison_of_a_raw_table_keeps_its_bytes() {
    let batches = [stored(0, &[Some(b"x"), Some(b"\xff"), None])];
    let mut job = job(raw::schema().unwrap(), columns::Mode::Auto);
    job.values = Values::Raw;
    job.poison = Offsets::new(vec![Range { partition: 0, base: 1, end: 2 }]);
    let output = encode(&job, &batches).unwrap();
    assert_eq!((offsets(&output), output.stats.rows), (vec![0, 2], 2));
    let letters = output.letters.unwrap();
    let value = letters.column_by_name("value").unwrap().as_binary::<i64>();
    assert_eq!((letters.num_rows(), value.value(0)), (1, &b"\xff"[..]));
}

#[test]
fn raw_rows_keep_bytes_and_nulls() {
    let batches = [stored(0, &[Some(b"\xff\x00"), None])];
    let mut job = job(raw::schema().unwrap(), columns::Mode::Auto);
    job.values = Values::Raw;
    let output = encode(&job, &batches).unwrap();
    let (_, batch) = &output.rows[0];
    let values = batch.column_by_name("value").unwrap().as_binary::<i64>();
    assert_eq!((values.value(0), values.is_null(1)), (&b"\xff\x00"[..], true));
}

fn raw_job() -> Job {
    let schema = raw::schema().unwrap();
    Job {
        values: Values::Raw,
        target: target(schema),
        ..job(json::schema().unwrap(), columns::Mode::Auto)
    }
}

#[test]
fn a_batch_of_very_many_records_is_taken_in_parts() {
    let many = vec![Some(b"v".as_slice()); ROWS_MAX + 10];
    let batches = [stored(5, &many), stored(5 + many.len() as i64, &[Some(b"v")])];
    let mut job = raw_job();
    let first = encode(&job, &batches).unwrap();
    let cut = 5 + ROWS_MAX as i64;
    assert_eq!((first.taken, first.cut, first.stats.rows), (1, Some(cut), ROWS_MAX as u64));
    job.from = cut;
    let rest = encode(&job, &batches).unwrap();
    assert_eq!((rest.taken, rest.cut), (2, None));
    assert_eq!(offsets(&rest), (cut..cut + 11).collect::<Vec<_>>());
}

/// A batch of one record whose body decompresses to `zeros` bytes more.
fn bomb(base_offset: Offset, zeros: usize) -> StoredBatch {
    let plain = stored(base_offset, &[Some(b"v")]);
    let (header, body) = plain.bytes.split_at(61);
    let body = [body, &vec![0; zeros]].concat();
    let mut bytes = header.to_vec();
    crate::record::codec::compress(Codec::Zstd, &body, &mut bytes).unwrap();
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] |= 4;
    StoredBatch { bytes: Bytes::from(bytes), ..plain }
}

#[test]
fn bytes_of_a_batch_that_are_no_rows_fill_a_group_as_well() {
    let batches: Vec<_> = (0..6).map(|offset| bomb(offset, GROUP_BYTES_MAX / 2)).collect();
    let output = encode(&raw_job(), &batches).unwrap();
    assert_eq!((output.taken, output.stats.rows, output.cut), (2, 2, None));
}

/// A batch of records with so many empty headers each.
fn with_headers(counts: &[usize]) -> StoredBatch {
    let mut builder = BatchBuilder::new();
    for count in counts {
        let headers: Vec<(&[u8], Option<&[u8]>)> = vec![(b"", None); *count];
        let value = Some(&b"{\"a\":1}"[..]);
        builder.push(&NewRecord { key: None, value, headers: &headers, timestamp: 5 }).unwrap();
    }
    let bytes = Bytes::from(builder.build(Codec::None).unwrap().to_vec());
    StoredBatch { bytes, ..stored(0, &vec![None; counts.len()]) }
}

#[test]
fn a_record_of_very_many_headers_is_a_dead_letter_without_them() {
    let batches = [with_headers(&[1, HEADERS_MAX + 1, 2])];
    let output = encode(&evolved(columns::Mode::Auto, &batches), &batches).unwrap();
    assert_eq!((offsets(&output), output.taken, output.cut), (vec![0, 2], 1, None));
    assert_eq!(output.stats.dlq_ranges, [Range { partition: 0, base: 1, end: 2 }]);
    let letters = output.letters.unwrap();
    let message = letters.column_by_name("error_message").unwrap().as_string::<i32>().value(0);
    assert!(message.contains(&format!("{} headers", HEADERS_MAX + 1)), "{message}");
    let floe = letters.column_by_name("floe").unwrap().as_struct();
    assert!(floe.column_by_name("headers").unwrap().is_null(0));
}

#[test]
fn a_group_ends_where_its_headers_are_many() {
    let some = HEADERS_MAX / 2;
    let next = StoredBatch { base_offset: 5, end_offset: 6, ..with_headers(&[1]) };
    let batches = [with_headers(&[some, some, some, HEADERS_MAX + 1, 1]), next];
    let job = evolved(columns::Mode::Auto, &batches);
    let first = encode(&job, &batches).unwrap();
    assert_eq!((offsets(&first), first.taken, first.cut), (vec![0, 1], 1, Some(2)));
    let rest = encode(&Job { from: 2, ..job.clone() }, &batches[..1]).unwrap();
    assert_eq!((offsets(&rest), rest.cut), (vec![2, 4], None));
    // Small batches of many headers count as what they take.
    let many = vec![with_headers(&[HEADERS_MAX]); 4];
    let output = encode(&job, &many).unwrap();
    assert!(output.taken < 4, "{}", output.taken);
}
