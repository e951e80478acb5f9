//! Webhooks: senders that sign what they send instead of showing a token, and such that can do
//! neither and have a secret in their URL. Each may write to one topic, and to nothing else.
//!
//! ```text
//! Token  "w/" name  JSON: v = 1, name, topic, scheme, secret, created_ms; the secret of the scheme
//!                   url is hex of its SHA-256
//! ```
//!
//! A signature is checked by making it again, so the secret itself is kept, where a hash is enough
//! for a token and for a URL. It is told once, and neither listed nor logged.
//!
//! Owns: webhooks as state of the store, the check of a signature. Does not own: where signatures
//! stand in a request (`http`).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::RwLock;
use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::auth::principal::Principal;
use crate::auth::registry::{Proof, Token};
use crate::auth::rule::{RuleError, Rules};
use crate::runtime::{Clock, Tasks};
use crate::store::{self, Change, Space, Store};
use crate::types::TopicName;

/// Most webhooks.
pub const WEBHOOKS_MAX: usize = 1_000;
/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 64;
/// Length of a secret, bytes of its key.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=256;
/// Length of a secret in a URL, in characters, and of one that is made here.
const URL_SECRET_CHARS: std::ops::RangeInclusive<usize> = 32..=128;
const URL_SECRET_MADE_CHARS: usize = 48;
/// What secrets of Standard Webhooks begin with.
const STANDARD_PREFIX: &str = "whsec_";

const VERSION: u32 = 1;
/// Keys of webhooks, beside those of tokens.
pub(super) const PREFIX: &[u8] = b"w/";

/// HMAC-SHA-256 of what was sent.
pub(crate) type Signature = [u8; 32];

/// Who signs how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// GitHub: `X-Hub-Signature-256`.
    Github,
    /// Standard Webhooks: `webhook-signature` over id, time and body.
    Standard,
    /// A secret in the path of the URL.
    Url,
}

impl Scheme {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Standard => "standard",
            Self::Url => "url",
        }
    }

    /// The scheme of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Github, Self::Standard, Self::Url].into_iter().find(|scheme| scheme.as_str() == text)
    }

    /// A new random secret.
    fn generate(self) -> String {
        match self {
            Self::Github => Alphanumeric.sample_string(&mut rand::rng(), 40),
            Self::Standard => {
                format!("{STANDARD_PREFIX}{}", STANDARD.encode(rand::random::<[u8; 32]>()))
            }
            Self::Url => Alphanumeric.sample_string(&mut rand::rng(), URL_SECRET_MADE_CHARS),
        }
    }

    /// What is stored of a secret; none if it is no secret of this scheme.
    fn kept(self, secret: &str) -> Option<String> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let is_url = URL_SECRET_CHARS.contains(&secret.len()) && secret.bytes().all(legal);
        match self {
            Self::Url => is_url.then(|| hex::encode(Sha256::digest(secret))),
            Self::Github | Self::Standard => self.key(secret).map(|_| secret.to_owned()),
        }
    }

    /// The key of what is stored of a secret; none if it is none of this scheme.
    fn key(self, secret: &str) -> Option<Key> {
        let bytes = match self {
            Self::Github => secret.as_bytes().to_vec(),
            Self::Standard => {
                STANDARD.decode(secret.strip_prefix(STANDARD_PREFIX).unwrap_or(secret)).ok()?
            }
            Self::Url => hex::decode(secret).ok()?,
        };
        KEY_BYTES.contains(&bytes.len()).then_some(Key(bytes))
    }
}

/// The key that a sender signs with.
#[derive(Clone)]
struct Key(Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why webhooks cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name has other characters, or too many or none.
    #[error(
        "name {0:?} is refused: 1 to {NAME_BYTES_MAX} of letters, digits and . _ - are allowed"
    )]
    InvalidName(String),
    /// The topic cannot be one.
    #[error("topic {0}")]
    InvalidTopic(String),
    /// The secret is none of its scheme.
    #[error(
        "the secret is refused: for github 16 to 256 bytes of text, for standard those in base64 after \
         whsec_, for url 32 to 128 letters, digits and _ -"
    )]
    InvalidSecret,
    /// There is one of that name.
    #[error("a webhook {0:?} exists already; delete it first, or take another name")]
    Exists(String),
    /// There is none of that name.
    #[error("there is no webhook {0:?}")]
    Unknown(String),
    /// All places are taken.
    #[error("there are {WEBHOOKS_MAX} webhooks already; delete some")]
    TooMany,
    /// The state could not be written.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A wish for a webhook.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// What people call it, and its URL.
    pub name: String,
    /// Where its events go.
    pub topic: String,
    /// Who signs how.
    pub scheme: Scheme,
    /// The secret that both sides know; none is a new one.
    pub secret: Option<String>,
}

