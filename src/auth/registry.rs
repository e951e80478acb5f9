//! Tokens in memory and as they are stored.
//!
//! ```text
//! Token  "t/" id    JSON: v = 1, id, name, hash (hex of SHA-256), allow, created_ms,
//!                   expires_ms, revoked_ms, rate_requests and rate_bytes if there are such;
//!                   v = 2 with subject or certificate instead of hash: its owner shows no secret
//!                   of ours
//! Token  "key"      JSON: v = 1, key (hex of 32 bytes): signs access tokens. It comes with the
//!                   first token and stays: where it is, authentication was set up once
//! ```
//!
//! Owns: the map and this layout. Does not own: the order of changes (`Auth`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};

use crate::auth::Error;
use crate::auth::oidc::Identity;
use crate::auth::rule::Rules;
use crate::auth::token::{Hash, Key};
use crate::auth::webhook;
use crate::store::{self, Change, Space, Store};
use crate::types::OwnRate;

const VERSION: u32 = 1;
/// Of tokens without a secret.
const VERSION_OF_IDENTITY: u32 = 2;
const TOKENS: &[u8] = b"t/";
const KEY: &[u8] = b"key";

/// Of a moment that has not come.
const NEVER: i64 = i64::MAX;

/// A token as it is durably known, without its secret.
#[derive(Debug)]
pub struct Token {
    /// Its public part.
    pub id: String,
    /// What people call it; unique among those that are in force.
    pub name: String,
    /// What it may do.
    pub rules: Rules,
    /// When it was made, milliseconds.
    pub created_ms: i64,
    /// From when on it is refused, milliseconds.
    pub expires_ms: Option<i64>,
    /// What may be sent with it in a second over HTTP, where that is its own.
    pub rate: OwnRate,
    pub(crate) proof: Proof,
    revoked_ms: AtomicI64,
    used_ms: AtomicI64,
}

/// How its owner shows who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// By a secret, of which this is the hash.
    Secret(Hash),
    /// By the word of others.
    Identity(Identity),
}

/// What becomes of a token that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is taken.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody revoked it.
    Revoked,
}

impl State {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Token {
    /// A token that was never used.
    pub(crate) fn new(
        id: String,
        name: String,
        proof: Proof,
        rules: Rules,
        created_ms: i64,
        expires_ms: Option<i64>,
    ) -> Self {
        let (revoked_ms, used_ms) = (AtomicI64::new(NEVER), AtomicI64::new(NEVER));
        let rate = OwnRate::default();
        Self { id, name, rules, created_ms, expires_ms, rate, proof, revoked_ms, used_ms }
    }

