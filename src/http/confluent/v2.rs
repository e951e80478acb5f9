//! `POST /topics/{topic}` and `/topics/{topic}/partitions/{partition}`: one envelope of records,
//! whose keys and values are JSON or base64 as the content type says.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::http::Api;
use crate::http::confluent::append::{Appended, Inbound, Receipt, Record, append};
use crate::http::confluent::data::{Kind, object};
use crate::http::confluent::failure::{BAD_REQUEST, Failure, PAYLOAD, Refused};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::OwnedEvent;
use crate::http::ingest::split::{self, Form};
use crate::http::problem::Problem;

/// What answers are, unless the client wants plain JSON.
const TYPE: HeaderValue = HeaderValue::from_static("application/vnd.kafka.v2+json");

pub(super) async fn produce(
    State(api): State<Api>,
    Path(topic): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    take(&api, &topic, None, request).await
}

pub(super) async fn produce_to_partition(
    State(api): State<Api>,
    Path((topic, partition)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refused> {
    take(&api, &topic, Some(&partition), request).await
}

async fn take(
    api: &Api,
    topic: &str,
    partition: Option<&str>,
    request: Request,
) -> Result<Response, Refused> {
    let route = format!("v2 {:?} {partition:?}", embedded(request.headers()).ok());
    let look = |headers: &HeaderMap| Ok((embedded(headers)?, known(api, topic, partition)?));
    let (inbound, (kind, partition)) = Inbound::read(api, topic, request, &route, look).await?;
    let (body, events_max) = (inbound.body.clone(), api.options.events_max);
    let parse = move || Ok(parse(&body, kind, partition, events_max));
    let records = off_worker(inbound.body.len(), parse).await??;
    let appended = append(api, topic, inbound, records).await?;
    Ok(answer(&appended))
}

/// What keys and values are, by the content type. Without an embedded format they are base64.
fn embedded(headers: &HeaderMap) -> Result<Kind, Problem> {
    let value = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let essence = value.map(|value| value.split(';').next().unwrap_or_default().trim());
    match essence.map(str::to_ascii_lowercase).as_deref() {
        Some("application/vnd.kafka.binary.v2+json" | "application/vnd.kafka.v2+json") => {
            Ok(Kind::Binary)
        }
        // The last three: what clients send that do not say what they send.
        Some(
            "application/vnd.kafka.json.v2+json"
            | "application/json"
            | "text/plain"
            | "application/x-www-form-urlencoded"
            | "",
        )
        | None => Ok(Kind::Json),
        Some(
            kind @ ("application/vnd.kafka.avro.v2+json"
            | "application/vnd.kafka.jsonschema.v2+json"
            | "application/vnd.kafka.protobuf.v2+json"),
        ) => Err(Problem::new(
            "unsupported_media_type",
            format!("{kind} needs schemas, which are not supported: send json or binary"),
        )),
        Some(kind) => Err(Problem::new(
            "unsupported_media_type",
            format!(
                "content type {kind:?} is not one of application/vnd.kafka.json.v2+json, \
                 application/vnd.kafka.binary.v2+json, application/json"
            ),
        )),
    }
}

/// The partition of the path, if the topic has it.
fn known(api: &Api, topic: &str, partition: Option<&str>) -> Result<Option<usize>, Problem> {
    let Some(text) = partition else { return Ok(None) };
    let refused = |detail: String| Problem::new("invalid_partition", detail);
    let partition =
        text.parse().map_err(|_| refused(format!("partition {text:?} is no whole number")))?;
    let count = api.topics.get(topic).map(|topic| topic.partitions.len());
    if count.is_some_and(|count| partition >= count) {
        return Err(refused(format!("topic {topic} has no partition {partition}")));
    }
    Ok(Some(partition))
}

#[derive(Deserialize)]
struct Envelope<'b> {
    #[serde(borrow)]
    records: Option<&'b RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent<'b> {
    #[serde(borrow)]
    key: Option<&'b RawValue>,
    #[serde(borrow)]
    value: Option<&'b RawValue>,
    partition: Option<i64>,
}

/// The records of an envelope, at most `events_max`.
fn parse(
    body: &Bytes,
    kind: Kind,
    partition: Option<usize>,
    events_max: usize,
) -> Result<Vec<Record>, Failure> {
    let envelope: Envelope<'_> =
        object(body).map_err(|message| Failure::new(BAD_REQUEST, message))?;
    let list = envelope.records.map(RawValue::get).filter(|list| list.starts_with('['));
    let list = list.ok_or_else(|| Failure::new(422, "records must be an array of records"))?;
    let list = body.slice_ref(list.as_bytes());
    let split = split::split(&list, Form::Json, events_max);
    if let Some(error) = split.errors.first() {
        return Err(Failure::of_event(error));
    }
    if split.events.is_empty() {
        return Err(Failure::new(422, "records may not be empty"));
    }
    let records = split.events.into_iter();
    Ok(records.map(|(_, range)| record(&list.slice(range), kind, partition)).collect())
}

fn record(bytes: &Bytes, kind: Kind, partition: Option<usize>) -> Record {
    let refused = |message: String| Failure::new(PAYLOAD, message);
    let sent: Sent<'_> = object(bytes).map_err(refused)?;
    let own = match sent.partition.map(usize::try_from) {
        Some(Ok(own)) => Some(own),
        Some(Err(_)) => return Err(Failure::new(40_402, "a partition is a number from 0 on")),
        None => None,
    };
    if partition.is_some() && own.is_some() && own != partition {
        return Err(refused("the record has another partition than the path".to_owned()));
    }
    Ok(OwnedEvent {
        key: kind.bytes(sent.key, bytes).map_err(refused)?,
        value: kind.bytes(sent.value, bytes).map_err(refused)?,
        partition: partition.or(own),
        ..OwnedEvent::default()
    })
}

#[derive(Serialize)]
struct Answer<'r> {
    offsets: Vec<Offset<'r>>,
    key_schema_id: Option<i32>,
    value_schema_id: Option<i32>,
}

#[derive(Serialize)]
struct Offset<'r> {
    partition: Option<i64>,
    offset: Option<i64>,
    error_code: Option<u32>,
    error: Option<&'r str>,
}

