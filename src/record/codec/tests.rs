use proptest::prelude::*;

use super::*;

const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn packed(codec: Codec, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress(codec, body, &mut out).unwrap();
    out
}

#[test]
fn our_lz4_is_a_frame_of_independent_blocks_of_64_kib_without_checksums_for_java() {
    let body = packed(Codec::Lz4, &b"0123456789abcdef".repeat(20_000));
    // Magic; version 1, independent blocks, nothing else; blocks of at most 64 KiB.
    assert_eq!(body[..6], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40]);
    let first = u32::from_le_bytes(body[7..11].try_into().unwrap());
    assert!(first < 64 << 10, "compressed, and smaller than its block: {first}");
}

#[test]
fn a_bomb_stops_at_its_cap() {
    let zeros = vec![0_u8; 4 << 20];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let body = packed(codec, &zeros);
        let mut decompressor = Decompressor::new();
        let error = decompressor.decompress(codec, &body, (4 << 20) - 1).unwrap_err();
        assert_eq!(error, CodecError::TooLarge { cap: (4 << 20) - 1 }, "{codec:?}");
        assert!(decompressor.buffer.capacity() <= 8 << 20, "{codec:?}");
        assert_eq!(decompressor.decompress(codec, &body, 4 << 20).unwrap(), zeros, "{codec:?}");
    }
}

#[test]
fn a_forged_zstd_size_reserves_no_more_than_the_cap() {
    // A frame header that says 1 GiB, then nothing.
    let mut body = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    body.extend_from_slice(&(1_u64 << 30).to_le_bytes());
    let mut decompressor = Decompressor::new();
    assert!(decompressor.decompress(Codec::Zstd, &body, 1 << 20).is_err());
    assert!(decompressor.buffer.capacity() <= 2 << 20);
    // The cap of a batch is large: a claim within it reserves nothing either.
    body.truncate(5);
    body.extend_from_slice(&(100_u64 << 20).to_le_bytes());
    assert!(decompressor.decompress(Codec::Zstd, &body, CAP_BYTES_MAX).is_err());
    assert!(decompressor.buffer.capacity() <= 2 << 20);
}

#[test]
fn a_forged_snappy_size_is_refused_before_memory_is_taken() {
    // 100 MiB as a varint, then one literal byte.
    let body = [0x80, 0x80, 0x80, 0x32, 0x00, b'x'];
    let mut decompressor = Decompressor::new();
    let error = decompressor.decompress(Codec::Snappy, &body, CAP_BYTES_MAX).unwrap_err();
    assert!(matches!(error, CodecError::Malformed { .. }), "{error}");
    assert_eq!(decompressor.buffer.capacity(), 0);
}

#[test]
fn zstd_streams_without_a_size_and_several_frames_are_read() {
    let one = {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(b"first ").unwrap();
        encoder.finish().unwrap()
    };
    let two = [one.clone(), one].concat();
    let mut decompressor = Decompressor::new();
    assert_eq!(decompressor.decompress(Codec::Zstd, &two, 100).unwrap(), b"first first ");
}

#[test]
fn zstd_frames_with_a_size_and_one_more_are_read_whole() {
    let one = zstd::bulk::compress(b"first ", 1).unwrap();
    let two = [one.clone(), one].concat();
    let mut decompressor = Decompressor::new();
    assert_eq!(decompressor.decompress(Codec::Zstd, &two, 100).unwrap(), b"first first ");
}

#[test]
fn raw_snappy_is_told_from_xerials() {
    let raw = snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap();
    let mut decompressor = Decompressor::new();
    assert_eq!(decompressor.decompress(Codec::Snappy, &raw, 100).unwrap(), b"hello hello hello");
}

#[test]
fn linked_lz4_blocks_are_read() {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Linked)
        .block_size(lz4_flex::frame::BlockSize::Max64KB);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    let plain = b"0123456789abcdef".repeat(20_000);
    encoder.write_all(&plain).unwrap();
    let body = encoder.finish().unwrap();
    let mut decompressor = Decompressor::new();
    assert_eq!(decompressor.decompress(Codec::Lz4, &body, 1 << 20).unwrap(), plain);
}

#[test]
fn data_that_compresses_ten_thousandfold_is_read() {
    let zeros = vec![0_u8; 64 << 20];
    let body = packed(Codec::Zstd, &zeros);
    assert!(body.len() * 5_000 < zeros.len());
    let mut decompressor = Decompressor::new();
    assert_eq!(decompressor.decompress(Codec::Zstd, &body, CAP_BYTES_MAX).unwrap(), zeros);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bodies_survive_every_codec(plain in prop::collection::vec(0..20_u8, 0..100_000)) {
        let mut decompressor = Decompressor::new();
        for codec in ALL {
            let body = packed(codec, &plain);
            prop_assert_eq!(decompressor.decompress(codec, &body, 100_000).unwrap(), &plain[..]);
        }
    }

    #[test]
    fn arbitrary_and_damaged_bodies_never_panic(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        plain in prop::collection::vec(0..4_u8, 1..2_000),
        at in any::<usize>(),
        byte in any::<u8>(),
    ) {
        let mut decompressor = Decompressor::new();
        for codec in ALL {
            let _ = decompressor.decompress(codec, &noise, 10_000);
            let mut body = packed(codec, &plain);
            let at = at % body.len();
            body[at] = byte;
            let _ = decompressor.decompress(codec, &body, 10_000);
            let _ = decompressor.decompress(codec, &body[..at], 10_000);
        }
    }
}
