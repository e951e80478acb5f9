//! The options of the Kafka wire, as plain data.

use std::time::Duration;

use crate::topic::options::TopicOptions;

/// Limits and names of the Kafka wire. Every field has a default that suits one small machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Id of the one broker that Metadata answers.
    pub node_id: i32,
    /// Cluster id that Metadata and DescribeCluster answer; stable for ever.
    pub cluster_id: String,
    /// `auto.create.topics.enable`: Metadata makes unknown topics when the client allows it.
    pub auto_create_topics: bool,
    /// `num.partitions`, as DescribeConfigs of the broker shows it.
    pub num_partitions: i32,
    /// What the server sets for all topics, as DescribeConfigs of the broker shows it.
    pub topic_defaults: TopicOptions,
    /// `socket.request.max.bytes`: largest request frame in bytes, inclusive.
    pub frame_bytes_max: usize,
    /// `max.connections`: open connections over all listeners.
    pub connections_max: usize,
    /// Requests of one connection that wait for their answer; no more are read while it is full.
    pub in_flight_requests_max: usize,
    /// Bytes of request frames of one connection that wait for their answer.
    pub in_flight_bytes_max: usize,
    /// `queued.max.request.bytes`: bytes of request frames of all connections.
    pub request_bytes_max: usize,
    /// Bytes of fetched record batches of all connections that are not written yet.
    pub fetch_bytes_in_flight_max: usize,
    /// `fetch.max.bytes`: most record bytes of one Fetch answer (one batch may exceed it).
    pub fetch_bytes_max: usize,
    /// `connections.max.idle.ms`: a connection without a request for so long is closed.
    pub idle_timeout: Duration,
    /// A request frame, or the writing of a response, that makes no progress for so long closes the
    /// connection: it holds memory that others wait for.
    pub stall_timeout: Duration,
    /// A whole request frame must have arrived this long after its first bytes.
    pub frame_timeout: Duration,
    /// When a client half-closes, answers in flight get this long.
    pub drain_timeout: Duration,
    /// When the server stops, answers in flight get this long: a client that does not read them
    /// must not hold up the end.
    pub stop_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_id: 1,
            cluster_id: "floe".to_owned(),
            auto_create_topics: true,
            num_partitions: 4,
            topic_defaults: TopicOptions::default(),
            frame_bytes_max: 100 << 20,
            connections_max: 20_000,
            in_flight_requests_max: 100,
            in_flight_bytes_max: 16 << 20,
            request_bytes_max: 32 << 20,
            fetch_bytes_in_flight_max: 32 << 20,
            fetch_bytes_max: 55 << 20,
            idle_timeout: Duration::from_secs(600),
            stall_timeout: Duration::from_secs(30),
            frame_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(1),
        }
    }
}
