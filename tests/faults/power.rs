//! The whole broker loses power, again and again: what was acknowledged is there, in log and
//! table once each; and every sync call is needed (rules 3.7). Failed writes and syncs besides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use floe::broker::{Broker, Components};
use floe::log::{Append, AppendBatch, Origin};
use floe::runtime::Clock;
use floe::runtime::files::SyncPoint;
use floe::runtime::files::power_loss::{Call, Failure, PowerLoss};
use floe::topic::Topic;
use floe::types::TopicId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{
    Stored, WAIT_MAX, append, batch, components, config, copy_dir, eventually, flush, in_a_life,
    read_log, topic, topic_with, try_read_log, try_read_table, values,
};

const SEEDS: u64 = 24;
const LIVES: usize = 3;
/// Seeds in which a missing sync must show.
const SEEDS_MAX: u64 = 400;
const TOPICS: [&str; 3] = ["a", "b", "c"];
/// Its table has typed rows only: what is no JSON goes to the dead letters.
const TYPED: &str = "b";
/// Keeps its records for ever: between those of the others, which go, they are moved.
const KEEPER: &str = "a";
const PARTITIONS: i32 = 3;

/// A record as everybody names it: topic, partition index, offset.
type Place = (&'static str, i32, i64);

/// What the outside world knows of the broker over all of its lives.
#[derive(Default)]
struct World {
    topics: BTreeMap<&'static str, TopicId>,
    /// Records that were acknowledged, or that a reader may have seen.
    known: BTreeMap<Place, usize>,
    /// Values that were sent together.
    chains: Vec<Vec<usize>>,
    /// Values handed out.
    sent: usize,
}

/// The folder of the state store as the last completed sync left it.
pub(crate) struct Side {
    state: PathBuf,
    copy: PathBuf,
    /// The power is off: no sync completes any more.
    off: Mutex<bool>,
}

impl Side {
    pub(crate) fn new(dir: &Path) -> Arc<Self> {
        let (state, copy) = (dir.join("data/state"), dir.join("state.synced"));
        Arc::new(Self { state, copy, off: Mutex::new(false) })
    }

    pub(crate) fn persisted(&self) {
        let off = self.off.lock().unwrap();
        if *off {
            return;
        }
        let _ = std::fs::remove_dir_all(&self.copy);
        copy_dir(&self.state, &self.copy);
    }

    pub(crate) fn crash(&self, layer: &PowerLoss, seed: u64) {
        let mut off = self.off.lock().unwrap();
        *off = true;
        layer.crash(seed).unwrap();
    }

    /// Leaves what a power loss leaves of the state: its last synced form, or nothing.
    pub(crate) fn restore(&self, keep: bool) {
        let _ = std::fs::remove_dir_all(&self.state);
        if keep && self.copy.exists() {
            copy_dir(&self.copy, &self.state);
        }
        let _ = std::fs::remove_dir_all(&self.copy);
    }
}

/// One history of a data directory.
struct History {
    dir: tempfile::TempDir,
    random: StdRng,
    seed: u64,
    clock: Clock,
    skip: Option<SyncPoint>,
    /// `log.flush`.
    flush: &'static str,
    world: Arc<Mutex<World>>,
}

type Checked = Result<(), String>;

fn number(value: &str) -> Result<usize, String> {
    let digits = value.strip_prefix("{\"i\":").unwrap_or(value);
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| format!("a record nobody sent: {value:?}"))
}

/// A folder in memory where there is one: the layer is what loses things, and the store's own
/// syncs would take most of the time.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// The state store does not survive a power loss.
fn loses_the_store(seed: u64) -> bool {
    seed % 2 == 1
}

/// Records leave the log once they are in the table.
fn frees_the_log(seed: u64) -> bool {
    (seed / 2).is_multiple_of(2)
}

impl History {
    fn new(seed: u64, skip: Option<SyncPoint>) -> Self {
        Self {
            dir: folder(),
            random: StdRng::seed_from_u64(seed),
            seed,
            clock: Clock::manual(1_700_000_000_000),
            skip,
            flush: "always",
            world: Arc::default(),
        }
    }

