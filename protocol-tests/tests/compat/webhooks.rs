//! Webhooks: signed messages in, a Kafka consumer reads what they stored.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use protocol_tests::{Floe, binary};
use reqwest::Client;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{consumed, header, now_s, post, text, told};

const JSON: (&str, &str) = ("content-type", "application/json");

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

async fn make(floe: &Floe, wish: Value) -> Value {
    let (status, made) =
        told(post(floe, "/api/v1/webhooks", &[JSON], wish.to_string()).await).await;
    assert_eq!(status, 201, "{made}");
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn github_is_stored_once_by_delivery_with_its_event() {
    let mut floe = Floe::start(&[]).await;
    let wish = json!({"name": "shop", "topic": "events", "scheme": "github"});
    let made = make(&floe, wish.clone()).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert_eq!(made["path"], "/webhooks/shop");
    let body = r#"{"action" : "opened"}"#;
    let good = format!("sha256={}", hex(&hmac(secret.as_bytes(), &[body.as_bytes()])));
    let send = async |floe: &Floe, delivery: &str, signature: &str, body: &str| {
        let headers = [
            JSON,
            ("x-hub-signature-256", signature),
            ("x-github-delivery", delivery),
            ("x-github-event", "push"),
        ];
        told(post(floe, "/webhooks/shop", &headers, body).await).await
    };
    for duplicate in [false, true] {
        let (status, answer) = send(&floe, "d-1", &good, body).await;
        assert_eq!((status, &answer["duplicate"]), (200, &json!(duplicate)), "{answer}");
    }
    // Another body, another secret, none.
    for (signature, body) in
        [(&*good, "{}"), ("sha256=00", body), (&format!("sha256={}", "0".repeat(64)), body)]
    {
        let (status, answer) = send(&floe, "d-2", signature, body).await;
        assert_eq!((status, &answer["code"]), (401, &json!("invalid_signature")), "{answer}");
    }
    let (status, answer) = told(post(&floe, "/webhooks/shop", &[JSON], body).await).await;
    assert_eq!((status, &answer["code"]), (401, &json!("invalid_signature")));
    let form = ("content-type", "application/x-www-form-urlencoded");
    let signed = ("x-hub-signature-256", &*good);
    for headers in [[form, signed], [("content-encoding", "gzip"), signed]] {
        assert_eq!(told(post(&floe, "/webhooks/shop", &headers, body).await).await.0, 415);
    }
    let (status, answer) = told(post(&floe, "/webhooks/none", &[JSON, signed], body).await).await;
    assert_eq!((status, &answer["code"]), (404, &json!("unknown_webhook")));
    // The secret is told once, and a webhook survives what its tokens survive.
    let (status, answer) =
        told(post(&floe, "/api/v1/webhooks", &[JSON], wish.to_string()).await).await;
    assert_eq!((status, &answer["code"]), (409, &json!("exists")));
    let listed = floe.get("/api/v1/webhooks").await;
    assert_eq!(listed["webhooks"][0]["topic"], "events");
    assert!(!listed.to_string().contains(&secret) && !floe.log().contains(&secret));
    floe.kill();
    std::fs::remove_dir_all(floe.dir().join("data/state")).unwrap();
    floe.restart().await;
    let (status, answer) = send(&floe, "d-1", &good, body).await;
    assert_eq!((status, &answer["duplicate"]), (200, &json!(true)), "{answer}");
    assert_eq!(send(&floe, "d-3", &good, body).await.0, 200);
    let found = consumed(&floe, "events", 4);
    let values: Vec<_> = found.iter().map(|record| text(record.value.as_ref())).collect();
    assert_eq!(values, [Some(body); 2]);
    assert_eq!(
        (header(&found[0], "x-github-event"), header(&found[0], "content-type")),
        (Some("push"), Some("application/json"))
    );
    let ended = Client::new().delete(floe.url("/api/v1/webhooks/shop")).send().await.unwrap();
    assert_eq!(ended.status(), 204);
    assert_eq!(send(&floe, "d-4", &good, body).await.0, 404);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_webhooks_are_checked_by_id_time_and_body() {
    let floe = Floe::start(&[]).await;
    let key = [7; 32];
    let secret = format!("whsec_{}", STANDARD.encode(key));
    let made =
        make(&floe, json!({"name": "s", "topic": "t", "scheme": "standard", "secret": secret}))
            .await;
    assert_eq!(made["secret"], json!(secret));
    let body = "not even JSON";
    let sign = |id: &str, time: u64| {
        let before = format!("{id}.{time}.");
        format!("v1,{}", STANDARD.encode(hmac(&key, &[before.as_bytes(), body.as_bytes()])))
    };
    let send = async |id: &str, time: u64, signature: &str| {
        let time = time.to_string();
        let headers =
            [("webhook-id", id), ("webhook-timestamp", &*time), ("webhook-signature", signature)];
        told(post(&floe, "/webhooks/s", &headers, body).await).await
    };
    let now = now_s();
    let old = format!("v1,{}", STANDARD.encode([0; 32]));
    for (id, time, signature, status) in [
        ("m1", now, sign("m1", now), 200),
        ("m2", now - 200, format!("{old} {}", sign("m2", now - 200)), 200),
        ("m3", now, sign("m1", now), 401),
        ("m3", now - 1, sign("m3", now), 401),
        ("m3", now, old, 401),
        ("m3", now - 400, sign("m3", now - 400), 401),
        ("m3", now + 400, sign("m3", now + 400), 401),
        ("m1", now, sign("m1", now), 200),
    ] {
        let (found, answer) = send(id, time, &signature).await;
        assert_eq!(found, status, "{id} {time} {answer}");
    }
    let found = consumed(&floe, "t", 4);
    let mut ids: Vec<_> =
        found.iter().map(|record| header(record, "webhook-id").unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["m1", "m2"]);
    for (wish, code) in [
        (json!({"name": "a/b", "topic": "t", "scheme": "github"}), "invalid_webhook"),
        (json!({"name": "a", "topic": "a b", "scheme": "github"}), "invalid_webhook"),
        (json!({"name": "a", "topic": "t", "scheme": "sns"}), "invalid_webhook"),
        (
            json!({"name": "a", "topic": "t", "scheme": "github", "secret": "short"}),
            "invalid_webhook",
        ),
        (json!({"name": "a", "topic": "t"}), "bad_request"),
    ] {
        let (status, answer) =
            told(post(&floe, "/api/v1/webhooks", &[JSON], wish.to_string()).await).await;
        assert_eq!((status, &answer["code"]), (400, &json!(code)), "{wish}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_makes_lists_and_deletes() {
    let floe = Floe::start(&[]).await;
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(arguments).args(["--url", &floe.url("")]).env_remove("FLOE_TOKEN");
        let ran = tokio::task::block_in_place(|| command.output().unwrap());
        let out = String::from_utf8(ran.stdout).unwrap();
        (ran.status.code(), out, String::from_utf8(ran.stderr).unwrap())
    };
    let (code, secret, error) = run(&["webhook", "create", "w", "--topic", "t"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(secret.starts_with("whsec_") && secret.lines().count() == 1, "{secret}");
    let (code, listed, _) = run(&["webhook", "list"]);
    assert_eq!(code, Some(0));
    assert!(listed.contains("/webhooks/w") && listed.contains("standard"), "{listed}");
    assert!(!listed.contains(secret.trim()));
    assert_eq!(run(&["webhook", "create", "w", "--topic", "t"]).0, Some(1));
    assert_eq!(run(&["webhook", "create", "x", "--topic", "t", "--scheme", "sns"]).0, Some(2));
    assert_eq!(run(&["webhook", "delete", "w"]).0, Some(0));
    assert_eq!(run(&["webhook", "delete", "w"]).0, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_url_lets_senders_in_that_can_set_no_header() {
    let mut floe = Floe::start(&["--log", "debug"]).await;
    let wish = json!({"name": "forms", "topic": "forms", "scheme": "url"});
    let made = make(&floe, wish).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    let path = made["path"].as_str().unwrap().to_owned();
    assert_eq!(path, format!("/webhooks/forms/{secret}"));
    let listed =
        told(Client::new().get(floe.url("/api/v1/webhooks")).send().await.unwrap()).await.1;
    assert!(!listed.to_string().contains(&secret), "{listed}");
    // What a page sends with sendBeacon, from any origin.
    let beacon = [("content-type", "text/plain"), ("origin", "http://localhost")];
    let response = post(&floe, &path, &beacon, r#"{"n":1}"#).await;
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(told(response).await.1["accepted"], 1);
    let lines = [("content-type", "application/x-ndjson"), ("idempotency-key", "k")];
    let keyed = format!("{path}?key=$.n");
    for duplicate in [false, true] {
        let (status, answer) =
            told(post(&floe, &keyed, &lines, "{\"n\":2}\n{\"n\":3}").await).await;
        assert_eq!((status, &answer["duplicate"]), (200, &json!(duplicate)), "{answer}");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let (status, answer) = told(post(&floe, &path, &form, "n=0&tag=a&tag=b").await).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    assert_eq!(post(&floe, &path, &form, "some text").await.status(), 415);
    let other = format!("/webhooks/forms/{}", "0".repeat(48));
    let elsewhere = format!("/webhooks/other/{secret}");
    for wrong in [&*other, &elsewhere, "/webhooks/forms", "/webhooks/forms/"] {
        let (status, answer) = told(post(&floe, wrong, &[], "{}").await).await;
        assert_eq!(status, 404, "{wrong}: {answer}");
    }
    let mut found: Vec<_> = consumed(&floe, "forms", 4).into_iter().map(|it| it.value).collect();
    found.sort();
    let wanted = [r#"{"n":"0","tag":["a","b"]}"#, r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#];
    assert_eq!(found, wanted.map(|value| Some(value.as_bytes().to_vec())));
    // From now on all else needs a token.
    let token = told(post(&floe, "/api/v1/tokens", &[JSON], r#"{"name":"admin"}"#).await).await.1;
    let token = ("token", token["token"].as_str().unwrap());
    let native = post(&floe, "/api/v1/topics/forms/events", &[], "{}").await;
    assert_eq!(native.status(), 401);
    let rotated = post(&floe, "/api/v1/webhooks/forms/rotate", &[token], "").await;
    let rotated = told(rotated).await.1["path"].as_str().unwrap().to_owned();
    assert_eq!(post(&floe, &path, &[], "{}").await.status(), 404, "the old one ended");
    floe.kill();
    floe.restart().await;
    assert_eq!(told(post(&floe, &rotated, &[], r#"{"n":4}"#).await).await.0, 200);
    let log = floe.log();
    assert!(log.contains("DEBUG"), "the log has all there is");
    for secret in [secret.as_str(), rotated.rsplit('/').next().unwrap()] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

/// A server that answers one request as SNS does and tells its path.
#[allow(clippy::disallowed_methods, reason = "it ends with the test")]
async fn confirming() -> (String, tokio::task::JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let length = stream.read(&mut head).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        head.split(' ').nth(1).unwrap_or_default().to_owned()
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_sns_are_confirmed_for_topics_that_are_named() {
    let (sns, asked) = confirming().await;
    let arn = "arn:aws:sns:eu-west-1:1:orders";
    let flags = [format!("--webhook-sns-topic={arn}"), format!("--webhook-sns-endpoint={sns}")];
    let floe = Floe::start(&flags.each_ref().map(String::as_str)).await;
    let made = make(&floe, json!({"name": "sns", "topic": "sns", "scheme": "url"})).await;
    let path = made["path"].as_str().unwrap().to_owned();
    let text = ("content-type", "text/plain; charset=UTF-8");
    let ask = async |arn: &str, url: &str| {
        let body = json!({
            "Type": "SubscriptionConfirmation", "TopicArn": arn, "SubscribeURL": url,
            "Token": "t", "MessageId": "1",
        });
        let headers = [text, ("x-amz-sns-message-type", "SubscriptionConfirmation")];
        told(post(&floe, &path, &headers, body.to_string()).await).await
    };
    let url = format!("{sns}/?Action=ConfirmSubscription&Token=t");
    let (status, refused) = ask("arn:aws:sns:eu-west-1:1:other", &url).await;
    assert_eq!((status, &refused["code"]), (403, &json!("forbidden")), "{refused}");
    let (status, _) = ask(arn, "http://127.0.0.1:1/elsewhere").await;
    assert_eq!(status, 403);
    let (status, confirmed) = ask(arn, &url).await;
    assert_eq!((status, &confirmed["confirmed"]), (200, &json!(true)), "{confirmed}");
    assert_eq!(asked.await.unwrap(), "/?Action=ConfirmSubscription&Token=t");
    // Nobody answers there any more: SNS may come again.
    let (status, failed) = ask(arn, &url).await;
    assert_eq!((status, &failed["code"]), (503, &json!("subscription_unconfirmed")), "{failed}");
    assert!(!floe.log().contains("Token=t"), "the address has a token in it");
    let headers =
        [text, ("x-amz-sns-message-type", "Notification"), ("x-amz-sns-message-id", "m-1")];
    let body = json!({"Type": "Notification", "MessageId": "m-1", "Message": "hi"}).to_string();
    for duplicate in [false, true] {
        let (status, answer) = told(post(&floe, &path, &headers, body.clone()).await).await;
        assert_eq!((status, &answer["duplicate"]), (200, &json!(duplicate)), "{answer}");
    }
    let found = consumed(&floe, "sns", 4);
    assert_eq!(found[0].value.as_deref(), Some(body.as_bytes()));
}
