//! Every sender under every condition: what was acknowledged is there, nothing is there twice, and
//! who loses or stops is who the table of docs/senders.md says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use protocol_tests::Floe;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::senders::{End, GivesUp, Run, SENDERS};
use super::{Guarded, doors, stored};

/// Long enough for a condition to come in the middle.
const BATCHES: usize = 60;
/// How often an operator starts a sender again.
const STARTS_MAX: usize = 10;

/// What a token of theirs may do.
const ALLOWED: [&str; 4] =
    ["write:topic:*", "create:topic:*", "write:stream:iomete", "write:table:events.*"];

const ONE: &[&str] = &["--num-partitions", "1"];

/// Every sender, with what its door needs.
async fn runs(floe: &Floe, token: Option<&str>, batches: usize) -> Vec<Run> {
    let address = floe.http_address();
    let mut runs = Vec::new();
    for sender in SENDERS {
        let secret = doors::set_up(floe, sender, token).await;
        runs.push(Run::new(*sender, secret, &address, batches));
    }
    runs
}

async fn all(runs: &mut [Run]) -> Vec<End> {
    join_all(runs.iter_mut().map(Run::go)).await
}

/// Starts again what died and has delivered again what was kept, until everything is delivered or
/// dropped.
async fn finish(runs: &mut [Run]) {
    for run in runs {
        let mut starts = 0;
        while let End::Died(why) = run.go().await {
            starts += 1;
            assert!(starts < STARTS_MAX, "{}: {why}", run.sender.name);
        }
        while run.redeliver().await > 0 {
            starts += 1;
            assert!(starts < STARTS_MAX, "{}: {:?}", run.sender.name, run.seen);
        }
    }
}

/// What is stored is what was acknowledged, each event once; nothing else was dropped than what the
/// sender said.
fn check(floe: &Floe, runs: &[Run]) {
    for run in runs {
        let (name, door) = (run.sender.name, run.sender.door);
        let id = |text: String| door.id(&serde_json::from_str(&text).unwrap());
        let found: Vec<String> = stored(floe, &door.topic(name)).into_iter().map(id).collect();
        let once: BTreeSet<String> = found.iter().cloned().collect();
        assert_eq!(found.len(), once.len(), "{name}: something is stored twice");
        let ids = |batches: &BTreeSet<usize>| -> BTreeSet<String> {
            batches.iter().flat_map(|batch| run.ids(*batch)).collect()
        };
        let (delivered, dropped) = (ids(&run.delivered), ids(&run.dropped));
        assert!(delivered.is_subset(&once), "{name}: an acknowledged event is lost");
        assert_eq!(delivered.len() + dropped.len(), run.all_ids().len(), "{name}");
        assert!(once.is_subset(&run.all_ids()), "{name}");
        println!("{name}: {} events, answers {:?}", found.len(), run.seen);
    }
}

fn assert_none_dropped(runs: &[Run]) {
    for run in runs {
        assert!(run.dropped.is_empty(), "{}: {:?} {:?}", run.sender.name, run.dropped, run.seen);
    }
}