/// A webhook as it is durably known.
#[derive(Debug)]
pub struct Webhook {
    /// What people call it, and its URL.
    pub name: String,
    /// Where its events go.
    pub topic: String,
    /// Who signs how.
    pub scheme: Scheme,
    /// When it was made, milliseconds.
    pub created_ms: i64,
    key: Key,
    owner: Arc<Token>,
}

impl Webhook {
    /// Who sends to it: somebody who may write to its topic, and quarantine events of it.
    pub(crate) fn principal(&self) -> Principal {
        Principal::of(Arc::clone(&self.owner))
    }

    /// True if `secret` is the one of its URL; takes the same time whatever differs.
    pub(crate) fn is_secret(&self, secret: &str) -> bool {
        let is_same = Sha256::digest(secret)[..].ct_eq(&self.key.0);
        self.scheme == Scheme::Url && bool::from(is_same)
    }

    /// True if one of `signatures` is that of `parts`, one after another; takes the same time
    /// whichever it is and whatever differs.
    pub(crate) fn verifies(&self, parts: &[&[u8]], signatures: &[Signature]) -> bool {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key.0).expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| mac.update(part));
        signatures.iter().fold(false, |found, signature| {
            let is_same = mac.clone().verify_slice(signature).is_ok();
            found | is_same
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    name: String,
    topic: String,
    scheme: Scheme,
    secret: String,
    created_ms: i64,
}

impl Stored {
    fn webhook(&self) -> Option<Webhook> {
        let key = self.scheme.key(&self.secret)?;
        let (name, topic) = (self.name.clone(), self.topic.clone());
        let owner = owner(&name, &topic, self.created_ms).ok()?;
        let (scheme, created_ms) = (self.scheme, self.created_ms);
        Some(Webhook { name, topic, scheme, created_ms, key, owner })
    }
}

/// A token that nobody can send, with what a webhook may do.
fn owner(name: &str, topic: &str, created_ms: i64) -> Result<Arc<Token>, RuleError> {
    let rules = ["write", "create"].map(|operation| {
        [format!("{operation}:topic:{topic}"), format!("{operation}:topic:{topic}.quarantine")]
    });
    let rules = Rules::parse(rules.as_flattened())?;
    let (name, proof) = (format!("webhook:{name}"), Proof::Secret([0; 32]));
    Ok(Arc::new(Token::new(String::new(), name, proof, rules, created_ms, None)))
}

fn key_of(name: &str) -> Vec<u8> {
    [PREFIX, name.as_bytes()].concat()
}

fn failed(reason: String) -> store::Error {
    store::Error::Failed(reason)
}

/// All webhooks; cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    tasks: Tasks,
    /// Written only while `changes` is held, after the change is durable; never held across a wait.
    by_name: RwLock<BTreeMap<String, Arc<Webhook>>>,
    /// Serialises all changes; held until they are durable.
    changes: tokio::sync::Mutex<()>,
}

impl Webhooks {
    /// Reads all webhooks from `store`. Blocks.
    ///
    /// # Errors
    /// [`store::Error`].
    pub(super) fn open(store: Store, clock: Clock, tasks: Tasks) -> Result<Self, store::Error> {
        let mut by_name = BTreeMap::new();
        for (_, value) in store.scan(Space::Token, PREFIX)? {
            let stored: Stored = serde_json::from_slice(&value)
                .map_err(|error| failed(format!("a stored webhook is malformed: {error}")))?;
            if stored.v != VERSION {
                let (found, name) = (stored.v, &stored.name);
                return Err(failed(format!(
                    "webhook {name:?} is stored in version {found}, this release knows {VERSION}"
                )));
            }
            let webhook = stored.webhook();
            let webhook =
                webhook.ok_or_else(|| failed("a stored webhook has no key".to_owned()))?;
            by_name.insert(webhook.name.clone(), Arc::new(webhook));
        }
        let (by_name, changes) = (RwLock::new(by_name), tokio::sync::Mutex::default());
        Ok(Self { inner: Arc::new(Inner { store, clock, tasks, by_name, changes }) })
    }

    /// The webhook of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Webhook>> {
        self.inner.by_name.read().get(name).cloned()
    }

    /// All webhooks, by name.
    pub fn list(&self) -> Vec<Arc<Webhook>> {
        self.inner.by_name.read().values().cloned().collect()
    }

    /// Makes a webhook; durable when it returns. With its secret, which is told only now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create(&self, new: NewWebhook) -> Result<(Arc<Webhook>, String), Error> {
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.create(new).await };
        store::finish(&self.inner.tasks, "webhook-change", change).await
    }

    /// Gives a webhook a new secret, which is told only now; the old one ends at once.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::InvalidSecret`], [`Error::Store`].
    pub async fn rotate(
        &self,
        name: &str,
        secret: Option<String>,
    ) -> Result<(Arc<Webhook>, String), Error> {
        let (name, inner) = (name.to_owned(), Arc::clone(&self.inner));
        let change = async move { inner.rotate(&name, secret).await };
        store::finish(&self.inner.tasks, "webhook-change", change).await
    }

    /// Forgets a webhook; durable and in force when it returns.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Store`].
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.delete(&name).await };
        store::finish(&self.inner.tasks, "webhook-change", change).await
    }
}

