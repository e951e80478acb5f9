//! What is answered from the moment that the port is bound until the server has read back what it
//! had: probes see a process that turns and is not ready, senders are told to come again (503), in
//! the form of their route. The site takes over on the same connections.

use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};

use crate::http::forwarded::Proxies;
use crate::http::front::Site;
use crate::http::ingest::body;
use crate::http::problem::Problem;
use crate::http::{auth, probes, request_id};
use crate::runtime::metrics;

/// How much of a body that nobody takes is read, so that its sender sees the answer, bytes.
const DROPPED_BYTES_MAX: usize = 16 << 20;
/// When senders are to come again, seconds.
const AGAIN_S: u64 = 2;

/// Where requests come in; cheap to clone, as every connection does.
#[derive(Clone)]
pub struct Entry(Arc<Parts>);

struct Parts {
    site: OnceLock<Site>,
    proxies: Proxies,
}

impl Entry {
    /// An entry to nothing yet. What `proxies` say of a request counts.
    pub fn new(proxies: Proxies) -> Self {
        Self(Arc::new(Parts { site: OnceLock::new(), proxies }))
    }

    /// From now on `site` answers. Only the first counts.
    pub fn open(&self, site: Site) {
        let _ = self.0.site.set(site);
    }

    /// True if connections are about to be closed.
    pub(super) fn is_draining(&self) -> bool {
        self.0.site.get().is_some_and(Site::is_draining)
    }

    /// The answer to a request.
    pub(super) async fn answer(&self, mut request: Request) -> Response {
        self.0.proxies.look_behind(&mut request);
        match self.0.site.get() {
            Some(site) => site.answer(request).await,
            None => Box::pin(identified(request)).await,
        }
    }
}

async fn identified(request: Request) -> Response {
    let known = request_id::of(request.headers());
    let id = known.id.clone();
    let mut response = request_id::within(known, not_yet(request)).await;
    let status = response.status().as_str().to_owned();
    ::metrics::counter!(metrics::HTTP_REQUESTS, "route" => "starting", "status" => status)
        .increment(1);
    response.headers_mut().insert(request_id::HEADER, id);
    response
}

async fn not_yet(request: Request) -> Response {
    if request.uri().path() == "/healthz" {
        return probes::healthz().await.into_response();
    }
    let (parts, body) = request.into_parts();
    let detail = "the server starts: it reads back what it has; nothing was stored";
    let problem = Problem::new("starting", detail).retry_after(AGAIN_S);
    let problem = body::refuse(&parts.headers, body, DROPPED_BYTES_MAX, problem).await;
    auth::shaped(parts.uri.path(), &parts.headers, problem)
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::header;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn every_route_says_in_its_own_form_that_the_server_starts() {
        let entry = Entry::new(Proxies::default());
        let answer = async |path: &str| {
            let request = Request::post(path).header("x-request-id", "r1");
            entry.answer(request.body(Body::from("[1]")).unwrap()).await
        };
        assert_eq!(answer("/healthz").await.status(), 200);
        for (path, key, wanted) in [
            ("/readyz", "code", json!("starting")),
            ("/api/v1/topics/t/events", "code", json!("starting")),
            ("/data-plane/n/event-stream/s/ingest", "error", json!("SERVICE_UNAVAILABLE")),
            ("/topics/t", "error_code", json!(50_003)),
            ("/services/collector", "code", json!(9)),
            ("/v0/events", "code", json!("starting")),
            ("/v1/logs", "code", json!(14)),
            ("/stream/1/s/secret", "error", json!("stream.in.serviceUnavailable")),
            ("/v1/branches/default/sources", "error", json!("stream.api.serviceUnavailable")),
            ("/iceberg/v1/config", "/error/code", json!(503)),
        ] {
            let answer = answer(path).await;
            assert_eq!(answer.status(), 503, "{path}");
            let after = answer.headers()[header::RETRY_AFTER].to_str().unwrap();
            assert_eq!(after, AGAIN_S.to_string(), "{path}");
            assert_eq!(answer.headers()["x-request-id"], "r1", "{path}");
            let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            // Exporters are told in the encoding of what they sent, protobuf here.
            if path != "/v1/logs" {
                let body: Value = serde_json::from_slice(&body).unwrap();
                let found = body.pointer(key).unwrap_or(&body[key]);
                assert_eq!(found, &wanted, "{path}: {body}");
            }
        }
    }
}
