//! Header, codec and iterator in one step, with buffers that are used again.

use crate::record::RecordError;
use crate::record::codec::{self, CodecError, Decompressor};
use crate::record::header::{BatchHeader, HEADER_BYTES};
use crate::record::iter::RecordIter;

/// Opens batches one after another; keeps its decompression buffer. One per thread or worker.
#[derive(Debug, Default)]
pub struct BatchReader {
    decompressor: Decompressor,
}

impl BatchReader {
    /// With empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The records of the batch at the start of `bytes`. The CRC is not checked: stored bytes
    /// have their own. The body may take at most [`codec::CAP_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`RecordError::Header`] or [`RecordError::Codec`]; the iterator has its own errors.
    pub fn records<'a>(&'a mut self, bytes: &'a [u8]) -> Result<RecordIter<'a>, RecordError> {
        let header = BatchHeader::parse(bytes)?;
        let body = bytes.get(HEADER_BYTES..header.size_bytes()).unwrap_or_default();
        let codec = header.codec().map_err(CodecError::Unknown)?;
        let cap = codec::CAP_BYTES_MAX;
        Ok(RecordIter::new(&header, self.decompressor.decompress(codec, body, cap)?))
    }
}
