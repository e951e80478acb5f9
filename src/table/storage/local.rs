//! Iceberg's storage traits over local files that survive a power loss.

use std::fmt::Debug;
use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::folders::Folders;
use super::path::local_path;
use crate::runtime::background::at_low_priority;
use crate::runtime::files::{Disk, File, FileSystem, SyncPoint};

/// Bytes that one call writes. A thread in the kernel gives way between two of them.
const PIECE_BYTES: usize = 256 << 10;

/// Bytes of a file that no sync has made durable, at most: a sync of the log waits for what others
/// have left to the disk, so tables leave little at once.
const UNSYNCED_BYTES_MAX: usize = 2 << 20;

/// Local files, written durably and exclusively: a name is never written twice.
///
/// Serialising it (which the `Storage` trait asks for, and nothing of ours does) forgets the file
/// system: what comes back works on the real disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalStorage {
    #[serde(skip, default = "on_disk")]
    files: Arc<dyn FileSystem>,
    #[serde(skip)]
    folders: Arc<Folders>,
}

/// Builds [`LocalStorage`]; serialising it forgets the file system in the same way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalStorageFactory {
    #[serde(skip, default = "on_disk")]
    files: Arc<dyn FileSystem>,
}

fn on_disk() -> Arc<dyn FileSystem> {
    Arc::new(Disk)
}

impl LocalStorageFactory {
    /// A factory of storage over `files`.
    pub fn new(files: Arc<dyn FileSystem>) -> Self {
        Self { files }
    }
}

#[typetag::serde(name = "FloeLocalStorageFactory")]
impl StorageFactory for LocalStorageFactory {
    fn build(&self, _config: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(LocalStorage::new(Arc::clone(&self.files))))
    }
}

impl LocalStorage {
    /// Storage over `files`. Reads go to the same paths of the machine's file system.
    pub fn new(files: Arc<dyn FileSystem>) -> Self {
        Self { files, folders: Arc::default() }
    }

    /// Makes the folder at `location` and its parents, durably.
    pub(super) async fn make_folder(&self, location: &str) -> Result<()> {
        let path = local_path(location)?;
        let (files, folders) = (Arc::clone(&self.files), Arc::clone(&self.folders));
        blocking("make folder", path, move |path| folders.ensure(&*files, path)).await
    }
}

/// Runs `body` on the blocking pool; its error names `what` and the path.
async fn blocking<T, F>(what: &'static str, path: PathBuf, body: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Path) -> io::Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(move || body(&path).map_err(|e| storage_error(what, &path, e)))
        .await
        .map_err(|e| Error::new(ErrorKind::Unexpected, format!("{what} panicked")).with_source(e))?
}

fn storage_error(what: &str, path: &Path, error: io::Error) -> Error {
    let path = path.display();
    if error.kind() == io::ErrorKind::AlreadyExists {
        return Error::new(ErrorKind::PreconditionFailed, path.to_string()).with_source(error);
    }
    Error::new(ErrorKind::Unexpected, format!("{what} {path}: {error}")).with_source(error)
}

