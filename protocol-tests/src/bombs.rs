//! Record batches of a few KB that are much larger once they are decompressed.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};

/// The codecs of Kafka, with their number in a batch.
pub const CODECS: &[(&str, i16)] = &[("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)];

/// A piece that is compressed once and repeated.
const PIECE_BYTES: usize = 16 << 20;

/// A batch that says it has one record, and whose body decompresses to `records` and then about
/// `zeros` bytes of nothing.
pub fn batch(codec: i16, records: &[u8], zeros: usize) -> Bytes {
    let body = match codec {
        1 => gzip(records, zeros),
        2 => snappy(records, zeros),
        3 => lz4(records, zeros),
        _ => zstd(records, zeros),
    };
    wrapped(codec, &body, 1)
}

/// A zstd batch of so many records without key and value.
pub fn many_records(count: i32) -> Bytes {
    let records = record(b"").repeat(usize::try_from(count).expect("a count"));
    wrapped(4, &zstd(&records, 0), count)
}

/// A zstd batch of one record with so many headers without name and value: two bytes each.
pub fn many_headers(count: usize) -> Bytes {
    // No attributes, times, key; no value.
    let mut inner = vec![0, 0, 0, 1, 1];
    varint(&mut inner, i64::try_from(count).expect("a count"));
    inner.extend([0, 1].repeat(count));
    let mut record = Vec::new();
    varint(&mut record, inner.len() as i64);
    record.extend_from_slice(&inner);
    wrapped(4, &zstd(&record, 0), 1)
}

/// One record with this value, as it lies in a batch.
pub fn record(value: &[u8]) -> Vec<u8> {
    let mut inner = vec![0, 0, 0, 1];
    varint(&mut inner, value.len() as i64);
    inner.extend_from_slice(value);
    inner.push(0);
    let mut out = Vec::new();
    varint(&mut out, inner.len() as i64);
    out.extend_from_slice(&inner);
    out
}

/// Zigzag, seven bits a byte.
fn varint(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn gzip(records: &[u8], zeros: usize) -> Vec<u8> {
    let member = |bytes: &[u8]| {
        let level = flate2::Compression::best();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
        encoder.write_all(bytes).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    };
    repeated(member(records), member(&vec![0; PIECE_BYTES]), zeros)
}

fn zstd(records: &[u8], zeros: usize) -> Vec<u8> {
    let frame = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).expect("memory takes it");
    repeated(frame(records), frame(&vec![0; PIECE_BYTES]), zeros)
}

/// One frame: readers of LZ4 end with the first.
fn lz4(records: &[u8], zeros: usize) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Independent)
        .block_size(lz4_flex::frame::BlockSize::Max4MB);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(records).expect("memory takes it");
    let piece = vec![0; PIECE_BYTES];
    for _ in 0..zeros.div_ceil(PIECE_BYTES) {
        encoder.write_all(&piece).expect("memory takes it");
    }
    encoder.finish().expect("memory takes it")
}

/// In the blocks of the Java library.
fn snappy(records: &[u8], zeros: usize) -> Vec<u8> {
    let block = |bytes: &[u8]| {
        let data = snap::raw::Encoder::new().compress_vec(bytes).expect("it is small");
        let length = u32::try_from(data.len()).expect("it is small");
        [&length.to_be_bytes(), data.as_slice()].concat()
    };
    let head = [b"\x82SNAPPY\0".as_slice(), &1_u32.to_be_bytes(), &1_u32.to_be_bytes()].concat();
    let head = [head, block(records)].concat();
    repeated(head, block(&vec![0; PIECE_BYTES]), zeros)
}

fn repeated(mut head: Vec<u8>, piece: Vec<u8>, zeros: usize) -> Vec<u8> {
    for _ in 0..zeros.div_ceil(PIECE_BYTES) {
        head.extend_from_slice(&piece);
    }
    head
}

/// A batch of `count` records around a body.
fn wrapped(codec: i16, body: &[u8], count: i32) -> Bytes {
    let mut rest = BytesMut::new();
    rest.put_i16(codec);
    rest.put_i32(count - 1);
    rest.put_i64(1_000);
    rest.put_i64(1_000);
    rest.put_i64(-1);
    rest.put_i16(-1);
    rest.put_i32(-1);
    rest.put_i32(count);
    rest.extend_from_slice(body);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &rest);
    let mut batch = BytesMut::new();
    batch.put_i64(0);
    batch.put_i32(i32::try_from(rest.len() + 9).expect("a bomb is small"));
    batch.put_i32(-1);
    batch.put_u8(2);
    batch.put_u32(u32::try_from(crc).expect("it has 32 bits"));
    batch.extend_from_slice(&rest);
    batch.freeze()
}
