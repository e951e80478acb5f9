//! Sinks of sources as the management API has them: each is a table.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::page::{self, Asked, members, missing, one_of, required, text};
use super::settings::Settings;
use super::sources::{edit, existing, floor, settings_of, topic};
use super::task::Task;
use super::{admit, files, id, show};
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::admin;
use crate::http::auth::Caller;
use crate::sink::{self, Sink, TableName, Triggers, Version, Wish};
use crate::source::Source;
use crate::store::history::Edit;
use crate::types::Expected;

/// Kinds of tables: all are Iceberg tables, a name of Keboola's Storage is one of a namespace.
const TABLES: [&str; 2] = ["keboola", "iceberg"];

pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    admit(&api, &caller, &branch)?;
    let source = existing(&api, &source)?;
    let body = members(&body)?;
    one_of("type", &required(&body, "type")?, &["table"])?;
    let name = required(&body, "name")?;
    let id = id::of(text(&body, "sinkId")?.as_deref(), &name, "sinkId")?;
    let table = body.get("table").and_then(Value::as_object).ok_or_else(|| missing("table"))?;
    one_of("table.type", &required(table, "type")?, &TABLES)?;
    let from = text(&body, "from")?.unwrap_or_else(|| "latest".to_owned());
    one_of("from", &from, &["latest", "earliest"])?;
    let wish = Wish {
        name,
        description: text(&body, "description")?.unwrap_or_default(),
        table: table_name(&api, &required(table, "tableId")?)?,
        mapping: table.get("mapping").cloned().ok_or_else(|| missing("table.mapping"))?,
        commit: Triggers::default(),
        staging: Triggers::default(),
        wait: None,
        partition_spec: String::new(),
        enabled: true,
        from: if from == "earliest" { sink::From::Earliest } else { sink::From::Latest },
    };
    page::check_texts(&wish.name, &wish.description)?;
    let topic = topic(&api, &caller, &source.wish.topic).await?;
    if api.sinks.get(topic.id, &id).is_some() {
        let message = format!("sink {id:?} already exists in the source");
        return Err(Failure::api(409, "sinkAlreadyExists", message));
    }
    let (made, by) = (store(&api, &caller, (&source, &id), wish, None).await?, caller.0.name());
    tracing::info!(source = source.id, sink = id, by, "sink made");
    Ok(Task::of_sink(&api, "create", "sink", (&source, &made)).accepted(&api, &headers))
}

pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source)): Path<(String, String)>,
    asked: Asked,
) -> Result<Json<Value>, Failure> {
    admit(&api, &caller, &branch)?;
    let source = existing(&api, &source)?;
    listed(&api, &source, asked, api.sinks_of(&source.wish.topic))
}

pub(super) async fn list_deleted(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source)): Path<(String, String)>,
    asked: Asked,
) -> Result<Json<Value>, Failure> {
    admit(&api, &caller, &branch)?;
    let source = existing(&api, &source)?;
    let topic = api.topics.get(&source.wish.topic);
    let mut sinks = topic.map_or_else(Vec::new, |topic| api.sinks.all_of_topic(topic.id));
    sinks.retain(|sink| !sink.is_live());
    listed(&api, &source, asked, sinks)
}

fn listed(
    api: &Api,
    source: &Source,
    asked: Asked,
    sinks: Vec<Arc<Sink>>,
) -> Result<Json<Value>, Failure> {
    let shown = |sink: Arc<Sink>| (sink.id.clone(), show::sink(api, source, &sink));
    let at = show::place(api, Some(&source.id));
    page::page(asked, (at, "sinks"), sinks.into_iter().map(shown).collect())
}

