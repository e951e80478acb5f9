//! Zigzag varints as Kafka's records use them (source: `ByteUtils.readVarint`, `readVarlong`).

/// Most bytes of one varint of 64 bits.
const VARLONG_BYTES_MAX: usize = 10;

/// Reads an unsigned LEB128 of at most 64 bits at `at` and moves it.
#[inline]
fn read_unsigned(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for i in 0..VARLONG_BYTES_MAX {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if i == VARLONG_BYTES_MAX - 1 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Reads a zigzag varint of 64 bits.
#[inline]
pub(crate) fn read_i64(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let raw = read_unsigned(bytes, at)?;
    Some((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
}

/// Reads a zigzag varint that must fit 32 bits.
#[inline]
pub(crate) fn read_i32(bytes: &[u8], at: &mut usize) -> Option<i32> {
    i32::try_from(read_i64(bytes, at)?).ok()
}

/// Appends `value` as a zigzag varint.
#[inline]
pub(crate) fn write(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.push((raw as u8 & 0x7f) | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Bytes that [`write()`] takes for `value`.
#[inline]
pub(crate) fn len(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let bits = (64 - raw.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_survive_a_round_trip(value in any::<i64>()) {
            let mut out = Vec::new();
            write(&mut out, value);
            prop_assert_eq!(out.len(), len(value));
            let mut at = 0;
            prop_assert_eq!(read_i64(&out, &mut at), Some(value));
            prop_assert_eq!(at, out.len());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            let mut at = 0;
            let _ = read_i64(&bytes, &mut at);
            prop_assert!(at <= bytes.len());
        }
    }

    #[test]
    fn values_over_their_width_are_refused() {
        let mut out = Vec::new();
        write(&mut out, i64::from(i32::MAX) + 1);
        assert_eq!(read_i32(&out, &mut 0), None);
        assert_eq!(read_i64(&[0xff; 11], &mut 0), None);
        assert_eq!(read_i64(&[0x80; 9], &mut 0), None);
    }
}