    /// All lives of one seed; the error says what was lost.
    fn run(mut self) -> Checked {
        for life in 0..=LIVES {
            let last = life == LIVES;
            let layer = PowerLoss::new(self.dir.path()).unwrap();
            self.skip.into_iter().for_each(|point| layer.skip(point));
            let side = Side::new(self.dir.path());
            let lived = in_a_life(self.live(&layer, &side, last));
            lived.map_err(|why| format!("life {life}: {why}"))?;
            side.restore(!loses_the_store(self.seed));
        }
        Ok(())
    }

    async fn live(&mut self, layer: &PowerLoss, side: &Arc<Side>, last: bool) -> Checked {
        let (mut components, fatal) = components();
        components.files = Arc::new(layer.clone());
        components.clock = self.clock.clone();
        let told = Arc::clone(side);
        components.on_persisted = Some(Arc::new(move || told.persisted()));
        let broker = self.start(components).await?;
        let checked = self.check(&broker, last).await;
        if checked.is_ok() && !last {
            let pause = Duration::from_millis(self.random.random_range(0..400));
            let work = tokio::time::timeout(pause, self.work(&broker));
            let _ = work.await;
        }
        let reasons = std::mem::take(&mut *fatal.lock().unwrap());
        let crash_seed = self.random.random();
        side.crash(layer, crash_seed);
        broker.stop(Duration::from_millis(1)).await;
        checked?;
        if reasons.is_empty() { Ok(()) } else { Err(format!("it ended: {reasons:?}")) }
    }

    async fn start(&self, components: Components) -> Result<Broker, String> {
        let retention = if frees_the_log(self.seed) { "1" } else { "604800000" };
        let settings = [
            ("retention.ms", retention),
            ("retention.check.interval", "20ms"),
            ("wal.move.delay", "1ms"),
            ("log.flush", self.flush),
            ("log.flush.interval", "20ms"),
            ("table.target.lag", "1s"),
            ("table.commit.min.interval", "0s"),
        ];
        let mut config = config(self.dir.path(), &settings);
        // Less than an operator may ask for, so that files roll and are freed.
        config.wal_file_bytes = 64 << 10;
        let broker = Broker::start(&config, components).await.map_err(|error| error.to_string())?;
        // The sync at the end of the opening came before anybody could listen.
        let store = broker.store().clone();
        tokio::task::spawn_blocking(move || store.persist()).await.unwrap().unwrap();
        Ok(broker)
    }

    /// Everything known is there, once, in the log and (after a flush) in the table.
    async fn check(&mut self, broker: &Broker, last: bool) -> Checked {
        let flushes = last || self.random.random_bool(0.5);
        let topics = self.world.lock().unwrap().topics.clone();
        for (name, id) in &topics {
            let found = broker.topics().get(name).map(|topic| topic.id);
            if found != Some(*id) {
                return Err(format!("topic {name} is {found:?}, not {id:?}"));
            }
        }
        for topic in broker.topics().list() {
            let name = TOPICS.into_iter().find(|name| *name == topic.name.as_str()).unwrap();
            self.world.lock().unwrap().topics.insert(name, topic.id);
            self.check_log(broker, name, &topic).await?;
            if !flushes {
                continue;
            }
            // A missing sync may be what holds it up.
            let bound = self.skip.map_or(WAIT_MAX, |_| Duration::from_secs(10));
            flush_within(broker, name, bound).await?;
            let rows = rows_of(broker, name).await?;
            let world = self.world.lock().unwrap();
            let known = world.known.range((name, 0, 0)..=(name, i32::MAX, 0));
            let known: BTreeMap<Place, usize> = known.map(|(at, i)| (*at, *i)).collect();
            if rows != known {
                return Err(format!("{name}: {}", difference(&known, &rows)));
            }
        }
        self.check_chains()
    }

