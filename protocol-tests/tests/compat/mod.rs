//! Routes that clients of other servers know.

mod cloudevents;
mod confluent;
mod contract;
mod doors;
mod hec;
mod otlp;
mod rates;
mod streams;
mod tinybird;
mod webhooks;

use protocol_tests::Floe;
use protocol_tests::clients::{Stored, read_all};
use reqwest::{Client, Response};
use serde_json::Value;

/// Sends a body as it is.
async fn post(
    floe: &Floe,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<String>,
) -> Response {
    let mut request = Client::new().post(floe.url(path)).body(body.into());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// Status and JSON of an answer.
async fn told(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// What a Kafka consumer finds, ordered.
fn consumed(floe: &Floe, topic: &str, partitions: i32) -> Vec<Stored> {
    let mut found = tokio::task::block_in_place(|| read_all(floe, topic, partitions));
    found.sort_by_key(|record| (record.partition, record.offset));
    found
}

fn text(bytes: Option<&Vec<u8>>) -> Option<&str> {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap())
}

/// A record header that the sender set.
fn header<'r>(record: &'r Stored, name: &str) -> Option<&'r str> {
    let found = record.headers.iter().find(|(own, _)| own == name)?;
    text(found.1.as_ref())
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the server has no other clock either")]
fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}
