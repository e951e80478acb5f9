//! What is different for the events of a stranger, who sends no token to a public topic: they go to
//! that very topic, have no table commit begin, and their ids are their own.

use crate::http::auth::{self, Caller};
use crate::http::ingest::event::{Ack, Terms};
use crate::http::ingest::keys;
use crate::http::problem::Problem;
use crate::topic::Topic;
use crate::types::TopicId;

impl Terms {
    /// The same, for a request of `caller`.
    ///
    /// # Errors
    /// `forbidden` for what a stranger may not ask for.
    pub(crate) fn sent_by(self, caller: &Caller) -> Result<Self, Problem> {
        let stranger = caller.0.as_stranger().cloned();
        if stranger.is_some() && matches!(self.ack, Ack::Committed(_)) {
            let detail = "ack=committed needs a token: it has a commit of the table begin";
            return Err(Problem::new("forbidden", detail));
        }
        Ok(Self { stranger, ..self })
    }

    /// Keeps a stranger out of another topic that has the name by now, and of one that would be
    /// made.
    ///
    /// # Errors
    /// `missing_token`.
    pub(super) fn check_topic(&self, known: Option<&Topic>) -> Result<(), Problem> {
        match &self.stranger {
            Some(stranger) if known.is_none_or(|topic| topic.id != stranger.topic) => {
                Err(auth::missing())
            }
            _ => Ok(()),
        }
    }

    /// What the id of an event of this request is known by: ids of a stranger are no others', lest
    /// whoever likes takes them first.
    pub(super) fn event_id(&self) -> impl Fn(TopicId, &[u8]) -> u128 + use<> {
        let origin = self.stranger.as_ref().map(|stranger| stranger.origin.clone());
        move |topic, id| match &origin {
            None => keys::hash(&[topic.0.as_bytes(), id]),
            Some(origin) => keys::hash(&[topic.0.as_bytes(), origin.as_bytes(), id]),
        }
    }
}
