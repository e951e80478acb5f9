//! What both versions do with a request: headers before the body, one append, one receipt for each
//! record.

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;

use crate::http::Api;
use crate::http::auth::{self, Caller};
use crate::http::confluent::data::short;
use crate::http::confluent::failure::Failure;
use crate::http::ingest::body::{self, Share};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::event::{OnError, OwnedEvent, Position, Stored, Terms, answer_by};
use crate::http::ingest::identity::{Identity, REPLAYED};
use crate::http::ingest::keys;
use crate::http::ingest::rate::Sender;
use crate::http::problem::{EventError, Problem};

/// A record, or why it is refused.
pub(super) type Record = Result<OwnedEvent, Failure>;

/// What became of a record. Partition and offset are -1 where they are not known: of a repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Receipt {
    Stored { partition: i64, offset: i64 },
    Failed(Failure),
}

const UNKNOWN: Receipt = Receipt::Stored { partition: -1, offset: -1 };

/// A request whose body is read.
pub(super) struct Inbound {
    pub(super) body: Bytes,
    share: Share,
    terms: Terms,
}

impl Inbound {
    /// Checks what the headers tell, then reads the body. `look` is what the route checks itself.
    ///
    /// # Errors
    /// Problems; nothing was stored.
    pub(super) async fn read<T>(
        api: &Api,
        topic: &str,
        request: Request,
        route: &str,
        look: impl FnOnce(&HeaderMap) -> Result<T, Problem>,
    ) -> Result<(Self, T), Problem> {
        let (parts, body) = request.into_parts();
        let limit = api.options.body_max_bytes;
        let head = head(api, topic, &parts).and_then(|head| Ok((head, look(&parts.headers)?)));
        let (head, looked) = match head {
            Ok(head) => head,
            Err(problem) => return Err(body::refuse(&parts.headers, body, limit, problem).await),
        };
        let (from, to) = (Sender::of(&head.caller), api.engine.to(topic));
        let read = api.engine.read(from, Some(to), &parts.headers, body, limit).await?;
        let Head { mut terms, identity, caller } = head;
        if identity != Identity::None {
            let (body, route) = (read.bytes.clone(), route.to_owned());
            let (strict, principal) = ([u8::from(is_strict(&terms))], caller.key().to_owned());
            let once = move || {
                let parts = [&body, route.as_bytes(), &strict];
                Ok(identity.once(&principal, || keys::hash(&parts)))
            };
            terms.once = off_worker(read.bytes.len(), once).await?;
        }
        Ok((Self { body: read.bytes, share: read.share, terms }, looked))
    }

    /// True if the status tells of failures, and one failure refuses all records.
    pub(super) fn is_strict(&self) -> bool {
        is_strict(&self.terms)
    }
}

fn is_strict(terms: &Terms) -> bool {
    terms.on_error == OnError::Reject
}

/// What is known before the body is read.
struct Head {
    terms: Terms,
    identity: Identity,
    caller: Caller,
}

fn head(api: &Api, topic: &str, parts: &Parts) -> Result<Head, Problem> {
    if let Some(problem) = api.not_ready() {
        return Err(problem.closing());
    }
    let caller = Caller::of(parts)?;
    auth::may_write_events(api, &caller, topic)?;
    let on_error = if wants_strict(parts)? { OnError::Reject } else { OnError::Skip };
    let known = api.engine.topic(topic)?;
    let by_body = api.engine.counts_by_body(topic, known.as_deref());
    let identity = Identity::of(&parts.headers)?.or_body(by_body);
    let terms = Terms { on_error, positions: true, ..Terms::new(answer_by()) };
    Ok(Head { terms, identity, caller })
}

