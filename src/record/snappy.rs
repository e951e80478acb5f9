//! Snappy as Kafka clients write it: raw, or in blocks with the header of xerial's Java library.

use std::io;

use crate::record::codec::Failure;

/// Header of xerial's framing: magic, then version and compatible version (each i32).
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;

/// Block size of xerial's library; its readers accept any.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// A block holds at most so many times its size: three bytes copy 64 (source: snappy's
/// `format_description.txt`, copy with a 2-byte offset).
const EXPANSION_MAX: usize = 22;

/// Appends the plain bytes of `body` to `out`, at most `cap`.
pub(crate) fn decompress(body: &[u8], out: &mut Vec<u8>, cap: usize) -> Result<(), Failure> {
    let mut decoder = snap::raw::Decoder::new();
    if !body.starts_with(XERIAL_MAGIC) {
        return block(&mut decoder, body, out, cap);
    }
    let cut_off = || Failure::Malformed("a block is cut off".to_owned());
    let mut rest = body.get(XERIAL_HEADER_BYTES..).ok_or_else(cut_off)?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| cut_off())?;
        let data = after.get(..length).ok_or_else(cut_off)?;
        block(&mut decoder, data, out, cap)?;
        rest = &after[length..];
    }
    Ok(())
}

fn block(
    decoder: &mut snap::raw::Decoder,
    data: &[u8],
    out: &mut Vec<u8>,
    cap: usize,
) -> Result<(), Failure> {
    let malformed = |error: snap::Error| Failure::Malformed(error.to_string());
    let size = snap::raw::decompress_len(data).map_err(malformed)?;
    if size > data.len().saturating_mul(EXPANSION_MAX).saturating_add(64) {
        return Err(Failure::Malformed("a block claims more bytes than it can hold".to_owned()));
    }
    let start = out.len();
    let end = start.checked_add(size).filter(|end| *end <= cap).ok_or(Failure::TooLarge)?;
    out.resize(end, 0);
    let written = decoder.decompress(data, &mut out[start..]).map_err(malformed)?;
    out.truncate(start + written);
    Ok(())
}

/// Appends the compressed `body` in xerial's framing, which every client reads.
pub(crate) fn compress(body: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = snap::raw::Encoder::new();
    out.extend_from_slice(XERIAL_MAGIC);
    out.extend_from_slice(&1_i32.to_be_bytes());
    out.extend_from_slice(&1_i32.to_be_bytes());
    for chunk in body.chunks(XERIAL_BLOCK_BYTES) {
        let data = encoder.compress_vec(chunk).map_err(io::Error::other)?;
        let length = i32::try_from(data.len()).map_err(io::Error::other)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&data);
    }
    Ok(())
}
