//! `POST /api/v1/quarantine/{topic}/replay`: refused events are sent again, each exactly once however
//! often it is asked for and whatever crashes.
//!
//! Each partition of a quarantine is a channel of the topic, and its tokens are the offsets behind what
//! was sent: the events and the token are in one chain of frames, all or nothing. A channel knows no
//! holes, so an event that is refused again must not stay behind while later ones are stored: nobody
//! would get back to it. It goes to the end of the quarantine in the same chain, with the reason of this
//! time, and the next replay finds it there. Keys of single events would let it stay, but are forgotten
//! after a day, and then a replay would store the others twice; these channels are not forgotten as long
//! as the topic is there.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::read::{Kept, read};
use super::{Place, RECORDS_MAX, check_partition};
use crate::auth::{Operation, Resource};
use crate::http::auth::{self, Caller};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{Event, OnError, Once, Source, Terms, answer_by};
use crate::http::ingest::keys::Channel;
use crate::http::ingest::quarantine::channel_of;
use crate::http::problem::{EventError, Problem};
use crate::http::records::turn;
use crate::http::{Api, unknown_topic};
use crate::topic::Topic;
use crate::types::Offset;

/// Time that one append may take; nothing is begun when an answer has less.
const APPEND_MAX: Duration = Duration::from_secs(10);
/// Most refused events that an answer lists.
const ERRORS_MAX: usize = 100;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ReplayQuery {
    partition: Option<usize>,
    until: Option<Offset>,
    #[serde(default)]
    dry_run: bool,
}

/// Events of a quarantine, and which of them cannot be sent.
struct Again {
    events: Vec<Kept>,
    refused: Vec<EventError>,
}

impl Again {
    fn new(events: Vec<Kept>) -> Self {
        let not_json = |(index, kept): (usize, &Kept)| {
            let error = serde_json::from_slice::<IgnoredAny>(kept.event()?).err()?;
            let (code, message) = ("invalid_json", error.to_string());
            Some(EventError { index, offset_bytes: 0, field: None, code, message })
        };
        let refused = events.iter().enumerate().filter_map(not_json).collect();
        Self { events, refused }
    }
}

impl Source for Again {
    fn size_bytes(&self) -> usize {
        self.events.iter().map(Kept::size_bytes).sum()
    }

    fn refused(&self) -> &[EventError] {
        &self.refused
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        self.events.get(error.index).and_then(Kept::event).unwrap_or_default()
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        for (index, kept) in self.events.iter().enumerate() {
            let is_refused = self.refused.binary_search_by_key(&index, |error| error.index).is_ok();
            if let Some(event) = kept.event().filter(|_| !is_refused) {
                take(Ok(Event { index, value: Some(event), ..Event::default() }));
            }
        }
    }
}

/// What was done so far.
#[derive(Default)]
struct Done {
    /// Events that were looked at.
    looked: usize,
    replayed: usize,
    refused: usize,
    errors: Vec<Value>,
    next: Option<String>,
    /// Code of the problem that was in the way of what comes next.
    stopped_by: Option<&'static str>,
}

/// Number, partition and offset of a refused event, and code, field and message.
type Refused = ((usize, usize, Offset), &'static str, Option<String>, String);

impl Done {
    /// Says where to go on.
    fn stop(&mut self, (partition, offset): (usize, Offset)) {
        self.next = Some(format!("{partition}-{offset}"));
    }

    /// Stops where a problem is, unless nothing was done before it.
    fn fail(&mut self, at: (usize, Offset), problem: Problem) -> Result<(), Problem> {
        if self.replayed + self.refused == 0 {
            return Err(problem);
        }
        self.stop(at);
        self.stopped_by = Some(problem.code());
        Ok(())
    }

    fn refuse(&mut self, ((index, partition, offset), code, field, message): Refused) {
        self.refused += 1;
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(json!({
                "index": index,
                "partition": partition,
                "offset": offset,
                "code": code,
                "field": field,
                "message": message,
            }));
        }
    }
}

