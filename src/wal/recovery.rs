//! What a crash left: which frames are the log, which are torn, which are lost (rules 1.5, 2).
//!
//! Owns: the known durable end, damage, adoption, the raise of the run. Does not own: what frames
//! mean; a visitor takes them in order. `D` in comments is the known durable end.
//!
//! ```text
//!   oldest          start                     D               end
//!     |---------------|-----x====x--------------|-----adopted----|~~torn~~
//!     not visited      visited, damage named     rewritten, then   cut
//!                                                synced, visited
//! ```

use std::io::IoSlice;

use crate::runtime::files::{SyncPoint, read_exact_at};
use crate::types::{Lsn, OffsetRange, PartitionId};
use crate::wal::files::{NEXT_NAME, WalFile};
use crate::wal::frame::{FRAME_ALIGN, FrameHeader, HEADER_LEN};
use crate::wal::group::CONTROL_LEN;
use crate::wal::walk::{Step, Walk, newest_marks};
use crate::wal::{Directory, Error, FrameKind, WrittenFrame};

/// Damages told one by one; further ones are joined to the last.
const DAMAGES_MAX: usize = 10_000;

/// Bytes rewritten at once when frames are adopted.
const ADOPT_LEN: u64 = 1 << 20;

/// Where to begin, and what is known from elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start {
    /// Frames from here on are visited; the oldest file's first position rebuilds everything.
    pub lsn: Lsn,
    /// The greatest of `wal_applied` and the newest metadata snapshot's position.
    pub known_durable: Lsn,
    /// The run in the newest metadata snapshot, or 0.
    pub run_hint: u32,
}

/// Positions below the known durable end without a valid frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// First bad position.
    pub from: Lsn,
    /// Position after the last bad one.
    pub to: Lsn,
    /// Which check failed first.
    pub reason: String,
    /// The records that are lost, if the header of their frame survived.
    pub records: Option<(PartitionId, OffsetRange)>,
}

/// What recovery found and did.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// Where appends go on; everything valid is below.
    pub end: Lsn,
    /// The known durable end: frames at or above it were adopted.
    pub durable: Lsn,
    /// The run of this opening, durable already.
    pub run: u32,
    /// In order of position, only at or above the start.
    pub damage: Vec<Damage>,
    /// The log ended below its durable end: these positions are lost.
    pub lost: Option<(Lsn, Lsn)>,
    /// Files that have a name but not the bytes that were synced before it: the disk lied.
    pub short_files: Vec<Lsn>,
    /// The file to go on in; none: a new one begins at `end`.
    pub(crate) continue_in: Option<Lsn>,
}

/// Takes what `start` begins with.
pub type Visit<'a> = &'a mut dyn FnMut(WrittenFrame) -> Result<(), String>;

/// Finds the end of the log, visits its frames of records and state from `start.lsn` on in order
/// of position, and makes a new run durable.
///
/// # Errors
/// [`Error::Io`], [`Error::Visit`], [`Error::Refused`] for frames of a newer version.
pub fn recover(directory: &Directory, start: Start, visit: Visit<'_>) -> Result<Recovered, Error> {
    let files = directory.files()?;
    let (marked, marked_run) = newest_marks(directory, &files)?;
    let durable = align(start.known_durable.max(start.lsn).max(marked));
    let run = raise_run(directory, start.run_hint.max(marked_run))?;
    let mut scan = Scan::new(directory, files.clone(), start.lsn, visit);
    scan.known(durable)?;
    let (end, sealed) = scan.adopt(&files)?;
    let lost = scan.lost(Lsn(end), durable);
    let continue_in = clean_up(directory, Lsn(end), sealed)?;
    for damage in &scan.damage {
        tracing::error!(from = %damage.from, to = %damage.to, reason = %damage.reason,
            records = ?damage.records, "log is damaged");
    }
    if let Some((from, to)) = lost {
        tracing::error!(%from, %to, "log ends below its durable end: data is lost");
    }
    let short = |file: &&WalFile| file.end.0 - file.first.0 < HEADER_LEN as u64;
    let short_files = files.iter().filter(short).map(|file| file.first).collect();
    tracing::info!(run, durable = durable.0, end, frames = scan.frames, "log recovered");
    Ok(Recovered {
        end: Lsn(end),
        durable,
        run,
        damage: scan.damage,
        lost,
        short_files,
        continue_in,
    })
}

fn align(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.checked_next_multiple_of(FRAME_ALIGN).unwrap_or(lsn.0))
}

/// The next run, durable before anything is written in it.
fn raise_run(directory: &Directory, seen: u32) -> Result<u32, Error> {
    let run = directory.read_run()?.max(seen).checked_add(1).ok_or_else(|| {
        Error::Refused("the run number is used up: start with a new data directory".into())
    })?;
    directory.write_run(run)?;
    Ok(run)
}

struct Scan<'a, 'v> {
    directory: &'a Directory,
    walk: Walk<'a>,
    start: Lsn,
    visit: Visit<'v>,
    damage: Vec<Damage>,
    frames: u64,
    /// Position after the last valid frame.
    good_end: u64,
    /// Position after the last bad one.
    bad_end: u64,
}

impl<'a, 'v> Scan<'a, 'v> {
    fn new(directory: &'a Directory, files: Vec<WalFile>, start: Lsn, visit: Visit<'v>) -> Self {
        // From the first frame of the file, so that the run of the frame before `start` is known.
        let begin = files
            .iter()
            .find(|file| file.first <= start && start < file.end)
            .map_or(start, |file| file.first);
        Self {
            directory,
            walk: Walk::new(directory, files, begin.0),
            start,
            visit,
            damage: Vec::new(),
            frames: 0,
            good_end: begin.0,
            bad_end: 0,
        }
    }

