//! WHO MAY DO WHAT: tokens, principals and rules, one model for Kafka and HTTP.
//!
//! Owns: tokens as state of the store, their check, what a principal may do. Does not own: where
//! credentials stand in a request and how a refusal is told (`kafka`, `http`).
//!
//! Authentication is in force from the first token on that was made in a data directory, also when
//! all of them are revoked; `auth.anonymous = allow` lets requests without credentials do everything
//! all the same. Credentials that are sent are always checked. A check needs no disk: all tokens
//! are in memory, and access tokens are checked by their signature. So are JWTs of an issuer, for
//! whose keys alone somebody may have to wait ([`Auth::prepare`]).
//!
//! Reading order: [`rule`] (what is allowed), `token` (texts), `registry` (layout), then here;
//! `oidc` (whom others vouch for), `webhook`.

mod oidc;
mod principal;
mod registry;
pub mod rule;
pub(crate) mod token;
pub mod webhook;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use subtle::ConstantTimeEq;

use crate::config;
use crate::runtime::{Clock, Tasks};
use crate::store::{self, Change, Store};
use crate::types::{OwnRate, RATE_REQUESTS_MAX};

pub use oidc::Identity;
pub use principal::{Principal, Stranger};
pub use registry::{State, Token};
pub use rule::{Kind, Operation, Resource};

use oidc::Oidc;
use registry::{Proof, Registry};
use rule::{RuleError, Rules};
use token::{Key, Parsed};
use webhook::Webhooks;

/// Most tokens that are kept, those that are over too; the oldest of these make room.
pub const TOKENS_MAX: usize = 10_000;
/// Longest name of a token, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Why a credential is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no token of this server, or was revoked.
    #[error("the token is unknown here or was revoked")]
    Invalid,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// There is none, and by now one is needed.
    #[error("a token is needed since the first one was made")]
    Missing,
    /// It is a JWT that does not count, for this reason.
    #[error("the JWT is refused: {0}")]
    Jwt(&'static str),
    /// Others vouch for whoever sends it, and nobody gave them rights here.
    #[error(
        "the {0} is good, but its subject has no rights here: make a token for it (floe token create)"
    )]
    NoRights(&'static str),
    /// It is a JWT, and the keys of its issuer cannot be had.
    #[error("the keys of the issuer (auth.oidc.issuer) cannot be fetched at the moment")]
    Unavailable,
}

impl Refusal {
    /// A short fixed name, for answers and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Invalid | Self::Jwt(_) => "invalid_token",
            Self::Expired => "expired_token",
            Self::Missing => "missing_token",
            Self::NoRights(_) => "forbidden",
            Self::Unavailable => "issuer_unavailable",
        }
    }
}

/// Why tokens cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name has other characters, or too many or none.
    #[error(
        "name {0:?} is refused: 1 to {NAME_BYTES_MAX} of letters, digits and . _ - @ / are allowed"
    )]
    InvalidName(String),
    /// A rule is refused.
    #[error(transparent)]
    InvalidRule(#[from] RuleError),
    /// The subject cannot be one.
    #[error(
        "the {0} is refused: 1 to 512 bytes of text without space around it are allowed, and one of \
         subject and certificate"
    )]
    InvalidIdentity(&'static str),
    /// Whoever others vouch for may do only what is said.
    #[error("a token for a {0} needs a rule at least: allow all for everything")]
    NoRule(&'static str),
    /// The token would be over at once, or end after the end of time.
    #[error("the time until a token expires must be longer than nothing and at most 100 years")]
    InvalidExpiry,
    /// More requests in a second than can be counted.
    #[error(
        "a token may send at most {RATE_REQUESTS_MAX} requests in a second; 0 is without limit"
    )]
    InvalidRate,
    /// A token of that name is in force.
    #[error("a token {0:?} exists already; revoke it first, or take another name")]
    Exists(String),
    /// No token has that name or id.
    #[error("there is no token {0:?}")]
    Unknown(String),
    /// All places are taken by tokens that are in force.
    #[error("there are {TOKENS_MAX} tokens already; revoke some")]
    TooMany,
    /// The state could not be written.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// A wish for a token.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// What people call it.
    pub name: String,
    /// Rules; none is everything.
    pub allow: Vec<String>,
    /// How long it holds; none is for ever.
    pub expires_in: Option<Duration>,
    /// Who has it by the word of others; none is whoever has its secret.
    pub identity: Option<Identity>,
    /// What may be sent with it in a second over HTTP, where that is its own.
    pub rate: OwnRate,
}

