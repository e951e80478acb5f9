//! Events in, durable answers out: the engine that every ingest route uses, and the native route.
//!
//! Owns: bodies under limits (`body`), splitting JSON (`split`), the engine (`engine`). Events
//! become record batches on the same log as Kafka's; all batches of a request are one chain:
//! atomic (rules 7.1).
//!
//! Reading order: `event` (what routes hand in and get back), `engine`, `batches`, `confirm`; `once`,
//! `keys`, `event_ids` and `claim` (what counts once); `rate` (how much may come); `native` with `request`, `identity`, `place` and `cloudevents` as one route;
//! `body` and `split` (with `hint`) for routes of their own.

mod acks;
mod batches;
pub(crate) mod body;
#[cfg(test)]
mod body_tests;
mod channel;
mod chores;
mod claim;
mod cloudevents;
mod confirm;
pub(super) mod cors;
mod counts;
pub(crate) mod engine;
pub(crate) mod event;
mod event_ids;
mod hint;
pub(crate) mod identity;
pub(crate) mod keys;
#[cfg(test)]
mod late_tests;
mod native;
mod new_ids;
mod once;
mod penalty;
mod place;
pub(crate) mod prefer;
pub(super) mod quarantine;
mod quotas;
pub(crate) mod rate;
pub(crate) mod request;
mod senders;
pub(crate) mod shared;
pub(crate) mod split;
#[cfg(test)]
mod split_tests;
mod stranger;
pub(super) mod tinybird;
mod topic_fields;
mod traced;
mod urlencoded;

use std::time::Duration;

pub(super) use acks::ack;
pub(super) use channel::{channel, channel_of};
pub(super) use cors::{AROUND_TOPIC, Page, ROUTE};
pub(crate) use engine::Engine;
pub use event_ids::IdLimits;
pub use keys::OnceLimits;
pub(super) use native::{events, events_of_path, take};
pub(super) use penalty::PenaltyBox;

/// Longest time from request to answer: it must come before senders give up, which most do after
/// 30 seconds.
const ANSWER_MAX: Duration = Duration::from_secs(25);
