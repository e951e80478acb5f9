//! `SIGTERM` under load: what senders see of it, and what is in the log afterwards.

mod http2;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use protocol_tests::clients::read_all;
use protocol_tests::http1::{Answer, Http1, request};
use protocol_tests::{Floe, eventually};
use serde_json::json;

const SENDERS: usize = 16;
const PARTITIONS: i32 = 3;
/// Between two attempts where nobody listens.
const PAUSE: Duration = Duration::from_millis(5);

/// The route of a sender: they tell the same in forms of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Native,
    Keboola,
}

/// What a sender was told.
#[derive(Default)]
struct Told {
    /// Partition and offset, and what was sent.
    stored: Vec<((i32, i64), String)>,
    /// What was stored without its place being told.
    taken: Vec<String>,
    /// What was refused: it is not stored.
    refused: Vec<String>,
    /// Connections that ended or were not to be had: what was sent may be stored or not.
    cut: usize,
}

/// How far a round is.
#[derive(Default)]
struct Round {
    /// Senders that got something through.
    heard: AtomicUsize,
    is_gone: AtomicBool,
}

/// Sends events, each with a number of its own, until the server is gone, over another connection
/// after each that ends.
async fn sender(
    address: String,
    (door, path): (Door, String),
    name: String,
    round: Arc<Round>,
) -> Told {
    let mut connection = Http1::new(&address);
    let mut told = Told::default();
    for number in 0.. {
        let body = json!({ "sender": name, "number": number }).to_string();
        let length = body.len().to_string();
        let headers = [("Host", address.as_str()), ("Content-Length", length.as_str())];
        let was_gone = round.is_gone.load(Ordering::Relaxed);
        match connection.exchange(&request("POST", &path, &headers, &body)).await {
            Ok(answer) => {
                let before = told.got_through();
                told.hear(door, &answer, body);
                let is_first = before == 0 && told.got_through() == 1;
                round.heard.fetch_add(usize::from(is_first), Ordering::Relaxed);
            }
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
    fn got_through(&self) -> usize {
        self.stored.len() + self.taken.len()
    }

    fn hear(&mut self, door: Door, answer: &Answer, body: String) {
        match answer.status {
            200..=299 if door == Door::Keboola => {
                assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
                self.taken.push(body);
            }
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
                match door {
                    Door::Native => assert_eq!(told["code"], "draining", "{told}"),
                    Door::Keboola => assert_eq!(told["error"], "stream.in.shutdown", "{told}"),
                }
                self.refused.push(body);
            }
            status => panic!("{status}: {}", answer.body),
        }
    }
}

/// Makes a source whose records are in the topic `shop`; the path of its requests.
async fn source(floe: &Floe) -> String {
    let client = reqwest::Client::new();
    let url = floe.url("/v1/branches/default/sources");
    let wish = json!({ "type": "http", "name": "shop" });
    assert_eq!(client.post(&url).json(&wish).send().await.unwrap().status(), 202);
    let shown = floe.get("/v1/branches/default/sources/shop").await;
    let url = shown["http"]["url"].as_str().unwrap();
    url.strip_prefix(&floe.url("")).unwrap().to_owned()
}

/// Values of a topic by where they are.
fn found(floe: &Floe, topic: &str) -> BTreeMap<(i32, i64), String> {
    let found = tokio::task::block_in_place(|| read_all(floe, topic, PARTITIONS));
    let text = |value: Option<Vec<u8>>| String::from_utf8(value.unwrap()).unwrap();
    found.into_iter().map(|it| ((it.partition, it.offset), text(it.value))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_ends_it_says_that_it_is_not_ready_and_takes_what_comes() {
    let mut floe = Floe::start(&["--num-partitions=1", "--shutdown-delay=1h"]).await;
    let client = reqwest::Client::new();
    let ready = async || {
        let answer = client.get(floe.url("/readyz")).send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
    };
    let send = async || {
        let url = floe.url("/api/v1/topics/late/events");
        client.post(url).body("{}").send().await.unwrap().status().as_u16()
    };
    assert_eq!((ready().await, send().await), ((200, false), 200));
    floe.terminate();
    eventually("503 of /readyz", async || (ready().await == (503, true)).then_some(())).await;
    assert_eq!(send().await, 200, "{}", floe.log());
    for (path, status) in [("/healthz", 200), ("/services/collector/health", 503)] {
        let answer = client.get(floe.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    // The second signal ends the delay.
    assert_eq!(floe.stop().await, Some(0), "{}", floe.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_end_under_load_it_loses_nothing_that_was_acknowledged() {
    let mut floe = Floe::start(&["--num-partitions=3"]).await;
    let source = source(&floe).await;
    let mut all = Told::default();
    for number in 0..3 {
        let round = Arc::new(Round::default());
        let address = floe.http_address();
        let senders = (0..SENDERS).map(|sender_number| {
            let route = match sender_number % 4 {
                0 => (Door::Keboola, source.clone()),
                place => {
                    let path = format!("/api/v1/topics/drained/events?partition={}", place - 1);
                    (Door::Native, path)
                }
            };
            let name = format!("{number}-{sender_number}");
            sender(address.clone(), route, name, Arc::clone(&round))
        });
        let senders = futures::future::join_all(senders);
        let end = async {
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            eventually("something of each sender", async || {
                (round.heard.load(Ordering::Relaxed) == SENDERS).then_some(())
            })
            .await;
            let ended = floe.stop().await;
            round.is_gone.store(true, Ordering::Relaxed);
            ended
        };
        let (told, ended) = tokio::join!(senders, end);
        assert_eq!(ended, Some(0), "{}", floe.log());
        floe.restart().await;
        for told in told {
            assert!(told.got_through() > 0, "round {number}: a sender got nothing through");
            assert!(told.cut > 0, "round {number}: a sender did not see the end");
            all.stored.extend(told.stored);
            all.taken.extend(told.taken);
            all.refused.extend(told.refused);
            all.cut += told.cut;
        }
    }
    let (drained, shop) = (found(&floe, "drained"), found(&floe, "shop"));
    let acknowledged = all.stored.len() + all.taken.len();
    let stored: BTreeMap<_, _> = all.stored.iter().map(|(at, body)| (at, body)).collect();
    assert_eq!(stored.len(), all.stored.len(), "an offset was given twice");
    for (at, body) in stored {
        assert_eq!(drained.get(at), Some(body), "{at:?} is as it was acknowledged");
    }
    let once: BTreeSet<&String> = drained.values().chain(shop.values()).collect();
    assert_eq!(once.len(), drained.len() + shop.len(), "nobody sent an event twice");
    let in_shop: BTreeSet<&String> = shop.values().collect();
    let lost = all.taken.iter().find(|body| !in_shop.contains(body));
    assert_eq!(lost, None, "it was acknowledged");
    let kept = all.refused.iter().find(|body| once.contains(body));
    assert_eq!(kept, None, "what was refused is not stored");
    // What is stored without an answer is what connections were cut under.
    let unknown = once.len() - acknowledged;
    assert!(unknown <= all.cut, "{unknown} events of which nobody was told, {} cut", all.cut);
}
