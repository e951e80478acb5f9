//! [`Wal`]: the running log as the rest of the program sees it; starts and ends the threads.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Flush;
use crate::config::units::human_bytes;
use crate::runtime::files::{SyncPoint, read_exact_at};
use crate::runtime::{Clock, FailPoints, Tasks};
use crate::types::{Lsn, Offset, PartitionId};
use crate::wal::apply::Applier;
use crate::wal::files::{Files, FilesSetup, WalFile, make_first_file};
use crate::wal::frame::{BODY_LEN_MAX, FrameHeader, HEADER_LEN, body_len};
use crate::wal::group::{CONTROL_LEN, Current, Group, Identity, Layout, control, request_len};
use crate::wal::prepare::Preparer;
use crate::wal::recovery::Recovered;
use crate::wal::sequencer::{Command, Sequencer};
use crate::wal::shared::Shared;
use crate::wal::space::Floor;
use crate::wal::sync::Syncer;
use crate::wal::tail::Tail;
use crate::wal::{
    Apply, Directory, Error, FrameKind, Publish, ReadError, Request, Run, Sequence, WrittenFrame,
    ext, reader, salvage,
};

/// Bytes of the first file of a log, small so that a start takes milliseconds.
const FIRST_FILE_BYTES_MAX: u64 = 8 << 20;

/// Least bytes of a file: room for a mark, a small frame and a seal.
const FILE_BYTES_MIN: u64 = 4096;

/// Groups that were written and wait for a sync.
const UNSYNCED_GROUPS_MAX: usize = 64;

/// The same where answers run ahead of the sync: they must not wait for a slow one.
const UNSYNCED_GROUPS_AHEAD_MAX: usize = 1024;

/// Durable groups that wait for the apply thread.
const UNAPPLIED_GROUPS_MAX: usize = 256;

/// How the log runs.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Bytes of a file. Default 256 MiB, at least 4,096.
    pub file_bytes: u64,
    /// Free bytes that records must leave. None: the greater of 2 GiB and 5 % of the disk, less
    /// on small disks.
    pub free_floor_bytes: Option<u64>,
    /// Requests that wait for the sequencer; their bytes are bounded by their permits.
    pub queue_requests: usize,
    /// Without appends for this long, the durable end is recorded. Default one second.
    pub quiet: Duration,
    /// When what is written is synced.
    pub flush: Flush,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            file_bytes: 256 << 20,
            free_floor_bytes: None,
            queue_requests: 4096,
            quiet: Duration::from_secs(1),
            flush: Flush::Always,
        }
    }
}

/// What the log and the store hand to the threads.
pub struct Parts {
    /// Assigns offsets, on the sequencer thread.
    pub sequence: Box<dyn Sequence>,
    /// Hears of frames that may be read, and of durable ones.
    pub publish: Arc<dyn Publish>,
    /// Applies durable frames, on the apply thread.
    pub apply: Box<dyn Apply>,
}

/// What the threads need from their surroundings.
#[derive(Clone)]
pub struct Context {
    /// Joins the threads and ends the process.
    pub tasks: Tasks,
    /// Gives append times.
    pub clock: Clock,
    /// `wal.before_write`, `wal.before_sync`, `wal.after_sync`.
    pub fail_points: FailPoints,
}

/// Counts a thread as running until it ends, by a panic too. Keeps the lock of the directory: a
/// thread may still write after the last handle is gone.
struct Running {
    shared: Arc<Shared>,
    files: Arc<Files>,
    directory: Option<Arc<Directory>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.fail();
            self.files.stop();
        }
        self.directory = None;
        *self.shared.running.lock() -= 1;
        self.shared.ended.notify_all();
    }
}

/// The running log; cheap to clone. The threads end after [`Wal::shutdown`], or when the last
/// clone is dropped.
#[derive(Clone)]
pub struct Wal {
    queue: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    pub(crate) files: Arc<Files>,
    log_id: u64,
    directory: Arc<Directory>,
}