    /// Visits what is below `durable`; bad frames are named and passed.
    fn known(&mut self, durable: Lsn) -> Result<(), Error> {
        while self.walk.position < durable.0 {
            let from = self.walk.position;
            match self.walk.step(durable.0, from >= self.start.0)? {
                Step::Frame(_, frame) => {
                    self.good_end = self.walk.position;
                    self.hand_out(frame)?;
                }
                Step::Bad { to, reason, header } => self.damaged(from, to, reason, header),
                Step::End => break,
            }
        }
        Ok(())
    }

    /// Finds the frames past the durable end, whole chains only, writes them again and syncs
    /// before anyone sees them: what was read may be in memory only. Returns the end of the log
    /// and whether it ends with a seal.
    fn adopt(&mut self, files: &[WalFile]) -> Result<(u64, bool), Error> {
        let from = self.walk.position;
        let mut ahead = self.walk.clone();
        let mut end = (from, self.walk.sealed);
        while let Step::Frame(header, _) = ahead.step(0, true)? {
            if !header.more {
                end = (ahead.position, ahead.sealed);
            }
        }
        drop(ahead);
        if end.0 == from {
            return Ok(end);
        }
        rewrite(self.directory, files, from, end.0)?;
        let known = self.frames;
        while self.walk.position < end.0 {
            let Step::Frame(_, frame) = self.walk.step(0, true)? else {
                break;
            };
            self.good_end = self.walk.position;
            self.hand_out(frame)?;
        }
        // After a clean stop only the last mark lies here, which says nothing to anybody.
        let frames = self.frames - known;
        if frames > 0 {
            tracing::info!(from, to = end.0, frames, "frames past the durable end adopted");
        }
        Ok(end)
    }

    fn hand_out(&mut self, frame: Option<WrittenFrame>) -> Result<(), Error> {
        let Some(frame) = frame else { return Ok(()) };
        if frame.draft.kind.is_records() || frame.draft.kind == FrameKind::State {
            self.frames += 1;
            (self.visit)(frame).map_err(Error::Visit)?;
        }
        Ok(())
    }

    fn damaged(&mut self, from: u64, to: u64, reason: String, header: Option<FrameHeader>) {
        self.bad_end = to;
        if to <= self.start.0 {
            return;
        }
        if self.damage.len() >= DAMAGES_MAX
            && let Some(last) = self.damage.last_mut()
        {
            last.to = Lsn(to);
            last.records = None;
            return;
        }
        let records = header.and_then(|header| header.records());
        let from = Lsn(from).max(self.start);
        self.damage.push(Damage { from, to: Lsn(to), reason, records });
    }

    /// Bad positions at the end are a loss: no valid frame follows them.
    fn lost(&self, end: Lsn, durable: Lsn) -> Option<(Lsn, Lsn)> {
        (self.bad_end == end.0 && end == durable && self.good_end < end.0)
            .then_some((Lsn(self.good_end), end))
    }
}

fn rewrite(directory: &Directory, files: &[WalFile], from: u64, to: u64) -> Result<(), Error> {
    let fs = directory.file_system();
    for file in files.iter().filter(|file| file.end.0 > from && file.first.0 < to) {
        let path = directory.path_of(file.first);
        let doing = || Error::io(format!("write adopted frames of {path:?} again"));
        let handle = fs.open(&path).map_err(doing())?;
        let (mut at, end) = (from.max(file.first.0), to.min(file.end.0));
        let mut buffer = vec![0; usize::try_from((end - at).min(ADOPT_LEN)).unwrap_or(0)];
        while at < end {
            let now = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let (bytes, position) = (&mut buffer[..now], at - file.first.0);
            read_exact_at(&*handle, bytes, position).map_err(doing())?;
            handle.write_all_at(&mut [IoSlice::new(bytes)], position).map_err(doing())?;
            at += now as u64;
        }
        handle.sync_data(SyncPoint::WalGroup).map_err(doing())?;
    }
    // The name of a file that was just taken into use may be as new as its frames.
    fs.sync_dir(directory.wal_dir(), SyncPoint::WalDir).map_err(Error::io("sync the log folder"))
}

/// Removes files that begin at or past the end: leftovers of a group that was never durable, and
/// files made ahead. Returns the file to go on in, if one has room.
fn clean_up(directory: &Directory, end: Lsn, sealed: bool) -> Result<Option<Lsn>, Error> {
    let fs = directory.file_system();
    let mut doomed: Vec<_> = directory
        .files()?
        .iter()
        .filter(|file| file.first >= end)
        .map(|file| directory.path_of(file.first))
        .collect();
    doomed.push(directory.wal_dir().join(NEXT_NAME));
    doomed.retain(|path| fs.exists(path));
    for path in &doomed {
        fs.remove_file(path).map_err(Error::io(format!("remove {path:?}")))?;
    }
    if !doomed.is_empty() {
        fs.sync_dir(directory.wal_dir(), SyncPoint::WalDir)
            .map_err(Error::io("sync the log folder"))?;
    }
    let last = directory.files()?.last().copied();
    Ok(last
        .filter(|file| !sealed && file.end.0 >= end.0.saturating_add(4 * CONTROL_LEN))
        .map(|file| file.first))
}
