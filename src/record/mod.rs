//! Kafka record batches: the 61-byte header view, the lazy record iterator, capped codecs, the
//! batch builder. Pure functions over bytes; no byte can panic or allocate without bound.
//!
//! Owns: the layout of a batch of message format 2 (source: `DefaultRecordBatch`,
//! `DefaultRecord`, KIP-98). Does not own: where batches are stored (`wal`), which offsets they
//! get (`log`), what values mean (`schema`).

pub mod batch;
pub mod codec;
pub mod header;
pub mod iter;
mod reader;
mod snappy;
mod varint;

pub use batch::{BatchBuilder, NewRecord};
pub use codec::{Codec, CodecError, Decompressor};
pub use header::{BatchHeader, ProduceRefusal, ProduceRules, TimestampBounds, check_produced};
pub use iter::{Headers, Record, RecordIter};
pub use reader::BatchReader;

/// Why the records of a batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The 61-byte header is cut off, of another format, or disagrees with the bytes.
    #[error(transparent)]
    Header(#[from] header::HeaderError),
    /// The body does not decompress within its cap.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A record is cut off or a length in it is wrong.
    #[error("record {index} of the batch is malformed: {reason}")]
    Malformed {
        /// Position in the batch, from 0.
        index: i32,
        /// Which field.
        reason: &'static str,
    },
    /// A record is larger than the reader allows.
    #[error("record {index} of the batch has {bytes} bytes, allowed are {limit}")]
    TooLarge {
        /// Position in the batch, from 0.
        index: i32,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Bytes follow the last record.
    #[error("{bytes} bytes follow the last record of the batch")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}
