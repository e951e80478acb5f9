//! Event streams: doors over HTTP to tables that are there, each with a name, a switch and the options
//! of the topics behind it.
//!
//! ```text
//! Stream  name    JSON: v = 1, name, namespace, tags, running, options, created_ms
//! ```
//!
//! Owns: the space `Stream`. Does not own: the route (`http`), topics and what their options mean
//! (`topic`), tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::runtime::{Clock, Tasks};
use crate::store::{self, Change, Space, Store};

const VERSION: u32 = 1;
/// Most streams.
pub const STREAMS_MAX: usize = 10_000;
/// Longest name of a stream or of its namespace, in bytes.
const NAME_BYTES_MAX: usize = 63;
/// Most tags of one stream, and the longest, in bytes.
const TAGS_MAX: usize = 50;
const TAG_BYTES_MAX: usize = 128;

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
        Ok(Self { inner: Arc::new(Inner { store, clock, tasks, by_name, changes }) })
    }

    /// The stream of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Stream>> {
        self.inner.by_name.read().get(name).cloned()
    }

    /// All streams, by name.
    pub fn list(&self) -> Vec<Arc<Stream>> {
        self.inner.by_name.read().values().cloned().collect()
    }

    /// Makes a stream that takes events; durable when it returns.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create(&self, new: NewStream) -> Result<Arc<Stream>, Error> {
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.create(new).await };
        store::finish(&self.inner.tasks, "stream-change", change).await
    }

    /// Lets a stream take events, or ends that.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Store`].
    pub async fn switch(&self, name: &str, running: bool) -> Result<Arc<Stream>, Error> {
        let name = name.to_owned();
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.switch(&name, running).await };
        store::finish(&self.inner.tasks, "stream-change", change).await
    }

    /// Gives a stream other tags or options.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unknown`], [`Error::Store`].
    pub async fn edit(&self, name: &str, edit: StreamEdit) -> Result<Arc<Stream>, Error> {
        let name = name.to_owned();
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.edit(&name, edit).await };
        store::finish(&self.inner.tasks, "stream-change", change).await
    }

    /// Forgets a stream.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Store`].
    pub async fn delete(&self, name: &str) -> Result<Arc<Stream>, Error> {
        let name = name.to_owned();
        let inner = Arc::clone(&self.inner);
        let change = async move { inner.delete(&name).await };
        store::finish(&self.inner.tasks, "stream-change", change).await
    }
}

impl Inner {
    async fn create(&self, new: NewStream) -> Result<Arc<Stream>, Error> {
        check(&new)?;
        let _alone = self.changes.lock().await;
        if self.by_name.read().contains_key(&new.name) {
            return Err(Error::Exists(new.name));
        }
        if self.by_name.read().len() >= STREAMS_MAX {
            return Err(Error::TooMany);
        }
        let NewStream { name, namespace, tags, options } = new;
        let created_ms = self.clock.now_ms();
        self.put(Stream { v: VERSION, name, namespace, tags, running: true, options, created_ms })
            .await
    }

    async fn switch(&self, name: &str, running: bool) -> Result<Arc<Stream>, Error> {
        let _alone = self.changes.lock().await;
        let stream = self.existing(name)?;
        if stream.running == running {
            return Ok(stream);
        }
        self.put(Stream { running, ..Stream::clone(&stream) }).await
    }

    async fn edit(&self, name: &str, edit: StreamEdit) -> Result<Arc<Stream>, Error> {
        edit.tags.as_deref().map_or(Ok(()), check_tags)?;
        let _alone = self.changes.lock().await;
        let stream = self.existing(name)?;
        let mut edited = Stream::clone(&stream);
        edit.apply_to(&mut edited.options);
        edited.tags = edit.tags.unwrap_or(edited.tags);
        if edited == *stream {
            return Ok(stream);
        }
        self.put(edited).await
    }

    async fn delete(&self, name: &str) -> Result<Arc<Stream>, Error> {
        let _alone = self.changes.lock().await;
        let stream = self.existing(name)?;
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
        streams.delete("other").await.unwrap();
        let edit = StreamEdit { tags: Some(Vec::new()), ..StreamEdit::default() };
        assert_eq!(streams.edit("shop", edit).await.unwrap().options.len(), 1);
        let again = open(&rig);
        assert_eq!(again.list().len(), 1);
        let shop = again.get("shop").unwrap();
        assert_eq!((shop.running, shop.options.len(), shop.tags.len()), (false, 1, 0));
        assert!(again.switch("shop", true).await.unwrap().running);
        let options =
            [("a".to_owned(), Some("1".to_owned())), ("table.target.lag.ms".to_owned(), None)];
        let edit = StreamEdit { options: options.into(), tags: None };
        let shop = again.edit("shop", edit).await.unwrap();
        assert_eq!(
            (shop.running, &shop.options),
            (true, &[("a".to_owned(), "1".to_owned())].into())
        );
        assert_eq!(again.delete("other").await, Err(Error::Unknown("other".to_owned())));
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
        let refused =
            streams.edit("a", StreamEdit { tags: Some(tags), ..StreamEdit::default() }).await;
        assert!(matches!(refused, Err(Error::Invalid(_))));
    }

    #[test]
    fn the_layout_is_the_golden_one() {
        let golden = br#"{"v":1,"name":"s","namespace":"n","tags":["t"],"running":true,"options":{"a":"b"},"created_ms":5}"#;
        let stream = decode(golden).unwrap();
        assert_eq!(serde_json::to_vec(&stream).unwrap(), golden);
        assert!(decode(&golden.map(|byte| if byte == b'1' { b'2' } else { byte })).is_err());
    }
}
