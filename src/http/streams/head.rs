//! What is settled before a body is read, in the order of the route's documentation.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{HeaderMap, header};

use super::name::{DIRECT, TableName};
use super::said::{Pairs, Said};
use super::tables::{Owner, Unusable};
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::{Caller, may_write_events};
use crate::http::ingest::event::OnError;
use crate::http::ingest::identity::Identity;
use crate::http::ingest::quarantine;
use crate::http::problem::Problem;
use crate::schema::columns::Plan;
use crate::stream::Stream;
use crate::topic::Topic;

/// What a request that may bring its body is about.
pub(super) struct Head {
    pub(super) table: TableName,
    pub(super) behind: Behind,
    pub(super) plan: Arc<Plan>,
    pub(super) identity: Identity,
    /// Who sends it, as keys are kept apart by it.
    pub(super) principal: String,
    pub(super) said: Said,
    /// Any body but an array is of another kind than the content type says. Only of the route whose
    /// body is an array.
    pub(super) is_form: bool,
}

/// What stands behind a door for one table.
pub(super) struct Behind {
    /// Name of the topic.
    pub(super) topic: String,
    /// Its options, where the first events make it.
    pub(super) options: BTreeMap<String, String>,
    /// The stream, or what counts for one.
    pub(super) stream: String,
}

/// Which route a request came by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Door<'a> {
    /// IOMETE's: its path has a namespace, its body is an array.
    Array { namespace: &'a str, stream: &'a str },
    /// Ours: every form of JSON.
    Any { stream: &'a str },
    /// Ours, of the table that its path names: there is no stream.
    Table { table: &'a TableName },
}

impl<'a> Door<'a> {
    /// The stream, if it is one's door.
    fn stream(self) -> Option<&'a str> {
        match self {
            Self::Array { stream, .. } | Self::Any { stream } => Some(stream),
            Self::Table { .. } => None,
        }
    }

    /// True for the route whose body is an array.
    pub(super) fn is_array(self) -> bool {
        matches!(self, Self::Array { .. })
    }
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
    door: Door<'_>,
    query: Pairs,
    headers: &HeaderMap,
) -> Result<Head, Problem> {
    // The name of no stream is empty.
    if let Some(problem) = closed(api, door.stream().unwrap_or_default()) {
        return Err(problem);
    }
    let stream = stream(api, caller, door)?;
    let said = Said::of(door, query, headers)?;
    let said = Said { terms: said.terms.sent_by(caller)?, ..said };
    let table = match door {
        Door::Table { table } => table.clone(),
        Door::Array { .. } | Door::Any { .. } => TableName::of(headers, said.table.as_deref())?,
    };
    let name = stream.as_ref().map_or(DIRECT, |stream| &stream.name);
    let behind = Behind {
        topic: table.topic(name),
        options: stream.as_ref().map(|stream| stream.options.clone()).unwrap_or_default(),
        stream: name.to_owned(),
    };
    may_insert(caller, &table, &behind.topic)?;
    if said.terms.on_error == OnError::Quarantine {
        may_write_events(api, caller, &quarantine::topic(&behind.topic)?)?;
    }
    let plan = plan(api, &table).await?;
    let is_form = door.is_array() && content_type(headers)?;
    let identity = Identity::of(headers)?;
    let principal = caller.key().to_owned();
    Ok(Head { table, behind, plan, identity, principal, said, is_form })
}

/// The stream of a door, to which the caller may send; none where it needs none.
fn stream(api: &Api, caller: &Caller, door: Door<'_>) -> Result<Option<Arc<Stream>>, Problem> {
    let Some(name) = door.stream() else { return Ok(None) };
    let is_behind = |stream: &Arc<Stream>| match door {
        Door::Array { namespace, .. } => stream.namespace == namespace,
        Door::Any { .. } | Door::Table { .. } => true,
    };
    let stream = api.doors.streams.get(name).filter(is_behind);
    let stream = stream.ok_or_else(|| {
        let place = match door {
            Door::Array { namespace, .. } => format!(" in namespace {namespace:?}"),
            Door::Any { .. } | Door::Table { .. } => String::new(),
        };
        Problem::new("stream_not_found", format!("there is no stream {name:?}{place}"))
    })?;
    let (write, resource) = (Operation::Write, Resource::Stream(name));
    match caller.may(write, resource) {
        true => Ok(Some(stream)),
        false => Err(Problem::new("no_stream_access", caller.refusal_text(write, resource))),
    }
}

