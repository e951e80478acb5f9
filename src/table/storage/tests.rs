use std::io;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use futures::TryStreamExt;
use iceberg::MetadataLocation;
use iceberg::spec::{FormatVersion, TableMetadata};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::runtime::files::power_loss::PowerLoss;
use crate::runtime::files::{Disk, DiskSpace, File, SyncPoint};
use crate::table::testing::{self, TestTable};

/// The real disk; writes down what makes things durable, and can fail one kind of sync.
#[derive(Debug, Default)]
struct Recorder {
    calls: Arc<Mutex<Vec<String>>>,
    fails: Mutex<Option<SyncPoint>>,
    no_links: bool,
}

#[derive(Debug)]
struct RecordedFile(Arc<dyn File>, Arc<Mutex<Vec<String>>>, Option<SyncPoint>);

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap().to_string_lossy();
    if name.ends_with(".tmp") { "temporary".to_owned() } else { name.into_owned() }
}

impl Recorder {
    fn note(&self, call: String) {
        self.calls.lock().push(call);
    }

    fn check(&self, point: SyncPoint) -> io::Result<()> {
        if *self.fails.lock() == Some(point) { Err(io::Error::other("no power")) } else { Ok(()) }
    }
}

impl FileSystem for Recorder {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = Disk.create_new(path)?;
        Ok(Arc::new(RecordedFile(file, Arc::clone(&self.calls), *self.fails.lock())))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Disk.open(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        Disk.create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(format!("rename {} {}", name(from), name(to)));
        Disk.rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.no_links {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.note(format!("link {} {}", name(from), name(to)));
        Disk.hard_link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.note(format!("remove {}", name(path)));
        Disk.remove_file(path)
    }
    fn sync_dir(&self, path: &Path, point: SyncPoint) -> io::Result<()> {
        self.note(format!("{point:?} {}", name(path)));
        self.check(point)?;
        Disk.sync_dir(path, point)
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

impl File for RecordedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buffer, position)
    }
    fn write_all_at(&self, buffers: &mut [io::IoSlice<'_>], position: u64) -> io::Result<()> {
        self.1.lock().push("write".to_owned());
        self.0.write_all_at(buffers, position)
    }
    fn sync_data(&self, point: SyncPoint) -> io::Result<()> {
        self.1.lock().push("sync".to_owned());
        self.0.sync_data(point)
    }
    fn sync_all(&self, point: SyncPoint) -> io::Result<()> {
        self.1.lock().push(format!("{point:?}"));
        if self.2 == Some(point) {
            return Err(io::Error::other("no power"));
        }
        self.0.sync_all(point)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
}

fn local(files: Arc<dyn FileSystem>) -> FileIO {
    file_io(files, "file:///", &HashMap::new()).unwrap()
}

fn entries(folder: &Path) -> Vec<String> {
    Disk.list(folder).unwrap().iter().map(|path| name(path)).collect()
}

#[tokio::test]
async fn a_closed_file_is_synced_before_it_has_its_name() {
    let folder = TempDir::new().unwrap();
    let recorder = Arc::new(Recorder::default());
    let io = local(recorder.clone());
    let path = format!("file://{}/a/b/x.parquet", folder.path().display());
    let mut writer = io.new_output(&path).unwrap().writer().await.unwrap();
    writer.write("one ".into()).await.unwrap();
    writer.write("two".into()).await.unwrap();
    assert!(!io.exists(&path).await.unwrap(), "no name before the file is whole");
    writer.close().await.unwrap();
    assert!(writer.close().await.is_err());
    let top = name(folder.path());
    assert_eq!(
        *recorder.calls.lock(),
        [
            format!("TableParentDir {top}").as_str(),
            "TableParentDir a",
            "write",
            "write",
            "TableFile",
            "link temporary x.parquet",
            "remove temporary",
            "TableDir b",
        ]
    );
    assert_eq!(io.new_input(&path).unwrap().read().await.unwrap(), "one two");
    assert_eq!(entries(&folder.path().join("a/b")), ["x.parquet"]);
}

/// A sync of the log waits for what tables have left to the disk.
#[tokio::test]
async fn a_large_file_is_written_in_pieces_and_synced_on_the_way() {
    let folder = TempDir::new().unwrap();
    let recorder = Arc::new(Recorder::default());
    let io = local(recorder.clone());
    let path = format!("file://{}/x.parquet", folder.path().display());
    let bytes: Vec<u8> = (0..5_u32 << 20).map(|at| (at % 251) as u8).collect();
    io.new_output(&path).unwrap().write(bytes.clone().into()).await.unwrap();
    let calls: Vec<String> = recorder.calls.lock().clone();
    let count = |call: &str| calls.iter().filter(|it| *it == call).count();
    assert_eq!((count("write"), count("sync"), count("TableFile")), (20, 2, 1), "{calls:?}");
    let runs = calls.split(|call| call == "sync" || call == "TableFile");
    assert!(runs.map(<[String]>::len).all(|writes| writes <= 9), "{calls:?}");
    assert_eq!(io.new_input(&path).unwrap().read().await.unwrap(), bytes);
}

#[tokio::test]
async fn a_failed_sync_fails_the_write() {
    for point in [SyncPoint::TableFile, SyncPoint::TableDir, SyncPoint::TableParentDir] {
        let folder = TempDir::new().unwrap();
        let recorder = Arc::new(Recorder::default());
        *recorder.fails.lock() = Some(point);
        let path = format!("{}/a/x", folder.path().display());
        let result = local(recorder.clone()).new_output(&path).unwrap().write("x".into()).await;
        assert!(result.unwrap_err().to_string().contains("no power"), "{point:?}");
        if point == SyncPoint::TableParentDir {
            // The next writer must not take the folder for durable.
            *recorder.fails.lock() = None;
            recorder.calls.lock().clear();
            local(recorder.clone()).new_output(&path).unwrap().write("x".into()).await.unwrap();
            assert!(recorder.calls.lock()[0].starts_with("TableParentDir"));
        }
    }
}

#[tokio::test]
async fn a_name_is_never_written_twice() {
    for no_links in [false, true] {
        let folder = TempDir::new().unwrap();
        let io = local(Arc::new(Recorder { no_links, ..Recorder::default() }));
        let path = format!("{}/x", folder.path().display());
        let output = io.new_output(&path).unwrap();
        // Both are under way before either has the name.
        let mut first = output.writer().await.unwrap();
        let mut second = output.writer().await.unwrap();
        first.write("first".into()).await.unwrap();
        second.write("second".into()).await.unwrap();
        first.close().await.unwrap();
        let error = second.close().await.unwrap_err();
        assert!(matches!(Error::from_iceberg(error), Error::Exists(_)));
        let third = output.write("third".into()).await.unwrap_err();
        assert!(matches!(Error::from_iceberg(third), Error::Exists(_)));
        assert_eq!(io.new_input(&path).unwrap().read().await.unwrap(), "first");
        drop(second);
        wait_for_entries(folder.path(), &["x"]).await;
    }
}

async fn wait_for_entries(folder: &Path, expected: &[&str]) {
    for _ in 0..30_000 {
        if entries(folder) == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(entries(folder), expected);
}

#[tokio::test]
async fn a_dropped_writer_leaves_no_file() {
    let folder = TempDir::new().unwrap();
    let io = local(Arc::new(Disk));
    let path = format!("{}/x", folder.path().display());
    let mut writer = io.new_output(&path).unwrap().writer().await.unwrap();
    writer.write("half".into()).await.unwrap();
    drop(writer);
    wait_for_entries(folder.path(), &[]).await;
}

#[tokio::test]
async fn reads_are_bounded_by_the_file() {
    let folder = TempDir::new().unwrap();
    let io = local(Arc::new(Disk));
    let path = format!("file:{}/x", folder.path().display());
    io.new_output(&path).unwrap().write("0123456789".into()).await.unwrap();
    let input = io.new_input(&path).unwrap();
    assert_eq!(input.metadata().await.unwrap().size, 10);
    let reader = input.reader().await.unwrap();
    assert_eq!(reader.read(2..5).await.unwrap(), "234");
    for range in [5..11, 0..u64::MAX, u64::MAX - 1..u64::MAX] {
        assert!(reader.read(range).await.is_err());
    }
    assert!(io.new_input(format!("{path}.none")).unwrap().read().await.is_err());
}

#[tokio::test]
async fn deleting_what_is_not_there_is_no_error() {
    let folder = TempDir::new().unwrap();
    let io = local(Arc::new(Disk));
    let path = format!("{}/d/x", folder.path().display());
    io.delete(&path).await.unwrap();
    io.delete_prefix(format!("{}/d", folder.path().display())).await.unwrap();
    io.new_output(&path).unwrap().write("x".into()).await.unwrap();
    io.delete(&path).await.unwrap();
    assert!(!io.exists(&path).await.unwrap());
    io.delete_prefix(format!("{}/d", folder.path().display())).await.unwrap();
    // The folder is known, but gone: it is made again.
    io.new_output(&path).unwrap().write("y".into()).await.unwrap();
    assert_eq!(io.new_input(&path).unwrap().read().await.unwrap(), "y");
}

#[tokio::test]
async fn table_folders_are_made_durably() {
    let folder = TempDir::new().unwrap();
    let recorder = Arc::new(Recorder::default());
    let location = format!("file://{}/w/db/t/", folder.path().display());
    make_table_folders(recorder.clone(), &location).await.unwrap();
    assert_eq!(entries(&folder.path().join("w/db/t")), ["data", "metadata"]);
    let calls = recorder.calls.lock().clone();
    let top = name(folder.path());
    for parent in [top.as_str(), "w", "db", "t"] {
        assert!(calls.contains(&format!("TableParentDir {parent}")), "{parent}: {calls:?}");
    }
    make_table_folders(recorder, "s3://bucket/t").await.unwrap();
}

#[test]
fn schemes_choose_the_storage() {
    let properties = HashMap::from([("s3.endpoint".to_owned(), "http://127.0.0.1:1".to_owned())]);
    let s3 = file_io(Arc::new(Disk), "s3://bucket/warehouse", &properties).unwrap();
    assert!(s3.new_output("s3://bucket/warehouse/x").is_ok());
    for warehouse in ["gs://b/w", "warehouse", ""] {
        let error = file_io(Arc::new(Disk), warehouse, &properties).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)));
    }
}

