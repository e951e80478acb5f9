//! The threads of the log under random schedules, for every `log.flush`: whoever sees all writes
//! and syncs of the files says what is durable.
//!
//! Neither loom nor shuttle can run these threads: they block in `std::sync::mpsc`, in channels
//! of tokio and in files. A copy of their logic over other channels would test the copy. So the
//! real threads pause at random, seeded places: around every write and sync, at the fail points,
//! and where they tell somebody.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::config::Flush;
use crate::runtime::files::{DiskSpace, File, SyncPoint};
use crate::wal::frame::{HEADER_LEN, disk_len};

const SENDERS: u64 = 4;
const REQUESTS: u32 = 14;

/// What happened, and what must not.
#[derive(Debug, Default)]
struct Truth {
    /// Position after the last frame that was written.
    written: u64,
    /// Where writes begin that no sync covers, with the file they went to.
    unsynced: Vec<(u32, u64)>,
    readable: Vec<Lsn>,
    durable: Vec<Lsn>,
    applied: Vec<Lsn>,
    readable_end: u64,
    applied_end: u64,
    /// Per request: how often it was answered and how often forgotten.
    told: HashMap<u32, (u32, u32)>,
    /// Frames of requests that were answered as written.
    answered: usize,
    faults: Vec<String>,
}

impl Truth {
    /// Everything below survives a power loss.
    fn synced(&self) -> u64 {
        self.unsynced.iter().map(|(_, start)| *start).min().unwrap_or(self.written)
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce(&Self) -> String) {
        if !holds {
            let what = what(self);
            self.faults.push(what);
        }
    }

    fn expect_synced(&mut self, end: u64, what: &str) {
        self.expect(end <= self.synced(), |truth| {
            format!("{what} up to {end}, synced up to {}", truth.synced())
        });
    }
}

#[derive(Debug)]
struct Watch {
    truth: Mutex<Truth>,
    dice: Mutex<StdRng>,
    files: AtomicU32,
    flush: Flush,
}

impl Watch {
    /// Lets others run, or not, or for long.
    fn pause(&self) {
        let (throw, micros) = {
            let mut dice = self.dice.lock();
            (dice.random_range(0..10), dice.random_range(1..400))
        };
        match throw {
            0..6 => {}
            6..8 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(micros)),
        }
    }

    fn file(self: &Arc<Self>, inner: Arc<dyn File>) -> Arc<dyn File> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        Arc::new(WatchedFile { inner, number, watch: Arc::clone(self) })
    }
}

/// The disk, without its slow syncs, under watch.
#[derive(Debug)]
struct WatchedDisk(Arc<Watch>);

#[derive(Debug)]
struct WatchedFile {
    inner: Arc<dyn File>,
    number: u32,
    watch: Arc<Watch>,
}

impl FileSystem for WatchedDisk {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.0.file(Disk.create_new(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.0.file(Disk.open(path)?))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        Disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        Disk.remove_file(path)
    }

    fn sync_dir(&self, _: &Path, _: SyncPoint) -> io::Result<()> {
        self.0.pause();
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        Disk.list(path)
    }

    fn exists(&self, path: &Path) -> bool {
        Disk.exists(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        Disk.space(path)
    }
}

impl File for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, position)
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let headers = buffers.iter().enumerate();
        let headers = headers.filter(|(_, it)| it.len() == HEADER_LEN && it.starts_with(b"FLW1"));
        let mut truth = self.watch.truth.lock();
        for (at, header) in headers {
            let (lsn, durable) = (word(&header[16..24]), word(&header[40..48]));
            let body_len = u32::from_le_bytes(header[8..12].try_into().unwrap());
            let is_new = lsn >= truth.written;
            if at == 0 && !is_new {
                // The begun block, written again.
                continue;
            }
            truth.expect(is_new, |_| format!("{lsn} is written twice"));
            truth.expect_synced(durable, "a frame says durable");
            truth.unsynced.push((self.number, lsn));
            truth.written = lsn + u64::from(disk_len(body_len));
        }
        drop(truth);
        self.watch.pause();
        self.inner.write_all_at(buffers, position)?;
        self.watch.pause();
        Ok(())
    }

    fn sync_data(&self, _: SyncPoint) -> io::Result<()> {
        // A write that comes while it runs may be left out.
        let covered = self.watch.truth.lock().written;
        self.watch.pause();
        self.watch
            .truth
            .lock()
            .unsynced
            .retain(|(file, start)| *file != self.number || *start >= covered);
        self.watch.pause();
        Ok(())
    }

    fn sync_all(&self, point: SyncPoint) -> io::Result<()> {
        self.sync_data(point)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }
}

