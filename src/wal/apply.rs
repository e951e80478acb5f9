//! The apply thread: durable frames go to the store, several groups at once (rules 3.1).

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use crate::wal::files::Files;
use crate::wal::handle::Context;
use crate::wal::shared::Shared;
use crate::wal::sync::Durable;
use crate::wal::{Apply, Done};

/// Groups are joined until they have this many frames.
const FRAMES_PER_APPLY: usize = 512;

pub(crate) struct Applier {
    pub(crate) durable: Receiver<Durable>,
    pub(crate) apply: Box<dyn Apply>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<Files>,
    pub(crate) context: Context,
}

impl Applier {
    /// Runs until the sync thread ends.
    pub(crate) fn run(mut self) {
        while let Ok(mut joined) = self.durable.recv() {
            while joined.frames.len() < FRAMES_PER_APPLY
                && let Ok(next) = self.durable.try_recv()
            {
                joined.frames.extend(next.frames);
                joined.answers.extend(next.answers);
                joined.end = next.end;
            }
            if !joined.frames.is_empty()
                && let Err(error) = self.apply.apply(&joined.frames, joined.end)
            {
                self.shared.fail();
                self.files.stop();
                self.context.tasks.fatal(&format!(
                    "durable frames could not be applied: {error}; restart to recover"
                ));
                return;
            }
            for (done, ack) in joined.answers {
                if let Done::Applied(tell) = done {
                    tell(ack);
                }
            }
        }
    }
}
