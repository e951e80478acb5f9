//! The data directory as the log sees it: the lock, `FORMAT`, the run number, names of files
//! (rules 1.6, 2.2, 3.6).
//!
//! Owns: `LOCK`, `FORMAT`, `RUN` and the folder `wal/`. Does not own: what is inside log files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::runtime::files::{FileSystem, SyncPoint, read_all, replace_durably};
use crate::types::Lsn;
use crate::wal::Error;
use crate::wal::files::WalFile;

/// The on-disk version that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Names of file systems where locks and syncs cannot be trusted, by `statfs` magic
/// (source: `linux/magic.h` and the file systems' own headers).
const NETWORK_MAGICS: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0x517B, "smb"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "ceph"),
    (0x5346_414F, "afs"),
    (0x0BD0_0BD0, "lustre"),
    (0x0116_1970, "gfs2"),
    (0x7461_636F, "ocfs2"),
    (0x7375_7245, "coda"),
];

/// How to open a data directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectoryOptions {
    /// Accept a network file system (`data.dir.network = allow`).
    pub allow_network: bool,
}

/// An open data directory; this process has its lock until the value drops.
#[derive(Debug)]
pub struct Directory {
    fs: Arc<dyn FileSystem>,
    data_dir: PathBuf,
    wal_dir: PathBuf,
    log_id: u64,
    // Held for its lock only.
    _lock: fs::File,
}

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    version: u32,
    #[serde(default)]
    log_id: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct RunFile {
    run: u32,
}

impl Directory {
    /// Makes the folders, takes the lock, reads `FORMAT` or writes it for a new log.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has the directory, [`Error::Refused`] for a network
    /// file system, an unknown version or a missing `FORMAT`, [`Error::Io`].
    pub fn open(
        fs: Arc<dyn FileSystem>,
        data_dir: &Path,
        options: &DirectoryOptions,
    ) -> Result<Self, Error> {
        let made: Vec<&Path> = data_dir.ancestors().take_while(|path| !fs.exists(path)).collect();
        let wal_dir = data_dir.join("wal");
        fs.create_dir_all(data_dir).map_err(Error::io(format!("make {data_dir:?}")))?;
        if !options.allow_network {
            refuse_network(data_dir)?;
        }
        refuse_foreign(&*fs, data_dir)?;
        let lock = take_lock(data_dir)?;
        fs.create_dir_all(&wal_dir).map_err(Error::io(format!("make {wal_dir:?}")))?;
        // Each new folder is an entry of its parent; a relative path starts in ".".
        for parent in made.iter().filter_map(|path| path.parent()) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            fs.sync_dir(parent, SyncPoint::FormatDir)
                .map_err(Error::io(format!("sync {parent:?}")))?;
        }
        let mut directory =
            Self { fs, data_dir: data_dir.to_owned(), wal_dir, log_id: 0, _lock: lock };
        directory.log_id = directory.read_or_write_format()?;
        Ok(directory)
    }

    /// The directory that was opened.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The random, secret id in every frame.
    pub fn log_id(&self) -> u64 {
        self.log_id
    }

    /// The file layer it was opened with.
    pub fn file_system(&self) -> Arc<dyn FileSystem> {
        Arc::clone(&self.fs)
    }

    /// Files of the log in order of position; the end of one is never past the next one's first.
    /// An unused rest of the last file counts as its own.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn files(&self) -> Result<Vec<WalFile>, Error> {
        let paths = self.fs.list(&self.wal_dir).map_err(Error::io("list the log files"))?;
        let mut files = Vec::new();
        for path in paths {
            let Some(first) = first_of(&path) else {
                continue;
            };
            let doing = format!("look at {path:?}");
            let length =
                self.fs.open(&path).and_then(|file| file.length()).map_err(Error::io(doing))?;
            files.push(WalFile { first, end: Lsn(first.0.saturating_add(length)) });
        }
        files.sort_by_key(|file| file.first);
        for at in 1..files.len() {
            files[at - 1].end = files[at - 1].end.min(files[at].first);
        }
        Ok(files)
    }

    pub(crate) fn wal_dir(&self) -> &Path {
        &self.wal_dir
    }

    pub(crate) fn path_of(&self, first: Lsn) -> PathBuf {
        self.wal_dir.join(name_of(first))
    }

    /// The last run that was made durable; 0 in a new log.
    pub(crate) fn read_run(&self) -> Result<u32, Error> {
        read_run(&*self.fs, &self.data_dir)
    }

    /// Makes `run` durable.
    pub(crate) fn write_run(&self, run: u32) -> Result<(), Error> {
        let path = self.data_dir.join("RUN");
        self.write_json(&path, &RunFile { run }, SyncPoint::RunFile, SyncPoint::RunDir)
    }

    fn read_or_write_format(&self) -> Result<u64, Error> {
        let path = self.data_dir.join("FORMAT");
        if self.fs.exists(&path) {
            let bytes = read_all(&*self.fs, &path).map_err(Error::io(format!("read {path:?}")))?;
            return parse_format(&path, &bytes);
        }
        if !self.files()?.is_empty() {
            return Err(Error::Refused(format!(
                "{path:?} is missing but {:?} has log files: restore it from a backup of the \
                 same directory, or start with an empty data directory",
                self.wal_dir
            )));
        }
        let log_id = rand::random::<u64>();
        let format = Format { version: FORMAT_VERSION, log_id: format!("{log_id:016x}") };
        self.write_json(&path, &format, SyncPoint::FormatFile, SyncPoint::FormatDir)?;
        Ok(log_id)
    }

    fn write_json(
        &self,
        path: &Path,
        value: &impl Serialize,
        file_point: SyncPoint,
        dir_point: SyncPoint,
    ) -> Result<(), Error> {
        let mut text = serde_json::to_vec(value)
            .map_err(|error| Error::Refused(format!("encode {path:?}: {error}")))?;
        text.push(b'\n');
        replace_durably(&*self.fs, path, &text, file_point, dir_point)
            .map_err(Error::io(format!("write {path:?}")))
    }
}

