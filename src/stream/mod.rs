//! Event streams: doors over HTTP to tables that are there, each with a name, a switch and the options
//! of the topics behind it.
//!
//! ```text
//! Stream  name    JSON: v = 1, name, namespace, tags, running, options, created_ms,
//!                 unsettled unless it is empty
//! ```
//!
//! Owns: the space `Stream`. Does not own: the route (`http`), topics and what their options mean
//! (`topic`), tables.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::runtime::{Clock, Tasks};
use crate::store::{self, Change, Space, Store};
use crate::types::Expected;

const VERSION: u32 = 1;
/// Most streams.
pub const STREAMS_MAX: usize = 10_000;
/// Longest name of a stream or of its namespace, in bytes.
const NAME_BYTES_MAX: usize = 63;
/// Most tags of one stream, and the longest, in bytes.
const TAGS_MAX: usize = 50;
const TAG_BYTES_MAX: usize = 128;
/// Bytes of the hash that names a version.
const TAG_LEN: usize = 12;
/// Turns that streams share, by the hash of their names ([`Streams::alone`]).
const TURNS: usize = 64;
/// Name of the tasks that change streams.
const CHANGE: &str = "stream-change";

/// A stream as it is durably known; immutable, replaced on each change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    v: u32,
    /// Its name, unique on the server.
    pub name: String,
    /// The label that its path has.
    pub namespace: String,
    /// Words of the user's.
    pub tags: Vec<String>,
    /// It takes events; otherwise it was terminated.
    pub running: bool,
    /// Options of its topics, as given.
    pub options: BTreeMap<String, String>,
    /// When it was made, milliseconds.
    pub created_ms: i64,
    /// Options that topics behind it may not have yet as it has them; no part of its version.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub unsettled: BTreeSet<String>,
}

impl Stream {
    /// What names this version: another content has another tag.
    pub fn tag(&self) -> String {
        let said = Self { unsettled: BTreeSet::new(), ..self.clone() };
        let content = serde_json::to_vec(&said).unwrap_or_default();
        let hash = Sha256::digest(&content);
        hash.iter().take(TAG_LEN).map(|byte| format!("{byte:02x}")).collect()
    }

    /// As it would be if it was as wished.
    fn as_wished(&self, wish: NewStream) -> Self {
        let NewStream { namespace, tags, options, .. } = wish;
        Self { namespace, tags, options, ..self.clone() }
    }

    /// With a mark at the options that it has in another way than `before`: the mark is durable with
    /// them, so that whatever ends here, the topics get them later.
    fn after(mut self, before: &Self) -> Self {
        self.unsettled.extend(changed(&before.options, &self.options));
        self
    }
}