struct Witness(Arc<Watch>);

impl Publish for Witness {
    fn readable(&self, frames: &[WrittenFrame]) {
        self.0.pause();
        let mut truth = self.0.truth.lock();
        let end = frames.last().map_or(0, |frame| frame.end().0);
        if self.0.flush == Flush::Always {
            truth.expect_synced(end, "readable");
        }
        truth.readable.extend(frames.iter().map(|frame| frame.lsn));
        truth.readable_end = end;
    }

    fn durable(&self, frames: &[WrittenFrame]) {
        self.0.pause();
        let mut truth = self.0.truth.lock();
        truth.expect_synced(frames.last().map_or(0, |frame| frame.end().0), "durable");
        truth.durable.extend(frames.iter().map(|frame| frame.lsn));
    }
}

impl Apply for Witness {
    fn apply(&mut self, frames: &[WrittenFrame], end: Lsn) -> Result<(), String> {
        self.0.pause();
        let mut truth = self.0.truth.lock();
        truth.expect_synced(end.0, "applied");
        truth.applied.extend(frames.iter().map(|frame| frame.lsn));
        truth.applied_end = end.0;
        Ok(())
    }
}

/// Goes with one request: notes its answer, or that it was dropped.
struct Ticket {
    request: u32,
    frames: usize,
    is_applied: bool,
    is_answered: bool,
    watch: Arc<Watch>,
}

