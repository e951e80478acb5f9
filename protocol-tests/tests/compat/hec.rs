//! Splunk's HTTP Event Collector: raw requests in, a Kafka consumer reads what they stored.

use protocol_tests::Floe;
use protocol_tests::clients::create;
use reqwest::Client;
use serde_json::{Value, json};

use super::{consumed, now_s, post, text, told};

const CHANNEL: (&str, &str) = ("x-splunk-request-channel", "0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba");

fn values(floe: &Floe, topic: &str) -> Vec<Value> {
    let found = consumed(floe, topic, 4);
    found.iter().map(|it| serde_json::from_str(text(it.value.as_ref()).unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_in_the_topic_of_their_index() {
    let floe = Floe::start(&[]).await;
    let now = now_s();
    let body = format!(
        r#"{{"time":{now}.5,"host":"web-1","source":"app","sourcetype":"_json","event":{{"n":1}},"fields":{{"region":"eu"}}}}
        {{"time":"{now}","event":"text","index":"other"}}{{"event":7}}"#
    );
    for path in ["", "/event", "/event/1.0"] {
        let path = format!("/services/collector{path}");
        let sent = post(&floe, &path, &[("authorization", "Splunk any")], body.clone()).await;
        assert_eq!(sent.status(), 403, "a token that is none of ours is refused: {path}");
        let (status, answer) = told(post(&floe, &path, &[], body.clone()).await).await;
        assert_eq!((status, answer), (200, json!({"text": "Success", "code": 0})), "{path}");
    }
    let found = values(&floe, "splunk");
    let wanted = json!({"time": f64::from(u32::try_from(now).unwrap()) + 0.5, "host": "web-1", "source": "app",
        "sourcetype": "_json", "event": {"n": 1}, "fields": {"region": "eu"}});
    assert_eq!((found.len(), &found[0], &found[1]), (6, &wanted, &json!({"event": 7})));
    assert_eq!(values(&floe, "other").len(), 3);
    assert_eq!(floe.flush("splunk").await["rows"], 6);
    // Lines, with what the parameters say of them.
    let path = "/services/collector/raw?index=lines&host=h&sourcetype=syslog";
    for path in [path.to_owned(), path.replace("raw", "raw/1.0")] {
        let (status, answer) = told(post(&floe, &path, &[], "one\n\n two \r\n").await).await;
        assert_eq!((status, &answer["code"]), (200, &json!(0)));
    }
    let line = |text: &str| json!({"host": "h", "sourcetype": "syslog", "event": text});
    let found = values(&floe, "lines");
    assert_eq!(found.len(), 4);
    assert!(found.contains(&line("one")) && found.contains(&line(" two ")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_stores_nothing_and_names_the_event() {
    let floe = Floe::start(&["--auto-create-topics-enable", "false"]).await;
    create(&floe, "splunk", 4, &[("max.message.bytes", "2000")]).await;
    create(&floe, "other", 4, &[]).await;
    let large =
        format!(r#"{{"event":1,"index":"other"}}{{"event":1}}{{"event":"{}"}}"#, "x".repeat(3_000));
    for (path, body, status, code, event) in [
        ("/event", "", 400, 5, None),
        ("/event", r#"{"event":1} {"event":"#, 400, 6, Some(1)),
        ("/event", r#"{"event":1} {"time":1}"#, 400, 12, Some(1)),
        ("/event", r#"{"event":""}"#, 400, 13, Some(0)),
        ("/event", r#"{"event":1,"fields":1}"#, 400, 15, Some(0)),
        ("/event", r#"{"event":1}{"event":1,"index":"none"}"#, 400, 7, Some(1)),
        ("/event", r#"{"event":1}{"event":1,"time":253402300800}"#, 400, 6, Some(1)),
        ("/raw", " \n", 400, 5, None),
        ("/raw?index=none", "x", 400, 7, None),
        ("/ack", "{}", 400, 10, None),
        ("/ack?channel=c", "{}", 400, 6, None),
    ] {
        let path = format!("/services/collector{path}");
        let (found, answer) = told(post(&floe, &path, &[], body).await).await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{path} {body} {answer}");
        assert_eq!(
            answer.get("invalid-event-number"),
            event.map(|at| json!(at)).as_ref(),
            "{answer}"
        );
        assert!(answer["text"].is_string() && answer["detail"].is_string(), "{answer}");
    }
    let (status, answer) =
        told(post(&floe, "/services/collector", &[], " ".repeat(17 << 20)).await).await;
    assert_eq!((status, &answer["code"]), (413, &json!(27)));
    let wrong = Client::new().get(floe.url("/services/collector/event")).send().await.unwrap();
    assert_eq!(told(wrong).await.0, 405);
    for topic in ["splunk", "other"] {
        assert_eq!(consumed(&floe, topic, 4).len(), 0, "{topic}");
    }
    // Only the topic knows that the third is too large: the first is in a topic of its own.
    let (status, answer) = told(post(&floe, "/services/collector", &[], large).await).await;
    assert_eq!((status, &answer["invalid-event-number"]), (413, &json!(2)), "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("other indexes are stored"), "{answer}");
    assert_eq!((consumed(&floe, "splunk", 4).len(), consumed(&floe, "other", 4).len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_request_survives_a_kill_and_its_id_too() {
    // Without a channel `Success` is what log.flush says; with one it is the disk.
    let mut floe = Floe::start(&["--log-flush", "interval", "--log-flush-interval", "1h"]).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let body = format!(r#"{{"event":{n}}}"#);
        let (status, answer) =
            told(post(&floe, "/services/collector", &[CHANNEL], body).await).await;
        assert_eq!((status, &answer["text"]), (200, &json!("Success")));
        ids.push(answer["ackId"].as_u64().unwrap());
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    floe.kill();
    floe.restart().await;
    assert_eq!(consumed(&floe, "splunk", 4).len(), 3);
    let later = ids[2] + (1 << 50);
    let asked = json!({"acks": [ids[0], ids[2], later]}).to_string();
    for (path, headers) in [("", &[CHANNEL][..]), ("?channel=c", &[])] {
        let path = format!("/services/collector/ack{path}");
        let (status, answer) = told(post(&floe, &path, headers, asked.clone()).await).await;
        let wanted = json!({"acks": {ids[0].to_string(): true, ids[2].to_string(): true, later.to_string(): false}});
        assert_eq!((status, answer), (200, wanted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_without_a_token() {
    let floe = Floe::start(&[]).await;
    for path in ["health", "health/1.0"] {
        let answer = floe.get(&format!("/services/collector/{path}")).await;
        assert_eq!(answer, json!({"text": "HEC is healthy", "code": 17}));
    }
}