/// Keys of the options that differ.
pub fn changed(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> BTreeSet<String> {
    let keys = before.keys().chain(after.keys());
    keys.filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
}

/// A wish for a stream.
#[derive(Debug, Clone, Default)]
pub struct NewStream {
    /// Its name.
    pub name: String,
    /// The label that its path has.
    pub namespace: String,
    /// Words of the user's.
    pub tags: Vec<String>,
    /// Options of its topics; they were checked.
    pub options: BTreeMap<String, String>,
}

/// What becomes other of a stream.
#[derive(Debug, Clone, Default)]
pub struct StreamEdit {
    /// All its tags; none leaves them as they are.
    pub tags: Option<Vec<String>>,
    /// Options of its topics that change, none for those that go; they were checked.
    pub options: BTreeMap<String, Option<String>>,
}

impl StreamEdit {
    /// Makes of a stream's options what they will be.
    pub fn apply_to(&self, options: &mut BTreeMap<String, String>) {
        for (key, value) in &self.options {
            match value {
                Some(value) => options.insert(key.clone(), value.clone()),
                None => options.remove(key),
            };
        }
    }
}

/// Why streams cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A name or tag is refused; the text says what is allowed.
    #[error("{0}")]
    Invalid(String),
    /// The name is taken.
    #[error("stream {0:?} exists already")]
    Exists(String),
    /// No such stream.
    #[error("there is no stream {0:?}")]
    Unknown(String),
    /// It is not as it was expected to be.
    #[error("{0}")]
    Precondition(String),
    /// All places are taken.
    #[error("there are {STREAMS_MAX} streams already; delete some")]
    TooMany,
    /// The state could not be written.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// All streams; cheap to clone.
#[derive(Clone)]
pub struct Streams {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    tasks: Tasks,
    /// Written only while `changes` is held, after the change is durable; never held across a wait.
    by_name: RwLock<BTreeMap<String, Arc<Stream>>>,
    /// Serialises all changes; held until they are durable.
    changes: tokio::sync::Mutex<()>,
    /// Of those who change a stream and the topics behind it; taken before `changes`.
    turns: Vec<Arc<tokio::sync::Mutex<()>>>,
}

impl Streams {
    /// Reads all streams from `store`. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(store: Store, clock: Clock, tasks: Tasks) -> Result<Self, Error> {
        let mut by_name = BTreeMap::new();
        for (_, value) in store.scan(Space::Stream, b"")? {
            let stream = decode(&value)?;
            by_name.insert(stream.name.clone(), Arc::new(stream));
        }
        let (by_name, changes) = (RwLock::new(by_name), tokio::sync::Mutex::default());
        let turns = (0..TURNS).map(|_| Arc::default()).collect();
        Ok(Self { inner: Arc::new(Inner { store, clock, tasks, by_name, changes, turns }) })
    }

    /// The stream of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Stream>> {
        self.inner.by_name.read().get(name).cloned()
    }

    /// All streams, by name.
    pub fn list(&self) -> Vec<Arc<Stream>> {
        self.inner.by_name.read().values().cloned().collect()
    }

    /// Runs `work` on a stream and the topics behind it, alone among all such work on the stream, and
    /// to its end even if who asked goes away. It must not ask for a turn itself.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn alone<T: Send + 'static>(
        &self,
        name: &str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = Arc::clone(self.inner.turn(name)).lock_owned().await;
        let work = async move {
            let done = work.await;
            drop(turn);
            Ok(done)
        };
        store::finish(&self.inner.tasks, CHANGE, work).await
    }

    /// Takes note that the topics behind a stream have all its options.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Store`].
    pub async fn settle(&self, name: &str) -> Result<Arc<Stream>, Error> {
        let name = name.to_owned();
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.settle(&name).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Makes a stream that takes events; durable when it returns.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create(&self, new: NewStream) -> Result<Arc<Stream>, Error> {
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.create(new).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Lets a stream take events, or ends that.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Store`].
    pub async fn switch(&self, name: &str, running: bool) -> Result<Arc<Stream>, Error> {
        let name = name.to_owned();
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.switch(&name, running).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Makes a stream that takes events, or replaces what was wished for it: whether it takes events
    /// stays. Tells whether it is new. With `dry_run` nothing is changed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(
        &self,
        wish: NewStream,
        expected: Expected,
        dry_run: bool,
    ) -> Result<(Arc<Stream>, bool), Error> {
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.replace(wish, &expected, dry_run).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Gives a stream other tags or options. With `dry_run` nothing is changed.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unknown`], [`Error::Precondition`], [`Error::Store`].
    pub async fn edit(
        &self,
        name: &str,
        edit: StreamEdit,
        expected: Expected,
        dry_run: bool,
    ) -> Result<Arc<Stream>, Error> {
        let name = name.to_owned();
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.edit(&name, edit, &expected, dry_run).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }

    /// Forgets a stream.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Precondition`], [`Error::Store`].
    pub async fn delete(&self, name: &str, expected: Expected) -> Result<Arc<Stream>, Error> {
        let name = name.to_owned();
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.delete(&name, &expected).await };
        store::finish(&self.inner.tasks, CHANGE, change).await
    }
}

