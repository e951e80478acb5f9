//! Walking over frames as they lie in files: what follows what, what is bad (rules 2.2, 2.4).
//!
//! Owns: the reading window and the validity of one frame. Does not own: what a bad frame means
//! (see `recovery`). Memory is bounded by one window or one frame.

use std::sync::Arc;

use bytes::Bytes;

use crate::runtime::files::{File, read_exact_at};
use crate::types::Lsn;
use crate::wal::files::WalFile;
use crate::wal::frame::{FRAME_ALIGN, FrameHeader, HEADER_LEN, HeaderError, find_magic, has_magic};
use crate::wal::reader::take_frame;
use crate::wal::{Directory, Error, FrameKind, WrittenFrame, ext};

/// Bytes read at once.
const WINDOW_LEN: usize = 1 << 20;

/// What stands at one position.
#[derive(Debug)]
pub(crate) enum Step {
    /// A valid frame; without payload where only headers were wanted.
    Frame(FrameHeader, Option<WrittenFrame>),
    /// Nothing valid from here to `to`; the header is there if only the body is bad.
    Bad { to: u64, reason: String, header: Option<FrameHeader> },
    /// No valid frame here, and nobody asked to look further.
    End,
}

/// A walk from one position on.
#[derive(Clone)]
pub(crate) struct Walk<'a> {
    directory: &'a Directory,
    files: Vec<WalFile>,
    window: Window,
    pub(crate) position: u64,
    run: u32,
    /// The last frame was a seal: only a file that begins here goes on.
    pub(crate) sealed: bool,
}

#[derive(Clone)]
struct Window {
    open: Option<(u64, Arc<dyn File>)>,
    /// Position of the first byte of `bytes`.
    at: u64,
    bytes: Bytes,
}

impl<'a> Walk<'a> {
    /// `files` in order of position, as [`Directory::files`] gives them.
    pub(crate) fn new(directory: &'a Directory, files: Vec<WalFile>, position: u64) -> Self {
        let window = Window { open: None, at: 0, bytes: Bytes::new() };
        Self { directory, files, window, position, run: 0, sealed: false }
    }

    /// Looks at the frame at the current position and goes past it. Below `known` a bad frame
    /// is passed: the next valid one is searched, at most up to `known`.
    pub(crate) fn step(&mut self, known: u64, bodies: bool) -> Result<Step, Error> {
        let from = self.position;
        let Some(file) = self.file_here() else {
            let next = self.files.iter().map(|file| file.first.0).find(|first| *first > from);
            if from >= known {
                return Ok(Step::End);
            }
            self.sealed = false;
            self.position = next.unwrap_or(known).min(known);
            return Ok(self.bad("no file holds these positions".to_owned(), None));
        };
        let reason = match self.header_at(file, from, self.run)? {
            None => "no frame header".to_owned(),
            Some(header) => {
                let frame = if bodies { self.body(file, &header)? } else { Ok(None) };
                match frame {
                    Ok(frame) => {
                        self.run = header.run;
                        self.position = header.end().0;
                        self.sealed = header.kind == FrameKind::Seal;
                        return Ok(Step::Frame(header, frame));
                    }
                    Err(reason) if from < known => {
                        self.run = header.run;
                        self.position = header.end().0;
                        return Ok(self.bad(reason.to_owned(), Some(header)));
                    }
                    Err(_) => return Ok(Step::End),
                }
            }
        };
        if from >= known {
            return Ok(Step::End);
        }
        self.sealed = false;
        self.position = self.search(file, from + FRAME_ALIGN, known)?;
        Ok(self.bad(reason, None))
    }

    fn bad(&self, reason: String, header: Option<FrameHeader>) -> Step {
        Step::Bad { to: self.position, reason, header }
    }

    fn file_here(&self) -> Option<WalFile> {
        let at = self.files.partition_point(|file| file.first.0 <= self.position);
        let file = *self.files.get(at.checked_sub(1)?)?;
        let goes_on = !self.sealed || file.first.0 == self.position;
        (self.position < file.end.0 && goes_on).then_some(file)
    }

    /// First position in `[from, known]` with a valid header, else the end of the file or
    /// `known`, whichever comes first.
    fn search(&mut self, file: WalFile, from: u64, known: u64) -> Result<u64, Error> {
        let mut position = from;
        while position < known && position < file.end.0 {
            if self.header_at(file, position, self.run)?.is_some() {
                return Ok(position);
            }
            position = self.window.next_magic(file, position + FRAME_ALIGN);
        }
        Ok(position.min(known).min(file.end.0.max(from)))
    }

