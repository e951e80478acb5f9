//! Metadata files: their names, their bytes, and the last few of them parsed. Pure but for
//! reading and writing through `FileIO`.

use std::collections::{HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use iceberg::io::FileIO;
use iceberg::spec::{TableMetadata, TableMetadataRef};
use parking_lot::Mutex;
use uuid::Uuid;

use super::packing::{self, Packed, Parts};
use crate::table::catalog::Error;

/// Largest metadata file that is read, in bytes of JSON.
const METADATA_BYTES_MAX: u64 = 512 << 20;
/// Most parsed metadata files that are kept.
const CACHE_ENTRIES_MAX: usize = 256;
/// Most bytes of JSON behind the parsed metadata files that are kept.
const CACHE_BYTES_MAX: usize = 32 << 20;

const CODEC: &str = "write.metadata.compression-codec";
const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];

/// A metadata file before it is written.
#[derive(Debug, Clone)]
pub(crate) struct MetadataFile {
    /// What it says, as readers will see it.
    pub(crate) metadata: TableMetadataRef,
    /// Where it will lie.
    pub(super) location: String,
    /// Its bytes.
    bytes: Bytes,
    /// Length of its JSON.
    json_len: usize,
    /// What the next file of the table can use of its bytes.
    packed: Option<Arc<Packed>>,
}

/// The table's current metadata.
#[derive(Clone, Copy)]
pub(crate) struct Previous<'m> {
    /// What it says.
    pub(crate) metadata: &'m TableMetadata,
    /// Where it lies.
    pub(crate) location: &'m str,
    /// What the new file can use of its bytes.
    pub(crate) packed: Option<&'m Packed>,
}

impl MetadataFile {
    /// The file for `metadata` that follows `previous`.
    ///
    /// # Errors
    /// Says why nobody could read such a file.
    pub(crate) fn new(
        metadata: &TableMetadata,
        previous: Option<Previous<'_>>,
    ) -> Result<Self, String> {
        let gzip = is_gzip(metadata.properties())?;
        let before = previous.map(|previous| previous.metadata);
        let (json, is_changed) = to_json(metadata, before.map(TableMetadata::last_updated_ms))?;
        let parts = Parts::of(&json).filter(|_| !is_changed);
        let metadata = read_back(&json, metadata, parts.as_ref(), before)?;
        let number = previous.map_or(0, |it| number_of(it.location).saturating_add(1));
        let suffix = if gzip { ".gz" } else { "" };
        let location = format!(
            "{}/metadata/{number:05}-{}{suffix}.metadata.json",
            metadata.location(),
            Uuid::new_v4()
        );
        let json_len = json.len();
        let mut packed = None;
        let bytes = match parts {
            _ if !gzip => json,
            None => compress(&json)?,
            Some(parts) => {
                let before = previous.and_then(|previous| previous.packed);
                let (bytes, kept) = packing::pack(&parts, &metadata, before)?;
                packed = Some(Arc::new(kept));
                bytes
            }
        };
        Ok(Self { metadata, location, bytes: bytes.into(), json_len, packed })
    }

    /// Writes it; durable once this returns.
    ///
    /// # Errors
    /// [`Error::Storage`]; a part of the file may be there.
    pub(super) async fn write(&self, file_io: &FileIO) -> Result<(), Error> {
        let output = file_io.new_output(&self.location).map_err(|e| storage("write", &e))?;
        output.write(self.bytes.clone()).await.map_err(|e| storage("write", &e))
    }
}

/// The error for a failed access to a metadata file.
pub(super) fn storage(doing: &str, error: &iceberg::Error) -> Error {
    Error::Storage(format!("cannot {doing} a metadata file: {error}"))
}

/// Reads and parses the metadata file at `location`; also returns the length of its JSON.
///
/// # Errors
/// [`Error::Storage`] if it cannot be read, is too large or is no metadata.
pub(super) async fn read(
    file_io: &FileIO,
    location: &str,
) -> Result<(TableMetadataRef, usize), Error> {
    let input = file_io.new_input(location).map_err(|e| storage("read", &e))?;
    let size = input.metadata().await.map_err(|e| storage("read", &e))?.size;
    if size > METADATA_BYTES_MAX {
        return Err(Error::Storage(format!(
            "metadata file {location} has {size} bytes, more than {METADATA_BYTES_MAX}"
        )));
    }
    let bytes = input.read().await.map_err(|e| storage("read", &e))?;
    let parsed = tokio::task::spawn_blocking(move || parse(&bytes)).await;
    parsed
        .map_err(|error| error.to_string())
        .flatten()
        .map_err(|error| Error::Storage(format!("metadata file {location}: {error}")))
}

