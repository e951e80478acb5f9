//! The Iceberg catalog's routes: their own form of refusals, and rights to tables.

use reqwest::Method;
use serde_json::{Value, json};

use crate::Guarded;

fn table(name: &str) -> Value {
    json!({ "name": name, "schema": { "type": "struct", "schema-id": 0, "fields": [
        { "id": 1, "name": "id", "type": "long", "required": false },
    ] } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_the_form_that_engines_read() {
    let guarded = Guarded::start(&[]).await;
    for path in ["/iceberg/v1/config", "/iceberg/v1/namespaces", "/iceberg/v1/no/such"] {
        for token in [None, Some("wrong")] {
            let (status, body) = guarded.ask(Method::GET, path, token, None).await;
            assert_eq!(status, 401, "{path}: {body}");
            let error = &body["error"];
            assert_eq!(
                (&error["code"], &error["type"]),
                (&json!(401), &json!("NotAuthorizedException"))
            );
        }
    }
    let weak = guarded.token("weak", &["read:topic:*"]).await;
    let path = "/iceberg/v1/namespaces/a/tables/t";
    let (status, body) = guarded.ask(Method::GET, path, Some(&weak), None).await;
    assert_eq!((status, &body["error"]["type"]), (403, &json!("ForbiddenException")));
    assert!(body["error"]["message"].as_str().unwrap().contains("read:table:a.t"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_to_tables_open_the_catalog_table_by_table() {
    let flags = ["--set", "catalog.client.s3.endpoint=http://files:9000"];
    let guarded = Guarded::start(&flags).await;
    let admin = guarded.admin.as_str();
    let ask = async |method: Method, path: &str, token: &str, body: Option<Value>| {
        guarded.ask(method, &format!("/iceberg/v1{path}"), Some(token), body).await
    };
    for namespace in ["a", "b"] {
        let body = json!({ "namespace": [namespace] });
        assert_eq!(ask(Method::POST, "/namespaces", admin, Some(body)).await.0, 200);
        let tables = format!("/namespaces/{namespace}/tables");
        for name in ["t", "u"] {
            assert_eq!(ask(Method::POST, &tables, admin, Some(table(name))).await.0, 200);
        }
    }
    let reader = guarded.token("reader", &["read:table:a.t"]).await;
    let (_, listed) = ask(Method::GET, "/namespaces", &reader, None).await;
    assert_eq!(listed["namespaces"], json!([["a"]]));
    let (_, listed) = ask(Method::GET, "/namespaces/a/tables", &reader, None).await;
    assert_eq!(listed["identifiers"], json!([{ "namespace": ["a"], "name": "t" }]));
    assert_eq!(ask(Method::GET, "/namespaces/b/tables", &reader, None).await.0, 403);
    assert_eq!(ask(Method::GET, "/namespaces/a/tables/t", &reader, None).await.0, 200);
    assert_eq!(ask(Method::GET, "/namespaces/a/tables/u", &reader, None).await.0, 403);
    let set = json!({ "updates": [{ "action": "set-properties", "updates": { "k": "v" } }] });
    let commit = ask(Method::POST, "/namespaces/a/tables/t", &reader, Some(set.clone())).await;
    assert_eq!(commit.0, 403);
    let both = json!({ "table-changes": [
        { "identifier": { "namespace": ["a"], "name": "t" }, "updates": set["updates"] },
        { "identifier": { "namespace": ["a"], "name": "u" }, "updates": set["updates"] },
    ] });
    let writer = guarded.token("writer", &["write:table:a.t"]).await;
    assert_eq!(ask(Method::POST, "/namespaces/a/tables/t", &writer, Some(set)).await.0, 200);
    let commit = ask(Method::POST, "/transactions/commit", &writer, Some(both)).await;
    assert_eq!(commit.0, 403, "all tables or none");
    let rename = json!({ "source": { "namespace": ["a"], "name": "t" },
        "destination": { "namespace": ["b"], "name": "x" } });
    assert_eq!(ask(Method::POST, "/tables/rename", &writer, Some(rename)).await.0, 403);
    assert_eq!(ask(Method::DELETE, "/namespaces/a/tables/t", &writer, None).await.0, 403);
    let maker = guarded.token("maker", &["create:table:c.*"]).await;
    let body = |name: &str| Some(json!({ "namespace": [name] }));
    assert_eq!(ask(Method::POST, "/namespaces", &maker, body("c")).await.0, 200);
    assert_eq!(ask(Method::POST, "/namespaces", &maker, body("d")).await.0, 403);
    let made = ask(Method::POST, "/namespaces/c/tables", &maker, Some(table("t"))).await;
    assert_eq!(made.0, 200);
    assert_eq!(ask(Method::DELETE, "/namespaces/c", &maker, None).await.0, 403);

    // How to reach the files is for those who may.
    let (_, config) = ask(Method::GET, "/config", &reader, None).await;
    assert_eq!(config["defaults"]["s3.endpoint"], "http://files:9000");
    let stranger = guarded.token("stranger", &["write:topic:*"]).await;
    let (status, config) = ask(Method::GET, "/config", &stranger, None).await;
    assert_eq!((status, &config["defaults"]), (200, &json!({})));
}
