//! All sinks in memory and as they are stored.
//!
//! Owns: the map, the order of changes. Does not own: what a wish may be (`wish`), the layout on disk
//! (`stored`).

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::stored::{self, encode};
use super::{
    Cleared, DELETED_PER_TOPIC_MAX, Error, Mapping, SINKS_MAX, SINKS_PER_TOPIC_MAX, Sink, Version,
    Wish,
};
use crate::runtime::{Clock, Tasks};
use crate::store::history::{self, Edit};
use crate::store::{self, Change, Space, Store};
use crate::types::{Expected, Offset, SinkUid, TopicId};

/// Name of the tasks that change sinks.
const CHANGE: &str = "sink-change";

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The sink as it shall be.
    pub wish: Wish,
    /// Where the log ends by partition: there a sink that is switched on goes on.
    pub ends: BTreeMap<i32, Offset>,
    /// Where a sink that is made begins by partition; others begin at their first record. One that is
    /// to begin at a time has all of `ends` here, or none if it is there already.
    pub starts: BTreeMap<i32, Offset>,
    /// Who asks.
    pub edit: Edit,
}

/// What became of a wish.
#[derive(Debug, Clone)]
pub enum Put {
    /// There was no such sink.
    Made(Arc<Sink>),
    /// It is another version now.
    Replaced(Arc<Sink>),
    /// It asked for what is there.
    Same(Arc<Sink>),
}

impl Put {
    /// The sink as it is now.
    pub fn sink(&self) -> &Arc<Sink> {
        match self {
            Self::Made(sink) | Self::Replaced(sink) | Self::Same(sink) => sink,
        }
    }
}

type Map = BTreeMap<TopicId, BTreeMap<String, Arc<Sink>>>;

/// All sinks; cheap to clone.
#[derive(Clone)]
pub struct Sinks {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    tasks: Tasks,
    /// Written only while `changes` is held, after the change is durable; never held across a wait.
    by_topic: RwLock<Map>,
    /// Serialises all changes; held until they are durable.
    changes: tokio::sync::Mutex<()>,
    /// Grows with every change.
    newest: watch::Sender<u64>,
}

