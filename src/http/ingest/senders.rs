//! How much memory for bodies each sender holds: nobody holds so much that others find none.
//!
//! Bodies count for their sender once they take memory while they come; small ones never do. One
//! body alone may be larger than what a sender has: it has all of it then.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::runtime::{ByteBudget, BytePermit};

/// What is held is counted in whole ones of these, bytes: a budget rounds up each part that is taken,
/// and the last would not fit.
const GRAIN_BYTES: usize = 4 << 10;

/// Senders that hold something; cheap to clone. No more than there are bodies under way.
#[derive(Clone)]
pub(super) struct Senders {
    /// What each may hold, bytes.
    each_bytes: usize,
    holding: Arc<Mutex<HashMap<u64, Holding>>>,
}

struct Holding {
    budget: ByteBudget,
    /// How many bodies take of it.
    bodies: usize,
}

/// What one body holds of what its sender has.
pub(super) struct Purse {
    senders: Senders,
    sender: u64,
    /// None until it takes something.
    budget: Option<ByteBudget>,
    permits: Vec<BytePermit>,
    bytes: usize,
}

impl Senders {
    /// Each may hold `each_bytes`, rounded up.
    pub(super) fn new(each_bytes: usize) -> Self {
        let each_bytes = each_bytes.next_multiple_of(GRAIN_BYTES);
        Self { each_bytes, holding: Arc::default() }
    }

    /// What a body of `sender` holds: nothing yet.
    pub(super) fn purse(&self, sender: u64) -> Purse {
        let senders = self.clone();
        Purse { senders, sender, budget: None, permits: Vec::new(), bytes: 0 }
    }

    fn join(&self, sender: u64) -> ByteBudget {
        let mut holding = self.holding.lock();
        let new = || Holding { budget: ByteBudget::new(self.each_bytes), bodies: 0 };
        let holding = holding.entry(sender).or_insert_with(new);
        holding.bodies += 1;
        holding.budget.clone()
    }

    fn leave(&self, sender: u64) {
        let mut holding = self.holding.lock();
        if let Some(known) = holding.get_mut(&sender) {
            known.bodies -= 1;
            if known.bodies == 0 {
                holding.remove(&sender);
            }
        }
    }
}

impl Purse {
    fn budget(&mut self) -> ByteBudget {
        let join = || self.senders.join(self.sender);
        self.budget.get_or_insert_with(join).clone()
    }

    /// What has to be taken for a body of `bytes` in all.
    fn missing(&self, bytes: usize) -> usize {
        let whole = bytes.div_ceil(GRAIN_BYTES).saturating_mul(GRAIN_BYTES);
        whole.min(self.senders.each_bytes).saturating_sub(self.bytes)
    }

    /// Makes sure that `bytes` are held in all; false if its sender holds too much else.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let missing = self.missing(bytes);
        if missing == 0 {
            return true;
        }
        let permit = self.budget().try_acquire(missing);
        self.keep(missing, permit)
    }

    /// [`Purse::grow_to`], but waits for what is not free. Cancel safe.
    pub(super) async fn wait_for(&mut self, bytes: usize) {
        let missing = self.missing(bytes);
        if missing > 0 {
            let permit = self.budget().acquire(missing).await;
            self.keep(missing, Some(permit));
        }
    }

    fn keep(&mut self, bytes: usize, permit: Option<BytePermit>) -> bool {
        let is_kept = permit.is_some();
        self.bytes += if is_kept { bytes } else { 0 };
        self.permits.extend(permit);
        is_kept
    }

    /// True if other bodies of the sender go without what this holds.
    pub(super) fn is_wanted(&self) -> bool {
        self.bytes > 0 && self.budget.as_ref().is_some_and(ByteBudget::is_short)
    }

    /// Why a body that does not get `bytes` is refused, and when to come again, in seconds; none if
    /// it is not for its sender.
    pub(super) fn refusal(&self, bytes: usize) -> Option<(String, u64)> {
        let budget = self.budget.as_ref().filter(|_| self.missing(bytes) > 0)?;
        let detail = format!(
            "this sender has as many bytes in flight as one may (http.in.sender.bytes = {})",
            self.senders.each_bytes
        );
        Some((detail, budget.back_in_s()))
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        if self.budget.is_some() {
            self.permits.clear();
            self.senders.leave(self.sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_has_its_share_and_others_have_theirs() {
        let senders = Senders::new(100_000);
        let mut first = senders.purse(1);
        assert!(first.grow_to(70_001) && first.grow_to(60_000));
        let mut second = senders.purse(1);
        assert!(!second.grow_to(50_001));
        assert!(second.refusal(50_001).unwrap().0.contains("http.in.sender.bytes = 102400"));
        assert!(first.is_wanted(), "another body of its sender goes without");
        let mut other = senders.purse(2);
        assert!(other.grow_to(100_000) && other.refusal(999_999).is_none());
        drop(first);
        assert!(second.grow_to(50_001));
        // One alone is never too large for its sender.
        assert!(second.grow_to(70_003) && second.grow_to(999_999));
        assert_eq!(senders.holding.lock().len(), 2);
        drop((second, other));
        assert!(senders.holding.lock().is_empty(), "nothing is kept of who holds nothing");
        drop(senders.purse(3));
        assert!(senders.holding.lock().is_empty());
    }

    #[tokio::test]
    async fn what_is_not_free_is_waited_for() {
        let senders = Senders::new(100_000);
        let (mut first, mut second) = (senders.purse(1), senders.purse(1));
        first.wait_for(99_999).await;
        tokio::select! {
            biased;
            () = second.wait_for(99_999) => panic!("it is not free"),
            () = tokio::task::yield_now() => drop(first),
        }
        second.wait_for(99_999).await;
        assert_eq!(second.bytes, 102_400);
    }
}
