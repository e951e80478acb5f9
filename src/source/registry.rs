//! All sources in memory and as they are stored.
//!
//! Owns: the map, the order of changes, their layout on disk, secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::watch;

use super::{Error, SOURCES_MAX, Source, Version, Wish};
use crate::runtime::{Clock, Tasks};
use crate::sink::Triggers;
use crate::store::history::{self, Edit, Trail};
use crate::store::{self, Change, Space, Store};
use crate::types::Expected;

const VERSION: u32 = 1;
/// Name of the tasks that change sources.
const CHANGE: &str = "source-change";
/// Characters of a secret: more than 280 bits.
const SECRET_LEN: usize = 48;

/// All sources; cheap to clone.
#[derive(Clone)]
pub struct Sources {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    tasks: Tasks,
    /// Those that are marked as deleted too. Written only while `changes` is held, after the change
    /// is durable; never held across a wait.
    by_id: RwLock<BTreeMap<String, Arc<Source>>>,
    /// Serialises all changes; held until they are durable.
    changes: tokio::sync::Mutex<()>,
    /// Grows with every change.
    newest: watch::Sender<u64>,
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
        let newest = watch::Sender::new(0);
        Ok(Self { inner: Arc::new(Inner { store, clock, tasks, by_id, changes, newest }) })
    }

    /// The source of that id, unless it is marked as deleted.
    pub fn get(&self, id: &str) -> Option<Arc<Source>> {
        self.kept(id).filter(|source| source.is_live())
    }

    /// The source of that id, also if it is marked as deleted.
    pub fn kept(&self, id: &str) -> Option<Arc<Source>> {
        self.inner.by_id.read().get(id).cloned()
    }

    /// All sources, by id, without those that are marked as deleted.
    pub fn list(&self) -> Vec<Arc<Source>> {
        let by_id = self.inner.by_id.read();
        by_id.values().filter(|source| source.is_live()).cloned().collect()
    }

    /// Those that are marked as deleted, by id.
    pub fn deleted(&self) -> Vec<Arc<Source>> {
        let by_id = self.inner.by_id.read();
        by_id.values().filter(|source| !source.is_live()).cloned().collect()
    }

    /// When the topic's sinks commit that do not say it: the least that any of its sources asks for.
    pub fn commit_of(&self, topic: &str) -> Triggers {
        let by_id = self.inner.by_id.read();
        let feeding = by_id.values().filter(|one| one.is_live() && one.wish.topic == topic);
        feeding.fold(Triggers::default(), |all, source| all.least(source.wish.commit))
    }

    /// A number that grows with every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.newest.subscribe()
    }

    /// Number of the newest change.
    pub fn newest(&self) -> u64 {
        *self.inner.newest.borrow()
    }

    /// Makes a source or replaces what was asked of it; durable when it returns. With `dry_run` it
    /// only checks. True beside it if it was not there; one that was marked as deleted counts so, and
    /// gets another secret.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(
        &self,
        id: &str,
        wish: Wish,
        edit: Edit,
        expected: Expected,
        dry_run: bool,
    ) -> Result<(Arc<Source>, bool), Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.put(id, wish, edit, &expected, dry_run).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Gives the source another secret. The one before opens nothing from then on.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Precondition`], [`Error::Store`].
    pub async fn rotate(
        &self,
        id: &str,
        edit: Edit,
        expected: Expected,
    ) -> Result<Arc<Source>, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.rotate(&id, edit, &expected).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Forgets a source and its versions. Its topic stays.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Precondition`], [`Error::Store`].
    pub async fn delete(&self, id: &str, expected: Expected) -> Result<Arc<Source>, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.delete(&id, &expected).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Marks a source as deleted: it takes nothing until [`Self::undelete`].
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Store`].
    pub async fn mark_deleted(&self, id: &str, edit: Edit) -> Result<Arc<Source>, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.mark(&id, edit, true).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Brings back a source that is marked as deleted, with its secret.
    ///
    /// # Errors
    /// [`Error::Unknown`] also for one that is not; [`Error::Store`].
    pub async fn undelete(&self, id: &str, edit: Edit) -> Result<Arc<Source>, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.mark(&id, edit, false).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// What `look` gives of each kept version of the source, oldest first. `newest` is its number.
    /// Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn versions<T>(
        &self,
        id: &str,
        newest: u64,
        look: impl Fn(&Version) -> T,
    ) -> Result<Vec<T>, Error> {
        Ok(history::each(&self.inner.store, &owner(id), newest, look)?)
    }

    /// One kept version of the source. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn version(&self, id: &str, number: u64) -> Result<Option<Version>, Error> {
        Ok(history::get(&self.inner.store, &owner(id), number)?)
    }
}

impl Inner {
    async fn put(
        &self,
        id: String,
        wish: Wish,
        edit: Edit,
        expected: &Expected,
        dry_run: bool,
    ) -> Result<(Arc<Source>, bool), Error> {
        let wish = wish.checked(&id)?;
        let _alone = self.changes.lock().await;
        let old = self.by_id.read().get(&id).cloned();
        let live = old.as_ref().filter(|source| source.is_live());
        met(expected, live.map(Arc::as_ref))?;
        let is_new = live.is_none();
        let mark = edit.at(self.clock.now_ms(), if is_new { "New source." } else { "Updated." });
        let (source, gone) = match &old {
            Some(old) if !is_new && old.wish == wish => return Ok((Arc::clone(old), false)),
            Some(old) => {
                let secret = if is_new { new_secret() } else { old.secret.clone() };
                let trail = old.trail.then(mark, wish.enabled);
                let version = old.version + 1;
                (Source { wish, secret, version, trail, ..Source::clone(old) }, None)
            }
            None => {
                let (gone, secret, version) = (self.gives_room()?, new_secret(), 1);
                let trail = Trail::begin(mark, wish.enabled);
                (Source { v: VERSION, id, wish, secret, version, trail }, gone)
            }
        };
        if dry_run {
            return Ok((Arc::new(source), is_new));
        }
        Ok((self.store(source, gone).await?, is_new))
    }

    /// Which source has to be forgotten before one more is made: the one that was deleted first.
    fn gives_room(&self) -> Result<Option<Arc<Source>>, Error> {
        let by_id = self.by_id.read();
        if by_id.len() < SOURCES_MAX {
            return Ok(None);
        }
        let deleted = by_id.values().filter(|source| !source.is_live());
        let oldest = deleted.min_by_key(|source| source.trail.changed.at_ms);
        oldest.cloned().ok_or(Error::TooMany).map(Some)
    }

    async fn rotate(
        &self,
        id: &str,
        edit: Edit,
        expected: &Expected,
    ) -> Result<Arc<Source>, Error> {
        let _alone = self.changes.lock().await;
        let old = self.existing(id, expected)?;
        let mark = edit.at(self.clock.now_ms(), "Rotated secret.");
        let (secret, version) = (new_secret(), old.version + 1);
        let trail = old.trail.then(mark, old.wish.enabled);
        self.store(Source { secret, version, trail, ..Source::clone(&old) }, None).await
    }

    async fn delete(&self, id: &str, expected: &Expected) -> Result<Arc<Source>, Error> {
        let _alone = self.changes.lock().await;
        let source = self.existing(id, expected)?;
        self.store.commit(forget(&source)).await?;
        self.by_id.write().remove(id);
        self.newest.send_modify(|newest| *newest += 1);
        Ok(source)
    }

    async fn mark(&self, id: &str, edit: Edit, deletes: bool) -> Result<Arc<Source>, Error> {
        let _alone = self.changes.lock().await;
        let old = self.by_id.read().get(id).cloned();
        let old = old.filter(|source| source.is_live() == deletes).ok_or_else(|| unknown(id))?;
        let mark = |usual| edit.at(self.clock.now_ms(), usual);
        let trail = match deletes {
            true => old.trail.ended(mark("Deleted.")),
            false => old.trail.then(mark("Undeleted."), old.wish.enabled),
        };
        let version = old.version + 1;
        self.store(Source { version, trail, ..Source::clone(&old) }, None).await
    }

    fn existing(&self, id: &str, expected: &Expected) -> Result<Arc<Source>, Error> {
        let source = self.by_id.read().get(id).cloned().filter(|source| source.is_live());
        let source = source.ok_or_else(|| unknown(id))?;
        met(expected, Some(&source))?;
        Ok(source)
    }

    /// Stores a new version of a source and forgets `gone`.
    async fn store(&self, source: Source, gone: Option<Arc<Source>>) -> Result<Arc<Source>, Error> {
        let value = serde_json::to_vec(&source).map_err(|error| failed(&error.to_string()))?;
        let change = gone.as_deref().map_or_else(Change::new, forget);
        let change = change.put(Space::Source, source.id.as_bytes(), value);
        let Source { version: number, wish, trail: Trail { changed: mark, .. }, .. } =
            source.clone();
        let version = Version { number, mark, wish };
        let change = history::keep(change, &owner(&source.id), &version)?;
        self.store.commit(change).await?;
        let source = Arc::new(source);
        let mut by_id = self.by_id.write();
        if let Some(gone) = gone {
            by_id.remove(&gone.id);
        }
        by_id.insert(source.id.clone(), Arc::clone(&source));
        self.newest.send_modify(|newest| *newest += 1);
        Ok(source)
    }
}

/// Forgets a source and its versions.
fn forget(source: &Source) -> Change {
    let change = Change::new().delete(Space::Source, source.id.as_bytes());
    history::forget(change, &owner(&source.id), source.version)
}

/// Whose versions they are.
fn owner(id: &str) -> String {
    format!("source/{id}")
}

fn unknown(id: &str) -> Error {
    Error::Unknown(id.chars().take(100).collect())
}

fn met(expected: &Expected, now: Option<&Source>) -> Result<(), Error> {
    expected.check(now.map(Source::tag).as_deref()).map_err(Error::Precondition)
}

fn new_secret() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), SECRET_LEN)
}

pub(super) fn decode(value: &[u8]) -> Result<Source, Error> {
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
