//! Topics and their options: name, type, default, doc, check; creation and deletion.
//!
//! Owns: the space `Topic`, the ids of topics and partitions. Does not own: partitions' content
//! (`log`), tables (`tier`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::runtime::{Clock, Tasks};
use crate::store::{self, Store};
use crate::types::{Offset, PartitionId, TopicId, TopicName};

mod choices;
pub mod event_fields;
pub mod option_def;
pub mod option_table;
pub mod option_value;
pub mod options;
pub mod public;

mod change;
mod registry;
pub mod rights;

use change::{Exclusive, Ids};
use options::{OptionView, Overrides};
use registry::Registry;
use rights::{MayWrite, SinkTables};

/// Name of the tasks that change topics.
const CHANGE: &str = "topic-change";

/// One topic as it is durably known; immutable, replaced on each change.
#[derive(Debug, Clone, PartialEq)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Its identity.
    pub id: TopicId,
    /// Internal numbers, by partition index.
    pub partitions: Vec<PartitionId>,
    /// Options set on the topic itself, canonical key to value as given.
    pub overrides: BTreeMap<String, String>,
    /// All options resolved: topic, then server, then default.
    pub options: options::TopicOptions,
    /// When it was made, milliseconds.
    pub created_ms: i64,
    /// Where its log ended by partition index when its table was last switched on: what came before,
    /// while it was off, is a gap of the table.
    pub table_resumed: BTreeMap<i32, Offset>,
}

impl Topic {
    /// `namespace.name` of the table that the topic writes to although others made it.
    pub fn contract_table(&self) -> Option<String> {
        let is_contract = self.options.table_mode == options::TableMode::Contract;
        let name = self.options.table_name.as_ref().filter(|_| is_contract)?;
        Some(format!("{}.{name}", self.options.table_namespace))
    }
}

/// Where the log ends, by partition index.
pub type LogEnds = Box<dyn Fn(&[PartitionId]) -> BTreeMap<i32, Offset> + Send + Sync>;

/// Who edits options, and what it takes to do so.
pub struct Editor {
    /// What they may write to.
    pub may_write: MayWrite,
    /// Asked when a table is switched on.
    pub ends: LogEnds,
}

impl Editor {
    /// The server itself, of a log that is not asked.
    pub fn server() -> Self {
        Self { may_write: MayWrite::everything(), ends: Box::new(|_| BTreeMap::new()) }
    }
}

/// A wish for a new topic.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    /// Name as given.
    pub name: String,
    /// Partitions; none means the server's `num.partitions`.
    pub partitions: Option<i32>,
    /// Options as given.
    pub overrides: BTreeMap<String, String>,
}

/// Why a topic could not be made or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Kafka's rules refuse the name.
    #[error(transparent)]
    InvalidName(#[from] crate::types::TopicNameError),
    /// The name is taken.
    #[error("topic {0} exists already")]
    Exists(TopicName),
    /// No such topic.
    #[error("topic {0} does not exist")]
    Unknown(String),
    /// No topic with that id.
    #[error("no topic has the id {0}")]
    UnknownId(TopicId),
    /// Partition count out of bounds or not growing.
    #[error("{0}")]
    InvalidPartitions(String),
    /// An option is unknown or its value is refused; the text names key, value and what is allowed.
    #[error("{0}")]
    InvalidConfig(String),
    /// A limit of the server (topics, partitions).
    #[error("{0}")]
    PolicyViolation(String),
    /// It is not to be deleted ([`Topics::keep`]).
    #[error(
        "topic {0} is in the file that says what there is (definitions.file): take it out first"
    )]
    Kept(TopicName),
    /// Who asks may not write to the table that the topic would write to.
    #[error("the topic would write to table {0}: that needs the rule write:table:{0}")]
    TableForbidden(String),
    /// Who asks may not send to the topic that anybody could send to.
    #[error("who opens topic {0} to whoever likes (topic.public) needs the rule write:topic:{0}")]
    TopicForbidden(TopicName),
    /// The state could not be written.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// One edit of a topic's options (KIP-339).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionEdit {
    /// Sets a key.
    Set(String, String),
    /// Back to the default.
    Delete(String),
    /// Adds items to a comma-separated list.
    Append(String, String),
    /// Removes items from a comma-separated list.
    Subtract(String, String),
}

/// How many topics and partitions there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Topics.
    pub topics_max: usize,
    /// Partitions of all topics together.
    pub partitions_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { topics_max: 10_000, partitions_max: 20_000 }
    }
}

/// What the server decides for all topics.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Options that hold where a topic does not set them, in any spelling.
    pub server: Overrides,
    /// Partitions of a topic whose creator does not say (`num.partitions`).
    pub num_partitions: i32,
    /// Every sender over HTTP has a rate (`http.rate.*`).
    pub senders_have_rate: bool,
    /// Bounds.
    pub limits: Limits,
    /// Checks `table.partition.spec`.
    pub check_partition_spec: option_value::CheckSpec,
}

