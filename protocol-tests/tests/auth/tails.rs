//! Tails of records: who has how many of them, and when they end.

use protocol_tests::{Floe, WAIT_MAX, eventually};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::Guarded;

const TAIL: &str = "/api/v1/topics/t/tail?offset=earliest";
/// Tails that one sender may have.
const EACH_MAX: usize = 16;

/// Reads what is sent until the answer ends.
async fn read_out(tail: &mut Response) {
    let reading = async { while let Ok(Some(_)) = tail.chunk().await {} };
    tokio::time::timeout(WAIT_MAX, reading).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_came_without_a_token_follows_no_longer_once_one_is_needed() {
    let floe = Floe::start(&[]).await;
    let events = reqwest::Client::new().post(floe.url("/api/v1/topics/t/events"));
    assert_eq!(events.body("{}").send().await.unwrap().status(), 200);
    let mut tail = reqwest::get(floe.url(TAIL)).await.unwrap();
    assert_eq!(tail.status(), 200);
    assert!(tail.chunk().await.unwrap().is_some());
    let made = crate::floe(&["token", "create", "a", "--url", &floe.url("")], None);
    assert_eq!(made.code, Some(0), "{}", made.err);
    read_out(&mut tail).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tails_that_nobody_reads_take_no_places_of_others_and_end_with_their_token() {
    let guarded = Guarded::start(&[]).await;
    let admin = Some(guarded.admin.as_str());
    // More than the sockets between take.
    let event = json!({ "text": "x".repeat(900_000) });
    for _ in 0..12 {
        let path = "/api/v1/topics/t/events";
        let (status, answer) = guarded.ask(Method::POST, path, admin, Some(event.clone())).await;
        assert_eq!(status, 200, "{answer}");
    }
    let deaf = guarded.token("deaf", &["read:topic:t"]).await;
    let other = guarded.token("other", &["read:topic:t"]).await;
    let tail = async |token: &str| {
        let answer = guarded.request(Method::GET, TAIL, Some(token)).send().await.unwrap();
        (answer.status().as_u16(), answer)
    };
    let mut unread = Vec::new();
    for _ in 0..EACH_MAX {
        let (status, answer) = tail(&deaf).await;
        assert_eq!(status, 200);
        unread.push(answer);
    }
    let (status, refused) = tail(&deaf).await;
    assert_eq!(status, 429);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "overloaded");
    let (status, mut read) = tail(&other).await;
    assert!(status == 200 && read.chunk().await.unwrap().is_some());
    // The next token of that name has the places of the one before.
    guarded.revoke("deaf").await;
    let next = guarded.token("deaf", &["read:topic:t"]).await;
    eventually("the places of the revoked token", || async {
        (tail(&next).await.0 == 200).then_some(())
    })
    .await;
    // What was on its way comes, and no more.
    for tail in &mut unread {
        read_out(tail).await;
    }
}
