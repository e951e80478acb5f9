//! Well-behaved clients beside whatever else a test does to a server: they must not notice.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::Floe;
use crate::clients::create;
use crate::wire::Wire;

/// The topic it writes to and reads from.
pub const TOPIC: &str = "healthy";

/// Between two requests of one kind.
const PAUSE: Duration = Duration::from_millis(10);

/// What one fetch asks for.
const FETCH_BYTES: i32 = 16 << 10;

/// A Kafka producer, a Kafka consumer and an HTTP client, each with one request after another.
/// Every request must succeed.
pub struct Healthy {
    stop: Arc<AtomicBool>,
    tasks: Vec<(&'static str, JoinHandle<Vec<Duration>>)>,
}

/// What the requests of one kind took.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Which.
    pub name: &'static str,
    /// How many requests, all of them with success.
    pub requests: usize,
    /// Half of them took no longer.
    pub median: Duration,
    /// 99 of a hundred took no longer.
    pub p99: Duration,
    /// None took longer.
    pub max: Duration,
}

impl Latency {
    fn of(name: &'static str, mut taken: Vec<Duration>) -> Self {
        taken.sort_unstable();
        let at = |share: usize| taken[(taken.len() * share / 100).min(taken.len() - 1)];
        Self { name, requests: taken.len(), median: at(50), p99: at(99), max: at(100) }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        let (median, p99, max) = (ms(self.median), ms(self.p99), ms(self.max));
        let Self { name, requests, .. } = self;
        write!(f, "{name} {requests} times, median {median:.1} ms, p99 {p99:.1}, max {max:.1}")
    }
}

impl Healthy {
    /// Makes [`TOPIC`] and begins.
    pub async fn start(floe: &Floe) -> Self {
        create(floe, TOPIC, 1, &[("table.mode", "off"), ("retention.ms", "-1")]).await;
        let bootstrap = floe.bootstrap();
        let mut producer = Wire::connect(&bootstrap).await;
        let consumer = Wire::connect(&bootstrap).await;
        assert_eq!(producer.produce(TOPIC, 0, &["{}"]).await.error_code, 0);
        let url = floe.url(&format!("/api/v1/topics/{TOPIC}/events"));
        let stop = Arc::new(AtomicBool::new(false));
        let meter = || Meter { stop: Arc::clone(&stop), taken: Vec::new() };
        #[allow(clippy::disallowed_methods, reason = "stop() joins them")]
        let tasks = vec![
            ("produce", tokio::spawn(produce(producer, meter()))),
            ("fetch", tokio::spawn(fetch(consumer, meter()))),
            ("POST", tokio::spawn(post(url, meter()))),
        ];
        Self { stop, tasks }
    }

    /// Ends, and tells what its requests took.
    ///
    /// # Panics
    /// If one of them failed.
    pub async fn stop(self) -> Vec<Latency> {
        self.stop.store(true, Ordering::Relaxed);
        let mut found = Vec::new();
        for (name, task) in self.tasks {
            found.push(Latency::of(name, task.await.expect("every healthy request succeeds")));
        }
        found
    }
}

/// Takes the time of one request after another until it is told to stop.
struct Meter {
    stop: Arc<AtomicBool>,
    taken: Vec<Duration>,
}

impl Meter {
    /// True if there is one more request; at least one there is.
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) || self.taken.is_empty()
    }

    async fn took(&mut self, time: Duration) {
        self.taken.push(time);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn produce(mut wire: Wire, mut meter: Meter) -> Vec<Duration> {
    while meter.goes_on() {
        let began = Instant::now();
        let answer = wire.produce(TOPIC, 0, &["{\"a\":1}"]).await;
        assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        meter.took(began.elapsed()).await;
    }
    meter.taken
}

async fn fetch(mut wire: Wire, mut meter: Meter) -> Vec<Duration> {
    while meter.goes_on() {
        let began = Instant::now();
        // An answer without records is none: a consumer asks again.
        while wire.fetch(TOPIC, FETCH_BYTES).await == 0 {}
        meter.took(began.elapsed()).await;
    }
    meter.taken
}

async fn post(url: String, mut meter: Meter) -> Vec<Duration> {
    let client = reqwest::Client::new();
    while meter.goes_on() {
        let began = Instant::now();
        let answer = client.post(&url).body("{\"a\":1}").send().await.expect("it answers");
        let status = answer.status();
        let text = answer.text().await.expect("the answer is whole");
        assert!(status.is_success(), "{status} {text}");
        meter.took(began.elapsed()).await;
    }
    meter.taken
}