impl Inner {
    fn turn(&self, name: &str) -> &Arc<tokio::sync::Mutex<()>> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default();
        &self.turns[at]
    }

    async fn create(&self, new: NewStream) -> Result<Arc<Stream>, Error> {
        check(&new)?;
        let _alone = self.changes.lock().await;
        if self.by_name.read().contains_key(&new.name) {
            return Err(Error::Exists(new.name));
        }
        if self.by_name.read().len() >= STREAMS_MAX {
            return Err(Error::TooMany);
        }
        self.put(self.made_of(new)).await
    }

    fn made_of(&self, new: NewStream) -> Stream {
        let NewStream { name, namespace, tags, options } = new;
        let created_ms = self.clock.now_ms();
        let unsettled = BTreeSet::new();
        Stream { v: VERSION, name, namespace, tags, running: true, options, created_ms, unsettled }
    }

    async fn replace(
        &self,
        wish: NewStream,
        expected: &Expected,
        dry_run: bool,
    ) -> Result<(Arc<Stream>, bool), Error> {
        check(&wish)?;
        let _alone = self.changes.lock().await;
        let known = self.by_name.read().get(&wish.name).cloned();
        let tag = known.as_ref().map(|stream| stream.tag());
        expected.check(tag.as_deref()).map_err(Error::Precondition)?;
        let (stream, is_new) = match known {
            Some(known) => {
                let wished = known.as_wished(wish);
                if wished == *known {
                    return Ok((known, false));
                }
                (wished.after(&known), false)
            }
            None if self.by_name.read().len() >= STREAMS_MAX => return Err(Error::TooMany),
            None => (self.made_of(wish), true),
        };
        let stream = if dry_run { Arc::new(stream) } else { self.put(stream).await? };
        Ok((stream, is_new))
    }

    async fn switch(&self, name: &str, running: bool) -> Result<Arc<Stream>, Error> {
        let _alone = self.changes.lock().await;
        let stream = self.existing(name)?;
        if stream.running == running {
            return Ok(stream);
        }
        self.put(Stream { running, ..Stream::clone(&stream) }).await
    }

    async fn edit(
        &self,
        name: &str,
        edit: StreamEdit,
        expected: &Expected,
        dry_run: bool,
    ) -> Result<Arc<Stream>, Error> {
        edit.tags.as_deref().map_or(Ok(()), check_tags)?;
        let _alone = self.changes.lock().await;
        let stream = self.existing(name)?;
        expected.check(Some(&stream.tag())).map_err(Error::Precondition)?;
        let mut edited = Stream::clone(&stream);
        edit.apply_to(&mut edited.options);
        edited.tags = edit.tags.unwrap_or(edited.tags);
        if edited == *stream {
            return Ok(stream);
        }
        if dry_run {
            return Ok(Arc::new(edited));
        }
        self.put(edited.after(&stream)).await
    }

    async fn settle(&self, name: &str) -> Result<Arc<Stream>, Error> {
        let _alone = self.changes.lock().await;
        let stream = self.existing(name)?;
        if stream.unsettled.is_empty() {
            return Ok(stream);
        }
        self.put(Stream { unsettled: BTreeSet::new(), ..Stream::clone(&stream) }).await
    }

    async fn delete(&self, name: &str, expected: &Expected) -> Result<Arc<Stream>, Error> {
        let _alone = self.changes.lock().await;
        let stream = self.existing(name)?;
        expected.check(Some(&stream.tag())).map_err(Error::Precondition)?;
        self.store.commit(Change::new().delete(Space::Stream, name.as_bytes())).await?;
        self.by_name.write().remove(name);
        Ok(stream)
    }

    fn existing(&self, name: &str) -> Result<Arc<Stream>, Error> {
        let found = self.by_name.read().get(name).cloned();
        found.ok_or_else(|| Error::Unknown(name.chars().take(200).collect()))
    }

    async fn put(&self, stream: Stream) -> Result<Arc<Stream>, Error> {
        let value = serde_json::to_vec(&stream).map_err(|error| failed(&error.to_string()))?;
        let change = Change::new().put(Space::Stream, stream.name.as_bytes(), value);
        self.store.commit(change).await?;
        let stream = Arc::new(stream);
        self.by_name.write().insert(stream.name.clone(), Arc::clone(&stream));
        Ok(stream)
    }
}

fn check(new: &NewStream) -> Result<(), Error> {
    for (what, text, more) in [("name", &new.name, ""), ("namespace", &new.namespace, ".")] {
        let legal = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c) || more.contains(c);
        if !(1..=NAME_BYTES_MAX).contains(&text.len()) || !text.chars().all(legal) {
            return Err(Error::Invalid(format!(
                "{what} {:?} is refused: allowed are 1 to {NAME_BYTES_MAX} letters, digits, _, -{}",
                text.chars().take(100).collect::<String>(),
                if more.is_empty() { "" } else { " and ." }
            )));
        }
    }
    check_tags(&new.tags)
}

