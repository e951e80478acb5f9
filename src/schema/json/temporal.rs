//! Dates, times, timestamps and UUIDs as JSON strings, exact or refused.
//!
//! Owns: ISO 8601 dates, RFC 3339 times down to a microsecond. Does not own: numbers as time: a
//! number never fits a time column, because nothing says its unit.

const DAY_US: i64 = 86_400_000_000;

/// Days since 1970-01-01 of `YYYY-MM-DD` (proleptic Gregorian).
pub(super) fn date(text: &[u8]) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else {
        return None;
    };
    let year = digits(&[*y1, *y2, *y3, *y4])?;
    let (month, day) = (digits(&[*m1, *m2])?, digits(&[*d1, *d2])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) {
        return None;
    }
    // Howard Hinnant's days_from_civil, for years from 0.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    i32::try_from(days).ok()
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
    })
}

/// Microseconds since midnight of `HH:MM:SS[.fraction]`; a fraction finer than a microsecond
/// and a leap second do not fit.
pub(super) fn time(text: &[u8]) -> Option<i64> {
    let [h1, h2, b':', m1, m2, b':', s1, s2, fraction @ ..] = text else {
        return None;
    };
    let (hour, minute) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
    let second = digits(&[*s1, *s2])?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', fraction @ ..] if !fraction.is_empty() => {
            let (kept, cut) = fraction.split_at(fraction.len().min(6));
            if cut.iter().any(|byte| *byte != b'0') {
                return None;
            }
            digits(kept)? * 10_i64.pow(6 - kept.len() as u32)
        }
        _ => return None,
    };
    Some(((hour * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

/// Microseconds since the epoch of an RFC 3339 text, in UTC if `zoned`. Zoned columns need an
/// offset in the text, others must have none: anything else would be a guess.
pub(super) fn timestamp(text: &[u8], zoned: bool) -> Option<i64> {
    let (day, rest) = (date(text.get(..10)?)?, &text[10..]);
    let (b'T' | b't' | b' ', rest) = rest.split_first().map(|(b, rest)| (*b, rest))? else {
        return None;
    };
    let (clock, offset) = if zoned { offset(rest)? } else { (rest, 0) };
    Some(i64::from(day) * DAY_US + time(clock)? - offset)
}

/// Splits the offset off, in microseconds east of UTC.
fn offset(text: &[u8]) -> Option<(&[u8], i64)> {
    if let [clock @ .., b'Z' | b'z'] = text {
        return Some((clock, 0));
    }
    let [clock @ .., sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = text else {
        return None;
    };
    let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let micros = (hours * 60 + minutes) * 60_000_000;
    Some((clock, if *sign == b'-' { -micros } else { micros }))
}

/// The bytes of a UUID with dashes.
pub(super) fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    Some(uuid::Uuid::try_parse(text).ok()?.into_bytes())
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, NaiveDate};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_exact_times_fit() {
        assert_eq!(date(b"1970-01-01"), Some(0));
        assert_eq!(date(b"2024-02-29"), Some(19_782));
        for bad in ["2023-02-29", "2024-13-01", "2024-00-01", "2024-1-1", "24-01-01", "2024-01-01 "]
        {
            assert_eq!(date(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(time(b"00:00:01.5"), Some(1_500_000));
        assert_eq!(time(b"00:00:00.0000010"), Some(1));
        for bad in ["24:00:00", "00:00:60", "00:00:00.", "00:00:00.0000001", "00:00", "0:00:00"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(timestamp(b"1970-01-01T02:00:00+02:00", true), Some(0));
        assert_eq!(timestamp(b"1970-01-01 00:00:00.25Z", true), Some(250_000));
        assert_eq!(timestamp(b"1970-01-01T00:00:01", false), Some(1_000_000));
        assert_eq!(timestamp(b"1970-01-01T00:00:00", true), None);
        assert_eq!(timestamp(b"1970-01-01T00:00:00Z", false), None);
        assert_eq!(timestamp(b"1970-01-01", true), None);
        assert_eq!(timestamp("1970-01-0é".as_bytes(), true), None);
    }

    #[test]
    fn uuids_need_their_dashes() {
        let text = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert!(uuid(text.as_bytes()).is_some());
        assert_eq!(uuid(text.replace('-', "").as_bytes()), None);
    }

    proptest! {
        #[test]
        fn agrees_with_chrono(
            days in -719_528_i32..2_932_896, micros in 0..DAY_US, east in -1_439_i32..1_439,
        ) {
            let day = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap()
                + chrono::Duration::days(i64::from(days));
            prop_assert_eq!(date(day.format("%Y-%m-%d").to_string().as_bytes()), Some(days));
            let total = i64::from(days) * DAY_US + micros;
            let zone = chrono::FixedOffset::east_opt(east * 60).unwrap();
            let text = DateTime::from_timestamp_micros(total).unwrap().with_timezone(&zone);
            let text = text.to_rfc3339();
            prop_assume!(text.as_bytes()[0].is_ascii_digit() && text.as_bytes()[4] == b'-');
            prop_assert_eq!(timestamp(text.as_bytes(), true), Some(total), "{}", text);
        }
    }
}
