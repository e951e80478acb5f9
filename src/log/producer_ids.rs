//! Producer ids that are never handed out twice (KIP-98): blocks are durable before the first
//! id of them is given away, what is left of a block is lost at a crash.

use std::ops::Range;

use tokio::sync::Mutex;

use crate::log::AppendError;
use crate::log::ports::State;

/// Ids made durable at a time (source: `ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`).
const BLOCK: u32 = 1_000;

#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    /// Held while a block is made durable, so that one block is asked for at a time.
    left: Mutex<Range<i64>>,
}

impl ProducerIds {
    pub(crate) async fn next(&self, state: &dyn State) -> Result<i64, AppendError> {
        let mut left = self.left.lock().await;
        if left.is_empty() {
            let first = state.reserve_producer_ids(BLOCK).await?;
            let first = i64::try_from(first)
                .map_err(|_| AppendError::StorageFull("no producer ids are left".to_owned()))?;
            *left = first..first.saturating_add(i64::from(BLOCK));
        }
        let id = left.start;
        left.start += 1;
        Ok(id)
    }
}
