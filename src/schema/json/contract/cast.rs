//! Which JSON scalar a column takes, and as what. Pure.
//!
//! A value is taken exactly or not at all, but for `float` and `double`, which take any finite
//! number as the nearest they have. Text in a `string` column and containers are the reader's.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::{Rules, Unit};
use crate::schema::columns::Kind;
use crate::schema::json::builders::Data;
use crate::schema::json::number::Number;
use crate::schema::json::temporal;

/// Base64 with or without padding (RFC 4648, section 4).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// First day of the year 1 and last of the year 9999, from 1970 on: what every engine can read.
const DAYS: std::ops::RangeInclusive<i32> = -719_162..=2_932_896;
/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// A scalar as JSON has it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Token<'t> {
    /// The text of a string, without escapes.
    Text(&'t [u8]),
    /// A number as it is written.
    Number(&'t str),
    /// `true` or `false`.
    Boolean(bool),
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Boolean(bool),
    /// int and date
    I32(i32),
    /// long, time, timestamps
    I64(i64),
    F32(f32),
    F64(f64),
    I128(i128),
    /// uuid, fixed and binary
    Bytes(Vec<u8>),
}

/// The cell of a column of `kind`; none if it does not take the value.
pub(super) fn cast(kind: &Kind, rules: Rules, token: Token<'_>) -> Option<Cell> {
    match token {
        Token::Boolean(value) => matches!(kind, Kind::Boolean).then_some(Cell::Boolean(value)),
        Token::Number(text) => number(kind, rules, text),
        Token::Text(text) => {
            let exact = self::text(kind, text);
            exact.or_else(|| rules.lenient.then(|| spelled(kind, rules, text)).flatten())
        }
    }
}

fn number(kind: &Kind, rules: Rules, text: &str) -> Option<Cell> {
    match kind {
        Kind::Boolean if rules.lenient && text == "0" => Some(Cell::Boolean(false)),
        Kind::Boolean if rules.lenient && text == "1" => Some(Cell::Boolean(true)),
        Kind::Int => i32::try_from(integer(text)?).ok().map(Cell::I32),
        Kind::Long => integer(text).map(Cell::I64),
        Kind::Float => text.parse().ok().filter(|value: &f32| value.is_finite()).map(Cell::F32),
        Kind::Double => text.parse().ok().filter(|value: &f64| value.is_finite()).map(Cell::F64),
        Kind::Decimal { precision, scale } => exact(text, *precision, *scale).map(Cell::I128),
        Kind::Timestamp { .. } => epoch(integer(text)?, rules).map(Cell::I64),
        _ => None,
    }
}

/// The unscaled value; the sign of a zero says nothing.
fn exact(text: &str, precision: u32, scale: u32) -> Option<i128> {
    let value = Number::as_decimal(text, precision, scale);
    value.or_else(|| {
        Number::as_decimal(text.strip_prefix('-')?, precision, scale).filter(|v| *v == 0)
    })
}

/// A whole number however it is written: `2`, `2.0`, `2e3`.
fn integer(text: &str) -> Option<i64> {
    let plain = text.parse().ok();
    plain.or_else(|| i64::try_from(exact(text, 19, 0)?).ok())
}

/// Microseconds since 1970.
fn epoch(value: i64, rules: Rules) -> Option<i64> {
    let micros = match rules.unit {
        Unit::Seconds => value.checked_mul(1_000_000)?,
        Unit::Millis => value.checked_mul(1_000)?,
        Unit::Micros => value,
        Unit::Nanos if value % 1_000 == 0 || rules.lenient => value.div_euclid(1_000),
        Unit::Nanos => return None,
    };
    in_bounds(micros)
}

fn in_bounds(micros: i64) -> Option<i64> {
    let day = i32::try_from(micros.div_euclid(DAY_US)).ok()?;
    DAYS.contains(&day).then_some(micros)
}

fn text(kind: &Kind, text: &[u8]) -> Option<Cell> {
    match kind {
        Kind::Date => temporal::date(text).filter(|day| DAYS.contains(day)).map(Cell::I32),
        Kind::Time => temporal::time(text).map(Cell::I64),
        Kind::Timestamp { zoned } => timestamp(text, *zoned).map(Cell::I64),
        Kind::Uuid => temporal::uuid(text).map(|bytes| Cell::Bytes(bytes.to_vec())),
        Kind::Binary => BASE64.decode(text).ok().map(Cell::Bytes),
        Kind::Fixed(width) => {
            let bytes = BASE64.decode(text).ok()?;
            (bytes.len() == usize::from(*width)).then_some(Cell::Bytes(bytes))
        }
        _ => None,
    }
}

/// RFC 3339 text in UTC; where the column has no zone, also without an offset.
fn timestamp(text: &[u8], zoned: bool) -> Option<i64> {
    let local = (!zoned).then(|| temporal::timestamp(text, false)).flatten();
    in_bounds(local.or_else(|| temporal::timestamp(text, true))?)
}

/// Text that spells what the column takes.
fn spelled(kind: &Kind, rules: Rules, text: &[u8]) -> Option<Cell> {
    match (kind, text) {
        (Kind::Boolean, b"true" | b"1") => return Some(Cell::Boolean(true)),
        (Kind::Boolean, b"false" | b"0") => return Some(Cell::Boolean(false)),
        (Kind::Time | Kind::Timestamp { .. }, _) => {
            if let Some(cell) = to_micros(text).and_then(|text| self::text(kind, &text)) {
                return Some(cell);
            }
        }
        _ => {}
    }
    let is_whole = Number::scan(text).is_ok_and(|(_, length)| length == text.len());
    number(kind, rules, std::str::from_utf8(text).ok().filter(|_| is_whole)?)
}

/// The text of a time without what is finer than a microsecond.
fn to_micros(text: &[u8]) -> Option<Vec<u8>> {
    let dot = memchr::memchr(b'.', text)?;
    let digits = text[dot + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (kept, rest) = (&text[..dot + 1 + digits.min(6)], &text[dot + 1 + digits..]);
    Some([kept, rest].concat())
}

/// Appends a cell; false if the column holds others, by a defect.
pub(super) fn push(data: &mut Data, cell: Cell) -> bool {
    match (data, cell) {
        (Data::Boolean(values), Cell::Boolean(value)) => values.append(value),
        (Data::I32(values), Cell::I32(value)) => values.push(value),
        (Data::I64(values), Cell::I64(value)) => values.push(value),
        (Data::F32(values), Cell::F32(value)) => values.push(value),
        (Data::F64(values), Cell::F64(value)) => values.push(value),
        (Data::I128(values), Cell::I128(value)) => values.push(value),
        (Data::Uuid(values) | Data::Fixed(values, _), Cell::Bytes(value)) => values.extend(value),
        (Data::Binary(values), Cell::Bytes(value)) => values.push(&value),
        _ => return false,
    }
    true
}
