//! The same records as protobuf and as JSON, and what they flatten to.

use serde_json::Value as Json;

use super::*;
use crate::http::otlp::model::{AnyValue, KeyValue, Resource, Scope, SpanEvent, SpanLink};
use crate::http::otlp::model::{SpanStatus, Value};
use crate::http::otlp::points::{Buckets, Exemplar, Quantile};

const LIMITS: Limits = Limits { events_max: 100, bytes_max: 1 << 20 };

/// A member whose value is a message.
fn inner(tag: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag << 3 | 2];
    prost::encoding::encode_varint(message.len() as u64, &mut bytes);
    bytes.extend_from_slice(message);
    bytes
}

fn any(value: Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: any(Value::Text(value.to_owned())) }
}

/// A request of one resource and scope around `records`.
fn request(records: &[Vec<u8>]) -> Bytes {
    let resource = Resource { attributes: vec![text("service.name", "shop")] };
    let scope = Scope { name: "lib".to_owned(), version: "1".to_owned(), ..Scope::default() };
    let records: Vec<u8> = records.iter().flat_map(|record| inner(2, record)).collect();
    let group = [inner(1, &scope.encode_to_vec()), records].concat();
    let group = [inner(1, &resource.encode_to_vec()), inner(2, &group)].concat();
    inner(1, &group).into()
}

/// The flat records of a request, or why one is refused.
fn flat(body: impl Into<Bytes>, encoding: Encoding, signal: Signal) -> Vec<Result<String, String>> {
    let records = Records::new(body.into(), encoding, signal, LIMITS).unwrap();
    let mut found = Vec::new();
    records.visit(&mut |event| {
        found.push(match event {
            Ok(event) => Ok(String::from_utf8(event.value.unwrap().to_vec()).unwrap()),
            Err(error) => {
                assert!(!records.raw(&error).is_empty());
                Err(format!("{}: {}", error.code, error.message))
            }
        });
    });
    found
}

fn one(body: impl Into<Bytes>, encoding: Encoding, signal: Signal) -> String {
    let mut found = flat(body, encoding, signal);
    assert_eq!(found.len(), 1);
    let text = found.remove(0).unwrap();
    assert!(serde_json::from_str::<Json>(&text).is_ok(), "{text}");
    text
}

const TAIL: &str = r#""resource":{"service.name":"shop"},"scope":{"name":"lib","version":"1"}"#;

#[test]
fn a_log_record_is_the_same_in_both_encodings() {
    let record = LogRecord {
        time_unix_nano: 1_700_000_000_000_000_001,
        observed_time_unix_nano: 1_700_000_001_000_000_000,
        severity_number: 9,
        severity_text: "INFO".to_owned(),
        body: any(Value::Text("hello".to_owned())),
        attributes: vec![text("http.method", "GET")],
        dropped_attributes_count: 2,
        flags: 1,
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        event_name: "login".to_owned(),
    };
    let (trace, span) = ("ab".repeat(16), "cd".repeat(8));
    let wanted = format!(
        "{{\"timestamp\":\"2023-11-14T22:13:20.000000001Z\",\
         \"observed_timestamp\":\"2023-11-14T22:13:21.000000000Z\",\"severity_number\":9,\
         \"severity_text\":\"INFO\",\"event_name\":\"login\",\"body\":\"hello\",\
         \"attributes\":{{\"http.method\":\"GET\"}},\"dropped_attributes_count\":2,\"flags\":1,\
         \"trace_id\":\"{trace}\",\"span_id\":\"{span}\",{TAIL}}}"
    );
    let protobuf = request(&[record.encode_to_vec()]);
    assert_eq!(one(protobuf, Encoding::Protobuf, Signal::Logs), wanted);
    let json = format!(
        r#"{{"resourceLogs": [{{"resource": {{"attributes": [{{"key": "service.name", "value": {{"stringValue": "shop"}}}}]}},
        "scopeLogs": [{{"logRecords": [{{"timeUnixNano": "1700000000000000001", "observedTimeUnixNano": 1700000001000000000,
        "severityNumber": 9, "severityText": "INFO", "body": {{"stringValue": "hello"}}, "eventName": "login",
        "attributes": [{{"key": "http.method", "value": {{"stringValue": "GET"}}}}], "droppedAttributesCount": 2, "flags": 1,
        "traceId": "{}", "spanId": "{span}", "unknown": [{{}}]}}],
        "scope": {{"name": "lib", "version": "1"}}, "schemaUrl": "s"}}]}}], "later": {{}}}}"#,
        trace.to_uppercase()
    );
    assert_eq!(one(json, Encoding::Json, Signal::Logs), wanted);
}

