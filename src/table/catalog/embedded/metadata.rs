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
}

impl MetadataFile {
    /// The file for `metadata` that follows `previous`, the table's current metadata and where
    /// that lies.
    ///
    /// # Errors
    /// Says why nobody could read such a file.
    pub(crate) fn new(
        metadata: &TableMetadata,
        previous: Option<(&TableMetadata, &str)>,
    ) -> Result<Self, String> {
        let gzip = is_gzip(metadata.properties())?;
        let json = to_json(metadata, previous.map(|(previous, _)| previous.last_updated_ms()))?;
        // A file that cannot be read back is a dead table, so it is read before it is written.
        let metadata: TableMetadata = serde_json::from_slice(&json)
            .map_err(|error| format!("the new metadata would be unreadable: {error}"))?;
        let number = previous.map_or(0, |(_, location)| number_of(location).saturating_add(1));
        let suffix = if gzip { ".gz" } else { "" };
        let location = format!(
            "{}/metadata/{number:05}-{}{suffix}.metadata.json",
            metadata.location(),
            Uuid::new_v4()
        );
        let json_len = json.len();
        let bytes = if gzip { compress(&json)? } else { json };
        Ok(Self { metadata: Arc::new(metadata), location, bytes: bytes.into(), json_len })
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

/// The JSON of `metadata`, whose time of update is not before `floor_ms`: a clock that was set
/// back more than a minute would make a file that Iceberg's readers refuse.
fn to_json(metadata: &TableMetadata, floor_ms: Option<i64>) -> Result<Vec<u8>, String> {
    let no_json = |error: serde_json::Error| format!("the metadata has no JSON form: {error}");
    match floor_ms {
        Some(floor_ms) if metadata.last_updated_ms() < floor_ms => {
            let mut value = serde_json::to_value(metadata).map_err(no_json)?;
            value["last-updated-ms"] = floor_ms.into();
            serde_json::to_vec(&value).map_err(no_json)
        }
        _ => serde_json::to_vec(metadata).map_err(no_json),
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
    by_location: HashMap<String, (TableMetadataRef, usize)>,
    oldest_first: VecDeque<String>,
    bytes: usize,
}

impl Cache {
    /// The metadata at `location`, if it is kept.
    pub(super) fn get(&self, location: &str) -> Option<TableMetadataRef> {
        self.kept.lock().by_location.get(location).map(|(metadata, _)| Arc::clone(metadata))
    }

    /// Keeps the metadata of a file that was written.
    pub(super) fn put_file(&self, file: &MetadataFile) {
        self.put(&file.location, &file.metadata, file.json_len);
    }

    /// Keeps `metadata`, whose JSON has `json_len` bytes, and forgets what no longer fits.
    pub(super) fn put(&self, location: &str, metadata: &TableMetadataRef, json_len: usize) {
        let mut kept = self.kept.lock();
        let new = (Arc::clone(metadata), json_len);
        if json_len > CACHE_BYTES_MAX || kept.by_location.insert(location.to_owned(), new).is_some()
        {
            return;
        }
        kept.oldest_first.push_back(location.to_owned());
        kept.bytes += json_len;
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
        let Some((_, bytes)) = self.by_location.remove(location) else {
            return false;
        };
        self.bytes -= bytes;
        true
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_clock_that_was_set_back_makes_no_unreadable_file() {
        let now = sample_metadata("file:///w/t", &[]);
        let mut value = serde_json::to_value(&now).unwrap();
        value["last-updated-ms"] = (now.last_updated_ms() + 3_600_000).into();
        let later: TableMetadata = serde_json::from_value(value).unwrap();
        let next = later.clone().into_builder(Some("file:///w/t/metadata/00004-x".into()));
        let next = next.set_properties([("a".into(), "b".into())].into()).unwrap().build().unwrap();
        assert!(next.metadata.last_updated_ms() < later.last_updated_ms());
        let file =
            MetadataFile::new(&next.metadata, Some((&later, "file:///w/t/metadata/00004-x")))
                .unwrap();
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
