//! The payload of a state frame, and of the chunks of a metadata snapshot.
//!
//! ```text
//! payload:  version u8 = 1 | count varint | op * count
//! op:       space u8 | tag u8 | key length varint | key | (tag 1: value length varint | value)
//!           tag 0 = delete, tag 1 = put; key 1 to 65,535 bytes
//! varint:   unsigned LEB128, at most 5 bytes
//! ```
//!
//! Owns: this layout. Does not own: what keys and values mean.

use crate::store::{Change, Op, Space};

/// Version of the layout; an unknown one is refused.
pub const VERSION: u8 = 1;

/// Largest encoded change in bytes; bounds the memory that one frame or chunk takes.
pub const CHANGE_BYTES_MAX: usize = 32 << 20;

/// Longest key in bytes (fjall's limit).
pub const KEY_BYTES_MAX: usize = 65_535;

/// Shortest op: space, tag, key length, one byte of key.
const OP_BYTES_MIN: usize = 4;

const TAG_DELETE: u8 = 0;
const TAG_PUT: u8 = 1;

/// Why a payload could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A later release wrote it.
    #[error("state payload has version {0}, this release knows {VERSION}")]
    Version(u8),
    /// A later release wrote it.
    #[error("state payload names the unknown space {0}")]
    Space(u8),
    /// It ends too early or contradicts itself.
    #[error("state payload is malformed: {0}")]
    Malformed(&'static str),
}

/// Bytes that [`encode`] gives for `change`, or a little more.
pub fn encoded_len_max(change: &Change) -> usize {
    let ops = change.ops.iter().map(|op| 12 + op.key.len() + op.value.as_ref().map_or(0, Vec::len));
    6 + ops.sum::<usize>()
}

/// Encodes `change`. The caller has checked the lengths of its keys.
pub fn encode(change: &Change) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_len_max(change));
    out.push(VERSION);
    put_varint(&mut out, change.ops.len());
    for op in &change.ops {
        out.push(op.space as u8);
        out.push(if op.value.is_some() { TAG_PUT } else { TAG_DELETE });
        put_varint(&mut out, op.key.len());
        out.extend_from_slice(&op.key);
        if let Some(value) = &op.value {
            put_varint(&mut out, value.len());
            out.extend_from_slice(value);
        }
    }
    out
}

/// Decodes a payload; never panics and never allocates more than it is long.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(payload: &[u8]) -> Result<Change, DecodeError> {
    let mut input = Input(payload);
    let version = input.byte()?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let count = input.varint()?;
    if count > input.0.len() / OP_BYTES_MIN {
        return Err(DecodeError::Malformed("more ops than bytes"));
    }
    let mut ops = Vec::with_capacity(count);
    for _ in 0..count {
        ops.push(decode_op(&mut input)?);
    }
    if !input.0.is_empty() {
        return Err(DecodeError::Malformed("bytes after the last op"));
    }
    Ok(Change { ops })
}

fn decode_op(input: &mut Input<'_>) -> Result<Op, DecodeError> {
    let space = input.byte()?;
    let space = Space::from_u8(space).ok_or(DecodeError::Space(space))?;
    let tag = input.byte()?;
    let key_len = input.varint()?;
    if key_len == 0 || key_len > KEY_BYTES_MAX {
        return Err(DecodeError::Malformed("key length out of bounds"));
    }
    let key = input.take(key_len)?.to_vec();
    let value = match tag {
        TAG_DELETE => None,
        TAG_PUT => {
            let value_len = input.varint()?;
            Some(input.take(value_len)?.to_vec())
        }
        _ => return Err(DecodeError::Malformed("unknown tag")),
    };
    Ok(Op { space, key, value })
}

fn put_varint(out: &mut Vec<u8>, value: usize) {
    let mut rest = u32::try_from(value).expect("lengths are checked against 32 MiB before");
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        if length > self.0.len() {
            return Err(DecodeError::Malformed("it ends too early"));
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<usize, DecodeError> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value)
                    .map(|value| value as usize)
                    .map_err(|_| DecodeError::Malformed("varint over 32 bits"));
            }
        }
        Err(DecodeError::Malformed("varint longer than 5 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_change() -> impl Strategy<Value = Change> {
        let op = (
            0..Space::ALL.len(),
            prop::collection::vec(any::<u8>(), 1..40),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        )
            .prop_map(|(space, key, value)| Op { space: Space::ALL[space], key, value });
        prop::collection::vec(op, 0..20).prop_map(|ops| Change { ops })
    }

    proptest! {
        #[test]
        fn every_change_survives_a_round_trip(change in any_change()) {
            let payload = encode(&change);
            prop_assert!(payload.len() <= encoded_len_max(&change));
            prop_assert_eq!(decode(&payload).unwrap(), change);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = decode(&bytes);
        }

        #[test]
        fn every_cut_is_refused(change in any_change(), cut in any::<prop::sample::Index>()) {
            let payload = encode(&change);
            let cut = cut.index(payload.len());
            prop_assert!(decode(&payload[..cut]).is_err());
        }
    }

    #[test]
    fn layout_is_the_golden_one() {
        let change = Change::new()
            .put(Space::Topic, "orders", "{}")
            .delete(Space::Group, vec![0xff])
            .put(Space::Meta, "k", vec![7u8; 130]);
        let mut golden =
            b"\x01\x03\x01\x01\x06orders\x02{}\x0a\x00\x01\xff\x00\x01\x01k\x82\x01".to_vec();
        golden.extend([7u8; 130]);
        assert_eq!(encode(&change), golden);
        assert_eq!(decode(&golden).unwrap(), change);
    }

    #[test]
    fn what_a_later_release_wrote_is_refused_by_name() {
        assert_eq!(decode(b"\x02\x00"), Err(DecodeError::Version(2)));
        assert_eq!(decode(b"\x01\x01\x63\x00\x01k"), Err(DecodeError::Space(0x63)));
    }

    #[test]
    fn forged_counts_and_lengths_are_refused() {
        for bad in [
            &b""[..],
            b"\x01",
            b"\x01\xff\xff\xff\xff\x0f",
            b"\x01\xff\xff\xff\xff\xff\x01",
            b"\x01\x01\x00\x01\x00\x00",
            b"\x01\x01\x00\x02\x01k",
            b"\x01\x01\x00\x01\x01k\xff\xff\xff\xff\x0f",
            b"\x01\x00\x00",
        ] {
            assert!(matches!(decode(bad), Err(DecodeError::Malformed(_))), "{bad:?}");
        }
    }
}
