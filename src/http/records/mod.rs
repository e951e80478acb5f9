//! A look at what is there: records of a topic, or of the topics behind a stream, in pages and as they
//! come (server-sent events).
//!
//! Owns: which partitions and offsets are meant, the rights, answers. Does not own: reading the log,
//! which is what Kafka's Fetch does (`log`).

mod feed;
mod followers;
mod read;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use tokio::sync::SemaphorePermit;

use crate::auth::{Operation, Resource};
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::{Api, streams, unknown_topic};
use crate::log::ReadError;
use crate::topic::Topic;
use crate::types::{Offset, PartitionId, TopicId};

pub(super) use followers::Followers;
pub(super) use read::{Found, found};
pub(super) use tail::{tail_of_stream, tail_of_topic};

use read::Shown;

/// Records of an answer, unless the request says it, and at most.
const RECORDS_DEFAULT: usize = 100;
const RECORDS_MAX: usize = 1_000;
/// Bytes of records as they are shown after which an answer ends.
const BYTES_MAX: usize = 4 << 20;
/// Longest wait of a request for its turn.
const TURN_MAX: Duration = Duration::from_secs(5);

/// Waits until a request may hold records, as long as it does.
///
/// # Errors
/// `overloaded`.
pub(super) async fn turn(api: &Api) -> Result<SemaphorePermit<'_>, Problem> {
    let turn = tokio::time::timeout(TURN_MAX, api.record_turns.acquire()).await;
    turn.ok().and_then(Result::ok).ok_or_else(|| {
        let detail = "others look at records, or send refused events again";
        Problem::new("overloaded", detail).retry_after(1)
    })
}

/// What is looked at, checked: the caller may read it.
#[derive(Clone)]
enum Place {
    Topic(TopicId),
    /// Of one table, where one is named.
    Stream {
        name: String,
        table: Option<String>,
    },
}

/// One partition of it.
#[derive(Clone)]
struct Lane {
    topic: Arc<Topic>,
    index: usize,
    id: PartitionId,
}

impl Place {
    fn topic(api: &Api, caller: &Caller, name: &str) -> Result<Self, Problem> {
        caller.check(Operation::Read, Resource::Topic(name))?;
        let topic = api.topics.get(name).ok_or_else(|| unknown_topic(name))?;
        Ok(Self::Topic(topic.id))
    }

    fn stream(
        api: &Api,
        caller: &Caller,
        name: &str,
        table: Option<&str>,
    ) -> Result<Self, Problem> {
        caller.check(Operation::Read, Resource::Stream(name))?;
        let stream = streams::manage::existing(api, name)?;
        let table = table.map(streams::table_of).transpose()?;
        Ok(Self::Stream { name: stream.name.clone(), table })
    }

    /// Its partitions as they are now, in order.
    fn lanes(&self, api: &Api) -> Vec<Lane> {
        let topics = match self {
            Self::Topic(id) => api.topics.by_id(*id).into_iter().collect(),
            Self::Stream { name, table } => {
                let mut topics = streams::manage::topics(api, name);
                topics.retain(|topic| table.is_none() || topic.contract_table() == *table);
                topics.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
                topics
            }
        };
        let lanes = topics.into_iter().flat_map(|topic| {
            let ids = topic.partitions.clone().into_iter().enumerate();
            ids.map(move |(index, id)| Lane { topic: Arc::clone(&topic), index, id })
        });
        lanes.collect()
    }

    /// True if one partition number means one partition.
    fn is_one_topic(&self) -> bool {
        !matches!(self, Self::Stream { table: None, .. })
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Earliest,
    Latest,
    At(Offset),
    /// Milliseconds.
    Time(i64),
}

/// Which records are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Of a stream.
    table: Option<String>,
    partition: Option<usize>,
    offset: Option<String>,
    timestamp: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

type Given = Result<Query<Asked>, QueryRejection>;

fn asked(given: Given) -> Result<Asked, Problem> {
    let bad = |error: QueryRejection| Problem::new("bad_request", error.body_text());
    Ok(given.map_err(bad)?.0)
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new("bad_request", detail)
}

impl Asked {
    /// The number of records that is asked for.
    fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(RECORDS_DEFAULT) {
            limit @ 1..=RECORDS_MAX => Ok(limit),
            _ => Err(bad(format!("limit is refused: allowed are 1 to {RECORDS_MAX}"))),
        }
    }

