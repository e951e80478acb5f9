//! Topics and event streams that take events without a token (`topic.public`), and nothing else
//! that they would open.

use std::net::IpAddr;
use std::time::Duration;

use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsRequest, AlterConfigsResource, AlterableConfig,
};
use protocol_tests::wire::{self, Wire};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kafka;
use super::streams::make_table;
use crate::{Guarded, floe};

pub(super) const OPEN: &str = "/api/v1/topics/open/events";

pub(super) async fn topic(guarded: &Guarded, name: &str, options: Value) -> (u16, Value) {
    let wish = json!({ "name": name, "partitions": 1, "options": options });
    guarded.ask(Method::POST, "/api/v1/topics", Some(&guarded.admin), Some(wish)).await
}

pub(super) async fn alter(guarded: &Guarded, name: &str, options: Value) -> (u16, Value) {
    let (path, wish) = (format!("/api/v1/topics/{name}"), json!({ "options": options }));
    guarded.ask(Method::PATCH, &path, Some(&guarded.admin), Some(wish)).await
}

/// A server with the topics `open`, which is public, and `closed`.
pub(super) async fn guarded() -> Guarded {
    let guarded = Guarded::start(&[]).await;
    let public = json!({ "topic.public": true, "topic.rate.requests": 1_000 });
    assert_eq!(topic(&guarded, "open", public).await.0, 201);
    assert_eq!(topic(&guarded, "closed", json!({ "topic.rate.requests": 9 })).await.0, 201);
    guarded
}