impl Wal {
    /// Starts the threads. Appends go on at `recovered.end`, after a mark in the new run that is
    /// durable when this returns.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Refused`] for a file size below 4,096 bytes.
    pub fn start(
        directory: Directory,
        recovered: &Recovered,
        options: WalOptions,
        parts: Parts,
        context: Context,
    ) -> Result<Self, Error> {
        if options.file_bytes < FILE_BYTES_MIN {
            return Err(Error::Refused(format!(
                "log files of {} bytes are too small, the least is {FILE_BYTES_MIN}",
                options.file_bytes
            )));
        }
        let identity = Identity { log_id: directory.log_id(), run: recovered.run };
        let files = Arc::new(open_files(&directory, recovered, &options)?);
        let mut current = open_current(&files, recovered.end, identity.log_id)?;
        let append_ms = context.clock.now_ms();
        let position = write_mark(&mut current, recovered.end, identity, append_ms)?;
        let shared = Arc::new(Shared::new(Lsn(position)));
        let (queue, commands) = mpsc::channel(options.queue_requests.max(1));
        let (groups, unsynced) = sync_channel(match options.flush {
            Flush::Always => UNSYNCED_GROUPS_MAX,
            Flush::Interval(_) | Flush::Os => UNSYNCED_GROUPS_AHEAD_MAX,
        });
        let (durable, unapplied) = sync_channel(UNAPPLIED_GROUPS_MAX);
        let sequencer = Sequencer {
            queue: commands,
            sequence: parts.sequence,
            groups,
            publish: Arc::clone(&parts.publish),
            flush: options.flush,
            shared: Arc::clone(&shared),
            files: Arc::clone(&files),
            context: context.clone(),
            identity,
            current,
            position,
            quiet: options.quiet,
            last_append: Instant::now(),
            unmarked: false,
            layout: Layout::default(),
        };
        let syncer = Syncer {
            groups: unsynced,
            durable,
            publish: parts.publish,
            flush: options.flush,
            shared: Arc::clone(&shared),
            files: Arc::clone(&files),
            context: context.clone(),
        };
        let applier = Applier {
            durable: unapplied,
            apply: parts.apply,
            shared: Arc::clone(&shared),
            files: Arc::clone(&files),
            context: context.clone(),
        };
        let preparer = Preparer {
            files: Arc::clone(&files),
            ticks: queue.downgrade(),
            period: options.quiet.min(Duration::from_secs(1)),
        };
        let wal =
            Self { queue, shared, files, log_id: identity.log_id, directory: Arc::new(directory) };
        wal.thread(&context.tasks, "wal-apply", move || applier.run())?;
        wal.thread(&context.tasks, "wal-sync", move || syncer.run())?;
        wal.thread(&context.tasks, "wal-sequencer", move || sequencer.run())?;
        wal.thread(&context.tasks, "wal-prepare", move || preparer.run())?;
        Ok(wal)
    }

    /// Queues a request; calls made one after another keep their order. Cancel safe: a dropped
    /// call has queued nothing.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::TooLarge`], [`Error::Refused`] for a malformed extension or a
    /// record batch without header; nothing is written then.
    pub async fn append(&self, request: Request) -> Result<(), Error> {
        let (bytes, is_awaited) = (self.check(&request)?, request.done.is_awaited());
        self.queue.send(Command::Append(request)).await.map_err(|_| Error::Closed)?;
        self.shared.turn.queued(bytes, is_awaited);
        Ok(())
    }

