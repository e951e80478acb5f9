//! One asynchronous lock per table name.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// Unused locks are forgotten once so many names have one.
const UNUSED_MAX: usize = 1024;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The locks; a name's lock lives while somebody holds or awaits it.
#[derive(Debug, Default)]
pub(super) struct Locks {
    by_name: Mutex<HashMap<Vec<u8>, Lock>>,
}

impl Locks {
    /// Waits for all of `names`, in an order that cannot deadlock.
    pub(super) async fn lock(&self, mut names: Vec<Vec<u8>>) -> Vec<OwnedMutexGuard<()>> {
        names.sort_unstable();
        names.dedup();
        let mut guards = Vec::with_capacity(names.len());
        for name in names {
            let lock = self.of(name);
            guards.push(lock.lock_owned().await);
        }
        guards
    }

    fn of(&self, name: Vec<u8>) -> Lock {
        let mut by_name = self.by_name.lock();
        if by_name.len() >= UNUSED_MAX {
            by_name.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(by_name.entry(name).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_name_is_held_once_and_unused_names_are_forgotten() {
        let locks = Locks::default();
        let held = locks.lock(vec![b"a".to_vec(), b"b".to_vec(), b"a".to_vec()]).await;
        assert_eq!(held.len(), 2);
        assert!(locks.lock(vec![b"b".to_vec()]).now_or_never().is_none());
        for n in 0..3 * UNUSED_MAX {
            drop(locks.of(n.to_be_bytes().to_vec()));
        }
        assert!(locks.by_name.lock().len() <= UNUSED_MAX + 1);
        assert!(locks.lock(vec![b"a".to_vec()]).now_or_never().is_none());
        drop(held);
        assert!(locks.lock(vec![b"a".to_vec()]).now_or_never().is_some());
    }
}
