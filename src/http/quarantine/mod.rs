//! `/api/v1/quarantine`: events that were refused and kept (`on_error=quarantine`): which topics have
//! some, what they are and why, and sending them again.
//!
//! Owns: routes and answers. Does not own: what is kept of a refused event (`ingest::quarantine`), what
//! a topic takes (`ingest::engine`).

mod read;
mod replay;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::auth::{Operation, Resource};
use crate::http::admin::page::{Asked, Page};
use crate::http::auth::Caller;
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::answer_by;
use crate::http::ingest::quarantine::{self, channel_of};
use crate::http::problem::Problem;
use crate::http::records::turn;
use crate::http::{Api, unknown_topic};
use crate::log::ReadError;
use crate::topic::Topic;
use crate::types::Offset;

pub(super) use replay::replay;

use read::{Kept, Shown, read};

/// Topics of a page whose length nobody said: their ends are looked up.
const TOPICS_DEFAULT: usize = 100;
/// Records of an answer, unless the request says it, and at most.
const RECORDS_DEFAULT: usize = 100;
const RECORDS_MAX: usize = 1_000;
/// Bytes of events after which an answer ends.
const BYTES_MAX: usize = 4 << 20;
/// A page of quarantines ends when an answer has less time than this.
const SUMMARY_MAX: Duration = Duration::from_secs(10);

/// A quarantine and the topic whose events it has.
pub(super) struct Place {
    kept_in: Arc<Topic>,
    topic: String,
}

impl Place {
    /// That of the topic, whether it is named itself or its quarantine.
    fn of(api: &Api, caller: &Caller, name: &str) -> Result<Self, Problem> {
        let topic = quarantine::source_of(name).unwrap_or(name).to_owned();
        let kept_in = quarantine::topic(&topic)?;
        caller.check(Operation::Read, Resource::Topic(&kept_in))?;
        let kept_in = api.topics.get(&kept_in).ok_or_else(|| unknown_topic(&kept_in))?;
        Ok(Self { kept_in, topic })
    }

    /// The first record that a replay has not been at.
    async fn replayed(&self, api: &Api, index: usize) -> Result<Offset, Problem> {
        let Some(topic) = api.topics.get(&self.topic) else { return Ok(0) };
        let token = api.engine.token(topic.id, channel_of(self.kept_in.id, index)).await?;
        Ok(Offset::try_from(token).unwrap_or(Offset::MAX))
    }
}

/// Those that the caller may describe.
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    asked: Asked,
) -> Result<Json<Value>, Problem> {
    let all = api.topics.list().into_iter().filter_map(|topic| {
        let source = quarantine::source_of(topic.name.as_str())?.to_owned();
        Some(Place { topic: source, kept_in: topic })
    });
    let may = |place: &Place| {
        caller.may(Operation::Describe, Resource::Topic(place.kept_in.name.as_str()))
    };
    let key = |place: &Place| place.topic.clone();
    let mut page = Page::of_at_most(TOPICS_DEFAULT, asked, all.filter(may), key)?;
    let deadline = answer_by();
    let mut shown = Vec::with_capacity(page.items().len());
    for place in page.items() {
        shown.push(summary(&api, place).await);
        if Instant::now() + SUMMARY_MAX > deadline {
            break;
        }
    }
    page.end_after(shown.len(), key);
    Ok(page.answer_with("quarantine", shown))
}

/// What is there; null where it cannot be told.
async fn summary(api: &Api, place: &Place) -> Value {
    let (mut records, mut replayed) = (0, 0);
    let (mut oldest, mut newest): (Option<i64>, Option<i64>) = (None, None);
    let mut times_known = true;
    for (index, id) in place.kept_in.partitions.iter().enumerate() {
        let Some(partition) = api.log.partition(*id) else { continue };
        let (start, end) = (partition.log_start_offset(), partition.high_watermark());
        if start >= end {
            continue;
        }
        let first = api.log.offset_for_timestamp(*id, 0).await;
        let last = api.log.max_timestamp(*id).await;
        match (first, last) {
            (Ok(first), Ok(last)) => {
                oldest = oldest.into_iter().chain(first.map(|(_, ms)| ms)).min();
                newest = newest.into_iter().chain(last.map(|(_, ms)| ms)).max();
            }
            // It was deleted meanwhile.
            (Err(ReadError::UnknownPartition), _) | (_, Err(ReadError::UnknownPartition)) => {
                continue;
            }
            // Retention may have passed it by now.
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(topic = %place.kept_in.name, index, %error, "a time is not known");
                times_known = false;
            }
        }
        records += end - start;
        let passed = place.replayed(api, index).await.unwrap_or(start);
        replayed += (passed.min(end) - start).max(0);
    }
    let known = |ms: Option<i64>| ms.filter(|_| times_known);
    json!({
        "name": place.kept_in.name,
        "topic": place.topic,
        "records": records,
        "replayed": replayed,
        "oldest_ms": known(oldest),
        "newest_ms": known(newest),
    })
}

