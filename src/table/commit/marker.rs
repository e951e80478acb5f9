//! What each snapshot of ours says about itself (rules 4.1): commit id, ranges, ends, gaps. The
//! same is kept in a table property, which outlives snapshot expiry by anybody.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ends;
use crate::types::{Offset, SinkUid, TopicId};

/// Summary keys of a marker. They are on disk: never change one.
pub const COMMIT_ID: &str = "floe.commit-id";
/// The cluster that wrote it.
pub const CLUSTER_ID: &str = "floe.cluster-id";
/// Id of the topic.
pub const TOPIC_ID: &str = "floe.topic-id";
/// Id of the topic's sink; not there in a topic's own table.
pub const SINK_ID: &str = "floe.sink-id";
/// Generation of the writer; raised by `resume`.
pub const GENERATION: &str = "floe.generation";
/// Name of the topic at that time.
pub const TOPIC_NAME: &str = "floe.topic-name";
/// JSON: partition to list of `[base, end)` of this commit.
pub const RANGES: &str = "floe.ranges";
/// JSON: partition to end (exclusive) of everything up to this commit.
pub const ENDS: &str = "floe.ends";
/// The same for many partitions, packed: base64 of LEB128 numbers.
pub const ENDS_PACKED: &str = "floe.ends.z";
/// JSON: list of `{partition, from, to, reason}` of this commit.
pub const GAPS: &str = "floe.gaps";
/// Rows that this commit put into the dead-letter table.
pub const DLQ_ROWS: &str = "floe.dlq-rows";

/// Property of a table of ours: what it is for.
pub const ROLE: &str = "floe.role";
/// Its role where it holds what another table does not take.
pub const DEAD_LETTERS: &str = "dead-letters";

/// Keys that a maintenance commit of ours carries forward unchanged, besides those that start
/// with this.
pub const PREFIX: &str = "floe.";

/// Ends by partition index, exclusive.
pub type Ends = BTreeMap<i32, Offset>;

/// Whose rows they are: a topic's in its own table, or in the table of one of its sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Writer {
    /// The topic.
    pub topic_id: TopicId,
    /// Its sink; none for its own table.
    pub sink: Option<SinkUid>,
}

impl Writer {
    /// The topic with its own table.
    pub fn topic(topic_id: TopicId) -> Self {
        Self { topic_id, sink: None }
    }

    /// What the names of its table properties begin with; the generation follows.
    pub(crate) fn property_prefix(self) -> String {
        match self.sink {
            None => format!("floe.state.{}.", self.topic_id),
            Some(sink) => format!("floe.state.{}.{sink}.", self.topic_id),
        }
    }

    /// True if a snapshot with this summary is one of its own, of whatever generation.
    fn wrote(self, summary: &HashMap<String, String>) -> bool {
        summary.get(TOPIC_ID) == Some(&self.topic_id.to_string())
            && summary.get(SINK_ID) == self.sink.map(|sink| sink.to_string()).as_ref()
    }
}

/// Who writes to a table, in one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Whose rows.
    pub writer: Writer,
    /// Raised by every `resume`.
    pub generation: u32,
}

impl Source {
    /// The table property that repeats the newest marker.
    pub fn property(self) -> String {
        format!("{}{}", self.writer.property_prefix(), self.generation)
    }
}

/// Offsets that were passed without rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Partition index.
    pub partition: i32,
    /// First offset of the gap.
    pub from: Offset,
    /// First offset after the gap.
    pub to: Offset,
    /// Why: `off`, `retention`, `corrupt`, `overflow`, ...
    pub reason: String,
}

/// Rows of one partition that one commit carries: `[base, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Partition index.
    pub partition: i32,
    /// First offset.
    pub base: Offset,
    /// First offset after the range.
    pub end: Offset,
}

/// The part of a marker that the guard reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Which attempt made it.
    #[serde(rename = "commit-id")]
    pub commit_id: Uuid,
    /// Ends after it.
    pub ends: Ends,
}

