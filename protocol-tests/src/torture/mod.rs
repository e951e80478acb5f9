//! Long runs against the real binary: load by stock clients, faults by a seeded schedule, and a
//! model that knows what was acknowledged. A seed names a history: the same faults in the same
//! order (what the machine makes of their times is its own).

pub mod check;
pub mod faults;
pub mod load;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::proxy;
use crate::proxy::Proxy;
use crate::{Floe, clients};
use check::Counts;

/// Topics of every history with their table mode.
pub const TOPICS: [(&str, &str); 3] = [("auto0", "auto"), ("json1", "json"), ("raw2", "raw")];

/// A topic beside them that fills files of the log and keeps next to nothing: files are freed and
/// written again, and what the others have in them is moved.
pub const FILLER: &str = "filler";

/// Partitions of each topic.
pub const PARTITIONS: i32 = 3;

/// Where the tables' catalog is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogKind {
    /// In the server itself.
    Embedded,
    /// Another server, behind a proxy that loses and makes up answers.
    Rest,
}

/// One history.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Seed of the schedule.
    pub seed: u64,
    /// How long load and faults go on.
    pub length: Duration,
    /// Where the catalog is.
    pub catalog: CatalogKind,
}

/// What is known about one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It was acknowledged: it must be there once.
    Acknowledged,
    /// Nobody answered: it may be there once.
    Unknown,
}

/// What the outside world knows: values by topic.
#[derive(Default)]
pub struct World {
    values: Mutex<BTreeMap<(usize, i64), Known>>,
}

impl World {
    /// Records what is known of the value `i` of a topic (its index in [`TOPICS`]).
    pub fn tell(&self, topic: usize, i: i64, known: Known) {
        self.values.lock().expect("no holder panics").insert((topic, i), known);
    }

    fn of(&self, topic: usize) -> BTreeMap<i64, Known> {
        let values = self.values.lock().expect("no holder panics");
        let of_topic = values.range((topic, i64::MIN)..=(topic, i64::MAX));
        of_topic.map(|((_, i), known)| (*i, *known)).collect()
    }
}

/// What a history found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Faults by kind.
    pub faults: faults::Tally,
    /// Records and rows.
    pub counts: Counts,
}

/// The servers of a history.
pub struct Stage {
    /// The server under test.
    pub floe: Floe,
    /// The server that keeps its catalog.
    pub keeper: Option<(Floe, Proxy)>,
}

impl Stage {
    async fn build(catalog: CatalogKind, seed: u64) -> Self {
        // The end of the process takes nothing, whenever the log syncs.
        let flush =
            ["always", "always", "interval", "os"][usize::try_from(seed / 2 % 4).unwrap_or(0)];
        let mut flags = vec![
            format!("--log-flush={flush}"),
            "--table-target-lag=1s".to_owned(),
            "--table-commit-min-interval=100ms".to_owned(),
            "--wal-file-bytes".to_owned(),
            "4MiB".to_owned(),
            "--retention-ms=-1".to_owned(),
            "--set=retention.check.interval=1s".to_owned(),
            "--set=wal.move.delay=1s".to_owned(),
        ];
        let keeper = match catalog {
            CatalogKind::Embedded => None,
            CatalogKind::Rest => {
                let keeper = Floe::start(&["--table-mode=off"]).await;
                let calm = proxy::always(proxy::Fault::None);
                let proxy = Proxy::start(&keeper.url(""), calm).await;
                flags.push(format!("--catalog-uri={}/iceberg", proxy.url()));
                Some((keeper, proxy))
            }
        };
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Self { floe: Floe::start(&flags).await, keeper }
    }

    /// The catalog's address, past the proxy.
    pub fn catalog(&self) -> String {
        self.keeper.as_ref().map_or(&self.floe, |(keeper, _)| keeper).url("/iceberg")
    }
}

/// Runs one history. The error says what was lost or doubled, and where its data lies.
pub async fn run(plan: Plan) -> Result<Report, String> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut stage = Stage::build(plan.catalog, plan.seed).await;
    for (topic, mode) in TOPICS {
        clients::create(&stage.floe, topic, PARTITIONS, &[("table.mode", mode)]).await;
    }
    let filler = [("table.mode", "off"), ("retention.bytes", "1048576")];
    clients::create(&stage.floe, FILLER, 1, &filler).await;
    let world = Arc::new(World::default());
    let load = load::Load::start(&stage.floe, &world, plan.seed);
    let mut tally = faults::Tally::default();
    let ends = Instant::now() + plan.length;
    while Instant::now() < ends {
        faults::next(&mut stage, &mut random, &mut tally).await;
    }
    if let Some((_, proxy)) = &stage.keeper {
        proxy.calm();
    }
    load.stop().await;
    tally.count(&stage.floe).await;
    let checked = check::all(&stage, &world).await;
    let counts = checked.map_err(|why| {
        let keep = std::env::temp_dir().join(format!("floe-torture-{}", plan.seed));
        let _ = std::fs::remove_dir_all(&keep);
        let kept = std::fs::rename(stage.floe.dir(), &keep);
        format!("seed {}: {why}\ndata: {} ({kept:?})", plan.seed, keep.display())
    })?;
    Ok(Report { faults: tally, counts })
}
