//! A sink that is on again takes what comes from that answer on: a request that is told to be written
//! to it is a row of its table, however soon it comes.

use super::super::{eventually, send};
use super::*;

const ROUNDS: usize = 12;

/// Sends a request, switches off and on again while its row waits for a commit, and sends another;
/// nothing of those may be missing.
async fn all_are_taken(off: (Method, &str), on: (Method, &str)) {
    let floe = Floe::start(&["--num-partitions=1", "--table-target-lag=1s"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let sinks = format!("{SOURCES}/shop/sinks");
    done(&floe, Method::POST, &sinks, sink("orders", "in.shop.orders")).await;
    let (_, shown) = ask(&floe, Method::GET, &format!("{SOURCES}/shop"), None).await;
    let url = shown["http"]["url"].as_str().unwrap();
    for round in 0..ROUNDS {
        let price = |number: usize| format!("{{\"price\":{number}}}");
        assert_eq!(send(url, "", &price(2 * round)).await, (200, json!("OK")));
        done(&floe, off.0.clone(), &format!("{SOURCES}/shop{}", off.1), json!({})).await;
        done(&floe, on.0.clone(), &format!("{SOURCES}/shop{}", on.1), json!({})).await;
        let (status, told) = send(url, "?verbose=true", &price(2 * round + 1)).await;
        let wanted = "Successfully written to 1/1 sinks.";
        assert_eq!((status, &told["message"]), (200, &json!(wanted)), "{told}");
        eventually("the table is on again", || async {
            let flush = floe.url("/api/v1/tables/in.shop.orders/flush");
            (Client::new().post(flush).send().await.unwrap().status() == 200).then_some(())
        })
        .await;
    }
    let mut rows: Vec<usize> =
        protocol_tests::table::texts(&floe.url("/iceberg"), "in%1Fshop", "orders", "price")
            .await
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
    rows.sort_unstable();
    assert_eq!(rows, (0..2 * ROUNDS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_enabled_misses_nothing() {
    all_are_taken((Method::PUT, "/sinks/orders/disable"), (Method::PUT, "/sinks/orders/enable"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_undeleted_misses_nothing() {
    all_are_taken((Method::DELETE, "/sinks/orders"), (Method::PUT, "/sinks/orders/undelete")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_undeleted_misses_nothing() {
    all_are_taken((Method::DELETE, ""), (Method::PUT, "/undelete")).await;
}
