//! The extension of a frame: entries of tag, length, value (rules 2.1).
//!
//! Owns: the codec and the tags. Does not own: what the values mean.
//!
//! ```text
//! entry := tag u8 | length u16 little-endian | value
//! ```
//!
//! A tag with the high bit set must be known to every reader; one without may be skipped.

/// The idempotency key of an HTTP request. A release that skipped it would store a retry twice.
pub const IDEMPOTENCY: u8 = 0x81;
/// The channel and offset token of an HTTP request.
pub const CHANNEL: u8 = 0x82;
/// The ids of the events in the batch, where a topic stores an id once.
pub const EVENT_IDS: u8 = 0x83;

/// Tags with the high bit that this version understands.
const REQUIRED_KNOWN: &[u8] = &[IDEMPOTENCY, CHANNEL, EVENT_IDS];

/// Bytes before the value of an entry.
const ENTRY_HEAD_LEN: usize = 3;

/// Longest extension of one frame, in bytes.
pub const EXT_LEN_MAX: usize = u16::MAX as usize;

/// One entry as bytes, or nothing if the value is longer than 65,532 bytes.
pub fn entry(tag: u8, value: &[u8]) -> Option<Vec<u8>> {
    if value.len() > EXT_LEN_MAX - ENTRY_HEAD_LEN {
        return None;
    }
    let length = u16::try_from(value.len()).ok()?;
    let mut bytes = Vec::with_capacity(ENTRY_HEAD_LEN + value.len());
    bytes.push(tag);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(value);
    Some(bytes)
}

/// The entries of `ext` in order; ends at the first one that is cut off.
pub fn entries(ext: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = ext;
    std::iter::from_fn(move || {
        let (tag, value, after) = split(rest)?;
        rest = after;
        Some((tag, value))
    })
}

/// The value of the first entry with `tag`.
pub fn find(ext: &[u8], tag: u8) -> Option<&[u8]> {
    entries(ext).find(|(found, _)| *found == tag).map(|(_, value)| value)
}

/// Checks that `ext` is a list of entries whose required tags are known.
///
/// # Errors
/// The text says what is wrong.
pub(crate) fn check(ext: &[u8]) -> Result<(), String> {
    if ext.len() > EXT_LEN_MAX {
        return Err(format!("frame extension of {} bytes is over {EXT_LEN_MAX}", ext.len()));
    }
    let mut rest = ext;
    while !rest.is_empty() {
        let Some((tag, _, after)) = split(rest) else {
            return Err(format!("frame extension is cut off after {} bytes", ext.len()));
        };
        if tag & 0x80 != 0 && !REQUIRED_KNOWN.contains(&tag) {
            return Err(format!("frame extension has the unknown required tag {tag:#04x}"));
        }
        rest = after;
    }
    Ok(())
}

fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<ENTRY_HEAD_LEN>()?;
    let length = usize::from(u16::from_le_bytes([head[1], head[2]]));
    let (value, after) = rest.split_at_checked(length)?;
    Some((head[0], value, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_order() {
        let mut ext = entry(IDEMPOTENCY, b"key").unwrap();
        ext.extend(entry(2, b"").unwrap());
        let found: Vec<_> = entries(&ext).collect();
        assert_eq!(found, [(IDEMPOTENCY, &b"key"[..]), (2, &b""[..])]);
        assert_eq!(find(&ext, IDEMPOTENCY), Some(&b"key"[..]));
        assert_eq!(find(&ext, 3), None);
        assert!(check(&ext).is_ok());
    }

    #[test]
    fn cut_and_unknown_required_entries_are_refused() {
        let ext = entry(1, b"abc").unwrap();
        assert!(check(&ext[..ext.len() - 1]).is_err());
        assert!(check(&entry(0xff, b"").unwrap()).unwrap_err().contains("0xff"));
        assert!(entry(1, &vec![0; EXT_LEN_MAX]).is_none());
    }
}
