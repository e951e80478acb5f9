//! A catalog, and whether it answers, as its last call told: nobody asks it for that alone.

use std::sync::Arc;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::{NamespaceIdent, TableIdent};
use parking_lot::Mutex;

use crate::runtime::Clock;
use crate::store::Change;

use super::{Catalog, Error, LoadedTable, NewTable, TableChange};

/// What is known of a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it failed with the last time; none: it answered.
    pub fault: Option<String>,
    /// Since when it answers, or does not: wall-clock milliseconds.
    pub since_ms: i64,
}

/// Tells whether a catalog answers; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reach {
    clock: Clock,
    seen: Arc<Mutex<Option<Seen>>>,
}

impl Reach {
    /// What the last call told; none before the first.
    pub fn seen(&self) -> Option<Seen> {
        self.seen.lock().clone()
    }

    fn note(&self, error: Option<&Error>) {
        // Of the others it is known that the catalog gave them.
        let fault = error.filter(|error| {
            matches!(error, Error::Unknown(_) | Error::Storage(_) | Error::Unavailable(_))
        });
        let mut seen = self.seen.lock();
        let same = seen.as_ref().filter(|seen| seen.fault.is_some() == fault.is_some());
        let since_ms = same.map_or_else(|| self.clock.now_ms(), |seen| seen.since_ms);
        *seen = Some(Seen { fault: fault.map(Error::to_string), since_ms });
    }
}

/// The catalog that all go through.
pub struct Watched {
    inner: Arc<dyn Catalog>,
    reach: Reach,
}

impl Watched {
    /// Looks at the calls to `inner`.
    pub fn new(inner: Arc<dyn Catalog>, clock: Clock) -> Self {
        Self { inner, reach: Reach { clock, seen: Arc::default() } }
    }

    /// What they tell.
    pub fn reach(&self) -> Reach {
        self.reach.clone()
    }

    fn told<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        self.reach.note(answer.as_ref().err());
        answer
    }
}

#[async_trait]
impl Catalog for Watched {
    async fn load(&self, ident: &TableIdent) -> Result<LoadedTable, Error> {
        self.told(self.inner.load(ident).await)
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), Error> {
        self.told(self.inner.ensure_namespace(namespace).await)
    }

    async fn create(&self, new: NewTable) -> Result<LoadedTable, Error> {
        self.told(self.inner.create(new).await)
    }

    async fn commit(
        &self,
        changes: Vec<TableChange>,
        with: Change,
    ) -> Result<Vec<LoadedTable>, Error> {
        self.told(self.inner.commit(changes, with).await)
    }

    fn commits_with_state(&self) -> bool {
        self.inner.commits_with_state()
    }

    async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Result<(), Error> {
        self.told(self.inner.rename(from, to).await)
    }

    async fn list(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, Error> {
        self.told(self.inner.list(namespace).await)
    }

    fn file_io(&self) -> &FileIO {
        self.inner.file_io()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_is_away_from_its_first_silence_to_its_next_answer() {
        let clock = Clock::manual(1_000);
        let reach = Reach { clock: clock.clone(), seen: Arc::default() };
        assert_eq!(reach.seen(), None);
        let away = |text: &str| Error::Unavailable(text.to_owned());
        let conflict = Error::Conflict("c".to_owned());
        for (error, fault, since_ms) in [
            (None, None, 1_000),
            // It answered.
            (Some(&conflict), None, 1_000),
            (Some(&away("a")), Some("not now: a"), 1_002),
            (Some(&away("b")), Some("not now: b"), 1_002),
            (None, None, 1_004),
        ] {
            reach.note(error);
            clock.advance(1);
            let wanted = Seen { fault: fault.map(str::to_owned), since_ms };
            assert_eq!(reach.seen(), Some(wanted), "{error:?}");
        }
    }
}
