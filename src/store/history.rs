//! What people change, as it was: each version of a source or a sink, who made it, when and why.
//!
//! ```text
//! Version  owner | 0x00 | number (8 bytes, big-endian)    JSON: number, at_ms, by, reason, wish
//! ```
//!
//! An owner is `source/ID` or `sink/UID`. Owns: the space `Version`. Does not own: what a wish is.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Change, Error, Space, Store};

/// Versions that are kept of one owner; older ones are forgotten.
pub const VERSIONS_MAX: u64 = 1_000;

/// Who asks for a change, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edit {
    /// Name of a token, or of who else it was; empty is anybody.
    pub by: String,
    /// For people; empty is the usual text of the change.
    pub reason: String,
}

impl Edit {
    /// A change by `by`, for the usual reason.
    pub fn by(by: &str) -> Self {
        Self { by: by.to_owned(), reason: String::new() }
    }

    /// The change at a time, with the usual text where none was given.
    pub fn at(self, at_ms: i64, usual: &str) -> Mark {
        let reason = if self.reason.is_empty() { usual.to_owned() } else { self.reason };
        Mark { at_ms, by: self.by, reason }
    }
}

/// That somebody did something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    /// When, milliseconds from 1970 on.
    pub at_ms: i64,
    /// Who.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What happened to something that can be disabled and deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trail {
    /// When it was made.
    pub created: Mark,
    /// When its newest version was made.
    pub changed: Mark,
    /// Since when it is disabled, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Mark>,
    /// Since when it is deleted, if it is: it is kept, so that it can come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Mark>,
}

impl Trail {
    /// Of what was just made.
    pub fn begin(mark: Mark, is_enabled: bool) -> Self {
        let fresh = Self { created: mark.clone(), ..Self::default() };
        fresh.then(mark, is_enabled)
    }

    /// After one more change, which leaves it enabled or not.
    #[must_use]
    pub fn then(&self, mark: Mark, is_enabled: bool) -> Self {
        let since = self.disabled.clone().unwrap_or_else(|| mark.clone());
        let disabled = (!is_enabled).then_some(since);
        Self { created: self.created.clone(), changed: mark, disabled, deleted: None }
    }

    /// After its deletion.
    #[must_use]
    pub fn ended(&self, mark: Mark) -> Self {
        Self { changed: mark.clone(), deleted: Some(mark), ..self.clone() }
    }
}

/// One version of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version<W> {
    /// Counts from 1.
    pub number: u64,
    /// Who made it, when and why.
    #[serde(flatten)]
    pub mark: Mark,
    /// What was asked for.
    pub wish: W,
}

/// Adds to `change` that `owner` has this version now, and forgets the one that is too old.
///
/// # Errors
/// [`Error::Failed`] by a defect: it cannot be written as JSON.
pub fn keep<W: Serialize>(
    change: Change,
    owner: &str,
    version: &Version<W>,
) -> Result<Change, Error> {
    let value = serde_json::to_vec(version).map_err(|error| Error::Failed(error.to_string()))?;
    let change = change.put(Space::Version, key(owner, version.number), value);
    Ok(match version.number.checked_sub(VERSIONS_MAX) {
        Some(old) if old > 0 => change.delete(Space::Version, key(owner, old)),
        _ => change,
    })
}

/// Adds to `change` that all versions of `owner` are forgotten. `newest` is the number of the
/// newest.
pub fn forget(change: Change, owner: &str, newest: u64) -> Change {
    let oldest = newest.saturating_sub(VERSIONS_MAX) + 1;
    let gone = |change: Change, number| change.delete(Space::Version, key(owner, number));
    (oldest..=newest).fold(change, gone)
}

/// What `look` gives of each kept version of `owner`, oldest first; one is in memory at a time.
/// `newest` is the number of the newest. Blocks.
///
/// # Errors
/// [`Error::Failed`].
pub fn each<W: DeserializeOwned, T>(
    store: &Store,
    owner: &str,
    newest: u64,
    look: impl Fn(&Version<W>) -> T,
) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    for number in newest.saturating_sub(VERSIONS_MAX) + 1..=newest {
        found.extend(get(store, owner, number)?.as_ref().map(&look));
    }
    Ok(found)
}

/// One kept version of `owner`. Blocks.
///
/// # Errors
/// [`Error::Failed`].
pub fn get<W: DeserializeOwned>(
    store: &Store,
    owner: &str,
    number: u64,
) -> Result<Option<Version<W>>, Error> {
    let found = store.get(Space::Version, &key(owner, number))?;
    found.map(|value| decode(owner, &value)).transpose()
}

fn key(owner: &str, number: u64) -> Vec<u8> {
    [owner.as_bytes(), &[0], &number.to_be_bytes()].concat()
}

fn decode<W: DeserializeOwned>(owner: &str, value: &[u8]) -> Result<Version<W>, Error> {
    serde_json::from_slice(value).map_err(|error| {
        Error::Failed(format!("a stored version of {owner} is malformed: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use crate::store::testing::Rig;

    use super::*;

    fn version(number: u64) -> Version<String> {
        let mark = Edit::by("ann").at(5, "Updated.");
        Version { number, mark, wish: format!("w{number}") }
    }

    #[tokio::test]
    async fn the_newest_versions_are_kept_in_order() {
        let rig = Rig::new();
        let store = rig.store();
        for number in 1..=VERSIONS_MAX + 2 {
            let change = keep(Change::new(), "source/a", &version(number)).unwrap();
            store.commit(change).await.unwrap();
        }
        // An owner whose name goes on is another.
        let other = keep(Change::new(), "source/ab", &version(1)).unwrap();
        store.commit(other).await.unwrap();
        let newest = VERSIONS_MAX + 2;
        let number = |version: &Version<String>| version.number;
        let numbers = each(&store, "source/a", newest, number).unwrap();
        assert_eq!(numbers, (3..=VERSIONS_MAX + 2).collect::<Vec<_>>());
        assert_eq!(get(&store, "source/a", 3).unwrap(), Some(version(3)));
        assert_eq!(get::<String>(&store, "source/a", 2).unwrap(), None);
        store.commit(forget(Change::new(), "source/a", newest)).await.unwrap();
        assert_eq!(each(&store, "source/a", newest, number).unwrap(), [0; 0]);
        assert_eq!(each(&store, "source/ab", 1, Version::<String>::clone).unwrap(), [version(1)]);
    }

    #[test]
    fn the_layout_is_the_golden_one() {
        let golden = r#"{"number":3,"at_ms":5,"by":"ann","reason":"Updated.","wish":"w3"}"#;
        assert_eq!(serde_json::to_string(&version(3)).unwrap(), golden);
        assert_eq!(decode::<String>("o", golden.as_bytes()).unwrap(), version(3));
    }

    #[test]
    fn a_trail_tells_since_when_it_is_disabled_and_ends_with_the_deletion() {
        let mark = |at_ms| Mark { at_ms, ..Mark::default() };
        let trail = Trail::begin(mark(1), true);
        assert_eq!((&trail.created, &trail.disabled), (&mark(1), &None));
        let trail = trail.then(mark(2), false).then(mark(3), false);
        assert_eq!((&trail.changed, &trail.disabled), (&mark(3), &Some(mark(2))));
        let ended = trail.ended(mark(4));
        assert_eq!((&ended.deleted, &ended.disabled), (&Some(mark(4)), &Some(mark(2))));
        let back = ended.then(mark(5), true);
        assert_eq!((back.deleted, back.disabled, back.created), (None, None, mark(1)));
    }
}
