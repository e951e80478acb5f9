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

const SENDERS: usize = 20;
const PARTITIONS: i32 = 3;
/// Events of a request with several.
const BATCH_EVENTS: usize = 5;
/// Between two attempts where nobody listens.
const PAUSE: Duration = Duration::from_millis(5);

/// The route of a sender: they tell the same in forms of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Native,
    /// The native route, with an event on each line.
    Lines,
    Keboola,
    Otlp,
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
    /// Answers that ended their connection.
    ends: usize,
    /// Requests that got no byte of an answer: what was sent may be stored or not, and a sender
    /// sends it again. The first request over a connection can be one: the listener was closed
    /// before the connection was accepted.
    cut: usize,
    /// The same, over a connection that had been kept: the server said nothing of its end.
    cut_kept: usize,
    /// Connections that were not to be had: nothing was sent.
    turned_away: usize,
}

/// How far a round is.
#[derive(Default)]
struct Round {
    /// Senders that got something through.
    heard: AtomicUsize,
    is_gone: AtomicBool,
}

impl Door {
    /// Events of a request, each with a number of its own, as they will be stored.
    fn events(self, sender: &str, number: usize) -> Vec<String> {
        let count = if matches!(self, Self::Lines | Self::Otlp) { BATCH_EVENTS } else { 1 };
        let event = |at| json!({ "sender": sender, "number": number, "at": at }).to_string();
        (0..count).map(event).collect()
    }

    fn body(self, events: &[String]) -> String {
        match self {
            Self::Otlp => {
                let record = |event: &String| json!({ "body": { "stringValue": event } });
                let records: Vec<_> = events.iter().map(record).collect();
                let scopes = json!([{ "logRecords": records }]);
                json!({ "resourceLogs": [{ "scopeLogs": scopes }] }).to_string()
            }
            _ => events.join("\n"),
        }
    }

    fn kind(self) -> &'static str {
        if self == Self::Lines { "application/x-ndjson" } else { "application/json" }
    }
}

