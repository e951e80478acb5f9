//! Fail points at durable steps: tests make a step fail, kill the process there, or run code.
//!
//! Every name is listed in [`NAMES`], so that a harness can go through all of them.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// Every fail point of the program, in the order of a record's way.
pub const NAMES: &[&str] = &[
    "wal.before_write",
    "wal.before_sync",
    "wal.after_sync",
    "store.before_apply",
    "store.after_apply",
    "store.before_snapshot",
    "tier.after_files",
    "tier.after_prepared",
    "tier.before_commit",
    "tier.after_commit",
    "tier.after_committed",
    "catalog.before_metadata",
    "catalog.after_metadata",
];

/// What a hook answers: go on, or fail this step with the given text.
pub type Outcome = Result<(), String>;

type Hook = Arc<dyn Fn() -> Outcome + Send + Sync>;

/// The set of hooks of one broker; empty in production. Cheap to clone.
#[derive(Clone, Default)]
pub struct FailPoints {
    hooks: Arc<RwLock<HashMap<&'static str, Hook>>>,
}

impl FailPoints {
    /// No hooks.
    pub fn none() -> Self {
        Self::default()
    }

    /// Runs `hook` whenever the point `name` is passed.
    ///
    /// # Panics
    /// If `name` is not in [`NAMES`]: the test would never fire.
    pub fn set(&self, name: &str, hook: impl Fn() -> Outcome + Send + Sync + 'static) {
        let known = NAMES.iter().find(|known| **known == name);
        let known = known.unwrap_or_else(|| panic!("no fail point is named {name}"));
        let mut hooks = self.hooks.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        hooks.insert(known, Arc::new(hook));
    }

    /// Removes the hook at `name`.
    pub fn clear(&self, name: &str) {
        self.hooks.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(name);
    }

    /// Passes the point `name`.
    ///
    /// # Errors
    /// The text of a hook that makes this step fail.
    pub fn hit(&self, name: &'static str) -> Outcome {
        debug_assert!(NAMES.contains(&name), "fail point {name} is not listed");
        let hook = {
            let hooks = self.hooks.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            if hooks.is_empty() {
                return Ok(());
            }
            hooks.get(name).cloned()
        };
        hook.map_or(Ok(()), |hook| hook())
    }
}
