//! Every route and error, against a catalog whose state is in memory.

use axum::Extension;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::auth::Principal;
use crate::http::auth::Caller;
use crate::table::catalog::embedded::tests::Fixture;

struct Client {
    fixture: Fixture,
    router: Router,
}

impl Client {
    fn new() -> Self {
        let fixture = Fixture::new();
        let client_properties = [("s3.endpoint".to_owned(), "http://minio:9000".to_owned())].into();
        let options = Options { client_properties, body_bytes_max: 64 << 10 };
        let anyone = Extension(Caller(Principal::anonymous()));
        let router = router(fixture.catalog.clone(), options).layer(anyone);
        Self { fixture, router }
    }

    async fn with_table() -> Self {
        let client = Self::new();
        client.ok("POST", "/v1/namespaces", json!({ "namespace": ["db"] })).await;
        client.ok("POST", "/v1/namespaces/db/tables", table_request("t")).await;
        client
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let code = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let body =
            if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        (code, body)
    }

    async fn json(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(method, path, body).await
    }

    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (code, body) = self.json(method, path, body).await;
        assert!(code.is_success(), "{method} {path}: {code} {body}");
        body
    }

    /// Sends and checks the error model.
    async fn fails(&self, method: &str, path: &str, body: Value, code: u16, kind: &str) -> String {
        let (status, body) = self.json(method, path, body).await;
        assert_eq!(status.as_u16(), code, "{method} {path}: {body}");
        assert_eq!(body["error"]["code"], code, "{method} {path}: {body}");
        assert_eq!(body["error"]["type"], kind, "{method} {path}: {body}");
        body["error"]["message"].as_str().unwrap().to_owned()
    }
}

fn table_request(name: &str) -> Value {
    json!({
        "name": name,
        "location": null,
        "schema": { "type": "struct", "schema-id": 0, "fields": [
            { "id": 1, "name": "id", "type": "long", "required": true },
            { "id": 2, "name": "at", "type": "timestamptz", "required": false },
        ], "identifier-field-ids": [] },
        "partition-spec": { "spec-id": 0, "fields": [] },
        "write-order": { "order-id": 0, "fields": [] },
        "stage-create": false,
        "properties": { "owner": "me" },
    })
}

fn set(key: &str, value: &str) -> Value {
    json!({ "action": "set-properties", "updates": { key: value } })
}

#[tokio::test]
async fn the_configuration_lists_what_is_implemented() {
    let client = Client::with_table().await;
    let config = client.ok("GET", "/v1/config?warehouse=any", Value::Null).await;
    assert_eq!(config["defaults"]["s3.endpoint"], "http://minio:9000");
    assert!(config["overrides"].as_object().unwrap().is_empty());
    for endpoint in config["endpoints"].as_array().unwrap() {
        let (method, path) = endpoint.as_str().unwrap().split_once(' ').unwrap();
        let path =
            path.replace("{prefix}/", "").replace("{namespace}", "db").replace("{table}", "nope");
        let (code, _) = client.json(method, &path, Value::Null).await;
        assert_ne!(code, StatusCode::METHOD_NOT_ALLOWED, "{endpoint}");
        let (code, answer) = client.json("GET", "/v1/nope", Value::Null).await;
        assert_eq!(
            (code, &answer["error"]["type"]),
            (StatusCode::NOT_FOUND, &json!("NotFoundException"))
        );
    }
    client.fails("PUT", "/v1/config", Value::Null, 405, "UnsupportedOperationException").await;
}

