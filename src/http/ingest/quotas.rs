//! How many idempotency keys each principal has, and whose are forgotten where there are too many:
//! those of whoever has most, so that nobody pushes out the keys of others.
//!
//! A scope begins with a tag of its principal, so that whose a key is can be told after a restart
//! too, from what is stored of it. Principals whose tags are the same share what one has. All strangers
//! have one tag, and keys of their own, for anybody may come from as many addresses as they like.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::http::ingest::keys::hash;
use crate::http::ingest::rate;

/// Bits of a scope behind the tag.
const REST_BITS: u32 = 96;
/// The tag of strangers; nobody else has it.
const STRANGERS: Tag = 0;
/// Keys of strangers have this share of all, on top: they push out each other's alone.
const STRANGERS_SHARE: usize = 8;

/// What stands for a principal.
pub(super) type Tag = u32;

/// The scope of a key of `principal`, which `parts` are the rest of.
pub(super) fn scope(principal: &str, parts: &[&[u8]]) -> u128 {
    let whose = match rate::is_address(principal) {
        true => STRANGERS,
        false => tag(hash(&[principal.as_bytes()])).max(STRANGERS + 1),
    };
    let all: Vec<&[u8]> =
        std::iter::once(principal.as_bytes()).chain(parts.iter().copied()).collect();
    (u128::from(whose) << REST_BITS) | (hash(&all) & ((1 << REST_BITS) - 1))
}

/// The principal of a scope.
pub(super) fn tag(scope: u128) -> Tag {
    // What is left are the bits of the tag.
    (scope >> REST_BITS) as Tag
}

/// How many keys there are, about; cheap to clone. Bounded by the principals that have some.
#[derive(Clone, Default)]
pub(super) struct KeyCounts(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    total: usize,
    of: HashMap<Tag, usize>,
}

impl Counts {
    /// How many keys strangers have, and all others.
    fn parts(&self) -> (usize, usize) {
        let strangers = self.of.get(&STRANGERS).copied().unwrap_or_default();
        (strangers, self.total.saturating_sub(strangers))
    }
}

impl KeyCounts {
    pub(super) fn add(&self, scope: u128) {
        let mut counts = self.0.lock();
        counts.total += 1;
        *counts.of.entry(tag(scope)).or_default() += 1;
    }

    pub(super) fn remove(&self, scope: u128) {
        let mut counts = self.0.lock();
        counts.total = counts.total.saturating_sub(1);
        if let Some(count) = counts.of.get_mut(&tag(scope)) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.of.remove(&tag(scope));
            }
        }
    }

    /// Begins again with the keys of these scopes.
    pub(super) fn set(&self, of: HashMap<Tag, usize>) {
        *self.0.lock() = Counts { total: of.values().sum(), of };
    }

    /// How many keys whoever has most has to give up, so that `max` are left, and of strangers their
    /// share; nothing where there are no more.
    pub(super) fn excess(&self, max: usize) -> BTreeMap<Tag, usize> {
        // Copied: answers wait for the lock, and the rest takes longer.
        let mut of = {
            let counts = self.0.lock();
            let (strangers, others) = counts.parts();
            if others <= max && strangers <= strangers_max(max) {
                return BTreeMap::new();
            }
            counts.of.clone()
        };
        let strangers = of.remove(&STRANGERS).unwrap_or_default();
        let mut over = excess(&of, max);
        if strangers > strangers_max(max) {
            over.insert(STRANGERS, strangers - strangers_max(max));
        }
        over
    }

    /// True if there are twice as many keys as there may be, and the principal of `scope` has too many:
    /// who has few does not wait for who has many.
    pub(super) fn is_full(&self, scope: u128, max: usize) -> bool {
        let (strangers, others) = self.0.lock().parts();
        match tag(scope) {
            STRANGERS => strangers >= strangers_max(max).saturating_mul(2),
            tag => others >= max.saturating_mul(2) && self.excess(max).contains_key(&tag),
        }
    }
}

/// How many keys strangers may have where others may have `max`.
fn strangers_max(max: usize) -> usize {
    max.div_ceil(STRANGERS_SHARE)
}

/// What each has beyond the level that all may have, where those below it leave theirs to others.
fn excess(of: &HashMap<Tag, usize>, max: usize) -> BTreeMap<Tag, usize> {
    let mut sorted: Vec<usize> = of.values().copied().collect();
    sorted.sort_unstable();
    let (mut left, mut level) = (max, usize::MAX);
    for (at, count) in sorted.iter().enumerate() {
        let share = left / (sorted.len() - at);
        if *count > share {
            level = share;
            break;
        }
        left -= count;
    }
    let over = of.iter().filter(|(_, count)| **count > level);
    over.map(|(tag, count)| (*tag, count - level)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_most_gives_up_first() {
        for (counts, max, wanted) in [
            (&[(1, 10), (2, 2), (3, 3)][..], 10, &[(1, 5)][..]),
            (&[(1, 10), (2, 9), (3, 2)], 10, &[(1, 6), (2, 5)]),
            (&[(1, 5), (2, 5)], 10, &[]),
            (&[(1, 8)], 5, &[(1, 3)]),
            (&[(1, 3), (2, 3), (3, 3)], 5, &[(1, 2), (2, 2), (3, 2)]),
        ] {
            let of: HashMap<Tag, usize> = counts.iter().copied().collect();
            let keys = KeyCounts::default();
            keys.set(of);
            let found = keys.excess(max);
            assert_eq!(found, wanted.iter().copied().collect(), "{counts:?}");
        }
    }

    #[test]
    fn a_scope_tells_whose_it_is_and_nothing_else_is_the_same() {
        let of = |principal: &str, key: &str| scope(principal, &[b"topic", key.as_bytes()]);
        assert_eq!(tag(of("ann", "1")), tag(of("ann", "2")));
        assert_ne!(tag(of("ann", "1")), tag(of("bob", "1")));
        assert_ne!(of("ann", "1"), of("ann", "2"));
        assert_ne!(of("ann", "1") << 32, of("bob", "1") << 32, "the rest is of all parts");
    }

    #[test]
    fn keys_come_and_go() {
        let counts = KeyCounts::default();
        let (ann, bob) = (scope("ann", &[b"1"]), scope("bob", &[b"1"]));
        for scope in [ann, ann, ann, bob] {
            counts.add(scope);
        }
        assert!(counts.is_full(ann, 2) && !counts.is_full(bob, 2) && !counts.is_full(ann, 3));
        for _ in 0..3 {
            counts.remove(ann);
        }
        let left = counts.0.lock();
        assert_eq!((left.total, left.of.len()), (1, 1));
    }

    #[test]
    fn strangers_push_out_each_others_keys_alone_however_many_addresses_they_have() {
        let counts = KeyCounts::default();
        let ann = scope("ann", &[b"1"]);
        for _ in 0..16 {
            counts.add(ann);
        }
        let stranger = |at: u8| scope(&format!("address:192.0.2.{at}"), &[b"1"]);
        for at in 0..5 {
            counts.add(stranger(at));
        }
        assert_eq!(counts.excess(16), BTreeMap::from([(STRANGERS, 3)]));
        assert!(counts.is_full(stranger(9), 16) && !counts.is_full(ann, 16));
        assert_ne!(stranger(1), stranger(2), "their keys are not each other's");
        assert_eq!(tag(scope(&rate::address(), &[b"1"])), STRANGERS);
        counts.add(ann);
        assert_eq!(counts.excess(16), BTreeMap::from([(STRANGERS, 3), (tag(ann), 1)]));
    }
}
