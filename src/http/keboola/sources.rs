//! Sources as the management API has them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::page::{self, Asked, members, one_of, required, text};
use super::path::{InBranch, Name, OfSource};
use super::settings::{Of, Settings};
use super::task::Task;
use super::{files, id, show};
use crate::http::Api;
use crate::http::admin;
use crate::http::admin::sources::{Samples, SignalQuery};
use crate::http::auth::Caller;
use crate::sink::Sink;
use crate::source::{Kind, Source, Version, Wish};
use crate::store::history::Edit;
use crate::topic::{NewTopic, Topic};
use crate::types::Expected;

/// Most sources of a branch (the limit is Keboola's); the native API makes more, which are all seen
/// here.
const SOURCES_MAX: usize = 100;
/// Most files of each sink that are listed beside all others.
const FILES_MAX: usize = 5;

pub(super) async fn create(
    InBranch { api, caller, base, .. }: InBranch,
    body: Bytes,
) -> Result<Response, Failure> {
    let body = members(&body)?;
    let kind = kind(&required(&body, "type")?)?;
    let name = required(&body, "name")?;
    let description = text(&body, "description")?.unwrap_or_default();
    page::check_texts(&name, &description)?;
    let mut wish = Wish { kind, name, description, enabled: true, ..Wish::default() };
    let id = id::of(text(&body, "sourceId")?.as_deref(), &wish.name, "sourceId")?;
    if api.sources.get(&id).is_some() {
        let message = format!("source {id:?} already exists in the branch");
        return Err(Failure::api(409, "sourceAlreadyExists", message));
    }
    check_room(&api)?;
    wish.topic.clone_from(&id);
    topic(&api, &caller, &id).await?;
    let put = api.sources.put(&id, wish, caller.edit(), Expected::None, false).await;
    let (source, _) = put.map_err(|error| Failure::of_source(&error))?;
    tracing::info!(source = id, by = caller.0.name(), "source made");
    Ok(Task::of_source(&api, "create", "source", &source).accepted(&api, &base))
}

/// Checks that one more source fits the branch. Two who make one at the same moment may both get it.
fn check_room(api: &Api) -> Result<(), Failure> {
    match api.sources.list().len() < SOURCES_MAX {
        true => Ok(()),
        false => Err(Failure::too_many_sources(SOURCES_MAX)),
    }
}

pub(super) async fn list(at: InBranch, asked: Asked) -> Result<Json<Value>, Failure> {
    let sources = at.api.sources.list();
    listed(&at, asked, sources)
}

pub(super) async fn list_deleted(at: InBranch, asked: Asked) -> Result<Json<Value>, Failure> {
    let sources = at.api.sources.deleted();
    listed(&at, asked, sources)
}

fn listed(
    InBranch { api, base, .. }: &InBranch,
    asked: Asked,
    sources: Vec<Arc<Source>>,
) -> Result<Json<Value>, Failure> {
    let shown = |one: Arc<Source>| (one.id.clone(), show::source(api, base, &one));
    page::page(asked, (show::place(api, None), "sources"), sources.into_iter().map(shown).collect())
}

/// All sources with their sinks and how far those are: what a page that shows them needs.
pub(super) async fn aggregate(
    InBranch { api, base, .. }: InBranch,
    asked: Asked,
) -> Result<Json<Value>, Failure> {
    let sources = api.sources.list().into_iter().map(|one| (one.id.clone(), one)).collect();
    let (page, sources) = page::select(asked, sources)?;
    let mut all = Vec::with_capacity(sources.len());
    for source in sources {
        let mut sinks = Vec::new();
        for sink in api.sinks_of(&source.wish.topic) {
            let mut shown = show::sink(&api, &source, &sink);
            shown["statistics"] = files::total(&api, &sink);
            // A catalog that cannot be asked hides no source.
            let mut files = files::list(&api, &sink, false).await.unwrap_or_default();
            files.truncate(FILES_MAX);
            shown["statistics"]["files"] = files.into();
            sinks.push(shown);
        }
        let mut shown = show::source(&api, &base, &source);
        shown["sinks"] = sinks.into();
        all.push(shown);
    }
    Ok(page::answer((show::place(&api, None), "sources"), page, all))
}

pub(super) async fn describe(OfSource { api, base, source, .. }: OfSource) -> Json<Value> {
    Json(show::source(&api, &base, &source))
}

pub(super) async fn update(at: OfSource, body: Bytes) -> Result<Response, Failure> {
    let body = members(&body)?;
    let edit = edit(&at.caller, &body)?;
    let mut wish = at.source.wish.clone();
    if let Some(word) = text(&body, "type")? {
        wish.kind = kind(&word)?;
    }
    wish.name = text(&body, "name")?.unwrap_or(wish.name);
    wish.description = text(&body, "description")?.unwrap_or(wish.description);
    page::check_texts(&wish.name, &wish.description)?;
    altered(&at, wish, edit, ("update", "source")).await
}

/// `cascade` is taken and changes nothing: the sinks of a deleted source are deleted with it, its
/// tables stay in any case.
#[derive(Deserialize)]
pub(super) struct Delete {
    #[serde(rename = "cascade")]
    _cascade: Option<bool>,
}

