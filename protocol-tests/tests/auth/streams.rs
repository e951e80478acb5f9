//! The ingest route of event streams: every check in the order of its documentation, each found
//! where all that come after it would fail too.

use protocol_tests::eventually;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Guarded;

const SHOP: &str = "/data-plane/prod/event-stream/shop/ingest";

/// What a sender sends.
#[derive(Clone, Default)]
struct Sent<'a> {
    token: Option<&'a str>,
    table: Option<&'a str>,
    kind: Option<&'a str>,
    body: Vec<u8>,
}

async fn send(guarded: &Guarded, path: &str, sent: &Sent<'_>) -> Response {
    let mut request = guarded.request(Method::POST, path, sent.token).body(sent.body.clone());
    for (name, value) in [("table", sent.table), ("content-type", sent.kind)] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    request.send().await.unwrap()
}

/// Status, `code`, `Retry-After` and the whole body of a refusal, whose forms must agree.
async fn refused(response: Response) -> (u16, String, Option<String>, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let retry = response.headers().get("retry-after").map(|it| it.to_str().unwrap().to_owned());
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    assert_eq!((&body["status"], &body["request_id"]), (&json!(status), &json!(id)), "{body}");
    assert_eq!(body["message"], body["detail"]);
    assert_eq!(body["type"], format!("/problems#{}", body["code"].as_str().unwrap()));
    assert_eq!(body["retryable"], json!([429, 503].contains(&status)), "{body}");
    (status, body["code"].as_str().unwrap().to_owned(), retry, body)
}

/// Makes `events.<name>` with a required long `id`, a string `note` and an int `n`.
pub(crate) async fn make_table(guarded: &Guarded, name: &str) {
    let admin = Some(guarded.admin.as_str());
    let namespace = Some(json!({ "namespace": ["events"] }));
    guarded.ask(Method::POST, "/iceberg/v1/namespaces", admin, namespace).await;
    let fields = json!([
        { "id": 1, "name": "id", "required": true, "type": "long" },
        { "id": 2, "name": "note", "required": false, "type": "string" },
        { "id": 3, "name": "n", "required": false, "type": "int" },
    ]);
    let schema = json!({ "type": "struct", "schema-id": 0, "fields": fields });
    let body = Some(json!({ "name": name, "schema": schema }));
    let path = "/iceberg/v1/namespaces/events/tables";
    let (status, answer) = guarded.ask(Method::POST, path, admin, body).await;
    assert_eq!(status, 200, "{answer}");
}

async fn switch(guarded: &Guarded, verb: &str) {
    let path = format!("/api/v1/streams/shop/{verb}");
    let (status, answer) = guarded.ask(Method::POST, &path, Some(&guarded.admin), None).await;
    assert_eq!(status, 200, "{answer}");
}

