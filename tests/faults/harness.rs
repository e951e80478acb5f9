//! A broker in this process on a data directory that outlives it, and what a test asks of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use floe::broker::{Broker, Components};
use floe::config::{Config, Settings};
use floe::log::{Append, AppendBatch, AppendError, Appended, Origin, ReadError};
use floe::record::{BatchBuilder, BatchReader, Codec, NewRecord};
use floe::runtime::FailPoints;
use floe::table::catalog::Catalog;
use floe::table::catalog::Error as CatalogError;
use floe::topic::{NewTopic, Topic};
use futures::TryStreamExt;
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableIdent};
use rustix::fs::SeekFrom;

/// Longest wait for a condition.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Settings of a small broker on free ports.
pub(crate) fn config(dir: &Path, more: &[(&str, &str)]) -> Config {
    let mut settings = Settings::new();
    let data = dir.join("data").to_string_lossy().into_owned();
    let base = [
        ("data.dir", data.as_str()),
        ("kafka.listen", "127.0.0.1:0"),
        ("http.listen", "127.0.0.1:0"),
        ("wal.file.bytes", "1MiB"),
        ("disk.free.min.bytes", "1MiB"),
        ("retention.check.interval", "100ms"),
        // Records of these tests are from 1970: no retention but where it is the test's matter.
        ("retention.ms", "-1"),
    ];
    for (key, value) in base.iter().chain(more) {
        settings.insert((*key).to_owned(), vec![(*value).to_owned()]);
    }
    let keys: Vec<&str> = floe::topic::option_table::OPTIONS.iter().map(|def| def.key).collect();
    Config::resolve(&settings, &keys).unwrap()
}

/// Components whose fatal reasons are collected instead of ending the process.
pub(crate) fn components() -> (Components, Arc<Mutex<Vec<String>>>) {
    let fatal: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&fatal);
    let components =
        Components::real(Arc::new(move |reason| heard.lock().unwrap().push(reason.to_owned())));
    (components, fatal)
}

/// Starts a broker with the machine's clock and disk.
pub(crate) async fn start(dir: &Path, more: &[(&str, &str)]) -> Broker {
    Broker::start(&config(dir, more), components().0).await.unwrap()
}

/// Stops it as `serve` does.
pub(crate) async fn stop(broker: Broker) {
    broker.stop(Duration::from_secs(8)).await;
}

/// Ends the log of a broker as `kill -9` would: nothing is written after this, neither by the
/// log nor by the store, and the directory is free once the life is over.
pub(crate) async fn kill(broker: Broker, fail_points: &FailPoints) {
    for point in ["wal.before_write", "store.before_snapshot", "tier.before_commit"] {
        fail_points.set(point, || Err("killed".to_owned()));
    }
    broker.stop(Duration::from_millis(1)).await;
}

/// Runs `body` on a runtime of its own; when it returns nothing of it runs any more, as after
/// the end of a process.
pub(crate) fn in_a_life<T>(body: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let result = runtime.block_on(body);
    runtime.shutdown_timeout(WAIT_MAX);
    result
}

/// Makes a topic if it is not there.
pub(crate) async fn topic(broker: &Broker, name: &str, partitions: i32) -> Arc<Topic> {
    topic_with(broker, name, partitions, &[]).await
}

/// [`topic`] with options of its own.
pub(crate) async fn topic_with(
    broker: &Broker,
    name: &str,
    partitions: i32,
    overrides: &[(&str, &str)],
) -> Arc<Topic> {
    if let Some(topic) = broker.topics().get(name) {
        return topic;
    }
    let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let new = NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        overrides: overrides.iter().map(text).collect(),
    };
    broker.topics().create(new, false).await.unwrap()
}

/// A batch of values without keys.
pub(crate) fn batch(values: &[String]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        let record =
            NewRecord { key: None, value: Some(value.as_bytes()), headers: &[], timestamp: 1 };
        builder.push(&record).unwrap();
    }
    builder.build(Codec::None).unwrap()
}

/// Appends values to one partition; the answer comes when they are durable.
pub(crate) async fn append(
    broker: &Broker,
    topic: &Topic,
    partition: usize,
    values: &[String],
) -> Result<Vec<Appended>, AppendError> {
    let batches = vec![AppendBatch {
        partition: topic.partitions[partition],
        batch: batch(values),
        ext: Bytes::new(),
    }];
    let append = Append { batches, origin: Origin::Kafka, settle: None, is_awaited: true };
    broker.log().append(append).await?.wait().await
}

/// A stored record: partition index, offset, value.
pub(crate) type Stored = (i32, i64, String);

/// Everything that can be read from the log of a topic, and the offsets that cannot.
pub(crate) async fn read_log(
    broker: &Broker,
    topic: &Topic,
) -> (Vec<Stored>, Vec<(i32, i64, i64)>) {
    try_read_log(broker, topic).await.unwrap()
}