impl Inner {
    async fn create(&self, new: NewWebhook) -> Result<(Arc<Webhook>, String), Error> {
        let NewWebhook { name, topic, scheme, secret } = new;
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(legal) {
            return Err(Error::InvalidName(name.chars().take(NAME_BYTES_MAX + 1).collect()));
        }
        TopicName::parse(&topic).map_err(|error| Error::InvalidTopic(error.to_string()))?;
        let _alone = self.changes.lock().await;
        if self.by_name.read().contains_key(&name) {
            return Err(Error::Exists(name));
        }
        if self.by_name.read().len() >= WEBHOOKS_MAX {
            return Err(Error::TooMany);
        }
        let created_ms = self.clock.now_ms();
        self.put(name, topic, scheme, secret, created_ms).await
    }

    async fn rotate(
        &self,
        name: &str,
        secret: Option<String>,
    ) -> Result<(Arc<Webhook>, String), Error> {
        let _alone = self.changes.lock().await;
        let known = self.by_name.read().get(name).cloned();
        let known = known.ok_or_else(|| Error::Unknown(name.chars().take(200).collect()))?;
        let (name, topic) = (known.name.clone(), known.topic.clone());
        self.put(name, topic, known.scheme, secret, known.created_ms).await
    }

    /// Stores a webhook with this secret, or a new one; `changes` is held.
    async fn put(
        &self,
        name: String,
        topic: String,
        scheme: Scheme,
        secret: Option<String>,
        created_ms: i64,
    ) -> Result<(Arc<Webhook>, String), Error> {
        let secret = secret.unwrap_or_else(|| scheme.generate());
        let kept = scheme.kept(&secret).ok_or(Error::InvalidSecret)?;
        let stored = Stored { v: VERSION, name, topic, scheme, secret: kept, created_ms };
        let webhook = Arc::new(stored.webhook().ok_or(Error::InvalidSecret)?);
        let value = serde_json::to_vec(&stored)
            .map_err(|error| failed(format!("encode a webhook: {error}")))?;
        let change = Change::new().put(Space::Token, key_of(&webhook.name), value);
        self.store.commit(change).await?;
        self.by_name.write().insert(webhook.name.clone(), Arc::clone(&webhook));
        Ok((webhook, secret))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        let _alone = self.changes.lock().await;
        if !self.by_name.read().contains_key(name) {
            return Err(Error::Unknown(name.chars().take(200).collect()));
        }
        self.store.commit(Change::new().delete(Space::Token, key_of(name))).await?;
        self.by_name.write().remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Operation, Resource};
    use crate::store::testing::Rig;

    fn open(rig: &Rig) -> Webhooks {
        Webhooks::open(rig.store(), rig.clock.clone(), Tasks::for_tests()).unwrap()
    }

    fn new(name: &str, scheme: Scheme, secret: Option<&str>) -> NewWebhook {
        let secret = secret.map(str::to_owned);
        NewWebhook { name: name.to_owned(), topic: "t".to_owned(), scheme, secret }
    }

    fn signature(hex_text: &str) -> Signature {
        hex::decode(hex_text).unwrap().try_into().unwrap()
    }

