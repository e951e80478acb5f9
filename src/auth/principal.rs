//! Who does something, and what they may do.

use std::sync::Arc;

use crate::auth::Refusal;
use crate::auth::registry::{State, Token};
use crate::auth::rule::{Kind, Operation, Resource};

/// Who sends requests: the owner of a token, or anybody where nobody is asked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Principal {
    /// None is anybody, who may do everything.
    identity: Option<Identity>,
}

#[derive(Debug, Clone)]
struct Identity {
    token: Arc<Token>,
    /// That of the token, or of the access token or JWT if that is over before, milliseconds.
    expires_ms: Option<i64>,
    /// It came with an access token or a JWT.
    is_passing: bool,
}

impl Principal {
    /// Whoever it is: without authentication everybody may do everything.
    pub fn anonymous() -> Self {
        Self { identity: None }
    }

    /// The owner of `token`.
    pub(crate) fn of(token: Arc<Token>) -> Self {
        let expires_ms = token.expires_ms;
        Self { identity: Some(Identity { token, expires_ms, is_passing: false }) }
    }

    /// Whoever has an access token for `token`, or a JWT, that is over at `at_ms`.
    pub(crate) fn passing(token: Arc<Token>, at_ms: i64) -> Self {
        let expires_ms = Some(token.expires_ms.map_or(at_ms, |own| own.min(at_ms)));
        Self { identity: Some(Identity { token, expires_ms, is_passing: true }) }
    }

    /// The token it came with.
    pub fn token(&self) -> Option<&Arc<Token>> {
        self.identity.as_ref().map(|identity| &identity.token)
    }

    /// Its name for logs and answers.
    pub fn name(&self) -> &str {
        self.token().map_or("anonymous", |token| token.name.as_str())
    }

    /// True for whoever sent no credentials.
    pub fn is_anonymous(&self) -> bool {
        self.identity.is_none()
    }

    /// True for whoever came with what passes, and not with the token itself.
    pub fn is_passing(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.is_passing)
    }

    /// True if it may do `operation` to `resource`.
    pub fn may(&self, operation: Operation, resource: Resource<'_>) -> bool {
        self.token().is_none_or(|token| token.rules.allow(operation, resource))
    }

    /// True if it may do `operation` to some name of `kind` that begins with `beginning`.
    pub fn may_some(&self, operation: Operation, kind: Kind, beginning: &str) -> bool {
        self.token().is_none_or(|token| token.rules.allow_some(operation, kind, beginning))
    }

    /// True if it may do `operation` to every name of `kind` that begins with `beginning`.
    pub fn may_every(&self, operation: Operation, kind: Kind, beginning: &str) -> bool {
        self.token().is_none_or(|token| token.rules.allow_every(operation, kind, beginning))
    }

    /// True if it may make the topic `name`; the right to make any is one to the cluster (source:
    /// `KafkaApis.handleTopicMetadataRequest`).
    pub fn may_create_topic(&self, name: &str) -> bool {
        self.may(Operation::Create, Resource::Cluster)
            || self.may(Operation::Create, Resource::Topic(name))
    }

    /// Tells of a table's name whether it may write to it.
    pub fn may_write_tables(&self) -> Box<dyn Fn(&str) -> bool + Send + Sync> {
        let principal = self.clone();
        Box::new(move |table| principal.may(Operation::Write, Resource::Table(table)))
    }

    pub(crate) fn check(&self, now_ms: i64) -> Result<(), Refusal> {
        let Some(identity) = &self.identity else { return Ok(()) };
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