pub(super) async fn delete(
    OfSource { api, caller, base, source }: OfSource,
    query: Result<Query<Delete>, QueryRejection>,
) -> Result<Response, Failure> {
    query.map_err(|error| Failure::api(400, "badRequest", error.body_text()))?;
    // The sinks first: where that is cut short, the source is there to be deleted again.
    for sink in sinks_of_it_alone(&api, &source) {
        let deleted = api.sinks.mark_deleted((sink.topic_id, &sink.id), caller.edit(), true).await;
        deleted.map_err(|error| Failure::of_sink(&sink.id, &error))?;
    }
    let deleted = api.sources.mark_deleted(&source.id, caller.edit()).await;
    let source = deleted.map_err(|error| Failure::of_source(&error))?;
    tracing::info!(source = source.id, by = caller.0.name(), "source deleted");
    Ok(Task::of_source(&api, "delete", "source", &source).accepted(&api, &base))
}

pub(super) async fn undelete(
    InBranch { api, caller, base, .. }: InBranch,
    Name(source): Name,
) -> Result<Response, Failure> {
    // No limit: it was there before. That of all sources counts deleted ones too.
    let undeleted = api.sources.undelete(&source, caller.edit()).await;
    let source = undeleted.map_err(|error| Failure::of_source(&error))?;
    let topic = topic(&api, &caller, &source.wish.topic).await?;
    let with_it = api.sinks.all_of_topic(topic.id).into_iter();
    for sink in with_it.filter(|sink| !sink.is_live() && sink.deleted_with_source) {
        let ends = api.ends_of(&topic);
        let back = api.sinks.undelete((topic.id, &sink.id), ends, caller.edit()).await;
        back.map_err(|error| Failure::of_sink(&sink.id, &error))?;
    }
    Ok(Task::of_source(&api, "undelete", "source", &source).accepted(&api, &base))
}

pub(super) async fn settings(OfSource { api, source, .. }: OfSource) -> Json<Value> {
    Json(settings_of(&source.wish).shown(Of::Source, floor(&api, &source)))
}

pub(super) async fn set(at: OfSource, body: Bytes) -> Result<Response, Failure> {
    let body = members(&body)?;
    let edit = edit(&at.caller, &body)?;
    let mut settings = settings_of(&at.source.wish);
    settings.set(Of::Source, &body)?;
    let Settings { commit, staging, wait, .. } = settings;
    let wish = Wish { commit, staging, wait, ..at.source.wish.clone() };
    altered(&at, wish, edit, ("update", "sourceSettings")).await
}

