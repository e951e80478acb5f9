//! The state of a data directory that no server runs on: what must be changed before the first
//! start, or when nobody has a token any more.

use std::sync::Arc;
use std::time::Duration;

use super::recovery::{self, Recovered};
use super::{Components, Error};
use crate::auth::Auth;
use crate::config::Config;
use crate::runtime::Tasks;
use crate::sink::Sinks;
use crate::source::Sources;
use crate::store::Store;
use crate::topic::Topics;
use crate::wal::Wal;

/// An open data directory without listeners, tiering and catalog.
pub struct Offline {
    auth: Auth,
    topics: Topics,
    sinks: Sinks,
    sources: Sources,
    store: Store,
    wal: Wal,
    tasks: Tasks,
}

impl Offline {
    /// Recovers log and state, which makes them where there are none, and holds their lock.
    ///
    /// # Errors
    /// [`Error`] says what is in the way, such as a server that runs on the directory.
    pub async fn open(config: &Config, components: &Components) -> Result<Self, Error> {
        let tasks = Tasks::new(Arc::clone(&components.on_fatal));
        let recovered = recovery::open(config, components, &tasks).await?;
        let Recovered { store, wal, auth, topics, sinks, sources, .. } = recovered;
        Ok(Self { auth, topics, sinks, sources, store, wal, tasks })
    }

    /// Its tokens.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// What its sinks are and whose.
    pub fn sinks(&self) -> (&Topics, &Sinks, &Sources) {
        (&self.topics, &self.sinks, &self.sources)
    }

    /// Writes the durable end and a metadata snapshot.
    pub async fn close(self) {
        let Self { auth, topics, sinks, sources, store, wal, tasks } = self;
        drop((auth, topics, sinks, sources));
        tasks.stop(Duration::from_secs(1)).await;
        let ended = tokio::task::spawn_blocking(move || {
            wal.shutdown();
            if let Err(error) = store.close() {
                tracing::warn!(%error, "no metadata snapshot; the next start replays");
            }
            tasks.join_threads();
        });
        let _ = ended.await;
    }
}
