//! CloudEvents on the native route: raw requests of all three modes, read as Kafka's clients find
//! them.

use protocol_tests::Floe;
use protocol_tests::clients::create;
use serde_json::json;

use super::{consumed, header, post, text, told};

const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");
const BATCHED: (&str, &str) = ("content-type", "application/cloudevents-batch+json");
const ROUTE: &str = "/api/v1/topics/t/events";

fn event(id: &str, more: &str) -> String {
    format!(r#"{{"specversion": "1.0", "type": "made", "source": "/shop", "id": "{id}"{more}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_modes_are_stored_as_cloudevents_are_in_kafka() {
    let floe = Floe::start(&[]).await;
    create(&floe, "t", 1, &[]).await;
    let one = event("1", r#", "partitionkey": "k", "n": 5, "data": {"b" : 1.10}"#);
    assert_eq!(told(post(&floe, ROUTE, &[STRUCTURED], one).await).await.0, 200);
    let text_data = event("2", r#", "datacontenttype": "text/plain", "data": "hi""#);
    let two = format!("[{text_data}, {}]", event("3", r#", "data_base64": "AAH/""#));
    let (status, answer) = told(post(&floe, ROUTE, &[BATCHED], two).await).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(2)));
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-type", "made"),
        ("ce-source", "/shop"),
        ("ce-id", "4"),
        ("ce-note", "\"Euro%20%E2%82%AC\""),
        ("content-type", "application/xml"),
    ];
    assert_eq!(told(post(&floe, ROUTE, &attributes, "<a/>").await).await.0, 200);
    let found = consumed(&floe, "t", 1);
    let values: Vec<_> = found.iter().map(|record| record.value.as_deref().unwrap()).collect();
    assert_eq!(values, [&b"{\"b\" : 1.10}"[..], b"hi", &[0, 1, 255], b"<a/>"]);
    assert_eq!(text(found[0].key.as_ref()), Some("k"));
    assert_eq!(found[1].key, None);
    for (at, id) in ["1", "2", "3", "4"].into_iter().enumerate() {
        let record = &found[at];
        assert_eq!(header(record, "ce_id"), Some(id));
        assert_eq!(header(record, "ce_specversion"), Some("1.0"));
        assert_eq!(header(record, "ce_source"), Some("/shop"));
        assert_eq!(header(record, "ce_type"), Some("made"));
    }
    let kinds: Vec<_> = found.iter().map(|record| header(record, "content-type")).collect();
    let wanted = [Some("application/json"), Some("text/plain"), None, Some("application/xml")];
    assert_eq!(kinds, wanted);
    assert_eq!(
        (header(&found[0], "ce_n"), header(&found[3], "ce_note")),
        (Some("5"), Some("Euro \u{20ac}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_stored_once_by_source_and_id() {
    let floe = Floe::start(&[]).await;
    create(&floe, "t", 2, &[]).await;
    let one = event("1", r#", "data": 1"#);
    told(post(&floe, ROUTE, &[STRUCTURED], one.clone()).await).await;
    // Again, whatever the mode.
    let both = format!("[{one}, {}]", event("2", r#", "data": 2"#));
    let (status, answer) = told(post(&floe, ROUTE, &[BATCHED], both).await).await;
    assert_eq!((status, &answer["accepted"], &answer["duplicates"]), (200, &json!(1), &json!(1)));
    // Another source has ids of its own; a field of the data may be the id instead.
    let other = one.replace("/shop", "/other");
    let (_, answer) = told(post(&floe, ROUTE, &[STRUCTURED], other).await).await;
    assert_eq!(answer["accepted"], 1);
    let path = format!("{ROUTE}?dedup_field=$.id&key=$.id");
    for (id, accepted) in [("5", 1), ("6", 0)] {
        let sent = event(id, r#", "data": {"id": "x"}"#);
        let (_, answer) = told(post(&floe, &path, &[STRUCTURED], sent).await).await;
        assert_eq!(answer["accepted"], accepted, "{answer}");
    }
    let found = consumed(&floe, "t", 2);
    assert_eq!(found.len(), 4);
    assert!(found.iter().any(|record| text(record.key.as_ref()) == Some("x")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_refused() {
    let floe = Floe::start(&[]).await;
    let good = event("1", "");
    let binary = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    let twice = [&binary[..], &[("ce-datacontenttype", "text/plain")]].concat();
    for (headers, body, status, code) in [
        (&[STRUCTURED][..], "{}", 422, "invalid_events"),
        (&[STRUCTURED], &format!("[{good}]"), 422, "invalid_events"),
        (&[BATCHED], &good, 422, "invalid_events"),
        (&[BATCHED], &format!("[{good}, {{\"id\": 1}}]"), 422, "invalid_events"),
        (&[STRUCTURED], "{", 400, "invalid_json"),
        (&[("content-type", "application/cloudevents+avro")], &good, 415, "unsupported_media_type"),
        (&binary[..3], "1", 400, "bad_request"),
        (&twice, "1", 400, "bad_request"),
    ] {
        let (found, answer) = told(post(&floe, ROUTE, headers, body).await).await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{headers:?} {body}");
    }
    // An empty batch is none too few; neither it nor what was refused makes a topic.
    let (status, answer) = told(post(&floe, ROUTE, &[BATCHED], "[]").await).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(0)));
    assert_eq!(floe.get("/api/v1/topics").await["topics"], json!([]));
    let skip = format!("{ROUTE}?on_error=skip");
    let (status, answer) =
        told(post(&floe, &skip, &[BATCHED], format!("[{good}, {{\"id\": 1}}]")).await).await;
    assert_eq!((status, &answer["rejected"]), (200, &json!(1)));
    assert_eq!(answer["errors"][0]["code"], "invalid_cloudevent");
}
