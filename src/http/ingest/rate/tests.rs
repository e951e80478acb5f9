//! Which limits a request has, and that it takes of all or of none.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use governor::clock::{Clock, FakeRelativeClock};

use super::*;

const NONE: Rate = Rate { requests: 0, bytes: 0 };

/// The limits, and the clock that they go by.
fn limits(requests: u32, bytes: u64) -> (Limits, FakeRelativeClock) {
    let (clock, options) = (FakeRelativeClock::default(), TopicOptions::default());
    let ticks = clock.clone();
    let time: Time = Arc::new(move || ticks.now().as_u64());
    (Limits::within_time(Rate { requests, bytes }, &options, time), clock)
}

fn want(limits: &Limits, sender: &str, bytes: u64) -> Vec<Want> {
    let holder = limits.of_sender(Sender::named(sender));
    holder.map(|holder| Want { holder, bytes }).into_iter().collect()
}

fn of_topic(limits: &Limits, topic: &str, rate: Rate, bytes: u64) -> Vec<Want> {
    let holder = limits.holder(Whose::Topic, topic, rate);
    holder.map(|holder| Want { holder, bytes }).into_iter().collect()
}

fn ask(wants: Vec<Want>) -> Result<(), (String, u64)> {
    let told = |problem: Problem| {
        assert_eq!(problem.code(), "rate_limited");
        (problem.detail().to_owned(), problem.retry_after_s().unwrap())
    };
    Taken::take(wants).map(drop).map_err(told)
}

#[test]
fn without_limits_nothing_is_kept() {
    let (limits, _) = limits(0, 0);
    assert!(want(&limits, "a", 1).is_empty() && of_topic(&limits, "t", NONE, 1).is_empty());
    assert!(limits.holders.iter().all(|holders| holders.read().of.is_empty()));
}

#[test]
fn senders_do_not_disturb_each_other_and_neither_do_topics() {
    let (limits, _) = limits(2, 0);
    for _ in 0..2 {
        assert_eq!(ask(want(&limits, "a", 1)), Ok(()));
    }
    let (detail, wait_s) = ask(want(&limits, "a", 1)).unwrap_err();
    assert!(detail.contains("2 requests") && detail.contains("http.rate.requests"), "{detail}");
    assert_eq!(wait_s, 1);
    assert_eq!(ask(want(&limits, "b", 1)), Ok(()));
    let rate = Rate { requests: 0, bytes: 100 };
    assert_eq!(ask(of_topic(&limits, "a", rate, 4_000)), Ok(()), "a topic is no sender");
    let (detail, wait_s) = ask(of_topic(&limits, "a", rate, 1)).unwrap_err();
    assert!(detail.contains("100 bytes") && detail.contains("topic.rate.bytes"), "{detail}");
    assert_eq!(wait_s, 30, "never longer");
    assert_eq!(ask(of_topic(&limits, "b", rate, 1)), Ok(()));
    let stranger = Sender { is_stranger: true, ..Sender::named("") };
    let of_strangers = limits.holder(stranger.topics(), "a", rate).unwrap();
    let wants = vec![Want { holder: of_strangers, bytes: 1 }];
    assert_eq!(ask(wants), Ok(()), "strangers have one of their own");
}

#[test]
fn a_request_takes_of_all_its_limits_or_of_none() {
    let (limits, clock) = limits(5, 1_000);
    let rate = Rate { requests: 1, bytes: 0 };
    let both = || {
        let mut wants = want(&limits, "a", 300);
        wants.extend(of_topic(&limits, "t", rate, 300));
        wants
    };
    assert_eq!(ask(both()), Ok(()));
    let left = || {
        let holder = limits.of_sender(Sender::named("a")).unwrap();
        holder.buckets().map(|(_, bucket)| bucket.left().left).collect::<Vec<u64>>()
    };
    assert_eq!(left(), [4, 700]);
    assert!(ask(both()).unwrap_err().0.contains("topic.rate.requests"));
    assert_eq!(left(), [4, 700]);
    // Nor does a request count that has too many bytes.
    assert_eq!(ask(want(&limits, "a", 5_000)), Ok(()));
    assert!(ask(want(&limits, "a", 1)).unwrap_err().0.contains("http.rate.bytes"));
    assert_eq!(left(), [3, 0]);
    clock.advance(Duration::from_secs(60));
    assert_eq!(left(), [5, 1_000]);
}

#[test]
fn a_rate_of_its_own_goes_first() {
    let (limits, _) = limits(1, 0);
    let own = |requests| {
        let own = OwnRate { requests, bytes: None };
        let holder = limits.of_sender(Sender { own, ..Sender::named("a") });
        ask(holder.map(|holder| Want { holder, bytes: 1 }).into_iter().collect()).is_ok()
    };
    assert_eq!([own(Some(2)), own(Some(2)), own(Some(2))], [true, true, false]);
    assert_eq!([own(Some(0)), own(Some(0))], [true, true]);
    // A rate that is changed begins anew.
    assert_eq!([own(None), own(None)], [true, false]);
}