/// A token that was made, with what is told only once.
#[derive(Debug)]
pub struct Made {
    /// The token.
    pub token: Arc<Token>,
    /// What its owner sends; empty for whom others vouch for.
    pub text: String,
    /// It is the first of the data directory and put authentication in force.
    pub enforces: bool,
}

/// A token that passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// What is sent.
    pub text: String,
    /// How long it holds, in seconds.
    pub expires_in_s: i64,
}

/// All tokens; cheap to clone.
#[derive(Clone)]
pub struct Auth {
    inner: Arc<Inner>,
    webhooks: Webhooks,
    oidc: Option<Oidc>,
}

struct Inner {
    store: Store,
    clock: Clock,
    tasks: Tasks,
    /// Requests without credentials may do everything whatever tokens there are.
    anonymous_allowed: bool,
    /// How long an access token holds, seconds.
    access_lifetime_s: i64,
    /// A token was made once.
    is_set_up: AtomicBool,
    /// Written only while `changes` is held, after the change is durable; never held across a wait.
    registry: RwLock<Registry>,
    /// Serialises all changes; held until they are durable.
    changes: tokio::sync::Mutex<()>,
}

impl Auth {
    /// Reads all tokens from `store`. Blocks. Access tokens hold for `access_lifetime`, in whole
    /// seconds and one at least.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(
        store: Store,
        clock: Clock,
        tasks: Tasks,
        anonymous_allowed: bool,
        access_lifetime: Duration,
    ) -> Result<Self, Error> {
        let registry = Registry::load(&store)?;
        let webhooks = Webhooks::open(store.clone(), clock.clone(), tasks.clone())?;
        let is_set_up = AtomicBool::new(registry.key().is_some());
        let (registry, changes) = (RwLock::new(registry), tokio::sync::Mutex::default());
        let access_lifetime_s = i64::try_from(access_lifetime.as_secs().max(1)).unwrap_or(i64::MAX);
        let inner = Inner {
            store,
            clock,
            tasks,
            anonymous_allowed,
            access_lifetime_s,
            is_set_up,
            registry,
            changes,
        };
        Ok(Self { inner: Arc::new(inner), webhooks, oidc: None })
    }

    /// The same, where JWTs of an issuer count too; its keys are fetched from now on.
    #[must_use]
    pub fn with_issuer(self, options: config::Oidc) -> Self {
        let oidc = Some(Oidc::start(options, &self.inner.tasks));
        Self { oidc, ..self }
    }

    /// Senders that sign what they send.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// True if a token was ever made in this data directory.
    pub fn is_set_up(&self) -> bool {
        self.inner.is_set_up.load(Ordering::Acquire)
    }

    /// True if a request without credentials is refused.
    pub fn is_required(&self) -> bool {
        self.is_set_up() && !self.inner.anonymous_allowed
    }

    /// Who sends a request without credentials; none if such are refused.
    pub fn anonymous(&self) -> Option<Principal> {
        (!self.is_required()).then(Principal::anonymous)
    }

    /// Waits, bounded, for what [`Auth::authenticate`] needs to know of this credential. At once for
    /// all but a JWT whose key is not known yet.
    pub async fn prepare(&self, credential: &str) {
        if let Some(oidc) = &self.oidc
            && oidc::is_jwt(credential)
        {
            // Boxed: few credentials are one, and all requests would have room for it.
            Box::pin(oidc.prepare(credential)).await;
        }
    }

    /// Who has this client certificate, which was checked; `subject` as RFC 4514 writes it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn certified(&self, subject: &str) -> Result<Principal, Refusal> {
        let identity = Identity::Certificate(subject.to_owned());
        let now_ms = self.inner.clock.now_ms();
        let token = self.inner.registry.read().of(&identity).cloned();
        let principal = Principal::of(token.ok_or(Refusal::NoRights(identity.kind_of_proof()))?);
        principal.check(now_ms)?;
        principal.used(now_ms);
        Ok(principal)
    }

    /// Who sends this token, access token or JWT. No disk, no wait.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn authenticate(&self, credential: &str) -> Result<Principal, Refusal> {
        let now_ms = self.inner.clock.now_ms();
        let principal = match &self.oidc {
            Some(oidc) if oidc::is_jwt(credential) => {
                let vouched = oidc.check(credential, now_ms)?;
                let token = self.inner.registry.read().of(&vouched.identity).cloned();
                let no_rights = Refusal::NoRights(vouched.identity.kind_of_proof());
                Principal::passing(token.ok_or(no_rights)?, vouched.expires_ms)
            }
            _ => self.owner(credential)?,
        };
        principal.check(now_ms)?;
        principal.used(now_ms);
        Ok(principal)
    }

    /// Whose token or access token it is, over or not.
    fn owner(&self, credential: &str) -> Result<Principal, Refusal> {
        let parsed = token::parse(credential).ok_or(Refusal::Invalid)?;
        let registry = self.inner.registry.read();
        Ok(match parsed {
            Parsed::Token { id } => {
                let token = registry.get(id).ok_or(Refusal::Invalid)?;
                let is_same = match &token.proof {
                    Proof::Secret(hash) => bool::from(hash.ct_eq(&token::hash(credential))),
                    Proof::Identity(_) => false,
                };
                Principal::of(is_same.then(|| Arc::clone(token)).ok_or(Refusal::Invalid)?)
            }
            Parsed::Access { id, expires_s, signed, mac } => {
                let is_ours = registry.key().is_some_and(|key| key.verifies(signed, &mac));
                let token = registry.get(id).filter(|_| is_ours).ok_or(Refusal::Invalid)?;
                Principal::passing(Arc::clone(token), expires_s.saturating_mul(1_000))
            }
        })
    }

    /// True if `principal` may go on: its token is neither revoked nor over, and whoever has none
    /// needs none.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn recheck(&self, principal: &Principal) -> Result<(), Refusal> {
        if principal.is_anybody() && self.is_required() {
            return Err(Refusal::Missing);
        }
        principal.check(self.inner.clock.now_ms())
    }

    /// An access token for the token of `principal`, which ends with it. None for the anonymous, and
    /// for who has an access token only: whoever got hold of one could renew it for ever.
    pub fn issue(&self, principal: &Principal) -> Option<Access> {
        let now_s = self.inner.clock.now_ms() / 1_000;
        let token = principal.token().filter(|_| !principal.is_passing())?;
        let end_s = now_s.saturating_add(self.inner.access_lifetime_s);
        let end_s = token.expires_ms.map_or(end_s, |at| end_s.min(at / 1_000));
        let registry = self.inner.registry.read();
        let text = registry.key()?.sign(&token.id, end_s);
        Some(Access { text, expires_in_s: end_s - now_s })
    }

    /// All tokens, those that are over too, oldest first.
    pub fn list(&self) -> Vec<Arc<Token>> {
        self.inner.registry.read().list()
    }

    /// Wall-clock time as tokens see it, milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }

    /// Makes a token; durable when it returns.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create(&self, new: NewToken) -> Result<Made, Error> {
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.create(new).await };
        store::finish(&self.inner.tasks, "token-change", change).await
    }

    /// Revokes the token of this id, or else the one in force of this name; durable and in force
    /// when it returns, for connections that are open too.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Store`].
    pub async fn revoke(&self, name_or_id: &str) -> Result<Arc<Token>, Error> {
        let wanted = name_or_id.to_owned();
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.revoke(&wanted).await };
        store::finish(&self.inner.tasks, "token-change", change).await
    }
}