    async fn check_log(&self, broker: &Broker, name: &'static str, topic: &Topic) -> Checked {
        // Before the table: what retention takes is in the table by then.
        let (stored, holes) = try_read_log(broker, topic).await?;
        if !holes.is_empty() {
            return Err(format!("{name}: holes {holes:?}"));
        }
        if name == KEEPER {
            self.check_kept(&stored)?;
        }
        let mut found = rows_of(broker, name).await?;
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for (partition, offset, value) in stored {
            let expected = next.insert(partition, offset + 1);
            if expected.is_some_and(|expected| expected != offset) {
                return Err(format!("{name} {partition}: {offset} follows {expected:?}"));
            }
            let value = number(&value)?;
            let other = found.insert((name, partition, offset), value);
            if other.is_some_and(|other| other != value) {
                return Err(format!(
                    "{name} {partition} {offset}: {value}, in the table {other:?}"
                ));
            }
        }
        let mut world = self.world.lock().unwrap();
        for (place, value) in world.known.range((name, 0, 0)..=(name, i32::MAX, 0)) {
            if found.get(place) != Some(value) {
                return Err(format!("{place:?} is {:?}, not {value}", found.get(place)));
            }
        }
        let distinct: BTreeSet<&usize> = found.values().collect();
        if distinct.len() != found.len() {
            return Err(format!("{name}: a record is there twice"));
        }
        // Readers may have seen them from now on.
        world.known.extend(found);
        Ok(())
    }

    /// What is kept for ever is in the log, in the table or not.
    fn check_kept(&self, stored: &[Stored]) -> Checked {
        let mut places: BTreeMap<(i32, i64), usize> = BTreeMap::new();
        for (partition, offset, value) in stored {
            places.insert((*partition, *offset), number(value)?);
        }
        let world = self.world.lock().unwrap();
        let known = world.known.range((KEEPER, 0, 0)..=(KEEPER, i32::MAX, 0));
        for ((_, partition, offset), value) in known {
            let found = places.get(&(*partition, *offset));
            if found != Some(value) {
                return Err(format!("kept {partition} {offset} is {found:?}, not {value}"));
            }
        }
        Ok(())
    }

    fn check_chains(&self) -> Checked {
        let world = self.world.lock().unwrap();
        let known: BTreeSet<usize> = world.known.values().copied().collect();
        for chain in &world.chains {
            let here = chain.iter().filter(|value| known.contains(value)).count();
            if here != 0 && here != chain.len() {
                return Err(format!("{here} of {} records of a request", chain.len()));
            }
        }
        Ok(())
    }

