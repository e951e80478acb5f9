//! All sinks in memory and as they are stored.
//!
//! Owns: the map, the order of changes, their layout on disk. Does not own: what a wish may be
//! (`wish`).

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::{Error, SINKS_MAX, SINKS_PER_TOPIC_MAX, Sink, Wish};
use crate::runtime::{Clock, Tasks};
use crate::store::{self, Change, Space, Store};
use crate::types::{Expected, Offset, SinkUid, TopicId};

const VERSION: u32 = 1;
/// Name of the tasks that change sinks.
const CHANGE: &str = "sink-change";

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    v: u32,
    uid: SinkUid,
    topic_id: TopicId,
    id: String,
    wish: Wish,
    version: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    starts: BTreeMap<i32, Offset>,
    created_ms: i64,
    changed_ms: i64,
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
            let sink = decode(&value)?;
            by_topic.entry(sink.topic_id).or_default().insert(sink.id.clone(), Arc::new(sink));
        }
        let (by_topic, changes) = (RwLock::new(by_topic), tokio::sync::Mutex::default());
        let newest = watch::Sender::new(0);
        Ok(Self { inner: Arc::new(Inner { store, clock, tasks, by_topic, changes, newest }) })
    }

    /// The topic's sink of that id.
    pub fn get(&self, topic_id: TopicId, id: &str) -> Option<Arc<Sink>> {
        self.inner.by_topic.read().get(&topic_id)?.get(id).cloned()
    }

    /// The topic's sinks, by id.
    pub fn of_topic(&self, topic_id: TopicId) -> Vec<Arc<Sink>> {
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

    /// Makes a sink or replaces it; durable when it returns. `starts` is where it begins if it is
    /// made. With `dry_run` it only checks.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(
        &self,
        (topic_id, id): (TopicId, &str),
        wish: Wish,
        starts: BTreeMap<i32, Offset>,
        expected: Expected,
        dry_run: bool,
    ) -> Result<Put, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let change = async move { inner.put(topic_id, id, wish, starts, &expected, dry_run).await };
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
        wish: Wish,
        starts: BTreeMap<i32, Offset>,
        expected: &Expected,
        dry_run: bool,
    ) -> Result<Put, Error> {
        let mapping = Arc::new(wish.check(&id)?);
        // As it is read back, whatever aliases it was written with.
        let wish = Wish { mapping: mapping.to_json(), ..wish };
        let _alone = self.changes.lock().await;
        let old = self.existing(topic_id, &id);
        met(expected, old.as_deref())?;
        let now_ms = self.clock.now_ms();
        let sink = match &old {
            Some(old) if old.wish == wish => return Ok(Put::Same(Arc::clone(old))),
            Some(old) => {
                check_fixed(old, &wish)?;
                let (version, changed_ms) = (old.version + 1, now_ms);
                Sink { wish, mapping, version, changed_ms, ..Sink::clone(old) }
            }
            None => {
                self.check_room(topic_id, &wish)?;
                let uid = SinkUid(Uuid::new_v4());
                let (created_ms, changed_ms) = (now_ms, now_ms);
                let version = 1;
                Sink { uid, topic_id, id, wish, mapping, version, starts, created_ms, changed_ms }
            }
        };
        let sink = Arc::new(sink);
        if !dry_run {
            let change = Change::new().put(Space::Sink, key(topic_id, &sink.id), encode(&sink)?);
            self.store.commit(change).await?;
            let mut by_topic = self.by_topic.write();
            by_topic.entry(topic_id).or_default().insert(sink.id.clone(), Arc::clone(&sink));
            self.newest.send_modify(|newest| *newest += 1);
        }
        Ok(if old.is_some() { Put::Replaced(sink) } else { Put::Made(sink) })
    }

    /// Checks what a new sink needs of all others.
    fn check_room(&self, topic_id: TopicId, wish: &Wish) -> Result<(), Error> {
        let by_topic = self.by_topic.read();
        let of_topic = by_topic.get(&topic_id).map_or(0, BTreeMap::len);
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
        let taken = |one: &&Arc<Sink>| one.wish.table.display().eq_ignore_ascii_case(&table);
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
        let unknown = || Error::Unknown(id.chars().take(100).collect());
        let sink = self.existing(topic_id, id).ok_or_else(unknown)?;
        met(expected, Some(&sink))?;
        self.store.commit(Change::new().delete(Space::Sink, key(topic_id, id))).await?;
        let mut by_topic = self.by_topic.write();
        if let Some(sinks) = by_topic.get_mut(&topic_id) {
            sinks.remove(id);
            if sinks.is_empty() {
                by_topic.remove(&topic_id);
            }
        }
        self.newest.send_modify(|newest| *newest += 1);
        Ok(sink)
    }

    async fn forget(&self, topic_id: TopicId) -> Result<(), Error> {
        let _alone = self.changes.lock().await;
        let ids: Vec<String> = match self.by_topic.read().get(&topic_id) {
            Some(sinks) => sinks.keys().cloned().collect(),
            None => return Ok(()),
        };
        let gone = |change: Change, id: &String| change.delete(Space::Sink, key(topic_id, id));
        self.store.commit(ids.iter().fold(Change::new(), gone)).await?;
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
fn check_fixed(old: &Sink, wish: &Wish) -> Result<(), Error> {
    let fixed = |what: &str| {
        Err(Error::Fixed(format!("the {what} of a sink cannot change; make another sink")))
    };
    if old.wish.table != wish.table {
        return fixed("table");
    }
    if old.wish.from != wish.from {
        return fixed("start (`from`)");
    }
    Ok(())
}

fn key(topic_id: TopicId, id: &str) -> Vec<u8> {
    [topic_id.0.as_bytes(), id.as_bytes()].concat()
}

pub(super) fn encode(sink: &Sink) -> Result<Vec<u8>, Error> {
    let Sink { uid, topic_id, version, created_ms, changed_ms, .. } = *sink;
    let (id, wish, starts) = (sink.id.clone(), sink.wish.clone(), sink.starts.clone());
    let v = VERSION;
    let stored = Stored { v, uid, topic_id, id, wish, version, starts, created_ms, changed_ms };
    serde_json::to_vec(&stored).map_err(|error| failed(&error.to_string()))
}

pub(super) fn decode(value: &[u8]) -> Result<Sink, Error> {
    let stored: Stored = serde_json::from_slice(value)
        .map_err(|error| failed(&format!("a stored sink is malformed: {error}")))?;
    let Stored { v, uid, topic_id, id, wish, version, starts, created_ms, changed_ms } = stored;
    if v != VERSION {
        let text = format!("sink {id} is stored in version {v}, this release knows {VERSION}");
        return Err(failed(&text));
    }
    let mapping = wish.check(&id).map_err(|error| failed(&format!("stored sink {id}: {error}")))?;
    let mapping = Arc::new(mapping);
    Ok(Sink { uid, topic_id, id, wish, mapping, version, starts, created_ms, changed_ms })
}

fn failed(reason: &str) -> Error {
    Error::Store(store::Error::Failed(reason.to_owned()))
}
