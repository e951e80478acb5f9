//! Lower and upper bounds of a column over all row groups of a file.
//!
//! A bound must hold for every value, but need not be one: a Parquet minimum that was cut short
//! is still a lower bound, a maximum that was cut and raised is still an upper bound. What is
//! not known for one row group is not known for the file (Iceberg spec, `lower_bounds`).

use iceberg::spec::{Datum, PrimitiveType};
use parquet::file::statistics::Statistics;
use uuid::Uuid;

/// Longest string bound, in characters, and longest binary bound, in bytes (Iceberg's
/// `truncate(16)`, the default of its metrics modes).
const BOUND_LEN_MAX: usize = 16;

/// The bounds of one column, built up row group by row group.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    lower: Option<Datum>,
    upper: Option<Datum>,
    lower_unknown: bool,
    upper_unknown: bool,
}

impl Bounds {
    /// Takes in one row group with `values` values, nulls included.
    pub(super) fn add(&mut self, ty: &PrimitiveType, statistics: Option<&Statistics>, values: u64) {
        let Some(statistics) = statistics else {
            // Without statistics nothing is known, unless there is nothing to know.
            if values > 0 {
                self.lower_unknown = true;
                self.upper_unknown = true;
            }
            return;
        };
        let lower = statistics.min_bytes_opt().and_then(|bytes| datum(ty, bytes));
        let upper = statistics.max_bytes_opt().and_then(|bytes| datum(ty, bytes));
        let all_null = statistics.null_count_opt() == Some(values);
        // Bounds say nothing about NaN, and the writer leaves minimum and maximum of floating
        // columns out only where all values are NaN or null.
        let all_nan = matches!(ty, PrimitiveType::Float | PrimitiveType::Double)
            && statistics.min_bytes_opt().is_none()
            && statistics.max_bytes_opt().is_none();
        if all_null || all_nan {
            return;
        }
        match lower {
            Some(lower) => {
                if self.lower.as_ref().is_none_or(|least| lower < *least) {
                    self.lower = Some(lower);
                }
            }
            None => self.lower_unknown = true,
        }
        match upper {
            Some(upper) => {
                if self.upper.as_ref().is_none_or(|greatest| upper > *greatest) {
                    self.upper = Some(upper);
                }
            }
            None => self.upper_unknown = true,
        }
    }

    /// The bounds, cut to what manifests should carry.
    pub(super) fn finish(self, ty: &PrimitiveType) -> (Option<Datum>, Option<Datum>) {
        let lower = self.lower.filter(|_| !self.lower_unknown);
        let upper = self.upper.filter(|_| !self.upper_unknown);
        match ty {
            PrimitiveType::String => (
                lower.and_then(|bound| string_of(&bound).map(|text| Datum::string(cut(&text)))),
                upper.and_then(|bound| cut_up(&string_of(&bound)?).map(Datum::string)),
            ),
            PrimitiveType::Binary => (
                lower.and_then(|bound| {
                    let bytes = bound.to_bytes().ok()?;
                    Some(Datum::binary(bytes[..bytes.len().min(BOUND_LEN_MAX)].iter().copied()))
                }),
                upper.and_then(|bound| cut_bytes_up(&bound.to_bytes().ok()?).map(Datum::binary)),
            ),
            PrimitiveType::Uuid => uuid_bounds(lower, upper),
            _ => (lower, upper),
        }
    }
}

/// A statistic's bytes (Parquet's plain encoding) as an Iceberg value.
fn datum(ty: &PrimitiveType, bytes: &[u8]) -> Option<Datum> {
    match ty {
        // Parquet keeps small decimals as little-endian integers, Iceberg as big-endian bytes.
        PrimitiveType::Decimal { precision, .. } if *precision <= 18 => {
            let mut bytes = bytes.to_vec();
            bytes.reverse();
            Datum::try_from_bytes(&bytes, ty.clone()).ok()
        }
        PrimitiveType::Time => Datum::time_micros(i64::from_le_bytes(bytes.try_into().ok()?)).ok(),
        PrimitiveType::Fixed(length) if bytes.len() as u64 != *length => None,
        _ => Datum::try_from_bytes(bytes, ty.clone()).ok(),
    }
}