#[test]
fn a_span_keeps_its_events_links_and_status() {
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![3; 8],
        trace_state: "a=b".to_owned(),
        name: "GET /".to_owned(),
        kind: 2,
        start_time_unix_nano: 1,
        end_time_unix_nano: 2,
        events: vec![SpanEvent { time_unix_nano: 1, name: "e".to_owned(), ..SpanEvent::default() }],
        links: vec![SpanLink { trace_id: vec![4; 16], span_id: vec![5; 8], ..SpanLink::default() }],
        status: Some(SpanStatus { message: "no".to_owned(), code: 2 }),
        ..Span::default()
    };
    let (trace, id, parent) = ("01".repeat(16), "02".repeat(8), "03".repeat(8));
    let (linked, link) = ("04".repeat(16), "05".repeat(8));
    let wanted = format!(
        "{{\"timestamp\":\"1970-01-01T00:00:00.000000001Z\",\
         \"end_timestamp\":\"1970-01-01T00:00:00.000000002Z\",\"trace_id\":\"{trace}\",\
         \"span_id\":\"{id}\",\"parent_span_id\":\"{parent}\",\"trace_state\":\"a=b\",\
         \"name\":\"GET /\",\"kind\":\"SERVER\",\"status_code\":\"ERROR\",\"status_message\":\"no\",\
         \"events\":[{{\"timestamp\":\"1970-01-01T00:00:00.000000001Z\",\"name\":\"e\"}}],\
         \"links\":[{{\"trace_id\":\"{linked}\",\"span_id\":\"{link}\"}}],{TAIL}}}"
    );
    let protobuf = request(&[span.encode_to_vec()]);
    assert_eq!(one(protobuf, Encoding::Protobuf, Signal::Traces), wanted);
    let bare = one(request(&[Vec::new()]), Encoding::Protobuf, Signal::Traces);
    let wanted = format!("{{\"kind\":\"UNSPECIFIED\",\"status_code\":\"UNSET\",{TAIL}}}");
    assert_eq!(bare, wanted);
    let later = Span { kind: 77, ..Span::default() };
    let later = one(request(&[later.encode_to_vec()]), Encoding::Protobuf, Signal::Traces);
    assert!(later.contains("\"kind\":\"77\""), "{later}");
}

/// A metric with points of a type, `more` being what is beside them.
fn metric(tag: u8, points: &[Vec<u8>], more: &[u8]) -> Vec<u8> {
    let head = Metric { name: "m".to_owned(), description: String::new(), unit: "s".to_owned() };
    let points: Vec<u8> = points.iter().flat_map(|point| inner(1, point)).collect();
    [head.encode_to_vec(), inner(tag, &[&points[..], more].concat())].concat()
}

fn points(metric: Vec<u8>) -> Vec<Json> {
    let found = flat(request(&[metric]), Encoding::Protobuf, Signal::Metrics);
    found.into_iter().map(|text| serde_json::from_str(&text.unwrap()).unwrap()).collect()
}

#[test]
fn each_point_has_what_its_metric_says() {
    let point = |as_double, as_int| {
        let exemplars = vec![Exemplar { as_int: Some(1), ..Exemplar::default() }];
        let time_unix_nano = 1;
        NumberPoint { time_unix_nano, as_double, as_int, exemplars, ..NumberPoint::default() }
            .encode_to_vec()
    };
    let exact = (1_i64 << 53) + 1;
    let numbers = [point(Some(1.5), None), point(None, Some(3)), point(None, Some(exact))];
    // aggregation_temporality = 2, is_monotonic = true
    let found = points(metric(7, &numbers, &[0x10, 2, 0x18, 1]));
    assert_eq!(found.len(), 3);
    for point in &found {
        assert_eq!(point["metric_name"], "m");
        assert_eq!((&point["metric_unit"], &point["metric_type"]), (&"s".into(), &"sum".into()));
        assert_eq!(point["aggregation_temporality"], "CUMULATIVE");
        assert_eq!(point["is_monotonic"], true);
        assert_eq!(point["timestamp"], "1970-01-01T00:00:00.000000001Z");
        assert_eq!(point["exemplars"][0]["value"], 1.0);
        assert_eq!(point["resource"]["service.name"], "shop");
        assert_eq!(point.get("metric_description"), None);
    }
    let values: Vec<&Json> = found.iter().map(|point| &point["value"]).collect();
    assert_eq!(values, [1.5, 3.0, (1_u64 << 53) as f64], "a column of doubles");
    assert_eq!(found[2]["value_int"], exact, "and what they do not hold");
    assert_eq!(found[1].get("value_int"), None);
    let gauge = points(metric(5, &numbers[..1], &[]));
    assert_eq!(gauge[0]["metric_type"], "gauge");
    assert_eq!(gauge[0].get("is_monotonic"), None);
    assert!(points(metric(5, &[], &[])).is_empty(), "a metric without points");
}