/// A request of one who shows nothing.
async fn of_address(limits: &Limits, address: &str) -> Response {
    let answer = async {
        match Taken::take(want(limits, "", 1)) {
            Ok(_) => StatusCode::OK.into_response(),
            Err(problem) => problem.into_response(),
        }
    };
    within(Some(address.parse().unwrap()), answer).await
}

#[tokio::test]
async fn who_shows_nothing_is_known_by_the_address() {
    let (limits, _) = limits(1, 0);
    for address in ["127.0.0.1", "127.0.0.2", "2001:db8:0:1::1", "2001:db8:0:2::1"] {
        assert_eq!(of_address(&limits, address).await.status(), 200, "{address}");
    }
    // Whoever has a network has all addresses of it.
    for address in ["127.0.0.1", "2001:db8:0:1:ffff::2"] {
        let refused = of_address(&limits, address).await;
        assert_eq!(refused.status(), 429, "{address}");
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(refused.headers()["ratelimit"], "\"requests\";r=0;t=1");
    }
}

#[test]
fn holders_are_bounded_and_who_finds_no_place_shares_one() {
    let (limits, clock) = limits(1, 0);
    let count = || limits.holders[Whose::Sender as usize].read().of.len();
    for name in 0..HOLDERS_MAX {
        assert_eq!(ask(want(&limits, &name.to_string(), 1)), Ok(()));
    }
    assert_eq!(ask(want(&limits, "late", 1)), Ok(()));
    assert!(ask(want(&limits, "later", 1)).is_err(), "it is the same bucket");
    assert!(ask(want(&limits, "0", 1)).is_err(), "nobody is forgotten who waits");
    assert_eq!(count(), HOLDERS_MAX + 1);
    clock.advance(Duration::from_secs(2));
    assert_eq!((ask(want(&limits, "later", 1)), count()), (Ok(()), 1));
}

#[tokio::test]
async fn addresses_take_no_place_of_a_name_or_a_topic() {
    let (limits, _) = limits(1, 0);
    for at in 0..HOLDERS_MAX {
        let address = format!("10.0.{}.{}", at / 256, at % 256);
        assert_eq!(of_address(&limits, &address).await.status(), 200);
    }
    let late = ["10.1.0.1", "10.1.0.2"];
    assert_eq!(of_address(&limits, late[0]).await.status(), 200);
    assert_eq!(of_address(&limits, late[1]).await.status(), 429, "they share one");
    let rate = Rate { requests: 1, bytes: 0 };
    for name in ["a", "b"] {
        assert_eq!(ask(want(&limits, name, 1)), Ok(()));
        assert_eq!(ask(of_topic(&limits, name, rate, 1)), Ok(()));
    }
}

#[tokio::test]
async fn a_body_without_a_length_counts_as_it_comes() {
    let (limits, clock) = limits(0, 10_000);
    let begin = || {
        let (send, pieces) = futures::channel::mpsc::unbounded();
        let taken = Taken::take(want(&limits, "a", UNKNOWN_BYTES));
        let body = Body::from_stream(pieces.map(Ok::<Vec<u8>, std::io::Error>));
        taken.map(|taken| (send, taken.on_credit(body).into_data_stream()))
    };
    let owed = || {
        let holder = limits.of_sender(Sender::named("a")).unwrap();
        let (_, bucket) = holder.buckets().next().unwrap();
        (bucket.left().left, bucket.left().full_in_s)
    };
    let (send, mut body) = begin().unwrap_or_else(|_| panic!("there is something left"));
    assert_eq!(owed(), (10_000 - UNKNOWN_BYTES, 1));
    for (bytes, wanted) in [(8_000, (1_808, 1)), (2_000, (0, 1)), (90_000, (0, 10))] {
        send.unbounded_send(vec![b'x'; bytes]).unwrap();
        assert_eq!(body.next().await.unwrap().unwrap().len(), bytes);
        assert_eq!(owed(), wanted, "after {bytes}");
    }
    assert!(begin().is_err(), "nobody else begins meanwhile");
    // It is broken off: what came of it stays.
    drop(body);
    assert_eq!(owed(), (0, 10));
    clock.advance(Duration::from_secs(10));
    let (send, mut body) = begin().unwrap_or_else(|_| panic!("it is paid"));
    send.unbounded_send(vec![b'x'; 100]).unwrap();
    drop(send);
    assert_eq!(body.by_ref().count().await, 1);
    drop(body);
    assert_eq!(owed(), (9_900, 1), "a small one is only what it is");
}