/// `?strict=true`, or `Prefer: handling=strict` (RFC 7240). Other parameters are nothing to us.
fn wants_strict(parts: &Parts) -> Result<bool, Problem> {
    let query = parts.uri.query().unwrap_or_default();
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query)
        .map_err(|error| Problem::new("bad_request", error.to_string()))?;
    match pairs.iter().find(|(name, _)| name == "strict").map(|(_, value)| value.as_str()) {
        Some("true") => return Ok(true),
        Some("false") => return Ok(false),
        Some(value) => {
            let detail = format!("parameter strict={value} is refused: it is true or false");
            return Err(Problem::new("bad_request", detail));
        }
        None => {}
    }
    let prefers = parts.headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut wishes = prefers.flat_map(|value| value.split([',', ';']));
    Ok(wishes.any(|wish| wish.trim().eq_ignore_ascii_case("handling=strict")))
}

/// What became of the records of a request.
#[derive(Debug)]
pub(super) struct Appended {
    /// In order of the records.
    pub(super) receipts: Vec<Receipt>,
    /// True if an earlier request stored them.
    pub(super) replayed: bool,
    strict: bool,
}

impl Appended {
    /// The status of the first failure, if the status is to tell of it.
    pub(super) fn status(&self, usual: StatusCode) -> StatusCode {
        let failed = self.receipts.iter().find_map(|receipt| match receipt {
            Receipt::Failed(failure) => Some(failure.status()),
            Receipt::Stored { .. } => None,
        });
        failed.filter(|_| self.strict).unwrap_or(usual)
    }

    /// Marks the answer to a repeat.
    pub(super) fn mark(&self, response: &mut Response) {
        if self.replayed {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
    }
}

/// Appends the records that are not refused yet; where that is `strict`, all or none.
///
/// # Errors
/// Problems of the request as a whole. Refused records are in the receipts.
pub(super) async fn append(
    api: &Api,
    topic: &str,
    inbound: Inbound,
    records: Vec<Record>,
) -> Result<Appended, Problem> {
    let strict = inbound.is_strict();
    let mut sorted = Sorted::of(records);
    let none_stored = sorted.events.is_empty() || (strict && sorted.first_failure().is_some());
    if none_stored {
        return Ok(Appended { receipts: sorted.not_stored(), replayed: false, strict });
    }
    let events = std::mem::take(&mut sorted.events);
    match api.engine.append(topic, events, inbound.share, inbound.terms).await {
        Ok(stored) => {
            let replayed = stored.duplicate;
            let Stored { errors, positions, .. } = stored;
            Ok(Appended {
                receipts: sorted.stored(&errors, &positions, replayed),
                replayed,
                strict,
            })
        }
        Err(problem) if problem.errors().is_empty() => Err(api.engine.told(topic, problem)),
        Err(problem) => {
            for error in problem.errors() {
                sorted.fail(error.index, Failure::of_event(error));
            }
            Ok(Appended { receipts: sorted.not_stored(), replayed: false, strict })
        }
    }
}

/// Records, those that are refused apart from the others.
#[derive(Default)]
struct Sorted {
    receipts: Vec<Option<Receipt>>,
    events: Vec<OwnedEvent>,
    /// Which record each event is.
    places: Vec<usize>,
}

impl Sorted {
    fn of(records: Vec<Record>) -> Self {
        let mut sorted = Self::default();
        for (at, record) in records.into_iter().enumerate() {
            match record {
                Ok(event) => {
                    sorted.places.push(at);
                    sorted.events.push(event);
                    sorted.receipts.push(None);
                }
                Err(failure) => sorted.receipts.push(Some(Receipt::Failed(failure))),
            }
        }
        sorted
    }

    fn set(&mut self, event: usize, receipt: Receipt) {
        if let Some(at) = self.places.get(event) {
            self.receipts[*at] = Some(receipt);
        }
    }

    fn fail(&mut self, event: usize, failure: Failure) {
        self.set(event, Receipt::Failed(failure));
    }

    fn first_failure(&self) -> Option<(usize, &Failure)> {
        self.receipts.iter().enumerate().find_map(|(at, receipt)| match receipt {
            Some(Receipt::Failed(failure)) => Some((at, failure)),
            _ => None,
        })
    }

