//! `PATCH` with a JSON merge patch.

use protocol_tests::Floe;
use reqwest::Method;
use serde_json::{Value, json};

use super::super::{SINK, ask, post, prices};

const SOURCE: &str = "/api/v1/sources/shop";
const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_patched_where_the_patch_says_it_and_nowhere_else() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let patch = async |headers: &[(&str, &str)], body: Value| {
        ask(&floe, (Method::PATCH, SOURCE), headers, &body).await
    };
    let (status, _, refused) = patch(&[], json!({})).await;
    assert_eq!((status, &refused["code"]), (404, &json!("unknown_source")));
    let wish = json!({"name": "Shop", "topic": "t", "commit": {"lag_ms": 5_000, "records": 10}});
    let (_, first, made) = ask(&floe, (Method::PUT, SOURCE), &[], &wish).await;
    let (status, tag, patched) =
        patch(&[MERGE], json!({"name": null, "commit": {"records": null, "bytes": 200}})).await;
    assert_eq!((status, &patched["version"]), (200, &json!(2)), "{patched}");
    let commit = json!({"lag_ms": 5_000, "bytes": 200});
    assert_eq!((&patched["name"], &patched["commit"]), (&json!(""), &commit));
    assert_eq!((&patched["topic"], &patched["path"]), (&made["topic"], &made["path"]));
    // Nothing is no change, and what only answers have is left aside.
    let (status, same, _) = patch(&[], json!({"version": 9, "sinks": []})).await;
    assert_eq!((status, &same), (200, &tag));
    for (headers, body, wanted) in [
        (&[("if-match", first.as_str())][..], json!({}), (412, "precondition_failed")),
        (&[("if-none-match", "*")], json!({}), (412, "precondition_failed")),
        (&[], json!({"colour": 1}), (400, "invalid_source")),
        (&[], json!({"commit": {"records": 0}}), (400, "invalid_source")),
        (&[], json!([]), (400, "bad_request")),
    ] {
        let (status, _, refused) = patch(headers, body.clone()).await;
        assert_eq!((status, refused["code"].as_str().unwrap()), wanted, "{body}");
    }
    let (status, _, shown) =
        ask(&floe, (Method::PATCH, &format!("{SOURCE}?dry_run=true")), &[], &json!({"name": "x"}))
            .await;
    assert_eq!((status, &shown["name"]), (200, &json!("x")));
    assert_eq!(floe.get(SOURCE).await["name"], "", "it was only tried");
    let (status, newer, _) = patch(&[("if-match", &tag)], json!({"enabled": false})).await;
    assert_eq!((status, newer == tag), (200, false));
    let call = reqwest::Client::new().patch(floe.url(SOURCE)).body("{}");
    let answer = call.header("content-type", "text/plain").send().await.unwrap();
    assert_eq!(answer.status(), 415);
    assert_eq!(answer.headers()["accept-patch"], MERGE.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_a_sink_that_meet_lose_nothing_of_each_other() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    post(&floe, "t", "", r#"{"price":1.5}"#.to_owned()).await;
    let patch = async |body: &Value| ask(&floe, (Method::PATCH, SINK), &[MERGE], body).await;
    let (status, _, refused) = patch(&json!({})).await;
    assert_eq!((status, &refused["code"]), (404, &json!("unknown_sink")));
    assert_eq!(ask(&floe, (Method::PUT, SINK), &[], &prices()).await.0, 201);
    let parts = [
        json!({"name": "Prices"}),
        json!({"description": "of all shops"}),
        json!({"commit": {"records": 7}}),
        json!({"commit": {"bytes": 700}}),
        json!({"signals": ["logs"]}),
    ];
    let [a, b, c, d, e] = &parts;
    let (a, b, c, d, e) = tokio::join!(patch(a), patch(b), patch(c), patch(d), patch(e));
    assert_eq!([a.0, b.0, c.0, d.0, e.0], [200; 5]);
    let now = floe.get(SINK).await;
    let commit = json!({"lag_ms": 1_000, "records": 7, "bytes": 700});
    assert_eq!((&now["version"], &now["commit"]), (&json!(6), &commit), "{now}");
    assert_eq!((&now["name"], &now["signals"]), (&json!("Prices"), &json!(["logs"])));
    assert_eq!(now["description"], "of all shops");
    // It goes through the checks of a PUT.
    for (body, detail) in [
        (json!({"table": {"name": "other"}}), "table of a sink cannot change"),
        (json!({"mapping": null}), "mapping"),
        (json!({"mapping": {"columns": [{"type": "path", "name": "p", "path": "a["}]}}), "\"p\""),
    ] {
        let (status, _, refused) = patch(&body).await;
        assert_eq!((status, &refused["code"]), (400, &json!("invalid_sink")), "{body}");
        assert!(refused["detail"].as_str().unwrap().contains(detail), "{refused}");
    }
    assert_eq!(floe.get(SINK).await["version"], 6);
}