impl Inner {
    async fn create(&self, new: NewToken) -> Result<Made, Error> {
        let NewToken { name, allow, expires_in, identity, rate } = new;
        check_name(&name)?;
        if rate.requests.is_some_and(|requests| requests > RATE_REQUESTS_MAX) {
            return Err(Error::InvalidRate);
        }
        let rules = Rules::parse(&allow)?;
        if let Some(identity) = &identity {
            identity.check()?;
            if allow.is_empty() {
                return Err(Error::NoRule(identity.kind()));
            }
        }
        let _alone = self.changes.lock().await;
        let now_ms = self.clock.now_ms();
        let expires_ms = expires_in.map(|time| expiry(now_ms, time)).transpose()?;
        let tokens = self.registry.read().list();
        let is_active = |token: &&Arc<Token>| token.state(now_ms) == State::Active;
        if tokens.iter().any(|token| token.id == name)
            || tokens.iter().filter(is_active).any(|token| token.name == name)
        {
            return Err(Error::Exists(name));
        }
        let of_same = |token: &&Arc<Token>| {
            token.identity().is_some_and(|own| Some(own) == identity.as_ref())
        };
        if let Some(other) = tokens.iter().filter(is_active).find(of_same) {
            return Err(Error::Exists(other.name.clone()));
        }
        let spare = spare(&tokens, now_ms)?;
        let (id, text) = token::generate();
        let (proof, text) = match identity {
            Some(identity) => (Proof::Identity(identity), String::new()),
            None => (Proof::Secret(token::hash(&text)), text),
        };
        let mut token = Token::new(id, name, proof, rules, now_ms, expires_ms);
        token.rate = rate;
        let token = Arc::new(token);
        let key = self.registry.read().key().is_none().then(Key::generate);
        let mut change = registry::put(Change::new(), &token)?;
        for id in &spare {
            change = registry::forget(change, id);
        }
        if let Some(key) = &key {
            change = registry::put_key(change, key)?;
        }
        self.store.commit(change).await?;
        let enforces = key.is_some() && !self.anonymous_allowed;
        let mut registry = self.registry.write();
        spare.iter().for_each(|id| registry.forget(id));
        registry.put(Arc::clone(&token));
        if let Some(key) = key {
            registry.set_key(key);
        }
        drop(registry);
        self.is_set_up.store(true, Ordering::Release);
        Ok(Made { token, text, enforces })
    }

