//! Names of certificates as text (RFC 4514), from their DER (X.690). Pure.
//!
//! ```text
//! Name  SEQUENCE OF ( SET OF SEQUENCE { type OBJECT IDENTIFIER, value string } )
//! ```
//!
//! Written as `openssl x509 -nameopt RFC2253` does: the last part first, known types by their short
//! name, others by their number. A value that is no text of a kind that is read here has no text at
//! all: two certificates must not look the same.

use std::fmt::Write;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// Types with the short names of RFC 4514 (section 3) and of OpenSSL.
const TYPES: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// The text of a name, given what is in its outer sequence. None if it is malformed or has a value
/// that is no text.
pub(super) fn text(mut name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !name.is_empty() {
        let (mut set, rest) = element(name, SET)?;
        name = rest;
        let mut part = Vec::new();
        while !set.is_empty() {
            let (pair, rest) = element(set, SEQUENCE)?;
            set = rest;
            part.push(attribute(pair)?);
        }
        parts.push(part.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// What is in an element of this tag, and what follows it.
fn element(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = first(bytes)?;
    (tag == wanted).then_some((content, rest))
}

/// Tag, content and rest. Only short tags and lengths below 64 KiB: a name has no others.
fn first(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, length, rest) = match *bytes {
        [tag, length @ 0..=0x7f, ref rest @ ..] => (tag, usize::from(length), rest),
        [tag, 0x81, length @ 0x80..=0xff, ref rest @ ..] => (tag, usize::from(length), rest),
        [tag, 0x82, high @ 1..=0xff, low, ref rest @ ..] => {
            (tag, usize::from(u16::from_be_bytes([high, low])), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn attribute(pair: &[u8]) -> Option<String> {
    let (kind, value) = element(pair, OBJECT_IDENTIFIER)?;
    let (tag, value, []) = first(value)? else { return None };
    let value = std::str::from_utf8(value).ok()?;
    let is_text = match tag {
        UTF8_STRING => true,
        PRINTABLE_STRING | IA5_STRING => value.is_ascii(),
        _ => false,
    };
    let known = TYPES.iter().find(|(own, _)| *own == kind).map(|(_, name)| (*name).to_owned());
    let name = known.or_else(|| dotted(kind))?;
    is_text.then(|| format!("{name}={}", escaped(value)))
}

/// An object identifier in numbers.
fn dotted(bytes: &[u8]) -> Option<String> {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for byte in bytes {
        arc = arc.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            arcs.push(std::mem::take(&mut arc));
        }
    }
    let first = *arcs.first()?;
    let root = (first / 40).min(2);
    let mut text = format!("{root}.{}", first - 40 * root);
    for arc in &arcs[1..] {
        let _ = write!(text, ".{arc}");
    }
    bytes.last().is_some_and(|byte| byte & 0x80 == 0).then_some(text)
}

/// RFC 4514, section 2.4; control characters in hexadecimal.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        let is_edge =
            (at == 0 && [' ', '#'].contains(&character)) || (at == last && character == ' ');
        if character.is_ascii_control() {
            let _ = write!(text, "\\{:02X}", u32::from(character));
            continue;
        }
        if is_edge || matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = match content.len() {
            length @ 0..0x80 => vec![length as u8],
            length @ 0x80..0x100 => vec![0x81, length as u8],
            length => vec![0x82, (length >> 8) as u8, length as u8],
        };
        [&[tag][..], &length, content].concat()
    }

    fn pair(kind: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        tlv(SEQUENCE, &[tlv(OBJECT_IDENTIFIER, kind), tlv(tag, value)].concat())
    }

    fn name(parts: &[Vec<u8>]) -> Option<String> {
        let sets: Vec<u8> = parts.iter().flat_map(|part| tlv(SET, part)).collect();
        text(&sets)
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];

    #[test]
    fn a_name_is_written_as_rfc_4514_says() {
        let one = |value: &str| name(&[pair(CN, UTF8_STRING, value.as_bytes())]).unwrap();
        let organised =
            [pair(O, PRINTABLE_STRING, b"Example, Inc."), pair(CN, UTF8_STRING, b"shop")];
        assert_eq!(name(&organised).unwrap(), r"CN=shop,O=Example\, Inc.");
        assert_eq!(one("#a b \u{e9}\"+;<>\\ "), "CN=\\#a b \u{e9}\\\"\\+\\;\\<\\>\\\\\\ ");
        assert_eq!(one("a\u{0}b"), r"CN=a\00b");
        assert_eq!(one(""), "CN=");
        let several = [[pair(CN, UTF8_STRING, b"a"), pair(O, UTF8_STRING, b"b")].concat()];
        assert_eq!(name(&several).unwrap(), "CN=a+O=b");
        let other = pair(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d], IA5_STRING, b"x");
        assert_eq!(name(&[other]).unwrap(), "1.2.840.113549=x");
        let long = "x".repeat(300);
        assert_eq!(one(&long), format!("CN={long}"));
        assert_eq!(name(&[]).unwrap(), "");
    }

    #[test]
    fn what_is_malformed_or_no_text_has_no_name() {
        // A BMPString, an IA5String that is none, a type that never ends.
        for bad in [
            pair(CN, 0x1e, b"\0a"),
            pair(CN, IA5_STRING, "\u{e9}".as_bytes()),
            pair(CN, UTF8_STRING, b"\xff"),
            pair(&[0x55, 0x84], UTF8_STRING, b"a"),
            pair(&[], UTF8_STRING, b"a"),
            tlv(SEQUENCE, &tlv(OBJECT_IDENTIFIER, CN)),
            [pair(CN, UTF8_STRING, b"a"), vec![0x30, 0x81]].concat(),
        ] {
            assert_eq!(name(std::slice::from_ref(&bad)), None, "{bad:?}");
        }
        let good = tlv(SET, &pair(CN, UTF8_STRING, b"a"));
        for cut in 1..good.len() {
            assert_eq!(text(&good[..cut]), None, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_two_values_look_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            left in "[ #a,+\\\\=]{0,5}", right in "[ #a,+\\\\=]{0,5}",
        ) {
            let _ = text(&bytes);
            let one = |value: &str| name(&[pair(CN, UTF8_STRING, value.as_bytes())]);
            prop_assert_eq!(one(&left) == one(&right), left == right);
        }
    }
}