/// The metadata in `bytes`, gzip or not, and the length of its JSON.
pub(crate) fn parse(bytes: &[u8]) -> Result<(TableMetadataRef, usize), String> {
    let mut json = Vec::new();
    let json = if bytes.starts_with(&GZIP_MAGIC) {
        let mut limited = GzDecoder::new(bytes).take(METADATA_BYTES_MAX + 1);
        limited.read_to_end(&mut json).map_err(|error| format!("bad gzip: {error}"))?;
        if json.len() as u64 > METADATA_BYTES_MAX {
            return Err(format!("it unpacks to more than {METADATA_BYTES_MAX} bytes"));
        }
        &json[..]
    } else {
        bytes
    };
    let metadata: TableMetadata =
        serde_json::from_slice(json).map_err(|error| format!("no table metadata: {error}"))?;
    Ok((Arc::new(metadata), json.len()))
}

/// A file that cannot be read back is a dead table, so it is read before it is written: all of it,
/// or, in `parts`, without the snapshots that the table's metadata `before` had already and that
/// were read then.
fn read_back(
    json: &[u8],
    metadata: &TableMetadata,
    parts: Option<&Parts<'_>>,
    before: Option<&TableMetadata>,
) -> Result<TableMetadataRef, String> {
    let unreadable =
        |error: serde_json::Error| format!("the new metadata would be unreadable: {error}");
    let whole = || serde_json::from_slice::<TableMetadata>(json).map_err(unreadable);
    let (Some(parts), Some(before)) = (parts, before) else {
        return Ok(Arc::new(whole()?));
    };
    let is_known = |id| {
        let (new, old) = (metadata.snapshot_by_id(id), before.snapshot_by_id(id));
        new.zip(old).is_some_and(|(new, old)| Arc::ptr_eq(new, old))
    };
    let less = parts.without(is_known)?;
    let read: TableMetadata = serde_json::from_slice(&less).map_err(unreadable)?;
    if !is_same(&read, metadata) {
        return Ok(Arc::new(whole()?));
    }
    debug_assert_eq!(whole().as_ref(), Ok(metadata), "readers see what was built");
    Ok(Arc::new(metadata.clone()))
}

/// True if two say the same of everything but snapshots and what they are called.
fn is_same(a: &TableMetadata, b: &TableMetadata) -> bool {
    let plain = |it: &TableMetadata| {
        (
            (it.format_version(), it.uuid(), it.location().to_owned(), it.last_updated_ms()),
            (it.last_sequence_number(), it.last_column_id(), it.last_partition_id()),
            (it.current_schema_id(), it.default_partition_spec_id(), it.default_sort_order_id()),
            (it.current_snapshot_id(), it.next_row_id()),
        )
    };
    plain(a) == plain(b)
        && a.properties() == b.properties()
        && a.history() == b.history()
        && a.metadata_log() == b.metadata_log()
        && a.schemas_iter().len() == b.schemas_iter().len()
        && a.schemas_iter().all(|it| b.schema_by_id(it.schema_id()) == Some(it))
        && a.partition_specs_iter().len() == b.partition_specs_iter().len()
        && a.partition_specs_iter().all(|it| b.partition_spec_by_id(it.spec_id()) == Some(it))
        && a.sort_orders_iter().len() == b.sort_orders_iter().len()
        && a.sort_orders_iter().all(|it| b.sort_order_by_id(it.order_id) == Some(it))
        && a.statistics_iter().len() == b.statistics_iter().len()
        && a.partition_statistics_iter().len() == b.partition_statistics_iter().len()
}

/// The JSON of `metadata`, whose time of update is not before `floor_ms`: a clock that was set
/// back more than a minute would make a file that Iceberg's readers refuse. True if it says so
/// instead of what `metadata` says.
fn to_json(metadata: &TableMetadata, floor_ms: Option<i64>) -> Result<(Vec<u8>, bool), String> {
    let no_json = |error: serde_json::Error| format!("the metadata has no JSON form: {error}");
    match floor_ms {
        Some(floor_ms) if metadata.last_updated_ms() < floor_ms => {
            let mut value = serde_json::to_value(metadata).map_err(no_json)?;
            value["last-updated-ms"] = floor_ms.into();
            Ok((serde_json::to_vec(&value).map_err(no_json)?, true))
        }
        _ => Ok((serde_json::to_vec(metadata).map_err(no_json)?, false)),
    }
}

fn compress(json: &[u8]) -> Result<Vec<u8>, String> {
    // Of a table with many snapshots the default level takes more time than all else of a commit.
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 4), Compression::fast());
    encoder
        .write_all(json)
        .and_then(|()| encoder.finish())
        .map_err(|error| format!("cannot compress the metadata: {error}"))
}

