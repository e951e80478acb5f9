//! The sequencer thread: gathers what is queued, lets the log assign offsets, writes one group
//! (rules 3.1). No timer on the way of who waits: a group is what arrived while the last one was
//! written.
//!
//! Owns: the write position and the current file. Does not own: what offsets mean ([`Sequence`]),
//! durability (see `sync`).

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::config::Flush;
use crate::types::Lsn;
use crate::wal::directory::read_run;
use crate::wal::files::{Files, WalFile};
use crate::wal::group::{
    CONTROL_LEN, Current, Group, Identity, Layout, SyncStep, control, order, request_len,
};
use crate::wal::handle::Context;
use crate::wal::shared::Shared;
use crate::wal::tail::Tail;
use crate::wal::turn::{GATHER_BYTES, WRITE_AHEAD_BYTES};
use crate::wal::{Ack, FrameKind, Publish, Request, Sequence, Verdict};

/// A group is closed at this many bytes of frames,
const GROUP_BYTES_MAX: u64 = 8 << 20;

/// or at this many requests.
const GROUP_REQUESTS_MAX: usize = 1024;

/// Requests that nobody waits for are gathered for so long.
const UNAWAITED_MAX: Duration = Duration::from_millis(10);

/// What the sequencer is asked to do.
pub(crate) enum Command {
    Append(Request),
    /// Seals the current file if its first frame is at least `min_age_ms` old.
    Roll {
        min_age_ms: i64,
        done: oneshot::Sender<()>,
    },
    /// Makes everything before it durable.
    Sync {
        done: oneshot::Sender<()>,
    },
    /// Time passed.
    Tick,
    /// Write what is queued, then end.
    Shutdown,
}

pub(crate) struct Sequencer {
    pub(crate) queue: mpsc::Receiver<Command>,
    pub(crate) sequence: Box<dyn Sequence>,
    pub(crate) groups: SyncSender<Group>,
    pub(crate) publish: Arc<dyn Publish>,
    pub(crate) flush: Flush,
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<Files>,
    pub(crate) context: Context,
    pub(crate) identity: Identity,
    pub(crate) current: Current,
    pub(crate) position: u64,
    pub(crate) quiet: Duration,
    pub(crate) last_append: Instant,
    /// Something was written since the last mark.
    pub(crate) unmarked: bool,
    pub(crate) layout: Layout,
}

/// Why the thread ends early.
pub(crate) enum Stop {
    /// Another thread of the log ended, and has said why.
    Ended,
    /// This one must end the process.
    Fatal(String),
}

impl Sequencer {
    /// Runs until the queue closes or the log stops.
    pub(crate) fn run(mut self) {
        let outcome = self.serve().and_then(|()| self.finish());
        self.files.stop();
        if let Err(stop) = outcome {
            self.shared.fail();
            // Dropped one by one until the last sender is through: what a racing sender adds
            // after a plain drop would stay unanswered as long as a handle lives.
            self.queue.close();
            while self.queue.blocking_recv().is_some() {}
            if let Stop::Fatal(reason) = stop {
                self.context.tasks.fatal(&reason);
            }
        }
    }

    fn serve(&mut self) -> Result<(), Stop> {
        let mut requests = Vec::new();
        while let Some(first) = self.queue.blocking_recv() {
            let after = self.gather(first, &mut requests);
            if !requests.is_empty() {
                self.append(&mut requests)?;
            }
            match after {
                None | Some(Command::Append(_)) => {}
                Some(Command::Tick) => self.tick()?,
                Some(Command::Sync { done }) => {
                    self.hand_over(Group { flushed: Some(done), ..Group::default() })?;
                }
                Some(Command::Roll { min_age_ms, done }) => self.roll_by_age(min_age_ms, done)?,
                // Whoever sent before us is still answered; later senders see a closed queue.
                Some(Command::Shutdown) => self.queue.close(),
            }
        }
        Ok(())
    }