/// Sends what was refused again. Needs the right to write to the topic, and to read its quarantine and
/// write to it; to try takes no write to the quarantine.
pub(in crate::http) async fn replay(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    query: Result<Query<ReplayQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let deadline = answer_by();
    let place = Place::of(&api, &caller, &name)?;
    auth::may_write_events(&api, &caller, &place.topic)?;
    let bad = |error: QueryRejection| Problem::new("bad_request", error.body_text());
    let Query(query) = query.map_err(bad)?;
    if !query.dry_run {
        // What is refused again goes to its end.
        caller.check(Operation::Write, Resource::Topic(place.kept_in.name.as_str()))?;
    }
    check_partition(&place, query.partition)?;
    if query.until.is_some() && query.partition.is_none() {
        return Err(Problem::new("bad_request", "until is an offset: say of which partition"));
    }
    if let Some(problem) = api.not_ready() {
        return Err(problem);
    }
    let topic = api.topics.get(&place.topic).ok_or_else(|| unknown_topic(&place.topic))?;
    let count = place.kept_in.partitions.len();
    let indexes = query.partition.map_or(0..count, |partition| partition..partition + 1);
    let _turn = turn(&api).await?;
    // Before anything is sent: what is refused again goes behind these ends.
    let ends = api.ends_of(&place.kept_in);
    let mut done = Done::default();
    for index in indexes {
        let end = i32::try_from(index).ok().and_then(|index| ends.get(&index).copied());
        let end = end.unwrap_or(0).min(query.until.unwrap_or(Offset::MAX));
        let part = Part { api: &api, place: &place, topic: &topic, index, end, deadline };
        part.replay(query.dry_run, &mut done).await?;
        if done.next.is_some() {
            break;
        }
    }
    let (replayed, by) = (done.replayed, caller.0.name());
    if !query.dry_run && replayed > 0 {
        tracing::info!(
            topic = place.topic,
            replayed,
            refused = done.refused,
            by,
            "quarantine replayed"
        );
    }
    let mut answer = json!({
        "topic": place.topic,
        "name": place.kept_in.name,
        "dry_run": query.dry_run,
        "replayed": replayed,
        "refused": done.refused,
        "errors": done.errors,
    });
    if let Some(next) = done.next {
        answer["next"] = next.into();
    }
    if let Some(code) = done.stopped_by {
        answer["stopped_by"] = code.into();
    }
    Ok(Json(answer))
}

/// How far a partition is.
struct At {
    /// The last token: what is before it was sent.
    token: Offset,
    /// The first record that was not looked at.
    next: Offset,
}

/// A partition of a quarantine, up to an offset.
struct Part<'a> {
    api: &'a Api,
    place: &'a Place,
    topic: &'a Arc<Topic>,
    index: usize,
    end: Offset,
    deadline: Instant,
}

