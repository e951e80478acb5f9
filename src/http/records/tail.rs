//! Records as they come, as server-sent events. A tail ends when its client goes, when the server shuts
//! down, when its topic or stream is deleted, when the right to it ends, and when nobody reads it: it is
//! a task of its own, for an answer that nobody reads is not asked for more.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use super::feed::{self, Feed};
use super::{Asked, Given, Lane, Place, Start, asked, bad, first, read, turn};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::ingest::rate;
use crate::http::problem::Problem;
use crate::types::Offset;

/// Most partitions of one tail.
const LANES_MAX: usize = 256;
/// Records, and bytes of them, that a tail holds until its client takes them.
const COUNT_MAX: usize = 1_000;
const BYTES_MAX: usize = 256 << 10;
/// How often it is looked whether the tail is to end, and what else there is to follow.
const LOOK: Duration = Duration::from_millis(500);
/// Longest time until a client takes an event.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How often a client hears something where nothing comes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One tail.
struct Tail {
    api: Api,
    place: Place,
    partition: Option<usize>,
    /// Each with the next offset.
    lanes: Vec<(Lane, Offset)>,
    /// The lane that is read next: each has its turn.
    at: usize,
    ready: VecDeque<Event>,
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
    let who = Some(caller.key()).filter(|name| !name.is_empty()).map(str::to_owned);
    let following = api.followers.join(who.unwrap_or_else(rate::address))?;
    let mut lanes = Vec::with_capacity(found.len());
    for lane in found {
        let at = first(&api, &lane, start, 0).await?;
        lanes.push((lane, at));
    }
    let (partition, ready) = (asked.partition, VecDeque::new());
    let (tasks, stop) = (api.tasks.clone(), api.tasks.stop_token());
    let (feed, events) = feed::open(STALL_MAX);
    let tail = Tail { api: api.clone(), place: place.clone(), partition, lanes, at: 0, ready };
    tasks.spawn_contained("tail", async move {
        tokio::select! {
            () = tail.run(&feed) => {}
            () = feed.abandoned() => {}
            () = over(&api, &caller, &place) => {}
            () = stop.cancelled() => {}
        }
        drop(following);
    });
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events.map(Ok::<Event, Infallible>)).keep_alive(alive).into_response())
}

/// Waits until a tail is to end, whether it is read or not.
async fn over(api: &Api, caller: &Caller, place: &Place) {
    loop {
        tokio::time::sleep(LOOK).await;
        let is_gone = match place {
            Place::Topic(id) => api.topics.by_id(*id).is_none(),
            Place::Stream { name, .. } => api.doors.streams.get(name).is_none(),
        };
        if is_gone || api.is_draining() || api.auth.recheck(&caller.0).is_err() {
            return;
        }
    }
}

impl Tail {
    /// Hands over records as they come, as long as they are taken.
    async fn run(mut self, feed: &Feed) {
        while let Some(event) = self.next().await {
            if !feed.give(event).await {
                return;
            }
        }
    }

    /// The next event; none where the disk fails.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.behind() {
                Some(at) => self.read(at).await?,
                None => self.wait().await,
            }
        }
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