#[async_trait]
#[typetag::serde(name = "FloeLocalStorage")]
impl Storage for LocalStorage {
    async fn exists(&self, path: &str) -> Result<bool> {
        blocking("look for", local_path(path)?, |path| path.try_exists()).await
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let size = blocking("stat", local_path(path)?, |path| Ok(fs::metadata(path)?.len()));
        Ok(FileMetadata { size: size.await? })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        blocking("read", local_path(path)?, |path| fs::read(path).map(Bytes::from)).await
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        let path = local_path(path)?;
        let file = blocking("open", path.clone(), |path| fs::File::open(path)).await?;
        Ok(Box::new(LocalRead { file: Arc::new(file), path }))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let mut writer = self.writer(path).await?;
        writer.write(bytes).await?;
        writer.close().await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let (files, folders) = (Arc::clone(&self.files), Arc::clone(&self.folders));
        let open = blocking("create", local_path(path)?, move |path| {
            OpenFile::create(files, &folders, path)
        });
        Ok(Box::new(LocalWrite { open: Some(open.await?) }))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let files = Arc::clone(&self.files);
        blocking("delete", local_path(path)?, move |path| match files.remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        })
        .await
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        blocking("delete folder", local_path(path)?, |path| match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> Result<()> {
        while let Some(path) = paths.next().await {
            self.delete(&path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

struct LocalRead {
    file: Arc<fs::File>,
    path: PathBuf,
}

#[async_trait]
impl FileRead for LocalRead {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let file = Arc::clone(&self.file);
        blocking("read", self.path.clone(), move |_| {
            let length = range.end.saturating_sub(range.start);
            // A range from a damaged footer must not make us allocate more than the file has.
            if range.end > file.metadata()?.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let mut buffer = vec![0; length];
            file.read_exact_at(&mut buffer, range.start)?;
            Ok(Bytes::from(buffer))
        })
        .await
    }
}

/// A file under its temporary name.
#[derive(Debug)]
struct OpenFile {
    files: Arc<dyn FileSystem>,
    file: Arc<dyn File>,
    temporary: PathBuf,
    path: PathBuf,
    length: u64,
    /// Bytes that no sync has made durable.
    unsynced: usize,
    /// The temporary name is gone, or was made the final one.
    named: bool,
}

impl OpenFile {
    fn create(files: Arc<dyn FileSystem>, folders: &Folders, path: &Path) -> io::Result<Self> {
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        folders.ensure(&*files, parent)?;
        // The link at the end decides; this only saves the work.
        if files.exists(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let temporary = format!(".{}.{}.tmp", name.to_string_lossy(), Uuid::new_v4().simple());
        let temporary = parent.join(temporary);
        let file = files.create_new(&temporary)?;
        Ok(Self {
            files,
            file,
            temporary,
            path: path.to_owned(),
            length: 0,
            unsynced: 0,
            named: false,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() <= PIECE_BYTES {
            return self.append_piece(bytes);
        }
        at_low_priority(|| bytes.chunks(PIECE_BYTES).try_for_each(|piece| self.append_piece(piece)))
    }

    fn append_piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(&mut [IoSlice::new(bytes)], self.length)?;
        self.length += bytes.len() as u64;
        self.unsynced += bytes.len();
        if self.unsynced >= UNSYNCED_BYTES_MAX {
            self.file.sync_data(SyncPoint::TableFile)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Syncs the content, gives it its name, syncs the folder. The order matters: a name that
    /// survives a power loss must never lead to content that did not.
    fn publish(&mut self) -> io::Result<()> {
        let parent = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        self.file.sync_all(SyncPoint::TableFile)?;
        match self.files.hard_link(&self.temporary, &self.path) {
            // A temporary name that stays is only a stray file; the new one is good.
            Ok(()) => drop(self.files.remove_file(&self.temporary)),
            // File systems without hard links (some network and FUSE mounts). One process owns
            // the folder and names are unique, so look-then-rename is safe enough there.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                ) =>
            {
                if self.files.exists(&self.path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                self.files.rename(&self.temporary, &self.path)?;
            }
            Err(error) => return Err(error),
        }
        self.named = true;
        self.files.sync_dir(parent, SyncPoint::TableDir)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.named {
            return;
        }
        let (files, temporary) = (Arc::clone(&self.files), std::mem::take(&mut self.temporary));
        let remove = move || drop(files.remove_file(&temporary));
        // A writer that is dropped half way may be dropped on an async worker.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

struct LocalWrite {
    /// None after `close`, or after a write that failed.
    open: Option<OpenFile>,
}

impl LocalWrite {
    fn take(&mut self) -> Result<OpenFile> {
        self.open.take().ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "file is closed or an earlier write failed")
        })
    }
}

#[async_trait]
impl FileWrite for LocalWrite {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut open = self.take()?;
        let open = blocking("write", open.path.clone(), move |_| {
            open.append(&bytes)?;
            Ok(open)
        });
        self.open = Some(open.await?);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let mut open = self.take()?;
        blocking("publish", open.path.clone(), move |_| open.publish()).await
    }
}