/// The run number in the data directory; 0 if there is none yet.
pub(crate) fn read_run(fs: &dyn FileSystem, data_dir: &Path) -> Result<u32, Error> {
    let path = data_dir.join("RUN");
    if !fs.exists(&path) {
        return Ok(0);
    }
    let bytes = read_all(fs, &path).map_err(Error::io(format!("read {path:?}")))?;
    serde_json::from_slice(&bytes).map(|file: RunFile| file.run).map_err(|error| {
        Error::Refused(format!(
            "{path:?} is damaged ({error}): write {{\"run\":N}} into it with N above every run \
             this directory ever had (4000000 is safe)"
        ))
    })
}

/// Name of the file whose first byte has position `first`.
pub(crate) fn name_of(first: Lsn) -> String {
    format!("wal-{:020}.log", first.0)
}

fn first_of(path: &Path) -> Option<Lsn> {
    let digits = path.file_name()?.to_str()?.strip_prefix("wal-")?.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Lsn)).flatten()
}

fn parse_format(path: &Path, bytes: &[u8]) -> Result<u64, Error> {
    let damaged = |why: &dyn std::fmt::Display| {
        Error::Refused(format!("{path:?} is damaged ({why}): restore it from a backup"))
    };
    let format: Format = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
    if format.version != FORMAT_VERSION {
        return Err(Error::Refused(format!(
            "{path:?} has version {}, this program knows {FORMAT_VERSION}: use the release that \
             wrote it, or another data directory",
            format.version
        )));
    }
    u64::from_str_radix(&format.log_id, 16).map_err(|error| damaged(&error))
}

fn take_lock(data_dir: &Path) -> Result<fs::File, Error> {
    let path = data_dir.join("LOCK");
    let lock = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io(format!("open {path:?}")))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Locked(data_dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(Error::io(format!("lock {path:?}"))(error)),
    }
}

/// Names in a folder without `FORMAT` that are no foreign content: those of a first start that was
/// cut short, and what a new ext4 file system holds.
const UNFORMATTED_NAMES: &[&str] = &["LOCK", "FORMAT", "FORMAT.tmp", "wal", "lost+found"];

