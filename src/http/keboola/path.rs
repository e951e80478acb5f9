//! What the path of a request of the management API names: looked up, for somebody who may see it,
//! before its handler runs.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, MatchedPath, Path};
use axum::http::Method;
use axum::http::request::Parts;
use serde::Deserialize;

use super::admit;
use super::failure::Failure;
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::forwarded::Reached;
use crate::sink::Sink;
use crate::source::Source;

/// A request about the branch.
pub(super) struct InBranch {
    pub(super) api: Api,
    pub(super) caller: Caller,
    /// Where the caller reached this server.
    pub(super) base: String,
    names: Names,
}

/// A request about a source that is there.
pub(super) struct OfSource {
    pub(super) api: Api,
    pub(super) caller: Caller,
    pub(super) base: String,
    pub(super) source: Arc<Source>,
}

/// A request about a sink that is there.
pub(super) struct OfSink {
    pub(super) api: Api,
    pub(super) caller: Caller,
    pub(super) base: String,
    pub(super) source: Arc<Source>,
    pub(super) sink: Arc<Sink>,
}

/// The last part of a path: which one of those that were (a version, a source or sink that is deleted).
pub(super) struct Name(pub(super) String);

/// The parts of a path by their names in the routes.
#[derive(Deserialize)]
struct Names {
    branch: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    sink: String,
    version: Option<String>,
}

impl Names {
    async fn of(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let names: Result<Path<Self>, PathRejection> = Path::from_request_parts(parts, api).await;
        let Path(names) =
            names.map_err(|error| Failure::api(400, "badRequest", error.body_text()))?;
        Ok(names)
    }
}

impl FromRequestParts<Api> for InBranch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let caller = Caller::of(parts).map_err(|problem| Failure::of_problem(&problem))?;
        let names = Names::of(parts, api).await?;
        admit(api, &caller, &names.branch)?;
        let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        if is_change(&parts.method, route) {
            api.may_define(&caller, false)?;
        }
        Ok(Self { api: api.clone(), caller, base: Reached::of(parts, api).base(), names })
    }
}

impl FromRequestParts<Api> for OfSource {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let InBranch { api, caller, base, names } =
            InBranch::from_request_parts(parts, api).await?;
        let source = existing(&api, &names.source)?;
        Ok(Self { api, caller, base, source })
    }
}

impl FromRequestParts<Api> for OfSink {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let InBranch { api, caller, base, names } =
            InBranch::from_request_parts(parts, api).await?;
        let source = existing(&api, &names.source)?;
        let topic = api.topics.get(&source.wish.topic);
        let found = topic.and_then(|topic| api.sinks.get(topic.id, &names.sink));
        let sink = found.ok_or_else(|| Failure::not_found("sink", &names.sink, "source"))?;
        Ok(Self { api, caller, base, source, sink })
    }
}

impl FromRequestParts<Api> for Name {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let Names { source, sink, version, .. } = Names::of(parts, api).await?;
        Ok(Self(version.unwrap_or(if sink.is_empty() { source } else { sink })))
    }
}

/// True if a request says what a source or a sink is.
fn is_change(method: &Method, route: &str) -> bool {
    const OTHERS: [&str; 3] = ["/test", "/rotate-secret", "/statistics/clear"];
    !method.is_safe() && !OTHERS.iter().any(|ending| route.ends_with(ending))
}

fn existing(api: &Api, id: &str) -> Result<Arc<Source>, Failure> {
    api.sources.get(id).ok_or_else(|| Failure::not_found("source", id, "branch"))
}