fn string_of(bound: &Datum) -> Option<String> {
    String::from_utf8(bound.to_bytes().ok()?.into_vec()).ok()
}

/// The first 16 characters: not above the whole string.
fn cut(text: &str) -> &str {
    text.char_indices().nth(BOUND_LEN_MAX).map_or(text, |(end, _)| &text[..end])
}

/// A string of at most 16 characters that is not below `text`; none if there is no such string.
fn cut_up(text: &str) -> Option<String> {
    let kept = cut(text);
    if kept.len() == text.len() {
        return Some(text.to_owned());
    }
    let mut chars: Vec<char> = kept.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = next_char(last) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// The next character in the order of code points, over the gap of the surrogates.
fn next_char(of: char) -> Option<char> {
    match of {
        '\u{D7FF}' => Some('\u{E000}'),
        _ => char::from_u32(u32::from(of) + 1),
    }
}

/// At most 16 bytes that are not below `bytes`; none if all of the first 16 are `0xFF`.
fn cut_bytes_up(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() <= BOUND_LEN_MAX {
        return Some(bytes.to_vec());
    }
    let mut kept = bytes[..BOUND_LEN_MAX].to_vec();
    while let Some(last) = kept.pop() {
        if last < u8::MAX {
            kept.push(last + 1);
            return Some(kept);
        }
    }
    None
}

/// UUID bounds only where signed and unsigned order agree: Java's `UUID.compareTo` is signed and
/// some readers prune with it.
fn uuid_bounds(lower: Option<Datum>, upper: Option<Datum>) -> (Option<Datum>, Option<Datum>) {
    let first_bit = |bound: &Option<Datum>| {
        let bytes = bound.as_ref()?.to_bytes().ok()?;
        Some(Uuid::from_slice(&bytes).ok()?.as_bytes()[0] >> 7)
    };
    match (first_bit(&lower), first_bit(&upper)) {
        (Some(a), Some(b)) if a == b => (lower, upper),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_strings_are_cut_and_the_upper_bound_is_raised() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut_up("short").as_deref(), Some("short"));
        let long = "z".repeat(100);
        assert_eq!(cut(&long).len(), 16);
        assert_eq!(cut_up(&long), Some(format!("{}{{", "z".repeat(15))));
        let greatest = "\u{10FFFF}".repeat(17);
        assert_eq!(cut_up(&greatest), None);
        let mostly = format!("a{greatest}");
        assert_eq!(cut_up(&mostly).as_deref(), Some("b"));
        assert_eq!(cut_up(&"\u{D7FF}".repeat(17)).unwrap().chars().last(), Some('\u{E000}'));
        assert_eq!(cut_bytes_up(&[0xFF; 17]), None);
        assert_eq!(cut_bytes_up(&[0xFF; 16]).unwrap(), vec![0xFF; 16]);
        let mut bytes = vec![1];
        bytes.extend([0xFF; 20]);
        assert_eq!(cut_bytes_up(&bytes).unwrap(), vec![2]);
    }

    #[test]
    fn uuids_across_the_sign_get_no_bounds() {
        let uuid = |first: u8| Some(Datum::uuid(Uuid::from_bytes([first; 16])));
        assert_eq!(uuid_bounds(uuid(1), uuid(0x7F)), (uuid(1), uuid(0x7F)));
        assert_eq!(uuid_bounds(uuid(1), uuid(0x80)), (None, None));
    }

    proptest! {
        #[test]
        fn cut_bounds_hold(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            prop_assert!(cut(&text) <= text.as_str());
            if let Some(upper) = cut_up(&text) {
                prop_assert!(upper >= text);
                prop_assert!(upper.chars().count() <= BOUND_LEN_MAX);
            }
            if let Some(upper) = cut_bytes_up(&bytes) {
                prop_assert!(upper >= bytes);
            }
        }
    }
}
