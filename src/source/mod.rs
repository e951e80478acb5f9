//! Sources: URLs with a secret in them, whose whole requests become records of a topic.
//!
//! ```text
//! Source  id    JSON: v = 1, id, wish, secret, version, created_ms, changed_ms
//! ```
//!
//! The secret is part of a URL that its users must be able to read again, so it is kept as it is; it
//! is neither logged nor shown to who may not alter the cluster.
//!
//! Owns: the space `Source`, secrets. Does not own: the route (`http`), the topic and its sinks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::runtime::{Clock, Tasks};
use crate::store::{self, Change, Space, Store};
use crate::types::{Expected, TopicName};

const VERSION: u32 = 1;
/// Name of the tasks that change sources.
const CHANGE: &str = "source-change";
/// Most sources.
pub const SOURCES_MAX: usize = 1_000;
/// Longest id, in characters.
const ID_LEN_MAX: usize = 48;
/// Longest name and description, in characters (the limits are Keboola's).
const NAME_LEN_MAX: usize = 40;
const DESCRIPTION_LEN_MAX: usize = 4_096;
/// Characters of a secret: more than 280 bits.
const SECRET_LEN: usize = 48;

/// What somebody asks of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where its records go; empty is the topic that is named like the source.
    #[serde(default)]
    pub topic: String,
    /// A disabled source takes nothing.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

fn enabled() -> bool {
    true
}

/// A source as it is durably known; immutable, replaced on each change.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    v: u32,
    /// Its name in paths.
    pub id: String,
    /// What was asked for; its topic is never empty.
    pub wish: Wish,
    /// What its URL ends with.
    pub secret: String,
    /// Counts its changes from 1.
    pub version: u64,
    /// When it was made, milliseconds.
    pub created_ms: i64,
    /// When it was changed last, milliseconds.
    pub changed_ms: i64,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("id", &self.id).field("version", &self.version).finish()
    }
}

impl Source {
    /// True if `secret` is its own; takes the same time wherever they differ.
    pub fn is_opened_by(&self, secret: &str) -> bool {
        self.secret.as_bytes().ct_eq(secret.as_bytes()).into()
    }

    /// Names this version of it, as an entity tag without quotes.
    pub fn tag(&self) -> String {
        format!("{}.{}", self.created_ms, self.version)
    }
}

/// Why sources cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something of the wish is refused; the text says what is allowed.
    #[error("{0}")]
    Invalid(String),
    /// The source is not in the version that the caller knows.
    #[error("{0}")]
    Precondition(String),
    /// No such source.
    #[error("there is no source {0:?}")]
    Unknown(String),
    /// All places are taken.
    #[error("there are {SOURCES_MAX} sources already; delete some")]
    TooMany,
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// All sources; cheap to clone.
#[derive(Clone)]
pub struct Sources {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    tasks: Tasks,
    /// Written only while `changes` is held, after the change is durable; never held across a wait.
    by_id: RwLock<BTreeMap<String, Arc<Source>>>,
    /// Serialises all changes; held until they are durable.
    changes: tokio::sync::Mutex<()>,
}

impl Sources {
    /// Reads all sources from `store`. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(store: Store, clock: Clock, tasks: Tasks) -> Result<Self, Error> {
        let mut by_id = BTreeMap::new();
        for (_, value) in store.scan(Space::Source, b"")? {
            let source = decode(&value)?;
            by_id.insert(source.id.clone(), Arc::new(source));
        }
        let (by_id, changes) = (RwLock::new(by_id), tokio::sync::Mutex::default());
        Ok(Self { inner: Arc::new(Inner { store, clock, tasks, by_id, changes }) })
    }

    /// The source of that id.
    pub fn get(&self, id: &str) -> Option<Arc<Source>> {
        self.inner.by_id.read().get(id).cloned()
    }

    /// All sources, by id.
    pub fn list(&self) -> Vec<Arc<Source>> {
        self.inner.by_id.read().values().cloned().collect()
    }

    /// Makes a source or replaces what was asked of it; durable when it returns. With `dry_run` it
    /// only checks. True beside it if it was not there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(
        &self,
        id: &str,
        wish: Wish,
        expected: Expected,
        dry_run: bool,
    ) -> Result<(Arc<Source>, bool), Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.put(id, wish, &expected, dry_run).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Gives the source another secret. The one before opens nothing from then on.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Precondition`], [`Error::Store`].
    pub async fn rotate(&self, id: &str, expected: Expected) -> Result<Arc<Source>, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.rotate(&id, &expected).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Forgets a source. Its topic stays.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Precondition`], [`Error::Store`].
    pub async fn delete(&self, id: &str, expected: Expected) -> Result<Arc<Source>, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.delete(&id, &expected).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }
}

