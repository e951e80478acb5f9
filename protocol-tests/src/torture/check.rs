//! After the storm: log against what was acknowledged, tables against the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Known, PARTITIONS, Stage, TOPICS, World};
use crate::clients::read_all;
use crate::table;

/// Longest wait until the tables have everything.
const SETTLE_MAX: Duration = Duration::from_secs(180);

/// What was counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Records whose fate nobody was told.
    pub unknown: u64,
    /// Of these, how many are in the log.
    pub unknown_stored: u64,
    /// Rows of tables.
    pub rows: u64,
    /// Rows of dead-letter tables.
    pub dead_letters: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.unknown_stored += other.unknown_stored;
        self.rows += other.rows;
        self.dead_letters += other.dead_letters;
    }
}

/// The number in a value: `"i":N` or `i=N`.
fn number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let after =
        text.find("\"i\":").map(|at| at + 4).or_else(|| text.find("i=").map(|at| at + 2))?;
    let digits: String = text[after..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Checks every topic.
///
/// # Errors
/// What is lost, doubled or wrong.
pub async fn all(stage: &Stage, world: &World) -> Result<Counts, String> {
    let mut counts = Counts::default();
    for (index, (topic, _)) in TOPICS.iter().enumerate() {
        settle(stage, topic).await?;
        let stored = tokio::task::block_in_place(|| read_all(&stage.floe, topic, PARTITIONS));
        let mut log = BTreeMap::new();
        for record in &stored {
            let i = number(record.value.as_deref().unwrap_or_default());
            let i = i.ok_or_else(|| format!("{topic}: a value that nobody sent"))?;
            log.insert((record.partition, record.offset), i);
        }
        if log.len() != stored.len() {
            return Err(format!("{topic}: an offset was read twice"));
        }
        contiguous(topic, &log)?;
        against_world(topic, &log, &world.of(index), &mut counts)?;
        against_tables(stage, topic, &log, &mut counts).await?;
    }
    Ok(counts)
}

/// Waits until the table has everything.
async fn settle(stage: &Stage, topic: &str) -> Result<(), String> {
    let deadline = Instant::now() + SETTLE_MAX;
    let url = stage.floe.url(&format!("/api/v1/tables/streams.{topic}/flush"));
    loop {
        let answer = reqwest::Client::new().post(&url).send().await;
        let text = match answer {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            return Err(format!("{topic} does not settle: {text}"));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn contiguous(topic: &str, log: &BTreeMap<(i32, i64), i64>) -> Result<(), String> {
    let mut next = BTreeMap::new();
    for (partition, offset) in log.keys() {
        let expected = next.entry(*partition).or_insert(0);
        if offset != expected {
            return Err(format!("{topic} {partition}: offset {offset} follows {expected}"));
        }
        *expected += 1;
    }
    Ok(())
}

fn against_world(
    topic: &str,
    log: &BTreeMap<(i32, i64), i64>,
    world: &BTreeMap<i64, Known>,
    counts: &mut Counts,
) -> Result<(), String> {
    let mut found = BTreeSet::new();
    for ((partition, offset), i) in log {
        if !found.insert(*i) {
            return Err(format!(
                "{topic}: value {i} is there twice, again at {partition} {offset}"
            ));
        }
        match world.get(i) {
            Some(Known::Unknown) => counts.unknown_stored += 1,
            Some(Known::Acknowledged) => {}
            None => return Err(format!("{topic}: value {i} was never sent")),
        }
    }
    for (i, known) in world {
        match known {
            Known::Unknown => counts.unknown += 1,
            Known::Acknowledged if found.contains(i) => counts.acknowledged += 1,
            Known::Acknowledged => return Err(format!("{topic}: value {i} is lost")),
        }
    }
    Ok(())
}

async fn against_tables(
    stage: &Stage,
    topic: &str,
    log: &BTreeMap<(i32, i64), i64>,
    counts: &mut Counts,
) -> Result<(), String> {
    let catalog = stage.catalog();
    let rows = table::rows(&catalog, topic).await.unwrap_or_default();
    let letters = table::rows(&catalog, &format!("{topic}__dlq")).await.unwrap_or_default();
    let mut seen = BTreeSet::new();
    for row in rows.iter().chain(&letters) {
        let place = (row.partition, row.offset);
        if !seen.insert(place) {
            return Err(format!("{topic}: {place:?} is there twice in the tables"));
        }
        let Some(i) = log.get(&place) else {
            return Err(format!("{topic}: the tables have {place:?}, the log does not"));
        };
        if row.i.is_some_and(|found| found != *i) {
            return Err(format!("{topic}: {place:?} is {:?} in the table, {i} in the log", row.i));
        }
    }
    if let Some(lost) = log.keys().find(|place| !seen.contains(place)) {
        return Err(format!("{topic}: {lost:?} is in no table"));
    }
    counts.rows += rows.len() as u64;
    counts.dead_letters += letters.len() as u64;
    Ok(())
}
