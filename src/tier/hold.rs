//! What the tables of one topic hold back of its log together: the log may give back what all of
//! them have, refuses producers if one of them asks for it, and goes with the topic once all are
//! done.
//!
//! Owns: what the log hears of tiering. Does not own: what each table says (`upkeep`, `pin`).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::log::Log;
use crate::table::commit::marker::Writer;
use crate::topic::Topic;
use crate::types::Offset;
use crate::types::TopicId;

/// What one table says.
#[derive(Debug, Default)]
struct Hold {
    /// By partition index: the table needs nothing below. A partition that is missing is needed
    /// whole.
    ends: Vec<Offset>,
    /// Why producers are to be refused.
    refusal: Option<String>,
    /// Nothing comes to the table any more.
    is_closed: bool,
}

/// All tables of one topic: few, and nearly always one.
#[derive(Debug, Default)]
struct OfTopic(Vec<(Writer, Hold)>);

impl OfTopic {
    fn get(&self, writer: Writer) -> Option<&Hold> {
        self.0.iter().find(|(known, _)| *known == writer).map(|(_, hold)| hold)
    }

    /// The table's hold; a new one needs everything.
    fn of(&mut self, writer: Writer) -> &mut Hold {
        let found = self.0.iter().position(|(known, _)| *known == writer);
        let at = found.unwrap_or_else(|| {
            self.0.reserve_exact(1);
            self.0.push((writer, Hold::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// What no table needs anything below of.
    fn end(&self, index: usize) -> Offset {
        let ends = self.0.iter().map(|(_, hold)| hold.ends.get(index).copied().unwrap_or(0));
        ends.min().unwrap_or(0)
    }

    fn refusal(&self) -> Option<&String> {
        self.0.iter().find_map(|(_, hold)| hold.refusal.as_ref())
    }
}

/// All tables of all topics; cheap to clone.
#[derive(Clone)]
pub(super) struct Holds {
    log: Log,
    by_topic: Arc<Mutex<HashMap<TopicId, OfTopic>>>,
}

impl Holds {
    pub(super) fn new(log: Log) -> Self {
        Self { log, by_topic: Arc::default() }
    }

    /// From now on the topic's log waits for this table too: for all of it until it says more. A
    /// table that is known stays as it is.
    pub(super) fn enter(&self, topic: &Topic, writer: Writer) {
        let mut by_topic = self.by_topic.lock();
        let holds = by_topic.entry(writer.topic_id).or_default();
        if holds.get(writer).is_none() {
            holds.of(writer);
            self.tell_ends(topic, holds);
        }
    }

    /// The log no longer waits for this table.
    pub(super) fn leave(&self, topic: &Topic, writer: Writer) {
        let mut by_topic = self.by_topic.lock();
        let Some(holds) = by_topic.get_mut(&writer.topic_id) else { return };
        holds.0.retain(|(known, _)| *known != writer);
        self.tell_ends(topic, holds);
        self.tell_refusal(topic, holds);
    }

    /// The table needs nothing below `ends` (by partition index).
    pub(super) fn release(&self, topic: &Topic, writer: Writer, ends: impl Fn(i32) -> Offset) {
        let mut by_topic = self.by_topic.lock();
        let holds = by_topic.entry(writer.topic_id).or_default();
        let hold = holds.of(writer);
        hold.ends.clear();
        hold.ends.extend((0..).zip(&topic.partitions).map(|(index, _)| ends(index)));
        self.tell_ends(topic, holds);
    }

    /// What the table needs nothing below of, as far as it said.
    pub(super) fn end(&self, writer: Writer, index: usize) -> Offset {
        let by_topic = self.by_topic.lock();
        let hold = by_topic.get(&writer.topic_id).and_then(|holds| holds.get(writer));
        hold.and_then(|hold| hold.ends.get(index)).copied().unwrap_or(0)
    }

    /// Asks for the topic's producers to be refused for `reason`, or no longer.
    pub(super) fn refuse(&self, topic: &Topic, writer: Writer, reason: Option<String>) {
        let mut by_topic = self.by_topic.lock();
        let holds = by_topic.entry(writer.topic_id).or_default();
        holds.of(writer).refusal = reason;
        self.tell_refusal(topic, holds);
    }

    /// The table of a deleted topic is done. True if all of the topic's are.
    pub(super) fn close(&self, writer: Writer) -> bool {
        let mut by_topic = self.by_topic.lock();
        let holds = by_topic.entry(writer.topic_id).or_default();
        holds.of(writer).is_closed = true;
        holds.0.iter().all(|(_, hold)| hold.is_closed)
    }

    /// True if the table of a deleted topic is done.
    pub(super) fn is_closed(&self, writer: Writer) -> bool {
        let by_topic = self.by_topic.lock();
        let hold = by_topic.get(&writer.topic_id).and_then(|holds| holds.get(writer));
        hold.is_some_and(|hold| hold.is_closed)
    }

    /// Forgets a topic that is gone.
    pub(super) fn forget(&self, topic_id: TopicId) {
        self.by_topic.lock().remove(&topic_id);
    }

    fn tell_ends(&self, topic: &Topic, holds: &OfTopic) {
        for (index, id) in topic.partitions.iter().enumerate() {
            if let Some(partition) = self.log.partition(*id) {
                partition.set_tiered_offset(holds.end(index));
            }
        }
    }

    /// Each time for all partitions: there may be new ones.
    fn tell_refusal(&self, topic: &Topic, holds: &OfTopic) {
        let refusal = holds.refusal();
        for partition in topic.partitions.iter().filter_map(|id| self.log.partition(*id)) {
            partition.set_blocked(refusal.cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use crate::types::SinkUid;

    use super::*;

    fn writers() -> [Writer; 3] {
        let topic_id = TopicId(Uuid::from_u128(7));
        let sink = |number| Some(SinkUid(Uuid::from_u128(number)));
        [None, sink(1), sink(2)].map(|sink| Writer { topic_id, sink })
    }

    #[test]
    fn the_least_of_all_ends_counts_and_a_new_table_needs_everything() {
        let [own, one, other] = writers();
        let mut holds = OfTopic::default();
        assert_eq!(holds.end(0), 0, "nobody said anything");
        holds.of(own).ends = vec![10, 4];
        assert_eq!((holds.end(0), holds.end(1), holds.end(2)), (10, 4, 0));
        holds.of(one);
        assert_eq!(holds.end(0), 0);
        holds.of(one).ends = vec![3, 9];
        holds.of(other).ends = vec![i64::MAX, i64::MAX];
        assert_eq!((holds.end(0), holds.end(1)), (3, 4));
        holds.0.retain(|(writer, _)| *writer != one);
        assert_eq!((holds.end(0), holds.end(1)), (10, 4));
    }

    #[test]
    fn producers_are_refused_while_any_table_asks_for_it() {
        let [own, one, _] = writers();
        let mut holds = OfTopic::default();
        holds.of(one).refusal = Some("slow".to_owned());
        holds.of(own).refusal = Some("full".to_owned());
        holds.of(own).refusal = None;
        assert_eq!(holds.refusal().map(String::as_str), Some("slow"));
        holds.of(one).refusal = None;
        assert_eq!(holds.refusal(), None);
    }
}