    async fn revoke(&self, wanted: &str) -> Result<Arc<Token>, Error> {
        let _alone = self.changes.lock().await;
        let now_ms = self.clock.now_ms();
        let by_id = self.registry.read().get(wanted).cloned();
        let token = by_id.or_else(|| {
            let tokens = self.registry.read().list();
            tokens
                .into_iter()
                .find(|token| token.name == wanted && token.state(now_ms) == State::Active)
        });
        let token = token.ok_or_else(|| Error::Unknown(wanted.chars().take(200).collect()))?;
        if token.revoked_ms().is_none() {
            self.store.commit(registry::revoke(&token, now_ms)?).await?;
            self.registry.write().revoke(&token.id, now_ms);
        }
        Ok(token)
    }
}

/// Ids of tokens that must go to make room for one more: the oldest that are over.
fn spare(tokens: &[Arc<Token>], now_ms: i64) -> Result<Vec<String>, Error> {
    let excess = (tokens.len() + 1).saturating_sub(TOKENS_MAX);
    let over = tokens.iter().filter(|token| token.state(now_ms) != State::Active);
    let spare: Vec<String> = over.take(excess).map(|token| token.id.clone()).collect();
    if spare.len() < excess { Err(Error::TooMany) } else { Ok(spare) }
}

fn check_name(name: &str) -> Result<(), Error> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@/".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(legal) {
        return Ok(());
    }
    Err(Error::InvalidName(name.chars().take(NAME_BYTES_MAX + 1).collect()))
}

fn expiry(now_ms: i64, time: Duration) -> Result<i64, Error> {
    const MAX: Duration = Duration::from_secs(100 * 366 * 86_400);
    if time < Duration::from_millis(1) || time > MAX {
        return Err(Error::InvalidExpiry);
    }
    let time_ms = i64::try_from(time.as_millis()).map_err(|_| Error::InvalidExpiry)?;
    now_ms.checked_add(time_ms).ok_or(Error::InvalidExpiry)
}

#[cfg(test)]
mod tests;
