//! The load: one connection per partition that keeps its share of requests in flight. A frame is
//! built once and sent again and again, so that the generator costs little but the socket.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::{Decodable, StrBytes};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Settings;
use super::report::Times;
use crate::cli::wire;
use crate::record::{BatchBuilder, Codec, NewRecord};

const PRODUCE_VERSION: i16 = 9;

/// What a load did.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) batches: u64,
    pub(super) records: u64,
    /// Bytes of record batches, as they were sent.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// Those of `records` that no table takes, see [`Shot::poison`].
    pub(super) poison: [u64; 2],
    /// From the write of a request to its answer.
    pub(super) times: Times,
}

impl Done {
    /// Adds what another load did, after this one or beside it.
    pub(super) fn add(&mut self, other: Self) {
        self.batches += other.batches;
        self.records += other.records;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
        self.poison = [self.poison[0] + other.poison[0], self.poison[1] + other.poison[1]];
        self.times.merge(&other.times);
    }
}

/// How a load goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Requests in flight, over all connections.
    pub(super) in_flight: usize,
    pub(super) seconds: Duration,
    /// From one batch of a connection to its next, in an open loop: times count from when a batch
    /// was due. None: as fast as answers come.
    pub(super) pace: Option<Duration>,
}

impl Load {
    /// As fast as it goes.
    pub(super) fn full(settings: &Settings) -> Self {
        Self { in_flight: settings.in_flight, seconds: settings.seconds, pace: None }
    }
}

/// A request that is sent again and again.
#[derive(Debug, Clone)]
pub(super) struct Shot {
    pub(super) frame: Bytes,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Those of `records` that no table takes, of each kind.
    pub(super) poison: [u64; 2],
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A batch of the given values.
pub(super) fn batch(values: &[Vec<u8>], codec: Codec) -> Result<Bytes, String> {
    let mut builder = BatchBuilder::new();
    for value in values {
        let record = NewRecord { value: Some(value), timestamp: -1, ..NewRecord::default() };
        builder.push(&record).map_err(text)?;
    }
    builder.build(codec).map_err(text)
}

/// A produce request with one batch, acks all.
pub(super) fn request(topic: &str, partition: i32, batch: Bytes) -> Result<Bytes, String> {
    request_to(vec![(topic.to_owned(), partition, batch)])
}

/// A produce request with a batch for each of these topics and partitions, acks all.
pub(super) fn request_to(batches: Vec<(String, i32, Bytes)>) -> Result<Bytes, String> {
    let topics = batches.into_iter().map(|(topic, partition, batch)| {
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(topic)))
            .with_partition_data(vec![data])
    });
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(topics.collect());
    wire::frame(ApiKey::Produce, PRODUCE_VERSION, &request)
}

/// Batches of `settings.batch_bytes` with records of noise, one request per partition.
pub(super) fn shots(settings: &Settings, topic: &str) -> Result<Vec<Shot>, String> {
    let count = (settings.batch_bytes / settings.record_bytes).max(1);
    (0..settings.partitions)
        .map(|partition| {
            let value = |at: usize| -> Vec<u8> {
                (0..settings.record_bytes).map(|byte| ((byte * 31 + at * 7) % 251) as u8).collect()
            };
            let values: Vec<Vec<u8>> = (0..count).map(value).collect();
            let batch = batch(&values, Codec::None)?;
            let bytes = batch.len() as u64;
            let frame = request(topic, partition, batch)?;
            Ok(Shot { frame, records: count as u64, bytes, poison: [0; 2] })
        })
        .collect()
}

/// Sends the shots of each of `series` in turn over a connection of its own.
pub(super) async fn produce(
    address: SocketAddr,
    series: Vec<Vec<Shot>>,
    load: Load,
) -> Result<Done, String> {
    let share = (load.in_flight / series.len().max(1)).max(1);
    let started = Instant::now();
    let connections = series
        .into_iter()
        .map(|shots| connection(address, shots, Load { in_flight: share, ..load }, started));
    let mut done = Done::default();
    for one in try_join_all(connections).await? {
        done.add(one);
    }
    done.seconds = started.elapsed().as_secs_f64();
    Ok(done)
}

/// Sends one shot over a connection of its own, and waits for its answer.
pub(super) async fn produce_once(address: SocketAddr, shot: &Shot) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(text)?;
    stream.write_all(&shot.frame).await.map_err(text)?;
    answered(&mut stream).await
}

async fn connection(
    address: SocketAddr,
    shots: Vec<Shot>,
    load: Load,
    started: Instant,
) -> Result<Done, String> {
    let stream = TcpStream::connect(address).await.map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    let (mut reader, mut writer) = stream.into_split();
    // What is in the queue is in flight.
    let (sent, mut waiting) = mpsc::channel::<(Instant, usize)>(load.in_flight);
    let send = async move {
        let mut turn = 0_u32;
        loop {
            let due = load.pace.map(|pace| started + pace * (turn + 1));
            if due.unwrap_or_else(Instant::now) >= started + load.seconds {
                break;
            }
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
            let at = turn as usize % shots.len();
            let permit = sent.reserve().await.map_err(text)?;
            writer.write_all(&shots[at].frame).await.map_err(text)?;
            permit.send((due.unwrap_or_else(Instant::now), at));
            turn += 1;
        }
        Ok::<_, String>((writer, shots))
    };
    let receive = async move {
        let (mut times, mut answered) = (Times::default(), Vec::new());
        while let Some((since, at)) = waiting.recv().await {
            let mut answer = wire::answer(&mut reader, ApiKey::Produce, PRODUCE_VERSION).await?;
            times.push(since.elapsed());
            check(&mut answer)?;
            if answered.len() <= at {
                answered.resize(at + 1, 0_u64);
            }
            answered[at] += 1;
        }
        Ok((times, answered))
    };
    let ((_open, shots), (times, answered)) = tokio::try_join!(send, receive)?;
    let total = |of: &dyn Fn(&Shot) -> u64| -> u64 {
        answered.iter().zip(&shots).map(|(count, shot)| count * of(shot)).sum()
    };
    Ok(Done {
        batches: answered.iter().sum(),
        records: total(&|shot| shot.records),
        bytes: total(&|shot| shot.bytes),
        poison: [0, 1].map(|kind| total(&|shot| shot.poison[kind])),
        seconds: 0.0,
        times,
    })
}

/// An answer without an error.
pub(super) fn check(answer: &mut Bytes) -> Result<(), String> {
    let answer = ProduceResponse::decode(answer, PRODUCE_VERSION).map_err(text)?;
    let mut partitions = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
    match partitions.find(|partition| partition.error_code != 0) {
        Some(refused) => Err(format!(
            "produce was refused with code {}: {}",
            refused.error_code,
            refused.error_message.as_deref().unwrap_or_default()
        )),
        None => Ok(()),
    }
}

/// Reads one answer to a produce request.
pub(super) async fn answered(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Result<(), String> {
    check(&mut wire::answer(reader, ApiKey::Produce, PRODUCE_VERSION).await?)
}
