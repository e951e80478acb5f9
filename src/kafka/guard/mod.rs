//! The pre-decode guard: walks a request body by its shape and checks every length against the bytes
//! that are left.
//!
//! The envelope decoder reserves memory for an array by its announced length before it reads an
//! element; a forged length of five bytes makes the allocator abort the process. So nothing is
//! decoded before this walk has passed. It must never read a length differently than the decoder
//! does, which the tests prove on every API, version and on mutated requests. Owns no values: it
//! returns only whether the body is sound.

mod shapes;

use kafka_protocol::messages::ApiKey;

use shapes::{Field, Kind, Shape};

/// Elements of all arrays and tagged fields of one request, together. An element takes at most about
/// 200 bytes once decoded, so this bounds what a request may cost beyond its own bytes (20 MB).
pub(crate) const ELEMENTS_MAX: usize = 100_000;

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GuardError {
    /// A value or a length goes past the end.
    #[error("the body ends inside a field")]
    Short,
    /// A length is negative and not null.
    #[error("a length is negative")]
    Negative,
    /// A variable-length integer has more than 32 bits.
    #[error("a variable-length integer is too long")]
    Varint,
    /// More array elements than [`ELEMENTS_MAX`].
    #[error("more than {ELEMENTS_MAX} array elements")]
    Elements,
    /// A tagged field's content does not fill its announced size.
    #[error("a tagged field does not fill its size")]
    Tag,
    /// There is no shape for the API.
    #[error("no shape is known for this api")]
    Unknown,
}

/// Checks the body (the bytes after the request header) of one request; returns how many bytes
/// follow its last field. They are let pass, as Apache Kafka does (`AbstractRequest.parseRequest`
/// does not look): librdkafka 2.16 sends three of them with Metadata 12 for all topics.
///
/// # Errors
/// [`GuardError`] says what does not fit; nothing was allocated.
pub(crate) fn check(api: ApiKey, version: i16, body: &[u8]) -> Result<usize, GuardError> {
    let shape = shapes::shape(api).ok_or(GuardError::Unknown)?;
    let mut walk = Walk {
        rest: body,
        version,
        flexible: version >= shape.flexible_from,
        elements_left: ELEMENTS_MAX,
    };
    walk.message(shape)?;
    Ok(walk.rest.len())
}

/// Skips the tagged fields of a request header; returns how many bytes they take.
pub(crate) fn tagged_fields_len(bytes: &[u8]) -> Result<usize, GuardError> {
    let mut walk = Walk { rest: bytes, version: 0, flexible: true, elements_left: ELEMENTS_MAX };
    walk.tags(&[])?;
    Ok(bytes.len() - walk.rest.len())
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements_left: usize,
}

impl Walk<'_> {
    fn message(&mut self, shape: &Shape) -> Result<(), GuardError> {
        self.fields(shape.fields)?;
        if self.flexible { self.tags(shape.known_tags) } else { Ok(()) }
    }

    fn fields(&mut self, fields: &[Field]) -> Result<(), GuardError> {
        for field in fields {
            if field.since <= self.version && self.version <= field.until {
                self.field(&field.kind)?;
            }
        }
        Ok(())
    }

    fn field(&mut self, kind: &Kind) -> Result<(), GuardError> {
        match kind {
            Kind::Fixed(len) => self.skip(*len),
            Kind::Str => {
                let len = if self.flexible { self.compact_len()? } else { self.len_i16()? };
                self.skip(len)
            }
            Kind::Bytes => {
                let len = if self.flexible { self.compact_len()? } else { self.len_i32()? };
                self.skip(len)
            }
            Kind::Items(item) => {
                for _ in 0..self.count()? {
                    self.field(item)?;
                }
                Ok(())
            }
            Kind::Structs(fields) => {
                for _ in 0..self.count()? {
                    self.fields(fields)?;
                    if self.flexible {
                        self.tags(&[])?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Tagged fields. Those that the decoder knows it reads by their type and not by their size, so
    /// size and content must agree, or the walk and the decoder would part ways.
    fn tags(&mut self, known: &[(u32, Kind)]) -> Result<(), GuardError> {
        let count = self.varint()? as usize;
        self.take_elements(count)?;
        for _ in 0..count {
            let tag = self.varint()?;
            let size = self.varint()? as usize;
            let Some((_, kind)) = known.iter().find(|(number, _)| *number == tag) else {
                self.skip(size)?;
                continue;
            };
            let before = self.rest.len();
            self.field(kind)?;
            if before - self.rest.len() != size {
                return Err(GuardError::Tag);
            }
        }
        Ok(())
    }

    /// The length of an array. Every element takes at least one byte, so more elements than bytes are
    /// a lie whatever follows.
    fn count(&mut self) -> Result<usize, GuardError> {
        let count = if self.flexible { self.compact_len()? } else { self.len_i32()? };
        self.take_elements(count)?;
        Ok(count)
    }

    fn take_elements(&mut self, count: usize) -> Result<(), GuardError> {
        if count > self.rest.len() {
            return Err(GuardError::Short);
        }
        self.elements_left = self.elements_left.checked_sub(count).ok_or(GuardError::Elements)?;
        Ok(())
    }

    fn skip(&mut self, len: usize) -> Result<(), GuardError> {
        self.rest = self.rest.get(len..).ok_or(GuardError::Short)?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], GuardError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(GuardError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// A two-byte length; null counts as empty (whether null is legal the decoder decides).
    fn len_i16(&mut self) -> Result<usize, GuardError> {
        match i16::from_be_bytes(self.take()?) {
            -1 => Ok(0),
            len => usize::try_from(len).map_err(|_| GuardError::Negative),
        }
    }

    fn len_i32(&mut self) -> Result<usize, GuardError> {
        match i32::from_be_bytes(self.take()?) {
            -1 => Ok(0),
            len => usize::try_from(len).map_err(|_| GuardError::Negative),
        }
    }

    /// Length plus one; zero is null.
    fn compact_len(&mut self) -> Result<usize, GuardError> {
        Ok((self.varint()? as usize).saturating_sub(1))
    }

    fn varint(&mut self) -> Result<u32, GuardError> {
        let mut value = 0_u32;
        for index in 0..5 {
            let [byte] = self.take()?;
            // The fifth byte has room for four bits only.
            if index == 4 && byte > 0x0f {
                return Err(GuardError::Varint);
            }
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(GuardError::Varint)
    }
}

#[cfg(test)]
mod tests;
