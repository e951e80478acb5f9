//! The row that a sink would have of a request, for the test endpoints: nothing is stored.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::http::problem::Problem;
use crate::http::trial::Trials;
use crate::http::{Api, sources};
use crate::sink::Sink;
use crate::sink::mapping::{Event, FieldError, FieldErrorKind};

/// A request that is mapped as if it was an event.
pub(in crate::http) struct Sample {
    id: Uuid,
    received_ms: i64,
    ip: Option<String>,
    headers: HeaderMap,
    body: Bytes,
}

impl Sample {
    /// The request of these headers and this body, with the headers that a record of it would have.
    pub(in crate::http) fn new(
        api: &Api,
        peer: Option<SocketAddr>,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Self {
        let left_out: Vec<_> =
            headers.keys().filter(|name| !sources::is_kept(name)).cloned().collect();
        for name in left_out {
            headers.remove(name);
        }
        let ip = peer.map(|peer| peer.ip().to_canonical().to_string());
        Self { id: Uuid::now_v7(), received_ms: api.engine.now_ms(), ip, headers, body }
    }
}

/// The row that the sink would have of the sample, or why it has none.
///
/// # Errors
/// `timeout` if that is not known `until` the answer must be out; `overloaded` where its templates
/// have no turn.
pub(in crate::http) async fn try_out(
    trials: &Trials,
    sink: &Arc<Sink>,
    sample: &Arc<Sample>,
    until: Instant,
) -> Result<Result<Value, FieldError>, Problem> {
    if Instant::now() >= until {
        return Err(late());
    }
    let turn = match sink.mapping.runs_templates() {
        true => Some(trials.turn(sink.topic_id, until).await?),
        false => None,
    };
    let (tried, sample) = (Arc::clone(sink), Arc::clone(sample));
    let row = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let headers = sample.headers.iter();
        let headers: Vec<_> =
            headers.map(|(name, value)| (name.as_ref(), Some(value.as_bytes()))).collect();
        let Sample { id, received_ms, ip, body, .. } = &*sample;
        let (id, received_ms, ip) = (*id, *received_ms, ip.as_deref());
        let event = Event { id, received_ms, ip, headers: &headers, body };
        let mut mapper = tried.mapping.compile();
        mapper.until(until);
        mapper.row(&event)
    });
    let row = row.await.map_err(|_| Problem::new("internal", "mapping the event failed"))?;
    let is_cut_off = row.as_ref().is_err_and(|error| error.kind == FieldErrorKind::NotRun);
    if is_cut_off && Instant::now() >= until {
        return Err(late());
    }
    let types = sink.mapping.schema();
    let column = |(name, value): (String, Value)| {
        let kind = types.field_by_name(&name).map(|field| field.field_type.to_string());
        json!({ "name": name, "type": kind, "value": value })
    };
    Ok(row.map(|row| {
        json!({
            "sink": sink.id,
            "version": sink.version,
            "table": sink.wish.table.display(),
            "columns": row.into_iter().map(column).collect::<Vec<_>>(),
        })
    }))
}

fn late() -> Problem {
    let detail = "the rows of all records take longer than 25 seconds: try fewer records at once, or \
                  templates that take less";
    Problem::new("timeout", detail)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::http::ingest::event::answer_by;
    use crate::runtime::Tasks;
    use crate::sink::{Asked, Sinks};
    use crate::store::history::Edit;
    use crate::store::testing::Rig;
    use crate::types::{Expected, TopicId};

    use super::*;

    #[tokio::test]
    async fn a_row_that_is_not_there_in_time_is_no_row() {
        let rig = Rig::new();
        let sinks = Sinks::open(rig.store(), rig.clock.clone(), Tasks::for_tests()).unwrap();
        let template = json!({"language": "jsonnet", "content": "Body('a') + 1"});
        let column = json!({"type": "template", "name": "t", "template": template});
        let wish = json!({"table": {"name": "t"}, "mapping": {"columns": [column]}});
        let wish = serde_json::from_value(wish).unwrap();
        let asked =
            Asked { wish, ends: BTreeMap::new(), starts: BTreeMap::new(), edit: Edit::by("ann") };
        let put = sinks.put((TopicId(Uuid::nil()), "s"), asked, Expected::Any, false).await;
        let sink = Arc::clone(put.unwrap().sink());
        let sample = |body: &'static str| {
            let (id, ip, headers) = (Uuid::nil(), None, HeaderMap::new());
            let body = Bytes::from_static(body.as_bytes());
            Arc::new(Sample { id, received_ms: 0, ip, headers, body })
        };
        let trials = Trials::new();
        let row = try_out(&trials, &sink, &sample(r#"{"a": 1}"#), answer_by()).await.unwrap();
        assert_eq!(row.unwrap()["columns"][0]["value"], "2");
        assert!(try_out(&trials, &sink, &sample("{}"), answer_by()).await.unwrap().is_err());
        let late = try_out(&trials, &sink, &sample("{}"), Instant::now()).await.unwrap_err();
        assert_eq!(late.code(), "timeout");
        // Templates of tests have turns as those of requests that are stored.
        let mut turns = Vec::new();
        let soon = || Instant::now() + std::time::Duration::from_millis(50);
        while let Ok(turn) = trials.turn(sink.topic_id, soon()).await {
            turns.push(turn);
        }
        let refused = try_out(&trials, &sink, &sample("{}"), soon()).await.unwrap_err();
        assert_eq!((refused.code(), turns.is_empty()), ("overloaded", false));
    }
}
