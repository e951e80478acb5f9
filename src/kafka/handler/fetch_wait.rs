//! The long poll of Fetch: sleeps until enough bytes were appended to any of its partitions.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::kafka::handler::fetch::WantedTopic;
use crate::log::Partition;
use crate::types::Offset;

/// The ends of all partitions at one moment. Make it before the read whose result it waits beyond,
/// or an append between the two is slept through.
pub(crate) struct Waiter {
    partitions: Vec<Seen>,
}

struct Seen {
    partition: Arc<Partition>,
    high_watermark: Offset,
    size_bytes: u64,
}

impl Waiter {
    pub(crate) fn new(topics: &[WantedTopic]) -> Self {
        let partitions = topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .filter_map(|wanted| wanted.source.as_ref().ok())
            .map(|source| Seen {
                high_watermark: source.partition.high_watermark(),
                size_bytes: source.partition.size_bytes(),
                partition: Arc::clone(&source.partition),
            })
            .collect();
        Self { partitions }
    }

    /// True if nothing can ever be appended.
    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Waits until about `bytes` more bytes are stored in all partitions together. Bytes that
    /// retention freed meanwhile hide appends; the caller's deadline bounds the error. False if a
    /// partition woke without an append: it is gone, and waiting again would not wait.
    pub(crate) async fn grown_by(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let mut waits: FuturesUnordered<Wait> = self
            .partitions
            .iter()
            .enumerate()
            .map(|(index, seen)| wait(index, &seen.partition, seen.high_watermark))
            .collect();
        let mut grown: Vec<u64> = vec![0; self.partitions.len()];
        let mut total = 0_u64;
        let mut ends: Vec<Offset> =
            self.partitions.iter().map(|seen| seen.high_watermark).collect();
        while let Some(index) = waits.next().await {
            let seen = &self.partitions[index];
            let end = seen.partition.high_watermark();
            if end <= ends[index] {
                return false;
            }
            ends[index] = end;
            let now = seen.partition.size_bytes().saturating_sub(seen.size_bytes);
            total = total.saturating_sub(grown[index]).saturating_add(now);
            grown[index] = now;
            // A single byte is there as soon as the end moved, whatever retention did.
            if total >= bytes || bytes <= 1 {
                return true;
            }
            waits.push(wait(index, &seen.partition, end));
        }
        false
    }
}

type Wait = Pin<Box<dyn Future<Output = usize> + Send>>;

fn wait(index: usize, partition: &Arc<Partition>, above: Offset) -> Wait {
    let partition = Arc::clone(partition);
    Box::pin(async move {
        partition.wait_above(above).await;
        index
    })
}
