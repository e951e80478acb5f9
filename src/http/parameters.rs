//! Parameters of routes under `/api/v1` that manage something: what the description of a route does not
//! have is refused, lest a caller thinks that it counts.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use url::form_urlencoded;

use crate::http::openapi::DOCUMENT;
use crate::http::problem::Problem;

/// Names of parameters by route and method.
type Known = HashMap<String, HashMap<String, Vec<String>>>;

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
    known(&document)
});

fn known(document: &Value) -> Known {
    let followed = |value: &Value| match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).cloned(),
        None => Some(value.clone()),
    };
    let names = |item: &Value| -> Vec<String> {
        let all = item["parameters"].as_array().into_iter().flatten().filter_map(followed);
        let queries = all.filter(|one| one["in"] == "query");
        queries.filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect()
    };
    let paths = document["paths"].as_object().into_iter().flatten();
    let of_path = |(path, item): (&String, &Value)| {
        let shared = names(item);
        let methods = item.as_object().into_iter().flatten();
        let of_method = |(method, operation): (&String, &Value)| {
            let all = shared.iter().cloned().chain(names(operation)).collect();
            (method.to_uppercase(), all)
        };
        (path.clone(), methods.map(of_method).collect())
    };
    paths.map(of_path).collect()
}

/// Middleware.
pub(super) async fn layer(request: Request, next: Next) -> Response {
    match refusal(&request) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(request: &Request) -> Option<Problem> {
    let query = request.uri().query().filter(|query| !query.is_empty())?;
    let route = request.extensions().get::<MatchedPath>()?;
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    let known = KNOWN.get(route.as_str())?.get(method.as_str())?;
    let mut names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    let other = names.find(|name| !known.iter().any(|one| one == name))?;
    let shown: String = other.chars().take(100).collect();
    let there = match known.as_slice() {
        [] => "there is none".to_owned(),
        names => format!("there is {}", names.join(", ")),
    };
    let detail = format!("parameter {shown:?} is not known here; {there}");
    Some(Problem::new("bad_request", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_description() {
        let of = |path: &str, method: &str| KNOWN[path][method].clone();
        assert_eq!(of("/api/v1/streams", "POST"), [""; 0]);
        assert_eq!(of("/api/v1/streams/{stream}", "PUT"), ["dry_run"]);
        for path in ["/api/v1/topics", "/api/v1/streams", "/api/v1/quarantine"] {
            let mut names = of(path, "GET");
            names.sort();
            assert_eq!(names, ["after", "limit"], "{path}");
        }
    }
}
