//! Topics as the log sees them: partition id to options.

use crate::log::ports::{Directory, PartitionOptions};
use crate::topic::Topics;
use crate::types::PartitionId;

/// The registry of topics, by partition.
pub(crate) struct TopicDirectory {
    topics: Topics,
}

impl TopicDirectory {
    /// Over `topics`.
    pub(crate) fn new(topics: Topics) -> Self {
        Self { topics }
    }
}

impl Directory for TopicDirectory {
    fn options(&self, id: PartitionId) -> Option<PartitionOptions> {
        let (topic, draining) = self.topics.of_partition(id)?;
        let resolved = &topic.options;
        Some(PartitionOptions {
            draining,
            log_append_time: resolved.log_append_time,
            // `cleanup.policy=compact` keeps everything until compaction exists.
            retention_ms: resolved.retention_ms.filter(|_| !resolved.compacted),
            retention_bytes: resolved.retention_bytes.filter(|_| !resolved.compacted),
        })
    }

    fn place(&self, id: PartitionId) -> Option<(String, usize)> {
        let topics = self.topics.list().into_iter().chain(self.topics.draining());
        topics.into_iter().find_map(|topic| {
            let index = topic.partitions.iter().position(|partition| *partition == id)?;
            Some((topic.name.to_string(), index))
        })
    }
}