    /// Where it begins; none is not said.
    fn start(&self) -> Result<Option<Start>, Problem> {
        match (self.offset.as_deref(), self.timestamp.as_deref()) {
            (Some(_), Some(_)) => Err(bad("send offset or timestamp, not both")),
            (Some("earliest"), None) => Ok(Some(Start::Earliest)),
            (Some("latest"), None) => Ok(Some(Start::Latest)),
            (Some(text), None) => match text.parse() {
                Ok(offset) if offset >= 0 && self.partition.is_some() => {
                    Ok(Some(Start::At(offset)))
                }
                Ok(offset) if offset >= 0 => Err(bad("an offset needs a partition")),
                _ => Err(bad("offset is refused: a whole number, earliest or latest")),
            },
            (None, Some(text)) => {
                let time = text
                    .parse()
                    .ok()
                    .or_else(|| Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis()));
                let refused = || bad("timestamp is refused: milliseconds or RFC 3339");
                time.filter(|ms| *ms >= 0).map(|ms| Some(Start::Time(ms))).ok_or_else(refused)
            }
            (None, None) => Ok(None),
        }
    }

    /// The partitions that are meant.
    fn lanes(&self, api: &Api, place: &Place) -> Result<Vec<Lane>, Problem> {
        let mut lanes = place.lanes(api);
        let Some(partition) = self.partition else { return Ok(lanes) };
        if !place.is_one_topic() {
            return Err(bad("a partition needs a table: those of a stream have each their own"));
        }
        let count = lanes.len();
        lanes.retain(|lane| lane.index == partition);
        if lanes.is_empty() && (count > 0 || matches!(place, Place::Topic(_))) {
            let detail = format!("there are partitions 0 to {}", count.saturating_sub(1));
            return Err(Problem::new("invalid_partition", detail));
        }
        Ok(lanes)
    }
}

/// The first offset of a lane that is meant; `share` is how many of the last ones.
async fn first(api: &Api, lane: &Lane, start: Start, share: Offset) -> Result<Offset, Problem> {
    let Some(partition) = api.log.partition(lane.id) else { return Ok(0) };
    let (begin, end) = (partition.log_start_offset(), partition.high_watermark());
    match start {
        Start::Earliest => Ok(begin),
        Start::Latest => Ok((end - share).max(begin)),
        Start::At(offset) => Ok(offset.max(begin)),
        Start::Time(ms) => match api.log.offset_for_timestamp(lane.id, ms).await {
            Ok(found) => Ok(found.map_or(end, |(offset, _)| offset)),
            // Retention passed it while it was looked for: what is left is later.
            Err(ReadError::OutOfRange { .. }) => Ok(partition.log_start_offset()),
            Err(ReadError::UnknownPartition) => Ok(end),
            Err(error) => Err(Problem::new("internal", error.to_string())),
        },
    }
}

