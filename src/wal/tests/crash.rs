//! The log under power loss: what was acknowledged is there, what was cut stays away, and every
//! sync call is needed (rules 3.7).

use std::collections::{BTreeMap, HashSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::config::Flush;
use crate::runtime::files::SyncPoint;
use crate::runtime::files::power_loss::PowerLoss;

const SEEDS: u64 = 40;
const LIVES: usize = 5;

/// A frame by the request it belongs to and its place in it.
type Name = (u32, u8);

/// What the outside world knows of the log over all of its lives.
#[derive(Default)]
struct World {
    /// Frames of acknowledged requests with their offsets.
    acked: BTreeMap<Name, i64>,
    /// Requests ever sent: how many frames each has.
    sent: BTreeMap<u32, u8>,
    /// Requests that a recovery did not find.
    dead: HashSet<u32>,
    /// Greatest run handed out.
    run: u32,
    /// Position that was durable at the end of a life.
    durable: Lsn,
    /// Files below were freed: what is in them is not asked for any more.
    freed: Lsn,
    /// Position after the last frame of a request.
    ends: HashMap<u32, Lsn>,
    /// Answers of this life: position after the request, its number, its offsets.
    answered: Vec<(Lsn, u32, Vec<i64>)>,
}

fn filler(name: Name) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(u64::from(name.0) << 8 | u64::from(name.1));
    let length = random.random_range(0..1500);
    let mut text = name.0.to_be_bytes().to_vec();
    text.push(name.1);
    text.extend((0..length).map(|_| random.random::<u8>()));
    text
}

fn name_of(frame: &WrittenFrame) -> Result<Name, String> {
    let text = text_of(frame);
    let (request, rest) = text.split_first_chunk::<4>().ok_or("a frame without a name")?;
    let name = (u32::from_be_bytes(*request), *rest.first().ok_or("a frame without a name")?);
    if text != filler(name) {
        return Err(format!("frame {name:?} has other bytes than were sent"));
    }
    Ok(name)
}

impl World {
    /// What was answered up to `end` must be there in the next life.
    fn expect(&mut self, end: Lsn) {
        for (answered, id, offsets) in std::mem::take(&mut self.answered) {
            if answered <= end && answered > self.freed {
                self.ends.insert(id, answered);
                self.acked.extend((0u8..).map(|at| (id, at)).zip(offsets));
            }
        }
    }

    fn check(&mut self, recovered: &Recovered, frames: &[WrittenFrame]) -> Result<(), String> {
        let fail = |what: String| Err(what);
        if !recovered.damage.is_empty() || recovered.lost.is_some() {
            return fail(format!("damage {:?} {:?}", recovered.damage, recovered.lost));
        }
        if !recovered.short_files.is_empty() {
            return fail(format!("short files {:?}", recovered.short_files));
        }
        if recovered.run <= self.run {
            return fail(format!("run {} after run {}", recovered.run, self.run));
        }
        self.run = recovered.run;
        let mut found: BTreeMap<Name, i64> = BTreeMap::new();
        let mut next: HashMap<u32, i64> = HashMap::new();
        for frame in frames {
            let name = name_of(frame)?;
            if frame.draft.kind.is_records() {
                let next = next.entry(frame.draft.partition.0).or_insert(match self.freed {
                    Lsn(0) => 0,
                    _ => frame.draft.base_offset,
                });
                if frame.draft.base_offset != *next
                    || frame.draft.payload[..8] != next.to_be_bytes()
                {
                    return fail(format!("{name:?} has not the offset {next}"));
                }
                *next += i64::from(frame.draft.record_count);
            }
            if self.dead.contains(&name.0) {
                return fail(format!("{name:?} came back to life"));
            }
            let end = self.ends.entry(name.0).or_default();
            *end = frame.end().max(*end);
            if found.insert(name, frame.draft.base_offset).is_some() {
                return fail(format!("{name:?} is there twice"));
            }
        }
        for (name, offset) in &self.acked {
            if found.get(name) != Some(offset) {
                return fail(format!("acknowledged {name:?} is gone"));
            }
        }
        // Readers may have seen them from now on.
        self.acked.extend(&found);
        for (request, count) in &self.sent {
            if self.ends.get(request).is_some_and(|end| *end <= self.freed) {
                continue;
            }
            let here = (0..*count).filter(|at| found.contains_key(&(*request, *at))).count();
            if here == 0 {
                self.dead.insert(*request);
            } else if here != usize::from(*count) {
                return fail(format!("{here} of {count} frames of chain {request}"));
            }
        }
        Ok(())
    }
}

