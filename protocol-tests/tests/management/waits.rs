//! `sync.wait`: who waits for the disk, and what an answer is worth to whom.

use protocol_tests::clients::read_all;

use super::super::send;
use super::*;

const WAIT: &str = "storage.level.local.encoding.sync.wait";

/// A source with the sinks `fast`, which does not wait, and `sure`, which does; its URL.
async fn source(floe: &Floe) -> String {
    done(floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let sinks = format!("{SOURCES}/shop/sinks");
    for name in ["fast", "sure"] {
        done(floe, Method::POST, &sinks, sink(name, &format!("in.shop.{name}"))).await;
    }
    let no_wait = json!({"settings": [{"key": WAIT, "value": false}]});
    done(floe, Method::PATCH, &format!("{sinks}/fast/settings"), no_wait).await;
    let (_, shown) = ask(floe, Method::GET, &format!("{SOURCES}/shop"), None).await;
    shown["http"]["url"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sink_is_told_what_it_asked_for() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let url = source(&floe).await;
    let sinks = format!("{SOURCES}/shop/sinks");
    let told = async || {
        let (status, answer) = send(&url, "?verbose=true", r#"{"price": 1}"#).await;
        assert_eq!(answer["statusCode"], status, "{answer}");
        assert_eq!(answer["sources"][0]["statusCode"], status, "{answer}");
        let sinks = answer["sources"][0]["sinks"].as_array().unwrap().clone();
        let one = |sink: &Value| {
            let text = |name: &str| sink[name].as_str().unwrap().to_owned();
            (text("sinkId"), sink["statusCode"].as_u64().unwrap(), text("message"))
        };
        (status, sinks.iter().map(one).collect::<Vec<_>>())
    };
    let fast = ("fast".to_owned(), 202, "accepted".to_owned());
    let sure = |name: &str| (name.to_owned(), 200, "processed".to_owned());
    assert_eq!(told().await, (202, vec![fast.clone(), sure("sure")]));
    assert_eq!(send(&url, "", r#"{"price": 1}"#).await, (202, json!("OK")));
    // Without the other one, nobody waits; without this one, everybody does.
    done(&floe, Method::PUT, &format!("{sinks}/sure/disable"), json!({})).await;
    assert_eq!(told().await, (202, vec![fast]));
    done(&floe, Method::PUT, &format!("{sinks}/sure/enable"), json!({})).await;
    done(&floe, Method::PUT, &format!("{sinks}/fast/disable"), json!({})).await;
    assert_eq!(told().await, (200, vec![sure("sure")]));
    // A source that does not wait has sinks that do.
    let no_wait = json!({"settings": [{"key": WAIT, "value": false}]});
    done(&floe, Method::PATCH, &format!("{SOURCES}/shop/settings"), no_wait).await;
    assert_eq!(told().await, (202, vec![("sure".to_owned(), 202, "accepted".to_owned())]));
    let wait = json!({"settings": [{"key": WAIT, "value": true}]});
    done(&floe, Method::PATCH, &format!("{sinks}/sure/settings"), wait).await;
    assert_eq!(told().await, (200, vec![sure("sure")]));
}

/// One sink that waits is enough: the answer is 202 for the other's sake, and the record is on the
/// disk for its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_sink_waits_for_outlives_a_kill_right_after_the_answer() {
    let mut floe = Floe::start(&["--num-partitions=1"]).await;
    let url = source(&floe).await;
    let mut answered = Vec::new();
    for round in 0..6 {
        let sends = (0..24).map(|number| {
            let (url, body) = (url.clone(), json!({ "price": round * 100 + number }).to_string());
            async move { (send(&url, "", &body).await, body) }
        });
        for ((status, told), body) in futures::future::join_all(sends).await {
            assert_eq!((status, &told), (202, &json!("OK")), "{body}");
            answered.push(body);
        }
        floe.kill();
        floe.restart().await;
    }
    let found = tokio::task::block_in_place(|| read_all(&floe, "shop", 1));
    let text = |value: Option<Vec<u8>>| String::from_utf8(value.unwrap()).unwrap();
    let mut found: Vec<String> = found.into_iter().map(|record| text(record.value)).collect();
    found.sort();
    answered.sort();
    assert_eq!(found, answered);
}
