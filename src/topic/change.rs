//! The changes themselves: check against the pending state, make durable, show.
//!
//! Owns: their rules. Does not own: that they come one at a time and run to their end (`Topics`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use crate::store::{self, Change, Counter, Space, keys};
use crate::topic::option_def::{Kind, OptionDef};
use crate::topic::option_value;
use crate::topic::options::{self, Overrides, TableMode, TopicOptions};
use crate::topic::public;
use crate::topic::registry::{self, Registry};
use crate::topic::rights::{self, MayWrite};
use crate::topic::{Editor, Error, Inner, NewTopic, OptionEdit, Topic};
use crate::types::{PartitionId, TopicId, TopicName};

/// Partition numbers made durable ahead; what is left at a stop is never used.
const IDS_PER_BLOCK: u32 = 256;
/// Producer entries deleted by one change.
const PRODUCERS_PER_CHANGE: usize = 4_096;
/// Options set on one topic.
const OVERRIDES_MAX: usize = 200;

/// Partition numbers that are durable as taken but not handed out yet.
#[derive(Debug, Default)]
pub(crate) struct Ids(Range<u64>);

/// The right to change topics; one at a time.
pub(crate) struct Exclusive {
    inner: Arc<Inner>,
    ids: OwnedMutexGuard<Ids>,
}

impl Exclusive {
    pub(crate) async fn wait(inner: Arc<Inner>) -> Self {
        let ids = Arc::clone(&inner.ids).lock_owned().await;
        Self { inner, ids }
    }

    fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.inner.registry.read()
    }

    fn existing(&self, name: &str) -> Result<Arc<Topic>, Error> {
        self.registry().get(name).cloned().ok_or_else(|| Error::Unknown(shown(name)))
    }

    /// Makes `change` durable, then shows it.
    async fn commit(&self, change: Change, show: impl FnOnce(&mut Registry)) -> Result<(), Error> {
        self.inner.store.commit(change).await?;
        show(&mut self.inner.registry.write());
        self.inner.version.send_modify(|version| *version += 1);
        Ok(())
    }

    pub(crate) async fn create(
        mut self,
        new: NewTopic,
        (validate_only, is_checked): (bool, bool),
        may_write: &MayWrite,
    ) -> Result<Arc<Topic>, Error> {
        let name = TopicName::parse(&new.name)?;
        if self.registry().get(name.as_str()).is_some() {
            return Err(Error::Exists(name));
        }
        let count = match new.partitions {
            None | Some(-1) => self.inner.settings.num_partitions,
            Some(count) => count,
        };
        let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
            Error::InvalidPartitions(format!("{count} partitions: allowed is at least 1"))
        })?;
        self.inner.check_limits(1, count)?;
        let overrides = self.inner.normalised(&new.overrides)?;
        let options = match is_checked {
            false => self.inner.resolved(name.as_str(), &overrides, None)?,
            true => TopicOptions::resolve(name.as_str(), &overrides, &self.inner.settings.server)?,
        };
        let mut topic = Topic {
            name,
            id: TopicId(Uuid::new_v4()),
            partitions: vec![PartitionId(0); count],
            overrides,
            options,
            created_ms: self.inner.clock.now_ms(),
            table_resumed: BTreeMap::new(),
        };
        self.inner.check_rights(None, &topic, may_write)?;
        if validate_only {
            return Ok(Arc::new(topic));
        }
        topic.partitions = self.take_ids(count).await?;
        let change = registry::put(created(&topic.partitions), &topic)?;
        let topic = Arc::new(topic);
        self.commit(change, |registry| registry.put(Arc::clone(&topic))).await?;
        tracing::info!(topic = %topic.name, id = %topic.id, partitions = count, "topic created");
        warn_of_compaction(&topic);
        public::warn(&topic, self.inner.settings.senders_have_rate);
        Ok(topic)
    }

    pub(crate) async fn delete(self, name: &str) -> Result<Arc<Topic>, Error> {
        let topic = self.existing(name)?;
        self.drain(topic).await
    }

    pub(crate) async fn delete_by_id(self, id: TopicId) -> Result<Arc<Topic>, Error> {
        let topic = self.registry().by_id(id).cloned().ok_or(Error::UnknownId(id))?;
        self.drain(topic).await
    }

    async fn drain(self, topic: Arc<Topic>) -> Result<Arc<Topic>, Error> {
        if self.inner.kept.read().contains(topic.name.as_str()) {
            return Err(Error::Kept(topic.name.clone()));
        }
        let deleted_ms = self.inner.clock.now_ms();
        let change = registry::drain(&topic, deleted_ms)?;
        self.commit(change, |registry| registry.drain(Arc::clone(&topic), deleted_ms)).await?;
        tracing::info!(topic = %topic.name, id = %topic.id, "topic deleted");
        Ok(topic)
    }

    pub(crate) async fn grow(
        mut self,
        name: &str,
        total: i32,
        validate_only: bool,
    ) -> Result<Arc<Topic>, Error> {
        let topic = self.existing(name)?;
        let now = topic.partitions.len();
        let more = usize::try_from(total).ok().and_then(|total| total.checked_sub(now));
        let more = more.filter(|more| *more > 0).ok_or_else(|| {
            Error::InvalidPartitions(format!(
                "topic {} has {now} partitions, {total} is not more",
                topic.name
            ))
        })?;
        self.inner.check_limits(0, more)?;
        let mut grown = Topic::clone(&topic);
        if validate_only {
            grown.partitions.resize(now + more, PartitionId(0));
            return Ok(Arc::new(grown));
        }
        let fresh = self.take_ids(more).await?;
        grown.partitions.extend_from_slice(&fresh);
        let change = registry::put(created(&fresh), &grown)?;
        let grown = Arc::new(grown);
        self.commit(change, |registry| registry.put(Arc::clone(&grown))).await?;
        tracing::info!(topic = %grown.name, partitions = now + more, "topic has more partitions");
        Ok(grown)
    }

    pub(crate) async fn edit(
        self,
        name: &str,
        edits: Vec<OptionEdit>,
        validate_only: bool,
        editor: &Editor,
    ) -> Result<Arc<Topic>, Error> {
        let topic = self.existing(name)?;
        let mut overrides = topic.overrides.clone();
        let server = &self.inner.settings.server;
        check_each_once(&edits)?;
        edits.into_iter().try_for_each(|edit| apply_edit(&mut overrides, server, edit))?;
        self.reconfigure(&topic, &overrides, validate_only, editor).await
    }

    pub(crate) async fn replace(
        self,
        name: &str,
        overrides: &Overrides,
        validate_only: bool,
        editor: &Editor,
    ) -> Result<Arc<Topic>, Error> {
        let topic = self.existing(name)?;
        self.reconfigure(&topic, overrides, validate_only, editor).await
    }

    async fn reconfigure(
        self,
        topic: &Topic,
        overrides: &Overrides,
        validate_only: bool,
        editor: &Editor,
    ) -> Result<Arc<Topic>, Error> {
        let overrides = self.inner.normalised(overrides)?;
        let was = Some(&topic.options);
        let options = self.inner.resolved(topic.name.as_str(), &overrides, was)?;
        let old = topic;
        let mut topic = Topic { overrides, options, ..old.clone() };
        let is_off = |topic: &Topic| topic.options.table_mode == TableMode::Off;
        if is_off(old) && !is_off(&topic) {
            topic.table_resumed = (editor.ends)(&topic.partitions);
        }
        let topic = Arc::new(topic);
        self.inner.check_rights(Some(old), &topic, &editor.may_write)?;
        if !validate_only {
            let change = registry::put(Change::new(), &topic)?;
            self.commit(change, |registry| registry.put(Arc::clone(&topic))).await?;
            tracing::info!(topic = %topic.name, "topic options changed");
            if !old.options.compacted {
                warn_of_compaction(&topic);
            }
        }
        Ok(topic)
    }

    /// Forgets a draining topic that was emptied.
    pub(crate) async fn forget(self, id: TopicId) -> Result<(), Error> {
        let Some(entry) = self.registry().draining_of(id).cloned() else {
            return Ok(());
        };
        let change = entry.topic.partitions.iter().fold(Change::new(), |change, partition| {
            change.delete(Space::Partition, keys::log_start(*partition))
        });
        self.commit(registry::forget(change, id), |registry| registry.forget(id)).await?;
        tracing::info!(topic = %entry.topic.name, %id, "log of a deleted topic freed");
        Ok(())
    }

    async fn take_ids(&mut self, count: usize) -> Result<Vec<PartitionId>, Error> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let Some(id) = self.ids.0.next() else {
                let missing = u32::try_from(count - taken.len()).unwrap_or(u32::MAX);
                let block = missing.max(IDS_PER_BLOCK);
                let first = self.inner.store.reserve(Counter::Partition, block).await?;
                self.ids.0 = first..first + u64::from(block);
                continue;
            };
            let id = u32::try_from(id).map_err(|_| {
                Error::PolicyViolation("all internal partition numbers are used up".to_owned())
            })?;
            taken.push(PartitionId(id));
        }
        Ok(taken)
    }
}

impl Inner {
    pub(crate) fn check_limits(&self, topics: usize, partitions: usize) -> Result<(), Error> {
        let limits = self.settings.limits;
        let registry = self.registry.read();
        let (topics_now, partitions_now) = (registry.topic_count(), registry.partition_count());
        if topics_now + topics > limits.topics_max {
            let limit = limits.topics_max;
            return Err(Error::PolicyViolation(format!(
                "there are {topics_now} topics, the limit is {limit}"
            )));
        }
        if partitions > limits.partitions_max.saturating_sub(partitions_now) {
            return Err(Error::PolicyViolation(format!(
                "{partitions} more partitions to {partitions_now}: the limit is {}",
                limits.partitions_max
            )));
        }
        Ok(())
    }

