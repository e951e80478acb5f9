//! What the engine does from time to time: keys and channels that are due are forgotten.

use std::time::Duration;

use crate::http::ingest::engine::Engine;
use crate::http::ingest::keys::FORGET_MAX;
use crate::runtime::Tasks;
use crate::store;

/// Between two looks for keys.
const TICK: Duration = Duration::from_secs(1);
/// Looks for keys between two looks for channels, which are walked over one by one.
const TICKS_PER_CHANNELS: u64 = 600;

impl Engine {
    /// Runs the chores until the tasks stop; a store that fails ends the process.
    pub(crate) fn spawn_chores(&self, tasks: &Tasks) {
        let (engine, all) = (self.clone(), tasks.clone());
        tasks.spawn("http-chores", async move {
            let stop = all.stop_token();
            for tick in 0_u64.. {
                match engine.turn(tick).await {
                    // The log has ended before us.
                    Ok(()) | Err(store::Error::Closed) => {}
                    Err(error) => all.fatal(&error.to_string()),
                }
                if stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_none() {
                    return;
                }
            }
        });
    }

    async fn turn(&self, tick: u64) -> Result<(), store::Error> {
        if tick.is_multiple_of(TICKS_PER_CHANNELS) {
            let topics = self.topics.clone();
            self.keys().forget_channels(move |id| topics.by_id(id).is_some()).await?;
        }
        while self.keys().forget_keys().await? == FORGET_MAX {}
        self.ids().forget().await
    }
}
