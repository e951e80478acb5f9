//! The schedule: what goes wrong next.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::{Stage, TOPICS};
use crate::proxy::{Fault, Proxy, is_commit};
use crate::{Floe, table};

/// Faults of a history by kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Times the process was killed.
    pub kills: u64,
    /// Of these, times the state store was deleted before the next start.
    pub stores_lost: u64,
    /// Times the process stood still for a while.
    pub pauses: u64,
    /// Spells of a catalog that lies, or is gone.
    pub storms: u64,
    /// Commits of another writer.
    pub foreign: u64,
    /// Files of the log that were freed, and files that were written again.
    pub freed: u64,
    /// See [`Tally::freed`].
    pub recycled: u64,
}

impl Tally {
    /// Adds what the process counted since its start.
    pub async fn count(&mut self, floe: &Floe) {
        // Counts are whole.
        self.freed += floe.metric("floe_wal_files_freed_total", "").await as u64;
        self.recycled += floe.metric("floe_wal_files_recycled_total", "").await as u64;
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.kills += other.kills;
        self.stores_lost += other.stores_lost;
        self.pauses += other.pauses;
        self.storms += other.storms;
        self.foreign += other.foreign;
        self.freed += other.freed;
        self.recycled += other.recycled;
    }
}

/// Waits a little, then lets one thing go wrong.
pub async fn next(stage: &mut Stage, random: &mut StdRng, tally: &mut Tally) {
    tokio::time::sleep(Duration::from_millis(random.random_range(50..1_500))).await;
    match random.random_range(0..10) {
        0..=3 => {
            tally.kills += 1;
            let lose_store = random.random_ratio(1, 4);
            tally.stores_lost += u64::from(lose_store);
            tally.count(&stage.floe).await;
            stage.floe.kill();
            if lose_store {
                let _ = std::fs::remove_dir_all(stage.floe.dir().join("data/state"));
            }
            stage.floe.restart().await;
        }
        4 => {
            tally.pauses += 1;
            stage.floe.pause(true);
            tokio::time::sleep(Duration::from_millis(random.random_range(200..2_000))).await;
            stage.floe.pause(false);
        }
        5..=7 => match &stage.keeper {
            Some((_, proxy)) => {
                tally.storms += 1;
                weather(proxy, random);
            }
            None => tokio::time::sleep(Duration::from_millis(500)).await,
        },
        _ => tally.foreign += u64::from(foreign(stage, random).await),
    }
}

/// Sets what the proxy does from now on.
fn weather(proxy: &Proxy, random: &mut StdRng) {
    let mut own = StdRng::seed_from_u64(random.random());
    match random.random_range(0..4) {
        0 => proxy.calm(),
        1 => proxy.set(Box::new(|_, _| Fault::Reset)),
        2 => proxy.set(Box::new(move |method, path| {
            // Commits go through and nobody learns of it.
            let commit = is_commit(method, path);
            if commit && own.random_ratio(2, 3) { Fault::LostReply } else { Fault::None }
        })),
        _ => proxy.set(Box::new(move |method, path| any(&mut own, is_commit(method, path)))),
    }
}

fn any(random: &mut StdRng, is_commit: bool) -> Fault {
    let codes = [401, 409, 429, 500, 502, 503];
    let code = codes[random.random_range(0..codes.len())];
    match random.random_range(0..12) {
        0 => Fault::Reset,
        1 => Fault::LostReply,
        2 if is_commit => Fault::Twice,
        3 => Fault::Answer(code),
        4 => Fault::AnswerAfter(if code == 401 || code == 429 { 500 } else { code }),
        5 => Fault::Delay(Duration::from_millis(random.random_range(1..3_000))),
        _ => Fault::None,
    }
}

/// Another writer commits to one of the tables. True if it was taken.
async fn foreign(stage: &Stage, random: &mut StdRng) -> bool {
    let catalog = stage.catalog();
    let (topic, _) = TOPICS[random.random_range(0..TOPICS.len())];
    let Some(metadata) = table::metadata(&catalog, topic).await else { return false };
    let requirements = json!([{ "type": "assert-table-uuid", "uuid": metadata.uuid() }]);
    let updates = match random.random_range(0..3) {
        0 => json!([{ "action": "set-properties", "updates": { "foreign": "yes" } }]),
        1 => {
            let head = metadata.current_snapshot_id();
            let old: Vec<i64> = metadata
                .snapshots()
                .map(|snapshot| snapshot.snapshot_id())
                .filter(|id| Some(*id) != head)
                .collect();
            json!([{ "action": "remove-snapshots", "snapshot-ids": old }])
        }
        _ => {
            let mut schema =
                serde_json::to_value(metadata.current_schema().as_ref()).unwrap_or_default();
            let id = metadata.last_column_id() + 1;
            let column = json!({
                "id": id, "name": format!("theirs{id}"), "required": false, "type": "string"
            });
            if let Some(fields) = schema["fields"].as_array_mut() {
                fields.push(column);
            }
            json!([
                { "action": "add-schema", "schema": schema, "last-column-id": id },
                { "action": "set-current-schema", "schema-id": -1 },
            ])
        }
    };
    table::update(&catalog, topic, requirements, updates).await == 200
}
