//! A strict JSON tokenizer (RFC 8259) over bytes that are known to be UTF-8.
//!
//! Owns: the grammar, the depth limit, positions. Does not own: what values mean. It copies
//! nothing: strings and numbers are ranges of the input. No input can make it panic or recurse.

use std::ops::Range;

use crate::schema::json::number::Number;

/// Deepest nesting that any [`Lexer`] accepts, whatever its limit says.
pub const DEPTH_MAX: u32 = 128;

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It ends too early.
    End,
    /// A byte that the grammar does not allow here.
    Unexpected,
    /// A control character, a bad escape or half a surrogate pair within a string.
    BadString,
    /// A number that breaks the grammar.
    BadNumber,
    /// More open containers than the limit.
    TooDeep,
}

/// A text that is not JSON, or too deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} at byte {at}", self.kind.text())]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Byte position from the start of the value.
    pub at: u32,
}

impl ErrorKind {
    fn text(self) -> &'static str {
        match self {
            Self::End => "unexpected end",
            Self::Unexpected => "unexpected character",
            Self::BadString => "illegal string",
            Self::BadNumber => "illegal number",
            Self::TooDeep => "nested too deep",
        }
    }
}

/// A string token: the range between its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// First byte after the opening quote.
    pub start: usize,
    /// Position of the closing quote.
    pub end: usize,
    /// True if it has an escape: then the range is not the text itself.
    pub escaped: bool,
}

impl Text {
    /// The token with its quotes.
    pub fn quoted(self) -> Range<usize> {
        self.start - 1..self.end + 1
    }
}

/// The tokenizer; a position in a text.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    bytes: &'a [u8],
    pos: usize,
    depth_max: u32,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Marks (in high bits) bytes that end a plain stretch of a string; the lowest mark is exact.
fn special_bytes(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let slash = word ^ (ONES * b'\\' as u64);
    let is_quote = quote.wrapping_sub(ONES) & !quote;
    let is_slash = slash.wrapping_sub(ONES) & !slash;
    let is_control = word.wrapping_sub(ONES * 0x20) & !word;
    (is_quote | is_slash | is_control) & HIGHS
}

impl<'a> Lexer<'a> {
    /// Starts at the first byte of `text`; containers may nest up to `depth_max` (inclusive).
    pub fn new(text: &'a str, depth_max: u32) -> Self {
        Self { bytes: text.as_bytes(), pos: 0, depth_max: depth_max.min(DEPTH_MAX) }
    }

    /// The whole input.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Position of the next byte.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Goes back to a position that [`Lexer::pos`] gave.
    pub fn rewind(&mut self, pos: usize) {
        self.pos = pos;
    }

    /// An error at the current position.
    pub fn error(&self, kind: ErrorKind) -> Error {
        Error { kind, at: u32::try_from(self.pos).unwrap_or(u32::MAX) }
    }

