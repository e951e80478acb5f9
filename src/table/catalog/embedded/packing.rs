//! The JSON of a metadata file in parts, so that a commit of a table with a thousand snapshots reads
//! back and compresses only what it adds. Pure.
//!
//! Owns: where the snapshots lie in the text, and a gzip file made of pieces. Does not own: what the
//! text means (the `iceberg` crate), or when a shorter way is good enough ([`super::metadata`]).
//!
//! ```text
//!   {"format-version":2, ... "snapshots":[   {...},{...},   {...},{...},   {...}   ]}
//!   |------------- head ----------------|    |-- group --|  |-- group --|  |-- last --|
//! ```
//!
//! A group is compressed on its own and ends on a whole byte (zlib's full flush), so it can stand in
//! any file as it is. Together they are one gzip member with one deflate stream, as every reader
//! expects.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};
use flate2::{Compress, Compression, FlushCompress, Status};
use iceberg::spec::TableMetadata;
use serde::Deserialize;

/// Snapshots are grouped by this many sequence numbers: a group's text has about the window of gzip.
const GROUP: i64 = 32;

const SNAPSHOTS: &[u8] = b"\"snapshots\":[";
const ID: &[u8] = b"{\"snapshot-id\":";
const END: &[u8] = b"]}";

/// The start of a gzip file: no name, no time, unknown system (RFC 1952, 2.3).
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

const CRC: CrcAlgorithm = CrcAlgorithm::Crc32IsoHdlc;

/// The text of a metadata file whose last field is the list of snapshots.
pub(super) struct Parts<'j> {
    /// All before the first snapshot.
    head: &'j [u8],
    /// Id and text of each snapshot.
    snapshots: Vec<(i64, &'j [u8])>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct References {
    #[serde(default)]
    refs: HashMap<String, Reference>,
    current_snapshot_id: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Reference {
    snapshot_id: i64,
}

impl<'j> Parts<'j> {
    /// None of a text with another order of fields, or without snapshots.
    pub(super) fn of(json: &'j [u8]) -> Option<Self> {
        // Within a string a quote has a backslash before it.
        let mut at = memchr::memmem::find(json, SNAPSHOTS)? + SNAPSHOTS.len();
        let head = json.get(..at)?;
        let mut snapshots = Vec::new();
        loop {
            let end = object_end(json, at)?;
            let text = json.get(at..end)?;
            snapshots.push((id_of(text)?, text));
            match json.get(end)? {
                b',' => at = end + 1,
                _ if json.get(end..)? == END => return Some(Self { head, snapshots }),
                _ => return None,
            }
        }
    }

    /// The text without the snapshots that are `known`, unless something refers to them.
    pub(super) fn without(&self, known: impl Fn(i64) -> bool) -> Result<Vec<u8>, String> {
        let mut json = self.head.to_vec();
        json.extend_from_slice(END);
        let references: References =
            serde_json::from_slice(&json).map_err(|error| error.to_string())?;
        let mut wanted: HashSet<i64> =
            references.refs.into_values().map(|reference| reference.snapshot_id).collect();
        wanted.extend(references.current_snapshot_id);
        json.truncate(self.head.len());
        for (id, text) in &self.snapshots {
            if wanted.contains(id) || !known(*id) {
                json.extend_from_slice(text);
                json.push(b',');
            }
        }
        if json.last() == Some(&b',') {
            json.pop();
        }
        json.extend_from_slice(END);
        Ok(json)
    }

    /// The snapshots as texts of groups, in order of their sequence numbers.
    fn groups(&self, metadata: &TableMetadata) -> Vec<Vec<u8>> {
        let sequence = |id: i64| metadata.snapshot_by_id(id).map_or(0, |it| it.sequence_number());
        let mut ordered: Vec<(i64, i64, &[u8])> =
            self.snapshots.iter().map(|(id, text)| (sequence(*id), *id, *text)).collect();
        ordered.sort_unstable_by_key(|(sequence, id, _)| (*sequence, *id));
        let groups = ordered.chunk_by(|a, b| a.0 / GROUP == b.0 / GROUP);
        let mut texts: Vec<Vec<u8>> = groups
            .map(|group| {
                group.iter().flat_map(|(_, _, text)| text.iter().copied().chain([b','])).collect()
            })
            .collect();
        if let Some(last) = texts.last_mut() {
            last.pop();
            last.extend_from_slice(END);
        }
        texts
    }
}

/// Where the object that begins at `from` ends.
fn object_end(json: &[u8], from: usize) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, from);
    loop {
        match json.get(at)? {
            b'"' => at = string_end(json, at + 1)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return (json.get(from) == Some(&b'{')).then_some(at);
        }
    }
}

