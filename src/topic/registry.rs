//! Topics in memory and as they are stored.
//!
//! ```text
//! Topic  "t/" name            JSON: v = 1, name, id, partitions, overrides, created_ms
//! Topic  "d/" id (16 bytes)   the same with deleted_ms, while the topic is draining
//! ```
//!
//! Owns: the maps and this layout. Does not own: the order of changes (`Topics`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::{Change, Space, Store};
use crate::topic::options::{Overrides, TopicOptions};
use crate::topic::{Error, Topic};
use crate::types::{Offset, PartitionId, TopicId, TopicName};

const VERSION: u32 = 1;
const LIVE: &[u8] = b"t/";
const DRAINING: &[u8] = b"d/";

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    v: u32,
    name: TopicName,
    id: TopicId,
    partitions: Vec<PartitionId>,
    overrides: Overrides,
    created_ms: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    table_resumed: BTreeMap<i32, Offset>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    deleted_ms: Option<i64>,
}

/// A deleted topic that is not forgotten yet.
#[derive(Debug, Clone)]
pub(crate) struct Draining {
    pub(crate) topic: Arc<Topic>,
    pub(crate) deleted_ms: i64,
}

/// A topic, live or draining.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) topic: Arc<Topic>,
    pub(crate) draining: bool,
}

/// When each topic changed last, counted in changes.
#[derive(Debug, Default)]
struct Changes {
    newest: u64,
    by_number: BTreeMap<u64, TopicId>,
    of_topic: HashMap<TopicId, u64>,
}

impl Changes {
    fn add(&mut self, id: TopicId) {
        self.forget(id);
        self.newest += 1;
        self.by_number.insert(self.newest, id);
        self.of_topic.insert(id, self.newest);
    }

    fn forget(&mut self, id: TopicId) {
        if let Some(number) = self.of_topic.remove(&id) {
            self.by_number.remove(&number);
        }
    }
}

/// All topics. Every change costs what its own topic has of partitions, however many others there
/// are.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    by_name: BTreeMap<String, Arc<Topic>>,
    by_id: HashMap<TopicId, Arc<Topic>>,
    draining: BTreeMap<TopicId, Draining>,
    /// Live and draining topics.
    by_partition: HashMap<PartitionId, Owner>,
    changes: Changes,
    partitions: usize,
}

