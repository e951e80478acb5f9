//! Protobuf's wire format, as far as the way down to the records needs it: which bytes a member has.
//! Nothing is decoded and nothing is kept, so that a body of many small messages takes no memory.
//! Pure. Source: Protocol Buffers, Encoding.

/// What a member holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'m> {
    /// A number, whatever its width.
    Number(u64),
    /// Text, bytes, a message, or packed numbers.
    Bytes(&'m [u8]),
}

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The members of a message, in their order; after the first malformed one nothing follows.
pub(super) struct Members<'m> {
    rest: &'m [u8],
}

/// Goes through a message.
pub(super) fn members(message: &[u8]) -> Members<'_> {
    Members { rest: message }
}

impl<'m> Members<'m> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, length: usize) -> Option<&'m [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    fn member(&mut self) -> Option<(u32, Value<'m>)> {
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| *tag > 0)?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => Value::Number(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?).into()),
            // Groups are of a version before this protocol's.
            _ => return None,
        };
        Some((tag, value))
    }
}

impl<'m> Iterator for Members<'m> {
    type Item = Result<(u32, Value<'m>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let member = self.member().ok_or(Malformed);
        if member.is_err() {
            self.rest = &[];
        }
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_the_bytes_that_the_encoding_gives_them() {
        let message = [
            &[0x08, 0x96, 0x01][..],
            &[0x11, 1, 0, 0, 0, 0, 0, 0, 0],
            &[0x1a, 2, b'h', b'i'],
            &[0x25, 7, 0, 0, 0],
            &[0x2a, 0],
        ]
        .concat();
        let found: Result<Vec<_>, _> = members(&message).collect();
        let wanted = [
            (1, Value::Number(150)),
            (2, Value::Number(1)),
            (3, Value::Bytes(b"hi")),
            (4, Value::Number(7)),
            (5, Value::Bytes(b"")),
        ];
        assert_eq!(found.unwrap(), wanted);
    }

    #[test]
    fn what_is_cut_or_no_message_is_malformed_once() {
        for bytes in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x11, 1, 2],
            &[0x1a, 3, b'h', b'i'],
            &[0x00, 1],
            &[0x0b, 0x0c],
            &[0xff; 11],
        ] {
            let found: Vec<_> = members(bytes).collect();
            assert_eq!(found, [Err(Malformed)], "{bytes:02x?}");
        }
    }
}
