//! Reads a topic back with a stock consumer.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::WAIT_MAX;

/// A record as a consumer got it.
pub struct Stored {
    /// Partition index.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Everything in a topic, from the beginning to the end, by an assigning consumer.
///
/// # Panics
/// If it takes longer than [`WAIT_MAX`] without a new record.
pub fn read_all(bootstrap: &str, topic: &str, partitions: i32) -> Vec<Stored> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut wanted = 0;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, WAIT_MAX).unwrap();
        if high > low {
            wanted += usize::try_from(high - low).unwrap();
            list.add_partition_offset(topic, partition, Offset::Offset(low)).unwrap();
        }
    }
    consumer.assign(&list).unwrap();
    let mut found = Vec::new();
    let mut deadline = Instant::now() + WAIT_MAX;
    while found.len() < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted}", found.len());
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.unwrap();
        deadline = Instant::now() + WAIT_MAX;
        let headers = message.headers().map(|headers| {
            headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
        });
        found.push(Stored {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        });
    }
    found
}
