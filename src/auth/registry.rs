//! Tokens in memory and as they are stored.
//!
//! ```text
//! Token  "t/" id    JSON: v = 1, id, name, hash (hex of SHA-256), allow, created_ms,
//!                   expires_ms and revoked_ms if there are such
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
use crate::auth::rule::Rules;
use crate::auth::token::{Hash, Key};
use crate::auth::webhook;
use crate::store::{self, Change, Space, Store};

const VERSION: u32 = 1;
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
    pub(crate) hash: Hash,
    revoked_ms: AtomicI64,
    used_ms: AtomicI64,
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
        hash: Hash,
        rules: Rules,
        created_ms: i64,
        expires_ms: Option<i64>,
    ) -> Self {
        let (revoked_ms, used_ms) = (AtomicI64::new(NEVER), AtomicI64::new(NEVER));
        Self { id, name, rules, created_ms, expires_ms, hash, revoked_ms, used_ms }
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
        Stored {
            v: VERSION,
            id: self.id.clone(),
            name: self.name.clone(),
            hash: hex::encode(self.hash),
            allow: self.rules.texts().to_vec(),
            created_ms: self.created_ms,
            expires_ms: self.expires_ms,
            revoked_ms,
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
    hash: String,
    allow: Vec<String>,
    created_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    revoked_ms: Option<i64>,
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
        self.by_id.insert(token.id.clone(), token);
    }

    /// Marks a token; whoever holds it sees it.
    pub(crate) fn revoke(&mut self, id: &str, now_ms: i64) {
        if let Some(token) = self.by_id.get(id) {
            token.revoked_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    pub(crate) fn forget(&mut self, id: &str) {
        self.by_id.remove(id);
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
    check_version(stored.v)?;
    let hash = hex::decode(&stored.hash).ok().and_then(|bytes| bytes.try_into().ok());
    let hash = hash.ok_or_else(|| malformed(&stored.name))?;
    let rules = Rules::parse(&stored.allow)?;
    let Stored { id, name, created_ms, expires_ms, revoked_ms, .. } = stored;
    let token = Token::new(id, name, hash, rules, created_ms, expires_ms);
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
        let made = Token::new("abcdefghij".into(), "n".into(), [7; 32], rules, 5, Some(9));
        let change = put(Change::new(), &made).unwrap();
        let hash = "07".repeat(32);
        let golden = format!(
            r#"{{"v":1,"id":"abcdefghij","name":"n","hash":"{hash}","allow":["read:topic:a"],"created_ms":5,"expires_ms":9}}"#
        );
        assert_eq!(change.ops[0].key, b"t/abcdefghij");
        assert_eq!(change.ops[0].value.as_deref(), Some(golden.as_bytes()));
        let read = token(decode(golden.as_bytes()).unwrap()).unwrap();
        assert_eq!(
            (read.hash, read.state(8), read.state(9)),
            ([7; 32], State::Active, State::Expired)
        );
        let revoked = revoke(&read, 7).unwrap().ops.remove(0).value.unwrap();
        let read = token(decode(&revoked).unwrap()).unwrap();
        assert_eq!((read.revoked_ms(), read.state(8)), (Some(7), State::Revoked));
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
        assert!(with(2, &hash, "all").unwrap_err().contains("version 2"));
        assert!(with(1, "07", "all").is_err());
        assert!(with(1, &hash, "fly:topic:a").is_err());
    }
}