/// All topics; cheap to clone.
#[derive(Clone)]
pub struct Topics {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    settings: Settings,
    clock: Clock,
    tasks: Tasks,
    /// Written only while `ids` is held, after the change is durable; never held across a wait.
    registry: RwLock<Registry>,
    /// Names of topics that are not deleted.
    kept: RwLock<BTreeSet<String>>,
    /// Where sinks write to, once that is known.
    sink_tables: OnceLock<SinkTables>,
    /// Serialises all changes; held until they are durable.
    ids: Arc<tokio::sync::Mutex<Ids>>,
    version: watch::Sender<u64>,
}

impl Topics {
    /// Reads all topics from `store`. Blocks.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if an option of the server is refused, [`Error::Store`].
    pub fn open(
        store: Store,
        settings: Settings,
        clock: Clock,
        tasks: Tasks,
    ) -> Result<Self, Error> {
        let server = options::normalise(&settings.server, settings.check_partition_spec)?;
        options::TopicOptions::resolve("t", &Overrides::new(), &server)?;
        public::check_server(&server)?;
        let settings = Settings { server, ..settings };
        let registry = Registry::load(&store, &settings.server)?;
        registry.list().iter().for_each(|topic| public::warn(topic, settings.senders_have_rate));
        let registry = RwLock::new(registry);
        let (ids, kept, sink_tables) = (Arc::default(), RwLock::default(), OnceLock::new());
        let version = watch::Sender::new(0);
        let inner =
            Inner { store, settings, clock, tasks, registry, kept, sink_tables, ids, version };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The topic of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.inner.registry.read().get(name).cloned()
    }