/// Holds memory for bodies with bodies that do not end, again and again, until most senders were
/// refused: on a busy machine others may have the memory when it asks.
async fn hog(address: &str, refused: &AtomicUsize) {
    let head = "POST /api/v1/topics/hog/events HTTP/1.1\r\nHost: localhost\r\n\
                Content-Length: 950000\r\n\r\n";
    for round in 0..30 {
        if round >= 3 && refused.load(Ordering::Relaxed) > SENDERS.len() / 2 {
            return;
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = [head.as_bytes(), &[b' '; 900_000]].concat();
        // A reset while we write is an answer too.
        let _ = stream.write_all(&body).await;
        let mut answer = Vec::new();
        let _ =
            tokio::time::timeout(Duration::from_millis(900), stream.read_to_end(&mut answer)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_costs_time_and_nothing_else() {
    let floe = Floe::start(&[ONE, &["--http-in-bytes", "1MiB"]].concat()).await;
    let mut runs = runs(&floe, None, BATCHES).await;
    let address = floe.http_address();
    let refused = Arc::new(AtomicUsize::new(0));
    runs.iter_mut().for_each(|run| run.refused = Arc::clone(&refused));
    let overload = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        hog(&address, &refused).await;
    };
    tokio::join!(all(&mut runs), overload);
    finish(&mut runs).await;
    for run in &runs {
        let of_door = run.sender.door.overload_status();
        let refused = if run.sender.name == "flink" { 503 } else { of_door };
        let known = |status: &u16| *status == 200 || *status == refused;
        assert!(run.seen.keys().all(known), "{}: {:?}", run.sender.name, run.seen);
    }
    let refused = runs.iter().filter(|run| run.seen.len() > 1).count();
    assert!(refused > SENDERS.len() / 2, "only {refused} were refused");
    assert_none_dropped(&runs);
    check(&floe, &runs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_and_comes_back_loses_nothing_of_any_sender() {
    let mut floe = Floe::start(ONE).await;
    let mut runs = runs(&floe, None, BATCHES).await;
    let drain = async {
        for round in 0..3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            // Connections that are kept hear of it.
            assert_eq!(floe.stop().await, Some(0), "{}", floe.log());
            // As long as a slow restart; the last one starts with a full disk, 503 for a while.
            tokio::time::sleep(Duration::from_millis(300)).await;
            if round == 2 {
                let full = [ONE, &["--disk-free-min-bytes", "1000TiB"]].concat();
                floe.restart_unready_with(&full).await;
                tokio::time::sleep(Duration::from_secs(3)).await;
                floe.stop().await;
            }
            floe.restart_with(ONE).await;
        }
    };
    tokio::join!(all(&mut runs), drain);
    finish(&mut runs).await;
    for run in &runs {
        let known = |status: &u16| [200, 503].contains(status);
        assert!(run.seen.keys().all(known), "{}: {:?}", run.sender.name, run.seen);
        let stays = run.sender.retries_connections && run.sender.retries.is_none_or(|it| it > 99);
        let was_told = run.seen.contains_key(&503);
        assert!(was_told || !stays, "{}: {:?}", run.sender.name, run.seen);
    }
    assert_none_dropped(&runs);
    check(&floe, &runs);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_it_loses_nothing_and_stores_nothing_twice() {
    let mut floe = Floe::start(ONE).await;
    let mut runs = runs(&floe, None, BATCHES).await;
    let kills = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            floe.kill();
            floe.restart().await;
        }
    };
    tokio::join!(all(&mut runs), kills);
    finish(&mut runs).await;
    for run in &runs {
        // 409: the first try is not over yet. 503: it starts again.
        let known = |status: &u16| [200, 409, 503].contains(status);
        assert!(run.seen.keys().all(known), "{}: {:?}", run.sender.name, run.seen);
    }
    assert_none_dropped(&runs);
    check(&floe, &runs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_is_refused_for_good_and_harms_no_other() {
    let floe = Floe::start(&[ONE, &["--http-body-max-bytes", "100KiB"]].concat()).await;
    let mut runs = runs(&floe, None, BATCHES).await;
    for run in &mut runs {
        run.oversize = Some(BATCHES / 2);
        run.be_impatient();
    }
    let ends = all(&mut runs).await;
    for (run, end) in runs.iter_mut().zip(ends) {
        assert_eq!(end == End::Done, run.goes_on(), "{}: {end:?}", run.sender.name);
        if !run.goes_on() {
            run.skip();
        }
        let known = |status: &u16| [200, 413].contains(status);
        assert!(run.seen.keys().all(known), "{}: {:?}", run.sender.name, run.seen);
    }
    finish(&mut runs).await;
    for run in &runs {
        assert_eq!(run.dropped, [BATCHES / 2].into(), "{}", run.sender.name);
    }
    check(&floe, &runs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_or_secret_that_ends_is_refused_and_what_was_not_acknowledged_is_known() {
    let mut guarded = Guarded::start(&[]).await;
    let make = async |name: &str, more: Value| {
        let mut wish = json!({"name": name, "allow": ALLOWED});
        wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let url = guarded.floe.url("/api/v1/tokens");
        let request = Client::new().post(url).header("token", &guarded.token).json(&wish);
        let made: Value = request.send().await.unwrap().json().await.unwrap();
        made["token"].as_str().unwrap().to_owned()
    };
    // Few enough that who is refused often does not wait long.
    let mut runs = runs(&guarded.floe, Some(&guarded.token), BATCHES / 2).await;
    let (brief, lasting) =
        (make("brief", json!({"expires_in_ms": 900})).await, make("lasting", json!({})).await);
    for run in &mut runs {
        run.token = Some(brief.clone());
        // It is over in the middle.
        run.pause = Duration::from_millis(60);
        run.be_impatient();
    }
    let rotated = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        let mut secrets = Vec::new();
        for sender in SENDERS {
            secrets.push(match sender.door.has_token() {
                true => String::new(),
                false => doors::rotate(&guarded.floe, sender, &guarded.token).await,
            });
        }
        secrets
    };
    let (ends, secrets) = tokio::join!(all(&mut runs), rotated);
    for ((run, end), secret) in runs.iter_mut().zip(ends).zip(secrets) {
        assert_eq!(end == End::Done, run.goes_on(), "{}: {end:?}", run.sender.name);
        let drops = run.sender.gives_up == GivesUp::Drops;
        assert_eq!(!run.dropped.is_empty(), drops, "{}", run.sender.name);
        let refused = run.sender.door.unknown_status();
        let seen: Vec<u16> = run.seen.keys().copied().collect();
        assert_eq!(seen, [200, refused], "{}: {:?}", run.sender.name, run.seen);
        run.token = Some(lasting.clone());
        run.secret = secret;
        run.pause = Duration::ZERO;
    }
    finish(&mut runs).await;
    guarded.open().await;
    check(&guarded.floe, &runs);
}