impl Part<'_> {
    async fn replay(&self, dry_run: bool, done: &mut Done) -> Result<(), Problem> {
        let id = self.place.kept_in.partitions[self.index];
        let token = match self.place.replayed(self.api, self.index).await {
            Ok(token) => token,
            Err(problem) => return done.fail((self.index, 0), problem),
        };
        let start = self.api.log.partition(id).map_or(0, |it| it.log_start_offset());
        let mut at = At { token, next: token.max(start) };
        while at.next < self.end {
            let from = at.next;
            if Instant::now() + APPEND_MAX > self.deadline {
                done.stop((self.index, from));
                return Ok(());
            }
            if let Err(problem) = self.step(dry_run, &mut at, done).await {
                return done.fail((self.index, from), problem);
            }
        }
        Ok(())
    }

    /// Looks at the records that follow, and sends their events.
    async fn step(&self, dry_run: bool, at: &mut At, done: &mut Done) -> Result<(), Problem> {
        let id = self.place.kept_in.partitions[self.index];
        let slice = read(self.api, id, at.next..self.end, RECORDS_MAX).await?;
        let numbered: Vec<(usize, Kept)> = (done.looked..).zip(slice.kept).collect();
        let looked = numbered.len();
        let (whole, cut): (Vec<_>, Vec<_>) =
            numbered.into_iter().partition(|(_, kept)| kept.event().is_some());
        let place = |(number, kept): &(usize, Kept)| (*number, self.index, kept.offset);
        let too_large = |cut| {
            let message = "only the beginning of the event was kept: it stays where it is";
            (place(cut), "too_large", None, message.to_owned())
        };
        let mut refused: Vec<Refused> = cut.iter().map(too_large).collect();
        if !whole.is_empty() {
            let places: Vec<(usize, usize, Offset)> = whole.iter().map(place).collect();
            let size_bytes = whole.iter().map(|(_, kept)| kept.size_bytes()).sum();
            let again = || Ok(Again::new(whole.into_iter().map(|(_, kept)| kept).collect()));
            let again = off_worker(size_bytes, again).await?;
            let (sent, errors) = if dry_run {
                let errors = self.api.engine.would_refuse(self.topic, again).await?;
                (places.len() - errors.len(), errors)
            } else {
                let sent = self.send(again, (at.token, slice.next)).await?;
                at.token = slice.next;
                sent
            };
            done.replayed += sent;
            let told =
                |error: EventError| (places[error.index], error.code, error.field, error.message);
            refused.extend(errors.into_iter().map(told));
        }
        refused.sort_by_key(|(at, ..)| *at);
        done.looked += looked;
        refused.into_iter().for_each(|refused| done.refuse(refused));
        at.next = slice.next;
        Ok(())
    }

    /// Sends events that are followed by the offset `to`, if all before `from` were sent and nothing
    /// behind it.
    async fn send(
        &self,
        again: Again,
        (from, to): (Offset, Offset),
    ) -> Result<(usize, Vec<EventError>), Problem> {
        let number = |offset: Offset| u64::try_from(offset).unwrap_or(0);
        let name = channel_of(self.place.kept_in.id, self.index);
        let channel = Channel { name, token: number(to), after: Some(number(from)) };
        let terms = Terms {
            on_error: OnError::Quarantine,
            once: Once::Channel(channel),
            ..Terms::new(self.deadline)
        };
        let share = self.api.engine.memory().share();
        let topic = Arc::clone(self.topic);
        let stored = self.api.engine.append_to(topic, again, share, terms).await;
        let stored = stored.map_err(|problem| self.api.engine.told(&self.place.topic, problem))?;
        Ok((stored.accepted + stored.duplicates, stored.errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_refused_again_and_the_others_are_visited() {
        let kept = |text: &str| Kept::of(0, 0, json!({ "event": text }).to_string().as_bytes());
        let again = Again::new(vec![kept("{\"a\":1}"), kept("{"), kept("[2]"), kept("1 2")]);
        let refused: Vec<(usize, &str)> =
            again.refused().iter().map(|error| (error.index, error.code)).collect();
        assert_eq!(refused, [(1, "invalid_json"), (3, "invalid_json")]);
        assert_eq!(again.raw(&again.refused()[0]), b"{");
        let mut seen = Vec::new();
        again.visit(&mut |event| seen.push(event.unwrap().index));
        assert_eq!(seen, [0, 2]);
    }

    #[test]
    fn a_problem_after_something_was_done_is_no_failure() {
        let problem = || Problem::new("overloaded", "x");
        let mut done = Done::default();
        assert_eq!(done.fail((1, 5), problem()).unwrap_err().code(), "overloaded");
        assert_eq!((&done.next, done.stopped_by), (&None, None));
        done.refused = 1;
        assert!(done.fail((1, 5), problem()).is_ok());
        assert_eq!((done.next.as_deref(), done.stopped_by), (Some("1-5"), Some("overloaded")));
    }

    #[test]
    fn an_answer_lists_a_hundred_refused_events_and_counts_all() {
        let mut done = Done::default();
        for number in 0..150 {
            done.refuse(((number + 5, 1, 7), "invalid_json", None, "x".to_owned()));
        }
        assert_eq!((done.refused, done.errors.len()), (150, ERRORS_MAX));
        let first = &done.errors[0];
        let place = (&first["index"], &first["partition"], &first["offset"]);
        assert_eq!(place, (&json!(5), &json!(1), &json!(7)));
    }
}