/// Checks a table property that names a compression of metadata files.
///
/// # Errors
/// Names the value and what is allowed.
pub(super) fn is_gzip(properties: &HashMap<String, String>) -> Result<bool, String> {
    let Some(codec) = properties.get(CODEC) else {
        return Ok(false);
    };
    match codec.to_ascii_lowercase().as_str() {
        "gzip" => Ok(true),
        "none" | "" => Ok(false),
        _ => Err(format!("property {CODEC} is {codec:?}; gzip and none are allowed")),
    }
}

/// The number in a metadata file's name: `00003-<uuid>.metadata.json`, `v3.metadata.json`.
fn number_of(location: &str) -> u64 {
    let name = location.rsplit('/').next().unwrap_or_default();
    let digits = name.strip_prefix('v').unwrap_or(name);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// The last metadata files that were read or written, by location. Files never change.
#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_location: HashMap<String, Entry>,
    oldest_first: VecDeque<String>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    metadata: TableMetadataRef,
    packed: Option<Arc<Packed>>,
    bytes: usize,
}

impl Cache {
    /// The metadata at `location`, if it is kept.
    pub(super) fn get(&self, location: &str) -> Option<TableMetadataRef> {
        self.kept.lock().by_location.get(location).map(|entry| Arc::clone(&entry.metadata))
    }

    /// What the next file can use of the bytes of the one at `location`.
    pub(super) fn packed(&self, location: &str) -> Option<Arc<Packed>> {
        self.kept.lock().by_location.get(location).and_then(|entry| entry.packed.clone())
    }

    /// Keeps the metadata of a file that was written.
    pub(super) fn put_file(&self, file: &MetadataFile) {
        let bytes = file.json_len + file.packed.as_ref().map_or(0, |packed| packed.size_bytes());
        let (metadata, packed) = (Arc::clone(&file.metadata), file.packed.clone());
        self.keep(&file.location, Entry { metadata, packed, bytes });
    }

    /// Keeps `metadata`, whose JSON has `json_len` bytes.
    pub(super) fn put(&self, location: &str, metadata: &TableMetadataRef, json_len: usize) {
        let metadata = Arc::clone(metadata);
        self.keep(location, Entry { metadata, packed: None, bytes: json_len });
    }

    /// Keeps `new` and forgets what no longer fits.
    fn keep(&self, location: &str, new: Entry) {
        let (mut kept, bytes) = (self.kept.lock(), new.bytes);
        if bytes > CACHE_BYTES_MAX || kept.by_location.contains_key(location) {
            return;
        }
        kept.by_location.insert(location.to_owned(), new);
        kept.oldest_first.push_back(location.to_owned());
        kept.bytes += bytes;
        while kept.bytes > CACHE_BYTES_MAX || kept.by_location.len() > CACHE_ENTRIES_MAX {
            let Some(oldest) = kept.oldest_first.pop_front() else {
                return;
            };
            kept.forget(&oldest);
        }
    }

    /// Forgets a file that is replaced or gone.
    pub(super) fn remove(&self, location: &str) {
        let mut kept = self.kept.lock();
        if kept.forget(location) {
            kept.oldest_first.retain(|other| other != location);
        }
    }
}

impl Kept {
    fn forget(&mut self, location: &str) -> bool {
        let Some(entry) = self.by_location.remove(location) else {
            return false;
        };
        self.bytes -= entry.bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use iceberg::spec::{MAIN_BRANCH, Operation, Snapshot, Summary};

    use super::*;
    use crate::table::catalog::embedded::tests::sample_metadata;

    #[test]
    fn file_names_count_up_from_any_style() {
        assert_eq!(number_of("s3://b/t/metadata/00041-abc.gz.metadata.json"), 41);
        assert_eq!(number_of("/t/metadata/v7.metadata.json"), 7);
        assert_eq!(number_of("/t/metadata/x.metadata.json"), 0);
        assert_eq!(number_of("99999999999999999999999-x"), 0);
    }

    #[tokio::test]
    async fn a_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file_io = FileIO::new_with_fs();
        for (codec, ending) in [("gzip", ".gz.metadata.json"), ("none", ".metadata.json")] {
            let location = format!("file://{}/t", folder.path().display());
            let metadata = sample_metadata(&location, &[(CODEC, codec)]);
            let file = MetadataFile::new(&metadata, None).unwrap();
            assert!(file.location.starts_with(&format!("{location}/metadata/00000-")));
            assert!(
                file.location.ends_with(ending)
                    && file.location.contains(".gz") == (codec == "gzip")
            );
            file.write(&file_io).await.unwrap();
            let (read, json_len) = read(&file_io, &file.location).await.unwrap();
            assert_eq!(read, file.metadata);
            assert_eq!(json_len, file.json_len);
        }
        assert!(matches!(
            read(&file_io, &format!("{}/none", folder.path().display())).await,
            Err(Error::Storage(_))
        ));
        assert!(MetadataFile::new(&sample_metadata("/w/t", &[(CODEC, "lz4")]), None).is_err());
    }

