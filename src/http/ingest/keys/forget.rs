//! Keys that are forgotten: those that are too old, and of too many those of whoever has most.

use std::collections::{BTreeMap, BTreeSet};

use crate::http::ingest::keys::{FORGET_MAX, Keys};
use crate::http::ingest::once::Hold;
use crate::http::ingest::quotas::{self, Tag};
use crate::store::once::{self, KeyRecord, SPACE};
use crate::store::{self, Change};

/// A change that forgets keys, what is held until it is made, and which they are.
#[derive(Default)]
struct Forgotten {
    change: Change,
    holds: Vec<Hold<u128, KeyRecord>>,
    scopes: Vec<u128>,
}

/// Takes one off what a principal has to give up; false if that is nothing.
fn take_one(excess: &mut BTreeMap<Tag, usize>, tag: Tag) -> bool {
    let Some(left) = excess.get_mut(&tag) else { return false };
    *left -= 1;
    if *left == 0 {
        excess.remove(&tag);
    }
    true
}

impl Keys {
    /// Forgets keys that are too old or too many, at most [`FORGET_MAX`]; how many.
    ///
    /// # Errors
    /// [`store::Error`].
    pub(in crate::http::ingest) async fn forget_keys(&self) -> Result<usize, store::Error> {
        let keys = self.clone();
        let found = tokio::task::spawn_blocking(move || keys.old_keys());
        let Forgotten { change, holds, scopes } =
            found.await.map_err(|_| store::Error::Closed)??;
        self.store.commit(change).await?;
        drop(holds);
        scopes.iter().for_each(|scope| self.key_counts.remove(*scope));
        Ok(scopes.len())
    }

    /// The change that forgets them: those that are too old, and of whoever has most the oldest,
    /// until there are not too many. While it is under way they are in flight: a request that
    /// used one again could otherwise be forgotten in place of the old one.
    fn old_keys(&self) -> Result<Forgotten, store::Error> {
        let mut forgotten = Forgotten::default();
        let oldest_ms = self.clock.now_ms() - self.limits.key_age_ms;
        let mut excess = self.key_counts.excess(self.limits.keys_max);
        for (key, _) in self.store.first(SPACE, &once::age_prefix(), FORGET_MAX)? {
            let (created_ms, scope) = once::decode_age(&key)?;
            if created_ms > oldest_ms {
                break;
            }
            self.forget_key(&key, &mut forgotten)?;
            take_one(&mut excess, quotas::tag(scope));
        }
        let tags: BTreeSet<Tag> = excess.keys().copied().collect();
        if tags.is_empty() {
            return Ok(forgotten);
        }
        // Keys of others are not gone through each time.
        let mut passed = self.passed.lock();
        if passed.0 != tags {
            *passed = (tags, once::age_prefix());
        }
        let (from, end) = (passed.1.clone(), once::age_prefix_end());
        passed.1 = once::age_prefix();
        self.store.walk(SPACE, from..end, |key| {
            let (created_ms, scope) = once::decode_age(key)?;
            // Those were looked at above.
            if created_ms > oldest_ms && take_one(&mut excess, quotas::tag(scope)) {
                self.forget_key(key, &mut forgotten)?;
            }
            let goes_on = forgotten.scopes.len() < FORGET_MAX && !excess.is_empty();
            if !goes_on {
                passed.1 = key.to_vec();
            }
            Ok(goes_on)
        })?;
        Ok(forgotten)
    }

    /// Adds a key to those that are forgotten, by where it stands in order of age; not one that is
    /// in flight.
    fn forget_key(&self, key: &[u8], forgotten: &mut Forgotten) -> Result<(), store::Error> {
        let (created_ms, scope) = once::decode_age(key)?;
        let Some(hold) = self.keys.begin(&scope, self.store.applied()).1 else { return Ok(()) };
        let stored = self.store.get(SPACE, &once::key_of(scope))?;
        let record = stored.map(|value| KeyRecord::decode(&value)).transpose()?;
        let mut change = std::mem::take(&mut forgotten.change);
        if record.is_some_and(|record| record.created_ms == created_ms) {
            change = change.delete(SPACE, once::key_of(scope));
        }
        forgotten.change = change.delete(SPACE, key.to_vec());
        forgotten.holds.push(hold);
        forgotten.scopes.push(scope);
        Ok(())
    }
}
