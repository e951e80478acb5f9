//! State: changes in frames, metadata snapshots, stored values.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc_fast::CrcAlgorithm;

use crate::runtime::files::{DiskSpace, File, FileSystem, SyncPoint};
use crate::store::once::{self, ChannelMark, ChannelRecord, KeyMark, KeyRecord};
use crate::store::{Change, ProducerEntry, codec, keys, snapshot};

/// Bytes before the first chunk of a snapshot, and where the id of its log stands.
const SNAPSHOT_HEADER_BYTES: usize = 32;
const AT_LOG_ID: usize = 16;

/// A snapshot file, tried as it is and with the CRC that it should have; then the same bytes as a
/// change and as stored values.
///
/// # Panics
/// If a property does not hold.
pub fn metadata_snapshot(data: &[u8]) {
    restored(data);
    if data.len() >= SNAPSHOT_HEADER_BYTES {
        let mut good = data.to_vec();
        good.extend_from_slice(&0_u32.to_le_bytes());
        good.extend_from_slice(&crc_of(&good).to_le_bytes());
        restored(&good);
    }
    change(data);
    values(data);
}

fn crc_of(bytes: &[u8]) -> u32 {
    // A 32-bit CRC in a wider word.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A snapshot that is read whole says the same after its changes were written anew.
fn restored(data: &[u8]) {
    let log_id = data.get(AT_LOG_ID..AT_LOG_ID + 8).unwrap_or(&[0; 8]);
    let log_id = u64::from_le_bytes(log_id.try_into().expect("eight bytes"));
    let Some((header, changes)) = read(data, log_id) else { return };
    assert!(read(data, !log_id).is_none(), "the snapshot of another log was taken");
    let mut again = data[..SNAPSHOT_HEADER_BYTES].to_vec();
    for change in &changes {
        let payload = codec::encode(change);
        let length = u32::try_from(payload.len()).expect("no longer than what was read");
        again.extend_from_slice(&length.to_le_bytes());
        again.extend_from_slice(&payload);
    }
    again.extend_from_slice(&0_u32.to_le_bytes());
    again.extend_from_slice(&crc_of(&again).to_le_bytes());
    let (same_header, same_changes) = read(&again, log_id).expect("it was written by our rules");
    assert_eq!(same_header, header);
    assert!(same_changes == changes, "the changes do not survive a round trip");
}

fn read(data: &[u8], log_id: u64) -> Option<(snapshot::Header, Vec<Change>)> {
    let mut changes = Vec::new();
    let fs = OneFile(data.to_vec());
    let header = snapshot::read(&fs, Path::new("snapshot"), log_id, |change| {
        changes.push(change);
        Ok(())
    });
    header.ok().map(|header| (header, changes))
}

fn change(data: &[u8]) {
    let Ok(change) = codec::decode(data) else { return };
    let held: usize =
        change.ops.iter().map(|op| op.key.len() + op.value.as_ref().map_or(0, Vec::len)).sum();
    assert!(held <= data.len(), "more bytes than were read");
    let again = codec::encode(&change);
    assert!(again.len() <= data.len().min(codec::encoded_len_max(&change)));
    assert!(codec::decode(&again).as_ref() == Ok(&change));
}

/// Values that the store itself reads: those with one form only come back byte for byte.
fn values(data: &[u8]) {
    if let Ok(record) = KeyRecord::decode(data) {
        assert_eq!(KeyRecord::decode(&record.encode()).as_ref(), Ok(&record));
    }
    if let Ok(record) = ChannelRecord::decode(data) {
        assert_eq!(ChannelRecord::decode(&record.encode()).as_ref(), Ok(&record));
    }
    let _ = (KeyMark::decode(data), ChannelMark::decode(data), once::decode_ids(data));
    let _ = (once::decode_age(data), once::decode_channel(data), once::decode_ids_key(data));
    if let Ok(entry) = ProducerEntry::decode(data) {
        assert_eq!(entry.encode(), data);
        let mut next = entry.clone();
        next.record(entry.epoch, i32::MAX, u32::MAX, i64::MAX, 0);
        assert!(next.batches.len() <= crate::store::BATCHES_MAX);
    }
    if let Ok(number) = keys::decode_i64(data) {
        assert_eq!(keys::encode_i64(number), data);
        assert_eq!(keys::decode_u64(data).map(keys::encode_u64).ok().as_deref(), Some(data));
    }
    if let Ok(text) = keys::decode_text(data) {
        assert_eq!(keys::encode_text(&text), data);
    }
    if let Ok(gap) = keys::decode_gap(7, data) {
        assert!(gap.range.base == 7 && gap.reason.len() <= 3 * data.len());
        assert!(gap.range.len() >= 0);
    }
    let _ = keys::decode_partition_key(data);
    if let Some((key, value)) = data.split_at_checked(12) {
        assert!(keys::decode_numbered(key).is_ok());
        if let Ok(run) = keys::decode_run(key, value) {
            assert_eq!(keys::encode_run(&run), value);
            assert_eq!(keys::index(run.partition, run.base_offset), key);
        }
    }
}

/// A file system that holds one file, in memory, to be read.
#[derive(Debug, Clone)]
struct OneFile(Vec<u8>);

fn denied<T>() -> io::Result<T> {
    Err(io::ErrorKind::PermissionDenied.into())
}

impl FileSystem for OneFile {
    fn create_new(&self, _path: &Path) -> io::Result<Arc<dyn File>> {
        denied()
    }

    fn open(&self, _path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(self.clone()))
    }

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        denied()
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        denied()
    }

    fn hard_link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        denied()
    }

    fn remove_file(&self, _path: &Path) -> io::Result<()> {
        denied()
    }

    fn sync_dir(&self, _path: &Path, _point: SyncPoint) -> io::Result<()> {
        denied()
    }

    fn list(&self, _path: &Path) -> io::Result<Vec<PathBuf>> {
        denied()
    }

    fn exists(&self, _path: &Path) -> bool {
        true
    }

    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        denied()
    }
}

impl File for OneFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let at = usize::try_from(position).unwrap_or(usize::MAX).min(self.0.len());
        let count = buffer.len().min(self.0.len() - at);
        buffer[..count].copy_from_slice(&self.0[at..at + count]);
        Ok(count)
    }

    fn write_all_at(&self, _buffers: &mut [IoSlice<'_>], _position: u64) -> io::Result<()> {
        denied()
    }

    fn sync_data(&self, _point: SyncPoint) -> io::Result<()> {
        denied()
    }

    fn sync_all(&self, _point: SyncPoint) -> io::Result<()> {
        denied()
    }

    fn set_len(&self, _length: u64) -> io::Result<()> {
        denied()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}