/// [`read_log`] of a broker that may be in a bad way.
pub(crate) async fn try_read_log(
    broker: &Broker,
    topic: &Topic,
) -> Result<(Vec<Stored>, Vec<(i32, i64, i64)>), String> {
    let (mut found, mut holes) = (Vec::new(), Vec::new());
    for (index, id) in topic.partitions.iter().enumerate() {
        let index = i32::try_from(index).unwrap();
        let Some(partition) = broker.log().partition(*id) else { continue };
        let mut at = partition.log_start_offset();
        while at < partition.high_watermark() {
            match broker.log().read(*id, at, 1 << 20).await {
                Ok(slice) => {
                    let before = at;
                    for batch in slice.batches {
                        let mut reader = BatchReader::new();
                        for record in reader.records(&batch.bytes).unwrap() {
                            let record = record.unwrap();
                            let value = record.value.unwrap_or_default().to_vec();
                            found.push((index, record.offset, String::from_utf8(value).unwrap()));
                        }
                        at = batch.end_offset;
                    }
                    if let Some((range, _)) = slice.gap {
                        holes.push((index, range.base, range.end));
                        at = at.max(range.end);
                    }
                    assert!(at > before, "a read below the high watermark gives something");
                }
                Err(ReadError::Corrupt(range)) => {
                    holes.push((index, range.base, range.end));
                    at = range.end;
                }
                // Retention went on meanwhile.
                Err(ReadError::OutOfRange { start, .. }) if start > at => at = start,
                Err(error) => return Err(format!("{} {index} at {at}: {error}", topic.name)),
            }
        }
    }
    Ok((found, holes))
}

/// The values and positions of all rows of a table: (partition, offset, `i`, `_value` or, of a
/// dead letter, `value`). None if there is no such table.
pub(crate) async fn try_read_table(
    catalog: &Arc<dyn Catalog>,
    name: &str,
) -> Result<Option<Vec<Stored>>, String> {
    let ident = TableIdent::new(NamespaceIdent::new("streams".to_owned()), name.to_owned());
    let loaded = match catalog.load(&ident).await {
        Ok(loaded) => loaded,
        Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace(_)) => return Ok(None),
        Err(error) => return Err(format!("table {name}: {error}")),
    };
    let table = Table::builder()
        .identifier(ident)
        .file_io(catalog.file_io().clone())
        .metadata(loaded.metadata)
        .metadata_location(loaded.metadata_location)
        .runtime(iceberg::Runtime::current())
        .build();
    let scanned = async {
        let batches: Vec<arrow_array::RecordBatch> =
            table?.scan().build()?.to_arrow().await?.try_collect().await?;
        Ok(batches.iter().flat_map(rows).collect())
    };
    scanned.await.map(Some).map_err(|error: iceberg::Error| format!("table {name}: {error:?}"))
}

/// [`try_read_table`] of a table that is good; empty if there is none.
pub(crate) async fn read_table(catalog: &Arc<dyn Catalog>, name: &str) -> Vec<Stored> {
    try_read_table(catalog, name).await.unwrap().unwrap_or_default()
}

fn rows(batch: &arrow_array::RecordBatch) -> Vec<Stored> {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Int32Type, Int64Type};
    use arrow_cast::display::{ArrayFormatter, FormatOptions};

    let Some(system) = batch.column_by_name("floe") else { return Vec::new() };
    let system = system.as_struct();
    let partitions = system.column_by_name("partition").unwrap().as_primitive::<Int32Type>();
    let offsets = system.column_by_name("offset").unwrap().as_primitive::<Int64Type>();
    let columns = ["i", "_value", "value"].map(|name| batch.column_by_name(name));
    let options = FormatOptions::default();
    let value = |row: usize| {
        let Some(column) = columns.iter().flatten().find(|column| column.is_valid(row)) else {
            return String::new();
        };
        match column.as_binary_opt::<i64>() {
            Some(bytes) => String::from_utf8_lossy(bytes.value(row)).into_owned(),
            None => ArrayFormatter::try_new(column, &options).unwrap().value(row).to_string(),
        }
    };
    (0..batch.num_rows())
        .map(|row| (partitions.value(row), offsets.value(row), value(row)))
        .collect()
}

/// Waits until everything appended is in the table.
pub(crate) async fn flush(broker: &Broker, table: &str) {
    let flushed = broker.tiering().flush(table, WAIT_MAX).await;
    flushed.unwrap_or_else(|error| panic!("flush of {table}: {error}"));
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Copies a folder.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            // A file may go while it is copied; the store removes old ones by itself.
            let _ = copy_file(&entry.path(), &target);
        }
    }
}

/// Copies a file without its holes: the store's journal is mostly one.
fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(&from, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&from, SeekFrom::Hole(data))?;
        let mut bytes = vec![0; usize::try_from(at - data).unwrap()];
        from.read_exact_at(&mut bytes, data)?;
        to.write_all_at(&bytes, data)?;
    }
    Ok(())
}

/// The files of the log, oldest first.
pub(crate) fn wal_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir.join("data/wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    files
}

/// Values `{"i":N}` for a range of N.
pub(crate) fn values(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("{{\"i\":{i}}}")).collect()
}
