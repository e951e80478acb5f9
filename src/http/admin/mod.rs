//! Administration of topics, sinks, sources, tables, tokens and webhooks.

mod infer;
pub(super) mod page;
mod patch;
pub(super) mod precondition;
pub(super) mod replay;
pub(super) mod sinks;
pub(super) mod sources;
pub(super) mod tables;
pub(super) mod tokens;
pub(super) mod topics;
pub(super) mod try_out;
pub(super) mod webhooks;

use axum::body::Bytes;
use serde::de::DeserializeOwned;

use crate::http::problem::Problem;

pub(crate) use tokens::{
    SERVICE_STAYS, identity as identity_of, services as service_tokens, shown as shown_token,
};

/// Parses a JSON body whatever its content type says; an empty body is `{}`.
pub(in crate::http) fn json<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Problem::new("bad_request", format!("the body is refused: {error}")))
}