    /// The topic of that id; none for one that is draining.
    pub fn by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.inner.registry.read().by_id(id).cloned()
    }

    /// True if whoever sends no token may send events to the topic over HTTP.
    pub fn is_open(&self, topic: &Topic) -> bool {
        public::is_open(topic, self.inner.settings.senders_have_rate)
    }

    /// All topics, by name.
    pub fn list(&self) -> Vec<Arc<Topic>> {
        self.inner.registry.read().list()
    }

    /// The topic that has this partition, and whether it is draining.
    pub fn of_partition(&self, id: PartitionId) -> Option<(Arc<Topic>, bool)> {
        let registry = self.inner.registry.read();
        registry.of_partition(id).map(|owner| (Arc::clone(&owner.topic), owner.draining))
    }

    /// The topic of that id, and whether it is draining.
    pub fn live_or_draining(&self, id: TopicId) -> Option<(Arc<Topic>, bool)> {
        self.inner.registry.read().owner(id).map(|owner| (owner.topic, owner.draining))
    }

    /// Number of the newest change, and each topic that changed after change `seen` (0 is all) as it
    /// is now, with whether it is draining. Costs what has changed, not what there is.
    pub fn changed_since(&self, seen: u64) -> (u64, Vec<(Arc<Topic>, bool)>) {
        let (newest, owners) = self.inner.registry.read().changed_since(seen);
        (newest, owners.into_iter().map(|owner| (owner.topic, owner.draining)).collect())
    }

    /// Partitions of all topics together.
    pub fn partition_count(&self) -> usize {
        self.inner.registry.read().partition_count()
    }

    /// Lets no topic of these names be deleted from now on.
    pub fn keep(&self, names: BTreeSet<String>) {
        *self.inner.kept.write() = names;
    }

    /// Asks this where the sinks of a topic write to, from now on; only the first one counts.
    pub fn ask_sinks(&self, tables: SinkTables) {
        let _ = self.inner.sink_tables.set(tables);
    }

    /// Checks that there may be so many more topics, and so many more partitions of all together.
    ///
    /// # Errors
    /// [`Error::PolicyViolation`].
    pub fn check_room(&self, topics: usize, partitions: usize) -> Result<(), Error> {
        self.inner.check_limits(topics, partitions)
    }

    /// The options of a topic that has `overrides`; whether it may be public is not asked.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn resolve(
        &self,
        name: &str,
        overrides: &Overrides,
    ) -> Result<options::TopicOptions, Error> {
        let settings = &self.inner.settings;
        let overrides = self.inner.normalised(overrides)?;
        options::TopicOptions::resolve(name, &overrides, &settings.server)
    }

    /// Checks that what becomes public has a rate, and what is keeps it.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn check_public(
        &self,
        new: &options::TopicOptions,
        old: Option<&options::TopicOptions>,
    ) -> Result<(), Error> {
        public::check(new, old, self.inner.settings.senders_have_rate)
    }

    /// True if a topic with these options takes what anybody sends, and did not with the `old` ones.
    pub fn is_opened(
        &self,
        old: Option<&options::TopicOptions>,
        new: &options::TopicOptions,
    ) -> bool {
        public::is_opened(old, new, self.inner.settings.senders_have_rate)
    }

    /// Makes a topic; durable when it returns. With `validate_only` it only checks, and the
    /// partitions of the answer have no real numbers.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create(&self, new: NewTopic, validate_only: bool) -> Result<Arc<Topic>, Error> {
        self.create_for(new, validate_only, MayWrite::everything()).await
    }

    /// [`Topics::create`] for somebody.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_for(
        &self,
        new: NewTopic,
        validate_only: bool,
        may_write: MayWrite,
    ) -> Result<Arc<Topic>, Error> {
        let create = move |inner: Exclusive| async move {
            inner.create(new, (validate_only, false), &may_write).await
        };
        self.serial(create).await
    }

    /// Makes a topic behind what has its options already. If it is public without a rate, because the
    /// server lost its own since, it is made, and closed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_behind(&self, new: NewTopic) -> Result<Arc<Topic>, Error> {
        let create = move |inner: Exclusive| async move {
            inner.create(new, (false, true), &MayWrite::everything()).await
        };
        self.serial(create).await
    }

    /// Hides the topic at once; tiering and the log finish with it later (rules 6.2).
    ///
    /// # Errors
    /// See [`Error`]: [`Error::Kept`] among them.
    pub async fn delete(&self, name: &str) -> Result<Arc<Topic>, Error> {
        let name = name.to_owned();
        self.serial(move |inner| async move { inner.delete(&name).await }).await
    }

    /// [`Topics::delete`] of the topic with this id: never of a later one with the same name.
    ///
    /// # Errors
    /// [`Error::UnknownId`] and those of [`Topics::delete`].
    pub async fn delete_by_id(&self, id: TopicId) -> Result<Arc<Topic>, Error> {
        self.serial(move |inner| async move { inner.delete_by_id(id).await }).await
    }

    /// Raises the number of partitions to `total`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn grow(
        &self,
        name: &str,
        total: i32,
        validate_only: bool,
    ) -> Result<Arc<Topic>, Error> {
        let name = name.to_owned();
        self.serial(move |inner| async move { inner.grow(&name, total, validate_only).await }).await
    }

    /// Edits options (KIP-339): all edits or none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn edit(
        &self,
        name: &str,
        edits: Vec<OptionEdit>,
        validate_only: bool,
    ) -> Result<Arc<Topic>, Error> {
        self.edit_for(name, edits, validate_only, Editor::server()).await
    }

    /// [`Topics::edit`] for somebody.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn edit_for(
        &self,
        name: &str,
        edits: Vec<OptionEdit>,
        validate_only: bool,
        editor: Editor,
    ) -> Result<Arc<Topic>, Error> {
        let name = name.to_owned();
        let edit = move |inner: Exclusive| async move {
            inner.edit(&name, edits, validate_only, &editor).await
        };
        self.serial(edit).await
    }

    /// Replaces all options (`AlterConfigs`), for somebody.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn replace_for(
        &self,
        name: &str,
        overrides: BTreeMap<String, String>,
        validate_only: bool,
        editor: Editor,
    ) -> Result<Arc<Topic>, Error> {
        let name = name.to_owned();
        let replace = move |inner: Exclusive| async move {
            inner.replace(&name, &overrides, validate_only, &editor).await
        };
        self.serial(replace).await
    }

    /// Every option of `topic` with its value and where that comes from.
    pub fn describe(&self, topic: &Topic) -> Vec<OptionView> {
        options::describe(&topic.overrides, &self.inner.settings.server, &topic.options)
    }

    /// Deleted topics whose rows may still have to be tiered or whose log is not freed yet.
    pub fn draining(&self) -> Vec<Arc<Topic>> {
        self.inner.registry.read().draining().map(|entry| Arc::clone(&entry.topic)).collect()
    }

    /// When a draining topic was deleted, milliseconds.
    pub fn deleted_ms(&self, id: TopicId) -> Option<i64> {
        self.inner.registry.read().draining_of(id).map(|entry| entry.deleted_ms)
    }

    /// Forgets a draining topic with all state of its partitions, so that its log is free. The
    /// log must accept and read nothing of them any more. Does nothing for an unknown id.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn drained(&self, id: TopicId) -> Result<(), Error> {
        // The bulk goes in many changes that other topics need not wait for.
        let inner = Arc::clone(&self.inner);
        let emptied = async move { inner.empty(id).await };
        store::finish(&self.inner.tasks, CHANGE, emptied).await?;
        self.serial(move |inner| async move { inner.forget(id).await }).await
    }

    /// A number that grows with every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// Runs `work` alone among the changes.
    async fn serial<T, F>(
        &self,
        work: impl FnOnce(Exclusive) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let inner = Arc::clone(&self.inner);
        let change = async move { work(Exclusive::wait(inner).await).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }
}

#[cfg(test)]
mod tests;
