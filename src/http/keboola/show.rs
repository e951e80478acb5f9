//! Sources, sinks and their versions as the management API shows them.

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::Api;
use crate::http::ingest::keys;
use crate::sink::{Sink, TableName};
use crate::source::{Kind, Source};
use crate::store::history::{Mark, Trail, Version};

/// What Keboola's own tables begin with.
const STAGES: [&str; 2] = ["in.", "out."];

/// Milliseconds from 1970 on as `2026-11-27T09:00:00.000Z`.
pub(super) fn rfc3339(at_ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(at_ms).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Where a source, or a sink of it, is described.
pub(super) fn url_of(base: &str, branch: u64, source: &str, sink: Option<&str>) -> String {
    let sink = sink.map_or_else(String::new, |sink| format!("/sinks/{sink}"));
    format!("{base}/v1/branches/{branch}/sources/{source}{sink}")
}

/// The members that everything has: project, branch and source.
pub(super) fn place(api: &Api, source: Option<&str>) -> Value {
    let (project, branch) = (api.options.keboola_project, api.options.keboola_branch);
    let mut place = json!({ "projectId": project, "branchId": branch });
    if let Some(source) = source {
        place["sourceId"] = source.into();
    }
    place
}

/// A source; `base` is where the caller reached this server.
pub(super) fn source(api: &Api, base: &str, source: &Source) -> Value {
    let project = api.options.keboola_project;
    let mut shown = place(api, Some(&source.id));
    shown["type"] = source.wish.kind.as_str().into();
    shown["name"] = name(&source.wish.name, &source.id).into();
    shown["description"] = source.wish.description.as_str().into();
    let (id, secret) = (source.id.as_str(), source.secret.as_str());
    let reached = match source.wish.kind {
        Kind::Http => json!({ "url": format!("{base}/stream/{project}/{id}/{secret}") }),
        Kind::Otlp => json!({
            "url": format!("{base}/otlp/{project}/{id}/{secret}"),
            "baseUrl": format!("{base}/otlp/{project}/{id}"),
            "secret": secret,
        }),
    };
    shown[source.wish.kind.as_str()] = reached;
    trail(&mut shown, &source.trail, source.version, &source.wish);
    shown
}

/// A sink of the source.
pub(super) fn sink(api: &Api, of: &Source, sink: &Sink) -> Value {
    let mut shown = place(api, Some(&of.id));
    shown["sinkId"] = sink.id.as_str().into();
    shown["type"] = "table".into();
    shown["name"] = name(&sink.wish.name, &sink.id).into();
    shown["description"] = sink.wish.description.as_str().into();
    if !sink.wish.signals.is_empty() {
        shown["allowedSignals"] = json!(sink.wish.signals);
    }
    let table = &sink.wish.table;
    shown["table"] = json!({
        "type": table_type(table),
        "tableId": table.display(),
        "mapping": sink.mapping.to_json(),
    });
    trail(&mut shown, &sink.trail, sink.version, &sink.wish);
    shown
}

/// One version of something.
pub(super) fn version<W: Serialize>(version: &Version<W>) -> Value {
    let Version { number, mark, wish } = version;
    json!({
        "number": number,
        "hash": hash(wish),
        "description": mark.reason,
        "at": rfc3339(mark.at_ms),
        "by": by(&mark.by),
    })
}

/// One version as a page lists it: by its number.
pub(super) fn numbered<W: Serialize>(one: &Version<W>) -> (String, Value) {
    (format!("{:010}", one.number), version(one))
}

fn name<'n>(name: &'n str, id: &'n str) -> &'n str {
    if name.is_empty() { id } else { name }
}

fn table_type(table: &TableName) -> &'static str {
    let is_keboolas = STAGES.iter().any(|stage| table.namespace.starts_with(stage));
    if is_keboolas { "keboola" } else { "iceberg" }
}

fn trail<W: Serialize>(shown: &mut Value, trail: &Trail, number: u64, wish: &W) {
    let newest = Version { number, mark: trail.changed.clone(), wish };
    shown["version"] = version(&newest);
    shown["created"] = marked(&trail.created);
    if let Some(deleted) = &trail.deleted {
        shown["deleted"] = marked(deleted);
    }
    if let Some(disabled) = &trail.disabled {
        shown["disabled"] = marked(disabled);
        shown["disabled"]["reason"] = disabled.reason.as_str().into();
    }
}

fn marked(mark: &Mark) -> Value {
    json!({ "at": rfc3339(mark.at_ms), "by": by(&mark.by) })
}

fn by(name: &str) -> Value {
    json!({ "type": "user", "tokenId": name, "tokenDesc": name })
}

/// Tells wishes apart.
fn hash<W: Serialize>(wish: &W) -> String {
    let text = serde_json::to_vec(wish).unwrap_or_default();
    format!("{:032x}", keys::hash(&[&text]))[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_keboolas_if_its_name_begins_with_a_stage() {
        let table = |namespace: &str| TableName { namespace: namespace.into(), name: "t".into() };
        assert_eq!(table_type(&table("in.c-bucket")), "keboola");
        assert_eq!(table_type(&table("streams")), "iceberg");
        assert_eq!(table_type(&table("inner")), "iceberg");
    }

    #[test]
    fn versions_show_who_made_them_and_when() {
        let mark = Mark { at_ms: 0, by: "ann".to_owned(), reason: "New source.".to_owned() };
        let shown = version(&Version { number: 1, mark, wish: "w" });
        assert_eq!(shown["at"], "1970-01-01T00:00:00.000Z");
        assert_eq!((&shown["by"]["tokenDesc"], &shown["number"]), (&"ann".into(), &1.into()));
        assert_eq!(shown["hash"].as_str().map(str::len), Some(16));
    }
}
