//! Ends of many partitions in few bytes: every snapshot repeats those of all partitions, and a
//! table's metadata keeps many snapshots.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::marker::Ends;

/// More partitions than this are packed.
pub(crate) const PLAIN_MAX: usize = 500;

/// Longest packed text that is read.
const TEXT_LEN_MAX: usize = 8 << 20;

/// Base64 of unsigned LEB128 numbers: for each partition, ascending, its distance from the one
/// before (the first one's from -1) and its end.
pub(crate) fn pack(ends: &Ends) -> String {
    let mut bytes = Vec::with_capacity(ends.len() * 6);
    let mut before = -1;
    for (partition, end) in ends {
        write(&mut bytes, u64::from(partition.abs_diff(before)));
        write(&mut bytes, end.unsigned_abs());
        before = *partition;
    }
    STANDARD.encode(bytes)
}

/// Reverses [`pack`]; none for any text that it did not make.
pub(crate) fn unpack(text: &str) -> Option<Ends> {
    if text.len() > TEXT_LEN_MAX {
        return None;
    }
    let bytes = STANDARD.decode(text).ok()?;
    let mut rest = bytes.as_slice();
    let mut ends = Ends::new();
    let mut before = -1_i64;
    while !rest.is_empty() {
        let distance = i64::try_from(read(&mut rest)?).ok().filter(|distance| *distance > 0)?;
        before = before.checked_add(distance)?;
        ends.insert(i32::try_from(before).ok()?, i64::try_from(read(&mut rest)?).ok()?);
    }
    Some(ends)
}

fn write(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn read(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn packed_ends_come_back(ends: std::collections::BTreeMap<u16, u32>, top in 0..=i64::MAX) {
            let mut ends: Ends =
                ends.into_iter().map(|(p, end)| (i32::from(p), i64::from(end) << 20)).collect();
            ends.insert(i32::MAX, top);
            prop_assert_eq!(unpack(&pack(&ends)), Some(ends));
        }

        #[test]
        fn no_text_panics(bytes: Vec<u8>) {
            let _ = unpack(&STANDARD.encode(bytes));
        }
    }

    #[test]
    fn the_form_is_fixed() {
        let ends = Ends::from([(0, 250), (1, 0), (3, 90)]);
        assert_eq!(pack(&ends), STANDARD.encode([1, 0xfa, 1, 1, 0, 2, 90]));
    }

    #[test]
    fn text_of_others_is_refused() {
        for bytes in [&[1][..], &[0, 1], &[1, 0x80], &[0xff; 12]] {
            assert_eq!(unpack(&STANDARD.encode(bytes)), None, "{bytes:?}");
        }
        assert_eq!(unpack("not base64"), None);
    }
}
