//! What a generated client goes by: every route of the API is in the document and is served.

use super::*;

/// Methods and what follows `/v1/branches/{branch}/sources`.
const ROUTES: &[(&str, &[&str])] = &[
    ("", &["get", "post"]),
    ("/deleted", &["get"]),
    ("/{source}", &["get", "patch", "delete"]),
    ("/{source}/settings", &["get", "patch"]),
    ("/{source}/test", &["post"]),
    ("/{source}/statistics/clear", &["delete"]),
    ("/{source}/disable", &["put"]),
    ("/{source}/enable", &["put"]),
    ("/{source}/undelete", &["put"]),
    ("/{source}/rotate-secret", &["post"]),
    ("/{source}/versions", &["get"]),
    ("/{source}/versions/{version}", &["get"]),
    ("/{source}/versions/{version}/rollback", &["put"]),
    ("/{source}/sinks", &["get", "post"]),
    ("/{source}/sinks/deleted", &["get"]),
    ("/{source}/sinks/{sink}", &["get", "patch", "delete"]),
    ("/{source}/sinks/{sink}/settings", &["get", "patch"]),
    ("/{source}/sinks/{sink}/statistics/total", &["get"]),
    ("/{source}/sinks/{sink}/statistics/files", &["get"]),
    ("/{source}/sinks/{sink}/statistics/clear", &["delete"]),
    ("/{source}/sinks/{sink}/disable", &["put"]),
    ("/{source}/sinks/{sink}/enable", &["put"]),
    ("/{source}/sinks/{sink}/undelete", &["put"]),
    ("/{source}/sinks/{sink}/versions", &["get"]),
    ("/{source}/sinks/{sink}/versions/{version}", &["get"]),
    ("/{source}/sinks/{sink}/versions/{version}/rollback", &["put"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_documented_and_served() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let document = floe.get("/v1/documentation/openapi.json").await;
    assert_eq!(document, floe.get("/v1/documentation/openapi3.json").await);
    for (path, methods) in ROUTES {
        let template = format!("/v1/branches/{{branch}}/sources{path}");
        let operations = &document["paths"][&template];
        for method in ["get", "post", "put", "patch", "delete"] {
            let is_there = methods.contains(&method);
            let operation = &operations[method];
            assert_eq!(operation.is_object(), is_there, "{method} {template}");
            let unknown = path.replace("{source}", "none").replace("{sink}", "none");
            let known = path.replace("{source}", "shop").replace("{sink}", "none");
            let of_sink = path.contains("{sink}");
            let (asked, error) = match (is_there, of_sink) {
                // An id may be anything, so another method may be for the one of that name.
                (false, _) if path.is_empty() || path.ends_with("deleted") => continue,
                (false, _) => (known, "stream.api.methodNotAllowed"),
                (true, _) if !path.contains("{source}") => continue,
                (true, false) => (unknown, "stream.api.sourceNotFound"),
                (true, true) => (known, "stream.api.sinkNotFound"),
            };
            let asked = format!("{SOURCES}{}", asked.replace("{version}", "1"));
            let is_new = asked.ends_with("/sinks");
            let body = if is_new { sink("any", "in.shop.any") } else { json!({}) };
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let (status, refused) = ask(&floe, method.clone(), &asked, Some(body)).await;
            assert_eq!(refused["error"], error, "{method} {asked}: {status} {refused}");
            assert_eq!(malformed(status, &refused), None, "{method} {asked}");
        }
    }
    for path in
        ["/v1", "/v1/branches/{branch}/aggregation/sources", "/stream/{project}/{source}/{secret}"]
    {
        assert!(document["paths"][path].is_object(), "{path}");
    }
}
