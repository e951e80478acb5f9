//! However a body is cut into pieces and compressed, its events are those of the body in one piece.

use std::io::Write;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;

use super::body::{BodyMemory, read};
use super::split::{Form, split};
use super::split_tests;
use crate::http::problem::Problem;

/// More than any body here, so that neither memory nor size is what refuses one.
const LIMIT_BYTES: usize = 4 << 20;
const RATIO_MAX: usize = 100;
const EVENTS_MAX: usize = 10_000;

/// How the bytes of a body are written.
#[derive(Debug, Clone, Copy)]
enum Written {
    Plain,
    Gzip,
    /// Several in a row, as senders append to a body that they have.
    GzipMembers,
    Zlib,
    /// `deflate` without zlib's frame, which some clients send.
    Deflate,
    Zstd,
    ZstdFrames,
}

impl Written {
    const ALL: [Self; 7] = [
        Self::Plain,
        Self::Gzip,
        Self::GzipMembers,
        Self::Zlib,
        Self::Deflate,
        Self::Zstd,
        Self::ZstdFrames,
    ];

    /// `Content-Encoding`.
    fn coding(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Gzip | Self::GzipMembers => Some("gzip"),
            Self::Zlib | Self::Deflate => Some("deflate"),
            Self::Zstd | Self::ZstdFrames => Some("zstd"),
        }
    }

    /// `plain` so written; the cuts are where one member ends.
    fn write(self, plain: &[u8], cuts: &[usize], level: u32) -> Vec<u8> {
        match self {
            Self::Plain => plain.to_vec(),
            Self::Gzip => gzip(plain, level),
            Self::GzipMembers => pieces(plain, cuts).flat_map(|it| gzip(it, level)).collect(),
            Self::Zlib => {
                let level = flate2::Compression::new(level);
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Self::Deflate => {
                let level = flate2::Compression::new(level);
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(plain, 1).unwrap(),
            Self::ZstdFrames => {
                pieces(plain, cuts).flat_map(|it| zstd::encode_all(it, 1).unwrap()).collect()
            }
        }
    }
}

fn gzip(plain: &[u8], level: u32) -> Vec<u8> {
    let level = flate2::Compression::new(level);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// What lies between the cuts, which may be the same: then one piece is empty.
fn pieces<'b>(bytes: &'b [u8], cuts: &[usize]) -> impl Iterator<Item = &'b [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut from = 0;
    ends.into_iter().map(move |end| &bytes[std::mem::replace(&mut from, end)..end])
}

/// How a body comes over the connection.
#[derive(Debug, Clone)]
enum Sent {
    Whole,
    ByteByByte,
    Cut(Vec<Index>),
}

impl Sent {
    fn body(&self, bytes: &[u8]) -> Body {
        let cuts: Vec<usize> = match self {
            Self::Whole => return Body::from(bytes.to_vec()),
            Self::ByteByByte => (1..bytes.len()).collect(),
            Self::Cut(cuts) => cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect(),
        };
        let pieces: Vec<_> = pieces(bytes, &cuts).map(Bytes::copy_from_slice).collect();
        let pieces = pieces.into_iter().map(Ok::<_, std::io::Error>);
        Body::from_stream(futures::stream::iter(pieces))
    }
}

/// What `read` makes of the body, with its length announced or not.
fn read_all(written: Written, wire: &[u8], sent: &Sent, announced: bool) -> Result<Bytes, Problem> {
    let mut headers = HeaderMap::new();
    if let Some(coding) = written.coding() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    if announced {
        headers.insert(header::CONTENT_LENGTH, wire.len().into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let memory = BodyMemory::new(8 * LIMIT_BYTES, RATIO_MAX);
    let decoded = runtime.block_on(read(&headers, sent.body(wire), LIMIT_BYTES, &memory))?;
    Ok(decoded.bytes)
}

/// The events of a body, and where the first one is that is none.
fn events(body: &[u8], form: Form) -> (Vec<Vec<u8>>, Option<usize>) {
    let split = split(body, form, EVENTS_MAX);
    let events = split.events.into_iter().map(|(_, range)| body[range].to_vec()).collect();
    (events, split.errors.first().map(|error| error.offset_bytes))
}

fn event() -> impl Strategy<Value = String> {
    let text = prop_oneof!["[a-z ]{0,12}", "\\PC{0,40}", "[a-z]{200,4000}"];
    let object = (text, any::<i64>()).prop_map(|(text, number)| {
        serde_json::json!({ "text": text, "list": [number, null, { "n": number }] }).to_string()
    });
    prop_oneof![2 => object, 1 => split_tests::text("[ \t\r]{0,3}")]
}

/// A body in one of the forms that senders have, and how it is read.
fn body() -> impl Strategy<Value = (Vec<u8>, Form)> {
    (prop::collection::vec(event(), 0..40), 0..5_u8).prop_map(|(events, form)| match form {
        0 => (format!("[{}]", events.join(", ")).into_bytes(), Form::Json),
        1 => (events.join(" ").into_bytes(), Form::Json),
        2 => ((events.join("\n") + "\n").into_bytes(), Form::Lines),
        // RFC 7464.
        3 => (
            events.iter().map(|it| format!("\u{1e}{it}\n")).collect::<String>().into(),
            Form::Lines,
        ),
        // One of them is no JSON: what was before it, and where it is, is the same too.
        _ => ((events.join("\n") + "\n{\"a\":").into_bytes(), Form::Json),
    })
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        1 => Just(Sent::Whole),
        1 => Just(Sent::ByteByByte),
        4 => prop::collection::vec(any::<Index>(), 0..60).prop_map(Sent::Cut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn pieces_and_codings_change_no_event(
        (plain, form) in body(),
        written in prop::sample::select(&Written::ALL[..]),
        members in prop::collection::vec(0..100_000_usize, 0..5),
        level in 0..=9_u32,
        sent in sent(),
        announced in any::<bool>(),
    ) {
        let wire = written.write(&plain, &members, level);
        let found = read_all(written, &wire, &sent, announced);
        let found = found.map_err(|problem| TestCaseError::fail(format!("{problem:?}")))?;
        prop_assert_eq!(&found[..], &plain[..]);
        prop_assert_eq!(events(&found, form), events(&plain, form));
    }

    /// Of a compressed body that ends early nothing is taken: no event of it, and no end of it, is
    /// known to be the sender's.
    #[test]
    fn a_compressed_body_that_ends_early_is_refused(
        (plain, _) in body(),
        written in prop::sample::select(&Written::ALL[1..]),
        level in 0..=9_u32,
        cut in any::<Index>(),
        sent in sent(),
    ) {
        let wire = written.write(&plain, &[], level);
        let wire = &wire[..1.max(cut.index(wire.len()))];
        let refused = read_all(written, wire, &sent, true);
        prop_assert_eq!(refused.err().map(|problem| problem.code()), Some("bad_request"));
    }
}
