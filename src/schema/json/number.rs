//! JSON numbers without rounding: a number is its digits; it becomes a machine number only if
//! that number's own shortest text says the same.
//!
//! Owns: the number grammar and the exactness rules. Does not own: which column it goes to.

/// A scanned number. The value is `±mantissa × 10^exponent` unless [`Number::big`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// It starts with a minus.
    pub negative: bool,
    /// It has neither fraction nor exponent.
    pub integer: bool,
    /// More than 19 significant digits: `mantissa` holds only the first 19.
    pub big: bool,
    /// Significant digits, leading zeros not counted, trailing ones counted.
    pub digits: u32,
    /// The digits as a number.
    pub mantissa: u64,
    /// Power of ten, saturated at ±1,000,000.
    pub exponent: i32,
}

const EXPONENT_LIMIT: i32 = 1_000_000;

/// Powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

impl Number {
    /// Scans a number at the start of `bytes`; gives it with its length in bytes.
    ///
    /// # Errors
    /// The position of the first byte that breaks the grammar.
    pub fn scan(bytes: &[u8]) -> Result<(Self, usize), usize> {
        let mut number = Self {
            negative: bytes.first() == Some(&b'-'),
            integer: true,
            big: false,
            digits: 0,
            mantissa: 0,
            exponent: 0,
        };
        let mut at = usize::from(number.negative);
        match bytes.get(at) {
            Some(b'0') => at += 1,
            Some(b'1'..=b'9') => at = number.digits_at(bytes, at, 0),
            _ => return Err(at),
        }
        if bytes.get(at) == Some(&b'.') {
            number.integer = false;
            let start = at + 1;
            at = number.digits_at(bytes, start, -1);
            if at == start {
                return Err(at);
            }
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            number.integer = false;
            at = number.exponent_at(bytes, at + 1)?;
        }
        Ok((number, at))
    }

    /// Takes digits; `step` is what each adds to the exponent.
    #[inline]
    fn digits_at(&mut self, bytes: &[u8], mut at: usize, step: i32) -> usize {
        while let Some(byte) = bytes.get(at) {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            if self.digits < 19 {
                self.mantissa = self.mantissa * 10 + u64::from(digit);
                self.digits += u32::from(self.mantissa != 0);
                self.exponent = (self.exponent + step).max(-EXPONENT_LIMIT);
            } else {
                self.big = true;
                self.digits = self.digits.saturating_add(1);
                self.exponent = (self.exponent + step + 1).min(EXPONENT_LIMIT);
            }
            at += 1;
        }
        at
    }

    fn exponent_at(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, usize> {
        let minus = bytes.get(at) == Some(&b'-');
        at += usize::from(minus || bytes.get(at) == Some(&b'+'));
        let start = at;
        let mut value = 0_i32;
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            value = (value * 10 + i32::from(digit - b'0')).min(EXPONENT_LIMIT);
            at += 1;
        }
        if at == start {
            return Err(at);
        }
        let value = if minus { -value } else { value };
        self.exponent = (self.exponent + value).clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT);
        Ok(at)
    }

    /// The number as a long: an integer by its spelling, in range, not `-0`.
    #[inline]
    pub fn as_i64(&self) -> Option<i64> {
        if !self.integer || self.big || (self.negative && self.mantissa == 0) {
            return None;
        }
        if self.negative {
            0_i64.checked_sub_unsigned(self.mantissa)
        } else {
            i64::try_from(self.mantissa).ok()
        }
    }

    /// The number as a double if the double's shortest text is the same number; `text` is the
    /// number as written. 0.1 and 9007199254740992 pass, 9007199254740993 and 1e999 do not.
    #[inline]
    pub fn as_f64(&self, text: &str) -> Option<f64> {
        let sign = if self.negative { -1.0 } else { 1.0 };
        if self.mantissa == 0 && !self.big {
            return Some(sign * 0.0);
        }
        if self.digits <= 15
            && let Some(power) = POWERS.get(self.exponent.unsigned_abs() as usize)
        {
            // Both operands are exact, so the one operation rounds correctly (Clinger 1990).
            let whole = self.mantissa as f64;
            let value = if self.exponent < 0 { whole / power } else { whole * power };
            return Some(sign * value);
        }
        let value: f64 = text.parse().ok()?;
        if !value.is_finite() {
            return None;
        }
        // Up to 15 digits survive the way through a normal double and back.
        let known = self.digits <= 15 && value.is_normal();
        (known || self.is_shortest(text, value)).then_some(value)
    }

    /// True if the number is a shortest text of `value`. Where two are equally near, printers
    /// choose differently: both count.
    fn is_shortest(&self, text: &str, value: f64) -> bool {
        let mut buffer = ryu::Buffer::new();
        let shortest = buffer.format_finite(value);
        let near = match Self::scan(shortest.as_bytes()) {
            Ok((other, _)) if !self.big && !other.big => self.reduced() == other.reduced(),
            _ => same_decimal(text, shortest),
        };
        near || same_decimal(text, &format!("{value:e}"))
    }

    /// Sign, digits and exponent without zeros at the end; not for big numbers.
    fn reduced(&self) -> (bool, u64, i32) {
        let (mut mantissa, mut exponent) = (self.mantissa, self.exponent);
        while mantissa != 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        (self.negative, mantissa, exponent)
    }

    /// The same for a float.
    pub fn as_f32(&self, text: &str) -> Option<f32> {
        let value: f32 = text.parse().ok()?;
        let same = value.is_finite() && same_decimal(text, ryu::Buffer::new().format_finite(value));
        same.then_some(value)
    }

    /// The unscaled value of a decimal with that precision and scale, if it holds the number
    /// exactly.
    pub fn as_decimal(text: &str, precision: u32, scale: u32) -> Option<i128> {
        let (negative, digits, exponent) = decompose(text);
        let zeros = exponent + i64::from(scale);
        if digits.is_empty() {
            return (!negative).then_some(0);
        }
        if zeros < 0 || digits.len() as i64 + zeros > i64::from(precision.min(38)) {
            return None;
        }
        let mut value = 0_i128;
        for digit in digits.iter().copied().chain((0..zeros).map(|_| b'0')) {
            value = value * 10 + i128::from(digit - b'0');
        }
        Some(if negative { -value } else { value })
    }
}