impl Sinks {
    /// Reads all sinks from `store`. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(store: Store, clock: Clock, tasks: Tasks) -> Result<Self, Error> {
        let mut by_topic = Map::new();
        for (_, value) in store.scan(Space::Sink, b"")? {
            let sink = stored::decode(&value)?;
            by_topic.entry(sink.topic_id).or_default().insert(sink.id.clone(), Arc::new(sink));
        }
        let (by_topic, changes) = (RwLock::new(by_topic), tokio::sync::Mutex::default());
        let newest = watch::Sender::new(0);
        Ok(Self { inner: Arc::new(Inner { store, clock, tasks, by_topic, changes, newest }) })
    }

    /// The topic's sink of that id, unless it is marked as deleted.
    pub fn get(&self, topic_id: TopicId, id: &str) -> Option<Arc<Sink>> {
        self.kept(topic_id, id).filter(|sink| sink.is_live())
    }

    /// The topic's sink of that id, also if it is marked as deleted.
    pub fn kept(&self, topic_id: TopicId, id: &str) -> Option<Arc<Sink>> {
        self.inner.existing(topic_id, id)
    }

    /// The topic's sinks, by id, without those that are marked as deleted.
    pub fn of_topic(&self, topic_id: TopicId) -> Vec<Arc<Sink>> {
        let mut sinks = self.all_of_topic(topic_id);
        sinks.retain(|sink| sink.is_live());
        sinks
    }

    /// The topic's sinks, by id, also those that are marked as deleted.
    pub fn all_of_topic(&self, topic_id: TopicId) -> Vec<Arc<Sink>> {
        let by_topic = self.inner.by_topic.read();
        by_topic.get(&topic_id).map_or_else(Vec::new, |sinks| sinks.values().cloned().collect())
    }

    /// Topics that have sinks.
    pub fn topics(&self) -> Vec<TopicId> {
        self.inner.by_topic.read().keys().copied().collect()
    }

    /// Number of the newest change.
    pub fn newest(&self) -> u64 {
        *self.inner.newest.borrow()
    }

    /// A number that grows with every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.newest.subscribe()
    }

    /// Makes a sink or replaces it; durable when it returns. With `dry_run` it only checks. One that
    /// is marked as deleted comes back if the table is the same, and is forgotten if not.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(
        &self,
        (topic_id, id): (TopicId, &str),
        asked: Asked,
        expected: Expected,
        dry_run: bool,
    ) -> Result<Put, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.put(topic_id, id, asked, &expected, dry_run).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Forgets a sink. Its table stays.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Precondition`], [`Error::Store`].
    pub async fn delete(
        &self,
        topic_id: TopicId,
        id: &str,
        expected: Expected,
    ) -> Result<Arc<Sink>, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.delete(topic_id, &id, &expected).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Marks a sink as deleted: it takes nothing until [`Self::undelete`]. `with_source` if its
    /// source is deleted too.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Store`].
    pub async fn mark_deleted(
        &self,
        (topic_id, id): (TopicId, &str),
        edit: Edit,
        with_source: bool,
    ) -> Result<Arc<Sink>, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.mark_deleted(topic_id, &id, edit, with_source).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Brings back a sink that is marked as deleted. What came meanwhile, up to the `ends` of the
    /// log, is a recorded gap.
    ///
    /// # Errors
    /// [`Error::Unknown`] also for one that is not; [`Error::TooMany`], [`Error::Store`].
    pub async fn undelete(
        &self,
        (topic_id, id): (TopicId, &str),
        ends: BTreeMap<i32, Offset>,
        edit: Edit,
    ) -> Result<Arc<Sink>, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.undelete(topic_id, &id, ends, edit).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Lets the statistics of a sink begin anew at its table's `rows`.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Store`].
    pub async fn clear(&self, topic_id: TopicId, id: &str, rows: u64) -> Result<(), Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.clear(topic_id, &id, rows).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// What `look` gives of each kept version of the sink, oldest first. `newest` is its number.
    /// Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn versions<T>(
        &self,
        uid: SinkUid,
        newest: u64,
        look: impl Fn(&Version) -> T,
    ) -> Result<Vec<T>, Error> {
        Ok(history::each(&self.inner.store, &owner(uid), newest, look)?)
    }

    /// One kept version of the sink. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn version(&self, uid: SinkUid, number: u64) -> Result<Option<Version>, Error> {
        Ok(history::get(&self.inner.store, &owner(uid), number)?)
    }

    /// Forgets all sinks of a topic that is gone.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn forget(&self, topic_id: TopicId) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.forget(topic_id).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }
}

impl Inner {
    async fn put(
        &self,
        topic_id: TopicId,
        id: String,
        asked: Asked,
        expected: &Expected,
        dry_run: bool,
    ) -> Result<Put, Error> {
        let Asked { wish, ends, starts, edit } = asked;
        let mapping = Arc::new(wish.check(&id)?);
        // As it is read back, whatever aliases it was written with.
        let wish = Wish { mapping: mapping.to_json(), ..wish };
        let _alone = self.changes.lock().await;
        let old = self.existing(topic_id, &id);
        let live = old.as_ref().filter(|sink| sink.is_live());
        met(expected, live.map(Arc::as_ref))?;
        let is_new = live.is_none();
        let mark = edit.at(self.clock.now_ms(), if is_new { "New sink." } else { "Updated." });
        if is_new {
            self.check_room(topic_id, &id, &wish)?;
        }
        let goes_on = |old: &Arc<Sink>| !is_new || check_fixed(old, &wish, &mapping).is_ok();
        // Where a new one begins is not looked for if it is there when it is asked for.
        let is_open =
            matches!(wish.from, super::From::At(_)) && starts.is_empty() && !ends.is_empty();
        if is_open && !old.as_ref().is_some_and(goes_on) {
            return Err(Error::Precondition("the sink was deleted meanwhile".to_owned()));
        }
        let mut gone = None;
        let sink = match old {
            Some(old) if !is_new && old.wish == wish => return Ok(Put::Same(old)),
            // One that was deleted goes on only where it was.
            Some(old) if !goes_on(&old) => {
                gone = Some(old);
                Sink::new((topic_id, id), wish, mapping, starts, mark)
            }
            Some(old) => {
                check_fixed(&old, &wish, &mapping)?;
                let trail = old.trail.then(mark, wish.enabled);
                let version = old.version + 1;
                let (resumed, on_since) = match old.is_on() {
                    true => (old.resumed.clone(), old.on_since),
                    false => (ends, version),
                };
                Sink { wish, mapping, version, trail, resumed, on_since, ..Sink::clone(&old) }
            }
            None => Sink::new((topic_id, id), wish, mapping, starts, mark),
        };
        if dry_run {
            let sink = Arc::new(sink);
            return Ok(if is_new { Put::Made(sink) } else { Put::Replaced(sink) });
        }
        let forgotten = gone.map_or_else(Change::new, |gone| forget(&gone));
        let sink = self.store(sink, forgotten).await?;
        Ok(if is_new { Put::Made(sink) } else { Put::Replaced(sink) })
    }

