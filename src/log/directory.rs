//! Topics as the log sees them: partition id to options.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::log::ports::{Directory, PartitionOptions};
use crate::topic::{Topic, Topics};
use crate::types::PartitionId;

/// The registry of topics, by partition. Follows each change at the next lookup.
pub(crate) struct TopicDirectory {
    topics: Topics,
    changes: tokio::sync::watch::Receiver<u64>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// Number of the change that this view was made after; none before the first view.
    change: Option<u64>,
    options: HashMap<PartitionId, PartitionOptions>,
}

impl TopicDirectory {
    /// Over `topics`.
    pub(crate) fn new(topics: Topics) -> Self {
        let changes = topics.subscribe();
        Self { topics, changes, known: RwLock::default() }
    }

    fn refresh(&self, change: u64) {
        // The number was read before the lists: a change in between is seen next time.
        let mut options = HashMap::new();
        for topic in self.topics.draining() {
            insert(&mut options, &topic, true);
        }
        for topic in self.topics.list() {
            insert(&mut options, &topic, false);
        }
        *self.known.write() = Known { change: Some(change), options };
    }
}

impl Directory for TopicDirectory {
    fn options(&self, id: PartitionId) -> Option<PartitionOptions> {
        let change = *self.changes.borrow();
        {
            let known = self.known.read();
            if known.change == Some(change) {
                return known.options.get(&id).copied();
            }
        }
        self.refresh(change);
        self.known.read().options.get(&id).copied()
    }
}

fn insert(
    options: &mut HashMap<PartitionId, PartitionOptions>,
    topic: &Arc<Topic>,
    draining: bool,
) {
    let resolved = &topic.options;
    let of_topic = PartitionOptions {
        draining,
        log_append_time: resolved.log_append_time,
        // `cleanup.policy=compact` keeps everything until compaction exists.
        retention_ms: resolved.retention_ms.filter(|_| !resolved.compacted),
        retention_bytes: resolved.retention_bytes.filter(|_| !resolved.compacted),
    };
    options.extend(topic.partitions.iter().map(|id| (*id, of_topic)));
}