/// Sign, digits without zeros at either end, and the power of ten of the last digit.
fn decompose(text: &str) -> (bool, Vec<u8>, i64) {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (base, power) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let limit = i64::from(EXPONENT_LIMIT) * 1_000;
    let overflow = if power.starts_with('-') { -limit } else { limit };
    let power: i64 = power.parse().unwrap_or(overflow).clamp(-limit, limit);
    let (whole, fraction) = base.split_once('.').unwrap_or((base, ""));
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let mut exponent = power - fraction.len() as i64;
    while digits.last() == Some(&b'0') {
        digits.pop();
        exponent += 1;
    }
    let lead = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..lead);
    (negative, digits, exponent)
}

/// True if two JSON numbers are the same number, minus zero being another than zero.
pub fn same_decimal(a: &str, b: &str) -> bool {
    let (a_negative, a_digits, a_exponent) = decompose(a);
    let (b_negative, b_digits, b_exponent) = decompose(b);
    a_negative == b_negative
        && a_digits == b_digits
        && (a_exponent == b_exponent || a_digits.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(text: &str) -> Number {
        let (number, length) = Number::scan(text.as_bytes()).unwrap();
        assert_eq!(length, text.len(), "{text}");
        number
    }

    #[test]
    fn only_exact_longs_are_longs() {
        for (text, value) in [
            ("0", Some(0)),
            ("-0", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("-9223372036854775809", None),
            ("18446744073709551615", None),
            ("123456789012345678901234567890", None),
            ("1.0", None),
            ("1e3", None),
        ] {
            assert_eq!(scan(text).as_i64(), value, "{text}");
        }
    }

    #[test]
    fn only_exact_doubles_are_doubles() {
        for good in [
            "0",
            "-0",
            "0.1",
            "1.50",
            "-2.5e-3",
            "9007199254740992",
            "0.30000000000000004",
            "1e300",
            "5e-324",
            "1.7976931348623157e308",
            "100000000000000000000000",
            "0.000",
            "1e22",
            "1e23",
        ] {
            assert_eq!(scan(good).as_f64(good), Some(good.parse().unwrap()), "{good}");
        }
        for bad in [
            "9007199254740993",
            "0.1000000000000000055511151231257827",
            "1e999",
            "1e-999",
            "18446744073709551617",
            "1.00000000000000000001",
            "4e-324",
            "1e99999999999999999999",
        ] {
            assert_eq!(scan(bad).as_f64(bad), None, "{bad}");
        }
        assert_eq!(scan("0.1").as_f32("0.1"), Some(0.1));
        assert_eq!(scan("16777217").as_f32("16777217"), None);
    }

    #[test]
    fn either_shortest_text_of_a_tie_is_exact() {
        for text in ["25289381750619.312", "25289381750619.313"] {
            assert!(scan(text).as_f64(text).is_some(), "{text}");
        }
        assert_eq!(scan("25289381750619.314").as_f64("25289381750619.314"), None);
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        for (text, precision, scale, value) in [
            ("1.25", 5, 2, Some(125)),
            ("1.250", 5, 2, Some(125)),
            ("1.239", 10, 2, None),
            ("-7", 3, 2, Some(-700)),
            ("10", 3, 2, None),
            ("1e2", 5, 2, Some(10_000)),
            ("0.00", 3, 2, Some(0)),
            ("1e40", 38, 0, None),
            ("99999999999999999999999999999999999999", 38, 0, Some(10_i128.pow(38) - 1)),
        ] {
            assert_eq!(Number::as_decimal(text, precision, scale), value, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_double_survives_its_own_text(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            for text in [format!("{value:?}"), ryu::Buffer::new().format_finite(value).to_owned()] {
                let found = scan(&text).as_f64(&text).unwrap();
                prop_assert_eq!(found.to_bits(), bits, "{}", text);
            }
        }

        #[test]
        fn an_accepted_double_says_the_same_number(
            text in "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,18})?(e-?[0-9]{1,3})?",
        ) {
            if let Some(value) = scan(&text).as_f64(&text) {
                prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
                prop_assert!(scan(&text).is_shortest(&text, value), "{}", text);
            }
        }
    }
}
