//! A sink as it is stored: the layout on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Cleared, Error, Sink, Wish};
use crate::store;
use crate::store::history::Trail;
use crate::types::{Offset, SinkUid, TopicId};

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    v: u32,
    uid: SinkUid,
    topic_id: TopicId,
    id: String,
    wish: Wish,
    version: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    starts: BTreeMap<i32, Offset>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    resumed: BTreeMap<i32, Offset>,
    /// None is the first version: releases that did not know it wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_since: Option<u64>,
    trail: Trail,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted_with_source: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cleared: Option<Cleared>,
}

pub(super) fn encode(sink: &Sink) -> Result<Vec<u8>, Error> {
    let Sink { uid, topic_id, version, on_since, deleted_with_source, cleared, .. } = *sink;
    let (id, wish, starts) = (sink.id.clone(), sink.wish.clone(), sink.starts.clone());
    let (v, trail, resumed) = (VERSION, sink.trail.clone(), sink.resumed.clone());
    let stored = Stored {
        v,
        uid,
        topic_id,
        id,
        wish,
        version,
        starts,
        resumed,
        on_since: Some(on_since).filter(|version| *version > 1),
        trail,
        deleted_with_source,
        cleared,
    };
    serde_json::to_vec(&stored).map_err(|error| failed(&error.to_string()))
}

pub(super) fn decode(value: &[u8]) -> Result<Sink, Error> {
    let stored: Stored = serde_json::from_slice(value)
        .map_err(|error| failed(&format!("a stored sink is malformed: {error}")))?;
    if stored.v != VERSION {
        let (id, v) = (stored.id, stored.v);
        let text = format!("sink {id} is stored in version {v}, this release knows {VERSION}");
        return Err(failed(&text));
    }
    let mapping = stored.wish.check(&stored.id);
    let mapping =
        mapping.map_err(|error| failed(&format!("stored sink {}: {error}", stored.id)))?;
    Ok(Sink {
        uid: stored.uid,
        topic_id: stored.topic_id,
        id: stored.id,
        wish: stored.wish,
        mapping: Arc::new(mapping),
        version: stored.version,
        starts: stored.starts,
        resumed: stored.resumed,
        on_since: stored.on_since.unwrap_or(1),
        trail: stored.trail,
        deleted_with_source: stored.deleted_with_source,
        cleared: stored.cleared,
    })
}

fn failed(reason: &str) -> Error {
    Error::Store(store::Error::Failed(reason.to_owned()))
}