/// Where the quote stands that ends the string whose text begins at `from`.
fn string_end(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

fn id_of(snapshot: &[u8]) -> Option<i64> {
    let rest = snapshot.strip_prefix(ID)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'-')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

/// What tells a group's text from any other: a checksum alone would not do, for two texts that have
/// it in common by chance would be one file's snapshots twice, and nobody's readers would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    /// Of gzip.
    crc: u64,
    /// Another, of 64 bits.
    wide: u64,
    length: usize,
}

impl Print {
    fn of(text: &[u8]) -> Self {
        let (crc, wide) = (checksum(CRC, text), checksum(CrcAlgorithm::Crc64Nvme, text));
        Self { crc, wide, length: text.len() }
    }
}

/// A group of snapshots, compressed.
#[derive(Debug, Clone)]
struct Group {
    print: Print,
    deflated: Bytes,
}

/// What a file was made of, for the next one of the table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Packed {
    groups: Vec<Group>,
}

impl Packed {
    /// Bytes of memory.
    pub(super) fn size_bytes(&self) -> usize {
        self.groups.iter().map(|group| group.deflated.len() + size_of::<Group>()).sum()
    }

    /// How many groups are the very bytes of another's.
    #[cfg(test)]
    pub(super) fn shared_with(&self, other: &Self) -> usize {
        let is_in_other = |group: &&Group| {
            other.groups.iter().any(|one| one.deflated.as_ptr() == group.deflated.as_ptr())
        };
        self.groups.iter().filter(is_in_other).count()
    }

    /// The group with this text, if there is one.
    fn find(&self, print: Print) -> Option<&Group> {
        self.groups.iter().find(|group| group.print == print)
    }
}

/// The gzip file of a text, with the groups of the table's previous file where they are the same.
///
/// # Errors
/// Text of the library that compresses.
pub(super) fn pack(
    parts: &Parts<'_>,
    metadata: &TableMetadata,
    previous: Option<&Packed>,
) -> Result<(Vec<u8>, Packed), String> {
    let mut file = GZIP_HEAD.to_vec();
    let fast = Compression::fast();
    file.extend(deflate(parts.head, fast, FlushCompress::Full)?);
    let (mut crc, mut length) = (checksum(CRC, parts.head), parts.head.len());
    let mut packed = Packed::default();
    let texts = parts.groups(metadata);
    let last = texts.len().saturating_sub(1);
    for (at, text) in texts.iter().enumerate() {
        let print = Print::of(text);
        if at == last {
            file.extend(deflate(text, fast, FlushCompress::Finish)?);
        } else {
            let known = previous.and_then(|previous| previous.find(print));
            let group = match known {
                Some(known) => known.clone(),
                None => {
                    // Once for all files to come.
                    let deflated = deflate(text, Compression::default(), FlushCompress::Full)?;
                    Group { print, deflated: deflated.into() }
                }
            };
            file.extend_from_slice(&group.deflated);
            packed.groups.push(group);
        }
        crc = checksum_combine(CRC, crc, print.crc, text.len() as u64);
        length += text.len();
    }
    // Both are 32 bits by definition; the length is told modulo that.
    file.extend_from_slice(&(crc as u32).to_le_bytes());
    file.extend_from_slice(&(length as u32).to_le_bytes());
    Ok((file, packed))
}