/// Refuses a folder that belongs to something else: Floe would fill it and free what it thinks its own.
fn refuse_foreign(fs: &dyn FileSystem, data_dir: &Path) -> Result<(), Error> {
    if fs.exists(&data_dir.join("FORMAT")) {
        return Ok(());
    }
    let entries = fs.list(data_dir).map_err(Error::io(format!("list {data_dir:?}")))?;
    let names = entries.iter().filter_map(|path| path.file_name());
    match names
        .map(|name| name.to_string_lossy())
        .find(|name| !UNFORMATTED_NAMES.contains(&name.as_ref()))
    {
        None => Ok(()),
        Some(name) => Err(Error::Refused(format!(
            "{data_dir:?} is not empty and no data directory of Floe (it has {name:?} and no FORMAT): \
             name an empty folder, or one that does not exist yet"
        ))),
    }
}

#[cfg(target_os = "linux")]
fn refuse_network(data_dir: &Path) -> Result<(), Error> {
    let stat = rustix::fs::statfs(data_dir)
        .map_err(|error| Error::io(format!("look at {data_dir:?}"))(error.into()))?;
    // The type is signed or not, 32 or 64 bits, by platform; magics are 32 bits.
    let magic = (stat.f_type as u64) & 0xFFFF_FFFF;
    network_name(magic).map_or(Ok(()), |name| {
        Err(Error::Refused(format!(
            "{data_dir:?} is on a network file system ({name}), where a sync may not be one: use \
             a local disk, or set data.dir.network = allow"
        )))
    })
}

#[cfg(not(target_os = "linux"))]
fn refuse_network(_data_dir: &Path) -> Result<(), Error> {
    Ok(())
}

fn network_name(magic: u64) -> Option<&'static str> {
    NETWORK_MAGICS.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::files::Disk;

    fn open(dir: &Path) -> Result<Directory, Error> {
        Directory::open(Arc::new(Disk), dir, &DirectoryOptions::default())
    }

    #[test]
    fn log_id_survives_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let id = open(&path).unwrap().log_id();
        assert_eq!(open(&path).unwrap().log_id(), id);
    }

    #[test]
    fn second_opener_is_refused_with_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Locked(_)));
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
        drop(first);
        open(dir.path()).unwrap();
    }

    #[test]
    fn unknown_version_damage_and_a_missing_format_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap();
        let format = dir.path().join("FORMAT");
        fs::write(&format, r#"{"version":2,"something":"new"}"#).unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("version 2"));
        fs::write(&format, "").unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("damaged"));
        fs::remove_file(&format).unwrap();
        fs::write(dir.path().join("wal").join(name_of(Lsn(0))), "x").unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("thesis.tex") && error.contains("empty folder"), "{error}");
        assert!(!dir.path().join("LOCK").exists() && !dir.path().join("wal").exists());
        fs::remove_file(dir.path().join("thesis.tex")).unwrap();
        open(dir.path()).unwrap();
        fs::write(dir.path().join("note"), "x").unwrap();
        open(dir.path()).unwrap();
    }

    #[test]
    fn run_is_kept_and_damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path()).unwrap();
        assert_eq!(directory.read_run().unwrap(), 0);
        directory.write_run(7).unwrap();
        assert_eq!(directory.read_run().unwrap(), 7);
        fs::write(dir.path().join("RUN"), [0; 8]).unwrap();
        assert!(directory.read_run().unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn files_are_listed_by_position_and_do_not_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path()).unwrap();
        for (first, length) in [(64u64, 64usize), (0, 96), (256, 32)] {
            fs::write(directory.path_of(Lsn(first)), vec![0; length]).unwrap();
        }
        fs::write(directory.wal_dir().join("next.tmp"), "").unwrap();
        let files: Vec<_> =
            directory.files().unwrap().iter().map(|file| (file.first.0, file.end.0)).collect();
        assert_eq!(files, [(0, 64), (64, 128), (256, 288)]);
    }

    #[test]
    fn network_file_systems_are_known_by_magic() {
        assert_eq!(network_name(0x6969), Some("nfs"));
        assert_eq!(network_name(0xEF53), None);
    }
}