/// Frees the oldest files, all but the newest two: they are written again later.
fn free_some(world: &Mutex<World>, bench: &Bench) -> Result<(), String> {
    let durable = bench.wal.durable_lsn();
    let files = bench.wal.list();
    for file in files.iter().take(files.len().saturating_sub(2)) {
        let mut world = world.lock();
        if file.end > durable {
            break;
        }
        let answered: Vec<_> = world.answered.iter().map(|(end, id, _)| (*id, *end)).collect();
        world.ends.extend(answered);
        world.freed = file.end;
        let World { acked, ends, freed, .. } = &mut *world;
        acked.retain(|name, _| ends.get(&name.0).is_none_or(|end| end > freed));
        drop(world);
        bench.wal.release(file.first).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn random_request(id: u32, random: &mut StdRng) -> Vec<FrameDraft> {
    let frame = |at: u8, random: &mut StdRng| match random.random_range(0..4) {
        0 => state(&filler((id, at))),
        _ => batch(random.random_range(1..5), &filler((id, at))),
    };
    let count = if random.random_bool(0.3) { random.random_range(2..5) } else { 1 };
    (0..count).map(|at| frame(at, random)).collect()
}

/// Appends with and without waiting, rolls, perhaps a clean end.
fn append_some(
    world: &Arc<Mutex<World>>,
    bench: &Bench,
    random: &mut StdRng,
) -> Result<(), String> {
    let requests = random.random_range(0..60);
    let mut waited = None;
    for _ in 0..requests {
        let id = u32::try_from(world.lock().sent.len()).unwrap();
        let frames = random_request(id, random);
        let count = u8::try_from(frames.len()).unwrap();
        world.lock().sent.insert(id, count);
        let (told, (done, answer)) = (Arc::clone(world), sync_channel(1));
        let done = Done::Logged(Box::new(move |ack: Ack| {
            told.lock().answered.push((ack.end, id, ack.base_offsets));
            done.send(()).unwrap_or_default();
        }));
        let sent = bench.wal.append_blocking(Request { frames, done, permit: None });
        sent.map_err(|error| error.to_string())?;
        if random.random_bool(0.3) {
            answer.recv().map_err(|_| "the log ended".to_owned())?;
        } else {
            waited = Some(answer);
        }
        if random.random_bool(0.05) {
            free_some(world, bench)?;
        }
        if random.random_bool(0.05) {
            futures::executor::block_on(bench.wal.roll(0)).map_err(|error| error.to_string())?;
        }
    }
    if random.random_bool(0.2) {
        bench.wal.shutdown();
    } else if let Some(answer) = waited.filter(|_| random.random_bool(0.5)) {
        answer.recv().map_err(|_| "the log ended".to_owned())?;
    }
    Ok(())
}

/// One life: recover, check, append, then lose power at some point, or only be killed: true if
/// the power stayed on.
fn live(
    world: &Arc<Mutex<World>>,
    root: &Path,
    random: &mut StdRng,
    layer: &PowerLoss,
    flush: Flush,
) -> Result<bool, String> {
    let known_durable = if random.random_bool(0.5) { world.lock().durable } else { Lsn::default() };
    let lsn = world.lock().freed;
    let start = Start { lsn, known_durable: known_durable.max(lsn), ..Start::default() };
    let data = root.join("data");
    let fs: Arc<dyn FileSystem> = Arc::new(layer.clone());
    let crash_seed = random.random();
    if random.random_bool(0.2) {
        let opened = open_and_recover(fs, &data, start).map_err(|error| error.to_string())?;
        world.lock().check(&opened.1, &opened.2)?;
        return layer.crash(crash_seed).map(|()| false).map_err(|error| error.to_string());
    }
    let options = WalOptions { flush, ..quick() };
    let bench = Bench::open_with(fs, &data, start, options).map_err(|error| error.to_string())?;
    world.lock().check(&bench.recovered, &bench.frames)?;
    append_some(world, &bench, random)?;
    let killed = random.random_bool(0.4);
    if killed {
        // What is written stays in the page cache, never synced by this process.
        bench.fail_points.set("wal.before_sync", || Err("killed".into()));
        let last = u32::try_from(world.lock().sent.len()).unwrap();
        world.lock().sent.insert(last, 1);
        let _ = bench.send(vec![batch(1, &filler((last, 0)))]).recv();
    } else {
        world.lock().durable = bench.wal.durable_lsn();
        layer.crash(crash_seed).map_err(|error| error.to_string())?;
    }
    bench.close();
    let mut world = world.lock();
    // Only a power loss takes what was answered, and only where answers run ahead.
    let all = killed || flush == Flush::Always;
    let end = if all { Lsn(u64::MAX) } else { world.durable };
    world.expect(end);
    Ok(killed)
}

fn layer_on(root: &Path, skip: Option<SyncPoint>) -> Result<PowerLoss, String> {
    let layer = PowerLoss::new(root).map_err(|error| error.to_string())?;
    skip.into_iter().for_each(|point| layer.skip(point));
    Ok(layer)
}

fn lives(seed: u64, skip: Option<SyncPoint>, flush: Flush) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut random = StdRng::seed_from_u64(seed);
    let world = Arc::new(Mutex::new(World::default()));
    let mut layer = layer_on(dir.path(), skip)?;
    for _ in 0..LIVES {
        if !live(&world, dir.path(), &mut random, &layer, flush)? {
            layer = layer_on(dir.path(), skip)?;
        }
    }
    // A kill is forgiven where answers run ahead, a power loss before the next start is not.
    if flush == Flush::Always {
        layer.crash(random.random()).map_err(|error| error.to_string())?;
    }
    let known_durable = world.lock().durable;
    let lsn = world.lock().freed;
    let start = Start { lsn, known_durable: known_durable.max(lsn), ..Start::default() };
    let (_, recovered, frames) = open_and_recover(Arc::new(Disk), &dir.path().join("data"), start)
        .map_err(|error| error.to_string())?;
    world.lock().check(&recovered, &frames)
}

#[test]
fn acknowledged_frames_survive_power_loss_whole_and_alone() {
    for seed in 0..SEEDS {
        lives(seed, None, Flush::Always).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn with_answers_that_run_ahead_what_was_durable_survives_whole_and_alone() {
    for seed in 0..SEEDS {
        let flush = [Flush::Os, Flush::Interval(Duration::from_millis(2))][seed as usize % 2];
        lives(seed, None, flush).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn with_answers_that_run_ahead_the_sync_is_needed_all_the_same() {
    let flush = Flush::Interval(Duration::from_millis(2));
    let lives = |seed| lives(seed, Some(SyncPoint::WalGroup), flush).is_err();
    assert!((0..4 * SEEDS).any(lives), "nobody misses it");
}

#[test]
fn every_sync_call_is_needed() {
    for point in [
        SyncPoint::WalGroup,
        SyncPoint::WalFile,
        SyncPoint::WalDir,
        SyncPoint::RunFile,
        SyncPoint::RunDir,
        SyncPoint::FormatFile,
        SyncPoint::FormatDir,
    ] {
        let found = (0..4 * SEEDS)
            .find_map(|seed| Some((seed, lives(seed, Some(point), Flush::Always).err()?)));
        let (seed, why) = found.unwrap_or_else(|| panic!("nobody misses a sync of {point:?}"));
        println!("{point:?}: seed {seed}: {why}");
    }
}