/// Everything a commit says about itself.
#[derive(Debug, Clone)]
pub struct Statement<'a> {
    /// The writer.
    pub source: Source,
    /// This attempt.
    pub commit_id: Uuid,
    /// The cluster.
    pub cluster_id: &'a str,
    /// Name of the topic.
    pub topic_name: &'a str,
    /// Rows of this commit.
    pub ranges: &'a [Range],
    /// Gaps of this commit.
    pub gaps: &'a [Gap],
    /// Ends after it.
    pub ends: &'a Ends,
    /// More keys (rows, watermark, ...), without the prefix `floe.`.
    pub more: &'a BTreeMap<String, String>,
}

impl Statement<'_> {
    /// The summary of the snapshot.
    pub fn summary(&self) -> HashMap<String, String> {
        let mut summary: HashMap<String, String> = self
            .more
            .iter()
            .map(|(key, value)| (format!("{PREFIX}{key}"), value.clone()))
            .collect();
        summary.extend([
            (COMMIT_ID.to_owned(), self.commit_id.to_string()),
            (CLUSTER_ID.to_owned(), self.cluster_id.to_owned()),
            (TOPIC_ID.to_owned(), self.source.writer.topic_id.to_string()),
            (GENERATION.to_owned(), self.source.generation.to_string()),
            (TOPIC_NAME.to_owned(), self.topic_name.to_owned()),
            (RANGES.to_owned(), ranges_json(self.ranges)),
        ]);
        if let Some(sink) = self.source.writer.sink {
            summary.insert(SINK_ID.to_owned(), sink.to_string());
        }
        if self.ends.len() > ends::PLAIN_MAX {
            summary.insert(ENDS_PACKED.to_owned(), ends::pack(self.ends));
        } else {
            summary.insert(ENDS.to_owned(), json(self.ends));
        }
        if !self.gaps.is_empty() {
            summary.insert(GAPS.to_owned(), json(self.gaps));
        }
        summary
    }

    /// Key and value of the table property of the same commit.
    pub fn property(&self) -> (String, String) {
        let marker = Marker { commit_id: self.commit_id, ends: self.ends.clone() };
        (self.source.property(), json(&marker))
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("integer keys, integers and strings always encode")
}

/// Ranges as markers and footers have them: partition to list of `[base, end)`.
pub fn ranges_json(ranges: &[Range]) -> String {
    let mut by_partition: BTreeMap<i32, Vec<[Offset; 2]>> = BTreeMap::new();
    for range in ranges {
        by_partition.entry(range.partition).or_default().push([range.base, range.end]);
    }
    json(&by_partition)
}

/// What the summary of one snapshot says about `source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing of this writer, or of an older generation.
    Nothing,
    /// A marker of this generation.
    Ours(Marker),
    /// A marker of a newer generation of the same writer.
    Newer(u32),
    /// It has our keys, but they cannot be read.
    Unreadable(String),
}

/// Reads the marker of `source` in a snapshot summary.
pub(crate) fn read_summary(summary: &HashMap<String, String>, source: Source) -> Seen {
    if !source.writer.wrote(summary) {
        return Seen::Nothing;
    }
    let field = |key: &str| summary.get(key).map(String::as_str).unwrap_or_default();
    let Ok(generation) = field(GENERATION).parse::<u32>() else {
        return Seen::Unreadable(format!("{GENERATION} is {:?}", field(GENERATION)));
    };
    if generation != source.generation {
        let newer = generation > source.generation;
        return if newer { Seen::Newer(generation) } else { Seen::Nothing };
    }
    match (field(COMMIT_ID).parse(), read_ends(summary)) {
        (Ok(commit_id), Some(ends)) => Seen::Ours(Marker { commit_id, ends }),
        _ => Seen::Unreadable(format!("{COMMIT_ID} is {:?}", field(COMMIT_ID))),
    }
}

/// Reads the marker of a writer in a snapshot summary, of whatever generation.
pub(crate) fn read_any(summary: &HashMap<String, String>, writer: Writer) -> Seen {
    let generation = summary.get(GENERATION).and_then(|text| text.parse().ok()).unwrap_or(0);
    read_summary(summary, Source { writer, generation })
}