    /// Works until it is dropped.
    async fn work(&mut self, broker: &Broker) {
        loop {
            let name = TOPICS[self.random.random_range(0..TOPICS.len())];
            let Some(topic) = broker.topics().get(name) else {
                let overrides: &[_] = match name {
                    KEEPER => &[("retention.ms", "-1")],
                    TYPED => &[("table.mode", "json")],
                    _ => &[],
                };
                let made = topic_with(broker, name, PARTITIONS, overrides).await;
                self.world.lock().unwrap().topics.insert(name, made.id);
                continue;
            };
            match self.random.random_range(0..20) {
                0..12 => self.send(broker, name, &topic).await,
                12..15 => {
                    let (tiering, table) = (broker.tiering().clone(), format!("streams.{name}"));
                    tokio::spawn(
                        async move { tiering.flush(&table, Duration::from_secs(9)).await },
                    );
                }
                15..17 => {
                    // Makes old records, and chores due.
                    self.clock.advance(self.random.random_range(0..90_000));
                    let store = broker.store().clone();
                    drop(tokio::task::spawn_blocking(move || store.write_snapshot()));
                }
                17 => {
                    let store = broker.store().clone();
                    drop(tokio::task::spawn_blocking(move || store.persist()));
                }
                _ => {
                    let pause = self.random.random_range(0..30);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
        }
    }

    /// Appends one batch, or several in one request; the answer is noted when it comes.
    async fn send(&mut self, broker: &Broker, name: &'static str, topic: &Arc<Topic>) {
        let count = if self.random.random_bool(0.3) { self.random.random_range(2..5) } else { 1 };
        let mut batches = Vec::new();
        let mut sent: Vec<(i32, Vec<usize>)> = Vec::new();
        for _ in 0..count {
            let first = {
                let mut world = self.world.lock().unwrap();
                let first = world.sent;
                world.sent += self.random.random_range(1..6);
                first..world.sent
            };
            let filler = "x".repeat(self.random.random_range(0..2_000));
            // Columns that come while the stream runs, and now and then what is no JSON.
            let more = match self.random.random_range(0..6) {
                0 => format!(",\"g{}\":1}}", self.random.random_range(0..8)),
                1 => String::new(),
                _ => "}".to_owned(),
            };
            let texts: Vec<String> =
                first.clone().map(|i| format!("{{\"i\":{i},\"f\":\"{filler}\"{more}")).collect();
            let index = self.random.random_range(0..PARTITIONS);
            let partition = topic.partitions[usize::try_from(index).unwrap()];
            batches.push(AppendBatch { partition, batch: batch(&texts), ext: Bytes::new() });
            sent.push((index, first.collect()));
        }
        let chain = sent.iter().flat_map(|(_, values)| values.clone()).collect();
        self.world.lock().unwrap().chains.push(chain);
        let origin = if count > 1 { Origin::Http } else { Origin::Kafka };
        let append = Append { batches, origin, settle: None, is_awaited: true };
        let Ok(pending) = broker.log().append(append).await else { return };
        let world = Arc::clone(&self.world);
        let (log, ids, waits) =
            (broker.log().clone(), topic.partitions.clone(), self.flush != "always");
        let answered = tokio::spawn(async move {
            let Ok(appended) = pending.wait().await else { return };
            // An answer that ran ahead promises nothing about power until its sync.
            for ((index, _), appended) in sent.iter().zip(&appended).filter(|_| waits) {
                let partition = log.partition(ids[usize::try_from(*index).unwrap()]).unwrap();
                while partition.durable_end() <= appended.last_offset {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let mut world = world.lock().unwrap();
            for ((index, values), appended) in sent.into_iter().zip(appended) {
                let offsets = appended.base_offset..;
                let places = offsets.zip(values).map(|(at, value)| ((name, index, at), value));
                world.known.extend(places);
            }
        });
        if self.random.random_bool(0.5) {
            let _ = answered.await;
        }
    }
}

/// The rows of a table and its dead letters; an error if one cannot be read or is there twice.
async fn rows_of(broker: &Broker, name: &'static str) -> Result<BTreeMap<Place, usize>, String> {
    let mut rows = try_read_table(broker.catalog(), name).await?.unwrap_or_default();
    let dead = try_read_table(broker.catalog(), &format!("{name}__dlq")).await?;
    rows.extend(dead.unwrap_or_default());
    let mut found = BTreeMap::new();
    for (partition, offset, value) in rows {
        if found.insert((name, partition, offset), number(&value)?).is_some() {
            return Err(format!("{name} {partition} {offset} is in the table twice"));
        }
    }
    Ok(found)
}

async fn flush_within(broker: &Broker, name: &str, bound: Duration) -> Checked {
    let table = format!("streams.{name}");
    let flushed = broker.tiering().flush(&table, bound).await;
    flushed.map_err(|error| format!("flush: {error}: {:?}", broker.tiering().table(&table)))
}

fn difference(known: &BTreeMap<Place, usize>, rows: &BTreeMap<Place, usize>) -> String {
    let lost: Vec<_> = known.iter().filter(|(at, i)| rows.get(at) != Some(i)).take(3).collect();
    let foreign: Vec<_> = rows.iter().filter(|(at, i)| known.get(at) != Some(i)).take(3).collect();
    format!("not in the table {lost:?}, only in the table {foreign:?}")
}

#[test]
fn acknowledged_records_survive_power_loss_once_each_in_log_and_table() {
    for seed in 0..SEEDS {
        History::new(seed, None).run().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn with_answers_that_run_ahead_power_loss_takes_only_those_and_tables_have_nothing_of_them() {
    for seed in 0..SEEDS {
        let flush = if seed % 3 == 0 { "os" } else { "interval" };
        let history = History { flush, ..History::new(seed, None) };
        history.run().unwrap_or_else(|why| panic!("{flush}, seed {seed}: {why}"));
    }
}

/// A missing sync of `point` shows in one of `seeds`.
#[allow(clippy::print_stdout, reason = "says how soon it showed")]
fn is_needed(point: SyncPoint, mut seeds: impl Iterator<Item = u64>) {
    let begin = std::time::Instant::now();
    let found =
        seeds.find_map(|seed| History::new(seed, Some(point)).run().err().map(|why| (seed, why)));
    let (seed, why) = found.unwrap_or_else(|| panic!("nobody misses a sync of {point:?}"));
    println!("{point:?}: seed {seed}, {:?}: {why}", begin.elapsed());
}

#[test]
fn the_sync_of_groups_is_needed() {
    is_needed(SyncPoint::WalGroup, 0..SEEDS_MAX);
}

#[test]
fn the_syncs_of_snapshots_are_needed() {
    // Only who has no state store any more, and no longer the whole log, needs a snapshot.
    let seeds = || (0..SEEDS_MAX).filter(|seed| loses_the_store(*seed) && frees_the_log(*seed));
    is_needed(SyncPoint::SnapshotFile, seeds());
    is_needed(SyncPoint::SnapshotDir, seeds());
}

#[test]
fn the_syncs_of_tables_are_needed() {
    is_needed(SyncPoint::TableFile, 0..SEEDS_MAX);
    is_needed(SyncPoint::TableDir, 0..SEEDS_MAX);
    is_needed(SyncPoint::TableParentDir, 0..SEEDS_MAX);
}

/// A broker on a layer that can fail; no table commits disturb which call that is.
async fn start_on(dir: &Path, layer: &PowerLoss) -> (Broker, Arc<Mutex<Vec<String>>>) {
    let (mut components, fatal) = components();
    components.files = Arc::new(layer.clone());
    let config = config(dir, &[("table.target.lag", "1h")]);
    (Broker::start(&config, components).await.unwrap(), fatal)
}

#[test]
fn a_failed_write_or_sync_of_the_log_ends_the_process_and_loses_nothing() {
    let failures = [
        (Call::Sync, Failure::Io, "sync of the log failed"),
        (Call::Write, Failure::Io, "write to the log failed"),
        (Call::Write, Failure::NoSpace, "write to the log failed"),
        (Call::Write, Failure::ShortWrite, "write to the log failed"),
    ];
    for (call, failure, reason) in failures {
        let dir = tempfile::tempdir().unwrap();
        let layer = PowerLoss::new(dir.path()).unwrap();
        let acked = in_a_life(async {
            let (broker, fatal) = start_on(dir.path(), &layer).await;
            let topic = topic(&broker, "t", 1).await;
            let mut acked = 0;
            loop {
                if acked >= 5 {
                    layer.fail_next(call, failure);
                }
                let sent = append(&broker, &topic, 0, &values(acked..acked + 1)).await;
                if sent.is_err() {
                    break;
                }
                // The file that is prepared may have had the failure.
                acked += 1;
                assert!(acked < 100, "{call:?} {failure:?}: never failed");
            }
            eventually("the end of the process", async || !fatal.lock().unwrap().is_empty()).await;
            let reasons = fatal.lock().unwrap().clone();
            assert!(reasons[0].contains(reason), "{reasons:?}");
            assert!(append(&broker, &topic, 0, &values(0..1)).await.is_err(), "it is over");
            broker.stop(Duration::from_millis(1)).await;
            acked
        });
        layer.crash(7).unwrap();
        in_a_life(async {
            let layer = PowerLoss::new(dir.path()).unwrap();
            let (broker, _) = start_on(dir.path(), &layer).await;
            let topic = broker.topics().get("t").unwrap();
            let (stored, holes) = read_log(&broker, &topic).await;
            assert!(holes.is_empty(), "{holes:?}");
            // The one that was not acknowledged may be there or not.
            assert!((acked..=acked + 1).contains(&stored.len()), "{acked}: {stored:?}");
            for (value, (_, offset, text)) in values(0..acked).into_iter().zip(&stored) {
                assert_eq!((&value, usize::try_from(*offset).ok()), (text, number(text).ok()));
            }
            append(&broker, &topic, 0, &values(200..201)).await.unwrap();
            flush(&broker, "streams.t").await;
            let rows = rows_of(&broker, "t").await;
            assert_eq!(rows.map(|rows| rows.len()), Ok(stored.len() + 1));
            broker.stop(Duration::from_secs(8)).await;
        });
    }
}
