//! What is settled before a body is read, in the order of the route's documentation.

use std::sync::Arc;

use axum::http::{HeaderMap, header};

use super::name::TableName;
use super::tables::Unusable;
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::ingest::identity::Identity;
use crate::http::problem::Problem;
use crate::schema::columns::Plan;
use crate::stream::Stream;

/// What a request that may bring its body is about.
pub(super) struct Head {
    pub(super) stream: Arc<Stream>,
    pub(super) table: TableName,
    pub(super) plan: Arc<Plan>,
    pub(super) identity: Identity,
    /// Who sends it, as keys are kept apart by it.
    pub(super) principal: String,
    /// Any body but an array is of another kind than the content type says. Only of the route whose
    /// body is an array.
    pub(super) is_form: bool,
}

/// Which route a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door<'a> {
    /// IOMETE's: its path has a namespace, its body is an array.
    Array { namespace: &'a str },
    /// Ours: every form of JSON.
    Any,
}

/// Why nobody may send to the stream now.
pub(super) fn closed(api: &Api, stream: &str) -> Option<Problem> {
    if let Some(problem) = api.not_ready() {
        return Some(problem.closing());
    }
    let stream = api.doors.streams.get(stream).filter(|stream| !stream.running)?;
    let detail = format!("stream {:?} was terminated; it can be started again", stream.name);
    Some(Problem::new("stream_stopped", detail).retry_after(30))
}

/// Runs the checks that need no body.
///
/// # Errors
/// The first problem.
pub(super) async fn head(
    api: &Api,
    caller: &Caller,
    (door, name): (Door<'_>, &str),
    parameter: Option<&str>,
    headers: &HeaderMap,
) -> Result<Head, Problem> {
    if let Some(problem) = closed(api, name) {
        return Err(problem);
    }
    let is_behind = |stream: &Arc<Stream>| match door {
        Door::Array { namespace } => stream.namespace == namespace,
        Door::Any => true,
    };
    let stream = api.doors.streams.get(name).filter(is_behind);
    let stream = stream.ok_or_else(|| {
        let place = match door {
            Door::Array { namespace } => format!(" in namespace {namespace:?}"),
            Door::Any => String::new(),
        };
        Problem::new("stream_not_found", format!("there is no stream {name:?}{place}"))
    })?;
    let (write, resource) = (Operation::Write, Resource::Stream(name));
    if !caller.may(write, resource) {
        return Err(Problem::new("no_stream_access", caller.refusal_text(write, resource)));
    }
    let table = TableName::of(headers, parameter)?;
    let (short, topic) = (table.short(), table.topic(name));
    let of_table = Resource::Table(&short);
    if !caller.may(write, of_table) && !caller.may(write, Resource::Topic(&topic)) {
        return Err(Problem::new("no_insert_permission", caller.refusal_text(write, of_table)));
    }
    let plan = plan(api, &table).await?;
    let is_form = door != Door::Any && content_type(headers)?;
    let identity = Identity::of(headers)?;
    Ok(Head { stream, table, plan, identity, principal: caller.key().to_owned(), is_form })
}

async fn plan(api: &Api, table: &TableName) -> Result<Arc<Plan>, Problem> {
    if !api.options.catalog_names.contains(&table.catalog) {
        let detail = format!(
            "there is no catalog {:?} here; its names are {}",
            table.catalog,
            api.options.catalog_names.join(", ")
        );
        return Err(Problem::new("table_not_found", detail));
    }
    let found = api.doors.tables.plan(&table.namespace, &table.table).await;
    found.map_err(|unusable| match unusable {
        Unusable::Missing => {
            let detail = format!("the catalog has no table {}", table.short());
            Problem::new("table_not_found", detail)
        }
        Unusable::Unreachable(reason) => {
            Problem::new("catalog_unavailable", format!("catalog: {reason}")).retry_after(5)
        }
        Unusable::Unsupported(reason) => {
            Problem::new("table_unsupported", format!("table {}: {reason}", table.short()))
        }
    })
}

/// True if the content type is one of forms, which `curl -d` sends of its own accord.
fn content_type(headers: &HeaderMap) -> Result<bool, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(false) };
    let text = value.to_str().unwrap_or("?").to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let charset = parts.find_map(|part| part.strip_prefix("charset=")).unwrap_or("utf-8");
    let is_utf8 = ["utf-8", "utf8", "us-ascii"].contains(&charset.trim_matches('"'));
    match essence {
        "" | "application/json" | "text/plain" | "application/octet-stream" if is_utf8 => Ok(false),
        "application/x-www-form-urlencoded" => Ok(true),
        _ => Err(unsupported(&text)),
    }
}

/// Refuses a content type.
pub(super) fn unsupported(kind: &str) -> Problem {
    let detail = format!(
        "content type {kind:?} is not supported: send application/json, text/plain or \
         application/octet-stream in UTF-8, or application/x-www-form-urlencoded, each with an array \
         of JSON in it"
    );
    Problem::new("unsupported_media_type", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_taken_under_the_names_that_senders_give_it() {
        for (kind, wanted) in [
            (None, Some(false)),
            (Some("application/json"), Some(false)),
            (Some("Application/JSON; charset=UTF-8"), Some(false)),
            (Some("text/plain"), Some(false)),
            (Some("application/octet-stream"), Some(false)),
            (Some("application/x-www-form-urlencoded"), Some(true)),
            (Some("application/json; charset=latin1"), None),
            (Some("application/x-ndjson"), None),
            (Some("text/csv"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert("content-type", kind.parse().unwrap());
            }
            assert_eq!(content_type(&headers).ok(), wanted, "{kind:?}");
        }
    }
}
