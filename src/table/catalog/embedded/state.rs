//! What the embedded catalog needs of the store.

use async_trait::async_trait;

use crate::store::{self, Change, Space, Store};

/// Keys with their values.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A durable, ordered key-value state with atomic changes; implemented by [`Store`].
#[async_trait]
pub trait State: Send + Sync {
    /// The durable value of a key.
    ///
    /// # Errors
    /// The store's.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, store::Error>;

    /// All durable pairs whose key starts with `prefix`, in order of key.
    ///
    /// # Errors
    /// The store's.
    fn scan(&self, space: Space, prefix: &[u8]) -> Result<Pairs, store::Error>;

    /// Makes `change` durable as a whole; [`State::get`] shows it afterwards.
    ///
    /// # Errors
    /// The store's.
    async fn commit(&self, change: Change) -> Result<(), store::Error>;
}

#[async_trait]
impl State for Store {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, store::Error> {
        Self::get(self, space, key)
    }

    fn scan(&self, space: Space, prefix: &[u8]) -> Result<Pairs, store::Error> {
        Self::scan(self, space, prefix)
    }

    async fn commit(&self, change: Change) -> Result<(), store::Error> {
        Self::commit(self, change).await.map(|_| ())
    }
}

#[cfg(test)]
pub(crate) mod memory {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

    use super::*;

    type Values = BTreeMap<(Space, Vec<u8>), Vec<u8>>;

    /// A state that lives in memory; the next commit can be made to fail.
    #[derive(Default)]
    pub(crate) struct MemoryState {
        values: Mutex<Values>,
        next_error: Mutex<Option<store::Error>>,
        /// Commits wait for this before they happen.
        pub(crate) gate: tokio::sync::RwLock<()>,
    }

    impl MemoryState {
        pub(crate) fn fail_next(&self, error: store::Error) {
            *self.next_error.lock() = Some(error);
        }
    }

    #[async_trait]
    impl State for MemoryState {
        fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, store::Error> {
            Ok(self.values.lock().get(&(space, key.to_vec())).cloned())
        }

        fn scan(&self, space: Space, prefix: &[u8]) -> Result<Pairs, store::Error> {
            let values = self.values.lock();
            let from = values.range((space, prefix.to_vec())..);
            let found =
                from.take_while(|((other, key), _)| *other == space && key.starts_with(prefix));
            Ok(found.map(|((_, key), value)| (key.clone(), value.clone())).collect())
        }

        async fn commit(&self, change: Change) -> Result<(), store::Error> {
            let _open = self.gate.read().await;
            if let Some(error) = self.next_error.lock().take() {
                return Err(error);
            }
            let mut values = self.values.lock();
            for op in change.ops {
                match op.value {
                    Some(value) => values.insert((op.space, op.key), value),
                    None => values.remove(&(op.space, op.key)),
                };
            }
            Ok(())
        }
    }
}