/// Maps the request to the rows that the source's sinks would have of it. Nothing is stored.
pub(super) async fn test(
    OfSource { api, source, .. }: OfSource,
    query: Result<Query<SignalQuery>, QueryRejection>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Failure> {
    let query = query.map_err(|error| Failure::api(400, "badRequest", error.body_text()))?;
    let peer = peer.map(|Extension(ConnectInfo(peer))| peer);
    let samples = Samples::of(&api, &source, &query, (peer, headers, body)).await?;
    let mut tables = Vec::new();
    for sink in api.sinks_of(&source.wish.topic) {
        if !samples.are_for(&sink) {
            continue;
        }
        let mut rows = Vec::new();
        for sample in &samples.each {
            let row = admin::try_out::try_out(&api.trials, &sink, sample, samples.until).await;
            let row = row.map_err(Failure::from)?;
            let row =
                row.map_err(|error| Failure::api(422, "unprocessableContent", error.to_string()))?;
            let empty = Vec::new();
            let columns = row["columns"].as_array().unwrap_or(&empty).iter();
            rows.push(json!({ "columns": columns.map(as_text).collect::<Vec<_>>() }));
        }
        tables.push(json!({
            "sinkId": sink.id,
            "tableId": sink.wish.table.display(),
            "rows": rows,
        }));
    }
    let mut answer = show::place(&api, Some(&source.id));
    answer["tables"] = tables.into();
    Ok(Json(answer))
}

/// A column whose value is text, as Keboola stores everything.
fn as_text(column: &Value) -> Value {
    let value = match &column["value"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    json!({ "name": column["name"], "value": value })
}

/// Lets the statistics of all sinks of the source begin anew.
pub(super) async fn clear(OfSource { api, source, .. }: OfSource) -> Result<(), Failure> {
    for sink in api.sinks_of(&source.wish.topic) {
        files::clear(&api, &sink).await?;
    }
    Ok(())
}

pub(super) async fn disable(at: OfSource) -> Result<Response, Failure> {
    switch(&at, ("disable", "Disabled."), false).await
}

pub(super) async fn enable(at: OfSource) -> Result<Response, Failure> {
    switch(&at, ("enable", "Enabled."), true).await
}

async fn switch(
    at: &OfSource,
    (verb, reason): (&'static str, &str),
    enabled: bool,
) -> Result<Response, Failure> {
    let edit = Edit { reason: reason.to_owned(), ..at.caller.edit() };
    let wish = Wish { enabled, ..at.source.wish.clone() };
    altered(at, wish, edit, (verb, "source")).await
}

/// The one before opens nothing from then on.
pub(super) async fn rotate(
    OfSource { api, caller, base, source }: OfSource,
) -> Result<Json<Value>, Failure> {
    let rotated = api.sources.rotate(&source.id, caller.edit(), Expected::Any).await;
    let source = rotated.map_err(|error| Failure::of_source(&error))?;
    tracing::info!(source = source.id, by = caller.0.name(), "source has another secret");
    Ok(Json(show::source(&api, &base, &source)))
}

pub(super) async fn versions(
    OfSource { api, source, .. }: OfSource,
    asked: Asked,
) -> Result<Json<Value>, Failure> {
    let (reader, of) = (api.sources.clone(), Arc::clone(&source));
    let found = move || reader.versions(&of.id, of.version, show::numbered);
    let found = tokio::task::spawn_blocking(found).await;
    let found = found.map_err(|_| Failure::api(500, "internalError", "reading failed"))?;
    let versions = found.map_err(|error| Failure::of_source(&error))?;
    page::page(asked, (show::place(&api, Some(&source.id)), "versions"), versions)
}

pub(super) async fn version(
    OfSource { api, source, .. }: OfSource,
    Name(number): Name,
) -> Result<Json<Value>, Failure> {
    Ok(Json(show::version(&kept(&api, &source, &number).await?)))
}

/// Asks for what an earlier version asked for. The secret stays.
pub(super) async fn rollback(at: OfSource, Name(number): Name) -> Result<Response, Failure> {
    let Version { number, wish, .. } = kept(&at.api, &at.source, &number).await?;
    let edit = Edit { reason: format!("Rollback to version {number}."), ..at.caller.edit() };
    altered(&at, wish, edit, ("rollback", "source")).await
}

async fn kept(api: &Api, source: &Source, number: &str) -> Result<Version, Failure> {
    let unknown = || Failure::not_found("version", number, "source");
    let parsed = number.parse().map_err(|_| unknown())?;
    let (reader, id) = (api.sources.clone(), source.id.clone());
    let found = tokio::task::spawn_blocking(move || reader.version(&id, parsed)).await;
    let found = found.map_err(|_| Failure::api(500, "internalError", "reading failed"))?;
    found.map_err(|error| Failure::of_source(&error))?.ok_or_else(unknown)
}

/// Its sinks, unless another source feeds them too.
fn sinks_of_it_alone(api: &Api, source: &Source) -> Vec<Arc<Sink>> {
    let feeds_them =
        |other: &Arc<Source>| other.id != source.id && other.wish.topic == source.wish.topic;
    match api.sources.list().iter().any(feeds_them) {
        true => Vec::new(),
        false => api.sinks_of(&source.wish.topic),
    }
}

/// Its settings, as far as it says them.
pub(super) fn settings_of(wish: &Wish) -> Settings {
    Settings { commit: wish.commit, staging: wish.staging, wait: wish.wait, validate: None }
}

/// What counts where neither a sink nor its source says anything.
pub(super) fn floor(api: &Api, source: &Source) -> Settings {
    let topic = api.topics.get(&source.wish.topic);
    let options = topic.as_ref().map(|topic| &topic.options);
    Settings::floor(
        options.map(|options| options.table_target_lag_ms),
        options.map(|options| options.table_flush_bytes),
    )
}

/// Who asks for a change, and why.
pub(super) fn edit(caller: &Caller, body: &Map<String, Value>) -> Result<Edit, Failure> {
    let reason = text(body, "changeDescription")?.unwrap_or_default();
    page::at_most("changeDescription", &reason, page::DESCRIPTION_LEN_MAX)?;
    Ok(Edit { reason, ..caller.edit() })
}

/// The topic of a source, which is made without a table of its own: the sinks have the rows.
pub(super) async fn topic(api: &Api, caller: &Caller, name: &str) -> Result<Arc<Topic>, Failure> {
    if let Some(topic) = api.topics.get(name) {
        return Ok(topic);
    }
    let overrides = [("table.mode".to_owned(), "off".to_owned())].into();
    let new = NewTopic { name: name.to_owned(), partitions: None, overrides };
    let made = api.topics.create_for(new, false, caller.may_write()).await;
    made.map_err(|error| Failure::of_problem(&admin::topics::problem(&error)))
}

/// Replaces the source by what is wished, and answers with the task of that.
async fn altered(
    OfSource { api, base, source, .. }: &OfSource,
    wish: Wish,
    edit: Edit,
    (verb, noun): (&'static str, &'static str),
) -> Result<Response, Failure> {
    let expected = Expected::Tags(vec![source.tag()]);
    let put = api.sources.put(&source.id, wish, edit, expected, false).await;
    let (source, _) = put.map_err(|error| Failure::of_source(&error))?;
    Ok(Task::of_source(api, verb, noun, &source).accepted(api, base))
}

fn kind(word: &str) -> Result<Kind, Failure> {
    one_of("type", word, &[Kind::Http.as_str(), Kind::Otlp.as_str()])?;
    Ok(if word == Kind::Otlp.as_str() { Kind::Otlp } else { Kind::Http })
}