    /// Takes queued requests up to the bounds; gives back a command that ended the group.
    fn gather(&mut self, first: Command, requests: &mut Vec<Request>) -> Option<Command> {
        let until = Instant::now() + UNAWAITED_MAX;
        let (mut bytes, mut is_awaited) = (0, false);
        let mut next = first;
        loop {
            match next {
                Command::Append(request) => {
                    bytes += request_len(&request.frames);
                    is_awaited |= request.done.is_awaited();
                    requests.push(request);
                }
                other => return Some(other),
            }
            if bytes >= GROUP_BYTES_MAX || requests.len() >= GROUP_REQUESTS_MAX {
                return None;
            }
            let enough = if is_awaited { WRITE_AHEAD_BYTES } else { GATHER_BYTES };
            next = match self.queue.try_recv() {
                Ok(next) => next,
                Err(_) if bytes < enough && self.wait(is_awaited, until) => {
                    self.queue.try_recv().ok()?
                }
                Err(_) => return None,
            };
        }
    }

    /// Waits for more, where that keeps nobody waiting. False if there is nothing to wait for.
    fn wait(&self, is_awaited: bool, until: Instant) -> bool {
        if is_awaited || Instant::now() >= until {
            return self.wait_for_sync();
        }
        self.shared.turn.linger(until, || !self.queue.is_empty());
        true
    }

    /// Waits for a sync under way, or until enough is queued to write beside it. False if there
    /// is none: then nothing could have come meanwhile. Where answers run ahead of syncs nobody
    /// waits for them.
    fn wait_for_sync(&self) -> bool {
        let is_over = || self.shared.durable().0 >= self.position || self.shared.failed();
        let waits = self.flush == Flush::Always && !is_over();
        if waits {
            self.shared.turn.wait(is_over);
        }
        waits
    }

    fn append(&mut self, requests: &mut Vec<Request>) -> Result<(), Stop> {
        self.last_append = Instant::now();
        let append_ms = self.context.clock.now_ms();
        order(requests);
        let mut group = Group::default();
        let mut permits = Vec::with_capacity(requests.len());
        for mut request in requests.drain(..) {
            let verdict = match request.frames.first() {
                // They have their offsets, and their producers were heard already.
                Some(first) if first.moved_ms.is_some() => Verdict::Write,
                _ => self.sequence.assign(&mut request.frames, append_ms),
            };
            let mut ack = Ack { verdict, base_offsets: Vec::new(), append_ms, end: Lsn(0) };
            match verdict {
                Verdict::Write => {
                    ack.base_offsets =
                        request.frames.iter().map(|frame| frame.base_offset).collect();
                    self.make_room(request_len(&request.frames), &mut group)?;
                    self.current.since_ms.get_or_insert(append_ms);
                    self.push(request.frames, append_ms);
                }
                Verdict::Duplicate { base_offset, append_ms } => {
                    ack.base_offsets.push(base_offset);
                    ack.append_ms = append_ms;
                }
                Verdict::Reject(_) => {}
            }
            ack.end = Lsn(self.position);
            group.answers.push((request.done, ack));
            permits.extend(request.permit);
        }
        self.write(&mut group)?;
        drop(permits);
        self.hand_over(group)
    }

    fn push(&mut self, frames: Vec<crate::wal::FrameDraft>, append_ms: i64) {
        let durable = self.shared.durable();
        self.position = self.layout.push(frames, self.position, self.identity, durable, append_ms);
        self.unmarked = true;
    }

    /// Rolls if `bytes` and a seal do not fit into the current file.
    fn make_room(&mut self, bytes: u64, group: &mut Group) -> Result<(), Stop> {
        if self.position + bytes + CONTROL_LEN > self.current.end {
            self.roll(group)?;
        }
        Ok(())
    }

