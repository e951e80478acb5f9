//! The apply thread's step: durable frames become state, with `wal_applied` in the same batch.
//!
//! Owns: the one writer of fjall. Does not own: what a frame does to the state (`stage`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::store::db::Rotation;
use crate::store::stage::{Before, Stage};
use crate::store::{Error, Shared, keys, lock};
use crate::types::Lsn;
use crate::wal::{Apply, WrittenFrame};

/// Applies durable frames; made by `Opening::finish`, given to the log.
pub struct Applier {
    shared: Arc<Shared>,
    rotation: Rotation,
}

impl Applier {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, rotation: Rotation::new() }
    }

    fn try_apply(&mut self, frames: &[WrittenFrame], end: Lsn) -> Result<(), Error> {
        let shared = &self.shared;
        shared.hit("store.before_apply")?;
        let _gate = lock(&shared.gate);
        let applied = Lsn(shared.applied.load(Ordering::Acquire));
        let fresh = frames.partition_point(|frame| frame.lsn < applied);
        let mut stage = Stage::new(&shared.db);
        stage.frames(&frames[fresh..], Before::Everything)?;
        let mut staged = stage.into_writes()?;
        let end = end.max(applied);
        staged.meta(keys::META_WAL_APPLIED, keys::encode_u64(end.0));
        shared.db.write(&mut self.rotation, staged.writes())?;
        let mut live = lock(&shared.live);
        // Added first: a run that came and went in this batch must end up gone.
        staged.added.iter().for_each(|run| live.add(run));
        staged.removed.iter().for_each(|run| live.remove(run));
        drop(live);
        shared.applied.store(end.0, Ordering::Release);
        shared.hit("store.after_apply")
    }
}

impl Apply for Applier {
    fn apply(&mut self, frames: &[WrittenFrame], end: Lsn) -> Result<(), String> {
        self.try_apply(frames, end).map_err(|error| error.to_string())
    }
}