/// The answer with some records.
#[derive(Serialize)]
pub(super) struct Records {
    records: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(super) async fn of_topic(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    given: Given,
) -> Result<Json<Records>, Problem> {
    let place = Place::topic(&api, &caller, &name)?;
    let asked = asked(given)?;
    if asked.table.is_some() {
        return Err(bad("parameter table is for streams; there are partition, offset and others"));
    }
    page(&api, &place, &asked).await
}

pub(super) async fn of_stream(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    given: Given,
) -> Result<Json<Records>, Problem> {
    let asked = asked(given)?;
    let place = Place::stream(&api, &caller, &name, asked.table.as_deref())?;
    page(&api, &place, &asked).await
}

async fn page(api: &Api, place: &Place, asked: &Asked) -> Result<Json<Records>, Problem> {
    let (limit, start) = (asked.limit()?, asked.start()?);
    let mut lanes = asked.lanes(api, place)?;
    let mut resumed = None;
    if let Some(after) = &asked.after {
        if start.is_some() {
            return Err(bad("send after alone: it says where to go on"));
        }
        let refused = || bad("after is refused: send what next says in the answer before");
        let (name, index, offset) = cursor(after).ok_or_else(refused)?;
        let is_before = |lane: &Lane| (lane.topic.name.as_str(), lane.index) < (name, index);
        lanes.retain(|lane| !is_before(lane));
        resumed = Some((name, index, offset));
    }
    let share = (limit / lanes.len().max(1)).max(1);
    let share = Offset::try_from(share).unwrap_or(1);
    let _turn = turn(api).await?;
    let (mut records, mut bytes, mut next) = (Vec::new(), 0, None);
    for lane in &lanes {
        let Some(partition) = api.log.partition(lane.id) else { continue };
        let end = partition.high_watermark();
        let mut at =
            match resumed.filter(|at| (lane.topic.name.as_str(), lane.index) == (at.0, at.1)) {
                Some((_, _, offset)) => offset.max(partition.log_start_offset()),
                None => first(api, lane, start.unwrap_or(Start::Earliest), share).await?,
            };
        while at < end && records.len() < limit && bytes < BYTES_MAX {
            let slice = read::read(api, lane, at..end, (limit - records.len(), BYTES_MAX)).await?;
            at = slice.next;
            bytes += slice.size_bytes;
            records.extend(slice.shown);
        }
        if at < end {
            next = Some(format!("{}-{}-{at}", lane.topic.name, lane.index));
            break;
        }
    }
    Ok(Json(Records { records, next }))
}

/// `TOPIC-PARTITION-OFFSET`.
fn cursor(text: &str) -> Option<(&str, usize, Offset)> {
    let mut parts = text.rsplitn(3, '-');
    let offset = parts.next()?.parse().ok().filter(|offset| *offset >= 0)?;
    let index = parts.next()?.parse().ok()?;
    Some((parts.next().filter(|name| !name.is_empty())?, index, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_begins_where_it_is_asked_for() {
        let of = |partition, offset: Option<&str>, timestamp: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            let (offset, timestamp) = (text(offset), text(timestamp));
            let asked = Asked { partition, offset, timestamp, ..Asked::default() };
            asked.start().map_err(|problem| problem.code())
        };
        assert_eq!(of(None, None, None), Ok(None));
        assert_eq!(of(Some(1), Some("7"), None), Ok(Some(Start::At(7))));
        assert_eq!(of(None, Some("latest"), None), Ok(Some(Start::Latest)));
        assert_eq!(of(None, Some("earliest"), None), Ok(Some(Start::Earliest)));
        assert_eq!(of(None, None, Some("5")), Ok(Some(Start::Time(5))));
        let time = Ok(Some(Start::Time(1_000)));
        assert_eq!(of(None, None, Some("1970-01-01T00:00:01Z")), time);
        for (partition, offset, timestamp) in [
            (None, Some("7"), None),
            (Some(1), Some("-7"), None),
            (Some(1), Some("x"), None),
            (None, None, Some("yesterday")),
            (Some(1), Some("7"), Some("5")),
        ] {
            let wanted = Err("bad_request");
            assert_eq!(of(partition, offset, timestamp), wanted, "{offset:?} {timestamp:?}");
        }
        let limit = |limit| Asked { limit: Some(limit), ..Asked::default() }.limit().is_ok();
        assert_eq!([limit(0), limit(1), limit(1_000), limit(1_001)], [false, true, true, false]);
    }

    #[test]
    fn a_cursor_names_a_topic_whatever_its_name_is() {
        assert_eq!(cursor("a-b.c-3-17"), Some(("a-b.c", 3, 17)));
        for bad in ["", "3-17", "-3-17", "t-3-", "t-x-1", "t--1"] {
            assert_eq!(cursor(bad), None, "{bad}");
        }
    }
}