    fn previous<'m>(metadata: &'m TableMetadata, packed: Option<&'m Packed>) -> Previous<'m> {
        Previous { metadata, location: "file:///w/t/metadata/00004-x", packed }
    }

    /// The metadata after one more append, of which `expired` go.
    fn next(metadata: &TableMetadata, id: i64, expired: Option<i64>) -> TableMetadata {
        let sequence = metadata.last_sequence_number() + 1;
        let properties = [("floe.ends", format!("\"]}}\\ {id}"))];
        let summary = Summary {
            operation: Operation::Append,
            additional_properties: properties.map(|(key, value)| (key.to_owned(), value)).into(),
        };
        let snapshot = Snapshot::builder()
            .with_snapshot_id(id)
            .with_parent_snapshot_id(metadata.current_snapshot_id())
            .with_sequence_number(sequence)
            .with_timestamp_ms(metadata.last_updated_ms() + 1)
            .with_manifest_list(format!("file:///w/t/metadata/snap-{id}.avro"))
            .with_summary(summary)
            .with_schema_id(metadata.current_schema_id())
            .build();
        let location = "file:///w/t/metadata/00004-x".to_owned();
        let builder = metadata.clone().into_builder(Some(location));
        let builder = builder.set_branch_snapshot(snapshot, MAIN_BRANCH).unwrap();
        let gone: Vec<i64> = expired.into_iter().collect();
        builder.remove_snapshots(&gone).build().unwrap().metadata
    }

    #[test]
    fn a_table_of_many_snapshots_is_written_as_it_is_and_in_parts_that_stay() {
        let mut metadata = Arc::new(sample_metadata("file:///w/t", &[(CODEC, "gzip")]));
        let mut packed: Option<Arc<Packed>> = None;
        for id in 1..=150_i64 {
            let expired = (id > 120).then_some(id - 120);
            let new = next(&metadata, id * 7919, expired.map(|id| id * 7919));
            let file =
                MetadataFile::new(&new, Some(previous(&metadata, packed.as_deref()))).unwrap();
            let (read, json_len) = parse(&file.bytes).unwrap();
            assert_eq!(read, file.metadata, "{id}");
            assert_eq!(*file.metadata, new, "{id}");
            assert_eq!(json_len, file.json_len);
            let (new_parts, old_parts) = (file.packed.clone().unwrap(), packed);
            if let Some(old_parts) = old_parts.filter(|_| id == 110) {
                assert_eq!(new_parts.shared_with(&old_parts), 3, "96 snapshots of 110");
            }
            (metadata, packed) = (file.metadata, Some(new_parts));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_unreadable_file() {
        let now = sample_metadata("file:///w/t", &[]);
        let mut value = serde_json::to_value(&now).unwrap();
        value["last-updated-ms"] = (now.last_updated_ms() + 3_600_000).into();
        let later: TableMetadata = serde_json::from_value(value).unwrap();
        let next = later.clone().into_builder(Some("file:///w/t/metadata/00004-x".into()));
        let next = next.set_properties([("a".into(), "b".into())].into()).unwrap().build().unwrap();
        assert!(next.metadata.last_updated_ms() < later.last_updated_ms());
        let file = MetadataFile::new(&next.metadata, Some(previous(&later, None))).unwrap();
        assert_eq!(file.metadata.last_updated_ms(), later.last_updated_ms());
        assert!(file.location.contains("/00005-"));
    }

    #[test]
    fn the_cache_is_bounded_by_count_and_bytes() {
        let cache = Cache::default();
        let metadata = Arc::new(sample_metadata("file:///w/t", &[]));
        for n in 0..2 * CACHE_ENTRIES_MAX {
            cache.put(&n.to_string(), &metadata, 10);
        }
        assert_eq!(cache.kept.lock().by_location.len(), CACHE_ENTRIES_MAX);
        cache.put("big", &metadata, CACHE_BYTES_MAX);
        assert!(cache.get("big").is_some());
        assert_eq!(cache.kept.lock().by_location.len(), 1);
        cache.put("too big", &metadata, CACHE_BYTES_MAX + 1);
        assert!(cache.get("too big").is_none());
        cache.remove("big");
        let kept = cache.kept.lock();
        assert_eq!((kept.bytes, kept.oldest_first.len()), (0, 0));
    }
}
