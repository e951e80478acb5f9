//! How many follow records at once. A tail is held for as long as its client likes, so nobody has all
//! places.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::http::problem::Problem;

/// Most tails at once,
const ALL_MAX: usize = 64;
/// and of one sender.
const EACH_MAX: usize = ALL_MAX / 4;

/// Who follows, each with how many tails; cheap to clone.
#[derive(Clone, Default)]
pub(in crate::http) struct Followers(Arc<Mutex<HashMap<String, usize>>>);

/// The place of one tail.
pub(super) struct Following {
    followers: Followers,
    who: String,
}

impl Followers {
    /// Takes a place for one more tail of `who`.
    ///
    /// # Errors
    /// `overloaded`.
    pub(super) fn join(&self, who: String) -> Result<Following, Problem> {
        let refused = |detail: String| Problem::new("overloaded", detail).retry_after(5);
        let mut tails = self.0.lock();
        if tails.values().sum::<usize>() >= ALL_MAX {
            return Err(refused("as many follow records as may do so at once".to_owned()));
        }
        if tails.get(&who).is_some_and(|own| *own >= EACH_MAX) {
            return Err(refused(format!("you have {EACH_MAX} tails, as many as one sender may")));
        }
        *tails.entry(who.clone()).or_default() += 1;
        Ok(Following { followers: self.clone(), who })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut tails = self.followers.0.lock();
        if let Some(own) = tails.get_mut(&self.who) {
            *own -= 1;
            if *own == 0 {
                tails.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_a_quarter_of_the_places() {
        let followers = Followers::default();
        let join = |who: usize| followers.join(who.to_string());
        let mut held: Vec<Following> = (0..EACH_MAX).map(|_| join(0).ok().unwrap()).collect();
        assert!(join(0).is_err() && join(1).is_ok());
        held.pop();
        held.extend(join(0).ok());
        for who in 1..4 {
            held.extend((0..EACH_MAX).filter_map(|_| join(who).ok()));
        }
        assert_eq!((held.len(), join(4).err().map(|it| it.code())), (ALL_MAX, Some("overloaded")));
        drop(held);
        assert!(followers.0.lock().is_empty());
    }
}