impl Inner {
    async fn put(
        &self,
        id: String,
        mut wish: Wish,
        expected: &Expected,
        dry_run: bool,
    ) -> Result<(Arc<Source>, bool), Error> {
        if wish.topic.is_empty() {
            wish.topic.clone_from(&id);
        }
        check(&id, &wish)?;
        let _alone = self.changes.lock().await;
        let old = self.by_id.read().get(&id).cloned();
        met(expected, old.as_deref())?;
        let now_ms = self.clock.now_ms();
        let source = match &old {
            Some(old) if old.wish == wish => return Ok((Arc::clone(old), false)),
            Some(old) => {
                let (version, changed_ms) = (old.version + 1, now_ms);
                Source { wish, version, changed_ms, ..Source::clone(old) }
            }
            None if self.by_id.read().len() >= SOURCES_MAX => return Err(Error::TooMany),
            None => {
                let (secret, version) = (new_secret(), 1);
                let (v, created_ms, changed_ms) = (VERSION, now_ms, now_ms);
                Source { v, id, wish, secret, version, created_ms, changed_ms }
            }
        };
        let is_new = old.is_none();
        if dry_run {
            return Ok((Arc::new(source), is_new));
        }
        Ok((self.store(source).await?, is_new))
    }

    async fn rotate(&self, id: &str, expected: &Expected) -> Result<Arc<Source>, Error> {
        let _alone = self.changes.lock().await;
        let old = self.existing(id, expected)?;
        let (secret, version, changed_ms) = (new_secret(), old.version + 1, self.clock.now_ms());
        self.store(Source { secret, version, changed_ms, ..Source::clone(&old) }).await
    }

    async fn delete(&self, id: &str, expected: &Expected) -> Result<Arc<Source>, Error> {
        let _alone = self.changes.lock().await;
        let source = self.existing(id, expected)?;
        self.store.commit(Change::new().delete(Space::Source, id.as_bytes())).await?;
        self.by_id.write().remove(id);
        Ok(source)
    }

    fn existing(&self, id: &str, expected: &Expected) -> Result<Arc<Source>, Error> {
        let unknown = || Error::Unknown(id.chars().take(100).collect());
        let source = self.by_id.read().get(id).cloned().ok_or_else(unknown)?;
        met(expected, Some(&source))?;
        Ok(source)
    }

    async fn store(&self, source: Source) -> Result<Arc<Source>, Error> {
        let value = serde_json::to_vec(&source).map_err(|error| failed(&error.to_string()))?;
        let change = Change::new().put(Space::Source, source.id.as_bytes(), value);
        self.store.commit(change).await?;
        let source = Arc::new(source);
        self.by_id.write().insert(source.id.clone(), Arc::clone(&source));
        Ok(source)
    }
}

fn met(expected: &Expected, now: Option<&Source>) -> Result<(), Error> {
    expected.check(now.map(Source::tag).as_deref()).map_err(Error::Precondition)
}

fn new_secret() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), SECRET_LEN)
}

fn check(id: &str, wish: &Wish) -> Result<(), Error> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if !(1..=ID_LEN_MAX).contains(&id.len()) || !id.chars().all(legal) {
        let shown: String = id.chars().take(100).collect();
        return Err(Error::Invalid(format!(
            "source id {shown:?} is refused: allowed are 1 to {ID_LEN_MAX} letters, digits, _ and -"
        )));
    }
    for (what, text, max) in [
        ("name", &wish.name, NAME_LEN_MAX),
        ("description", &wish.description, DESCRIPTION_LEN_MAX),
    ] {
        if text.chars().count() > max {
            return Err(Error::Invalid(format!("{what} is refused: allowed are {max} characters")));
        }
    }
    TopicName::parse(&wish.topic).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(())
}