    /// Stores a new version of a sink together with `more`.
    async fn store(&self, sink: Sink, more: Change) -> Result<Arc<Sink>, Error> {
        let change = more.put(Space::Sink, key(sink.topic_id, &sink.id), encode(&sink)?);
        let (number, mark) = (sink.version, sink.trail.changed.clone());
        let version = Version { number, mark, wish: sink.wish.clone() };
        let change = history::keep(change, &owner(sink.uid), &version)?;
        self.store.commit(change).await?;
        Ok(self.show(sink))
    }

    /// Shows everybody what is durable.
    fn show(&self, sink: Sink) -> Arc<Sink> {
        let sink = Arc::new(sink);
        let mut by_topic = self.by_topic.write();
        by_topic.entry(sink.topic_id).or_default().insert(sink.id.clone(), Arc::clone(&sink));
        self.newest.send_modify(|newest| *newest += 1);
        sink
    }

    async fn mark_deleted(
        &self,
        topic_id: TopicId,
        id: &str,
        edit: Edit,
        deleted_with_source: bool,
    ) -> Result<Arc<Sink>, Error> {
        let _alone = self.changes.lock().await;
        let old = self.existing(topic_id, id).filter(|sink| sink.is_live());
        let old = old.ok_or_else(|| unknown(id))?;
        let trail = old.trail.ended(edit.at(self.clock.now_ms(), "Deleted."));
        let version = old.version + 1;
        let gone = self.one_too_many(topic_id);
        let forgotten = gone.as_deref().map_or_else(Change::new, forget);
        let sink = Sink { version, trail, deleted_with_source, ..Sink::clone(&old) };
        let sink = self.store(sink, forgotten).await?;
        if let Some(gone) = gone {
            self.hide(topic_id, &gone.id);
        }
        Ok(sink)
    }

    /// The sink that was deleted first, if one more would be too many.
    fn one_too_many(&self, topic_id: TopicId) -> Option<Arc<Sink>> {
        let by_topic = self.by_topic.read();
        let deleted = by_topic.get(&topic_id)?.values().filter(|sink| !sink.is_live());
        let deleted: Vec<&Arc<Sink>> = deleted.collect();
        let oldest = deleted.iter().min_by_key(|sink| sink.trail.changed.at_ms)?;
        (deleted.len() >= DELETED_PER_TOPIC_MAX).then(|| Arc::clone(oldest))
    }

    async fn undelete(
        &self,
        topic_id: TopicId,
        id: &str,
        resumed: BTreeMap<i32, Offset>,
        edit: Edit,
    ) -> Result<Arc<Sink>, Error> {
        let _alone = self.changes.lock().await;
        let old = self.existing(topic_id, id).filter(|sink| !sink.is_live());
        let old = old.ok_or_else(|| unknown(id))?;
        self.check_room(topic_id, id, &old.wish)?;
        let mark = edit.at(self.clock.now_ms(), "Undeleted.");
        let (trail, version) = (old.trail.then(mark, old.wish.enabled), old.version + 1);
        let (deleted_with_source, on_since, back) = (false, version, Sink::clone(&old));
        let sink = Sink { version, trail, deleted_with_source, resumed, on_since, ..back };
        self.store(sink, Change::new()).await
    }

    async fn clear(&self, topic_id: TopicId, id: &str, rows: u64) -> Result<(), Error> {
        let _alone = self.changes.lock().await;
        let old = self.existing(topic_id, id).filter(|sink| sink.is_live());
        let old = old.ok_or_else(|| unknown(id))?;
        let cleared = Some(Cleared { at_ms: self.clock.now_ms(), rows });
        let sink = Sink { cleared, ..Sink::clone(&old) };
        let change = Change::new().put(Space::Sink, key(topic_id, id), encode(&sink)?);
        self.store.commit(change).await?;
        self.show(sink);
        Ok(())
    }