/// Sends events until the server is gone, over another connection after each that ends.
async fn sender(
    address: String,
    (door, path): (Door, String),
    name: String,
    round: Arc<Round>,
) -> Told {
    let mut connection = Http1::new(&address);
    let mut told = Told::default();
    for number in 0.. {
        let events = door.events(&name, number);
        let body = door.body(&events);
        let length = body.len().to_string();
        let headers = [
            ("Host", address.as_str()),
            ("Content-Length", length.as_str()),
            ("Content-Type", door.kind()),
        ];
        let was_gone = round.is_gone.load(Ordering::Relaxed);
        let was_kept = connection.is_kept();
        match connection.exchange(&request("POST", &path, &headers, &body)).await {
            Ok(answer) => {
                let before = told.got_through();
                told.hear(door, &answer, events);
                let is_first = before == 0 && told.got_through() > 0;
                round.heard.fetch_add(usize::from(is_first), Ordering::Relaxed);
            }
            Err(error) => {
                // Not one of these: a part of an answer.
                let is_end = [
                    ErrorKind::ConnectionReset,
                    ErrorKind::ConnectionAborted,
                    ErrorKind::BrokenPipe,
                    ErrorKind::UnexpectedEof,
                ];
                match error.kind() {
                    ErrorKind::ConnectionRefused => told.turned_away += 1,
                    kind if is_end.contains(&kind) && was_kept => told.cut_kept += 1,
                    kind if is_end.contains(&kind) => told.cut += 1,
                    _ => panic!("{error:?}"),
                }
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

    fn hear(&mut self, door: Door, answer: &Answer, events: Vec<String>) {
        self.ends += usize::from(answer.header("connection") == Some("close"));
        match (answer.status, door) {
            (200, Door::Keboola) => {
                assert_eq!(answer.body, "OK");
                self.taken.extend(events);
            }
            (200, Door::Otlp) => {
                assert_eq!(answer.json(), json!({}));
                self.taken.extend(events);
            }
            (200, _) => {
                let answer = answer.json();
                let wanted = (&json!(events.len()), &json!("durable"));
                assert_eq!((&answer["accepted"], &answer["ack"]), wanted);
                let span = &answer["partitions"][0];
                let partition = i32::try_from(span["partition"].as_i64().unwrap()).unwrap();
                let first = span["first_offset"].as_i64().unwrap();
                self.stored.extend((first..).map(|offset| (partition, offset)).zip(events));
            }
            (503, _) => {
                let after = answer.header("retry-after").and_then(|it| it.parse::<u32>().ok());
                assert!(after.is_some_and(|seconds| seconds > 0), "{answer:?}");
                assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
                let told = answer.json();
                match door {
                    Door::Native | Door::Lines => assert_eq!(told["code"], "draining", "{told}"),
                    Door::Keboola => assert_eq!(told["error"], "stream.in.shutdown", "{told}"),
                    Door::Otlp => assert_eq!(told["code"], 14, "{told}"),
                }
                self.refused.extend(events);
            }
            (status, _) => panic!("{status}: {}", answer.body),
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
    // On a busy machine a sender may not have its turn for long.
    let mut floe = Floe::start(&["--num-partitions=3", "--shutdown-timeout=40s"]).await;
    let source = source(&floe).await;
    let mut all = Told::default();
    for number in 0..3 {
        let round = Arc::new(Round::default());
        let address = floe.http_address();
        let senders = (0..SENDERS).map(|sender_number| {
            let native = |partition| format!("/api/v1/topics/drained/events?partition={partition}");
            let route = match sender_number % 5 {
                0 => (Door::Keboola, source.clone()),
                1 => (Door::Otlp, "/v1/logs".to_owned()),
                2 => (Door::Lines, native(0)),
                place => (Door::Native, native(place - 2)),
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
            assert!(told.turned_away > 0, "round {number}: a sender did not see the end");
            all.stored.extend(told.stored);
            all.taken.extend(told.taken);
            all.refused.extend(told.refused);
            all.ends += told.ends;
            all.cut += told.cut;
            all.cut_kept += told.cut_kept;
            all.turned_away += told.turned_away;
        }
    }
    let (drained, shop) = (found(&floe, "drained"), found(&floe, "shop"));
    let logs = found(&floe, "otel_logs").into_values().map(|record| {
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        record["body"].as_str().unwrap().to_owned()
    });
    let logs: Vec<String> = logs.collect();
    println!(
        "stored {}, taken {}, refused {}, cut {} and {} kept, turned away {}",
        all.stored.len(),
        all.taken.len(),
        all.refused.len(),
        all.cut,
        all.cut_kept,
        all.turned_away
    );
    // A connection that was kept ends with an answer that says so, or while nothing is sent.
    assert_eq!(all.cut_kept, 0, "requests over connections that were kept got no answer");
    assert!(all.ends > 0, "nobody was told of the end");
    let acknowledged = all.stored.len() + all.taken.len();
    let stored: BTreeMap<_, _> = all.stored.iter().map(|(at, event)| (at, event)).collect();
    assert_eq!(stored.len(), all.stored.len(), "an offset was given twice");
    for (at, event) in stored {
        assert_eq!(drained.get(at), Some(event), "{at:?} is as it was acknowledged");
    }
    let unplaced: BTreeSet<&String> = shop.values().chain(&logs).collect();
    let once: BTreeSet<&String> = drained.values().chain(unplaced.iter().copied()).collect();
    let records = drained.len() + shop.len() + logs.len();
    assert_eq!(once.len(), records, "nobody sent an event twice");
    let lost = all.taken.iter().find(|event| !unplaced.contains(event));
    assert_eq!(lost, None, "it was acknowledged");
    let kept = all.refused.iter().find(|event| once.contains(event));
    assert_eq!(kept, None, "what was refused is not stored");
    // What is stored without an answer is what connections were cut under.
    let (unknown, cut) = (once.len() - acknowledged, all.cut * BATCH_EVENTS);
    assert!(unknown <= cut, "{unknown} events of which nobody was told, {} requests cut", all.cut);
}