#[tokio::test]
async fn namespaces_follow_the_specification() {
    let client = Client::new();
    let body = json!({ "namespace": ["a", "b c"], "properties": { "k": "v" } });
    let made = client.ok("POST", "/v1/namespaces", body.clone()).await;
    assert_eq!(made, body);
    client.fails("POST", "/v1/namespaces", body, 409, "AlreadyExistsException").await;
    assert_eq!(
        client.ok("GET", "/v1/namespaces", Value::Null).await,
        json!({ "namespaces": [["a"]] })
    );
    for parent in ["a", "a%1Fb%20c", "a%1Fb%2520c", "a%251Fb%2520c"] {
        let (code, _) =
            client.json("GET", &format!("/v1/namespaces?parent={parent}"), Value::Null).await;
        assert_eq!(code, StatusCode::OK, "{parent}");
    }
    client
        .fails("GET", "/v1/namespaces?parent=x", Value::Null, 404, "NoSuchNamespaceException")
        .await;
    let loaded = client.ok("GET", "/v1/namespaces/a%1Fb%20c", Value::Null).await;
    assert_eq!(loaded["properties"], json!({ "k": "v" }));
    assert_eq!(
        client.json("HEAD", "/v1/namespaces/a", Value::Null).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(client.json("HEAD", "/v1/namespaces/x", Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn properties_of_namespaces_follow_the_specification() {
    let client = Client::new();
    let body = json!({ "namespace": ["a", "b c"], "properties": { "k": "v" } });
    client.ok("POST", "/v1/namespaces", body).await;
    let properties = "/v1/namespaces/a%1Fb%20c/properties";
    let both = json!({ "removals": ["k"], "updates": { "k": "w" } });
    client.fails("POST", properties, both, 422, "UnprocessableEntityException").await;
    let change = json!({ "removals": ["k", "z"], "updates": { "n": "1" } });
    let done = client.ok("POST", properties, change.clone()).await;
    assert_eq!(done, json!({ "removed": ["k"], "updated": ["n"], "missing": ["z"] }));
    client
        .fails("POST", "/v1/namespaces/x/properties", change, 404, "NoSuchNamespaceException")
        .await;
}

#[tokio::test]
async fn only_empty_namespaces_are_dropped() {
    let client = Client::new();
    let body = json!({ "namespace": ["a", "b c"] });
    client.ok("POST", "/v1/namespaces", body).await;
    client
        .fails("DELETE", "/v1/namespaces/a", Value::Null, 409, "NamespaceNotEmptyException")
        .await;
    client.ok("DELETE", "/v1/namespaces/a%1Fb%20c", Value::Null).await;
    client.ok("DELETE", "/v1/namespaces/a", Value::Null).await;
    client.fails("DELETE", "/v1/namespaces/a", Value::Null, 404, "NoSuchNamespaceException").await;
    for bad in [json!({ "namespace": [] }), json!({ "namespace": [""] }), json!({}), json!([])] {
        client.fails("POST", "/v1/namespaces", bad, 400, "BadRequestException").await;
    }
}

#[tokio::test]
async fn tables_are_created_and_loaded() {
    let client = Client::with_table().await;
    let tables = "/v1/namespaces/db/tables";
    client.fails("POST", tables, table_request("t"), 409, "AlreadyExistsException").await;
    let nowhere = "/v1/namespaces/x/tables";
    client.fails("POST", nowhere, table_request("t"), 404, "NoSuchNamespaceException").await;
    client.fails("GET", nowhere, Value::Null, 404, "NoSuchNamespaceException").await;
    let mut outside = table_request("o");
    outside["location"] = "file:///etc/o".into();
    client.fails("POST", tables, outside, 400, "BadRequestException").await;
    let loaded = client.ok("GET", &format!("{tables}/t?snapshots=refs"), Value::Null).await;
    assert_eq!(loaded["metadata"]["properties"]["owner"], "me");
    assert_eq!(loaded["config"]["s3.endpoint"], "http://minio:9000");
    assert!(loaded["metadata-location"].as_str().unwrap().ends_with(".gz.metadata.json"));
}

#[tokio::test]
async fn tables_are_listed_and_dropped() {
    let client = Client::with_table().await;
    let tables = "/v1/namespaces/db/tables";
    let listed = client.ok("GET", tables, Value::Null).await;
    assert_eq!(listed, json!({ "identifiers": [{ "namespace": ["db"], "name": "t" }] }));
    client.ok("POST", tables, table_request("u")).await;
    let page = client.ok("GET", &format!("{tables}?pageToken=&pageSize=1"), Value::Null).await;
    let next = page["next-page-token"].as_str().unwrap();
    let page = client.ok("GET", &format!("{tables}?pageToken={next}"), Value::Null).await;
    assert_eq!(page, json!({ "identifiers": [{ "namespace": ["db"], "name": "u" }] }));
    let head = format!("{tables}/t");
    assert_eq!(client.json("HEAD", &head, Value::Null).await.0, StatusCode::NO_CONTENT);
    assert_eq!(
        client.json("POST", &format!("{head}/metrics"), json!({ "x": 1 })).await.0,
        StatusCode::NO_CONTENT
    );
    client
        .fails(
            "DELETE",
            &format!("{head}?purgeRequested=maybe"),
            Value::Null,
            400,
            "BadRequestException",
        )
        .await;
    client.ok("DELETE", &format!("{head}?purgeRequested=True"), Value::Null).await;
    client.fails("DELETE", &head, Value::Null, 404, "NoSuchTableException").await;
    client.fails("GET", &head, Value::Null, 404, "NoSuchTableException").await;
    assert_eq!(client.json("HEAD", &head, Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_unchanged_table_is_not_sent_again() {
    let client = Client::with_table().await;
    let get = |tag: Option<String>| {
        let mut request = Request::builder().uri("/v1/namespaces/db/tables/t");
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        client.router.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    let first = get(None).await.unwrap();
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(get(Some(tag.clone())).await.unwrap().status(), StatusCode::NOT_MODIFIED);
    let commit = json!({ "updates": [set("a", "b")] });
    client.ok("POST", "/v1/namespaces/db/tables/t", commit).await;
    assert_eq!(get(Some(tag)).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn commits_answer_with_the_new_metadata_or_the_reason() {
    let client = Client::with_table().await;
    let table = "/v1/namespaces/db/tables/t";
    let done =
        client.ok("POST", table, json!({ "requirements": [], "updates": [set("a", "b")] })).await;
    assert_eq!(done["metadata"]["properties"]["a"], "b");
    assert!(done["metadata-location"].is_string());
    let stale = json!({
        "requirements": [{ "type": "assert-current-schema-id", "current-schema-id": 9 }],
        "updates": [set("a", "c")],
    });
    client.fails("POST", table, stale, 409, "CommitFailedException").await;
    let create = json!({ "requirements": [{ "type": "assert-create" }], "updates": [] });
    client.fails("POST", table, create, 409, "AlreadyExistsException").await;
    let unknown = json!({ "updates": [{ "action": "add-view-version", "view-version": {} }] });
    let text = client.fails("POST", table, unknown, 400, "BadRequestException").await;
    assert!(text.contains("add-view-version"), "{text}");
    let unknown = json!({ "requirements": [{ "type": "assert-view-uuid" }], "updates": [] });
    let text = client.fails("POST", table, unknown, 400, "BadRequestException").await;
    assert!(text.contains("assert-view-uuid"), "{text}");
    let broken = json!({ "updates": [{ "action": "set-location" }] });
    let text = client.fails("POST", table, broken, 400, "BadRequestException").await;
    assert!(text.contains("set-location") && text.contains("location"), "{text}");
    let none = "/v1/namespaces/db/tables/none";
    client.fails("POST", none, json!({ "updates": [] }), 404, "NoSuchTableException").await;
    client.fixture.state.fail_next(crate::store::Error::Failed("disk".into()));
    let commit = json!({ "updates": [set("a", "d")] });
    client.fails("POST", table, commit.clone(), 500, "CommitStateUnknownException").await;
    client.fixture.state.fail_next(crate::store::Error::Closed);
    client.fails("POST", table, commit, 503, "ServiceUnavailableException").await;
}

#[tokio::test]
async fn a_transaction_commits_all_tables_or_none() {
    let client = Client::with_table().await;
    client.ok("POST", "/v1/namespaces/db/tables", table_request("u")).await;
    let change = |name: &str, requirements: Value, value: &str| {
        let identifier = json!({ "namespace": ["db"], "name": name });
        json!({ "identifier": identifier, "requirements": requirements, "updates": [set("a", value)] })
    };
    let commit = "/v1/transactions/commit";
    let both =
        json!({ "table-changes": [change("t", json!([]), "1"), change("u", json!([]), "1")] });
    assert_eq!(client.json("POST", commit, both).await.0, StatusCode::NO_CONTENT);
    let stale = json!([{ "type": "assert-default-spec-id", "default-spec-id": 7 }]);
    let half = json!({ "table-changes": [change("t", json!([]), "2"), change("u", stale, "2")] });
    client.fails("POST", commit, half, 409, "CommitFailedException").await;
    for name in ["t", "u"] {
        let loaded =
            client.ok("GET", &format!("/v1/namespaces/db/tables/{name}"), Value::Null).await;
        assert_eq!(loaded["metadata"]["properties"]["a"], "1");
    }
    let anonymous = json!({ "table-changes": [{ "requirements": [], "updates": [] }] });
    client.fails("POST", commit, anonymous, 400, "BadRequestException").await;
}

#[tokio::test]
async fn a_staged_table_has_no_metadata_file_yet() {
    let client = Client::with_table().await;
    let mut request = table_request("staged");
    request["stage-create"] = true.into();
    let staged = client.ok("POST", "/v1/namespaces/db/tables", request).await;
    assert!(staged.get("metadata-location").is_none());
    let path = "/v1/namespaces/db/tables/staged";
    client.fails("GET", path, Value::Null, 404, "NoSuchTableException").await;
    let metadata = &staged["metadata"];
    let commit = json!({
        "requirements": [{ "type": "assert-create" }],
        "updates": [
            { "action": "assign-uuid", "uuid": metadata["table-uuid"] },
            { "action": "add-schema", "schema": metadata["schemas"][0], "last-column-id": 2 },
            { "action": "set-current-schema", "schema-id": -1 },
            { "action": "add-spec", "spec": metadata["partition-specs"][0] },
            { "action": "set-default-spec", "spec-id": -1 },
            { "action": "set-location", "location": metadata["location"] },
        ],
    });
    let made = client.ok("POST", path, commit).await;
    assert_eq!(made["metadata"]["table-uuid"], metadata["table-uuid"]);
}

#[tokio::test]
async fn tables_are_renamed_and_registered() {
    let client = Client::with_table().await;
    let rename = |from: &str, to: &str| {
        json!({
            "source": { "namespace": ["db"], "name": from },
            "destination": { "namespace": ["db"], "name": to },
        })
    };
    let path = "/v1/tables/rename";
    client.ok("POST", "/v1/namespaces/db/tables", table_request("u")).await;
    client.fails("POST", path, rename("t", "u"), 409, "AlreadyExistsException").await;
    client.fails("POST", path, rename("x", "y"), 404, "NoSuchTableException").await;
    assert_eq!(client.json("POST", path, rename("t", "v")).await.0, StatusCode::NO_CONTENT);
    let loaded = client.ok("GET", "/v1/namespaces/db/tables/v", Value::Null).await;
    client.ok("DELETE", "/v1/namespaces/db/tables/v", Value::Null).await;
    let register = json!({ "name": "w", "metadata-location": loaded["metadata-location"] });
    let again = "/v1/namespaces/db/register";
    let registered = client.ok("POST", again, register.clone()).await;
    assert_eq!(registered["metadata"], loaded["metadata"]);
    client.fails("POST", again, register, 409, "AlreadyExistsException").await;
    let bad = json!({ "name": "z", "metadata-location": "/etc/passwd" });
    client.fails("POST", again, bad, 400, "BadRequestException").await;
}

#[tokio::test]
async fn there_are_no_views() {
    let client = Client::with_table().await;
    let views = "/v1/namespaces/db/views";
    assert_eq!(client.ok("GET", views, Value::Null).await, json!({ "identifiers": [] }));
    client
        .fails("GET", "/v1/namespaces/x/views", Value::Null, 404, "NoSuchNamespaceException")
        .await;
    client.fails("GET", &format!("{views}/t"), Value::Null, 404, "NoSuchViewException").await;
    client.fails("POST", views, json!({}), 406, "UnsupportedOperationException").await;
}

#[tokio::test]
async fn no_request_can_panic_the_server() {
    let client = Client::with_table().await;
    let deep = format!("{}1{}", "[".repeat(100_000 / 4), "]".repeat(100_000 / 4));
    let posts = [
        "/v1/namespaces",
        "/v1/namespaces/db/properties",
        "/v1/namespaces/db/tables",
        "/v1/namespaces/db/tables/t",
        "/v1/namespaces/db/register",
        "/v1/tables/rename",
        "/v1/transactions/commit",
    ];
    let garbage = ["", "{", "null", "[]", "\"x\"", "{\"updates\":[1]}", "\u{0}", &deep];
    for path in posts {
        for body in garbage {
            let (code, answer) = client.send("POST", path, body.to_owned()).await;
            let message = &answer["error"]["message"];
            // The one request without a required member: nothing to change.
            let nothing = path.ends_with("/properties") && code == StatusCode::OK;
            let nothing = nothing || (path.ends_with("/t") && code == StatusCode::OK);
            assert!(
                code == StatusCode::BAD_REQUEST || nothing,
                "{path} {body:.20}: {code} {message}"
            );
        }
        let (code, answer) = client.send("POST", path, vec![b' '; (64 << 10) + 1]).await;
        assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE, "{path}: {answer}");
    }
    let field = |id: i64| json!({ "id": id, "name": "x", "type": "int", "required": false });
    let schema = |id: i64, field: Value| json!({ "action": "add-schema", "schema": { "type": "struct", "schema-id": id, "fields": [field] } });
    let spec = |field: Value| json!({ "action": "add-spec", "spec": { "fields": [field] } });
    for update in [
        schema(i64::from(i32::MAX), field(i64::from(i32::MAX))),
        schema(-7, field(-7)),
        spec(
            json!({ "source-id": 1, "field-id": i32::MAX, "name": "p", "transform": "bucket[0]" }),
        ),
        spec(json!({ "source-id": 1, "name": "q", "transform": "truncate[0]" })),
        spec(json!({ "source-id": 99, "name": "r", "transform": "identity" })),
        json!({ "action": "set-default-spec", "spec-id": i32::MIN }),
        json!({ "action": "set-default-sort-order", "sort-order-id": i64::MIN }),
        json!({ "action": "remove-snapshots", "snapshot-ids": [i64::MIN] }),
        json!({ "action": "set-location", "location": "" }),
    ] {
        let body = json!({ "updates": [update] });
        let (code, answer) = client.json("POST", "/v1/namespaces/db/tables/t", body).await;
        assert!(!code.is_server_error(), "{update}: {answer}");
    }
    client.ok("GET", "/v1/namespaces/db/tables/t", Value::Null).await;
    for path in [
        "/v1/namespaces/%FF",
        "/v1/namespaces/%00",
        "/v1/namespaces/db/tables/%1F",
        "/v1/namespaces/%1F%1F",
    ] {
        let (code, _) = client.json("GET", path, Value::Null).await;
        assert!(code.is_client_error(), "{path}: {code}");
    }
}
