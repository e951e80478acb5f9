//! `/openapi.json`, and the pages of all routes and problems.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use serde_json::Value;

use crate::http::advice;
use crate::http::problem::PROBLEMS;

/// The description of every native route, OpenAPI 3.1.
pub const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

/// The same as YAML, of which JSON is a part (YAML 1.2, 1.3).
pub(super) async fn yaml() -> Response {
    ([(header::CONTENT_TYPE, "application/yaml")], DOCUMENT).into_response()
}

/// Every route of the document, for people.
pub(super) async fn routes() -> Html<&'static str> {
    static PAGE: LazyLock<String> = LazyLock::new(|| {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
        page("Routes", &listed(&document))
    });
    Html(&PAGE)
}

fn listed(document: &Value) -> String {
    let mut rows = String::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let Some(summary) = operation["summary"].as_str() else { continue };
            let method = method.to_uppercase();
            let _ = writeln!(
                rows,
                "<tr><td>{method}</td><td><code>{path}</code></td><td>{summary}</td></tr>"
            );
        }
    }
    let about = "<p>Bodies, answers and examples: <a href=\"/openapi.json\">OpenAPI 3.1</a>.</p>";
    format!("{about}<table>{rows}</table>")
}

/// Every problem type with its cause and what to do; `type` URLs point here.
pub(super) async fn problems() -> Html<&'static str> {
    static PAGE: LazyLock<String> = LazyLock::new(described);
    Html(&PAGE)
}

