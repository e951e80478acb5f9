//! What commits say about themselves, and the ledger of tiering.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::table::commit::ends;
use crate::table::commit::marker::{self, Ends, Gap, Range, Seen, Source, Statement, Writer};
use crate::tier::ledger::{self, Entry, Prepared};
use crate::types::TopicId;

/// Packed ends; a summary or properties, one `key=value` a line; an entry of the ledger.
///
/// # Panics
/// If a property does not hold.
pub fn table_ends(data: &[u8]) {
    stored::<Entry>(data);
    stored::<Prepared>(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(ends) = ends::unpack(text) {
        assert!(ends.iter().all(|(partition, end)| *partition >= 0 && *end >= 0));
        assert_eq!(ends::unpack(&ends::pack(&ends)), Some(ends));
    }
    let source = Source { writer: Writer::topic(TopicId(Uuid::from_u128(7))), generation: 1 };
    let mut summary: HashMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    properties(&summary, source);
    // No mutation finds the id of the topic.
    summary.insert(marker::TOPIC_ID.to_owned(), source.writer.topic_id.to_string());
    match marker::read_summary(&summary, source) {
        Seen::Ours(seen) => {
            let any = marker::read_any(&summary, source.writer);
            assert_eq!(any, Seen::Ours(seen.clone()));
            repeated(source, seen.commit_id, &seen.ends);
        }
        Seen::Newer(generation) => assert!(generation > source.generation),
        Seen::Nothing | Seen::Unreadable(_) => {}
    }
}

fn properties(all: &HashMap<String, String>, source: Source) {
    if let Some(newer) = marker::newer_property(all, source) {
        assert!(newer > source.generation);
    }
    let Some(value) = all.get("marker") else { return };
    let all = HashMap::from([(source.property(), value.clone())]);
    if let Ok(found) = marker::read_property(&all, source) {
        let found = found.expect("the property is there");
        repeated(source, found.commit_id, &found.ends);
    }
}

/// A marker that was read says the same when we write it, in the summary and in the property.
fn repeated(source: Source, commit_id: Uuid, ends: &Ends) {
    let ranges: Vec<Range> =
        ends.iter().map(|(at, end)| Range { partition: *at, base: 0, end: *end }).collect();
    let gaps: Vec<Gap> = ends
        .iter()
        .map(|(at, end)| Gap { partition: *at, from: 0, to: *end, reason: "off".to_owned() })
        .collect();
    let statement = Statement {
        source,
        commit_id,
        cluster_id: "c",
        topic_name: "t",
        ranges: &ranges,
        gaps: &gaps,
        ends,
        more: &BTreeMap::new(),
    };
    let Seen::Ours(seen) = marker::read_summary(&statement.summary(), source) else {
        panic!("our own marker is not read");
    };
    assert_eq!((seen.commit_id, &seen.ends), (commit_id, ends));
    let property = HashMap::from([statement.property()]);
    assert_eq!(marker::read_property(&property, source), Ok(Some(seen)));
}

fn stored<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    let Ok(value) = ledger::decode::<T>(data) else { return };
    let again = ledger::encode(&value);
    assert_eq!(ledger::decode::<T>(&again).expect("we wrote it"), value);
}