    /// Checks what a new sink needs of all others.
    fn check_room(&self, topic_id: TopicId, id: &str, wish: &Wish) -> Result<(), Error> {
        let by_topic = self.by_topic.read();
        let live = |sinks: &BTreeMap<String, Arc<Sink>>| {
            sinks.values().filter(|sink| sink.is_live()).count()
        };
        let of_topic = by_topic.get(&topic_id).map_or(0, live);
        if of_topic >= SINKS_PER_TOPIC_MAX {
            let limit = SINKS_PER_TOPIC_MAX;
            return Err(Error::TooMany(format!(
                "the topic has {limit} sinks already; delete some"
            )));
        }
        if by_topic.values().map(BTreeMap::len).sum::<usize>() >= SINKS_MAX {
            return Err(Error::TooMany(format!("there are {SINKS_MAX} sinks already")));
        }
        let table = wish.table.display();
        let taken = |one: &&Arc<Sink>| {
            (one.topic_id, one.id.as_str()) != (topic_id, id)
                && one.wish.table.display().eq_ignore_ascii_case(&table)
        };
        match by_topic.values().flat_map(BTreeMap::values).find(taken) {
            Some(other) => {
                Err(Error::TableTaken { table, sink: other.id.clone(), topic_id: other.topic_id })
            }
            None => Ok(()),
        }
    }

    async fn delete(
        &self,
        topic_id: TopicId,
        id: &str,
        expected: &Expected,
    ) -> Result<Arc<Sink>, Error> {
        let _alone = self.changes.lock().await;
        let sink = self.existing(topic_id, id).filter(|sink| sink.is_live());
        let sink = sink.ok_or_else(|| unknown(id))?;
        met(expected, Some(&sink))?;
        self.store.commit(forget(&sink)).await?;
        self.hide(topic_id, id);
        Ok(sink)
    }

    /// Shows everybody that a sink is gone.
    fn hide(&self, topic_id: TopicId, id: &str) {
        let mut by_topic = self.by_topic.write();
        if let Some(sinks) = by_topic.get_mut(&topic_id) {
            sinks.remove(id);
            if sinks.is_empty() {
                by_topic.remove(&topic_id);
            }
        }
        self.newest.send_modify(|newest| *newest += 1);
    }

    async fn forget(&self, topic_id: TopicId) -> Result<(), Error> {
        let _alone = self.changes.lock().await;
        let sinks: Vec<Arc<Sink>> = match self.by_topic.read().get(&topic_id) {
            Some(sinks) => sinks.values().cloned().collect(),
            None => return Ok(()),
        };
        let gone = |change: Change, sink: &Arc<Sink>| change.and(forget(sink));
        self.store.commit(sinks.iter().fold(Change::new(), gone)).await?;
        self.by_topic.write().remove(&topic_id);
        self.newest.send_modify(|newest| *newest += 1);
        Ok(())
    }

    fn existing(&self, topic_id: TopicId, id: &str) -> Option<Arc<Sink>> {
        self.by_topic.read().get(&topic_id)?.get(id).cloned()
    }
}

fn met(expected: &Expected, now: Option<&Sink>) -> Result<(), Error> {
    expected.check(now.map(Sink::tag).as_deref()).map_err(Error::Precondition)
}

/// What cannot change while rows of it are in a table.
fn check_fixed(old: &Sink, wish: &Wish, mapping: &Mapping) -> Result<(), Error> {
    let fixed = |what: &str| {
        Err(Error::Fixed(format!("the {what} of a sink cannot change; make another sink")))
    };
    if old.wish.table != wish.table {
        return fixed("table");
    }
    if old.wish.from != wish.from {
        return fixed("start (`from`)");
    }
    // Rows that are there were told apart by the old one.
    if !old.mapping.has_key_of(mapping) {
        return fixed("primary key, with what fills it,");
    }
    Ok(())
}

/// Forgets a sink and its versions.
fn forget(sink: &Sink) -> Change {
    let change = Change::new().delete(Space::Sink, key(sink.topic_id, &sink.id));
    history::forget(change, &owner(sink.uid), sink.version)
}

/// Whose versions they are.
fn owner(uid: SinkUid) -> String {
    format!("sink/{}", uid.0)
}

fn unknown(id: &str) -> Error {
    Error::Unknown(id.chars().take(100).collect())
}

fn key(topic_id: TopicId, id: &str) -> Vec<u8> {
    [topic_id.0.as_bytes(), id.as_bytes()].concat()
}