/// Checks the right to a table, or to the topic behind it.
///
/// # Errors
/// `no_insert_permission`.
pub(super) fn may_insert(caller: &Caller, table: &TableName, topic: &str) -> Result<(), Problem> {
    let (write, short) = (Operation::Write, table.short());
    let of_table = Resource::Table(&short);
    if caller.may(write, of_table) || caller.may(write, Resource::Topic(topic)) {
        return Ok(());
    }
    Err(Problem::new("no_insert_permission", caller.refusal_text(write, of_table)))
}

/// Checks the right to a topic by the table of one of its sinks: its events go to its other tables too.
///
/// # Errors
/// `no_insert_permission`.
pub(super) fn may_feed(caller: &Caller, table: &TableName, topic: &str) -> Result<(), Problem> {
    let (write, of_topic) = (Operation::Write, Resource::Topic(topic));
    if caller.may(write, of_topic) {
        return Ok(());
    }
    let (table, why) = (table.short(), caller.refusal_text(write, of_topic));
    let detail = format!("table {table} is one of several that the topic behind it feeds: {why}");
    Err(Problem::new("no_insert_permission", detail))
}

/// Refuses a catalog that has no name here.
fn check_catalog(api: &Api, table: &TableName) -> Result<(), Problem> {
    if api.options.catalog_names.contains(&table.catalog) {
        return Ok(());
    }
    let names = api.options.catalog_names.join(", ");
    let detail = format!("there is no catalog {:?} here; its names are {names}", table.catalog);
    Err(Problem::new("table_not_found", detail))
}

/// Whose a table is.
pub(super) struct Owned {
    pub(super) topic: Arc<Topic>,
    /// It is the table of a sink of the topic, not the topic's own.
    pub(super) is_of_sink: bool,
}

/// The topic whose own table it is, or that of one of its sinks; none of a table of others, which one is
/// too that its topic has left behind.
///
/// # Errors
/// `table_not_found`, `catalog_unavailable`; `table_unsupported` for a dead-letter table.
pub(super) async fn owner(api: &Api, table: &TableName) -> Result<Option<Owned>, Problem> {
    check_catalog(api, table)?;
    let found = api.doors.tables.owner(&table.namespace, &table.table).await;
    let Some(Owner { writer, uuid, .. }) = found.map_err(|unusable| refused(table, unusable))?
    else {
        return Ok(None);
    };
    let Some(topic) = api.topics.by_id(writer.topic_id) else { return Ok(None) };
    if let Some(uid) = writer.sink
        && !api.sinks.all_of_topic(topic.id).iter().any(|sink| sink.uid == uid)
    {
        return Ok(None);
    }
    match api.tiering.table_uuid(writer) {
        Ok(Some(now)) => {
            let is_of_sink = writer.sink.is_some();
            Ok((now == uuid).then_some(Owned { topic, is_of_sink }))
        }
        Ok(None) => {
            let detail = format!("table {} is being made", table.short());
            Err(Problem::new("catalog_unavailable", detail).retry_after(1))
        }
        Err(reason) => Err(Problem::new("internal", reason)),
    }
}

async fn plan(api: &Api, table: &TableName) -> Result<Arc<Plan>, Problem> {
    check_catalog(api, table)?;
    let found = api.doors.tables.plan(&table.namespace, &table.table).await;
    found.map_err(|unusable| refused(table, unusable))
}

fn refused(table: &TableName, unusable: Unusable) -> Problem {
    match unusable {
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
    }
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
