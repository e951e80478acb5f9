//! Streams that take events without a token. A stream is a door to any table, so it does not open
//! one by itself: the topic behind it must be there, and be public itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{HeaderMap, Uri};
use url::form_urlencoded;

use super::manage;
use super::name::TableName;
use crate::auth::{Kind, Operation, Resource};
use crate::http::Api;
use crate::http::auth::{self, Caller};
use crate::http::ingest::event::Terms;
use crate::http::problem::Problem;
use crate::topic::{Topic, public};

/// The open topic that a request of these headers goes to, through a stream that is public; the
/// namespace only where the path has it.
pub(in crate::http) fn open_topic(
    api: &Api,
    (namespace, stream): (Option<&str>, &str),
    headers: &HeaderMap,
    uri: &Uri,
) -> Option<Arc<Topic>> {
    let stream = api.doors.streams.get(stream)?;
    let is_behind = namespace.is_none_or(|namespace| namespace == stream.namespace);
    if !is_behind || !public::is_set(&stream.options) {
        return None;
    }
    let mut pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let parameter = pairs.find(|(name, _)| name == "table").map(|(_, value)| value);
    let table = TableName::of(headers, parameter.as_deref()).ok()?;
    let topic = api.topics.get(&table.topic(&stream.name))?;
    let leads_there = api.options.catalog_names.contains(&table.catalog)
        && topic.contract_table().as_ref() == Some(&table.short());
    (leads_there && api.topics.is_open(&topic)).then_some(topic)
}

/// Keeps a stranger out of what was closed, terminated or deleted while the body came.
///
/// # Errors
/// `missing_token`.
pub(super) fn check_again(
    api: &Api,
    terms: &Terms,
    stream: &str,
    topic: &str,
) -> Result<(), Problem> {
    if terms.stranger.is_none() {
        return Ok(());
    }
    let stream = api.doors.streams.get(stream);
    if !stream.is_some_and(|stream| stream.running && public::is_set(&stream.options)) {
        return Err(auth::missing());
    }
    terms.check_topic(&api.topics, api.topics.get(topic).as_deref())
}

/// Whoever opens a stream, by the option or by the rate that it lacked, must be allowed to send to it,
/// and to write to every table, since senders name them, and to every topic behind it, since each is
/// open by its own name too.
///
/// # Errors
/// `forbidden`, `invalid_stream`.
pub(super) fn check_opener(
    api: &Api,
    caller: &Caller,
    stream: &str,
    (old, new): (Option<&BTreeMap<String, String>>, &BTreeMap<String, String>),
) -> Result<(), Problem> {
    let old = old.and_then(|old| manage::resolved(api, old).ok());
    let new = manage::resolved(api, new).map_err(|error| manage::invalid(error.to_string()))?;
    if !api.topics.is_opened(old.as_ref(), &new) {
        return Ok(());
    }
    caller.check(Operation::Write, Resource::Stream(stream))?;
    let topics = format!("{stream}.");
    let lacks = |kind, beginning: &str| !caller.0.may_every(Operation::Write, kind, beginning);
    let why = if lacks(Kind::Table, "") {
        caller.refusal_text(Operation::Write, Resource::Table("*"))
    } else if lacks(Kind::Topic, &topics) {
        caller.refusal_text(Operation::Write, Resource::Topic(&format!("{topics}*")))
    } else {
        return Ok(());
    };
    let detail = format!("a public stream leads to any table (topic.public), and {why}");
    Err(Problem::new("forbidden", detail))
}
