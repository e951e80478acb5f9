//! Sinks of sources as the management API has them: each is a table.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::page::{self, Asked, members, missing, one_of, required, text};
use super::path::{Name, OfSink, OfSource};
use super::settings::{Of, Settings};
use super::sources::{edit, floor, settings_of, topic};
use super::task::Task;
use super::{files, id, show};
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::admin;
use crate::http::admin::sinks::Unfit;
use crate::http::auth::Caller;
use crate::sink::{self, Sink, TableName, Triggers, Validate, Version, Wish};
use crate::source::Source;
use crate::store::history::Edit;
use crate::types::Expected;

/// Kinds of tables: all are Iceberg tables, a name of Keboola's Storage is one of a namespace.
const TABLES: [&str; 2] = ["keboola", "iceberg"];

pub(super) async fn create(at: OfSource, body: Bytes) -> Result<Response, Failure> {
    let OfSource { api, caller, base, source } = at;
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
        signals: page::signals(&body, "allowedSignals")?.unwrap_or_default(),
        validate: Validate::Commit,
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
    let made = store(&api, &caller, (&source, &id), wish, None).await?;
    tracing::info!(source = source.id, sink = id, by = caller.0.name(), "sink made");
    Ok(Task::of_sink(&api, "create", "sink", (&source, &made)).accepted(&api, &base))
}

pub(super) async fn list(at: OfSource, asked: Asked) -> Result<Json<Value>, Failure> {
    let sinks = at.api.sinks_of(&at.source.wish.topic);
    listed(&at, asked, sinks)
}

pub(super) async fn list_deleted(at: OfSource, asked: Asked) -> Result<Json<Value>, Failure> {
    let topic = at.api.topics.get(&at.source.wish.topic);
    let mut sinks = topic.map_or_else(Vec::new, |topic| at.api.sinks.all_of_topic(topic.id));
    sinks.retain(|sink| !sink.is_live());
    listed(&at, asked, sinks)
}

fn listed(
    OfSource { api, source, .. }: &OfSource,
    asked: Asked,
    sinks: Vec<Arc<Sink>>,
) -> Result<Json<Value>, Failure> {
    let shown = |sink: Arc<Sink>| (sink.id.clone(), show::sink(api, source, &sink));
    let place = show::place(api, Some(&source.id));
    page::page(asked, (place, "sinks"), sinks.into_iter().map(shown).collect())
}

pub(super) async fn describe(OfSink { api, source, sink, .. }: OfSink) -> Json<Value> {
    Json(show::sink(&api, &source, &sink))
}

pub(super) async fn update(at: OfSink, body: Bytes) -> Result<Response, Failure> {
    let body = members(&body)?;
    if let Some(kind) = text(&body, "type")? {
        one_of("type", &kind, &["table"])?;
    }
    let edit = edit(&at.caller, &body)?;
    let mut wish = at.sink.wish.clone();
    wish.name = text(&body, "name")?.unwrap_or(wish.name);
    wish.description = text(&body, "description")?.unwrap_or(wish.description);
    page::check_texts(&wish.name, &wish.description)?;
    wish.signals = page::signals(&body, "allowedSignals")?.unwrap_or(wish.signals);
    let none = Map::new();
    let table = body.get("table").and_then(Value::as_object).unwrap_or(&none);
    if let Some(kind) = text(table, "type")? {
        one_of("table.type", &kind, &TABLES)?;
    }
    if let Some(name) = text(table, "tableId")? {
        wish.table = table_name(&at.api, &name)?;
    }
    if let Some(mapping) = table.get("mapping").filter(|mapping| !mapping.is_null()) {
        wish.mapping = mapping.clone();
    }
    altered(&at, wish, edit, ("update", "sink")).await
}

pub(super) async fn delete(at: OfSink) -> Result<Response, Failure> {
    let OfSink { api, caller, base, source, sink } = at;
    let deleted = api.sinks.mark_deleted((sink.topic_id, &sink.id), caller.edit(), false).await;
    let sink = deleted.map_err(|error| Failure::of_sink(&sink.id, &error))?;
    tracing::info!(source = source.id, sink = sink.id, by = caller.0.name(), "sink deleted");
    Ok(Task::of_sink(&api, "delete", "sink", (&source, &sink)).accepted(&api, &base))
}

pub(super) async fn undelete(at: OfSource, Name(sink): Name) -> Result<Response, Failure> {
    let OfSource { api, caller, base, source } = at;
    let unknown = || Failure::not_found("sink", &sink, "source");
    let topic = api.topics.get(&source.wish.topic).ok_or_else(unknown)?;
    let undeleted = api.sinks.undelete((topic.id, &sink), api.ends_of(&topic), caller.edit()).await;
    let sink = undeleted.map_err(|error| Failure::of_sink(&sink, &error))?;
    Ok(Task::of_sink(&api, "undelete", "sink", (&source, &sink)).accepted(&api, &base))
}

pub(super) async fn settings(OfSink { api, source, sink, .. }: OfSink) -> Json<Value> {
    let defaults = settings_of(&source.wish).or(floor(&api, &source));
    Json(own(&sink.wish).shown(Of::Sink, defaults))
}

pub(super) async fn set(at: OfSink, body: Bytes) -> Result<Response, Failure> {
    let body = members(&body)?;
    let edit = edit(&at.caller, &body)?;
    let mut settings = own(&at.sink.wish);
    settings.set(Of::Sink, &body)?;
    let Settings { commit, staging, wait, validate } = settings;
    let validate = validate.unwrap_or_default();
    let wish = Wish { commit, staging, wait, validate, ..at.sink.wish.clone() };
    altered(&at, wish, edit, ("update", "sinkSettings")).await
}