pub(super) async fn describe(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
) -> Result<Json<Value>, Failure> {
    let (source, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    Ok(Json(show::sink(&api, &source, &sink)))
}

pub(super) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let (source, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    let body = members(&body)?;
    if let Some(kind) = text(&body, "type")? {
        one_of("type", &kind, &["table"])?;
    }
    let edit = edit(&caller, &body)?;
    let mut wish = sink.wish.clone();
    wish.name = text(&body, "name")?.unwrap_or(wish.name);
    wish.description = text(&body, "description")?.unwrap_or(wish.description);
    page::check_texts(&wish.name, &wish.description)?;
    let none = Map::new();
    let table = body.get("table").and_then(Value::as_object).unwrap_or(&none);
    if let Some(kind) = text(table, "type")? {
        one_of("table.type", &kind, &TABLES)?;
    }
    if let Some(name) = text(table, "tableId")? {
        wish.table = table_name(&api, &name)?;
    }
    if let Some(mapping) = table.get("mapping").filter(|mapping| !mapping.is_null()) {
        wish.mapping = mapping.clone();
    }
    let known = Some((sink.tag(), edit));
    let sink = store(&api, &caller, (&source, &sink.id), wish, known).await?;
    Ok(Task::of_sink(&api, "update", "sink", (&source, &sink)).accepted(&api, &headers))
}

pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (source, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    let deleted = api.sinks.mark_deleted((sink.topic_id, &sink.id), caller.edit(), false).await;
    let sink = deleted.map_err(|error| Failure::of_sink(&sink.id, &error))?;
    let (source_id, by) = (&source.id, caller.0.name());
    tracing::info!(source = source_id, sink = sink.id, by, "sink deleted");
    Ok(Task::of_sink(&api, "delete", "sink", (&source, &sink)).accepted(&api, &headers))
}

pub(super) async fn undelete(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    admit(&api, &caller, &branch)?;
    let source = existing(&api, &source)?;
    let unknown = || Failure::not_found("sink", &sink, "source");
    let topic = api.topics.get(&source.wish.topic).ok_or_else(unknown)?;
    let undeleted = api.sinks.undelete((topic.id, &sink), caller.edit()).await;
    let sink = undeleted.map_err(|error| Failure::of_sink(&sink, &error))?;
    Ok(Task::of_sink(&api, "undelete", "sink", (&source, &sink)).accepted(&api, &headers))
}

pub(super) async fn settings(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
) -> Result<Json<Value>, Failure> {
    let (source, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    let defaults = settings_of(&source.wish).or(floor(&api, &source));
    Ok(Json(own(&sink.wish).shown(defaults)))
}

pub(super) async fn set(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let (source, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    let body = members(&body)?;
    let edit = edit(&caller, &body)?;
    let mut settings = own(&sink.wish);
    settings.set(&body)?;
    let Settings { commit, staging, wait } = settings;
    let wish = Wish { commit, staging, wait, ..sink.wish.clone() };
    let known = Some((sink.tag(), edit));
    let sink = store(&api, &caller, (&source, &sink.id), wish, known).await?;
    Ok(Task::of_sink(&api, "update", "sinkSettings", (&source, &sink)).accepted(&api, &headers))
}

pub(super) async fn total(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
) -> Result<Json<Value>, Failure> {
    let (_, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    Ok(Json(files::total(&api, &sink)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Files {
    failed_files: Option<bool>,
}

pub(super) async fn files(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
    query: Result<Query<Files>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Failure> {
    let (_, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    let query = query.map_err(|error| Failure::api(400, "badRequest", error.body_text()))?;
    let failed_only = query.failed_files.unwrap_or(false);
    Ok(Json(json!({ "files": files::list(&api, &sink, failed_only).await? })))
}

pub(super) async fn clear(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
) -> Result<(), Failure> {
    let (_, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    files::clear(&api, &sink).await
}

pub(super) async fn disable(
    state: State<Api>,
    caller: Caller,
    path: Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    switch(state, caller, path, headers, ("disable", "Disabled.", false)).await
}

pub(super) async fn enable(
    state: State<Api>,
    caller: Caller,
    path: Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    switch(state, caller, path, headers, ("enable", "Enabled.", true)).await
}

async fn switch(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
    headers: HeaderMap,
    (verb, reason, enabled): (&'static str, &str, bool),
) -> Result<Response, Failure> {
    let (source, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    let wish = Wish { enabled, ..sink.wish.clone() };
    let edit = Edit { reason: reason.to_owned(), ..caller.edit() };
    let known = Some((sink.tag(), edit));
    let sink = store(&api, &caller, (&source, &sink.id), wish, known).await?;
    Ok(Task::of_sink(&api, verb, "sink", (&source, &sink)).accepted(&api, &headers))
}

pub(super) async fn versions(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink)): Path<(String, String, String)>,
    asked: Asked,
) -> Result<Json<Value>, Failure> {
    let (source, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    let (reader, uid) = (api.sinks.clone(), sink.uid);
    let kept = tokio::task::spawn_blocking(move || reader.versions(uid)).await;
    let kept = kept.map_err(|_| Failure::api(500, "internalError", "reading failed"))?;
    let kept = kept.map_err(|error| Failure::of_sink(&sink.id, &error))?;
    let versions = kept.iter().map(|one| (format!("{:010}", one.number), show::version(one)));
    let mut at = show::place(&api, Some(&source.id));
    at["sinkId"] = sink.id.as_str().into();
    page::page(asked, (at, "versions"), versions.collect())
}

pub(super) async fn version(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink, number)): Path<(String, String, String, String)>,
) -> Result<Json<Value>, Failure> {
    let (_, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    Ok(Json(show::version(&kept(&api, &sink, &number).await?)))
}

/// Asks for what an earlier version asked for.
pub(super) async fn rollback(
    State(api): State<Api>,
    caller: Caller,
    Path((branch, source, sink, number)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (source, sink) = found(&api, &caller, (&branch, &source, &sink))?;
    let Version { number, wish, .. } = kept(&api, &sink, &number).await?;
    let edit = Edit { reason: format!("Rollback to version {number}."), ..caller.edit() };
    let known = Some((sink.tag(), edit));
    let sink = store(&api, &caller, (&source, &sink.id), wish, known).await?;
    Ok(Task::of_sink(&api, "rollback", "sink", (&source, &sink)).accepted(&api, &headers))
}

async fn kept(api: &Api, sink: &Sink, number: &str) -> Result<Version, Failure> {
    let unknown = || Failure::not_found("version", number, "sink");
    let parsed = number.parse().map_err(|_| unknown())?;
    let (reader, uid) = (api.sinks.clone(), sink.uid);
    let found = tokio::task::spawn_blocking(move || reader.version(uid, parsed)).await;
    let found = found.map_err(|_| Failure::api(500, "internalError", "reading failed"))?;
    found.map_err(|error| Failure::of_sink(&sink.id, &error))?.ok_or_else(unknown)
}

/// The sink of that source, for somebody who may see it.
fn found(
    api: &Api,
    caller: &Caller,
    (branch, source, sink): (&str, &str, &str),
) -> Result<(Arc<Source>, Arc<Sink>), Failure> {
    admit(api, caller, branch)?;
    let source = existing(api, source)?;
    let topic = api.topics.get(&source.wish.topic);
    let found = topic.and_then(|topic| api.sinks.get(topic.id, sink));
    Ok((source, found.ok_or_else(|| Failure::not_found("sink", sink, "source"))?))
}

fn own(wish: &Wish) -> Settings {
    Settings { commit: wish.commit, staging: wish.staging, wait: wish.wait }
}

/// Makes the sink, or replaces the version that is `known`.
async fn store(
    api: &Api,
    caller: &Caller,
    (source, id): (&Source, &str),
    wish: Wish,
    known: Option<(String, Edit)>,
) -> Result<Arc<Sink>, Failure> {
    let table = wish.table.display();
    caller.check(Operation::Write, Resource::Table(&table)).map_err(Failure::from)?;
    let topic = topic(api, caller, &source.wish.topic).await?;
    let checked = admin::sinks::check(api, &topic, id, &wish).await;
    let starts = checked.map_err(|problem| match problem.code() {
        "invalid_sink" => Failure::api(400, "badRequest", problem.detail()),
        _ => Failure::of_problem(&problem),
    })?;
    let (expected, edit) = match known {
        Some((tag, edit)) => (Expected::Tags(vec![tag]), edit),
        None => (Expected::None, caller.edit()),
    };
    let asked = sink::Asked { wish, starts, edit };
    let put = api.sinks.put((topic.id, id), asked, expected, false).await;
    Ok(Arc::clone(put.map_err(|error| Failure::of_sink(id, &error))?.sink()))
}

/// `namespace.table`, or `catalog.namespace.table` where the catalog is this one.
fn table_name(api: &Api, text: &str) -> Result<TableName, Failure> {
    let of_catalog = text.split_once('.').filter(|(catalog, rest)| {
        rest.contains('.') && api.options.catalog_names.iter().any(|name| name == catalog)
    });
    let (namespace, name) =
        of_catalog.map_or(text, |(_, rest)| rest).rsplit_once('.').ok_or_else(|| {
            let message = format!("tableId {text:?} is refused: a table is NAMESPACE.NAME");
            Failure::api(400, "badRequest", message)
        })?;
    // Tables of Keboola's may have what no SQL takes without quotes.
    Ok(TableName { namespace: namespace.to_owned(), name: name.replace('-', "_") })
}