impl Ticket {
    fn answer(&mut self, ack: &Ack) {
        self.watch.pause();
        self.is_answered = true;
        let mut truth = self.watch.truth.lock();
        truth.told.entry(self.request).or_default().0 += 1;
        let end = ack.end.0;
        if self.is_applied || self.watch.flush == Flush::Always {
            truth.expect_synced(end, "answered");
        }
        if ack.verdict == Verdict::Write {
            truth.answered += self.frames;
            let is_readable = end <= truth.readable_end;
            truth.expect(is_readable, |_| format!("{end} is answered, not readable"));
            let is_applied = !self.is_applied || end <= truth.applied_end;
            truth.expect(is_applied, |_| format!("{end} is answered, not applied"));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_answered {
            self.watch.truth.lock().told.entry(self.request).or_default().1 += 1;
        }
    }
}

struct Stage {
    wal: Wal,
    watch: Arc<Watch>,
    fail_points: FailPoints,
    fatal: Arc<Mutex<Vec<String>>>,
}

fn start(dir: &Path, flush: Flush, seed: u64) -> Stage {
    let watch = Arc::new(Watch {
        truth: Mutex::default(),
        dice: Mutex::new(StdRng::seed_from_u64(seed)),
        files: AtomicU32::new(0),
        flush,
    });
    let fs = Arc::new(WatchedDisk(Arc::clone(&watch)));
    let (directory, recovered, _) = open_and_recover(fs, dir, Start::default()).unwrap();
    let fatal = Arc::<Mutex<Vec<String>>>::default();
    let told = Arc::clone(&fatal);
    let context = Context {
        tasks: Tasks::new(Arc::new(move |reason| told.lock().push(reason.into()))),
        clock: Clock::manual(1000),
        fail_points: FailPoints::none(),
    };
    let fail_points = context.fail_points.clone();
    let parts = Parts {
        sequence: Box::new(Offsets::default()),
        publish: Arc::new(Witness(Arc::clone(&watch))),
        apply: Box::new(Witness(Arc::clone(&watch))),
    };
    let options = WalOptions { flush, queue_requests: 8, ..quick() };
    let wal = Wal::start(directory, &recovered, options, parts, context).unwrap();
    Stage { wal, watch, fail_points, fatal }
}

/// Sends requests of all kinds; gives the numbers of those that the log took.
fn send(stage: &Stage, sender: u64, seed: u64) -> Vec<u32> {
    let mut dice = StdRng::seed_from_u64(seed ^ (sender + 1) << 32);
    let mut taken = Vec::new();
    for number in 0..REQUESTS {
        let request = number + sender as u32 * REQUESTS;
        let text = vec![b'x'; dice.random_range(1..1_500)];
        let partition = dice.random_range(1..4);
        let frames = match dice.random_range(0..10) {
            0 => vec![batch(partition, b"reject")],
            1 => vec![batch(partition, b"duplicate")],
            2 => vec![batch(partition, &text), batch(1, b"chain")],
            3 => vec![state(&text)],
            _ => vec![batch(partition, &text)],
        };
        let is_applied = frames[0].kind == FrameKind::State || dice.random_bool(0.2);
        let (frames_count, watch) = (frames.len(), Arc::clone(&stage.watch));
        let mut ticket =
            Ticket { request, frames: frames_count, is_applied, is_answered: false, watch };
        let tell = Box::new(move |ack: Ack| ticket.answer(&ack));
        let done = match (is_applied, dice.random_bool(0.3)) {
            (true, _) => Done::Applied(tell),
            (false, true) => Done::Unawaited(tell),
            (false, false) => Done::Logged(tell),
        };
        if stage.wal.append_blocking(Request { frames, done, permit: None }).is_ok() {
            taken.push(request);
        }
        stage.watch.pause();
    }
    taken
}

/// Asks for syncs and rolls, and looks at the durable end, until told to end.
fn disturb(stage: &Stage, seed: u64, ends: &AtomicBool) {
    let mut dice = StdRng::seed_from_u64(!seed);
    let mut before = Lsn(0);
    while !ends.load(Ordering::Relaxed) {
        match dice.random_range(0..12) {
            0 => drop(futures::executor::block_on(stage.wal.sync())),
            1 => drop(futures::executor::block_on(stage.wal.roll(0))),
            _ => std::thread::sleep(Duration::from_micros(dice.random_range(10..300))),
        }
        let durable = stage.wal.durable_lsn();
        let mut truth = stage.watch.truth.lock();
        truth.expect(durable >= before, |_| format!("{durable} durable after {before}"));
        truth.expect_synced(durable.0, "the log says durable");
        before = durable;
    }
}

/// One run; with `fails` a step fails on the way.
fn run(flush: Flush, seed: u64, fails: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    let stage = start(dir.path(), flush, seed);
    if let Some(point) = fails {
        let left = AtomicU32::new(seed as u32 % 7);
        stage.fail_points.set(point, move || {
            let passed =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            passed.map(drop).map_err(|_| "as asked".to_owned())
        });
    }
    let ends = AtomicBool::new(false);
    let taken: Vec<u32> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                scope.spawn({
                    let stage = &stage;
                    move || send(stage, sender, seed)
                })
            })
            .collect();
        scope.spawn(|| disturb(&stage, seed, &ends));
        std::thread::sleep(Duration::from_micros(seed * 7_919 % 25_000));
        stage.wal.shutdown();
        ends.store(true, Ordering::Relaxed);
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    let truth = stage.watch.truth.lock();
    let context = format!("{flush:?}, seed {seed}, {fails:?}");
    assert!(truth.faults.is_empty(), "{context}: {:?}", truth.faults);
    assert_eq!(truth.told.len(), SENDERS as usize * REQUESTS as usize, "{context}: not told");
    for (request, told) in &truth.told {
        assert!(matches!(told, (1, 0) | (0, 1)), "{context}: {request} was told {told:?}");
    }
    let rising = |lsns: &[Lsn]| lsns.is_sorted_by(|left, right| left < right);
    for lsns in [&truth.readable, &truth.durable, &truth.applied] {
        assert!(rising(lsns), "{context}: {lsns:?}");
    }
    let fatal = stage.fatal.lock();
    if fatal.is_empty() {
        // Whatever was taken is written, durable, applied and answered.
        assert!(taken.iter().all(|request| truth.told[request] == (1, 0)), "{context}");
        assert_eq!(truth.readable, truth.durable, "{context}");
        assert_eq!(truth.durable, truth.applied, "{context}");
        assert_eq!(truth.answered, truth.applied.len(), "{context}");
    } else {
        assert!(fails.is_some(), "{context}: {fatal:?}");
        assert!(truth.durable.starts_with(&truth.applied), "{context}");
    }
}

const FLUSHES: [Flush; 3] = [Flush::Always, Flush::Interval(Duration::from_millis(1)), Flush::Os];

#[test]
fn no_schedule_answers_before_its_sync_or_tells_anything_out_of_order() {
    for flush in FLUSHES {
        for seed in 0..12 {
            run(flush, seed, None);
        }
    }
}

#[test]
fn no_schedule_answers_what_failed_or_forgets_whom_to_tell() {
    for flush in FLUSHES {
        for (seed, point) in
            (100..).zip(["wal.before_write", "wal.before_sync", "wal.after_sync"].repeat(2))
        {
            run(flush, seed, Some(point));
        }
    }
}