impl Registry {
    /// Reads all topics; an option that no longer resolves falls back to the server's value,
    /// with a warning, so that a start never fails on one topic.
    pub(crate) fn load(store: &Store, server: &Overrides) -> Result<Self, Error> {
        let mut registry = Self::default();
        for (_, value) in store.scan(Space::Topic, b"")? {
            let stored: Stored = serde_json::from_slice(&value)
                .map_err(|error| failed(format!("a stored topic is malformed: {error}")))?;
            if stored.v != VERSION {
                return Err(failed(format!(
                    "topic {} is stored in version {}, this release knows {VERSION}",
                    stored.name, stored.v
                )));
            }
            let deleted_ms = stored.deleted_ms;
            let topic = Arc::new(stored.resolve(server)?);
            match deleted_ms {
                None => registry.put(topic),
                Some(deleted_ms) => registry.put_draining(topic, deleted_ms),
            }
        }
        Ok(registry)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    pub(crate) fn by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    pub(crate) fn of_partition(&self, id: PartitionId) -> Option<&Owner> {
        self.by_partition.get(&id)
    }

    /// The topic of that id, live or draining.
    pub(crate) fn owner(&self, id: TopicId) -> Option<Owner> {
        if let Some(topic) = self.by_id.get(&id) {
            return Some(Owner { topic: Arc::clone(topic), draining: false });
        }
        let draining = self.draining.get(&id)?;
        Some(Owner { topic: Arc::clone(&draining.topic), draining: true })
    }

    /// Number of the newest change, and the topics that changed after change `seen` as they are now.
    pub(crate) fn changed_since(&self, seen: u64) -> (u64, Vec<Owner>) {
        let later = self.changes.by_number.range(seen.saturating_add(1)..);
        (self.changes.newest, later.filter_map(|(_, id)| self.owner(*id)).collect())
    }

    pub(crate) fn list(&self) -> Vec<Arc<Topic>> {
        self.by_name.values().cloned().collect()
    }

    pub(crate) fn draining(&self) -> impl Iterator<Item = &Draining> {
        self.draining.values()
    }

    pub(crate) fn draining_of(&self, id: TopicId) -> Option<&Draining> {
        self.draining.get(&id)
    }

    pub(crate) fn topic_count(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn partition_count(&self) -> usize {
        self.partitions
    }

    /// Adds a topic, or replaces the one of the same name.
    pub(crate) fn put(&mut self, topic: Arc<Topic>) {
        self.partitions += topic.partitions.len();
        self.own(&topic, false);
        self.by_id.insert(topic.id, Arc::clone(&topic));
        if let Some(old) = self.by_name.insert(topic.name.to_string(), topic) {
            self.partitions -= old.partitions.len();
        }
    }

    /// Moves a topic to the draining ones.
    pub(crate) fn drain(&mut self, topic: Arc<Topic>, deleted_ms: i64) {
        if let Some(old) = self.by_name.remove(topic.name.as_str()) {
            self.partitions -= old.partitions.len();
        }
        self.by_id.remove(&topic.id);
        self.put_draining(topic, deleted_ms);
    }

    fn put_draining(&mut self, topic: Arc<Topic>, deleted_ms: i64) {
        self.own(&topic, true);
        self.draining.insert(topic.id, Draining { topic, deleted_ms });
    }

    fn own(&mut self, topic: &Arc<Topic>, draining: bool) {
        self.changes.add(topic.id);
        let owner = || Owner { topic: Arc::clone(topic), draining };
        self.by_partition.extend(topic.partitions.iter().map(|id| (*id, owner())));
    }

    pub(crate) fn forget(&mut self, id: TopicId) {
        let Some(gone) = self.draining.remove(&id) else { return };
        self.changes.forget(id);
        for partition in &gone.topic.partitions {
            self.by_partition.remove(partition);
        }
    }
}

impl Stored {
    fn resolve(self, server: &Overrides) -> Result<Topic, Error> {
        let name = self.name.as_str();
        let options = TopicOptions::resolve(name, &self.overrides, server).or_else(|error| {
            tracing::warn!(topic = name, %error, "options set on the topic are left aside");
            TopicOptions::resolve(name, &Overrides::new(), server)
        })?;
        Ok(Topic {
            name: self.name,
            id: self.id,
            partitions: self.partitions,
            overrides: self.overrides,
            options,
            created_ms: self.created_ms,
            table_resumed: self.table_resumed,
        })
    }
}

/// The write that makes `topic` as it is now durable.
pub(crate) fn put(change: Change, topic: &Topic) -> Result<Change, Error> {
    Ok(change.put(Space::Topic, live_key(&topic.name), encode(topic, None)?))
}

/// The writes that hide a topic.
pub(crate) fn drain(topic: &Topic, deleted_ms: i64) -> Result<Change, Error> {
    let stored = encode(topic, Some(deleted_ms))?;
    Ok(Change::new().delete(Space::Topic, live_key(&topic.name)).put(
        Space::Topic,
        draining_key(topic.id),
        stored,
    ))
}

/// The write that forgets a draining topic.
pub(crate) fn forget(change: Change, id: TopicId) -> Change {
    change.delete(Space::Topic, draining_key(id))
}

fn encode(topic: &Topic, deleted_ms: Option<i64>) -> Result<Vec<u8>, Error> {
    let stored = Stored {
        v: VERSION,
        name: topic.name.clone(),
        id: topic.id,
        partitions: topic.partitions.clone(),
        overrides: topic.overrides.clone(),
        created_ms: topic.created_ms,
        table_resumed: topic.table_resumed.clone(),
        deleted_ms,
    };
    serde_json::to_vec(&stored).map_err(|error| failed(format!("topic {}: {error}", topic.name)))
}

fn live_key(name: &TopicName) -> Vec<u8> {
    [LIVE, name.as_str().as_bytes()].concat()
}

fn draining_key(id: TopicId) -> Vec<u8> {
    [DRAINING, id.0.as_bytes()].concat()
}

fn failed(text: String) -> Error {
    Error::Store(crate::store::Error::Failed(text))
}
