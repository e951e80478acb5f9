//! What flows into one table: a topic as its own table sees it, or as the table of one of its sinks
//! does, with what the sink says in place of the topic's options for its own table. Pure.

use std::ops::Deref;
use std::sync::Arc;

use crate::sink::Sink;
use crate::sink::Triggers;
use crate::table::commit::marker::Writer;
use crate::tier::principal::Service;
use crate::topic::Topic;
use crate::topic::options::TableMode;
use crate::types::Offset;

/// One table's view of its topic; cheap to clone.
#[derive(Clone)]
pub(super) struct Feed {
    /// The topic as it is.
    of: Arc<Topic>,
    /// The topic with the options of this table.
    topic: Arc<Topic>,
    sink: Option<Arc<Sink>>,
    /// When it commits, where that is not the topic's to say.
    commit: Triggers,
}

impl Deref for Feed {
    type Target = Topic;

    fn deref(&self) -> &Topic {
        &self.topic
    }
}

impl Feed {
    /// The topic's own table.
    pub(super) fn own(topic: &Arc<Topic>) -> Self {
        Self {
            of: Arc::clone(topic),
            topic: Arc::clone(topic),
            sink: None,
            commit: Triggers::default(),
        }
    }

    /// The table of a sink. Options that only JSON columns have do nothing there.
    /// `defaults` is when it commits unless it says so itself.
    pub(super) fn of_sink(topic: &Arc<Topic>, sink: &Arc<Sink>, defaults: Triggers) -> Self {
        let mut seen = Topic::clone(topic);
        let (options, wish) = (&mut seen.options, &sink.wish);
        // A sink is on or off by itself, and its values go by its mapping.
        options.table_mode = if sink.is_on() { TableMode::Auto } else { TableMode::Off };
        options.table_namespace.clone_from(&wish.table.namespace);
        options.table_name = Some(wish.table.name.clone());
        options.table_partition_spec.clone_from(&wish.partition_spec);
        let commit = wish.commit.or(defaults);
        options.table_target_lag_ms = commit.lag_ms.unwrap_or(options.table_target_lag_ms);
        options.table_flush_bytes = commit.bytes.unwrap_or(options.table_flush_bytes);
        let (of, sink) = (Arc::clone(topic), Some(Arc::clone(sink)));
        Self { of, topic: Arc::new(seen), sink, commit }
    }

    /// Whose rows the table has.
    pub(super) fn writer(&self) -> Writer {
        Writer { topic_id: self.of.id, sink: self.sink.as_ref().map(|sink| sink.uid) }
    }

    /// A number that differs from table to table, so that not all commit in one moment.
    pub(super) fn spread(&self) -> u8 {
        let id = self.sink.as_ref().map_or(self.of.id.0, |sink| sink.uid.0);
        id.as_bytes()[15]
    }

    /// `table.mode` as status tells it.
    pub(super) fn mode(&self) -> &'static str {
        match self.sink {
            Some(_) => "mapped",
            None => self.topic.options.table_mode.as_str(),
        }
    }

    /// Where the log of a partition ended when the table was last switched on; none if it never was,
    /// or is not known to have been.
    pub(super) fn resumed(&self, partition: i32) -> Option<Offset> {
        let resumed = match &self.sink {
            Some(sink) => &sink.resumed,
            None => &self.of.table_resumed,
        };
        resumed.get(&partition).copied()
    }

    /// The sink, if it is one's table.
    pub(super) fn sink(&self) -> Option<&Arc<Sink>> {
        self.sink.as_ref()
    }

    /// As whom the table is written; none of a topic's own table, which is the server's.
    pub(super) fn service(&self) -> Option<Service> {
        self.sink.as_ref().map(|sink| Service::of(self.of.name.as_str(), sink))
    }

    /// Waiting records that start a commit; none for no such limit.
    pub(super) fn flush_records(&self) -> Option<u64> {
        self.commit.records
    }

    /// True if neither the topic nor the sink changed.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_sink = match (&self.sink, &other.sink) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same_sink && self.commit == other.commit && Arc::ptr_eq(&self.of, &other.of)
    }
}