fn check_tags(tags: &[String]) -> Result<(), Error> {
    let legal = |tag: &String| {
        (1..=TAG_BYTES_MAX).contains(&tag.len()) && !tag.chars().any(char::is_control)
    };
    if tags.len() > TAGS_MAX || !tags.iter().all(legal) {
        return Err(Error::Invalid(format!(
            "the tags are refused: allowed are {TAGS_MAX} of 1 to {TAG_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

fn decode(value: &[u8]) -> Result<Stream, Error> {
    let stream: Stream = serde_json::from_slice(value)
        .map_err(|error| failed(&format!("a stored stream is malformed: {error}")))?;
    if stream.v == VERSION {
        return Ok(stream);
    }
    let (name, v) = (&stream.name, stream.v);
    Err(failed(&format!("stream {name} is stored in version {v}, this release knows {VERSION}")))
}

fn failed(reason: &str) -> Error {
    Error::Store(store::Error::Failed(reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use crate::store::testing::Rig;

    use super::*;

    fn open(rig: &Rig) -> Streams {
        Streams::open(rig.store(), rig.clock.clone(), Tasks::for_tests()).unwrap()
    }

    fn new(name: &str, namespace: &str) -> NewStream {
        let options = [("table.target.lag.ms".to_owned(), "2s".to_owned())].into();
        let tags = vec!["team=shop".to_owned()];
        NewStream { name: name.to_owned(), namespace: namespace.to_owned(), tags, options }
    }

    #[tokio::test]
    async fn streams_are_state_that_a_restart_finds() {
        let rig = Rig::new();
        let streams = open(&rig);
        streams.create(new("shop", "prod")).await.unwrap();
        streams.create(new("other", "a.b")).await.unwrap();
        assert_eq!(streams.create(new("shop", "x")).await, Err(Error::Exists("shop".to_owned())));
        assert!(!streams.switch("shop", false).await.unwrap().running);
        streams.delete("other", Expected::Any).await.unwrap();
        let edit = StreamEdit { tags: Some(Vec::new()), ..StreamEdit::default() };
        assert_eq!(
            streams.edit("shop", edit, Expected::Any, false).await.unwrap().options.len(),
            1
        );
        let again = open(&rig);
        assert_eq!(again.list().len(), 1);
        let shop = again.get("shop").unwrap();
        assert_eq!((shop.running, shop.options.len(), shop.tags.len()), (false, 1, 0));
        assert!(again.switch("shop", true).await.unwrap().running);
        let options =
            [("a".to_owned(), Some("1".to_owned())), ("table.target.lag.ms".to_owned(), None)];
        let edit = StreamEdit { options: options.into(), tags: None };
        let shop = again.edit("shop", edit, Expected::Any, false).await.unwrap();
        assert_eq!(
            (shop.running, &shop.options),
            (true, &[("a".to_owned(), "1".to_owned())].into())
        );
        assert_eq!(
            again.delete("other", Expected::Any).await,
            Err(Error::Unknown("other".to_owned()))
        );
    }

    #[tokio::test]
    async fn names_that_are_no_part_of_a_topic_are_refused() {
        let rig = Rig::new();
        let streams = open(&rig);
        let long = "x".repeat(64);
        for (name, namespace) in
            [("", "n"), ("a.b", "n"), ("a/b", "n"), (&long, "n"), ("a", ""), ("a", "n n")]
        {
            let refused = streams.create(new(name, namespace)).await;
            assert!(matches!(refused, Err(Error::Invalid(_))), "{name:?} {namespace:?}");
        }
        let tags = vec![String::new()];
        let refused = streams.create(NewStream { tags: tags.clone(), ..new("a", "n") }).await;
        assert!(matches!(refused, Err(Error::Invalid(_))));
        let edit = StreamEdit { tags: Some(tags), ..StreamEdit::default() };
        let refused = streams.edit("a", edit, Expected::Any, false).await;
        assert!(matches!(refused, Err(Error::Invalid(_))));
    }

    #[tokio::test]
    async fn a_stream_is_replaced_as_a_whole_in_the_version_that_is_meant() {
        let rig = Rig::new();
        let streams = open(&rig);
        let tried = streams.put(new("shop", "n"), Expected::Any, true).await.unwrap();
        assert!(tried.1 && streams.list().is_empty(), "a dry run makes nothing");
        let (made, is_new) = streams.put(new("shop", "n"), Expected::None, false).await.unwrap();
        assert!(is_new && made.running);
        streams.switch("shop", false).await.unwrap();
        let stale = Expected::Tags(vec![made.tag()]);
        let wish = || NewStream { tags: Vec::new(), options: BTreeMap::new(), ..new("shop", "m") };
        let refused = streams.put(wish(), stale.clone(), false).await;
        assert!(matches!(refused, Err(Error::Precondition(_))), "it was switched meanwhile");
        let now = Expected::Tags(vec![streams.get("shop").unwrap().tag()]);
        let (tried, _) = streams.put(wish(), now.clone(), true).await.unwrap();
        let (put, is_new) = streams.put(wish(), now, false).await.unwrap();
        assert_eq!((&tried, is_new), (&put, false));
        assert!(!put.running && put.options.is_empty() && put.namespace == "m");
        assert_eq!(put.created_ms, made.created_ms);
        let again = streams.put(wish(), Expected::Some, false).await.unwrap();
        assert!(Arc::ptr_eq(&again.0, &put), "the same wish changes nothing");
        let refused = streams.put(new("shop", "n"), Expected::None, false).await;
        assert!(matches!(refused, Err(Error::Precondition(_))));
        let refused = streams.delete("shop", stale.clone()).await;
        assert!(matches!(refused, Err(Error::Precondition(_))));
        let refused = streams.edit("shop", StreamEdit::default(), stale, false).await;
        assert!(matches!(refused, Err(Error::Precondition(_))));
    }

    #[tokio::test]
    async fn what_topics_lack_is_known_until_they_have_it_over_a_restart_too() {
        let rig = Rig::new();
        let streams = open(&rig);
        streams.create(new("shop", "n")).await.unwrap();
        let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let options = [set("a", "1"), set("table.target.lag.ms", "2s")].into();
        let wish = NewStream { options, ..new("shop", "n") };
        let (put, _) = streams.put(wish.clone(), Expected::Any, false).await.unwrap();
        assert_eq!(put.unsettled, ["a".to_owned()].into());
        let options = [("table.target.lag.ms".to_owned(), None)].into();
        let edit = StreamEdit { options, tags: None };
        streams.edit("shop", edit, Expected::Tags(vec![put.tag()]), false).await.unwrap();
        let again = open(&rig);
        let both: BTreeSet<String> = ["a".to_owned(), "table.target.lag.ms".to_owned()].into();
        let shop = again.get("shop").unwrap();
        assert_eq!(shop.unsettled, both);
        let same = NewStream { options: shop.options.clone(), ..new("shop", "n") };
        assert_eq!(again.put(same, Expected::Any, false).await.unwrap().0.unsettled, both);
        let settled = again.settle("shop").await.unwrap();
        assert_eq!((settled.unsettled.len(), settled.tag()), (0, shop.tag()), "no other version");
        assert!(open(&rig).get("shop").unwrap().unsettled.is_empty());
        assert_eq!(again.settle("none").await, Err(Error::Unknown("none".to_owned())));
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "a test owns its task")]
    async fn work_on_one_stream_goes_on_alone_and_to_its_end() {
        let rig = Rig::new();
        let streams = open(&rig);
        let (started, begun) = tokio::sync::oneshot::channel();
        let (go_on, held) = tokio::sync::oneshot::channel::<()>();
        let (of_first, order) = (streams.clone(), Arc::new(parking_lot::Mutex::new(Vec::new())));
        let seen = Arc::clone(&order);
        let first = tokio::spawn(async move {
            let work = async move {
                started.send(()).unwrap();
                held.await.unwrap();
                seen.lock().push("first");
            };
            of_first.alone("shop", work).await.unwrap();
        });
        begun.await.unwrap();
        // Who asked goes away.
        first.abort();
        let seen = Arc::clone(&order);
        let second = streams.alone("shop", async move { seen.lock().push("second") });
        let later = async {
            tokio::task::yield_now().await;
            go_on.send(()).unwrap();
        };
        tokio::join!(second, later).0.unwrap();
        assert_eq!(*order.lock(), ["first", "second"]);
    }

    #[test]
    fn the_layout_is_the_golden_one() {
        let golden = br#"{"v":1,"name":"s","namespace":"n","tags":["t"],"running":true,"options":{"a":"b"},"created_ms":5}"#;
        let stream = decode(golden).unwrap();
        assert_eq!(serde_json::to_vec(&stream).unwrap(), golden);
        assert!(decode(&golden.map(|byte| if byte == b'1' { b'2' } else { byte })).is_err());
    }
}
