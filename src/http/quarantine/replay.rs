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
use super::{Place, RECORDS_MAX, check_partition, turn};
use crate::http::auth::{self, Caller};
use crate::http::ingest::event::{Event, OnError, Once, Source, Terms, answer_by};
use crate::http::ingest::keys::Channel;
use crate::http::ingest::quarantine::channel_of;
use crate::http::problem::{EventError, Problem};
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
}

impl Done {
    fn refuse(&mut self, at: (usize, usize, Offset), error: (&str, Option<&str>, &str)) {
        self.refused += 1;
        if self.errors.len() < ERRORS_MAX {
            let ((index, partition, offset), (code, field, message)) = (at, error);
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

/// Sends what was refused again. Needs the right to write to the topic and to read its quarantine.
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
    Ok(Json(answer))
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
        let mut token = self.place.replayed(self.api, self.index).await?;
        let start = self.api.log.partition(id).map_or(0, |it| it.log_start_offset());
        let mut at = token.max(start);
        while at < self.end {
            if Instant::now() + APPEND_MAX > self.deadline {
                done.next = Some(format!("{}-{at}", self.index));
                return Ok(());
            }
            let slice = read(self.api, id, at..self.end, RECORDS_MAX).await?;
            at = slice.next;
            let numbered: Vec<(usize, Kept)> = (done.looked..).zip(slice.kept).collect();
            done.looked += numbered.len();
            let (whole, cut): (Vec<_>, Vec<_>) =
                numbered.into_iter().partition(|(_, kept)| kept.event().is_some());
            for (number, kept) in cut {
                let message = "only the beginning of the event was kept: it stays where it is";
                let at = (number, self.index, kept.offset);
                done.refuse(at, ("too_large", None, message));
            }
            if whole.is_empty() {
                continue;
            }
            let places: Vec<(usize, usize, Offset)> =
                whole.iter().map(|(number, kept)| (*number, self.index, kept.offset)).collect();
            let again = Again::new(whole.into_iter().map(|(_, kept)| kept).collect());
            let (sent, errors) = if dry_run {
                let refused = self.api.engine.would_refuse(self.topic, again).await?;
                (places.len() - refused.len(), refused)
            } else {
                let sent = self.send(again, (token, at)).await?;
                token = at;
                sent
            };
            done.replayed += sent;
            for error in errors {
                let why = (error.code, error.field.as_deref(), error.message.as_str());
                done.refuse(places[error.index], why);
            }
        }
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
    fn an_answer_lists_a_hundred_refused_events_and_counts_all() {
        let mut done = Done::default();
        for number in 0..150 {
            done.refuse((number + 5, 1, 7), ("invalid_json", None, "x"));
        }
        assert_eq!((done.refused, done.errors.len()), (150, ERRORS_MAX));
        let first = &done.errors[0];
        let place = (&first["index"], &first["partition"], &first["offset"]);
        assert_eq!(place, (&json!(5), &json!(1), &json!(7)));
    }
}