    /// A header is valid if it is of this log, says its own position, and its run is not below
    /// `run`. The frame must end within its file.
    pub(crate) fn header_at(
        &mut self,
        file: WalFile,
        position: u64,
        run: u32,
    ) -> Result<Option<FrameHeader>, Error> {
        let Some(bytes) = self.window.get(self.directory, file, position, HEADER_LEN)? else {
            return Ok(None);
        };
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>().filter(|bytes| has_magic(&bytes[..]))
        else {
            return Ok(None);
        };
        match FrameHeader::decode(bytes, self.directory.log_id()) {
            Ok(header) => {
                let valid =
                    header.lsn.0 == position && header.run >= run && header.end().0 <= file.end.0;
                Ok(valid.then_some(header))
            }
            Err(HeaderError::NotAFrame) => Ok(None),
            Err(HeaderError::Unsupported(what)) => Err(refused(position, &what)),
        }
    }

    #[allow(clippy::type_complexity, reason = "a bad body is an answer, not an error")]
    fn body(
        &mut self,
        file: WalFile,
        header: &FrameHeader,
    ) -> Result<Result<Option<WrittenFrame>, &'static str>, Error> {
        let length = header.disk_len() as usize;
        let Some(bytes) = self.window.get(self.directory, file, header.lsn.0, length)? else {
            return Ok(Err("its file ends before it"));
        };
        // A copy, so that the window is not kept alive by what the visitor keeps.
        let bytes = Bytes::copy_from_slice(&bytes);
        let frame = match take_frame(header, &bytes) {
            Ok(frame) => frame,
            Err(reason) => return Ok(Err(reason)),
        };
        ext::check(&frame.draft.ext).map_err(|what| refused(header.lsn.0, &what))?;
        Ok(Ok(Some(frame)))
    }
}

fn refused(position: u64, what: &str) -> Error {
    Error::Refused(format!(
        "the frame at position {position} was written by a newer version ({what}): use the \
         release that wrote it"
    ))
}

impl Window {
    /// `length` bytes at `position`, or none if the file ends before.
    fn get(
        &mut self,
        directory: &Directory,
        file: WalFile,
        position: u64,
        length: usize,
    ) -> Result<Option<Bytes>, Error> {
        let inside = |at: u64, bytes: &Bytes| {
            let start = usize::try_from(position.checked_sub(at)?).ok()?;
            let end = start.checked_add(length)?;
            (end <= bytes.len()).then(|| bytes.slice(start..end))
        };
        let opened = self.open.as_ref().is_some_and(|(first, _)| *first == file.first.0);
        if opened && let Some(bytes) = inside(self.at, &self.bytes) {
            return Ok(Some(bytes));
        }
        let rest = file.end.0.saturating_sub(position);
        if rest < length as u64 {
            return Ok(None);
        }
        let path = directory.path_of(file.first);
        let doing = || Error::io(format!("read {path:?}"));
        let handle = match &self.open {
            Some((first, handle)) if *first == file.first.0 => Arc::clone(handle),
            _ => {
                let handle = directory.file_system().open(&path).map_err(doing())?;
                self.open = Some((file.first.0, Arc::clone(&handle)));
                handle
            }
        };
        let wanted = length.max(WINDOW_LEN).min(usize::try_from(rest).unwrap_or(usize::MAX));
        // The old window is given back before the new one is taken.
        self.bytes = Bytes::new();
        let mut buffer = vec![0; wanted];
        read_exact_at(&*handle, &mut buffer, position - file.first.0).map_err(doing())?;
        self.at = position;
        self.bytes = Bytes::from(buffer);
        Ok(inside(self.at, &self.bytes))
    }
}

impl Window {
    /// First place at or after `position` in the window where a frame may start, else the end of
    /// the window: most of what is searched is zeros.
    fn next_magic(&self, file: WalFile, position: u64) -> u64 {
        let opened = self.open.as_ref().is_some_and(|(first, _)| *first == file.first.0);
        let start = position.checked_sub(self.at).and_then(|start| usize::try_from(start).ok());
        let Some(rest) = start.filter(|_| opened).and_then(|start| self.bytes.get(start..)) else {
            return position;
        };
        let found = find_magic(rest).unwrap_or(rest.len().saturating_sub(HEADER_LEN));
        // Rounded down: a start that the window cuts off is looked at in the next one.
        position + (found as u64) / FRAME_ALIGN * FRAME_ALIGN
    }
}

/// Greatest durable end and run in the headers of the newest files: those of the last file that
/// has any, and of all files after it. Durable ends never fall, so older files know no more.
pub(crate) fn newest_marks(directory: &Directory, files: &[WalFile]) -> Result<(Lsn, u32), Error> {
    let mut durable = Lsn(0);
    let mut run = 0;
    for file in files.iter().rev() {
        let mut walk = Walk::new(directory, vec![*file], file.first.0);
        let mut position = file.first.0;
        let mut found = false;
        while position < file.end.0 {
            match walk.header_at(*file, position, 0)? {
                Some(header) => {
                    found = true;
                    durable = durable.max(header.durable);
                    run = run.max(header.run);
                    position = header.end().0;
                }
                None => position = walk.window.next_magic(*file, position + FRAME_ALIGN),
            }
        }
        if found {
            break;
        }
    }
    Ok((durable, run))
}