/// A piece of a deflate stream that refers to nothing before it.
fn deflate(text: &[u8], level: Compression, flush: FlushCompress) -> Result<Vec<u8>, String> {
    let mut compress = Compress::new(level, false);
    let mut out = Vec::with_capacity(text.len() / 4 + 1024);
    loop {
        let taken = usize::try_from(compress.total_in()).unwrap_or(text.len());
        let status = compress
            .compress_vec(&text[taken..], &mut out, flush)
            .map_err(|error| format!("cannot compress the metadata: {error}"))?;
        let is_taken = compress.total_in() == text.len() as u64;
        // A flush is whole once it leaves room.
        if status == Status::StreamEnd
            || flush != FlushCompress::Finish && is_taken && out.len() < out.capacity()
        {
            return Ok(out);
        }
        out.reserve(out.capacity().max(1024));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn snapshots_are_told_apart_whatever_their_texts_hold() {
        let json = br#"{"a":"\"snapshots\":[","snapshots":[{"snapshot-id":-1,"s":{"x":"]}\\"}},{"snapshot-id":22,"y":[1,{}]}]}"#;
        let parts = Parts::of(json).unwrap();
        assert_eq!(parts.snapshots.iter().map(|one| one.0).collect::<Vec<_>>(), [-1, 22]);
        assert_eq!(parts.snapshots[1].1, br#"{"snapshot-id":22,"y":[1,{}]}"#);
        let kept = parts.without(|id| id == 22).unwrap();
        assert!(kept.ends_with(br#""snapshots":[{"snapshot-id":-1,"s":{"x":"]}\\"}}]}"#));
        assert_eq!(parts.without(|_| false).unwrap(), json);
        for other in [
            r#"{"a":1}"#,
            r#"{"snapshots":[]}"#,
            r#"{"snapshots":[{"snapshot-id":1}],"b":1}"#,
            r#"{"snapshots":[{"id":1}]}"#,
            r#"{"snapshots":[{"snapshot-id":1}"#,
            r#"{"snapshots":[[{"snapshot-id":1}]]}"#,
        ] {
            assert!(Parts::of(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn what_something_refers_to_stays() {
        let json = br#"{"refs":{"t":{"snapshot-id":1}},"current-snapshot-id":2,"snapshots":[{"snapshot-id":1},{"snapshot-id":2},{"snapshot-id":3}]}"#;
        let kept = Parts::of(json).unwrap().without(|_| true).unwrap();
        assert!(kept.ends_with(br#"[{"snapshot-id":1},{"snapshot-id":2}]}"#));
    }

    #[test]
    fn pieces_of_any_length_make_one_stream() {
        for length in [0_usize, 1, 1000, 70_000, 1 << 20] {
            let text: Vec<u8> =
                (0..length).map(|at| (at * at % 251) as u8 ^ (at >> 9) as u8).collect();
            let mut file = GZIP_HEAD.to_vec();
            for piece in text.chunks(30_000) {
                file.extend(deflate(piece, Compression::default(), FlushCompress::Full).unwrap());
            }
            file.extend(deflate(b"end", Compression::fast(), FlushCompress::Finish).unwrap());
            let whole = [&text[..], b"end"].concat();
            let crc = text.chunks(30_000).chain([&b"end"[..]]).fold((0, 0), |(crc, _), piece| {
                (checksum_combine(CRC, crc, checksum(CRC, piece), piece.len() as u64), 0)
            });
            file.extend_from_slice(&(crc.0 as u32).to_le_bytes());
            file.extend_from_slice(&(whole.len() as u32).to_le_bytes());
            let mut read = Vec::new();
            flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut read).unwrap();
            assert_eq!(read, whole);
        }
    }
}
