//! The page at `/` and its files: what is here, how it is doing, how to send and how to read.
//!
//! Owns: the files and the headers that fence them in. They hold no data, so they need no token;
//! all that the page shows it asks the API for, with the token of whoever looks at it.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use crc_fast::CrcAlgorithm;
use serde_json::json;

use crate::http::problem::Problem;

/// What lies below needs no token.
pub(super) const PREFIX: &str = "/ui/";

/// Nothing but our own files runs or is asked, and no other page may frame them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const INDEX: &str = include_str!("index.html");

/// Name, content type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("app.js", "text/javascript; charset=utf-8", include_str!("app.js")),
    ("connect.js", "text/javascript; charset=utf-8", include_str!("connect.js")),
    ("page.js", "text/javascript; charset=utf-8", include_str!("page.js")),
    ("tables.js", "text/javascript; charset=utf-8", include_str!("tables.js")),
    ("topics.js", "text/javascript; charset=utf-8", include_str!("topics.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

/// Programs and settings that the page fills in: those of docs/senders.md, as they are tested.
static PROGRAMS: LazyLock<String> = LazyLock::new(|| {
    json!({
        "send.py": include_str!("../../../docs/snippets/send.py"),
        "send.mjs": include_str!("../../../docs/snippets/send.mjs"),
        "kafka-connect-aiven.json": include_str!("../../../docs/snippets/kafka-connect-aiven.json"),
        "kafka-connect-confluent.json":
            include_str!("../../../docs/snippets/kafka-connect-confluent.json"),
    })
    .to_string()
});

pub(super) async fn index(headers: HeaderMap) -> Response {
    fenced(&headers, "text/html; charset=utf-8", INDEX)
}

pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    if name == "programs.json" {
        return fenced(&headers, "application/json", &PROGRAMS);
    }
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => fenced(&headers, kind, content),
        None => Problem::new("not_found", "the page has no such file").into_response(),
    }
}

/// Browsers ask each time whether it is still the same, so that a new version is seen at once.
fn fenced(headers: &HeaderMap, kind: &'static str, content: &'static str) -> Response {
    let sum = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, content.as_bytes());
    let tag = format!("\"{sum:08x}-{:x}\"", content.len());
    let known = headers.get(header::IF_NONE_MATCH);
    let is_known = known.is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let fences = [
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::ETAG, tag),
    ];
    if is_known {
        return (StatusCode::NOT_MODIFIED, fences).into_response();
    }
    (fences, [(header::CONTENT_TYPE, kind)], content).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn text_of(file: &str) -> &'static str {
        FILES.iter().find(|(name, ..)| *name == file).unwrap().2
    }

    fn scripts() -> impl Iterator<Item = (&'static str, &'static str)> {
        FILES.iter().filter(|(_, kind, _)| kind.contains("javascript")).map(|it| (it.0, it.2))
    }

    /// What stands in double quotes; the scripts keep to one line for each.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.lines().flat_map(|line| line.split('"').skip(1).step_by(2))
    }

    #[test]
    fn the_page_asks_only_what_the_document_describes() {
        let document: Value = serde_json::from_str(crate::http::openapi::DOCUMENT).unwrap();
        let mut seen = 0;
        for (name, script) in scripts() {
            for path in quoted(script).filter(|text| text.starts_with('/') && text.len() > 1) {
                assert!(document["paths"].get(path).is_some(), "{name}: {path}");
                seen += 1;
            }
            assert!(!script.contains("api(\n") && !script.contains("ask(\n"), "{name}");
            let calls = ["api(\"", "ask(\""].into_iter().flat_map(|it| script.split(it).skip(1));
            for words in calls.map(|call| call.split('"').take(3).collect::<Vec<_>>()) {
                // Two of them are given their path.
                let [method, ", ", path] = words[..] else { continue };
                let known = document["paths"][path].get(method.to_lowercase());
                assert!(known.is_some(), "{name}: {method} {path}");
            }
        }
        assert!(seen > 15, "only {seen} paths were found");
    }

    #[test]
    fn what_is_shown_to_be_copied_is_what_the_docs_have() {
        let docs = [
            include_str!("../../../README.md"),
            include_str!("../../../docs/security.md"),
            include_str!("../../../docs/streams.md"),
        ]
        .concat();
        let filled = text_of("connect.js")
            .replace("{url}", "http://127.0.0.1:8080")
            .replace("{kafka}", "127.0.0.1:9092")
            .replace("{table}", "streams.orders")
            .replace("{topic}", "orders")
            .replace("{token}", "floe_…")
            .replace("{path}", "/data-plane/prod/event-stream/shop/ingest")
            .replace("{stream}", "shop");
        let mut seen = 0;
        for snippet in filled.split("snippet`").skip(1) {
            let snippet = snippet.split('`').next().unwrap();
            assert!(docs.contains(snippet.trim()), "the docs do not have:\n{snippet}");
            seen += 1;
        }
        assert!(seen > 8, "only {seen} snippets were found");
    }

    #[test]
    fn the_page_runs_nothing_that_is_not_a_file_of_its_own() {
        for bad in ["<style", "style=", "onclick", "http://", "https://", "javascript:"] {
            assert!(!INDEX.contains(bad), "{bad}");
        }
        for script in INDEX.split("<script").skip(1) {
            assert!(script.contains("></script>"), "a script in the page: {script}");
        }
        for own in INDEX.split(['"']).filter(|text| text.starts_with(PREFIX)) {
            let name = own.trim_start_matches(PREFIX);
            assert!(FILES.iter().any(|(known, ..)| *known == name), "{own}");
        }
        let markup = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "DOMParser",
            "localStorage",
            "document.cookie",
            ".style",
            "EventSource",
        ];
        for (name, script) in scripts() {
            for bad in markup {
                assert!(!script.contains(bad), "{name}: {bad}");
            }
            for other in script.split("} from \"").skip(1).filter_map(|it| it.split('"').next()) {
                assert!(other.starts_with("./"), "{name} loads {other}");
            }
        }
        assert!(!text_of("style.css").contains("url("));
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = fenced(&HeaderMap::new(), "text/html", INDEX);
        let tag = first.headers()[header::ETAG].clone();
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, tag);
        let again = fenced(&headers, "text/html", INDEX);
        assert_eq!((first.status(), again.status()), (StatusCode::OK, StatusCode::NOT_MODIFIED));
        assert_eq!(fenced(&headers, "text/html", "x").status(), StatusCode::OK);
    }
}