    /// Whose it is by the word of others, where it has no secret.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.proof {
            Proof::Identity(identity) => Some(identity),
            Proof::Secret(_) => None,
        }
    }

    /// When it was revoked, milliseconds.
    pub fn revoked_ms(&self) -> Option<i64> {
        moment(&self.revoked_ms)
    }

    /// When it was taken last, milliseconds. In memory only: none after a restart, for a write per
    /// request would cost more than it tells.
    pub fn last_used_ms(&self) -> Option<i64> {
        moment(&self.used_ms)
    }

    /// What it is at this moment.
    pub fn state(&self, now_ms: i64) -> State {
        if self.revoked_ms().is_some() {
            State::Revoked
        } else if self.expires_ms.is_some_and(|at| at <= now_ms) {
            State::Expired
        } else {
            State::Active
        }
    }

    pub(crate) fn used(&self, now_ms: i64) {
        // Most of the time it was used in the same millisecond: a write would only disturb others.
        if self.used_ms.load(Ordering::Relaxed) != now_ms {
            self.used_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    fn stored(&self, revoked_ms: Option<i64>) -> Stored {
        let (mut hash, mut subject, mut certificate) = (None, None, None);
        match &self.proof {
            Proof::Secret(bytes) => hash = Some(hex::encode(bytes)),
            Proof::Identity(Identity::Subject(text)) => subject = Some(text.clone()),
            Proof::Identity(Identity::Certificate(text)) => certificate = Some(text.clone()),
        }
        Stored {
            v: if hash.is_some() { VERSION } else { VERSION_OF_IDENTITY },
            id: self.id.clone(),
            name: self.name.clone(),
            hash,
            subject,
            certificate,
            allow: self.rules.texts().to_vec(),
            created_ms: self.created_ms,
            expires_ms: self.expires_ms,
            revoked_ms,
            rate_requests: self.rate.requests,
            rate_bytes: self.rate.bytes,
        }
    }
}

fn moment(at: &AtomicI64) -> Option<i64> {
    Some(at.load(Ordering::Relaxed)).filter(|at| *at != NEVER)
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    v: u32,
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    certificate: Option<String>,
    allow: Vec<String>,
    created_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    revoked_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    rate_requests: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    rate_bytes: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredKey {
    v: u32,
    key: String,
}

/// All tokens, those that are over too.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    by_id: HashMap<String, Arc<Token>>,
    /// Of tokens without a secret the newest of each identity.
    by_identity: HashMap<Identity, Arc<Token>>,
    key: Option<Key>,
}

impl Registry {
    /// Reads all tokens.
    pub(crate) fn load(store: &Store) -> Result<Self, Error> {
        let mut registry = Self::default();
        for (key, value) in store.scan(Space::Token, b"")? {
            if key == KEY {
                let stored: StoredKey = decode(&value)?;
                check_version(stored.v)?;
                let key = Key::from_hex(&stored.key).ok_or_else(|| malformed("its key"))?;
                registry.key = Some(key);
            } else if !key.starts_with(webhook::PREFIX) {
                registry.put(Arc::new(token(decode(&value)?)?));
            }
        }
        Ok(registry)
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Arc<Token>> {
        self.by_id.get(id)
    }

    /// The token of somebody whom others vouch for.
    pub(crate) fn of(&self, identity: &Identity) -> Option<&Arc<Token>> {
        self.by_identity.get(identity)
    }

    /// All tokens, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Token>> {
        let mut tokens: Vec<Arc<Token>> = self.by_id.values().cloned().collect();
        tokens.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        tokens
    }

    pub(crate) fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    pub(crate) fn set_key(&mut self, key: Key) {
        self.key = Some(key);
    }

    pub(crate) fn put(&mut self, token: Arc<Token>) {
        if let Some(identity) = token.identity() {
            // Two may be of one millisecond, but only one of them in force.
            let rank = |token: &Token| (token.revoked_ms().is_none(), token.created_ms);
            let known = self.by_identity.get(identity);
            if known.is_none_or(|known| rank(known) <= rank(&token)) {
                self.by_identity.insert(identity.clone(), Arc::clone(&token));
            }
        }
        self.by_id.insert(token.id.clone(), token);
    }

    /// Marks a token; whoever holds it sees it.
    pub(crate) fn revoke(&mut self, id: &str, now_ms: i64) {
        if let Some(token) = self.by_id.get(id) {
            token.revoked_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    pub(crate) fn forget(&mut self, id: &str) {
        let Some(gone) = self.by_id.remove(id) else { return };
        if let Some(identity) = gone.identity()
            && self.by_identity.get(identity).is_some_and(|newest| newest.id == gone.id)
        {
            self.by_identity.remove(identity);
        }
    }
}

/// The write that makes a token durable.
pub(crate) fn put(change: Change, token: &Token) -> Result<Change, Error> {
    Ok(change.put(Space::Token, key_of(&token.id), encode(&token.stored(token.revoked_ms()))?))
}

/// The write that revokes a token.
pub(crate) fn revoke(token: &Token, now_ms: i64) -> Result<Change, Error> {
    let stored = encode(&token.stored(Some(now_ms)))?;
    Ok(Change::new().put(Space::Token, key_of(&token.id), stored))
}

/// The write that forgets a token.
pub(crate) fn forget(change: Change, id: &str) -> Change {
    change.delete(Space::Token, key_of(id))
}

/// The write that sets authentication up.
pub(crate) fn put_key(change: Change, key: &Key) -> Result<Change, Error> {
    let stored = encode(&StoredKey { v: VERSION, key: key.to_hex() })?;
    Ok(change.put(Space::Token, KEY, stored))
}

fn key_of(id: &str) -> Vec<u8> {
    [TOKENS, id.as_bytes()].concat()
}

fn token(stored: Stored) -> Result<Token, Error> {
    if stored.v != VERSION_OF_IDENTITY {
        check_version(stored.v)?;
    }
    let rules = Rules::parse(&stored.allow)?;
    let rate = OwnRate { requests: stored.rate_requests, bytes: stored.rate_bytes };
    let Stored { v, id, name, created_ms, expires_ms, revoked_ms, .. } = stored;
    let hash = |text: String| -> Option<Hash> { hex::decode(text).ok()?.try_into().ok() };
    let proof = match (v, stored.hash, stored.subject, stored.certificate) {
        (VERSION, Some(text), None, None) => hash(text).map(Proof::Secret),
        (VERSION, ..) => None,
        (_, None, Some(text), None) => Some(Proof::Identity(Identity::Subject(text))),
        (_, None, None, Some(text)) => Some(Proof::Identity(Identity::Certificate(text))),
        _ => None,
    };
    let proof = proof.ok_or_else(|| malformed(&name))?;
    let token = Token { rate, ..Token::new(id, name, proof, rules, created_ms, expires_ms) };
    token.revoked_ms.store(revoked_ms.unwrap_or(NEVER), Ordering::Relaxed);
    Ok(token)
}

fn check_version(version: u32) -> Result<(), Error> {
    if version == VERSION {
        return Ok(());
    }
    Err(failed(format!("a token is stored in version {version}, this release knows {VERSION}")))
}

fn encode(stored: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(stored).map_err(|error| failed(format!("encode a token: {error}")))
}

fn decode<T: for<'a> Deserialize<'a>>(value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|error| malformed(&error.to_string()))
}

fn malformed(what: &str) -> Error {
    failed(format!("a stored token is malformed: {what}"))
}

fn failed(reason: String) -> Error {
    Error::Store(store::Error::Failed(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_golden_one() {
        let rules = Rules::parse(&["read:topic:a"]).unwrap();
        let made =
            Token::new("abcdefghij".into(), "n".into(), Proof::Secret([7; 32]), rules, 5, Some(9));
        let change = put(Change::new(), &made).unwrap();
        let hash = "07".repeat(32);
        let golden = format!(
            r#"{{"v":1,"id":"abcdefghij","name":"n","hash":"{hash}","allow":["read:topic:a"],"created_ms":5,"expires_ms":9}}"#
        );
        assert_eq!(change.ops[0].key, b"t/abcdefghij");
        assert_eq!(change.ops[0].value.as_deref(), Some(golden.as_bytes()));
        let read = token(decode(golden.as_bytes()).unwrap()).unwrap();
        assert_eq!(
            (&read.proof, read.state(8), read.state(9)),
            (&Proof::Secret([7; 32]), State::Active, State::Expired)
        );
        let revoked = revoke(&read, 7).unwrap().ops.remove(0).value.unwrap();
        let read = token(decode(&revoked).unwrap()).unwrap();
        assert_eq!((read.revoked_ms(), read.state(8)), (Some(7), State::Revoked));
    }

    #[test]
    fn a_rate_of_its_own_is_kept_and_tokens_of_before_have_none() {
        let old = |more: &str| {
            let hash = "07".repeat(32);
            let text = format!(
                r#"{{"v":1,"id":"a","name":"n","hash":"{hash}","allow":["all"],"created_ms":5{more}}}"#
            );
            let read = token(decode(text.as_bytes()).unwrap()).unwrap();
            let written = put(Change::new(), &read).unwrap().ops.remove(0).value.unwrap();
            assert_eq!(written, text.as_bytes());
            read.rate
        };
        assert_eq!(old(""), OwnRate::default());
        let own = OwnRate { requests: Some(7), bytes: Some(0) };
        assert_eq!(old(r#","rate_requests":7,"rate_bytes":0"#), own);
    }

    #[test]
    fn a_token_of_somebody_whom_others_vouch_for_has_no_secret() {
        for (kind, identity) in [
            ("subject", Identity::Subject("u".into())),
            ("certificate", Identity::Certificate("CN=u".into())),
        ] {
            let text = identity.text().to_owned();
            let golden = format!(
                r#"{{"v":2,"id":"a","name":"n","{kind}":"{text}","allow":["all"],"created_ms":5}}"#
            );
            let read = token(decode(golden.as_bytes()).unwrap()).unwrap();
            assert_eq!(read.identity(), Some(&identity));
            let change = put(Change::new(), &read).unwrap();
            assert_eq!(change.ops[0].value.as_deref(), Some(golden.as_bytes()));
        }
        let both = r#"{"v":2,"id":"a","name":"n","subject":"u","certificate":"u","allow":[],"created_ms":5}"#;
        assert!(token(decode(both.as_bytes()).unwrap()).is_err());
    }

    #[test]
    fn of_an_identity_the_newest_token_counts_in_whatever_order_they_are_read() {
        let made = |id: &str, created_ms| {
            let proof = Proof::Identity(Identity::Subject("u".into()));
            let rules = Rules::default();
            Arc::new(Token::new(id.into(), "n".into(), proof, rules, created_ms, None))
        };
        let of = |registry: &Registry| {
            registry.of(&Identity::Subject("u".into())).map(|token| token.id.clone())
        };
        for order in [[1, 2], [2, 1]] {
            let mut registry = Registry::default();
            order.iter().for_each(|at| registry.put(made(&at.to_string(), *at)));
            assert_eq!(of(&registry).as_deref(), Some("2"));
            registry.forget("1");
            assert_eq!(of(&registry).as_deref(), Some("2"));
            registry.forget("2");
            assert_eq!(of(&registry), None);
        }
    }

    #[test]
    fn what_a_later_release_or_a_fault_wrote_is_refused() {
        let hash = "07".repeat(32);
        let with = |v: u32, hash: &str, allow: &str| {
            let text = format!(
                r#"{{"v":{v},"id":"a","name":"n","hash":"{hash}","allow":["{allow}"],"created_ms":5}}"#
            );
            token(decode(text.as_bytes()).unwrap()).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(with(1, &hash, "all"), Ok(()));
        assert!(with(3, &hash, "all").unwrap_err().contains("version 3"));
        assert!(with(2, &hash, "all").is_err(), "a secret needs no identity");
        assert!(with(1, "07", "all").is_err());
        assert!(with(1, &hash, "fly:topic:a").is_err());
    }
}
