//! As whom sinks write: seen beside the tokens, and nobody's to use.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Guarded, floe};

const SINK: &str = "/api/v1/topics/orders/sinks/prices";

fn wish(enabled: bool) -> Value {
    json!({
        "table": {"name": "prices"}, "enabled": enabled,
        "mapping": {"columns": [{"type": "body", "name": "body"}]},
    })
}

/// The principals of sinks that the list of tokens shows.
async fn services(guarded: &Guarded) -> Vec<Value> {
    let (status, listed) =
        guarded.ask(Method::GET, "/api/v1/tokens", Some(&guarded.admin), None).await;
    assert_eq!(status, 200);
    let all = listed["tokens"].as_array().unwrap().iter();
    all.filter(|token| token["internal"] == true).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sink_writes_as_a_principal_that_is_listed_and_nobody_can_be() {
    let mut guarded = Guarded::start(&["--table-target-lag=1s"]).await;
    let admin = guarded.admin.clone();
    assert!(services(&guarded).await.is_empty());
    let put = async |path: &str, body: Value| {
        let (status, answer) = guarded.ask(Method::PUT, path, Some(&admin), Some(body)).await;
        assert!(matches!(status, 200 | 201), "{path}: {answer}");
    };
    let made = json!({"name": "orders"});
    assert_eq!(guarded.ask(Method::POST, "/api/v1/topics", Some(&admin), Some(made)).await.0, 201);
    put(SINK, wish(true)).await;
    let [service] = &services(&guarded).await[..] else { panic!("one sink") };
    assert_eq!(service["allow"], json!(["write:table:streams.prices"]));
    assert_eq!(
        (&service["name"], &service["description"], &service["state"]),
        (
            &json!("sink:orders/prices"),
            &json!("[_internal] Stream Sink orders/prices"),
            &json!("active")
        )
    );
    put("/api/v1/sources/shop", json!({"topic": "orders"})).await;
    let [of_shop] = &services(&guarded).await[..] else { panic!("one sink") };
    assert_eq!(of_shop["description"], "[_internal] Stream Sink shop/prices");
    let (_, table) =
        guarded.ask(Method::GET, "/api/v1/tables/streams.prices", Some(&admin), None).await;
    assert_eq!(table["principal"], "sink:orders/prices", "{table}");
    // It cannot be revoked, and it opens nothing.
    let id = service["id"].as_str().unwrap();
    for name in [id, "sink:orders%2Fprices"] {
        let path = format!("/api/v1/tokens/{name}");
        let (status, refused) = guarded.ask(Method::DELETE, &path, Some(&admin), None).await;
        assert_eq!((status, &refused["code"]), (409, &json!("internal_token")), "{refused}");
        assert_eq!(guarded.ask(Method::GET, SINK, Some(name), None).await.0, 401);
    }
    let gone = guarded.ask(Method::DELETE, "/api/v1/tokens/sink:none", Some(&admin), None).await;
    assert_eq!(gone.0, 404);
    // Off and on again it is another one; a change of something else leaves it as it is.
    put(SINK, wish(false)).await;
    let [off] = &services(&guarded).await[..] else { panic!("one sink") };
    assert_eq!(off["state"], "revoked");
    assert!(off["revoked_ms"].is_i64(), "{off}");
    put(SINK, wish(true)).await;
    let [on] = &services(&guarded).await[..] else { panic!("one sink") };
    assert_eq!((&on["state"], &on["name"]), (&json!("active"), &service["name"]));
    assert_ne!(on["id"], service["id"]);
    let mut named = wish(true);
    named["name"] = json!("Prices");
    put(SINK, named).await;
    let [again] = &services(&guarded).await[..] else { panic!("one sink") };
    assert_eq!(again["id"], on["id"]);
    // Without a server it is there too.
    guarded.floe.stop().await;
    let data = guarded.dir.path().join("data");
    let data = data.to_str().unwrap();
    let list = floe(&["token", "list", "--data-dir", data], None);
    assert!(list.out.contains("[_internal] Stream Sink shop/prices"), "{}{}", list.out, list.err);
    let id = on["id"].as_str().unwrap();
    let refused = floe(&["token", "revoke", id, "--data-dir", data], None);
    assert!(
        refused.code == Some(1) && refused.err.contains("disable and enable"),
        "{}",
        refused.err
    );
}
