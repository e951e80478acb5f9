//! What it takes to have a topic write to a table of others, and to open it to whoever likes: the
//! right to write to everything that it leads to.
//!
//! Owns: when that is asked. Does not own: who may what (`auth`), which sinks there are (`sink`).

use crate::topic::{Error, Topic, public};
use crate::types::TopicId;

/// Whether who asks may write to what has this name.
pub type MayWriteNamed = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The tables that the sinks of a topic write to, as rules name them.
pub type SinkTables = Box<dyn Fn(TopicId) -> Vec<String> + Send + Sync>;

/// What who asks may write to.
pub struct MayWrite {
    /// Tables, by their namespace and name.
    pub tables: MayWriteNamed,
    /// Topics.
    pub topics: MayWriteNamed,
}

impl MayWrite {
    /// Everything: who asks is the server itself, or somebody who was checked.
    pub fn everything() -> Self {
        Self { tables: Box::new(|_| true), topics: Box::new(|_| true) }
    }
}

/// A topic that begins to write to a table of others, or to take what anybody sends, needs who asks to
/// be allowed to write there. A topic that is made has no sinks.
///
/// # Errors
/// [`Error::TopicForbidden`], [`Error::TableForbidden`].
pub(crate) fn check(
    old: Option<&Topic>,
    new: &Topic,
    may_write: &MayWrite,
    (senders_have_rate, sinks): (bool, Option<&SinkTables>),
) -> Result<(), Error> {
    let is_opened = public::is_opened(old.map(|old| &old.options), &new.options, senders_have_rate);
    if is_opened && !(may_write.topics)(new.name.as_str()) {
        return Err(Error::TopicForbidden(new.name.clone()));
    }
    let contract = new.contract_table();
    let is_bound = contract != old.and_then(Topic::contract_table);
    let mut tables: Vec<String> = contract.into_iter().filter(|_| is_bound || is_opened).collect();
    if let Some(sinks) = sinks.filter(|_| is_opened) {
        tables.extend(sinks(new.id));
    }
    match tables.into_iter().find(|table| !(may_write.tables)(table)) {
        Some(table) => Err(Error::TableForbidden(table)),
        None => Ok(()),
    }
}
