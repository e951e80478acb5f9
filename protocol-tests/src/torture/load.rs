//! Producers of a history: librdkafka (idempotent) and plain HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::task::JoinHandle;

use super::{FILLER, Known, TOPICS, World};
use crate::{Floe, clients};

/// Longest that a record may wait for its acknowledgement.
const DELIVERY_MAX_MS: &str = "300000";

/// Deliveries that a producer waits for at once.
const IN_FLIGHT_MAX: usize = 2_000;

/// Between two tries of an HTTP request with a key, and how many there are: as long as a record
/// of the other producers.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const RETRIES_MAX: usize = 3_000;

/// Bytes of one record of the filler, and the pause after it: 3 MB/s.
const FILLER_BYTES: usize = 64 << 10;
const FILLER_PAUSE: Duration = Duration::from_millis(20);

/// Running producers.
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// A value for topic `topic`: JSON with `i`, and in the topics that have dead letters now and
/// then something that is none.
fn value(topic: usize, i: i64, random: &mut StdRng) -> String {
    let pad = "x".repeat(random.random_range(0..300));
    if TOPICS[topic].1 == "json" && i % 97 == 0 {
        return format!("not json, i={i}");
    }
    if random.random_ratio(1, 500) {
        return format!(r#"{{"i":{i},"new{}":"{pad}"}}"#, random.random_range(0..20));
    }
    format!(r#"{{"i":{i},"s":"{pad}","f":{}.5}}"#, i % 7)
}

impl Load {
    /// Starts one librdkafka producer per topic, one HTTP client, and what fills files.
    pub fn start(floe: &Floe, world: &Arc<World>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let next = Arc::new(AtomicI64::new(0));
        let mut tasks = Vec::new();
        for topic in 0..TOPICS.len() {
            let settings = [
                ("enable.idempotence", "true"),
                ("linger.ms", "5"),
                ("message.timeout.ms", DELIVERY_MAX_MS),
                ("reconnect.backoff.max.ms", "200"),
                ("compression.type", ["none", "lz4", "zstd"][topic % 3]),
            ];
            let producer = clients::producer(floe, &settings);
            let random = StdRng::seed_from_u64(seed ^ (topic as u64) << 32);
            let (stop, next, world) = (Arc::clone(&stop), Arc::clone(&next), Arc::clone(world));
            #[allow(clippy::disallowed_methods, reason = "joined by stop")]
            tasks.push(tokio::spawn(kafka(producer, topic, random, stop, next, world)));
        }
        let producer = clients::producer(floe, &[("message.timeout.ms", DELIVERY_MAX_MS)]);
        #[allow(clippy::disallowed_methods, reason = "joined by stop")]
        tasks.push(tokio::spawn(fill(producer, seed, Arc::clone(&stop))));
        let url = floe.url("/api/v1/topics");
        let random = StdRng::seed_from_u64(!seed);
        #[allow(clippy::disallowed_methods, reason = "joined by stop")]
        tasks.push(tokio::spawn(http(url, random, Arc::clone(&stop), next, Arc::clone(world))));
        Self { stop, tasks }
    }

    /// Ends the load once everything that was sent has its answer.
    ///
    /// # Panics
    /// If a producer's task panicked.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no producer panics");
        }
    }
}

async fn kafka(
    producer: FutureProducer,
    topic: usize,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
    next: Arc<AtomicI64>,
    world: Arc<World>,
) {
    let mut pending = Vec::new();
    let mut turn = 0_u32;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        if stopping || pending.len() >= IN_FLIGHT_MAX {
            for (i, delivery) in pending.drain(..) {
                let delivery: rdkafka::producer::DeliveryFuture = delivery;
                let known = match delivery.await {
                    Ok(Ok(_)) => Known::Acknowledged,
                    _ => Known::Unknown,
                };
                world.tell(topic, i, known);
            }
        }
        if stopping {
            return;
        }
        let i = next.fetch_add(1, Ordering::Relaxed);
        let value = value(topic, i, &mut random);
        let record = FutureRecord::<(), _>::to(TOPICS[topic].0).payload(&value);
        match producer.send_result(record) {
            Ok(delivery) => pending.push((i, delivery)),
            // The queue is full; the value was never sent.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        turn += 1;
        if turn.is_multiple_of(20) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Fills files with what nobody looks at.
async fn fill(producer: FutureProducer, seed: u64, stop: Arc<AtomicBool>) {
    let mut bytes = vec![0; FILLER_BYTES];
    StdRng::seed_from_u64(seed).fill(bytes.as_mut_slice());
    while !stop.load(Ordering::Relaxed) {
        let record = FutureRecord::<(), _>::to(FILLER).payload(&bytes);
        // Whether it arrives, and whether it found room in the queue, is all the same.
        drop(producer.send_result(record));
        tokio::time::sleep(FILLER_PAUSE).await;
    }
}

async fn once(request: reqwest::RequestBuilder) -> Known {
    match request.send().await {
        Ok(answer) if answer.status().is_success() => Known::Acknowledged,
        _ => Known::Unknown,
    }
}

/// The same request again and again, as its key allows.
async fn until_answered(request: reqwest::RequestBuilder) -> Known {
    for _ in 0..RETRIES_MAX {
        let again = request.try_clone().expect("the body is in memory");
        if matches!(once(again).await, Known::Acknowledged) {
            return Known::Acknowledged;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    Known::Unknown
}

async fn http(
    url: String,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
    next: Arc<AtomicI64>,
    world: Arc<World>,
) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build();
    let client = client.expect("a plain client can be built");
    while !stop.load(Ordering::Relaxed) {
        let topic = random.random_range(0..TOPICS.len());
        let sent: Vec<i64> =
            (0..random.random_range(1..10)).map(|_| next.fetch_add(1, Ordering::Relaxed)).collect();
        let events: Vec<String> = sent.iter().map(|i| format!(r#"{{"i":{i}}}"#)).collect();
        let request = client
            .post(format!("{url}/{}/events", TOPICS[topic].0))
            .body(format!("[{}]", events.join(",")));
        // Every fourth has no key: it is sent once, and its client cannot know.
        let known = if random.random_ratio(1, 4) {
            once(request).await
        } else {
            let key = format!("torture-{}", sent[0]);
            until_answered(request.header("idempotency-key", key)).await
        };
        for i in sent {
            world.tell(topic, i, known);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(1..20))).await;
    }
}