fn answer(appended: &Appended) -> Response {
    let offset = |receipt| match receipt {
        &Receipt::Stored { partition, offset } => Offset {
            partition: Some(partition),
            offset: Some(offset),
            error_code: None,
            error: None,
        },
        Receipt::Failed(failure) => Offset {
            partition: None,
            offset: None,
            error_code: Some(failure.code),
            error: Some(&failure.message),
        },
    };
    let offsets = appended.receipts.iter().map(offset).collect();
    let answer = Answer { offsets, key_schema_id: None, value_schema_id: None };
    let mut response = (appended.status(StatusCode::OK), Json(answer)).into_response();
    appended.mark(&mut response);
    response
}

/// Middleware: answers have the type of version 2, unless only plain JSON is wanted.
pub(super) async fn typed(request: Request, next: Next) -> Response {
    let wanted = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let plain = wanted
        .is_some_and(|kinds| kinds.contains("application/json") && !kinds.contains("vnd.kafka"));
    let mut response = next.run(request).await;
    let is_json =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|it| it == "application/json");
    if is_json && !plain {
        response.headers_mut().insert(header::CONTENT_TYPE, TYPE);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &str, kind: Kind, partition: Option<usize>) -> Result<Vec<Record>, u32> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        parse(&body, kind, partition, 3).map_err(|failure| failure.code)
    }

    #[test]
    fn records_keep_their_json() {
        let body = r#"{"value_schema": null, "records": [ {"value": {"a" : 1.10}, "key":"k"},
            {"value": null, "partition": 2}, {"key": null}]}"#;
        let found: Vec<_> = parsed(body, Kind::Json, None)
            .unwrap()
            .into_iter()
            .map(|record| record.unwrap())
            .map(|event| (event.key, event.value, event.partition))
            .collect();
        let text = |text: &'static str| Some(Bytes::from(text));
        let wanted = [
            (text("\"k\""), text("{\"a\" : 1.10}"), None),
            (None, None, Some(2)),
            (None, None, None),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_record_is_refused_alone() {
        let body = r#"{"records": [{"value": "AQI="}, {"value": 1}, {"value": "", "x": 1}]}"#;
        let found = parsed(body, Kind::Binary, Some(1)).unwrap();
        assert_eq!(found[0].as_ref().unwrap().value.as_deref(), Some(&[1, 2][..]));
        assert_eq!(found[0].as_ref().unwrap().partition, Some(1));
        assert_eq!(found[1].as_ref().unwrap_err().message, "data=1 is not a base64 string.");
        assert!(found[2].as_ref().unwrap_err().message.contains("unknown field"));
        let other = r#"{"records": [{"value": 1, "partition": 0}, {"partition": -1}]}"#;
        let found = parsed(other, Kind::Json, Some(1)).unwrap();
        let codes: Vec<u32> = found.into_iter().map(|record| record.unwrap_err().code).collect();
        assert_eq!(codes, [PAYLOAD, 40_402]);
    }

    #[test]
    fn an_envelope_that_cannot_be_read_is_refused_whole() {
        let deep = format!("{{\"records\": [{}]}}", "[".repeat(70) + &"]".repeat(70));
        for (body, code) in [
            ("", BAD_REQUEST),
            ("[]", BAD_REQUEST),
            ("{\"records\": [{\"value\": }]}", BAD_REQUEST),
            ("{}", 422),
            ("{\"records\": {}}", 422),
            ("{\"records\": []}", 422),
            ("{\"records\": [{}, {}, {}, {}]}", 413),
            (&deep, PAYLOAD),
        ] {
            assert_eq!(parsed(body, Kind::Json, None).unwrap_err(), code, "{body}");
        }
    }

    #[test]
    fn the_content_type_names_the_embedded_format() {
        let of = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            embedded(&headers).map_err(|problem| problem.code())
        };
        assert_eq!(of("application/vnd.kafka.v2+json"), Ok(Kind::Binary));
        assert_eq!(of("application/vnd.kafka.json.v2+json; charset=utf-8"), Ok(Kind::Json));
        assert_eq!(of("application/json"), Ok(Kind::Json));
        assert_eq!(embedded(&HeaderMap::new()).ok(), Some(Kind::Json));
        for other in ["application/vnd.kafka.avro.v2+json", "application/xml"] {
            assert_eq!(of(other), Err("unsupported_media_type"), "{other}");
        }
    }
}
