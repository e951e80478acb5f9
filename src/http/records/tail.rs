//! Records as they come, as server-sent events. A tail ends when its client goes, when the server shuts
//! down, when its topic or stream is deleted, and when the right to it ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;

use super::{Asked, Given, Lane, Place, Start, asked, bad, first, read, turn};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::types::Offset;

/// Most partitions of one tail.
const LANES_MAX: usize = 256;
/// Records, and bytes of them, that a tail holds until its client takes them.
const COUNT_MAX: usize = 1_000;
const BYTES_MAX: usize = 256 << 10;
/// How often it is looked whether the tail is to end, and what else there is to follow.
const LOOK: Duration = Duration::from_millis(500);
/// How often a client hears something where nothing comes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One tail.
struct Tail {
    api: Api,
    caller: Caller,
    place: Place,
    partition: Option<usize>,
    /// Each with the next offset.
    lanes: Vec<(Lane, Offset)>,
    /// The lane that is read next: each has its turn.
    at: usize,
    ready: VecDeque<Event>,
    _permit: OwnedSemaphorePermit,
}

pub(in crate::http) async fn tail_of_topic(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    given: Given,
) -> Result<Response, Problem> {
    let place = Place::topic(&api, &caller, &name)?;
    let asked = asked(given)?;
    if asked.table.is_some() {
        return Err(bad("parameter table is for streams; there are partition, offset, timestamp"));
    }
    begin(api, caller, place, asked).await
}

pub(in crate::http) async fn tail_of_stream(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    given: Given,
) -> Result<Response, Problem> {
    let asked = asked(given)?;
    let place = Place::stream(&api, &caller, &name, asked.table.as_deref())?;
    begin(api, caller, place, asked).await
}

async fn begin(api: Api, caller: Caller, place: Place, asked: Asked) -> Result<Response, Problem> {
    if asked.limit.is_some() || asked.after.is_some() {
        return Err(bad(
            "limit and after are not known here; there are partition, offset, timestamp",
        ));
    }
    if let Some(problem) = api.draining() {
        return Err(problem.closing());
    }
    let start = asked.start()?.unwrap_or(Start::Latest);
    let found = asked.lanes(&api, &place)?;
    if found.len() > LANES_MAX {
        return Err(bad(format!("these are more than {LANES_MAX} partitions: say which one")));
    }
    let permit = api.tails.clone().try_acquire_owned().map_err(|_| {
        Problem::new("overloaded", "as many follow records as may do so at once").retry_after(5)
    })?;
    let mut lanes = Vec::with_capacity(found.len());
    for lane in found {
        let at = first(&api, &lane, start, 0).await?;
        lanes.push((lane, at));
    }
    let (partition, ready) = (asked.partition, VecDeque::new());
    let tail = Tail { api, caller, place, partition, lanes, at: 0, ready, _permit: permit };
    let events = futures::stream::unfold(tail, async |mut tail| {
        let event = tail.next().await?;
        Some((event, tail))
    });
    let events = events.map(Ok::<Event, Infallible>);
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

impl Tail {
    /// The next event; none where the tail ends. Cancel safe: what was read is kept.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.is_over() {
                return None;
            }
            match self.behind() {
                Some(at) => self.read(at).await?,
                None => self.wait().await,
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_gone = match &self.place {
            Place::Topic(id) => self.api.topics.by_id(*id).is_none(),
            Place::Stream { name, .. } => self.api.doors.streams.get(name).is_none(),
        };
        is_gone || self.api.draining().is_some() || self.api.auth.recheck(&self.caller.0).is_err()
    }

    /// A lane that has more, from the one on whose turn it is.
    fn behind(&self) -> Option<usize> {
        let count = self.lanes.len();
        let mut order = (0..count).map(|step| (self.at + step) % count);
        order.find(|at| {
            let (lane, next) = &self.lanes[*at];
            let partition = self.api.log.partition(lane.id);
            partition.is_some_and(|partition| partition.high_watermark() > *next)
        })
    }

    /// Reads the next records of a lane. None ends the tail: the disk fails.
    async fn read(&mut self, at: usize) -> Option<()> {
        let (lane, next) = self.lanes.get(at)?;
        let Some(partition) = self.api.log.partition(lane.id) else { return Some(()) };
        let range = (*next).max(partition.log_start_offset())..partition.high_watermark();
        if range.is_empty() {
            self.lanes[at].1 = range.start;
            return Some(());
        }
        // Others look at records too: it comes to its turn later.
        let Ok(_turn) = turn(&self.api).await else { return Some(()) };
        match read::read(&self.api, lane, range, (COUNT_MAX, BYTES_MAX)).await {
            Ok(slice) => {
                let shown = slice.shown.iter().filter_map(|one| serde_json::to_string(one).ok());
                self.ready.extend(shown.map(|text| Event::default().data(text)));
                self.lanes[at].1 = slice.next;
                self.at = (at + 1) % self.lanes.len();
                Some(())
            }
            // The look that follows tells whether all of it is gone.
            Err(problem) if problem.code() == "unknown_topic" => {
                self.lanes.remove(at);
                self.at = 0;
                Some(())
            }
            Err(problem) => {
                tracing::warn!(detail = problem.detail(), "a tail ends");
                None
            }
        }
    }

    /// Waits until something comes, for a moment; then looks what else there is to follow.
    async fn wait(&mut self) {
        let above = self.lanes.iter().filter_map(|(lane, next)| {
            let (partition, next) = (self.api.log.partition(lane.id)?, *next);
            Some(Box::pin(async move { partition.wait_above(next).await }))
        });
        let above: Vec<_> = above.collect();
        if above.is_empty() {
            tokio::time::sleep(LOOK).await;
        } else if tokio::time::timeout(LOOK, futures::future::select_all(above)).await.is_ok() {
            return;
        }
        let (partition, known) = (self.partition, &self.lanes);
        let is_new = |lane: &Lane| {
            partition.is_none_or(|partition| partition == lane.index)
                && !known.iter().any(|(other, _)| other.id == lane.id)
        };
        let new: Vec<Lane> = self.place.lanes(&self.api).into_iter().filter(is_new).collect();
        // Those are new: all of theirs comes.
        self.lanes.extend(new.into_iter().map(|lane| (lane, 0)));
        self.lanes.truncate(LANES_MAX);
    }
}
