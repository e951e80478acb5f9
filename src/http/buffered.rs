//! Bodies of routes that take no events are read whole before their handlers run: within the time, the
//! memory and the codings of all bodies (`ingest::body`). A handler that collected its body itself
//! would wait for ever for one that stops halfway, and hold what has come of it.

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::http::auth::Caller;
use crate::http::ingest::body::{self, Decoded};
use crate::http::ingest::rate::Sender;
use crate::http::{Api, auth};

/// Largest body of a route that manages something, in bytes.
pub(super) const MANAGED_BYTES_MAX: usize = 2 << 20;
/// Largest body of the route where tokens come from, in bytes: anybody may send one.
pub(super) const FORM_BYTES_MAX: usize = 16 << 10;

/// The routes, whose handlers get bodies of at most so many bytes.
pub(super) fn up_to(bytes: usize, routes: Router<Api>, api: &Api) -> Router<Api> {
    routes.route_layer(middleware::from_fn_with_state((api.clone(), bytes), layer))
}

/// Middleware.
pub(super) async fn layer(
    State((api, bytes_max)): State<(Api, usize)>,
    request: Request,
    next: Next,
) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let share = || match parts.extensions.get::<Caller>() {
        Some(caller) => api.engine.share_of(Sender::of(caller)),
        None => api.engine.share_of(Sender::named("")),
    };
    match body::read_into(&parts.headers, body, bytes_max, (api.engine.memory(), share)).await {
        Ok(Decoded { bytes, share, .. }) => {
            parts.headers.remove(header::CONTENT_ENCODING);
            let response = next.run(Request::from_parts(parts, bytes.into())).await;
            drop(share);
            response
        }
        Err(problem) => {
            auth::shaped(parts.uri.path(), &parts.headers, body::over(bytes_max, problem))
        }
    }
}