    #[tokio::test]
    async fn signatures_are_those_of_the_published_examples() {
        let rig = Rig::new();
        let webhooks = open(&rig);
        let secret = Some("It's a Secret to Everybody");
        let (github, _) = webhooks.create(new("g", Scheme::Github, secret)).await.unwrap();
        let good = signature("757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
        assert!(github.verifies(&[b"Hello, World!"], &[[0; 32], good]));
        assert!(!github.verifies(&[b"Hello, World?"], &[good]));
        assert!(!github.verifies(&[b"Hello, World!"], &[[0; 32]]));
        assert!(!github.verifies(&[b"Hello, World!"], &[]));
        for secret in ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
        {
            let wish = new(&secret[..5], Scheme::Standard, Some(secret));
            let (standard, _) = webhooks.create(wish).await.unwrap();
            let signed: [&[u8]; 3] =
                [b"msg_p5jXN8AQM9LWM0D4loKWxJek.", b"1614265330.", br#"{"test": 2432232314}"#];
            let good = STANDARD.decode("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=").unwrap();
            assert!(standard.verifies(&signed, &[good.try_into().unwrap()]));
        }
    }

    #[tokio::test]
    async fn a_secret_of_a_url_is_kept_as_a_hash_and_may_be_changed() {
        let rig = Rig::new();
        let webhooks = open(&rig);
        let (made, first) = webhooks.create(new("a", Scheme::Url, None)).await.unwrap();
        assert_eq!(first.len(), URL_SECRET_MADE_CHARS);
        assert!(made.is_secret(&first) && !made.is_secret("") && !made.is_secret(&first[1..]));
        assert!(!made.verifies(&[b"x"], &[]));
        let (_, second) = webhooks.rotate("a", None).await.unwrap();
        let chosen = "c".repeat(32);
        let (github, _) = webhooks.create(new("g", Scheme::Github, Some(&chosen))).await.unwrap();
        assert!(!github.is_secret(&chosen), "it is no secret of a URL");
        assert_eq!(webhooks.rotate("b", None).await.unwrap_err(), Error::Unknown("b".to_owned()));
        let short = webhooks.rotate("a", Some("short".to_owned())).await;
        assert_eq!(short.unwrap_err(), Error::InvalidSecret);
        drop(webhooks);
        let rig = rig.restart(|_, _| {});
        for (_, value) in rig.store().scan(Space::Token, PREFIX).unwrap() {
            let text = String::from_utf8(value.to_vec()).unwrap();
            assert!(!text.contains(&first) && !text.contains(&second), "{text}");
        }
        let known = open(&rig).get("a").unwrap();
        assert!(known.is_secret(&second) && !known.is_secret(&first));
        let principal = known.principal();
        assert_eq!(principal.name(), "webhook:a");
        let may = |operation, topic| principal.may(operation, Resource::Topic(topic));
        assert!(may(Operation::Write, "t") && may(Operation::Create, "t.quarantine"));
        assert!(!may(Operation::Write, "tt") && !may(Operation::Read, "t"));
    }

    #[tokio::test]
    async fn webhooks_hold_after_a_restart_and_after_the_state_was_lost() {
        let rig = Rig::new();
        let webhooks = open(&rig);
        let (made, secret) = webhooks.create(new("a", Scheme::Standard, None)).await.unwrap();
        assert!(secret.starts_with("whsec_") && !format!("{made:?}").contains(&secret[6..]));
        webhooks.create(new("b", Scheme::Github, None)).await.unwrap();
        webhooks.delete("b").await.unwrap();
        drop(webhooks);
        let rig = rig.restart(|_, dir| std::fs::remove_dir_all(dir.join("state")).unwrap());
        let webhooks = open(&rig);
        let names: Vec<String> = webhooks.list().iter().map(|it| it.name.clone()).collect();
        assert_eq!(names, ["a"]);
        assert_eq!(webhooks.get("a").unwrap().key.0, made.key.0);
        assert!(webhooks.get("b").is_none());
    }

    #[tokio::test]
    async fn what_makes_no_webhook_is_refused() {
        let rig = Rig::new();
        let webhooks = open(&rig);
        let refused = async |wish: NewWebhook| webhooks.create(wish).await.unwrap_err();
        for name in ["", "a/b", "a b", &"x".repeat(65)] {
            let error = refused(new(name, Scheme::Github, None)).await;
            assert!(matches!(error, Error::InvalidName(_)), "{name}");
        }
        let topic = NewWebhook { topic: "a/b".to_owned(), ..new("a", Scheme::Github, None) };
        assert!(matches!(refused(topic).await, Error::InvalidTopic(_)));
        for (scheme, secret) in [
            (Scheme::Github, "short"),
            (Scheme::Standard, "whsec_AAAA"),
            (Scheme::Standard, "no base64 whatever length it has"),
            (Scheme::Url, "31 characters are one too few.."),
            (Scheme::Url, "no/part/of/a/path/0123456789012345"),
        ] {
            assert_eq!(refused(new("a", scheme, Some(secret))).await, Error::InvalidSecret);
        }
        webhooks.create(new("a", Scheme::Github, None)).await.unwrap();
        let twice = refused(new("a", Scheme::Github, None)).await;
        assert_eq!(twice, Error::Exists("a".to_owned()));
        assert_eq!(webhooks.delete("b").await.unwrap_err(), Error::Unknown("b".to_owned()));
    }

    #[test]
    fn the_layout_is_the_golden_one() {
        let golden = r#"{"v":1,"name":"n","topic":"t","scheme":"github","secret":"0123456789abcdef","created_ms":5}"#;
        let stored: Stored = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&stored).unwrap(), golden);
        assert_eq!(stored.webhook().unwrap().scheme, Scheme::Github);
        assert_eq!(key_of("n"), b"w/n");
    }
}
