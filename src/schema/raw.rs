//! The raw mode: a record's value as it is.
//!
//! Owns: the column `value`. Does not own: the key, which the system column has.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::LargeBinaryBuilder;

use crate::schema::evolve::{NewColumn, NewType};

/// The column of a raw table beside the system column.
pub const VALUE: &str = "value";

/// The columns of a raw table beside the system column.
pub fn columns() -> Vec<NewColumn> {
    vec![NewColumn { parent: None, name: VALUE.to_owned(), ty: NewType::Binary, doc: None }]
}

/// Gathers values.
#[derive(Debug, Default)]
pub struct RawDecoder {
    values: LargeBinaryBuilder,
    rows: usize,
    bytes: usize,
}

impl RawDecoder {
    /// Starts with no row.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the value of the next record, null or not; every value is a row.
    pub fn push(&mut self, value: Option<&[u8]>) {
        self.values.append_option(value);
        self.rows += 1;
        self.bytes += value.map_or(0, <[u8]>::len) + 8;
    }

    /// Rows since the last flush.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes they hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the rows as a `LargeBinary` array.
    pub fn flush(&mut self) -> ArrayRef {
        (self.rows, self.bytes) = (0, 0);
        let array = self.values.finish();
        Arc::new(array)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;

    use super::*;

    #[test]
    fn null_and_empty_values_stay_apart() {
        let mut decoder = RawDecoder::new();
        for value in [Some(&b"\xff\0"[..]), None, Some(b"")] {
            decoder.push(value);
        }
        let array = decoder.flush();
        let array = array.as_binary::<i64>();
        assert_eq!(array.iter().collect::<Vec<_>>(), [Some(&b"\xff\0"[..]), None, Some(b"")]);
        assert_eq!((decoder.rows(), decoder.bytes()), (0, 0));
    }
}