const SEEDS: u64 = 40;

/// Takes the power away after a table of two commits was written, its metadata file last.
/// Returns what is wrong with it afterwards.
async fn lose_power(seed: u64, skipped: Option<SyncPoint>) -> Option<String> {
    let folder = TempDir::new().unwrap();
    let lossy = PowerLoss::new(folder.path()).unwrap();
    skipped.into_iter().for_each(|point| lossy.skip(point));
    let files: Arc<dyn FileSystem> = Arc::new(lossy.clone());
    let mut table = TestTable::over(folder, files, testing::schema(), FormatVersion::V2).await;
    table.append(0, &["a", "b"]).await;
    table.append(2, &["c"]).await;
    let location = MetadataLocation::new_with_metadata(table.metadata.location(), &table.metadata);
    table.metadata.write_to(&table.file_io, &location).await.unwrap();
    lossy.crash(seed).unwrap();

    table.file_io = local(Arc::new(Disk));
    let location = location.to_string();
    let metadata = match TableMetadata::read_from(&table.file_io, &location).await {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("metadata file: {error}")),
    };
    table.metadata = Arc::new(metadata);
    let scan = table.table();
    let scan = scan.scan().select_all().build().unwrap();
    let rows = match scan.to_arrow().await {
        Ok(rows) => rows.try_collect::<Vec<_>>().await,
        Err(error) => Err(error),
    };
    match rows {
        Ok(rows) if rows.iter().map(RecordBatch::num_rows).sum::<usize>() == 3 => None,
        Ok(rows) => Some(format!("{rows:?}")),
        Err(error) => Some(error.to_string()),
    }
}

#[tokio::test]
async fn a_table_survives_power_loss_whole() {
    for seed in 0..SEEDS {
        assert_eq!(lose_power(seed, None).await, None, "seed {seed}");
    }
}

#[tokio::test]
async fn every_sync_of_a_table_is_needed() {
    for point in [SyncPoint::TableFile, SyncPoint::TableDir, SyncPoint::TableParentDir] {
        let mut seed = 0;
        while lose_power(seed, Some(point)).await.is_none() {
            seed += 1;
            assert!(seed < SEEDS, "without {point:?} nothing was ever lost");
        }
    }
}
