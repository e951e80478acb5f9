//! `SIGTERM` under load: what senders see of it, and what is in the log afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol_tests::Floe;
use protocol_tests::clients::read_all;
use protocol_tests::http1::{Answer, Http1, request};
use serde_json::json;

const SENDERS: usize = 16;
const PARTITIONS: i32 = 3;
/// Between two attempts where nobody listens.
const PAUSE: Duration = Duration::from_millis(5);

/// What a sender was told.
#[derive(Default)]
struct Told {
    /// Partition and offset, and what was sent.
    stored: Vec<((i32, i64), String)>,
    /// What was refused: it is not stored.
    refused: Vec<String>,
    /// Connections that ended or were not to be had: what was sent may be stored or not.
    cut: usize,
}

/// Sends events, each with a number of its own, until the server is `gone`, over another connection
/// after each that ends.
async fn sender(address: String, path: String, name: String, gone: Arc<AtomicBool>) -> Told {
    let mut connection = Http1::new(&address);
    let mut told = Told::default();
    for number in 0.. {
        let body = json!({ "sender": name, "number": number }).to_string();
        let length = body.len().to_string();
        let headers = [("Host", address.as_str()), ("Content-Length", length.as_str())];
        let was_gone = gone.load(Ordering::Relaxed);
        match connection.exchange(&request("POST", &path, &headers, &body)).await {
            Ok(answer) => told.hear(&answer, body),
            Err(error) => {
                let is_end = [
                    ErrorKind::ConnectionRefused,
                    ErrorKind::ConnectionReset,
                    ErrorKind::ConnectionAborted,
                    ErrorKind::BrokenPipe,
                    ErrorKind::UnexpectedEof,
                ];
                assert!(is_end.contains(&error.kind()), "{error:?}");
                told.cut += 1;
                if was_gone {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    told
}

impl Told {
    fn hear(&mut self, answer: &Answer, body: String) {
        match answer.status {
            200..=299 => {
                let answer = answer.json();
                assert_eq!((&answer["accepted"], &answer["ack"]), (&json!(1), &json!("durable")));
                let span = &answer["partitions"][0];
                let partition = i32::try_from(span["partition"].as_i64().unwrap()).unwrap();
                self.stored.push(((partition, span["first_offset"].as_i64().unwrap()), body));
            }
            503 => {
                let after = answer.header("retry-after").and_then(|it| it.parse::<u32>().ok());
                assert!(after.is_some_and(|seconds| seconds > 0), "{answer:?}");
                let told = answer.json();
                assert_eq!((&told["code"], &told["retryable"]), (&json!("draining"), &json!(true)));
                self.refused.push(body);
            }
            status => panic!("{status}: {}", answer.body),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_end_under_load_it_loses_nothing_that_was_acknowledged() {
    let mut floe = Floe::start(&["--num-partitions=3"]).await;
    let (mut stored, mut refused) = (BTreeMap::new(), BTreeSet::new());
    let (mut acknowledged, mut cut) = (0, 0);
    for round in 0..3 {
        let gone = Arc::new(AtomicBool::new(false));
        let address = floe.http_address();
        let senders = (0..SENDERS).map(|number| {
            let path = format!("/api/v1/topics/drained/events?partition={}", number % 3);
            let name = format!("{round}-{number}");
            sender(address.clone(), path, name, Arc::clone(&gone))
        });
        let senders = futures::future::join_all(senders);
        let end = async {
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            let ended = floe.stop().await;
            gone.store(true, Ordering::Relaxed);
            ended
        };
        let (told, ended) = tokio::join!(senders, end);
        assert_eq!(ended, Some(0), "{}", floe.log());
        floe.restart().await;
        for told in told {
            assert!(!told.stored.is_empty(), "round {round}: a sender got nothing through");
            acknowledged += told.stored.len();
            cut += told.cut;
            stored.extend(told.stored);
            refused.extend(told.refused);
        }
    }
    assert_eq!(stored.len(), acknowledged, "an offset was given twice");
    assert!(cut >= 3 * SENDERS, "each sender saw the end of each round");
    let found = tokio::task::block_in_place(|| read_all(&floe, "drained", PARTITIONS));
    let text = |value: Option<Vec<u8>>| String::from_utf8(value.unwrap()).unwrap();
    let found: BTreeMap<(i32, i64), String> =
        found.into_iter().map(|it| ((it.partition, it.offset), text(it.value))).collect();
    for (at, body) in &stored {
        assert_eq!(found.get(at), Some(body), "{at:?} is as it was acknowledged");
    }
    let once: BTreeSet<&String> = found.values().collect();
    assert_eq!(once.len(), found.len(), "nobody sent an event twice");
    let kept = refused.iter().find(|body| once.contains(body));
    assert_eq!(kept, None, "what was refused is not stored");
    // What is stored without an answer is what connections were cut under.
    let unknown = found.len() - stored.len();
    assert!(unknown <= cut, "{unknown} events of which nobody was told, {cut} connections");
}
