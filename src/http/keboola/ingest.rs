//! `POST /stream/{project}/{source}/{secret}`: a whole request is one record of the source's topic,
//! unless the source wants it split.
//! What its sinks need of the body is checked before: a request that a sink has no row of is refused
//! as a whole, nothing of it is stored.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::Failure;
use super::show;
use crate::http::Api;
use crate::http::ingest::body;
use crate::http::problem::Problem;
use crate::http::sources;
use crate::http::trial::NoRow;
use crate::sink::Sink;
use crate::sink::mapping::{FieldError, FieldErrorKind};
use crate::source::Source;

/// Most bytes of all headers together.
const HEADERS_BYTES_MAX: usize = 16 << 10;

#[derive(Deserialize)]
pub(super) struct Verbosity {
    #[serde(default)]
    verbose: bool,
}

pub(super) async fn receive(
    State(api): State<Api>,
    Path((project, id, secret)): Path<(String, String, String)>,
    query: Result<Query<Verbosity>, QueryRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let checked = head(&api, &parts, (&project, query));
    let verbose = match checked {
        Ok(verbose) => verbose,
        Err(failure) => {
            // The body is read as far as it takes to answer; its own refusal is no news.
            let unread = Problem::new("bad_request", "");
            let limit = api.options.body_max_bytes;
            let _ = body::refuse(&parts.headers, body, limit, unread).await;
            return Err(failure);
        }
    };
    let read = sources::read(&api, (&id, &secret), &parts, body).await;
    let arrived = read.map_err(|problem| Failure::of_ingest(&problem))?;
    let source = Arc::clone(&arrived.source);
    let mut sinks = api.sinks_of(&source.wish.topic);
    sinks.retain(|sink| sink.is_on());
    let checked = sources::check(&api, arrived, &sinks).await;
    let (arrived, missing) = checked.map_err(|problem| Failure::of_ingest(&problem))?;
    if !missing.is_empty() {
        return Ok(refused(&api, &source, &sinks, &missing));
    }
    let waits = |sink: &Arc<Sink>| sources::waits(&source, Some(sink));
    let ack = sources::ack(&source, &sinks);
    let stored = sources::append(&api, arrived, ack).await;
    stored.map_err(|problem| Failure::of_ingest(&problem))?;
    let status = if sinks.iter().all(waits) { StatusCode::OK } else { StatusCode::ACCEPTED };
    if !verbose {
        return Ok((status, "OK").into_response());
    }
    let done = |sink: &Arc<Sink>| {
        let (status, message) = if waits(sink) { (200, "processed") } else { (202, "accepted") };
        json!({ "sinkId": sink.id, "statusCode": status, "message": message })
    };
    let count = sinks.len();
    let message = match count {
        0 => "No enabled sink found.".to_owned(),
        _ => format!("Successfully written to {count}/{count} sinks."),
    };
    let sinks = sinks.iter().map(done).collect();
    Ok(answer(&api, &source, (status, None, &message), sinks))
}

/// What can be said before the source is looked at; whether a long answer is wanted.
fn head(
    api: &Api,
    parts: &Parts,
    (project, query): (&str, Result<Query<Verbosity>, QueryRejection>),
) -> Result<bool, Failure> {
    if let Some(problem) = api.not_ready() {
        return Err(Failure::of_ingest(&problem));
    }
    let bad = || Failure::ingest(400, "badRequest", format!("invalid project ID {project:?}"));
    let number: u64 = project.parse().map_err(|_| bad())?;
    let length = |headers: &HeaderMap| -> usize {
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
    };
    if length(&parts.headers) > HEADERS_BYTES_MAX {
        let message = format!("the headers have more than {HEADERS_BYTES_MAX} bytes");
        return Err(Failure::ingest(413, "headerTooLarge", message));
    }
    if number != api.options.keboola_project {
        return Err(Failure::of_ingest(&Problem::new("unknown_source", "")));
    }
    let query = query.map_err(|error| Failure::ingest(400, "badRequest", error.body_text()))?;
    Ok(query.verbose)
}

fn refused(api: &Api, source: &Source, sinks: &[Arc<Sink>], missing: &[NoRow]) -> Response {
    let of = |sink| missing.iter().find(|no_row| Arc::ptr_eq(&no_row.sink, sink));
    let told = sinks.iter().map(|sink| match of(sink).map(|no_row| &no_row.error) {
        None => json!({
            "sinkId": sink.id,
            "statusCode": 422,
            "error": "stream.in.notWritten",
            "message": "not written: another sink has no row of the request",
        }),
        Some(error) => json!({
            "sinkId": sink.id,
            "statusCode": told_as(error).0.as_u16(),
            "error": told_as(error).1,
            "message": error.to_string(),
        }),
    });
    let message = format!("Written to 0/{} sinks.", sinks.len());
    let worst = missing.iter().map(|no_row| told_as(&no_row.error)).max();
    let (status, error) = worst.unwrap_or(UNPROCESSABLE);
    answer(api, source, (status, Some(error), &message), told.collect())
}

const UNPROCESSABLE: (StatusCode, &str) =
    (StatusCode::UNPROCESSABLE_ENTITY, "stream.in.unprocessableContent");

/// What a sink answers that has no row of a request.
fn told_as(error: &FieldError) -> (StatusCode, &'static str) {
    match error.kind {
        FieldErrorKind::Media => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "stream.in.unsupportedMediaType")
        }
        _ => UNPROCESSABLE,
    }
}

fn answer(
    api: &Api,
    source: &Source,
    (status, error, message): (StatusCode, Option<&str>, &str),
    sinks: Vec<Value>,
) -> Response {
    let mut of_source = show::place(api, Some(&source.id));
    of_source["statusCode"] = status.as_u16().into();
    of_source["message"] = message.into();
    of_source["sinks"] = sinks.into();
    let mut body = json!({
        "statusCode": status.as_u16(),
        "message": message,
        "sources": [of_source],
    });
    if let Some(error) = error {
        body["error"] = error.into();
    }
    (status, Json(body)).into_response()
}