    /// [`Wal::append`] for threads that may block; panics on an async worker.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn append_blocking(&self, request: Request) -> Result<(), Error> {
        let (bytes, is_awaited) = (self.check(&request)?, request.done.is_awaited());
        self.queue.blocking_send(Command::Append(request)).map_err(|_| Error::Closed)?;
        self.shared.turn.queued(bytes, is_awaited);
        Ok(())
    }

    /// Everything below is durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.shared.durable()
    }

    /// Whether records may be appended now: free space is above the floor and the next file
    /// could be made. State may always be appended (rules 3.2). Cheap.
    ///
    /// # Errors
    /// The reason, for the client.
    pub fn admission(&self) -> Result<(), String> {
        self.files.admission()
    }

    /// Most bytes on disk of one request with all its frames.
    pub fn request_bytes_max(&self) -> u64 {
        self.files.file_bytes - 2 * CONTROL_LEN
    }

    /// Reads the frames of `run`, checked; payloads are slices of one buffer. Blocks.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_run(&self, run: &Run) -> Result<Vec<WrittenFrame>, ReadError> {
        reader::read_run(&self.files, self.log_id, run)
    }

    /// The good frames of a run that [`Wal::read_run`] calls corrupt, in order, with holes.
    /// Blocks.
    pub fn read_sound(&self, run: &Run) -> Vec<WrittenFrame> {
        salvage::read_sound(&self.files, self.log_id, run)
    }

    /// Partition and base offset of the record frame at `lsn`, from its header; none if that is
    /// not sound. Blocks.
    pub fn key_at(&self, lsn: Lsn) -> Option<(PartitionId, Offset)> {
        reader::key_at(&self.files, self.log_id, lsn)
    }

    /// True if the next file is there: what fits into a file can be appended without waiting for
    /// space. Where it is not, it is made in a hurry.
    pub fn has_next(&self) -> bool {
        self.files.has_next() || {
            self.files.hurry();
            false
        }
    }

    /// Files in order of position; the last one is written to.
    pub fn list(&self) -> Vec<WalFile> {
        self.files.list()
    }

    /// Counts the files that were begun since the log was opened.
    pub fn begun(&self) -> watch::Receiver<u64> {
        self.files.begun()
    }

    /// Frees the file that begins at `first`. False if it is current, being read or unknown.
    /// Blocks. Whether it may be freed is the caller's to know (rules 1.4).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn release(&self, first: Lsn) -> Result<bool, Error> {
        self.files.release(first).map_err(Error::io(format!("free log file {first}")))
    }

    /// Seals the current file if its first frame is at least `min_age_ms` milliseconds old, and
    /// waits until that is durable.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn roll(&self, min_age_ms: i64) -> Result<(), Error> {
        let (done, sealed) = oneshot::channel();
        let command = Command::Roll { min_age_ms, done };
        self.queue.send(command).await.map_err(|_| Error::Closed)?;
        self.shared.turn.queued(0, true);
        sealed.await.map_err(|_| Error::Closed)
    }

    /// Ends the log: what is queued is written, made durable, marked, answered and applied; if
    /// the next file is needed and cannot be made, what is queued is dropped unanswered. Returns when the threads have ended. Blocks, at most as long as that takes.
    pub fn shutdown(&self) {
        self.files.close();
        // Fails only if the sequencer has ended already.
        let queue = self.queue.clone();
        let sent = std::thread::scope(|scope| {
            // A thread of its own, as the caller may be on one of the runtime.
            scope.spawn(move || queue.blocking_send(Command::Shutdown).is_ok()).join()
        });
        if !matches!(sent, Ok(true)) {
            self.files.stop();
        }
        self.shared.turn.queued(0, true);
        let mut running = self.shared.running.lock();
        while *running > 0 {
            self.shared.ended.wait(&mut running);
        }
    }

    /// Waits until everything that was queued before is durable.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn sync(&self) -> Result<(), Error> {
        let (done, synced) = oneshot::channel();
        self.queue.send(Command::Sync { done }).await.map_err(|_| Error::Closed)?;
        self.shared.turn.queued(0, true);
        synced.await.map_err(|_| Error::Closed)
    }

    /// The bytes of a request that may be queued.
    fn check(&self, request: &Request) -> Result<u64, Error> {
        if self.shared.failed() {
            return Err(Error::Closed);
        }
        if request.frames.is_empty() {
            return Err(Error::Refused("a request without frames".into()));
        }
        let moved = request.frames.iter().filter(|frame| frame.moved_ms.is_some()).count();
        if moved > 0
            && (moved < request.frames.len()
                || !request.frames.iter().all(|frame| frame.kind.is_records()))
        {
            return Err(Error::Refused("moved frames are records, and among themselves".into()));
        }
        for frame in &request.frames {
            let bytes = body_len(frame);
            if bytes > u64::from(BODY_LEN_MAX) {
                return Err(Error::TooLarge { bytes, limit: BODY_LEN_MAX.into() });
            }
            ext::check(&frame.ext).map_err(Error::Refused)?;
            if frame.kind.is_records() && frame.payload.len() < 61 {
                return Err(Error::Refused("a record batch without its header".into()));
            }
            if matches!(frame.kind, FrameKind::Durable | FrameKind::Seal) {
                return Err(Error::Refused("seals and marks are the log's own".into()));
            }
        }
        let (bytes, limit) = (request_len(&request.frames), self.request_bytes_max());
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        Ok(bytes)
    }

    fn thread(
        &self,
        tasks: &Tasks,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        *self.shared.running.lock() += 1;
        let running = Running {
            shared: Arc::clone(&self.shared),
            files: Arc::clone(&self.files),
            directory: Some(Arc::clone(&self.directory)),
        };
        let started = tasks.thread(name, move || {
            let _running = running;
            body();
        });
        started.map_err(|error| {
            self.files.stop();
            Error::io(format!("start thread {name}"))(error)
        })
    }
}

