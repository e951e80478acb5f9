//! Who writes the table of a sink: a principal with one right, as which nobody can log in. Pure.
//!
//! What a token may do is said by `auth::rule`, and so is what this may. It follows from the sink
//! alone: nothing of it is stored, and no secret exists.

use crate::auth::Operation;
use crate::auth::Resource;
use crate::auth::rule::Rules;
use crate::sink::Sink;

/// The principal of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Another one whenever the sink was switched on or undeleted. No token has such an id or name:
    /// they have no colon.
    pub id: String,
    /// For people and logs.
    pub name: String,
    /// To write to the table that the sink names.
    pub rules: Rules,
}

/// What ids and names of such principals begin with.
const PREFIX: &str = "sink:";

impl Service {
    /// The one of a sink of the topic.
    pub fn of(topic: &str, sink: &Sink) -> Self {
        let table = sink.wish.table.display();
        Self {
            id: format!("{PREFIX}{}:{}", sink.uid.0.simple(), sink.on_since),
            name: format!("{PREFIX}{topic}/{}", sink.id),
            rules: Rules::one(Operation::Write, Resource::Table(&table)),
        }
    }

    /// Checks the right to write to a table of that namespace and name.
    ///
    /// # Errors
    /// What is missing, for people.
    pub(super) fn check(&self, namespace: &str, name: &str) -> Result<(), String> {
        let table = format!("{namespace}.{name}");
        if self.rules.allow(Operation::Write, Resource::Table(&table)) {
            return Ok(());
        }
        let (own, rules) = (&self.name, self.rules.texts().join(" "));
        Err(format!("{own} may not write to {table}: it has the right {rules} and no other"))
    }
}