async fn guarded() -> Guarded {
    let guarded = Guarded::start(&["--catalog-alias=analytics", "--table-target-lag=1h"]).await;
    let stream = Some(json!({ "name": "shop", "namespace": "prod", "tags": ["a"] }));
    let (status, answer) =
        guarded.ask(Method::POST, "/api/v1/streams", Some(&guarded.admin), stream).await;
    assert_eq!((status, &answer["state"]), (201, &json!("Active")), "{answer}");
    guarded
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::too_many_lines, reason = "one table of cases")]
async fn every_check_comes_before_all_that_follow_it() {
    let guarded = guarded().await;
    make_table(&guarded, "sales").await;
    let weak = guarded.token("weak", &["describe:topic:x"]).await;
    let sender = guarded.token("sender", &["write:stream:shop"]).await;
    let writer = guarded.token("writer", &["write:stream:s*", "write:table:events.*"]).await;
    let short = json!({ "name": "short", "expires_in_ms": 1 });
    let (_, expired) =
        guarded.ask(Method::POST, "/api/v1/tokens", Some(&guarded.admin), Some(short)).await;
    let expired = expired["token"].as_str().unwrap();
    let large = vec![b'['; (5 << 20) + 1];
    let wrong = Sent { kind: Some("text/csv"), body: large.clone(), ..Sent::default() };
    let nobody = SHOP.replace("shop", "nobody");
    let elsewhere = "/data-plane/other/event-stream/shop/ingest";
    let unknown = "floe_abcdefghij_0123456789012345678901234567890123456789";

    switch(&guarded, "terminate").await;
    // Whoever shows no token is not told what there is.
    let (status, code, ..) = refused(send(&guarded, SHOP, &wrong).await).await;
    assert_eq!((status, code.as_str()), (401, "missing_token"));
    let known = Sent { token: Some(&weak), ..wrong.clone() };
    let (status, code, retry, body) = refused(send(&guarded, SHOP, &known).await).await;
    assert_eq!((status, code.as_str(), retry.as_deref()), (503, "stream_stopped", Some("30")));
    assert_eq!(body["error"], "SERVICE_UNAVAILABLE");
    switch(&guarded, "start").await;

    let with = |token| Sent { token: Some(token), ..wrong.clone() };
    let to = |token, table| Sent { table: Some(table), ..with(token) };
    let json =
        |body: &[u8]| Sent { kind: None, body: body.to_vec(), ..to(&writer, "floe.events.sales") };
    let plain = |body: Vec<u8>| Sent { kind: Some("application/json"), ..json(&body) };
    let cases: Vec<(&str, Sent<'_>, u16, &str, &str)> = vec![
        (elsewhere, wrong.clone(), 401, "UNAUTHORIZED", "missing_token"),
        (elsewhere, with(unknown), 401, "UNAUTHORIZED", "invalid_token"),
        (elsewhere, with(expired), 401, "UNAUTHORIZED", "expired_token"),
        (elsewhere, with(&weak), 404, "NOT_FOUND", "stream_not_found"),
        (&nobody, with(&weak), 404, "NOT_FOUND", "stream_not_found"),
        (SHOP, with(&weak), 403, "FORBIDDEN", "no_stream_access"),
        (SHOP, with(&sender), 400, "BAD_REQUEST", "missing_table_header"),
        (SHOP, to(&sender, " "), 400, "BAD_REQUEST", "missing_table_header"),
        (SHOP, to(&sender, "events.none"), 400, "BAD_REQUEST", "invalid_table_name"),
        (SHOP, to(&sender, "floe.`events`.none"), 400, "BAD_REQUEST", "invalid_table_name"),
        (SHOP, to(&sender, "floe.events.none"), 403, "FORBIDDEN", "no_insert_permission"),
        (SHOP, to(&writer, "floe.events.none"), 404, "NOT_FOUND", "table_not_found"),
        (SHOP, to(&writer, "other.events.sales"), 404, "NOT_FOUND", "table_not_found"),
        (
            SHOP,
            to(&writer, "floe.events.sales"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "unsupported_media_type",
        ),
        (SHOP, plain(large), 413, "PAYLOAD_TOO_LARGE", "payload_too_large"),
        (SHOP, json(b"[{\"id\":\"x\"}, {\"id\":}]"), 400, "BAD_REQUEST", "invalid_json"),
        (SHOP, json(b"[\xff]"), 400, "BAD_REQUEST", "invalid_json"),
        (SHOP, json(b"{\"id\":\"x\"}"), 400, "BAD_REQUEST", "expected_array"),
        (SHOP, json(b"[{\"id\":\"x\"}, 1]"), 400, "BAD_REQUEST", "expected_array"),
        (SHOP, json(b"[{\"id\":1}, {\"id\":\"x\"}]"), 400, "BAD_REQUEST", "schema_mismatch"),
    ];
    for (path, sent, status, error, code) in cases {
        let response = send(&guarded, path, &sent).await;
        let challenge = response.headers().get("www-authenticate").cloned();
        let found = refused(response).await;
        assert_eq!((found.0, found.1.as_str(), &found.3["error"]), (status, code, &json!(error)));
        assert_eq!(found.2, None, "{code} is final");
        assert_eq!(challenge.is_some(), status == 401, "{code}");
    }
    let told = refused(send(&guarded, SHOP, &json(b"[{\"id\":1},\n {\"id\":}]")).await).await.3;
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("byte 18, line 2, column 8, in events[1]"), "{message}");
    let told =
        refused(send(&guarded, SHOP, &json(b"[{\"id\":1},{\"id\":2,\"n\":2.5}]")).await).await.3;
    let error = json!({ "index": 1, "field": "n", "expected": "int", "got": "number" });
    assert_eq!(told["errors"], json!([error]));
    assert!(
        told["message"].as_str().unwrap().starts_with("events[1].n: expected INT, got number 2.5")
    );
    let (_, topics) = guarded.ask(Method::GET, "/api/v1/topics", Some(&guarded.admin), None).await;
    assert_eq!(topics["topics"], json!([]), "what is refused makes no topic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_is_stored_under_each_name_of_the_catalog_and_is_in_the_table() {
    let guarded = guarded().await;
    make_table(&guarded, "sales").await;
    let writer = guarded.token("writer", &["write:stream:shop", "write:table:events.sales"]).await;
    let body = |text: &str| text.as_bytes().to_vec();
    let sent = |table, kind, text| Sent {
        token: Some(&writer),
        table: Some(table),
        kind,
        body: body(text),
    };
    let (floe, alias) = ("floe.events.sales", "analytics.events.sales");
    let (form, json_type) =
        ("application/x-www-form-urlencoded", "application/json; charset=utf-8");
    for (sent, accepted) in [
        (sent(floe, Some(json_type), r#"[{"id":1,"note":{"deep":[1.10]}},{"id":2}]"#), 2),
        (sent(alias, Some(form), r#"[{"id":3}]"#), 1),
        (sent(floe, None, r#" [{"id":4}] "#), 1),
        (sent(floe, Some("text/plain"), "[]"), 0),
    ] {
        let response = send(&guarded, SHOP, &sent).await;
        let status = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        assert_eq!((status, &answer["status"]), (200, &json!("OK")), "{answer}");
        assert_eq!((&answer["accepted"], &answer["table"]), (&json!(accepted), &json!(sent.table)));
        assert_eq!(answer["first_offset"].is_number(), accepted > 0, "{answer}");
        assert!(answer["request_id"].is_string());
    }
    let extra = sent(floe, None, r#"[{"id":5,"x y":1,"more":{"a":1}},{"id":6,"more":2}]"#);
    let response = send(&guarded, &format!("{SHOP}/"), &extra).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-ignored-fields"]),
        (200, &"more,x%20y".parse().unwrap())
    );
    for method in [Method::PUT, Method::PATCH] {
        let request = guarded.request(method, &format!("{SHOP}?table={floe}"), Some(&writer));
        assert_eq!(request.body("[{\"id\":7}]").send().await.unwrap().status(), 200);
    }
    let answer = guarded.request(Method::DELETE, SHOP, Some(&writer)).send().await.unwrap();
    assert_eq!(answer.headers()["allow"], "POST, PUT, PATCH, OPTIONS");
    assert_eq!(refused(answer).await.1, "method_not_allowed");
    let answer = guarded.request(Method::OPTIONS, SHOP, Some(&writer)).send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let admin = Some(guarded.admin.as_str());
    let flush = "/api/v1/tables/events.sales/flush";
    let (status, table) = guarded.ask(Method::POST, flush, admin, None).await;
    assert_eq!(
        (status, &table["rows"], &table["dlq_rows"]),
        (200, &json!(8), &json!(0)),
        "{table}"
    );
    let (_, stream) = guarded.ask(Method::GET, "/api/v1/streams/shop", admin, None).await;
    assert_eq!(
        (&stream["tables"][0]["table"], &stream["tables"][0]["topic"]),
        (&json!("events.sales"), &json!("shop.events.sales"))
    );
    assert_eq!(stream["ignored_fields"], json!({ "more": 2, "x y": 1 }));
    // Deleting it deletes its topic and leaves the table.
    let (status, _) = guarded.ask(Method::DELETE, "/api/v1/streams/shop", admin, None).await;
    assert_eq!(status, 204);
    let (_, topics) = guarded.ask(Method::GET, "/api/v1/topics", admin, None).await;
    assert_eq!(topics["topics"], json!([]));
    let table = "/iceberg/v1/namespaces/events/tables/sales";
    assert_eq!(guarded.ask(Method::GET, table, admin, None).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_to_be_told_to_send_the_body_is_refused_without_it() {
    let guarded = guarded().await;
    let path = guarded.floe.url("");
    let address = path.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {SHOP} HTTP/1.1\r\nhost: {address}\r\ntoken: {}\r\nexpect: 100-continue\r\n\
         content-length: 5000000\r\n\r\n",
        guarded.admin
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::<u8>::new();
    // Head and body may come apart.
    while !String::from_utf8_lossy(&answer).contains("missing_table_header")
        && stream.read_buf(&mut answer).await.unwrap() > 0
    {}
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("missing_table_header"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_bound_to_a_table_of_others_by_who_may_write_to_it() {
    let guarded = guarded().await;
    make_table(&guarded, "sales").await;
    let options =
        json!({ "table.mode": "contract", "table.namespace": "events", "table.name": "sales" });
    let wish = |name: &str| Some(json!({ "name": name, "options": options }));
    let maker = guarded.token("maker", &["all:topic:*"]).await;
    let topics = "/api/v1/topics";
    let (status, answer) = guarded.ask(Method::POST, topics, Some(&maker), wish("t")).await;
    assert_eq!((status, &answer["code"]), (403, &json!("forbidden")));
    assert!(answer["detail"].as_str().unwrap().contains("write:table:events.sales"), "{answer}");
    let plain = Some(json!({ "name": "t" }));
    assert_eq!(guarded.ask(Method::POST, topics, Some(&maker), plain).await.0, 201);
    let alter = Some(json!({ "options": options }));
    let (status, _) = guarded.ask(Method::PATCH, "/api/v1/topics/t", Some(&maker), alter).await;
    assert_eq!(status, 403);
    let both = guarded.token("both", &["all:topic:*", "write:table:events.sales"]).await;
    assert_eq!(guarded.ask(Method::POST, topics, Some(&both), wish("u")).await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_by_its_name_a_look_and_a_replacement_take_their_rights() {
    let guarded = guarded().await;
    make_table(&guarded, "sales").await;
    let weak = guarded.token("weak", &["describe:topic:x"]).await;
    let writer = guarded.token("writer", &["write:table:events.sales", "write:stream:shop"]).await;
    let reader = guarded.token("reader", &["read:topic:floe.tables.*", "read:stream:shop"]).await;
    let maker = guarded.token("maker", &["create:stream:new"]).await;
    let (table, none) =
        ("/api/v1/tables/floe.events.sales/events", "/api/v1/tables/floe.events.x/events");
    let event = || Some(json!({ "id": 1 }));
    // Who may not write to a table does not hear whether it is there.
    for path in [table, none] {
        let (status, answer) = guarded.ask(Method::POST, path, Some(&weak), event()).await;
        assert_eq!((status, &answer["code"]), (403, &json!("no_insert_permission")), "{answer}");
    }
    let waiting = format!("{table}?ack=committed&wait=0");
    let (status, answer) = guarded.ask(Method::POST, &waiting, Some(&writer), event()).await;
    assert_eq!((status, &answer["accepted"]), (202, &json!(1)), "{answer}");
    let ack = answer["ack_url"].as_str().unwrap();
    let kept = "/api/v1/streams/shop/events?table=floe.events.sales&on_error=quarantine";
    let records = "/api/v1/topics/floe.tables.events.sales/records";
    let stream = "/api/v1/streams/shop/records";
    let new = "/api/v1/streams/new";
    for (method, path, token, body, wanted) in [
        (Method::GET, ack, &writer, None, 200),
        (Method::GET, ack, &weak, None, 403),
        (Method::GET, records, &writer, None, 403),
        (Method::GET, records, &reader, None, 200),
        (Method::GET, stream, &writer, None, 403),
        (Method::GET, stream, &reader, None, 200),
        (Method::POST, kept, &writer, event(), 403),
        (Method::PUT, new, &weak, Some(json!({})), 403),
        (Method::PUT, new, &maker, Some(json!({})), 201),
        (Method::PUT, new, &maker, Some(json!({})), 403),
    ] {
        let (status, answer) = guarded.ask(method.clone(), path, Some(token), body).await;
        assert_eq!(status, wanted, "{method} {path}: {answer}");
    }
    // A token that is revoked ends what it began.
    let tail = "/api/v1/topics/floe.tables.events.sales/tail";
    let mut tail = guarded.request(Method::GET, tail, Some(&reader)).send().await.unwrap();
    assert_eq!(tail.status(), 200);
    let revoke = "/api/v1/tokens/reader";
    assert!(guarded.ask(Method::DELETE, revoke, Some(&guarded.admin), None).await.0 < 300);
    let ended = async { while let Ok(Some(_)) = tail.chunk().await {} };
    tokio::time::timeout(protocol_tests::WAIT_MAX, ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_of_a_sink_takes_events_from_who_may_write_to_its_topic() {
    let guarded = Guarded::start(&["--table-target-lag=1s"]).await;
    let admin = Some(guarded.admin.as_str());
    let (sinks, orders) = ("/api/v1/topics/orders/sinks", "/api/v1/topics/orders/events");
    let wish = json!({ "name": "orders" });
    assert_eq!(guarded.ask(Method::POST, "/api/v1/topics", admin, Some(wish)).await.0, 201);
    let sink = json!({
        "table": { "namespace": "lake", "name": "part" },
        "mapping": { "columns": [{ "type": "body", "name": "body" }] },
        "commit": { "lag_ms": 1_000 },
    });
    let made = guarded.ask(Method::PUT, &format!("{sinks}/part"), admin, Some(sink)).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let event = || Some(json!({ "id": 1 }));
    assert_eq!(guarded.ask(Method::POST, orders, admin, event()).await.0, 200);
    eventually("both tables", || async {
        let (_, shown) = guarded.ask(Method::GET, sinks, admin, None).await;
        let flush = "/api/v1/tables/orders/flush";
        let (_, own) = guarded.ask(Method::POST, flush, admin, None).await;
        (shown["sinks"][0]["status"]["rows"] == 1 && own["rows"] == 1).then_some(())
    })
    .await;
    let of_sink = "/api/v1/tables/floe.lake.part/events";
    let of_topic = "/api/v1/tables/floe.streams.orders/events";
    for (name, rules, path, lacks) in [
        ("part", vec!["write:table:lake.part"], of_sink, Some("write:topic:orders")),
        ("other", vec!["write:table:lake.other"], of_sink, Some("write:table:lake.part")),
        ("topic", vec!["write:topic:orders"], of_sink, None),
        ("both", vec!["write:topic:orders", "write:table:lake.part"], of_sink, None),
        ("own", vec!["write:table:streams.orders"], of_topic, None),
    ] {
        let token = guarded.token(name, &rules).await;
        let (status, answer) = guarded.ask(Method::POST, path, Some(&token), event()).await;
        let Some(lacks) = lacks else {
            assert_eq!((status, &answer["topic"]), (200, &json!("orders")), "{name}: {answer}");
            continue;
        };
        assert_eq!((status, &answer["code"]), (403, &json!("no_insert_permission")), "{name}");
        assert!(answer["detail"].as_str().unwrap().contains(lacks), "{answer}");
    }
}
