//! Doors of our own to tables that are there: by a stream, by a table's name; and a look at what came.

use futures::StreamExt;
use protocol_tests::{Floe, WAIT_MAX, table};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::{consumed, header, post, text, told};

const TABLE: (&str, &str) = ("table", "floe.events.sales");
const EVENTS: &str = "/api/v1/streams/shop/events";

async fn floe(options: Value) -> Floe {
    let floe = Floe::start(&["--table-target-lag=1h"]).await;
    let (status, answer) = ask(&floe, Method::PUT, "/api/v1/streams/shop", options).await;
    assert_eq!(status, 201, "{answer}");
    let fields = json!([
        { "id": 1, "name": "id", "required": true, "type": "long" },
        { "id": 2, "name": "n", "required": false, "type": "int" },
    ]);
    table::create(&floe.url("/iceberg"), "events", "sales", fields).await;
    floe
}

async fn ask(floe: &Floe, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = Client::new().request(method, floe.url(path)).body(body.to_string());
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

async fn send(floe: &Floe, path: &str, body: &str) -> (u16, Value) {
    told(post(floe, path, &[TABLE], body).await).await
}

async fn ids(floe: &Floe) -> Vec<i64> {
    let url = floe.url("/api/v1/tables/events.sales/flush");
    assert_eq!(Client::new().post(url).send().await.unwrap().status(), 200);
    table::longs(&floe.url("/iceberg"), "events", "sales", "id").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_a_stream_events_that_do_not_fit_are_left_out_or_kept_where_it_is_said() {
    let floe = floe(json!({})).await;
    let lines = "{\"id\":1}\n{\"id\":\"x\"}\n{bad\n7\n{\"id\":2}\n";
    let lines_of = async |path: &str, body: &str| {
        let kind = ("content-type", "application/x-ndjson");
        told(post(&floe, path, &[TABLE, kind], body).await).await
    };
    // What is refused as a whole makes no topic.
    let skip = format!("{EVENTS}?on_error=skip");
    let (status, answer) = lines_of(&skip, "{\"id\":\"x\"}\n").await;
    assert_eq!((status, &answer["code"]), (400, &json!("schema_mismatch")), "{answer}");
    assert_eq!(floe.get("/api/v1/topics").await["topics"], json!([]));
    let (status, answer) = lines_of(&skip, lines).await;
    let counts = (&answer["accepted"], &answer["rejected"], &answer["topic"]);
    let wanted = (&json!(2), &json!(3), &json!("shop.events.sales"));
    assert_eq!((status, counts), (200, wanted), "{answer}");
    let errors = answer["errors"].as_array().unwrap().iter();
    let errors: Vec<_> =
        errors.map(|error| (error["index"].clone(), error["code"].clone())).collect();
    let wanted = [(1, "schema_mismatch"), (2, "invalid_json"), (3, "schema_mismatch")];
    assert_eq!(errors, wanted.map(|(index, code)| (json!(index), json!(code))));
    let (status, answer) =
        lines_of(&format!("{EVENTS}?on_error=quarantine"), "{\"id\":3}\n{\"id\":true}\n").await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    let kept = floe.get("/api/v1/quarantine/shop.events.sales").await;
    let kept = kept["records"].as_array().unwrap();
    assert_eq!((kept.len(), &kept[0]["payload"]), (1, &json!({"id": true})));
    let preferred = [TABLE, ("prefer", "handling=lenient, return=minimal")];
    let answer = post(&floe, EVENTS, &preferred, "[{\"id\":4},1]").await;
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, String::new()));
    assert_eq!(ids(&floe).await, [1, 2, 3, 4]);
    // A repeat is one with the same parameters.
    let key = ("idempotency-key", "k");
    for (path, wanted) in [(&*skip, 200), (&*skip, 200), (EVENTS, 422)] {
        let answer = post(&floe, path, &[TABLE, key], "[{\"id\":5}]").await;
        assert_eq!(answer.status(), wanted, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_a_stream_the_answer_waits_for_what_is_asked() {
    let floe = floe(json!({"options": {"table.commit.min.interval.ms": 0}})).await;
    let (status, answer) = send(&floe, &format!("{EVENTS}?ack=accepted"), "{\"id\":1}").await;
    assert_eq!((status, &answer["ack"]), (202, &json!("accepted")), "{answer}");
    let committed = format!("{EVENTS}?ack=committed");
    let (status, answer) = send(&floe, &committed, "{\"id\":2}").await;
    assert_eq!((status, &answer["ack"]), (200, &json!("committed")), "{answer}");
    let ack = floe.get(answer["ack_url"].as_str().unwrap()).await;
    assert_eq!((&ack["committed"], &ack["topic"]), (&json!(true), &json!("shop.events.sales")));
    let response = post(&floe, &format!("{committed}&wait=0"), &[TABLE], "{\"id\":3}").await;
    let location = response.headers().get("location").cloned();
    let (status, answer) = told(response).await;
    assert_eq!((status, &answer["ack"]), (202, &json!("durable")), "{answer}");
    assert_eq!(location.unwrap(), answer["ack_url"].as_str().unwrap());
    let (_, answer) = send(&floe, EVENTS, "{\"id\":4}").await;
    assert_eq!(answer["ack"], "durable", "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_takes_events_by_its_name_whoever_made_it() {
    let floe = floe(json!({})).await;
    let sales = "/api/v1/tables/floe.events.sales/events";
    let (status, answer) = told(post(&floe, sales, &[], "[{\"id\":1},{\"id\":2}]").await).await;
    let topic = json!("floe.tables.events.sales");
    assert_eq!((status, &answer["topic"]), (200, &topic), "{answer}");
    let (status, answer) =
        told(post(&floe, &format!("{sales}?on_error=skip"), &[], "{\"id\":3} 7").await).await;
    assert_eq!((status, &answer["rejected"]), (200, &json!(1)), "{answer}");
    assert_eq!(ids(&floe).await, [1, 2, 3]);
    // That of a topic, once it is made.
    let of_topic = "/api/v1/tables/floe.streams.orders/events";
    let (status, answer) = told(post(&floe, of_topic, &[], "{\"a\":1}").await).await;
    assert_eq!((status, &answer["code"]), (404, &json!("table_not_found")), "{answer}");
    let orders = "/api/v1/topics/orders/events";
    assert_eq!(post(&floe, orders, &[], "{\"a\":1}").await.status(), 200);
    floe.flush("orders").await;
    let again = "/api/v1/tables/floe.streams.orders/events?key=$.a";
    // Its absence was noticed for a while.
    let answer = protocol_tests::eventually("the table", async || {
        let (status, answer) = told(post(&floe, again, &[], "{\"a\":2,\"new\":1}").await).await;
        (status == 200).then_some(answer)
    });
    let answer = answer.await;
    assert_eq!((&answer["topic"], &answer["accepted"]), (&json!("orders"), &json!(1)), "{answer}");
    let records = consumed(&floe, "orders", 4);
    assert!(records.iter().any(|record| text(record.key.as_ref()) == Some("2")));
    for (path, status, code) in [
        ("/api/v1/tables/events.sales/events", 400, "invalid_table_name"),
        ("/api/v1/tables/other.events.sales/events", 404, "table_not_found"),
        ("/api/v1/tables/floe.events.none/events", 404, "table_not_found"),
        ("/api/v1/tables/floe.events.sales/events?key=a", 400, "bad_request"),
    ] {
        let (found, answer) = told(post(&floe, path, &[], "{\"id\":1}").await).await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_of_a_stream_tells_how_far_it_has_come() {
    let floe = floe(json!({})).await;
    let place = "/api/v1/streams/shop/channels/loader?table=floe.events.sales";
    let (status, answer) = ask(&floe, Method::GET, place, Value::Null).await;
    assert_eq!((status, &answer["code"]), (404, &json!("unknown_channel")), "{answer}");
    let channel = [TABLE, ("x-channel", "loader"), ("x-offset-token", "17")];
    assert_eq!(post(&floe, EVENTS, &channel, "{\"id\":1}").await.status(), 200);
    let state = floe.get(place).await;
    assert_eq!((&state["token"], &state["committed_token"]), (&json!(17), &Value::Null), "{state}");
    assert_eq!((&state["stream"], &state["table"]), (&json!("shop"), &json!(TABLE.1)));
    ids(&floe).await;
    assert_eq!(floe.get(place).await["committed_token"], 17);
    let none = "/api/v1/streams/shop/channels/loader";
    assert_eq!(ask(&floe, Method::GET, none, Value::Null).await.1["code"], "missing_table_header");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_replaced_in_the_version_that_is_meant_and_tried_before() {
    let floe = floe(json!({"namespace": "prod", "options": {"retention.ms": -1}})).await;
    assert_eq!(send(&floe, EVENTS, "{\"id\":1}").await.0, 200);
    let path = "/api/v1/streams/shop";
    let tag = async || {
        let answer = reqwest::get(floe.url(path)).await.unwrap();
        answer.headers()["etag"].to_str().unwrap().to_owned()
    };
    let put = async |query: &str, condition: Option<(&str, &str)>, body: Value| {
        let request = Client::new().put(floe.url(&format!("{path}{query}"))).body(body.to_string());
        let request =
            condition.into_iter().fold(request, |it, (name, value)| it.header(name, value));
        told(request.send().await.unwrap()).await
    };
    let first = tag().await;
    let wish = json!({"tags": ["a"], "options": {"table.contract.coerce": "lenient"}});
    let (status, tried) = put("?dry_run=true", None, wish.clone()).await;
    assert_eq!((status, &tried["tags"]), (200, &json!(["a"])), "{tried}");
    assert_eq!(tag().await, first, "nothing was changed");
    let (status, now) = put("", Some(("if-match", &first)), wish.clone()).await;
    assert_eq!((status, &now["namespace"]), (200, &json!("default")), "{now}");
    assert_eq!(now["options"], wish["options"]);
    let topic = floe.get("/api/v1/topics/shop.events.sales").await;
    let option = |key: &str| {
        let all = topic["options"].as_array().unwrap();
        all.iter().find(|option| option["key"] == key).unwrap()["source"] == "topic"
    };
    assert!(option("table.contract.coerce") && !option("retention.ms"));
    // What was read can be sent back.
    assert_eq!(put("", Some(("if-match", "*")), now).await.0, 200);
    for condition in [("if-match", &*first), ("if-none-match", "*")] {
        let (status, answer) = put("", Some(condition), wish.clone()).await;
        assert_eq!((status, &answer["code"]), (412, &json!("precondition_failed")), "{answer}");
    }
    let delete = Client::new().delete(floe.url(path)).header("if-match", &*first);
    assert_eq!(delete.send().await.unwrap().status(), 412);
    let patch =
        Client::new().patch(floe.url(&format!("{path}?dry_run=true"))).body("{\"tags\":[]}");
    assert_eq!(told(patch.send().await.unwrap()).await.1["tags"], json!([]));
    assert_eq!(floe.get(path).await["tags"], json!(["a"]));
    let (_, answer) = put("", None, json!({"options": {"table.name": "t"}})).await;
    assert_eq!(answer["code"], "invalid_stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parameter_that_a_route_does_not_know_is_refused_with_those_that_it_knows() {
    let floe = Floe::start(&[]).await;
    for (method, path, wanted) in [
        (Method::POST, "/api/v1/streams?dry_run=true", "there is none"),
        (Method::POST, "/api/v1/topics?dry_run=true", "there is none"),
        (Method::GET, "/api/v1/topics?page=2", "there is limit, after"),
        (Method::DELETE, "/api/v1/topics/t?force=1", "there is none"),
        (Method::PUT, "/api/v1/sources/s?dryrun=true", "there is dry_run"),
        (Method::GET, "/api/v1/topics/t/channels/c?x", "there is none"),
    ] {
        let body = json!({"name": "made"});
        let (status, answer) = ask(&floe, method.clone(), path, body).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_request")), "{path}: {answer}");
        assert!(answer["detail"].as_str().unwrap().ends_with(wanted), "{path}: {answer}");
    }
    for list in ["topics", "streams"] {
        assert_eq!(floe.get(&format!("/api/v1/{list}")).await[list], json!([]), "nothing was made");
    }
}

async fn page(floe: &Floe, path: &str) -> (Vec<(i64, i64)>, Option<String>) {
    let answer = floe.get(path).await;
    let records = answer["records"].as_array().unwrap_or_else(|| panic!("{path}: {answer}"));
    let place = |record: &Value| {
        (record["partition"].as_i64().unwrap(), record["offset"].as_i64().unwrap())
    };
    (records.iter().map(place).collect(), answer["next"].as_str().map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_can_be_looked_at() {
    let floe = floe(json!({})).await;
    let made = json!({"name": "t-1", "partitions": 2});
    assert_eq!(ask(&floe, Method::POST, "/api/v1/topics", made).await.0, 201);
    for (partition, count) in [(0, 3), (1, 2)] {
        for id in 0..count {
            let path = format!("/api/v1/topics/t-1/events?partition={partition}&key=k");
            let headers = [("x-kafka-header-source", "web")];
            assert_eq!(
                post(&floe, &path, &headers, format!("{{\"id\":{id}}}")).await.status(),
                200
            );
        }
    }
    let all = "/api/v1/topics/t-1/records";
    let first = floe.get(&format!("{all}?limit=1")).await["records"][0].clone();
    assert_eq!((&first["key"], &first["value"]), (&json!("k"), &json!("{\"id\":0}")), "{first}");
    let source = json!({"name": "source", "value": "web"});
    assert!(first["headers"].as_array().unwrap().contains(&source), "{first}");
    let everything = vec![(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)];
    assert_eq!(page(&floe, all).await, (everything.clone(), None));
    // Page by page.
    let (mut found, next) = page(&floe, &format!("{all}?limit=2")).await;
    let mut next = next;
    while let Some(after) = next {
        let (more, then) = page(&floe, &format!("{all}?limit=2&after={after}")).await;
        assert!(!more.is_empty());
        found.extend(more);
        next = then;
    }
    assert_eq!(found, everything);
    assert_eq!(page(&floe, &format!("{all}?partition=0&offset=2")).await.0, [(0, 2)]);
    assert_eq!(page(&floe, &format!("{all}?offset=latest&limit=2")).await.0, [(0, 2), (1, 1)]);
    let ms = first["timestamp_ms"].as_i64().unwrap();
    assert_eq!(page(&floe, &format!("{all}?timestamp={ms}")).await.0, everything);
    assert_eq!(page(&floe, &format!("{all}?timestamp={}", ms + 3_600_000)).await.0, []);
    for (query, code) in [
        ("offset=1", "bad_request"),
        ("limit=0", "bad_request"),
        ("after=x", "bad_request"),
        ("partition=2", "invalid_partition"),
        ("table=floe.events.sales", "bad_request"),
    ] {
        let (_, answer) = ask(&floe, Method::GET, &format!("{all}?{query}"), Value::Null).await;
        assert_eq!(answer["code"], code, "{query}: {answer}");
    }
    // Those of the topics behind a stream.
    let (_, stored) = send(&floe, EVENTS, "{\"id\":1}").await;
    let partition = stored["partition"].as_i64().unwrap();
    let of_stream = "/api/v1/streams/shop/records";
    let of_table = format!("{of_stream}?table=floe.events.sales&partition={partition}");
    let shown = floe.get(&of_table).await;
    assert_eq!(shown["records"][0]["topic"], "shop.events.sales", "{shown}");
    assert_eq!(page(&floe, of_stream).await.0, [(partition, 0)]);
    assert_eq!(page(&floe, &format!("{of_stream}?table=floe.events.none")).await.0, []);
    let (_, answer) =
        ask(&floe, Method::GET, &format!("{of_stream}?partition=0"), Value::Null).await;
    assert_eq!(answer["code"], "bad_request", "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_followed_as_they_come_until_the_server_ends() {
    let mut floe = floe(json!({})).await;
    assert_eq!(post(&floe, "/api/v1/topics/t/events", &[], "{\"id\":0}").await.status(), 200);
    let follow = async |path: &str| {
        let answer = reqwest::get(floe.url(path)).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Box::pin(answer.bytes_stream())
    };
    let mut tails = [
        follow("/api/v1/topics/t/tail").await,
        follow("/api/v1/topics/t/tail?offset=earliest").await,
        follow("/api/v1/streams/shop/tail").await,
    ];
    assert_eq!(post(&floe, "/api/v1/topics/t/events", &[], "{\"id\":1}").await.status(), 200);
    // Its topic is made by it.
    assert_eq!(send(&floe, EVENTS, "{\"id\":2}").await.0, 200);
    for (tail, wanted) in tails.iter_mut().zip([&[1][..], &[0, 1], &[2]]) {
        let mut seen = String::new();
        let reading = async {
            while seen.matches("data:").count() < wanted.len() {
                seen.push_str(&String::from_utf8_lossy(&tail.next().await.unwrap().unwrap()));
            }
        };
        tokio::time::timeout(WAIT_MAX, reading).await.unwrap();
        let events = seen.lines().filter_map(|line| line.strip_prefix("data: "));
        let events: Vec<Value> = events.map(|text| serde_json::from_str(text).unwrap()).collect();
        let mut values: Vec<&str> =
            events.iter().map(|event| event["value"].as_str().unwrap()).collect();
        values.sort_unstable();
        let wanted: Vec<String> = wanted.iter().map(|id| format!("{{\"id\":{id}}}")).collect();
        assert_eq!(values, wanted);
    }
    let (_, answer) = ask(&floe, Method::GET, "/api/v1/topics/none/tail", Value::Null).await;
    assert_eq!(answer["code"], "unknown_topic");
    assert_eq!(floe.stop().await, Some(0), "it does not wait for them");
    for tail in &mut tails {
        let end = async { while let Some(Ok(_)) = tail.next().await {} };
        tokio::time::timeout(WAIT_MAX, end).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_may_say_where_key_time_and_headers_of_its_events_are() {
    let floe = Floe::start(&[]).await;
    let make = async |name: &str, options: Value| {
        let body = json!({"name": name, "partitions": 1, "options": options});
        let (status, answer) = ask(&floe, Method::POST, "/api/v1/topics", body).await;
        assert_eq!(status, 201, "{answer}");
    };
    let options = json!({"topic.key.field": "$.user.id", "topic.timestamp.field": "$.at",
        "topic.header.fields": "source=$.source"});
    make("t", options).await;
    make("events", json!({"topic.key.field": "ce_subject"})).await;
    let event = r#"{"user":{"id":7},"at":1700000000000,"source":"web"}"#;
    let path = "/api/v1/topics/t/events";
    assert_eq!(post(&floe, path, &[], event).await.status(), 200);
    assert_eq!(post(&floe, &format!("{path}?key=own"), &[], event).await.status(), 200);
    // On other routes too.
    let v2 = ("content-type", "application/vnd.kafka.json.v2+json");
    let body = format!(r#"{{"records":[{{"value":{event}}}]}}"#);
    assert_eq!(post(&floe, "/topics/t", &[v2], body).await.status(), 200);
    let (status, answer) = told(post(&floe, path, &[], r#"{"at":1}"#).await).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (422, &json!("bad_key")), "{answer}");
    let found = consumed(&floe, "t", 1);
    let keys: Vec<_> = found.iter().map(|record| text(record.key.as_ref())).collect();
    assert_eq!(keys, [Some("7"), Some("own"), Some("7")]);
    for record in &found {
        assert_eq!(header(record, "source"), Some("web"));
    }
    let times = floe.get("/api/v1/topics/t/records").await;
    assert_eq!(times["records"][0]["timestamp_ms"], 1_700_000_000_000_i64);
    let cloud = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-subject", "order-7"),
    ];
    let events = "/api/v1/topics/events/events";
    assert_eq!(post(&floe, events, &cloud, "{}").await.status(), 200);
    let other = cloud.map(|(name, value)| (name, if name == "ce-id" { "2" } else { value }));
    let keyed: Vec<_> = other.into_iter().chain([("ce-partitionkey", "p")]).collect();
    assert_eq!(post(&floe, events, &keyed, "{}").await.status(), 200);
    let keys = consumed(&floe, "events", 1);
    let keys: Vec<_> = keys.iter().map(|record| text(record.key.as_ref())).collect();
    assert_eq!(keys, [Some("order-7"), Some("p")]);
    for (key, value) in [("topic.key.field", "a b"), ("topic.header.fields", "a=b")] {
        let body = json!({"name": "bad", "options": {key: value}});
        let (status, answer) = ask(&floe, Method::POST, "/api/v1/topics", body).await;
        assert_eq!((status, &answer["code"]), (400, &json!("invalid_topic")), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_are_proposed_with_the_statement_that_makes_the_table() {
    let floe = Floe::start(&[]).await;
    assert_eq!(ask(&floe, Method::POST, "/api/v1/topics", json!({"name": "o-1"})).await.0, 201);
    assert_eq!(ask(&floe, Method::PUT, "/api/v1/sources/s", json!({"topic": "o-1"})).await.0, 201);
    let samples = json!([{"price": 2.5, "n": 1}]);
    let ddl = "CREATE TABLE `floe`.`streams`.`o_1` (\n  `id` STRING,\n  `received_at` TIMESTAMP,\n  \
               `price` DOUBLE,\n  `n` BIGINT\n) USING iceberg";
    for path in ["/api/v1/topics/o-1/infer", "/api/v1/sources/s/infer"] {
        let (status, answer) = ask(&floe, Method::POST, path, samples.clone()).await;
        assert_eq!((status, &answer["ddl"]), (200, &json!(ddl)), "{path}: {answer}");
        assert_eq!(answer["mapping"]["columns"][2]["name"], "price", "{answer}");
    }
}