    fn write(&mut self, group: &mut Group) -> Result<(), Stop> {
        if self.layout.bytes() == 0 {
            return Ok(());
        }
        let written = self
            .context
            .fail_points
            .hit("wal.before_write")
            .map_err(std::io::Error::other)
            .and_then(|()| self.layout.write(&mut self.current, group));
        written.map_err(|error| {
            Stop::Fatal(format!(
                "write to the log failed: {error}; nothing past position {} is durable, \
                 restart to recover",
                self.shared.durable()
            ))
        })?;
        // The next file is wanted before this one is full: nobody waits for it then.
        if self.current.end - self.position < (self.current.end - self.current.file.first) / 4 {
            self.files.hurry();
        }
        Ok(())
    }

    /// Seals the current file and goes on in the next one.
    fn roll(&mut self, group: &mut Group) -> Result<(), Stop> {
        let first = Lsn(self.current.file.first);
        self.push(vec![control(FrameKind::Seal)], self.context.clock.now_ms());
        self.write(group)?;
        self.check_run()?;
        let failed = |error| Stop::Fatal(format!("the next log file could not be taken: {error}"));
        let next = self.files.switch(self.position).map_err(failed)?;
        let Some((file, end)) = next else {
            return Err(Stop::Ended);
        };
        group.steps.push(SyncStep::Folder);
        group.sealed.push(WalFile { first, end: Lsn(self.position) });
        self.current = Current { file, end, since_ms: None, tail: Tail::default() };
        Ok(())
    }

    /// A second process on the same directory (a file system without locks) would raise the run.
    fn check_run(&self) -> Result<(), Stop> {
        match read_run(&*self.files.fs, &self.files.data_dir) {
            Ok(run) if run == self.identity.run => Ok(()),
            Ok(run) => Err(Stop::Fatal(format!(
                "run {run} is written in {:?} but this process is run {}: another process uses \
                 the directory",
                self.files.data_dir, self.identity.run
            ))),
            Err(error) => Err(Stop::Fatal(format!("the run number could not be read: {error}"))),
        }
    }

    fn roll_by_age(&mut self, min_age_ms: i64, done: oneshot::Sender<()>) -> Result<(), Stop> {
        let now_ms = self.context.clock.now_ms();
        let mut group = Group { flushed: Some(done), ..Group::default() };
        let old = self.current.since_ms.is_some_and(|since| now_ms - since >= min_age_ms);
        if old {
            self.roll(&mut group)?;
        }
        self.hand_over(group)
    }

    fn tick(&mut self) -> Result<(), Stop> {
        if self.shared.failed() {
            return Err(Stop::Ended);
        }
        let settled = self.shared.durable().0 >= self.position;
        if self.unmarked && settled && self.last_append.elapsed() >= self.quiet {
            let mut group = Group::default();
            self.mark(&mut group)?;
            self.hand_over(group)?;
        }
        Ok(())
    }

    /// Records the durable end, so that the last acknowledged group is known to be (rules 2.4).
    fn mark(&mut self, group: &mut Group) -> Result<(), Stop> {
        self.make_room(CONTROL_LEN, group)?;
        self.push(vec![control(FrameKind::Durable)], self.context.clock.now_ms());
        self.write(group)?;
        self.unmarked = false;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Stop> {
        if !self.unmarked {
            return Ok(());
        }
        let (flushed, wait) = oneshot::channel();
        self.hand_over(Group { flushed: Some(flushed), ..Group::default() })?;
        wait.blocking_recv().map_err(|_| Stop::Ended)?;
        let mut group = Group::default();
        self.mark(&mut group)?;
        self.hand_over(group)
    }

    fn hand_over(&mut self, mut group: Group) -> Result<(), Stop> {
        group.end = Lsn(self.position);
        self.shared.set_written(group.end);
        if self.flush != Flush::Always {
            group.announce(&*self.publish);
        }
        if group.is_empty() {
            return Ok(());
        }
        self.groups.send(group).map_err(|_| Stop::Ended)
    }
}