/// Which records are asked for.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    partition: Option<usize>,
    offset: Option<Offset>,
    limit: Option<usize>,
    after: Option<String>,
}

impl Range {
    /// Partition and offset of the first record.
    fn begin(&self) -> Result<(usize, Offset), Problem> {
        let bad = |detail: &str| Err(Problem::new("bad_request", detail));
        if self.limit.is_some_and(|limit| !(1..=RECORDS_MAX).contains(&limit)) {
            return bad("limit is refused: allowed are 1 to 1000");
        }
        match (self.partition, self.offset, &self.after) {
            (_, Some(_), Some(_)) => bad("send offset or after, not both"),
            (None, Some(_), None) => bad("an offset needs a partition"),
            (_, Some(offset), None) if offset < 0 => bad("offset is refused: it begins at 0"),
            (partition, offset, None) => Ok((partition.unwrap_or(0), offset.unwrap_or(0))),
            (partition, None, Some(after)) => match cursor(after) {
                Some(at) if partition.is_none_or(|partition| partition == at.0) => Ok(at),
                _ => bad("after is refused: send what next says in the answer before"),
            },
        }
    }
}

/// `PARTITION-OFFSET`.
fn cursor(text: &str) -> Option<(usize, Offset)> {
    let (partition, offset) = text.split_once('-')?;
    Some((partition.parse().ok()?, offset.parse().ok().filter(|offset| *offset >= 0)?))
}

/// Refuses a partition that the quarantine does not have.
fn check_partition(place: &Place, partition: Option<usize>) -> Result<(), Problem> {
    let count = place.kept_in.partitions.len();
    match partition.filter(|partition| *partition >= count) {
        Some(_) => {
            let last = count.saturating_sub(1);
            let detail = format!("{} has partitions 0 to {last}", place.kept_in.name);
            Err(Problem::new("invalid_partition", detail))
        }
        None => Ok(()),
    }
}

/// The answer with some records.
#[derive(Serialize)]
pub(super) struct Records {
    name: String,
    topic: String,
    records: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Records of a quarantine, with what was refused and why.
pub(super) async fn records(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    range: Result<Query<Range>, QueryRejection>,
) -> Result<Json<Records>, Problem> {
    let place = Place::of(&api, &caller, &name)?;
    let bad = |error: QueryRejection| Problem::new("bad_request", error.body_text());
    let Query(range) = range.map_err(bad)?;
    let (first, offset) = range.begin()?;
    check_partition(&place, range.partition.or(Some(first)))?;
    let limit = range.limit.unwrap_or(RECORDS_DEFAULT);
    let _turn = turn(&api).await?;
    let (mut shown, mut bytes, mut next): (Vec<Shown>, usize, Option<String>) =
        (Vec::new(), 0, None);
    let last = range.partition.map_or(place.kept_in.partitions.len(), |partition| partition + 1);
    for index in first..last {
        let id = place.kept_in.partitions[index];
        let Some(partition) = api.log.partition(id) else { continue };
        let (mut at, end) = (partition.log_start_offset(), partition.high_watermark());
        at = if index == first { at.max(offset) } else { at };
        let replayed = place.replayed(&api, index).await?;
        while at < end && shown.len() < limit && bytes < BYTES_MAX {
            let slice = read(&api, id, at..end, limit - shown.len()).await?;
            at = slice.next;
            let size_bytes = slice.kept.iter().map(Kept::size_bytes).sum::<usize>();
            bytes += size_bytes;
            let show = move || -> Result<Vec<Shown>, String> {
                let kept = slice.kept.into_iter();
                Ok(kept.map(|kept| kept.shown(index, replayed)).collect())
            };
            shown.extend(off_worker(size_bytes, show).await?);
        }
        if at < end {
            next = Some(format!("{index}-{at}"));
            break;
        }
    }
    let name = place.kept_in.name.to_string();
    Ok(Json(Records { name, topic: place.topic, records: shown, next }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_begins_at_an_offset_or_where_an_answer_ended() {
        let range = |partition, offset, after: Option<&str>| {
            let after = after.map(str::to_owned);
            Range { partition, offset, limit: None, after }.begin().map_err(|it| it.code())
        };
        assert_eq!(range(None, None, None), Ok((0, 0)));
        assert_eq!(range(Some(2), Some(7), None), Ok((2, 7)));
        assert_eq!(range(None, None, Some("3-10")), Ok((3, 10)));
        assert_eq!(range(Some(3), None, Some("3-10")), Ok((3, 10)));
        for (partition, offset, after) in [
            (None, Some(1), None),
            (Some(1), Some(-1), None),
            (Some(1), Some(1), Some("1-1")),
            (Some(1), None, Some("2-1")),
            (None, None, Some("x")),
            (None, None, Some("1--1")),
        ] {
            assert_eq!(range(partition, offset, after), Err("bad_request"), "{after:?}");
        }
        let limit = |limit| Range { limit: Some(limit), ..Range::default() }.begin().is_ok();
        assert_eq!([limit(0), limit(1), limit(1_000), limit(1_001)], [false, true, true, false]);
    }
}