fn open_files(
    directory: &Directory,
    recovered: &Recovered,
    options: &WalOptions,
) -> Result<Files, Error> {
    let fs = directory.file_system();
    if recovered.continue_in.is_none() {
        let bytes = options.file_bytes.min(FIRST_FILE_BYTES_MAX);
        make_first_file(&*fs, directory.wal_dir(), recovered.end, bytes)
            .map_err(Error::io("make the first log file"))?;
    }
    let space =
        fs.space(directory.wal_dir()).map_err(Error::io("look at the free space of the disk"))?;
    let floor = Floor::of(options.free_floor_bytes, space.total_bytes);
    if floor.lowered {
        tracing::warn!(
            floor = human_bytes(floor.bytes),
            disk = human_bytes(space.total_bytes),
            "the disk is small: the floor of free space is lowered"
        );
    }
    let files = Files::new(FilesSetup {
        wal_dir: directory.wal_dir().to_owned(),
        data_dir: directory.data_dir().to_owned(),
        file_bytes: options.file_bytes,
        floor,
        files: directory.files()?,
        fs,
    });
    files.refuse(floor.refusal(space));
    Ok(files)
}

fn open_current(files: &Files, end: Lsn, log_id: u64) -> Result<Current, Error> {
    let doing = "open the current log file";
    let lease = files.lease(end).map_err(Error::io(doing))?;
    let last = files.list().last().copied();
    let (Some(file), Some(last)) = (lease, last) else {
        return Err(Error::Refused(format!("no log file holds position {end}")));
    };
    let mut bytes = [0; HEADER_LEN];
    let first_header = (end > last.first)
        .then(|| read_exact_at(&*file.file, &mut bytes, 0))
        .transpose()
        .map_err(Error::io(doing))?
        .and_then(|()| FrameHeader::decode(&bytes, log_id).ok());
    let tail = Tail::load(&*file.file, end.0 - last.first.0).map_err(Error::io(doing))?;
    let since_ms = first_header.map(|header| header.append_ms);
    Ok(Current { file, end: last.end.0, since_ms, tail })
}

/// Writes a mark in the new run and syncs it: whatever an older run left behind it is refused
/// from now on (rules 2.2). Returns the position after it.
fn write_mark(
    current: &mut Current,
    end: Lsn,
    identity: Identity,
    append_ms: i64,
) -> Result<u64, Error> {
    let doing = "write the first frame of this run";
    let mut layout = Layout::default();
    let mut group = Group::default();
    let mark = vec![control(FrameKind::Durable)];
    let position = layout.push(mark, end.0, identity, end, append_ms);
    layout.write(current, &mut group).map_err(Error::io(doing))?;
    current.file.file.sync_data(SyncPoint::WalGroup).map_err(Error::io(doing))?;
    Ok(position)
}
