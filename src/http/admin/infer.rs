//! `POST …/infer`: samples of events become columns of a sink, and the statement that makes its table.

use axum::Json;
use axum::body::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::json as parse;
use crate::http::Api;
use crate::http::problem::Problem;
use crate::sink::NAMESPACE_DEFAULT;
use crate::sink::mapping::{Event, Mapping, ddl, infer};
use crate::tier::naming;

/// The columns for events like those of the body, an array of them, or one, that come to the topic.
///
/// # Errors
/// `bad_request` for what is no event.
pub(super) async fn propose(api: &Api, topic: &str, body: &Bytes) -> Result<Json<Value>, Problem> {
    let samples = match parse(body)? {
        Value::Array(samples) => samples,
        one => vec![one],
    };
    let received_ms = api.engine.now_ms();
    let inferred = tokio::task::spawn_blocking(move || {
        let bodies: Vec<String> = samples.iter().map(ToString::to_string).collect();
        let events = bodies.iter().map(|body| Event {
            id: Uuid::nil(),
            received_ms,
            ip: None,
            headers: &[],
            body: body.as_bytes(),
        });
        let events: Vec<Event<'_>> = events.collect();
        infer::infer(&events)
    });
    let inferred = inferred.await.map_err(|_| Problem::new("internal", "inference failed"))?;
    let proposal = inferred.map_err(|error| Problem::new("bad_request", error.to_string()))?;
    let failed = |error: &dyn std::fmt::Display| Problem::new("internal", error.to_string());
    let mapping = Mapping::new(proposal.columns).map_err(|error| failed(&error))?;
    let catalog = api.options.catalog_names.first().map_or("floe", String::as_str);
    let name = [catalog, NAMESPACE_DEFAULT, &naming::table_name(topic)];
    Ok(Json(json!({
        "mapping": { "columns": mapping.columns() },
        "left_out": proposal.left_out,
        "ddl": ddl::create_table(&name, &mapping.schema()),
    })))
}