/// Where the rows and gaps of one snapshot begin, if it is of that writer.
pub(super) fn starts_of(summary: &HashMap<String, String>, writer: Writer) -> Ends {
    let mut starts = Ends::new();
    if !writer.wrote(summary) {
        return starts;
    }
    let json = |key: &str| summary.get(key).map(String::as_str).unwrap_or_default();
    let ranges: BTreeMap<i32, Vec<[Offset; 2]>> =
        serde_json::from_str(json(RANGES)).unwrap_or_default();
    let gaps: Vec<Gap> = serde_json::from_str(json(GAPS)).unwrap_or_default();
    let rows =
        ranges.iter().flat_map(|(partition, all)| all.iter().map(|one| (*partition, one[0])));
    for (partition, start) in rows.chain(gaps.iter().map(|gap| (gap.partition, gap.from))) {
        starts.entry(partition).and_modify(|least| *least = start.min(*least)).or_insert(start);
    }
    starts
}

fn read_ends(summary: &HashMap<String, String>) -> Option<Ends> {
    match summary.get(ENDS_PACKED) {
        Some(packed) => ends::unpack(packed),
        None => serde_json::from_str(summary.get(ENDS)?).ok(),
    }
}

/// Reads the property of `source`; an unreadable one is an error text.
pub(crate) fn read_property(
    properties: &HashMap<String, String>,
    source: Source,
) -> Result<Option<Marker>, String> {
    let Some(value) = properties.get(&source.property()) else {
        return Ok(None);
    };
    serde_json::from_str(value).map(Some).map_err(|error| format!("{}: {error}", source.property()))
}

/// The newest generation of the writer that a property names, if it is above `source`'s.
pub(crate) fn newer_property(properties: &HashMap<String, String>, source: Source) -> Option<u32> {
    let prefix = source.writer.property_prefix();
    properties
        .keys()
        .filter_map(|key| key.strip_prefix(&prefix)?.parse().ok())
        .filter(|generation| *generation > source.generation)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement_of(ends: &Ends) -> HashMap<String, String> {
        let source = Source { writer: Writer::topic(TopicId(Uuid::from_u128(7))), generation: 0 };
        let statement = Statement {
            source,
            commit_id: Uuid::from_u128(1),
            cluster_id: "c",
            topic_name: "t",
            ranges: &[],
            gaps: &[],
            ends,
            more: &BTreeMap::new(),
        };
        let summary = statement.summary();
        let seen = read_summary(&summary, source);
        assert_eq!(seen, Seen::Ours(Marker { commit_id: Uuid::from_u128(1), ends: ends.clone() }));
        assert_eq!(read_any(&summary, source.writer), seen);
        summary
    }

    #[test]
    fn sinks_of_one_topic_and_its_own_table_are_told_apart() {
        let topic_id = TopicId(Uuid::from_u128(7));
        let sink = |number| Some(SinkUid(Uuid::from_u128(number)));
        let writers = [None, sink(1), sink(2)].map(|sink| Writer { topic_id, sink });
        let ends = Ends::from([(0, 5)]);
        for writer in writers {
            let statement = Statement {
                source: Source { writer, generation: 3 },
                commit_id: Uuid::from_u128(1),
                cluster_id: "c",
                topic_name: "t",
                ranges: &[Range { partition: 0, base: 1, end: 5 }],
                gaps: &[],
                ends: &ends,
                more: &BTreeMap::new(),
            };
            let (summary, properties) = (statement.summary(), [statement.property()].into());
            for reader in writers {
                let is_own = reader == writer;
                assert_eq!(read_any(&summary, reader) != Seen::Nothing, is_own);
                assert_eq!(!starts_of(&summary, reader).is_empty(), is_own);
                let (now, before) = (3, 2);
                let of = |generation| Source { writer: reader, generation };
                assert_eq!(read_property(&properties, of(now)).unwrap().is_some(), is_own);
                assert_eq!(newer_property(&properties, of(before)).is_some(), is_own);
            }
        }
    }

    #[test]
    fn ends_of_many_partitions_are_packed_and_read_back() {
        let few = statement_of(&(0..500).map(|partition| (partition, 1 << 40)).collect());
        assert!(few.contains_key(ENDS) && !few.contains_key(ENDS_PACKED));
        let many = statement_of(&(0..10_000).map(|partition| (partition, 1_000_000)).collect());
        assert!(!many.contains_key(ENDS));
        assert!(many[ENDS_PACKED].len() < 60_000);
    }
}