fn decode(value: &[u8]) -> Result<Source, Error> {
    let source: Source = serde_json::from_slice(value)
        .map_err(|error| failed(&format!("a stored source is malformed: {error}")))?;
    if source.v == VERSION {
        return Ok(source);
    }
    let (id, v) = (&source.id, source.v);
    Err(failed(&format!("source {id} is stored in version {v}, this release knows {VERSION}")))
}

fn failed(reason: &str) -> Error {
    Error::Store(store::Error::Failed(reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use crate::store::testing::Rig;

    use super::*;

    fn open(rig: &Rig) -> Sources {
        Sources::open(rig.store(), rig.clock.clone(), Tasks::for_tests()).unwrap()
    }

    fn wish(topic: &str) -> Wish {
        let (name, description) = ("Shop".to_owned(), String::new());
        Wish { name, description, topic: topic.to_owned(), enabled: true }
    }

    #[tokio::test]
    async fn sources_are_state_that_a_restart_finds() {
        let rig = Rig::new();
        let sources = open(&rig);
        let (made, is_new) = sources.put("shop", wish(""), Expected::None, false).await.unwrap();
        assert!(is_new && made.secret.len() == 48 && made.wish.topic == "shop");
        assert!(!format!("{made:?}").contains(&made.secret), "a secret is not logged");
        let (other, _) = sources.put("shop", wish("orders"), Expected::Some, false).await.unwrap();
        assert_eq!((other.version, &other.secret), (2, &made.secret));
        let (same, is_new) =
            sources.put("shop", wish("orders"), Expected::Any, false).await.unwrap();
        assert_eq!((same.version, is_new), (2, false));
        let found = open(&rig).get("shop").unwrap();
        assert_eq!(found, other);
        sources.delete("shop", Expected::Tags(vec![other.tag()])).await.unwrap();
        assert!(open(&rig).list().is_empty());
    }

    #[tokio::test]
    async fn a_secret_that_was_rotated_opens_nothing() {
        let rig = Rig::new();
        let sources = open(&rig);
        let (made, _) = sources.put("shop", wish(""), Expected::Any, false).await.unwrap();
        let rotated = sources.rotate("shop", Expected::Any).await.unwrap();
        assert!(rotated.is_opened_by(&rotated.secret) && !rotated.is_opened_by(&made.secret));
        for wrong in ["", &rotated.secret[..47], &format!("{}x", rotated.secret)] {
            assert!(!rotated.is_opened_by(wrong), "{wrong}");
        }
        let stale = sources.rotate("shop", Expected::Tags(vec![made.tag()])).await;
        assert!(matches!(stale, Err(Error::Precondition(_))));
        let unknown = sources.rotate("other", Expected::Any).await;
        assert_eq!(unknown, Err(Error::Unknown("other".to_owned())));
    }

    #[tokio::test]
    async fn what_is_refused_changes_nothing() {
        let rig = Rig::new();
        let sources = open(&rig);
        let long = "x".repeat(49);
        for (id, wish) in
            [("", wish("t")), ("a/b", wish("t")), (&long, wish("t")), ("a", wish("a b"))]
        {
            let refused = sources.put(id, wish, Expected::Any, false).await;
            assert!(matches!(refused, Err(Error::Invalid(_))), "{id:?}");
        }
        sources.put("a", wish(""), Expected::Any, true).await.unwrap();
        assert!(sources.list().is_empty(), "a dry run makes none");
    }

    #[test]
    fn the_layout_is_the_golden_one() {
        let golden = br#"{"v":1,"id":"s","wish":{"name":"n","topic":"t","enabled":true},"secret":"x","version":2,"created_ms":5,"changed_ms":6}"#;
        let source = decode(golden).unwrap();
        assert_eq!(serde_json::to_vec(&source).unwrap(), golden);
        assert!(decode(&golden.map(|byte| if byte == b'1' { b'3' } else { byte })).is_err());
    }
}