#[test]
fn distributions_keep_their_parts() {
    let histogram = HistogramPoint {
        count: 3,
        sum: Some(6.0),
        min: Some(1.0),
        bucket_counts: vec![1, 2],
        explicit_bounds: vec![2.5],
        ..HistogramPoint::default()
    };
    let found = &points(metric(9, &[histogram.encode_to_vec()], &[0x10, 1]))[0];
    assert_eq!(
        (&found["count"], &found["sum"], &found["min"]),
        (&3.into(), &6.0.into(), &1.0.into())
    );
    assert_eq!(found.get("max"), None, "it was not measured");
    assert_eq!(found["bucket_counts"], serde_json::json!([1, 2]));
    assert_eq!(found["explicit_bounds"], serde_json::json!([2.5]));
    assert_eq!(found["aggregation_temporality"], "DELTA");
    let exponential = ExponentialPoint {
        count: 4,
        scale: -2,
        zero_count: 1,
        positive: Some(Buckets { offset: -3, bucket_counts: vec![3] }),
        ..ExponentialPoint::default()
    };
    let found = &points(metric(10, &[exponential.encode_to_vec()], &[0x10, 2]))[0];
    assert_eq!(found["metric_type"], "exponential_histogram");
    assert_eq!((&found["scale"], &found["zero_count"]), (&(-2).into(), &1.into()));
    assert_eq!(found["positive"], serde_json::json!({"offset": -3, "bucket_counts": [3]}));
    assert_eq!(found.get("negative"), None);
    let quantile_values = vec![Quantile { quantile: 0.5, value: 7.0 }];
    let summary = SummaryPoint { count: 1, sum: 7.0, quantile_values, ..SummaryPoint::default() };
    let found = &points(metric(11, &[summary.encode_to_vec()], &[]))[0];
    assert_eq!(found["quantile_values"], serde_json::json!([{"quantile": 0.5, "value": 7.0}]));
    let json = r#"{"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "m", "exponentialHistogram":
        {"aggregationTemporality": 2, "dataPoints": [{"count": "4", "scale": -2, "positive": {"bucketCounts": ["3"]}}]}}]}]}]}"#;
    let found: Json = serde_json::from_str(&one(json, Encoding::Json, Signal::Metrics)).unwrap();
    assert_eq!(found["positive"]["bucket_counts"], serde_json::json!([3]));
    assert_eq!((found.get("resource"), found.get("scope")), (None, None));
}

#[test]
fn a_record_that_cannot_be_decoded_is_refused_alone() {
    let good = LogRecord { severity_number: 1, ..LogRecord::default() }.encode_to_vec();
    let large = vec![0x1a; MESSAGE_BYTES_MAX + 1];
    // Text that is not UTF-8.
    let bad = inner(3, b"\xff");
    let body = request(&[good.clone(), bad, large, good]);
    let limits = Limits { bytes_max: 4 << 20, ..LIMITS };
    let records = Records::new(body, Encoding::Protobuf, Signal::Logs, limits).unwrap();
    let mut codes = Vec::new();
    records.visit(&mut |event| codes.push(event.map(|event| event.index).map_err(|it| it.code)));
    assert_eq!(codes, [Ok(0), Err("invalid_otlp"), Err("too_large"), Ok(3)]);
    let json = r#"{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "x"}, 7, {"flags": 1}]}]}]}"#;
    let found = flat(json, Encoding::Json, Signal::Logs);
    let refused: Vec<bool> = found.iter().map(Result::is_err).collect();
    assert_eq!(refused, [true, true, false]);
}

#[test]
fn a_request_without_records_is_empty_and_others_keep_to_the_limits() {
    let new = |body: Bytes, encoding, limits| {
        let found = Records::new(body, encoding, Signal::Logs, limits);
        found.map(|records| records.records.len()).map_err(|problem| problem.code())
    };
    for (body, encoding) in [
        (&b""[..], Encoding::Protobuf),
        (b"{}", Encoding::Json),
        (b"{\"resourceLogs\": null}", Encoding::Json),
        (b"{\"resourceLogs\": [{}]}", Encoding::Json),
        (b"{\"resourceLogs\": [{\"scopeLogs\": [{\"scope\": {}}]}]}", Encoding::Json),
    ] {
        assert_eq!(new(Bytes::from_static(body), encoding, LIMITS), Ok(0), "{body:?}");
    }
    let many = |count: usize| request(&vec![Vec::new(); count]);
    let limits = Limits { events_max: 3, ..LIMITS };
    assert_eq!(new(many(3), Encoding::Protobuf, limits), Ok(3));
    assert_eq!(new(many(4), Encoding::Protobuf, limits), Err("too_large"));
    // Groups count as well.
    let groups = inner(1, b"").repeat(4);
    assert_eq!(new(groups.into(), Encoding::Protobuf, limits), Err("too_large"));
    // A resource of 38 bytes is in each record.
    let shared = request(&vec![Vec::new(); 90]);
    let limits = Limits { bytes_max: 1_000, ..LIMITS };
    assert!(shared.len() < 1_000);
    assert_eq!(new(shared, Encoding::Protobuf, limits), Err("too_large"));
    for (body, encoding) in [
        (&b"\x0a\x05"[..], Encoding::Protobuf),
        (b"\x0a\x02\x0a\x02", Encoding::Protobuf),
        (b"", Encoding::Json),
        (b"{\"resourceLogs\": [{\"resource\": {\"attributes\": 1}}]}", Encoding::Json),
    ] {
        let found = new(Bytes::from_static(body), encoding, LIMITS);
        assert_eq!(found, Err("bad_request"), "{body:?}");
    }
}
