//! Compression of batch bodies. Decompression is capped: a forged body can neither exhaust
//! memory nor time.

use std::io::{self, BufRead, Read, Write};

use lzzzz::lz4f;

use crate::record::snappy;

/// No body decompresses to more, in bytes, whatever its size on the wire: honest data compresses a
/// thousandfold and more. Memory is taken as bytes come out, so a bomb takes no more than it
/// inflates to, and stops here.
pub const CAP_BYTES_MAX: usize = 128 << 20;

/// A buffer larger than this is not kept for the next batch, in bytes.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Levels below 0 look for fewer matches. On JSON this one takes 0.9 of the time of level 0 and 1.02
/// of its bytes.
const LZ4_LEVEL: i32 = -1;

/// Up to this factor, beyond the first MiB, the size that a frame claims is reserved at once. A
/// claim above it may be true, but its memory is taken step by step.
const CLAIM_FACTOR_MAX: usize = 100;

/// How a body is compressed (attribute bits 0 to 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// gzip, several members allowed.
    Gzip = 1,
    /// Snappy, raw or in the framing of xerial's Java library.
    Snappy = 2,
    /// LZ4 frames.
    Lz4 = 3,
    /// Zstandard (KIP-110).
    Zstd = 4,
}

impl Codec {
    /// The codec with that number.
    ///
    /// # Errors
    /// The number, if no codec has it.
    pub fn from_number(number: u8) -> Result<Self, u8> {
        Ok(match number {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            other => return Err(other),
        })
    }

    /// Its name as Kafka's configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Why a body cannot be (de)compressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No codec has this number.
    #[error("compression type {0} is unknown")]
    Unknown(u8),
    /// The body is larger than its cap.
    #[error("the records take more than {cap} bytes when decompressed, the most of one batch")]
    TooLarge {
        /// The cap in bytes.
        cap: usize,
    },
    /// The bytes are not what the codec expects.
    #[error("{codec} data is malformed: {reason}")]
    Malformed {
        /// Name of the codec.
        codec: &'static str,
        /// What its library says.
        reason: String,
    },
}

/// Decompresses one body after another into a buffer of its own.
#[derive(Default)]
pub struct Decompressor {
    buffer: Vec<u8>,
    zstd: Option<zstd::zstd_safe::DCtx<'static>>,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").field("capacity", &self.buffer.capacity()).finish()
    }
}

impl Decompressor {
    /// With an empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The plain bytes of `body`: itself for [`Codec::None`], else borrowed from our buffer.
    ///
    /// # Errors
    /// [`CodecError`]; at most `cap` bytes, and what the codec's window needs, are held.
    pub fn decompress<'a>(
        &'a mut self,
        codec: Codec,
        body: &'a [u8],
        cap: usize,
    ) -> Result<&'a [u8], CodecError> {
        if self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        self.buffer.clear();
        match codec {
            Codec::None if body.len() > cap => return Err(CodecError::TooLarge { cap }),
            Codec::None => return Ok(body),
            Codec::Gzip => {
                self.buffer.reserve(likely_bytes(body, cap));
                read_capped(flate2::bufread::MultiGzDecoder::new(body), &mut self.buffer, cap)
            }
            // The broken header checksum of old Kafka clients exists in formats 0 and 1 only.
            Codec::Lz4 => {
                self.buffer.reserve(likely_bytes(body, cap));
                take_capped(lz4_flex::frame::FrameDecoder::new(body), &mut self.buffer, cap)
            }
            Codec::Snappy => snappy::decompress(body, &mut self.buffer, cap),
            Codec::Zstd => self.zstd(body, cap),
        }
        .map_err(|error| {
            // What came out so far is of no use, and may be as large as the cap.
            self.buffer = Vec::new();
            error.named(codec, cap)
        })?;
        Ok(&self.buffer)
    }

    fn zstd(&mut self, body: &[u8], cap: usize) -> Result<(), Failure> {
        use zstd::zstd_safe;
        let context = self.zstd.get_or_insert_with(zstd_safe::DCtx::create);
        let likely = body.len().saturating_mul(CLAIM_FACTOR_MAX).saturating_add(1 << 20);
        // One pass without a window, if the frame tells its size.
        if let Ok(Some(size)) = zstd_safe::get_frame_content_size(body)
            && let Ok(size) = usize::try_from(size)
            && size <= cap.min(likely)
        {
            self.buffer.reserve(size);
            if context.decompress(&mut self.buffer, body).is_ok() && self.buffer.len() == size {
                return Ok(());
            }
            self.buffer.clear();
        }
        // Several frames, no size, or an error, which this way names.
        let decoder = zstd::stream::read::Decoder::with_context(body, context);
        read_capped(decoder, &mut self.buffer, cap)
    }
}

/// What went wrong, before the codec is named.
#[derive(Debug)]
pub(crate) enum Failure {
    TooLarge,
    Malformed(String),
}

impl Failure {
    fn named(self, codec: Codec, cap: usize) -> CodecError {
        match self {
            Self::TooLarge => CodecError::TooLarge { cap },
            Self::Malformed(reason) => CodecError::Malformed { codec: codec.name(), reason },
        }
    }
}

/// What is reserved for a body that does not tell its size: what records usually shrink by.
fn likely_bytes(body: &[u8], cap: usize) -> usize {
    body.len().saturating_mul(4).min(cap)
}

/// As [`read_capped`], of a reader that holds whole blocks.
fn take_capped(mut reader: impl BufRead, out: &mut Vec<u8>, cap: usize) -> Result<(), Failure> {
    loop {
        let block = reader.fill_buf().map_err(|error| Failure::Malformed(error.to_string()))?;
        let taken = block.len();
        match taken {
            0 => return Ok(()),
            _ if taken > cap - out.len() => return Err(Failure::TooLarge),
            _ => out.extend_from_slice(block),
        }
        reader.consume(taken);
    }
}

fn read_capped(reader: impl Read, out: &mut Vec<u8>, cap: usize) -> Result<(), Failure> {
    let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(out).map_err(|error| Failure::Malformed(error.to_string()))?;
    if out.len() > cap {
        return Err(Failure::TooLarge);
    }
    Ok(())
}

/// Appends the compressed `body` to `out`, for a batch of our own.
///
/// # Errors
/// [`CodecError::Malformed`] when the library fails; `out` is then as it was or longer.
pub fn compress(codec: Codec, body: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    let done = match codec {
        Codec::None => {
            out.extend_from_slice(body);
            Ok(())
        }
        Codec::Gzip => gzip(body, out),
        Codec::Snappy => snappy::compress(body, out),
        Codec::Lz4 => lz4(body, out),
        // Level 3 is the library's default.
        Codec::Zstd => zstd::bulk::compress(body, 3).map(|packed| out.extend_from_slice(&packed)),
    };
    done.map_err(|error| CodecError::Malformed { codec: codec.name(), reason: error.to_string() })
}

fn gzip(body: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    encoder.write_all(body)?;
    encoder.finish().map(drop)
}

fn lz4(body: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    // Java's reader knows independent blocks only. Every reader takes memory for a whole block;
    // Kafka's clients write blocks of 64 KiB.
    let preferences = lz4f::PreferencesBuilder::new()
        .block_size(lz4f::BlockSize::Max64KB)
        .block_mode(lz4f::BlockMode::Independent)
        .compression_level(LZ4_LEVEL)
        .build();
    lz4f::compress_to_vec(body, out, &preferences).map(drop).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
