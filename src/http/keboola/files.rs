//! Statistics of sinks. What waits in the log is their level `local`, what is committed their level
//! `target`; a file is one commit to the table. There is nothing between the two.

use std::collections::HashMap;

use iceberg::spec::Snapshot;
use iceberg::{NamespaceIdent, TableIdent};
use serde_json::{Value, json};

use super::failure::Failure;
use super::show::rfc3339;
use crate::http::Api;
use crate::sink::Sink;
use crate::table::catalog;

/// Most files that are listed, newest first.
const FILES_MAX: usize = 100;
/// States of a table that works, or has nothing to do.
const WORKING: [&str; 4] = ["RUNNING", "WAITING", "OFF", "DRAINING"];

/// Everything that the sink took since it began, or since somebody cleared it. What is not known, as
/// when the first row of the table was received, is left out.
pub(super) fn total(api: &Api, sink: &Sink) -> Value {
    let status = api.tiering.sink(sink.topic_id, sink.uid).unwrap_or_default();
    let before = sink.cleared.map_or(0, |cleared| cleared.rows);
    let rows = status.rows.saturating_sub(before);
    let waiting = u64::try_from(status.pending_offsets).unwrap_or(0);
    let mut levels = json!({});
    if waiting > 0 {
        let oldest_ms = api.engine.now_ms().saturating_sub(status.lag_ms);
        levels["local"] = json!({
            "firstRecordAt": rfc3339(oldest_ms),
            "recordsCount": waiting,
            "compressedSize": status.pinned_bytes,
        });
    }
    if rows > 0 {
        levels["target"] = json!({ "recordsCount": rows });
    }
    json!({ "total": { "recordsCount": rows + waiting }, "levels": levels })
}

/// The newest commits to the sink's table, and what waits for the next.
pub(super) async fn list(api: &Api, sink: &Sink, failed: bool) -> Result<Vec<Value>, Failure> {
    let status = api.tiering.sink(sink.topic_id, sink.uid).unwrap_or_default();
    let mut files = Vec::new();
    let is_failing = !status.state.is_empty() && !WORKING.contains(&status.state.as_str());
    if status.pending_offsets > 0 && (is_failing || !failed) {
        let opened_ms = api.engine.now_ms().saturating_sub(status.lag_ms);
        let mut file = json!({
            "state": "writing",
            "openedAt": rfc3339(opened_ms),
            "statistics": { "total": {
                "recordsCount": status.pending_offsets,
                "compressedSize": status.pinned_bytes,
            }},
        });
        if is_failing {
            file["retryReason"] = status.reason.clone().unwrap_or(status.state.clone()).into();
        }
        files.push(file);
    }
    if failed || status.commits == 0 {
        return Ok(files);
    }
    let table = if status.table.is_empty() { sink.wish.table.display() } else { status.table };
    let since_ms = sink.cleared.map_or(i64::MIN, |cleared| cleared.at_ms);
    files.extend(commits(api, &table, since_ms).await?);
    files.truncate(FILES_MAX);
    Ok(files)
}

/// Commits of the table since then, newest first.
async fn commits(api: &Api, table: &str, since_ms: i64) -> Result<Vec<Value>, Failure> {
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::api(503, "serviceUnavailable", format!("the catalog cannot be asked: {error}"))
    };
    let loaded = match api.catalog.load(&ident(table)?).await {
        Ok(loaded) => loaded,
        Err(catalog::Error::NoSuchTable(_) | catalog::Error::NoSuchNamespace(_)) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(unusable(&error)),
    };
    let mut snapshots: Vec<&Snapshot> = loaded.metadata.snapshots().map(AsRef::as_ref).collect();
    snapshots.retain(|snapshot| snapshot.timestamp_ms() > since_ms);
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.sequence_number()));
    let adds = |snapshot: &&&Snapshot| count(snapshot, "added-records") > 0;
    Ok(snapshots.iter().filter(adds).take(FILES_MAX).map(|one| file(one)).collect())
}

fn file(snapshot: &Snapshot) -> Value {
    let at = rfc3339(snapshot.timestamp_ms());
    let level = json!({
        "recordsCount": count(snapshot, "added-records"),
        "compressedSize": count(snapshot, "added-files-size"),
    });
    json!({
        "state": "imported",
        "openedAt": at,
        "closingAt": at,
        "importingAt": at,
        "importedAt": at,
        "statistics": { "total": level, "levels": { "target": level } },
    })
}

fn count(snapshot: &Snapshot, name: &str) -> u64 {
    let summary: &HashMap<String, String> = &snapshot.summary().additional_properties;
    summary.get(name).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Lets the statistics of the sink begin anew.
pub(super) async fn clear(api: &Api, sink: &Sink) -> Result<(), Failure> {
    let rows = api.tiering.sink(sink.topic_id, sink.uid).map_or(0, |status| status.rows);
    let cleared = api.sinks.clear(sink.topic_id, &sink.id, rows).await;
    cleared.map_err(|error| Failure::of_sink(&sink.id, &error))
}

fn ident(table: &str) -> Result<TableIdent, Failure> {
    let bad = || Failure::api(500, "internalError", "the name of the table is malformed");
    let (namespace, name) = table.rsplit_once('.').ok_or_else(bad)?;
    let levels = namespace.split('.').map(str::to_owned).collect();
    let namespace = NamespaceIdent::from_vec(levels).map_err(|_| bad())?;
    Ok(TableIdent::new(namespace, name.to_owned()))
}
