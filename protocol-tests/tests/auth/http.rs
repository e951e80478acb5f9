//! Every route over HTTP: closed without a token, and open to who has the right.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Guarded, senders};

/// Every route with its methods, placeholders filled in, and whether it is open; without those of
/// the REST proxy and of other senders, whose answers have a form of their own, and those of events
/// whose checks have another order.
async fn routes(guarded: &Guarded) -> Vec<(Method, String, bool)> {
    let mut routes = described(guarded).await;
    // Of the rights of this one `streams` tells.
    let streams = ["/data-plane", "/api/v1/streams/t/events"];
    let is_stream = |path: &str| streams.iter().any(|start| path.starts_with(start));
    let own = |path: &str| is_proxy(path) || senders::is_route(path) || is_stream(path);
    routes.retain(|(_, path, _)| !own(path));
    assert!(routes.len() > 18, "{routes:?}");
    routes
}

fn is_proxy(path: &str) -> bool {
    let starts = ["/topics", "/brokers", "/consumers", "/v3/", "/kafka/v3/"];
    starts.iter().any(|start| path.starts_with(start))
}

/// Every route of the description.
async fn described(guarded: &Guarded) -> Vec<(Method, String, bool)> {
    let document: Value = guarded.floe.get("/openapi.json").await;
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{topic}", "t").replace("{table}", "t");
        let path = path.replace("{token}", "t").replace("{channel}", "t");
        let path = path.replace("{namespace}", "n").replace("{stream}", "t");
        for (method, operation) in item.as_object().unwrap() {
            if operation["responses"].is_object() {
                let is_open = operation["security"] == json!([]);
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                routes.push((method, path.clone(), is_open));
            }
        }
    }
    routes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_answers_without_a_token_but_those_that_are_open() {
    let guarded = Guarded::start(&[]).await;
    for (method, path, is_open) in routes(&guarded).await {
        for token in [None, Some("floe_abcdefghij_0123456789012345678901234567890123456789")] {
            let answer = guarded.request(method.clone(), &path, token).send().await.unwrap();
            let status = answer.status().as_u16();
            let challenge = answer.headers().get("www-authenticate").cloned();
            let body: Value = answer.json().await.unwrap_or_default();
            if is_open {
                assert!(body["code"] != "missing_token", "{method} {path}: {status} {body}");
                continue;
            }
            let code = if token.is_none() { "missing_token" } else { "invalid_token" };
            assert_eq!((status, &body["code"]), (401, &json!(code)), "{method} {path}: {body}");
            assert!(challenge.unwrap().to_str().unwrap().starts_with("Bearer"), "{path}");
            assert_eq!(body["retryable"], false);
        }
    }
    let (status, _) = guarded.ask(Method::GET, "/no/such/path", None, None).await;
    assert_eq!(status, 401, "what is there is not told either");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_refused_where_none_was_ever_made_and_the_answer_says_so() {
    let floe = protocol_tests::Floe::start(&[]).await;
    let send = async |token: Option<&str>| {
        let request = reqwest::Client::new().post(floe.url("/api/v1/topics/t/events")).body("{}");
        let request = match token {
            Some(token) => request.header("token", token),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(send(None).await.0, 200);
    let (status, answer) = send(Some("a-token-of-another-server")).await;
    assert_eq!((status, &answer["code"]), (401, &json!("invalid_token")));
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("no token was ever made here"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_rights_gets_nothing_from_any_route() {
    let guarded = Guarded::start(&[]).await;
    let (status, _) = guarded
        .ask(Method::POST, "/api/v1/topics", Some(&guarded.admin), Some(json!({ "name": "t" })))
        .await;
    assert_eq!(status, 201);
    let weak = guarded.token("weak", &["describe:topic:other"]).await;
    let bodies = json!({
        "/api/v1/topics": { "name": "new" }, "/api/v1/tokens": { "name": "new" },
        "/api/v1/tables/t/resume": { "from": "table" }, "/api/v1/topics/t/events": { "id": 1 },
        "/api/v1/topics/t": {}, "/api/v1/streams": { "name": "new" },
    });
    for (method, path, is_open) in routes(&guarded).await {
        if is_open {
            continue;
        }
        let body = (method != Method::GET).then(|| bodies[&path].clone());
        let (status, answer) = guarded.ask(method.clone(), &path, Some(&weak), body).await;
        if path == "/api/v1/acks/t" {
            assert_eq!(status, 404, "which topic a token names is not known before it is read");
            continue;
        }
        if path == "/api/v1/tables/t/events" {
            assert_eq!((status, &answer["code"]), (400, &json!("invalid_table_name")), "{method}");
            continue;
        }
        let lists = ["/api/v1/topics", "/api/v1/tables", "/api/v1/streams", "/api/v1/quarantine"];
        let lists = lists.contains(&path.as_str());
        if lists && method == Method::GET {
            let list = answer.as_object().unwrap().values().next().unwrap();
            assert_eq!((status, list), (200, &json!([])), "{path}");
            continue;
        }
        assert_eq!((status, &answer["code"]), (403, &json!("forbidden")), "{method} {path}");
        assert!(answer["detail"].as_str().unwrap().contains("lacks the rule"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_of_the_rest_proxy_are_closed_in_its_own_form() {
    let guarded = Guarded::start(&[]).await;
    let (_, clusters) = guarded.ask(Method::GET, "/v3/clusters", Some(&guarded.admin), None).await;
    let cluster = clusters["data"][0]["cluster_id"].as_str().unwrap();
    let made = Some(json!({ "name": "t" }));
    guarded.ask(Method::POST, "/api/v1/topics", Some(&guarded.admin), made).await;
    let mut routes = described(&guarded).await;
    routes.retain(|(_, path, _)| is_proxy(path));
    assert!(routes.len() > 17, "{routes:?}");
    let weak = guarded.token("weak", &["describe:topic:other"]).await;
    let strong = guarded.token("strong", &["write:topic:t"]).await;
    for (method, path, _) in routes {
        let path = path.replace("{cluster}", cluster).replace("{partition}", "0");
        let path = path.replace("{rest}", "group");
        let (status, answer) = guarded.ask(method.clone(), &path, None, None).await;
        assert_eq!((status, &answer["error_code"]), (401, &json!(40_101)), "{method} {path}");
        let (status, answer) = guarded.ask(method.clone(), &path, Some(&weak), None).await;
        if path.contains("/topics/t") {
            assert_eq!((status, &answer["error_code"]), (403, &json!(40_301)), "{method} {path}");
        } else if path.ends_with("/topics") {
            let list = answer.get("data").unwrap_or(&answer);
            assert_eq!((status, list), (200, &json!([])), "{method} {path}");
        }
        let (status, _) = guarded.ask(method.clone(), &path, Some(&strong), None).await;
        assert!(![401, 403].contains(&status), "{method} {path}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_opens_what_it_names() {
    let guarded = Guarded::start(&[]).await;
    let events = |topic: &str| format!("/api/v1/topics/{topic}/events");
    let event = || Some(json!({ "id": 1 }));
    let writer = guarded.token("writer", &["write:topic:orders-*"]).await;
    let (status, answer) =
        guarded.ask(Method::POST, &events("orders-1"), Some(&writer), event()).await;
    assert_eq!(status, 403, "who may write may not make the topic: {answer}");
    assert!(answer["detail"].as_str().unwrap().contains("create:topic:orders-1"), "{answer}");
    let maker = guarded.token("maker", &["write:topic:orders-*", "create:topic:orders-*"]).await;
    let (status, _) = guarded.ask(Method::POST, &events("orders-1"), Some(&maker), event()).await;
    assert_eq!(status, 200);
    let (status, _) = guarded.ask(Method::POST, &events("orders-1"), Some(&writer), event()).await;
    assert_eq!(status, 200);
    let (status, _) = guarded.ask(Method::POST, &events("other"), Some(&maker), event()).await;
    assert_eq!(status, 403);
    let (_, list) = guarded.ask(Method::GET, "/api/v1/topics", Some(&writer), None).await;
    assert_eq!(list["topics"][0]["name"], "orders-1", "writing brings describing");
    let topic = "/api/v1/topics/orders-1";
    for (method, body) in [(Method::PATCH, Some(json!({}))), (Method::DELETE, None)] {
        let (status, _) = guarded.ask(method, topic, Some(&maker), body).await;
        assert_eq!(status, 403);
    }
    let keeper = guarded.token("keeper", &["alter:table:streams.orders_1"]).await;
    let flush = "/api/v1/tables/streams.orders_1/flush";
    assert_eq!(guarded.ask(Method::POST, flush, Some(&maker), None).await.0, 403);
    assert_eq!(guarded.ask(Method::POST, flush, Some(&keeper), None).await.0, 200);
    // A table's short name stands for the table, not for a rule of its own.
    let alias = guarded.token("alias", &["alter:table:orders_1"]).await;
    let short = "/api/v1/tables/orders_1/flush";
    assert_eq!(guarded.ask(Method::POST, short, Some(&alias), None).await.0, 403);
    assert_eq!(guarded.ask(Method::POST, short, Some(&keeper), None).await.0, 200);
    let scraper = guarded.token("scraper", &["describe:cluster"]).await;
    assert_eq!(guarded.ask(Method::GET, "/metrics", Some(&maker), None).await.0, 403);
    let scraped = guarded.request(Method::GET, "/metrics", None).bearer_auth(scraper).send().await;
    let metrics = scraped.unwrap().text().await.unwrap();
    assert!(metrics.contains("floe_auth_failures_total"), "refusals are counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_and_quarantine_need_their_own_rights() {
    let guarded = Guarded::start(&[]).await;
    let path = "/api/v1/topics/t/events";
    let late = format!("{path}?ack=committed&wait=0");
    let (status, answer) =
        guarded.ask(Method::POST, &late, Some(&guarded.admin), Some(json!({ "id": 1 }))).await;
    assert_eq!(status, 202, "{answer}");
    let ack = answer["ack_url"].as_str().unwrap();
    let writer = guarded.token("writer", &["write:topic:t"]).await;
    let other = guarded.token("other", &["write:topic:u"]).await;
    assert_eq!(guarded.ask(Method::GET, ack, Some(&writer), None).await.0, 200);
    assert_eq!(guarded.ask(Method::GET, ack, Some(&other), None).await.0, 403);
    let kept = format!("{path}?on_error=quarantine");
    let (status, answer) =
        guarded.ask(Method::POST, &kept, Some(&writer), Some(json!({ "id": 1 }))).await;
    assert_eq!(status, 403);
    assert!(answer["detail"].as_str().unwrap().contains("t.quarantine"), "{answer}");
    // So does a replay, which keeps what is refused again; to try needs no more than to read it.
    let (status, answer) =
        guarded.ask(Method::POST, &kept, Some(&guarded.admin), Some(json!("x"))).await;
    assert_eq!(status, 200, "{answer}");
    let kept_in = json!({ "name": "t.quarantine" });
    guarded.ask(Method::POST, "/api/v1/topics", Some(&guarded.admin), Some(kept_in)).await;
    let reader = guarded.token("reader", &["write:topic:t", "read:topic:t.quarantine"]).await;
    let replay = "/api/v1/quarantine/t/replay";
    let (status, answer) = guarded.ask(Method::POST, replay, Some(&reader), None).await;
    assert_eq!(status, 403, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("write:topic:t.quarantine"), "{answer}");
    let tried = format!("{replay}?dry_run=true");
    assert_eq!(guarded.ask(Method::POST, &tried, Some(&reader), None).await.0, 200);
    assert_eq!(guarded.ask(Method::POST, replay, Some(&guarded.admin), None).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_may_ask_without_a_token_and_reads_that_it_needs_one() {
    let guarded = Guarded::start(&[]).await;
    let options = json!({ "topic.cors.origins": "https://a.example" });
    let wish = json!({ "name": "t", "options": options });
    let (status, _) =
        guarded.ask(Method::POST, "/api/v1/topics", Some(&guarded.admin), Some(wish)).await;
    assert_eq!(status, 201);
    for (method, wanted) in [(Method::OPTIONS, 204), (Method::POST, 401)] {
        let request = guarded.request(method, "/api/v1/topics/t/events", None);
        let answer = request.header("origin", "https://a.example").send().await.unwrap();
        assert_eq!(answer.status(), wanted);
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://a.example");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_counts_once_for_each_who_sends_it() {
    let guarded = Guarded::start(&[]).await;
    let (one, other) = (guarded.token("one", &[]).await, guarded.token("other", &[]).await);
    for (token, duplicate) in [(&one, false), (&other, false), (&one, true), (&other, true)] {
        let request = guarded.request(Method::POST, "/api/v1/topics/t/events", Some(token));
        let answer = request.header("idempotency-key", "k").body("{}").send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["duplicate"], duplicate, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_a_token_is_read_and_the_token_header_wins() {
    let guarded = Guarded::start(&[]).await;
    let token = guarded.token("any", &[]).await;
    let get = || reqwest::Client::new().get(guarded.floe.url("/api/v1/topics"));
    let forms = [
        get().header("token", &token),
        get().bearer_auth(&token),
        get().basic_auth("token", Some(&token)),
        get().basic_auth("any", Some(&token)),
        get().basic_auth(&token, Some("")),
        get().header("authorization", format!("ApiKey {token}")),
        get().header("authorization", format!("Splunk {token}")),
        get().header("X-API-Key", &token),
        get().header("X-StorageApi-Token", &token),
        get().header("token", &token).bearer_auth("wrong"),
    ];
    for form in forms {
        let shown = format!("{form:?}");
        assert_eq!(form.send().await.unwrap().status().as_u16(), 200, "{shown}");
    }
    let wrong = get().header("token", "wrong").bearer_auth(&token).send().await.unwrap();
    assert_eq!(wrong.status().as_u16(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_is_401_with_a_code_of_its_own() {
    let guarded = Guarded::start(&[]).await;
    let (wish, began) = (json!({ "name": "brief", "expires_in_ms": 1_000 }), Instant::now());
    let (status, made) =
        guarded.ask(Method::POST, "/api/v1/tokens", Some(&guarded.admin), Some(wish)).await;
    assert_eq!((status, &made["enforces"]), (201, &json!(false)));
    let brief = made["token"].as_str().unwrap();
    let ask = || guarded.ask(Method::GET, "/api/v1/topics", Some(brief), None);
    let status = ask().await.0;
    // On a slow machine it may be over by now.
    assert!(status == 200 || began.elapsed() > Duration::from_millis(990), "{status}");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (status, body) = ask().await;
    assert_eq!((status, &body["code"]), (401, &json!("expired_token")), "never 403");
    let gone = guarded.token("gone", &[]).await;
    guarded.revoke("gone").await;
    let (status, body) = guarded.ask(Method::GET, "/api/v1/topics", Some(&gone), None).await;
    assert_eq!((status, &body["code"]), (401, &json!("invalid_token")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_upload_is_told_before_it_is_sent_and_read_where_it_was() {
    let guarded = Guarded::start(&[]).await;
    let weak = guarded.token("weak", &["describe:cluster"]).await;
    for (header, status) in [(String::new(), "401"), (format!("token: {weak}\r\n"), "403")] {
        let address = guarded.floe.url("").trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /api/v1/topics/t/events HTTP/1.1\r\nhost: localhost\r\n{header}\
             expect: 100-continue\r\ncontent-length: 5000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(!answer.contains("100 Continue"), "{answer}");
    }
    // Who does not wait for the word is read to the end, and hears the answer.
    let body = vec![b' '; 10_000_000];
    let request = guarded.request(Method::POST, "/api/v1/topics/t/events", None).body(body);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_credentials_become_an_access_token_with_the_same_rights() {
    let guarded = Guarded::start(&[]).await;
    let shop = guarded.token("shop", &["write:topic:orders", "create:topic:orders"]).await;
    let ask = async |path: &str, basic: Option<(&str, &str)>, form: &str| {
        let mut request = guarded
            .request(Method::POST, path, None)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned());
        if let Some((user, password)) = basic {
            request = request.basic_auth(user, Some(password));
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let by_form = format!("grant_type=client_credentials&client_id=shop&client_secret={shop}");
    let exchange = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange\
                    &subject_token=x&subject_token_type=y";
    for path in ["/oauth/token", "/iceberg/v1/oauth/tokens"] {
        for (basic, form) in [
            (None, by_form.as_str()),
            (Some(("shop", shop.as_str())), "grant_type=client_credentials&scope=catalog"),
            (Some(("shop", shop.as_str())), exchange),
        ] {
            let (status, answer) = ask(path, basic, form).await;
            assert_eq!(status, 200, "{answer}");
            assert_eq!(
                (&answer["token_type"], &answer["expires_in"]),
                (&json!("Bearer"), &json!(3600))
            );
            assert_eq!(answer["scope"], "write:topic:orders create:topic:orders");
            assert!(answer.as_object().unwrap().values().all(|value| !value.is_object()), "flat");
            let access = answer["access_token"].as_str().unwrap();
            let events = |topic: &str| {
                let path = format!("/api/v1/topics/{topic}/events");
                guarded.request(Method::POST, &path, None).bearer_auth(access).body("{}")
            };
            assert_eq!(events("orders").send().await.unwrap().status().as_u16(), 200);
            assert_eq!(events("others").send().await.unwrap().status().as_u16(), 403);
            let again = format!("grant_type=client_credentials&client_secret={access}");
            assert_eq!(ask(path, None, &again).await.0, 401, "it cannot renew itself");
        }
        for (form, status, error) in [
            (
                "grant_type=client_credentials&client_id=shop&client_secret=no",
                401,
                "invalid_client",
            ),
            ("grant_type=client_credentials", 401, "invalid_client"),
            ("grant_type=password", 400, "unsupported_grant_type"),
            ("", 400, "invalid_request"),
            (&by_form.replace("client_id=shop", "client_id=other"), 401, "invalid_client"),
        ] {
            let (found, answer) = ask(path, None, form).await;
            assert_eq!((found, &answer["error"]), (status, &json!(error)), "{form}");
        }
    }
}