    fn finish(self, rest: &Receipt) -> Vec<Receipt> {
        self.receipts.into_iter().map(|receipt| receipt.unwrap_or_else(|| rest.clone())).collect()
    }

    /// Nothing was stored: records that were not refused themselves share the fate of the first
    /// that was.
    fn not_stored(self) -> Vec<Receipt> {
        let first = self.first_failure().map(|(at, failure)| {
            // Each record gets it: one long text would become as many.
            let message = format!("not stored, as record {at}: {}", short(&failure.message));
            Receipt::Failed(Failure::new(failure.code, message))
        });
        self.finish(&first.unwrap_or(UNKNOWN))
    }

    fn stored(
        mut self,
        errors: &[EventError],
        positions: &[Position],
        replayed: bool,
    ) -> Vec<Receipt> {
        for error in errors {
            self.fail(error.index, Failure::of_event(error));
        }
        for position in positions {
            let partition = i64::try_from(position.partition).unwrap_or(-1);
            self.set(position.index, Receipt::Stored { partition, offset: position.offset });
        }
        // Of a repeat it is not remembered which events were refused, nor why.
        let rest = if replayed && !positions.is_empty() {
            Receipt::Failed(Failure::new(422, "refused when it was first sent"))
        } else {
            UNKNOWN
        };
        self.finish(&rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(kinds: &[bool]) -> Vec<Record> {
        let refused = || Failure::new(42_206, "bad");
        kinds.iter().map(|good| good.then(OwnedEvent::default).ok_or_else(refused)).collect()
    }

    fn codes(receipts: &[Receipt]) -> Vec<i64> {
        let code = |receipt: &Receipt| match receipt {
            Receipt::Stored { offset, .. } => *offset,
            Receipt::Failed(failure) => -i64::from(failure.code),
        };
        receipts.iter().map(code).collect()
    }

    #[test]
    fn each_record_has_the_receipt_of_its_event() {
        let mut sorted = Sorted::of(records(&[false, true, true, false, true]));
        assert_eq!((sorted.events.len(), &sorted.places[..]), (3, &[1, 2, 4][..]));
        sorted.fail(1, Failure::new(413, "large"));
        sorted.set(0, Receipt::Stored { partition: 0, offset: 7 });
        sorted.set(2, Receipt::Stored { partition: 0, offset: 8 });
        assert_eq!(codes(&sorted.finish(&UNKNOWN)), [-42_206, 7, -413, -42_206, 8]);
    }

    #[test]
    fn where_nothing_is_stored_all_fail_as_the_first() {
        let receipts = Sorted::of(records(&[true, false])).not_stored();
        assert_eq!(codes(&receipts), [-42_206, -42_206]);
        let Receipt::Failed(failure) = &receipts[0] else { panic!() };
        assert_eq!(failure.message, "not stored, as record 1: bad");
        let long = Failure::new(400, "x".repeat(100_000));
        let all = Sorted::of(vec![Err(long), Ok(OwnedEvent::default())]).not_stored();
        let Receipt::Failed(other) = &all[1] else { panic!() };
        assert!(other.message.len() < 200, "it is told of each record");
        let appended = |strict| Appended { receipts: receipts.clone(), replayed: false, strict };
        assert_eq!(appended(true).status(StatusCode::OK), 422);
        assert_eq!(appended(false).status(StatusCode::OK), 200);
    }

    #[test]
    fn a_repeat_tells_what_is_remembered() {
        let at = Position { index: 1, partition: 2, offset: 5 };
        let some = Sorted::of(records(&[true, true])).stored(&[], &[at], true);
        assert_eq!(codes(&some), [-422, 5]);
        let none = Sorted::of(records(&[true, true])).stored(&[], &[], true);
        assert_eq!(none, [UNKNOWN, UNKNOWN]);
    }
}