fn described() -> String {
    let mut rows = String::new();
    for (code, status, title, retryable) in PROBLEMS {
        let retry = if *retryable { "yes (after Retry-After where it is sent)" } else { "no" };
        let (cause, remedy) = advice::of(code);
        let _ = writeln!(
            rows,
            "<tr id=\"{code}\"><td><a href=\"#{code}\"><code>{code}</code></a></td>\
             <td>{status}</td><td><b>{title}.</b> {cause}</td><td>{remedy}</td><td>{retry}</td></tr>"
        );
    }
    page(
        "Problems",
        &format!(
            "<table><tr><th>code</th><th>status</th><th>meaning and cause</th>\
             <th>what to do</th><th>try again</th></tr>{rows}</table>"
        ),
    )
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;\
         padding:0 1rem}}pre{{background:#f4f4f4;padding:1rem;overflow:auto}}\
         td,th{{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}}</style>\
         <h1>{title}</h1>{body}</html>"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::tier::TableStatus;

    #[test]
    fn the_document_names_no_port_of_its_own() {
        for fixed in ["8080", "9092"] {
            assert!(!super::DOCUMENT.contains(fixed), "{fixed}");
        }
    }

    #[test]
    fn the_page_of_problems_has_an_address_a_cause_and_a_remedy_for_each() {
        let page = super::described();
        for (code, ..) in super::PROBLEMS {
            let (cause, remedy) = super::advice::of(code);
            let row = page.split(&format!("<tr id=\"{code}\">")).nth(1).unwrap();
            let row = row.split("</tr>").next().unwrap();
            assert!(row.contains(cause) && row.contains(remedy), "{code}: {row}");
            assert!(!cause.contains(['<', '&']) && !remedy.contains(['<', '&']), "{code}");
        }
    }

    #[test]
    fn the_page_of_routes_has_all_of_them_and_no_markup_of_the_document() {
        let document: Value = serde_json::from_str(super::DOCUMENT).unwrap();
        let listed = super::listed(&document);
        for (path, item) in document["paths"].as_object().unwrap() {
            assert!(listed.contains(&format!("<code>{path}</code>")), "{path}");
            for operation in item.as_object().unwrap().values() {
                let summary = operation["summary"].as_str().unwrap_or_default();
                assert!(!summary.contains(['<', '&']), "{summary}");
            }
        }
    }

    #[test]
    fn the_document_has_every_field_of_a_table() {
        let document: Value = serde_json::from_str(super::DOCUMENT).unwrap();
        let described = document["components"]["schemas"]["Table"]["properties"].as_object();
        let described: Vec<&String> = described.unwrap().keys().collect();
        let sent = serde_json::to_value(TableStatus::default()).unwrap();
        let sent: Vec<&String> = sent.as_object().unwrap().keys().collect();
        assert_eq!(described, sent);
    }

    #[test]
    fn the_document_has_every_code_of_an_event() {
        let sources = [
            include_str!("ingest/batches.rs"),
            include_str!("ingest/cloudevents.rs"),
            include_str!("ingest/place.rs"),
            include_str!("ingest/split.rs"),
            include_str!("streams/fit.rs"),
            include_str!("../schema/json/decode.rs"),
        ];
        let document: Value = serde_json::from_str(super::DOCUMENT).unwrap();
        let codes = &document["components"]["schemas"]["EventError"]["properties"]["code"]["enum"];
        for code in codes.as_array().unwrap() {
            assert!(sources.iter().any(|source| source.contains(&code.to_string())), "{code}");
        }
    }

    /// What a reference in the document leads to; any other value is itself.
    fn followed<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        document.pointer(reference.trim_start_matches('#')).unwrap()
    }

    #[test]
    fn routes_that_take_events_say_what_counts_once() {
        let document: Value = serde_json::from_str(super::DOCUMENT).unwrap();
        let (mut with, mut seen) = (Vec::new(), 0);
        for (path, item) in document["paths"].as_object().unwrap() {
            let shared = item["parameters"].as_array().cloned().unwrap_or_default();
            for operation in item.as_object().unwrap().values().filter(|it| it.is_object()) {
                let own = operation["parameters"].as_array().cloned().unwrap_or_default();
                let all = shared.iter().chain(&own);
                let names = all.map(|it| followed(&document, it)["name"].as_str().unwrap());
                let names: Vec<&str> = names.collect();
                let has = |name: &str| names.contains(&name);
                let given = ["Idempotency-Key", "X-Channel", "X-Offset-Token"].map(has);
                assert!(given == [given[0]; 3], "{path}: one without the others in {names:?}");
                if given[0] {
                    with.push(path.as_str());
                    seen += 1;
                }
            }
        }
        assert!(seen > 30, "only {seen} operations");
        for path in [
            "/api/v1/topics/{topic}/events",
            "/api/v1/streams/{stream}/events",
            "/api/v1/tables/{table}/events",
            "/data-plane/{namespace}/event-stream/{stream}/ingest",
            "/sources/{source}/{secret}",
            "/stream/{project}/{source}/{secret}",
            "/topics/{topic}",
            "/v0/events",
            "/v1/logs",
            "/services/collector/event",
        ] {
            assert!(with.contains(&path), "{path}");
        }
    }

    fn has_example(media: &Value) -> bool {
        let several = media["examples"].as_object().is_some_and(|several| !several.is_empty());
        several || media.get("example").is_some()
    }

    /// The content types of a body that have no example.
    fn without_example(body: &Value) -> Vec<String> {
        let content = body["content"].as_object().into_iter().flatten();
        content.filter(|(_, media)| !has_example(media)).map(|(kind, _)| kind.clone()).collect()
    }

    #[test]
    fn every_body_in_the_document_has_an_example() {
        let document: Value = serde_json::from_str(super::DOCUMENT).unwrap();
        let mut seen = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                if let Some(body) = operation.get("requestBody") {
                    let without = without_example(followed(&document, body));
                    assert!(without.is_empty(), "{method} {path}: no request for {without:?}");
                    seen += 1;
                }
                for (status, response) in operation["responses"].as_object().unwrap() {
                    if status.starts_with('2') {
                        let without = without_example(followed(&document, response));
                        assert!(without.is_empty(), "{method} {path}: no {status} for {without:?}");
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen >= 150, "the test finds the bodies");
    }

    #[test]
    fn the_document_is_json_and_describes_every_native_route() {
        let document: Value = serde_json::from_str(super::DOCUMENT).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let sources = [
            include_str!("mod.rs"),
            include_str!("confluent/mod.rs"),
            include_str!("hec/mod.rs"),
            include_str!("keboola/routes.rs"),
            include_str!("otlp/mod.rs"),
            include_str!("otlp/sources.rs"),
            include_str!("streams/mod.rs"),
        ];
        let code = |source: &&'static str| source.split("#[cfg(test)]").next();
        let source: String = sources.iter().filter_map(code).collect();
        // The document has no sign for a name that takes the rest of a path.
        let source = source.replace("{*", "{");
        let routes = source.split("\"/").skip(1).map(|rest| rest.split('"').next().unwrap());
        let mut seen = 0;
        // The second stands before routes that are there without it too.
        let left_out = |route: &str| route.starts_with("iceberg") || route == "kafka";
        for route in routes.filter(|route| !left_out(route)) {
            let twin = route.starts_with("v3/").then(|| format!("/kafka/{route}"));
            for path in [format!("/{route}")].into_iter().chain(twin) {
                assert!(document["paths"].get(&path).is_some(), "{path} is missing");
                seen += 1;
            }
        }
        assert!(seen >= 12, "the test reads the routes from the source");
        for (path, item) in document["paths"].as_object().unwrap() {
            let route = path.strip_prefix("/kafka").unwrap_or(path);
            assert!(source.contains(&format!("\"{route}\"")), "{path} is described, not served");
            for (method, operation) in item.as_object().unwrap() {
                let method_found = method == "parameters" || operation["responses"].is_object();
                assert!(method_found, "{method} {path} has no responses");
            }
        }
    }
}