    pub(crate) fn normalised(&self, overrides: &Overrides) -> Result<Overrides, Error> {
        if overrides.len() > OVERRIDES_MAX {
            let count = overrides.len();
            return Err(Error::InvalidConfig(format!(
                "{count} options on one topic: the limit is {OVERRIDES_MAX}"
            )));
        }
        options::normalise(overrides, self.settings.check_partition_spec)
    }

    /// The options of a topic that had others, or is new.
    fn resolved(
        &self,
        name: &str,
        overrides: &Overrides,
        old: Option<&TopicOptions>,
    ) -> Result<TopicOptions, Error> {
        let options = TopicOptions::resolve(name, overrides, &self.settings.server)?;
        public::check(&options, old, self.settings.senders_have_rate)?;
        Ok(options)
    }

    fn check_rights(
        &self,
        old: Option<&Topic>,
        new: &Topic,
        may_write: &MayWrite,
    ) -> Result<(), Error> {
        let known = (self.settings.senders_have_rate, self.sink_tables.get());
        rights::check(old, new, may_write, known)
    }

    /// Drops index and producer entries of a draining topic in small changes; can be repeated.
    pub(crate) async fn empty(self: Arc<Self>, id: TopicId) -> Result<(), Error> {
        let Some(entry) = self.registry.read().draining_of(id).cloned() else {
            return Ok(());
        };
        for partition in entry.topic.partitions.iter().copied() {
            let Some(state) = self.store.partition(partition)? else {
                continue;
            };
            let mut reached = state.log_start;
            while reached < state.next_offset {
                reached = self
                    .blocking(move |store| store.trim_step(partition, state.next_offset))
                    .await?;
                self.store.commit(keys::put_log_start(Change::new(), partition, reached)).await?;
            }
            let producers = self.blocking(move |store| {
                let mut found = Vec::new();
                store.for_each(Space::Producer, &keys::of_partition(partition), |key, _| {
                    found.push(key.to_vec());
                    Ok(())
                })?;
                Ok(found)
            });
            for chunk in producers.await?.chunks(PRODUCERS_PER_CHANGE) {
                let change = chunk
                    .iter()
                    .fold(Change::new(), |change, key| change.delete(Space::Producer, key.clone()));
                self.store.commit(change).await?;
            }
        }
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&store::Store) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || read(&store)).await;
        let done = done.map_err(|error| store::Error::Failed(format!("reading state: {error}")))?;
        Ok(done?)
    }
}

fn warn_of_compaction(topic: &Topic) {
    if topic.options.compacted {
        tracing::warn!(topic = %topic.name, "there is no compaction yet, every record is kept");
    }
}

fn created(partitions: &[PartitionId]) -> Change {
    partitions.iter().fold(Change::new(), |change, id| keys::create_partition(change, *id))
}

/// One option in two spellings would leave it to chance which edit counts.
fn check_each_once(edits: &[OptionEdit]) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for edit in edits {
        let (OptionEdit::Set(key, _)
        | OptionEdit::Delete(key)
        | OptionEdit::Append(key, _)
        | OptionEdit::Subtract(key, _)) = edit;
        let key = option_value::definition(key)?.key;
        if !seen.insert(key) {
            return Err(Error::InvalidConfig(format!("{key} is changed twice")));
        }
    }
    Ok(())
}

fn apply_edit(
    overrides: &mut Overrides,
    server: &Overrides,
    edit: OptionEdit,
) -> Result<(), Error> {
    match edit {
        OptionEdit::Set(key, value) => {
            let (def, value) = option_value::canonical(&key, &value)?;
            overrides.insert(def.key.to_owned(), value);
        }
        OptionEdit::Delete(key) => {
            overrides.remove(option_value::definition(&key)?.key);
        }
        OptionEdit::Append(key, value) => {
            edit_list(overrides, server, &key, |items| {
                for item in option_value::list(&value) {
                    if !items.iter().any(|other| other == item) {
                        items.push(item.to_owned());
                    }
                }
            })?;
        }
        OptionEdit::Subtract(key, value) => {
            let gone: BTreeSet<&str> = option_value::list(&value).collect();
            edit_list(overrides, server, &key, |items| {
                items.retain(|item| !gone.contains(item.as_str()));
            })?;
        }
    }
    Ok(())
}

/// Edits the items in effect, wherever they come from (source: Kafka's `ConfigAdminManager`).
fn edit_list(
    overrides: &mut Overrides,
    server: &Overrides,
    key: &str,
    edit: impl FnOnce(&mut Vec<String>),
) -> Result<(), Error> {
    let def: &OptionDef = option_value::definition(key)?;
    if !matches!(def.kind, Kind::List(_) | Kind::Replicas) {
        return Err(Error::InvalidConfig(format!(
            "{} is not a list: append and subtract are for lists alone",
            def.key
        )));
    }
    let now = overrides.get(def.key).or_else(|| server.get(def.key)).map_or(def.default, |v| v);
    let mut items: Vec<String> = option_value::list(now).map(str::to_owned).collect();
    edit(&mut items);
    overrides.insert(def.key.to_owned(), items.join(","));
    Ok(())
}

fn shown(name: &str) -> String {
    name.chars().take(crate::types::TOPIC_NAME_LEN_MAX).collect()
}