    fn unexpected(&self) -> Error {
        let end = self.pos >= self.bytes.len();
        self.error(if end { ErrorKind::End } else { ErrorKind::Unexpected })
    }

    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    /// Skips white space and gives the next byte without taking it.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = self.byte()?;
            if byte > b' ' || !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.pos += 1;
        }
    }

    /// Skips white space and takes `byte`.
    ///
    /// # Errors
    /// Another byte or the end.
    #[inline]
    pub fn take(&mut self, byte: u8) -> Result<(), Error> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected());
        }
        self.pos += 1;
        Ok(())
    }

    /// Takes `byte` if it comes next.
    #[inline]
    pub fn take_if(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    /// Takes the opening bracket of a container that will be the `depth`-th open one.
    ///
    /// # Errors
    /// Another byte, or a depth above the limit.
    pub fn open(&mut self, bracket: u8, depth: u32) -> Result<(), Error> {
        if depth > self.depth_max {
            return Err(self.error(ErrorKind::TooDeep));
        }
        self.take(bracket)
    }

    /// Takes a comma (true) or the closing `bracket` (false).
    ///
    /// # Errors
    /// Another byte or the end.
    #[inline]
    pub fn more(&mut self, bracket: u8) -> Result<bool, Error> {
        match self.peek() {
            Some(b',') => {
                self.pos += 1;
                Ok(true)
            }
            Some(byte) if byte == bracket => {
                self.pos += 1;
                Ok(false)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Takes a member name and its colon.
    ///
    /// # Errors
    /// Bad grammar.
    #[inline]
    pub fn key(&mut self) -> Result<Text, Error> {
        let key = self.string()?;
        self.take(b':')?;
        Ok(key)
    }

    /// Takes a member name with its colon if it is written as `token`, which starts and ends as
    /// such: `"name":`.
    #[inline]
    pub fn key_if(&mut self, token: &[u8]) -> Option<Text> {
        self.peek();
        let matches = !token.is_empty() && self.bytes[self.pos..].starts_with(token);
        matches.then(|| {
            let start = self.pos + 1;
            self.pos += token.len();
            Text { start, end: self.pos - 2, escaped: false }
        })
    }

    /// Takes a literal: `true`, `false`, `null`.
    ///
    /// # Errors
    /// Another text.
    pub fn literal(&mut self, word: &'static str) -> Result<(), Error> {
        self.peek();
        match self.bytes.get(self.pos..self.pos + word.len()) {
            Some(found) if found == word.as_bytes() => {
                self.pos += word.len();
                Ok(())
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Takes a string; escapes are checked, not replaced.
    ///
    /// # Errors
    /// Bad grammar, or half a surrogate pair, which no UTF-8 text can hold.
    #[inline]
    pub fn string(&mut self) -> Result<Text, Error> {
        self.take(b'"')?;
        let start = self.pos;
        let mut escaped = false;
        loop {
            self.plain();
            match self.byte() {
                Some(b'"') => {
                    let end = self.pos;
                    self.pos += 1;
                    return Ok(Text { start, end, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.error(ErrorKind::BadString)),
                None => return Err(self.error(ErrorKind::End)),
            }
        }
    }

    /// Goes to the next quote, backslash or control character.
    #[inline]
    fn plain(&mut self) {
        while let Some(chunk) = self.bytes.get(self.pos..self.pos + 8) {
            let word = u64::from_le_bytes(chunk.try_into().expect("the chunk has 8 bytes"));
            let marks = special_bytes(word);
            if marks != 0 {
                self.pos += (marks.trailing_zeros() / 8) as usize;
                return;
            }
            self.pos += 8;
        }
        while let Some(byte) = self.byte() {
            if byte == b'"' || byte == b'\\' || byte < 0x20 {
                return;
            }
            self.pos += 1;
        }
    }

    /// Takes one escape, both halves of a surrogate pair included.
    fn escape(&mut self) -> Result<char, Error> {
        self.pos += 1;
        let byte = self.byte().ok_or_else(|| self.error(ErrorKind::End))?;
        self.pos += 1;
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.error(ErrorKind::BadString)),
        };
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, Error> {
        let first = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            if self.bytes.get(self.pos..self.pos + 2) != Some(b"\\u") {
                return Err(self.error(ErrorKind::BadString));
            }
            self.pos += 2;
            let second = self.hex4()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(self.error(ErrorKind::BadString));
            }
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.error(ErrorKind::BadString))
    }

    fn hex4(&mut self) -> Result<u32, Error> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.byte().ok_or_else(|| self.error(ErrorKind::End))?;
            let digit = (byte as char).to_digit(16);
            code = code << 4 | digit.ok_or_else(|| self.error(ErrorKind::BadString))?;
            self.pos += 1;
        }
        Ok(code)
    }

    /// Appends the text of a string token to `out`.
    pub fn unescape(&self, text: Text, out: &mut Vec<u8>) {
        let mut part = Self { bytes: &self.bytes[..text.end], pos: text.start, depth_max: 0 };
        loop {
            let start = part.pos;
            part.plain();
            out.extend_from_slice(&part.bytes[start..part.pos]);
            if part.pos >= text.end {
                return;
            }
            // `string` has checked every escape of this token.
            let Ok(char) = part.escape() else { return };
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    /// Takes a number.
    ///
    /// # Errors
    /// Bad grammar.
    pub fn number(&mut self) -> Result<Number, Error> {
        self.peek();
        match Number::scan(&self.bytes[self.pos..]) {
            Ok((number, length)) => {
                self.pos += length;
                Ok(number)
            }
            Err(length) => {
                self.pos += length;
                let end = self.pos >= self.bytes.len();
                Err(self.error(if end { ErrorKind::End } else { ErrorKind::BadNumber }))
            }
        }
    }

    /// Takes any value, `depth` containers being open around it, and gives its range.
    ///
    /// # Errors
    /// Bad grammar, or more nesting than the limit.
    pub fn skip(&mut self, depth: u32) -> Result<Range<usize>, Error> {
        self.peek();
        let start = self.pos;
        // One bit per open container: 1 for an object. The depth limit keeps it within 128.
        let mut objects = 0_u128;
        let mut open = 0_u32;
        loop {
            let byte = self.peek().ok_or_else(|| self.unexpected())?;
            if byte == b'{' || byte == b'[' {
                self.open(byte, depth + open + 1)?;
                let object = byte == b'{';
                if !self.take_if(if object { b'}' } else { b']' }) {
                    objects = objects << 1 | u128::from(object);
                    open += 1;
                    if object {
                        self.key()?;
                    }
                    continue;
                }
            } else {
                self.scalar(byte)?;
            }
            loop {
                if open == 0 {
                    return Ok(start..self.pos);
                }
                let object = objects & 1 == 1;
                if self.more(if object { b'}' } else { b']' })? {
                    if object {
                        self.key()?;
                    }
                    break;
                }
                objects >>= 1;
                open -= 1;
            }
        }
    }

    fn scalar(&mut self, byte: u8) -> Result<(), Error> {
        match byte {
            b'"' => self.string().map(drop),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            _ => Err(self.unexpected()),
        }
    }

    /// Checks that only white space is left.
    ///
    /// # Errors
    /// Anything else.
    pub fn end(&mut self) -> Result<(), Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(text: &str, depth: u32) -> Result<(), Error> {
        let mut lexer = Lexer::new(text, depth);
        lexer.skip(0)?;
        lexer.end()
    }

    #[test]
    fn grammar_is_strict() {
        for good in
            ["{}", " [1, 2.5e-3 ,\"a\\u00e9\\n\"] ", "-0", "\"\"", "[[],{}]", "1E+2", "null"]
        {
            assert_eq!(accepts(good, 64), Ok(()), "{good}");
        }
        for bad in [
            "",
            " ",
            "{",
            "}",
            "[1,]",
            "{\"a\":}",
            "{\"a\" 1}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "-",
            "nul",
            "truee",
            "\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\n\"",
            "[1 2]",
            "{}x",
            "[}",
            "{\"a\":1,}",
            "NaN",
            "'a'",
            "\u{feff}{}",
            "\"\\u12\"",
            "\u{b}1",
        ] {
            assert!(accepts(bad, 64).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_is_taken_by_its_usual_spelling() {
        let usual = |text| {
            let mut lexer = Lexer::new(text, 1);
            (lexer.key_if(b"\"ab\":"), lexer.pos())
        };
        let text = Text { start: 2, end: 4, escaped: false };
        assert_eq!(usual(" \"ab\":1"), (Some(text), 6));
        for other in ["\"ab\" :1", "\"abc\":1", "\"a\":1", "\"ab", ""] {
            assert_eq!(usual(other), (None, 0), "{other}");
        }
        assert_eq!(Lexer::new("1", 1).key_if(b""), None);
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(accepts(&nested(64), 64), Ok(()));
        let error = accepts(&nested(65), 64).unwrap_err();
        assert_eq!((error.kind, error.at), (ErrorKind::TooDeep, 64));
        assert!(accepts(&"[".repeat(1_000_000), 1_000).is_err());
        assert!(accepts(&nested(128), 1_000).is_ok());
    }

    #[test]
    fn errors_carry_the_byte_position() {
        assert_eq!(
            accepts("{\"a\": x}", 8).unwrap_err().to_string(),
            "unexpected character at byte 6"
        );
        assert_eq!(accepts("[1, 0x]", 8).unwrap_err().at, 5);
        assert_eq!(accepts("\"abc", 8).unwrap_err().kind, ErrorKind::End);
    }

    fn mutated() -> impl Strategy<Value = String> {
        let alphabet = "[]{}:,\"\\u0dD8cCeEnulltruefalse-+.019 \n\té\u{1}bx/";
        prop::collection::vec(prop::sample::select(alphabet.chars().collect::<Vec<_>>()), 0..24)
            .prop_map(|chars| chars.into_iter().collect())
    }

    fn structured() -> impl Strategy<Value = String> {
        (crate::schema::json::tests::any_json(), 0_usize..400, any::<bool>(), "[ ,:\\]}\"0e\\\\]")
            .prop_map(|(value, at, change, with)| {
                let mut text = value.to_string();
                let at = at.min(text.len());
                if change && text.is_char_boundary(at) {
                    text.insert_str(at, &with);
                }
                text
            })
    }

    proptest! {
        #[test]
        fn accepts_what_serde_json_accepts(text in prop_oneof![mutated(), structured()]) {
            let raw = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            let expected = match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => true,
                // A number out of f64's range is JSON all the same. `RawValue` sees that, but lets
                // halves of surrogate pairs pass.
                Err(error) if error.to_string().contains("out of range") => {
                    prop_assume!(!text.to_lowercase().contains("\\ud"));
                    raw
                }
                Err(_) => false,
            };
            prop_assert_eq!(accepts(&text, 64).is_ok(), expected, "{}", text);
        }

        #[test]
        fn strings_unescape_as_serde_json_does(text in "\\PC{0,20}[\"\\\\\n\u{1f600}a]{0,4}\\PC{0,20}") {
            let json = serde_json::to_string(&text).unwrap();
            let mut lexer = Lexer::new(&json, 1);
            let token = lexer.string().unwrap();
            let mut out = Vec::new();
            lexer.unescape(token, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
