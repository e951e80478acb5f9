//! Who does something, and what they may do.

use std::sync::Arc;

use crate::auth::Refusal;
use crate::auth::registry::{State, Token};
use crate::auth::rule::{Kind, Operation, Resource, Rules};
use crate::types::TopicId;

/// Who sends requests: the owner of a token, anybody where nobody is asked, or a stranger where
/// others are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Principal {
    who: Who,
}

#[derive(Debug, Clone)]
enum Who {
    /// May do everything.
    Anybody,
    Stranger(Arc<Stranger>),
    Owner(Identity),
}

#[derive(Debug, Clone)]
struct Identity {
    token: Arc<Token>,
    /// That of the token, or of the access token or JWT if that is over before, milliseconds.
    expires_ms: Option<i64>,
    /// It came with an access token or a JWT.
    is_passing: bool,
}

/// Whoever sends no credentials to a server that asks for them, and may send to one public topic all
/// the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Stranger {
    rules: Rules,
    /// The topic.
    pub topic: TopicId,
    /// What tells it from others: where it comes from.
    pub origin: String,
}

impl Principal {
    /// Whoever it is: without authentication everybody may do everything.
    pub fn anonymous() -> Self {
        Self { who: Who::Anybody }
    }

    /// A stranger from `origin`, who may write to `resources`: to `topic`, and what leads there.
    pub fn stranger<const N: usize>(
        origin: String,
        topic: TopicId,
        resources: [Resource<'_>; N],
    ) -> Self {
        let rules = Rules::each(Operation::Write, resources);
        Self { who: Who::Stranger(Arc::new(Stranger { rules, topic, origin })) }
    }

    /// The owner of `token`.
    pub(crate) fn of(token: Arc<Token>) -> Self {
        let expires_ms = token.expires_ms;
        Self { who: Who::Owner(Identity { token, expires_ms, is_passing: false }) }
    }

    /// Whoever has an access token for `token`, or a JWT, that is over at `at_ms`.
    pub(crate) fn passing(token: Arc<Token>, at_ms: i64) -> Self {
        let expires_ms = Some(token.expires_ms.map_or(at_ms, |own| own.min(at_ms)));
        Self { who: Who::Owner(Identity { token, expires_ms, is_passing: true }) }
    }

    /// The token it came with.
    pub fn token(&self) -> Option<&Arc<Token>> {
        self.identity().map(|identity| &identity.token)
    }

    /// The stranger it is.
    pub fn as_stranger(&self) -> Option<&Arc<Stranger>> {
        match &self.who {
            Who::Stranger(stranger) => Some(stranger),
            Who::Anybody | Who::Owner(_) => None,
        }
    }

    fn identity(&self) -> Option<&Identity> {
        match &self.who {
            Who::Owner(identity) => Some(identity),
            Who::Anybody | Who::Stranger(_) => None,
        }
    }

    /// None is everything.
    fn rules(&self) -> Option<&Rules> {
        match &self.who {
            Who::Anybody => None,
            Who::Stranger(stranger) => Some(&stranger.rules),
            Who::Owner(identity) => Some(&identity.token.rules),
        }
    }

    /// Its name for logs and answers.
    pub fn name(&self) -> &str {
        self.token().map_or("anonymous", |token| token.name.as_str())
    }

    /// True for whoever sent no credentials.
    pub fn is_anonymous(&self) -> bool {
        self.identity().is_none()
    }

    /// True for whoever came when nobody was asked.
    pub(crate) fn is_anybody(&self) -> bool {
        matches!(self.who, Who::Anybody)
    }

    /// True for whoever came with what passes, and not with the token itself.
    pub fn is_passing(&self) -> bool {
        self.identity().is_some_and(|identity| identity.is_passing)
    }

    /// True if it may do `operation` to `resource`.
    pub fn may(&self, operation: Operation, resource: Resource<'_>) -> bool {
        self.rules().is_none_or(|rules| rules.allow(operation, resource))
    }

    /// True if it may do `operation` to some name of `kind` that begins with `beginning`.
    pub fn may_some(&self, operation: Operation, kind: Kind, beginning: &str) -> bool {
        self.rules().is_none_or(|rules| rules.allow_some(operation, kind, beginning))
    }

    /// True if it may do `operation` to every name of `kind` that begins with `beginning`.
    pub fn may_every(&self, operation: Operation, kind: Kind, beginning: &str) -> bool {
        self.rules().is_none_or(|rules| rules.allow_every(operation, kind, beginning))
    }

    /// True if it may make the topic `name`; the right to make any is one to the cluster (source:
    /// `KafkaApis.handleTopicMetadataRequest`).
    pub fn may_create_topic(&self, name: &str) -> bool {
        self.may(Operation::Create, Resource::Cluster)
            || self.may(Operation::Create, Resource::Topic(name))
    }

    /// True if it may add to what is there, or make such, and do nothing else.
    pub fn only_writes(&self) -> bool {
        self.rules().is_some_and(Rules::only_write)
    }

    /// Tells of a table's name whether it may write to it.
    pub fn may_write_tables(&self) -> Box<dyn Fn(&str) -> bool + Send + Sync> {
        let principal = self.clone();
        Box::new(move |table| principal.may(Operation::Write, Resource::Table(table)))
    }

    /// Tells of a topic's name whether it may write to it.
    pub fn may_write_topics(&self) -> Box<dyn Fn(&str) -> bool + Send + Sync> {
        let principal = self.clone();
        Box::new(move |topic| principal.may(Operation::Write, Resource::Topic(topic)))
    }

    pub(crate) fn check(&self, now_ms: i64) -> Result<(), Refusal> {
        let Some(identity) = self.identity() else { return Ok(()) };
        let is_over = identity.expires_ms.is_some_and(|at| at <= now_ms);
        match identity.token.state(now_ms) {
            State::Revoked => Err(Refusal::Invalid),
            State::Expired => Err(Refusal::Expired),
            State::Active if is_over => Err(Refusal::Expired),
            State::Active => Ok(()),
        }
    }

    pub(crate) fn used(&self, now_ms: i64) {
        if let Some(token) = self.token() {
            token.used(now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_stranger_may_write_to_one_topic_and_do_nothing_else() {
        let (topic, way) = (Resource::Topic("open"), Resource::Stream("s"));
        let id = TopicId(Uuid::from_u128(7));
        let stranger = Principal::stranger("address:192.0.2.1".to_owned(), id, [topic, way]);
        for resource in [topic, way] {
            assert!(stranger.may(Operation::Write, resource));
            for operation in [Operation::Read, Operation::Create, Operation::Alter] {
                assert!(!stranger.may(operation, resource), "{operation:?} {resource}");
            }
        }
        for other in [Resource::Topic("open.quarantine"), Resource::Table("n.t"), Resource::Cluster]
        {
            assert!(!stranger.may(Operation::Write, other), "{other}");
        }
        assert!(!stranger.may_create_topic("open") && !stranger.may_write_tables()("n.t"));
        assert!(!stranger.may_some(Operation::Read, Kind::Topic, ""));
        assert!(!stranger.may_every(Operation::Write, Kind::Topic, ""));
        assert_eq!((stranger.name(), stranger.is_anonymous()), ("anonymous", true));
        assert!(stranger.token().is_none() && stranger.check(0).is_ok());
    }
}