pub(super) async fn total(OfSink { api, sink, .. }: OfSink) -> Json<Value> {
    Json(files::total(&api, &sink))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Files {
    failed_files: Option<bool>,
}

pub(super) async fn files(
    OfSink { api, sink, .. }: OfSink,
    query: Result<Query<Files>, QueryRejection>,
) -> Result<Json<Value>, Failure> {
    let query = query.map_err(|error| Failure::api(400, "badRequest", error.body_text()))?;
    let failed_only = query.failed_files.unwrap_or(false);
    Ok(Json(json!({ "files": files::list(&api, &sink, failed_only).await? })))
}

pub(super) async fn clear(OfSink { api, sink, .. }: OfSink) -> Result<(), Failure> {
    files::clear(&api, &sink).await
}

pub(super) async fn disable(at: OfSink) -> Result<Response, Failure> {
    switch(&at, ("disable", "Disabled."), false).await
}

pub(super) async fn enable(at: OfSink) -> Result<Response, Failure> {
    switch(&at, ("enable", "Enabled."), true).await
}

async fn switch(
    at: &OfSink,
    (verb, reason): (&'static str, &str),
    enabled: bool,
) -> Result<Response, Failure> {
    let wish = Wish { enabled, ..at.sink.wish.clone() };
    let edit = Edit { reason: reason.to_owned(), ..at.caller.edit() };
    altered(at, wish, edit, (verb, "sink")).await
}

pub(super) async fn versions(
    OfSink { api, source, sink, .. }: OfSink,
    asked: Asked,
) -> Result<Json<Value>, Failure> {
    let (reader, uid, newest) = (api.sinks.clone(), sink.uid, sink.version);
    let kept = move || reader.versions(uid, newest, show::numbered);
    let kept = tokio::task::spawn_blocking(kept).await;
    let kept = kept.map_err(|_| Failure::api(500, "internalError", "reading failed"))?;
    let versions = kept.map_err(|error| Failure::of_sink(&sink.id, &error))?;
    let mut place = show::place(&api, Some(&source.id));
    place["sinkId"] = sink.id.as_str().into();
    page::page(asked, (place, "versions"), versions)
}

pub(super) async fn version(
    OfSink { api, sink, .. }: OfSink,
    Name(number): Name,
) -> Result<Json<Value>, Failure> {
    Ok(Json(show::version(&kept(&api, &sink, &number).await?)))
}

/// Asks for what an earlier version asked for.
pub(super) async fn rollback(at: OfSink, Name(number): Name) -> Result<Response, Failure> {
    let Version { number, wish, .. } = kept(&at.api, &at.sink, &number).await?;
    let edit = Edit { reason: format!("Rollback to version {number}."), ..at.caller.edit() };
    altered(&at, wish, edit, ("rollback", "sink")).await
}

async fn kept(api: &Api, sink: &Sink, number: &str) -> Result<Version, Failure> {
    let unknown = || Failure::not_found("version", number, "sink");
    let parsed = number.parse().map_err(|_| unknown())?;
    let (reader, uid) = (api.sinks.clone(), sink.uid);
    let found = tokio::task::spawn_blocking(move || reader.version(uid, parsed)).await;
    let found = found.map_err(|_| Failure::api(500, "internalError", "reading failed"))?;
    found.map_err(|error| Failure::of_sink(&sink.id, &error))?.ok_or_else(unknown)
}

/// Replaces the sink by what is wished, and answers with the task of that.
async fn altered(
    OfSink { api, caller, base, source, sink }: &OfSink,
    wish: Wish,
    edit: Edit,
    (verb, noun): (&'static str, &'static str),
) -> Result<Response, Failure> {
    let known = Some((sink.tag(), edit));
    let sink = store(api, caller, (source, &sink.id), wish, known).await?;
    Ok(Task::of_sink(api, verb, noun, (source, &sink)).accepted(api, base))
}

fn own(wish: &Wish) -> Settings {
    let validate = Some(wish.validate).filter(|own| *own != Validate::default());
    Settings { commit: wish.commit, staging: wish.staging, wait: wish.wait, validate }
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
    let checked = admin::sinks::check(api, Some(topic.id), id, &wish).await;
    checked.map_err(|unfit| match unfit {
        Unfit::Wish(error) => Failure::of_sink(id, &error),
        Unfit::Problem(problem) => Failure::of_problem(&problem),
    })?;
    let (expected, edit) = match known {
        Some((tag, edit)) => (Expected::Tags(vec![tag]), edit),
        None => (Expected::None, caller.edit()),
    };
    let asked = admin::sinks::asked(api, &topic, (id, wish), edit).await?;
    let put = api.sinks.put((topic.id, id), asked, expected, false).await;
    Ok(Arc::clone(put.map_err(|error| Failure::of_sink(id, &error))?.sink()))
}

/// `namespace.table`, or `catalog.namespace.table` where the catalog is this one.
fn table_name(api: &Api, text: &str) -> Result<TableName, Failure> {
    let TableName { namespace, name } = admin::sinks::table_name(api, text).ok_or_else(|| {
        let message = format!("tableId {text:?} is refused: a table is NAMESPACE.NAME");
        Failure::api(400, "badRequest", message)
    })?;
    // Tables of Keboola's may have what no SQL takes without quotes.
    Ok(TableName { namespace, name: name.replace('-', "_") })
}
