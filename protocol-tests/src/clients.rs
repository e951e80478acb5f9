//! librdkafka as the tests use it.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use crate::{Floe, WAIT_MAX};

/// An administrator of `bootstrap`.
pub fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .expect("the settings are librdkafka's")
}

/// A producer with further settings of librdkafka.
pub fn producer(floe: &Floe, settings: &[(&str, &str)]) -> FutureProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", floe.bootstrap());
    config.set("message.timeout.ms", "60000");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create().expect("the settings are librdkafka's")
}

/// Makes a topic with options.
pub async fn create(floe: &Floe, topic: &str, partitions: i32, options: &[(&str, &str)]) {
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (key, value) in options {
        new = new.set(key, value);
    }
    let admin = admin(&floe.bootstrap());
    let made = admin.create_topics(&[new], &AdminOptions::new()).await.expect("it is asked");
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

/// Sends one record and waits until it is stored; its offset.
pub async fn send(producer: &FutureProducer, topic: &str, partition: i32, value: &str) -> i64 {
    let record = FutureRecord::<(), _>::to(topic).partition(partition).payload(value);
    let sent = producer.send(record, WAIT_MAX).await;
    sent.map_err(|(error, _)| error).expect("the record is stored").offset
}

/// One record as a consumer gets it.
pub struct Stored {
    /// Which partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Everything in a topic, from the beginning to the end, by an assigning consumer.
pub fn read_all(floe: &Floe, topic: &str, partitions: i32) -> Vec<Stored> {
    let consumer = consumer(floe);
    let mut wanted = 0;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, WAIT_MAX)
            .expect("the partition tells its ends");
        if high > low {
            wanted += usize::try_from(high - low).expect("tests are small");
            list.add_partition_offset(topic, partition, Offset::Offset(low))
                .expect("the offset is one");
        }
    }
    read(&consumer, &list, wanted)
}

/// The first `wanted` records of a topic, without asking each partition for its ends.
pub fn read_from_start(floe: &Floe, topic: &str, partitions: i32, wanted: usize) -> Vec<Stored> {
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("it is an offset");
    }
    read(&consumer(floe), &list, wanted)
}

fn consumer(floe: &Floe) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", floe.bootstrap())
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .create()
        .expect("the settings are librdkafka's")
}

fn read(consumer: &BaseConsumer, list: &TopicPartitionList, wanted: usize) -> Vec<Stored> {
    consumer.assign(list).expect("the list can be assigned");
    let mut found = Vec::new();
    let deadline = Instant::now() + WAIT_MAX;
    while found.len() < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted}", found.len());
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.expect("the record is sound");
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