/// Status and body of an answer.
pub(super) async fn told(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

pub(super) fn assert_code((status, answer): &(u16, Value), wanted: (u16, &str), what: &str) {
    assert_eq!((*status, answer["code"].as_str()), (wanted.0, Some(wanted.1)), "{what}: {answer}");
}

/// How many records a topic has.
pub(super) async fn records(guarded: &Guarded, topic: &str) -> u64 {
    let path = format!("/api/v1/topics/{topic}");
    let (_, shown) = guarded.ask(Method::GET, &path, Some(&guarded.admin), None).await;
    let partitions = shown["partitions"].as_array().unwrap();
    partitions.iter().map(|partition| partition["high_watermark"].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_topic_takes_events_without_a_token_and_gives_nothing() {
    let guarded = guarded().await;
    let send = |path: &str| guarded.request(Method::POST, path, None).body("{\"n\":1}");
    for request in [
        send(OPEN),
        send(&format!("{OPEN}?ack=durable&key=k")),
        send("/api/v1/topics/%6fpen/events"),
        send(OPEN).header("token", ""),
        send(OPEN).header("ce-specversion", "1.0").header("ce-id", "7").header("ce-source", "/s"),
    ] {
        let request = request.header("ce-type", "t");
        let (status, answer) = told(request).await;
        assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    }
    assert_eq!(records(&guarded, "open").await, 5);
    let wrong = "floe_abcdefghij_0123456789012345678901234567890123456789";
    for (header, value) in [("token", wrong), ("authorization", "Bearer no"), ("x-api-key", "x")] {
        let answer = told(send(OPEN).header(header, value)).await;
        assert_code(&answer, (401, "invalid_token"), header);
    }
    let odd = send(OPEN).header("authorization", "").header("authorization", "Negotiate abc");
    let odd = told(odd).await;
    assert_code(&odd, (401, "missing_token"), "a credential that can be none");
    for (method, path) in [
        (Method::PUT, OPEN),
        (Method::PATCH, OPEN),
        (Method::GET, OPEN),
        (Method::POST, "/api/v1/topics/closed/events"),
        (Method::POST, "/api/v1/topics/absent/events"),
        (Method::POST, "/api/v1/topics/open.quarantine/events"),
        (Method::POST, "/api/v1/topics/op%20en/events"),
        (Method::GET, "/api/v1/topics"),
        (Method::GET, "/api/v1/topics/open"),
        (Method::PATCH, "/api/v1/topics/open"),
        (Method::DELETE, "/api/v1/topics/open"),
        (Method::GET, "/api/v1/topics/open/channels/c"),
        (Method::GET, "/api/v1/quarantine/open"),
        (Method::POST, "/api/v1/streams/open/events?table=floe.a.b"),
        (Method::POST, "/v0/events?name=open"),
        (Method::POST, "/otlp/open/v1/logs"),
        (Method::POST, "/services/collector/raw?index=open"),
        (Method::POST, "/topics/open"),
        (Method::GET, "/metrics"),
    ] {
        let request = guarded.request(method.clone(), path, None).body("{\"n\":1}");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401, "{method} {path}");
    }
    for (more, header) in
        [("?on_error=quarantine", None), ("?ack=committed", None), ("", Some(("x-channel", "c")))]
    {
        let mut request = send(&format!("{OPEN}{more}"));
        if let Some((name, value)) = header {
            request = request.header(name, value).header("x-offset-token", "9");
        }
        assert_code(&told(request).await, (403, "forbidden"), more);
    }
    let (_, topics) = guarded.ask(Method::GET, "/api/v1/topics", Some(&guarded.admin), None).await;
    assert_eq!(topics["topics"].as_array().unwrap().len(), 2, "none was made: {topics}");
    // At the Kafka port nobody is let in.
    let mut wire = Wire::connect(&guarded.floe.bootstrap()).await;
    let produce = wire::produce_request("open", 0, wire::batch(&["{}"], 1_000));
    wire.send_raw(&wire::frame(9, &produce, 1)).await.unwrap();
    let got = wire.until_closed(Duration::from_secs(20)).await.expect("the connection ends");
    assert!(got.is_empty(), "{got:?}");
    assert_eq!(records(&guarded, "open").await, 5);
    let token = guarded.token("writer", &["write:topic:open"]).await;
    assert_eq!(guarded.ask(Method::POST, OPEN, Some(&token), Some(json!({}))).await.0, 200);
}

/// The error code of AlterConfigs that makes the topic public with this rate.
async fn alter_over_kafka(guarded: &Guarded, rate: &'static str) -> i16 {
    let config = |name: &'static str, value: &'static str| {
        AlterableConfig::default().with_name(name.into()).with_value(Some(value.into()))
    };
    let configs = vec![config("topic.public", "true"), config("topic.rate.requests", rate)];
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name("open".into())
        .with_configs(configs);
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    let mut wire = kafka::connected(guarded, &guarded.admin).await;
    wire.call(2, &request).await.responses[0].error_code
}

/// What comes on a connection until `wanted` is there.
pub(super) async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut came = Vec::<u8>::new();
    while !String::from_utf8_lossy(&came).contains(wanted)
        && stream.read_buf(&mut came).await.unwrap() > 0
    {}
    String::from_utf8_lossy(&came).into_owned()
}

/// A connection with a request whose body of so many bytes is waited for.
pub(super) async fn half_sent(guarded: &Guarded, path: &str, bytes: usize) -> TcpStream {
    half_sent_with(guarded, path, bytes, "").await
}

/// The same with these lines in its head.
pub(super) async fn half_sent_with(
    guarded: &Guarded,
    path: &str,
    bytes: usize,
    lines: &str,
) -> TcpStream {
    let address = guarded.floe.http_address();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nexpect: 100-continue\r\n\
         connection: close\r\ncontent-length: {bytes}\r\n{lines}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "100 Continue").await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_goes_while_the_body_comes_is_neither_made_nor_another() {
    let guarded = guarded().await;
    for is_made_again in [false, true] {
        let mut stream = half_sent(&guarded, OPEN, 2).await;
        let admin = Some(guarded.admin.as_str());
        let path = "/api/v1/topics/open";
        assert_eq!(guarded.ask(Method::DELETE, path, admin, None).await.0, 204);
        if is_made_again {
            assert_eq!(topic(&guarded, "open", json!({})).await.0, 201);
        }
        stream.write_all(b"{}").await.unwrap();
        let answer = read_until(&mut stream, "missing_token").await;
        assert!(answer.contains("HTTP/1.1 401"), "{answer}");
        let (status, _) = guarded.ask(Method::GET, path, admin, None).await;
        assert_eq!(status, if is_made_again { 200 } else { 404 });
        if is_made_again {
            assert_eq!(records(&guarded, "open").await, 0);
        } else {
            let public = json!({ "topic.public": true, "topic.rate.requests": 1_000 });
            assert_eq!(topic(&guarded, "open", public).await.0, 201);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_public_keeps_its_rate() {
    let guarded = guarded().await;
    let admin = Some(guarded.admin.as_str());
    for answer in [
        topic(&guarded, "bare", json!({ "topic.public": "true" })).await,
        alter(&guarded, "open", json!({ "topic.rate.requests": null })).await,
        alter(&guarded, "open", json!({ "topic.rate.requests": 0 })).await,
    ] {
        assert_code(&answer, (400, "invalid_topic"), "without a rate");
        assert!(answer.1["detail"].as_str().unwrap().contains("topic.rate.bytes"), "{}", answer.1);
    }
    assert_eq!(alter_over_kafka(&guarded, "0").await, 40, "INVALID_CONFIG");
    assert_eq!(alter_over_kafka(&guarded, "7").await, 0);
    let url = guarded.floe.url("");
    let run = |arguments: &[&str]| floe(&[arguments, &["--url", &url]].concat(), admin);
    let opened = run(&["topic", "alter", "closed", "-o", "topic.public=true"]);
    assert_eq!(opened.code, Some(0), "{}", opened.err);
    let bared = run(&["topic", "alter", "closed", "-o", "topic.rate.requests=0"]);
    assert!(bared.code != Some(0) && bared.err.contains("topic.public"), "{}", bared.err);
    let stream = ["stream", "create", "shop", "-o", "topic.public=true"];
    let bare = run(&stream);
    assert!(bare.code != Some(0) && bare.err.contains("topic.rate.bytes"), "{}", bare.err);
    let made = run(&[&stream[..], &["-o", "topic.rate.bytes=1MiB"]].concat());
    assert_eq!(made.code, Some(0), "{}", made.err);
    let wish = Some(json!({ "options": { "topic.rate.bytes": null } }));
    let path = "/api/v1/streams/shop";
    let answer = guarded.ask(Method::PATCH, path, admin, wish).await;
    assert_code(&answer, (400, "invalid_stream"), "a stream that loses its rate");
    assert_eq!(alter(&guarded, "closed", json!({ "topic.public": false })).await.0, 200);
    let answer = guarded.ask(Method::POST, "/api/v1/topics/closed/events", None, None).await;
    assert_code(&answer, (401, "missing_token"), "closed again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_without_a_token_have_the_rate_of_their_address_and_without_any_the_topic_is_closed()
 {
    let mut guarded = Guarded::start(&["--http-rate-requests", "1"]).await;
    assert_eq!(topic(&guarded, "open", json!({ "topic.public": true })).await.0, 201);
    let send = async |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        let client = Client::builder().local_address(address).build().unwrap();
        told(client.post(guarded.floe.url(OPEN)).body("{}")).await
    };
    // The bucket comes back in a second; slow machines need a second try.
    let mut refused = (0, Value::Null);
    for _ in 0..20 {
        refused = send("127.0.0.1").await;
        if refused.0 != 200 {
            break;
        }
    }
    assert_code(&refused, (429, "rate_limited"), "too much of one address");
    assert_eq!(send("127.0.0.2").await.0, 200, "another one has its own");
    guarded.floe.stop().await;
    guarded.floe.restart_with(&[]).await;
    let answer = guarded.ask(Method::POST, OPEN, None, Some(json!({}))).await;
    assert_code(&answer, (401, "missing_token"), "no rate bounds it");
    guarded.floe.printed("the topic is public but has no rate").await;
    assert_eq!(alter(&guarded, "open", json!({ "retention.ms": 9 })).await.0, 200);
    assert_eq!(alter(&guarded, "open", json!({ "topic.rate.requests": 9 })).await.0, 200);
    assert_eq!(guarded.ask(Method::POST, OPEN, None, Some(json!({}))).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_ids_of_addresses_and_of_tokens_are_apart() {
    let guarded = guarded().await;
    let send = async |address: &str, token: Option<&str>, path: &str| {
        let address: IpAddr = address.parse().unwrap();
        let client = Client::builder().local_address(address).build().unwrap();
        let mut request = client.post(guarded.floe.url(path)).body("{\"id\":1}");
        if let Some(token) = token {
            request = request.header("token", token);
        }
        if path == OPEN {
            request = request.header("idempotency-key", "k");
        }
        let (status, answer) = told(request).await;
        assert_eq!(status, 200, "{answer}");
        answer["duplicate"] == json!(true) || answer["duplicates"] == json!(1)
    };
    let (one, other, admin) = ("127.0.0.1", "127.0.0.2", Some(guarded.admin.as_str()));
    for path in [OPEN, &format!("{OPEN}?dedup_field=$.id")] {
        for is_repeat in [false, true] {
            for (address, token) in [(one, None), (other, None), (one, admin)] {
                let found = send(address, token, path).await;
                assert_eq!(found, is_repeat, "{address} {token:?} {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_send_to_a_public_topic_where_it_lists_them() {
    let guarded = guarded().await;
    let (listed, other) = ("https://a.example", "https://b.example");
    assert_eq!(alter(&guarded, "open", json!({ "topic.cors.origins": listed })).await.0, 200);
    let send = |origin| guarded.request(Method::POST, OPEN, None).header("origin", origin);
    let answer = send(listed).body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["access-control-allow-origin"], listed);
    assert_code(&told(send(other).body("{}")).await, (403, "foreign_origin"), "not listed");
    assert_eq!(records(&guarded, "open").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_stream_leads_to_tables_whose_topics_are_open() {
    let guarded = Guarded::start(&["--table-target-lag=1h"]).await;
    let admin = Some(guarded.admin.as_str());
    for table in ["sales", "hidden", "later"] {
        make_table(&guarded, table).await;
    }
    let options = json!({ "topic.public": true, "topic.rate.requests": 1_000 });
    let wish = |name: &str, options: &Value| {
        Some(json!({ "name": name, "namespace": "prod", "options": options }))
    };
    // Whoever may not write to all tables opens no door to them.
    let maker = guarded.token("maker", &["all:stream:*", "write:table:events.sales"]).await;
    let streams = "/api/v1/streams";
    let answer = guarded.ask(Method::POST, streams, Some(&maker), wish("shop", &options)).await;
    assert_code(&answer, (403, "forbidden"), "make");
    assert!(answer.1["detail"].as_str().unwrap().contains("write:table:*"), "{}", answer.1);
    let plain = json!({ "topic.rate.requests": 1_000 });
    let made = guarded.ask(Method::POST, streams, Some(&maker), wish("shop", &plain)).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let (path, open) = ("/api/v1/streams/shop", Some(json!({ "options": options })));
    let answer = guarded.ask(Method::PATCH, path, Some(&maker), open.clone()).await;
    assert_code(&answer, (403, "forbidden"), "alter");

    let send = async |path: &str, table: &str, token: Option<&str>| {
        let request = guarded.request(Method::POST, path, token).header("table", table);
        told(request.body("[{\"id\":1}]")).await
    };
    let (iomete, ours) =
        ("/data-plane/prod/event-stream/shop/ingest", "/api/v1/streams/shop/events");
    let sales = "floe.events.sales";
    assert_eq!(send(iomete, sales, admin).await.0, 200);
    assert_eq!(send(iomete, "floe.events.hidden", admin).await.0, 200);
    for path in [iomete, ours] {
        assert_code(&send(path, sales, None).await, (401, "missing_token"), "not public yet");
    }
    let opened = guarded.ask(Method::PATCH, path, admin, open).await;
    assert_eq!(opened.0, 200, "{}", opened.1);
    let closed = json!({ "topic.public": false });
    assert_eq!(alter(&guarded, "shop.events.hidden", closed).await.0, 200);
    let again = json!({ "options": { "topic.public": true } });
    let answer = guarded.ask(Method::PATCH, path, Some(&maker), Some(again)).await;
    assert_code(&answer, (403, "forbidden"), "it would open that one again");
    let detail = answer.1["detail"].as_str().unwrap();
    assert!(detail.contains("shop.events.hidden"), "{detail}");
    for path in [iomete, ours] {
        let (status, answer) = send(path, sales, None).await;
        assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
        for (path, table) in [
            (path, "floe.events.hidden"),
            (path, "floe.events.later"),
            (path, "floe.events.none"),
            (path, "other.events.sales"),
            (path, "events.sales"),
            (&*path.replace("shop", "none"), sales),
            (&*path.replace("prod", "test").replace("streams/shop", "streams/other"), sales),
        ] {
            let answer = send(path, table, None).await;
            assert_code(&answer, (401, "missing_token"), &format!("{path} {table}"));
        }
        let answer = send(path, sales, Some("floe_wrong")).await;
        assert_code(&answer, (401, "invalid_token"), path);
    }
    let parameter = format!("{ours}?table={sales}");
    let request = guarded.request(Method::POST, &parameter, None).body("{\"id\":2}");
    assert_eq!(told(request).await.0, 200);
    let put = guarded.request(Method::PUT, iomete, None).header("table", sales);
    assert_code(&told(put.body("[]")).await, (401, "missing_token"), "only POST");
    assert_eq!(records(&guarded, "shop.events.sales").await, 4);
    // Both the stream and the topic must list the origin of a page.
    let page = "https://a.example";
    let stream_lists = Some(json!({ "options": { "topic.cors.origins": page } }));
    assert_eq!(guarded.ask(Method::PATCH, path, admin, stream_lists).await.0, 200);
    let of_page = async || {
        let request = guarded.request(Method::POST, iomete, None).header("origin", page);
        told(request.header("table", sales).body("[{\"id\":1}]")).await
    };
    assert_eq!(of_page().await.0, 200);
    let other = json!({ "topic.cors.origins": "https://b.example" });
    assert_eq!(alter(&guarded, "shop.events.sales", other).await.0, 200);
    assert_code(&of_page().await, (403, "foreign_origin"), "the topic lists another");
    // Made by whoever has a token, it is open as the stream says.
    assert_eq!(send(iomete, "floe.events.later", admin).await.0, 200);
    assert_eq!(send(iomete, "floe.events.later", None).await.0, 200);
    // A topic that is public by itself is not reached through a stream that is not.
    let close = Some(json!({ "options": { "topic.public": null } }));
    assert_eq!(guarded.ask(Method::PATCH, path, admin, close).await.0, 200);
    assert_code(&send(iomete, sales, None).await, (401, "missing_token"), "closed again");
}
