//! Reads a request body under limits: length checked before anything is read, memory taken from
//! a budget, decompression capped, an unread rest drained so that the client sees the answer.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use crate::http::problem::Problem;
use crate::runtime::{ByteBudget, BytePermit};

/// How long a request waits for memory before it is told to come back.
const BUDGET_WAIT: Duration = Duration::from_millis(200);
/// Longest pause between two pieces of a body.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest time for a whole body.
const TOTAL_MAX: Duration = Duration::from_secs(25);
/// How long, and how far beyond the limit, the rest of a refused body is read and dropped.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// A share of the memory budget grows by at least this.
const SHARE_STEP_BYTES: usize = 256 << 10;
/// Bytes that are decompressed between two looks at the limits.
const INFLATE_STEP_BYTES: u64 = 64 << 10;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
}

impl Coding {
    /// The one coding of the request.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(Self::Identity) };
        let coding = value.to_str().unwrap_or("?").trim().to_ascii_lowercase();
        match (coding.as_str(), values.next()) {
            ("" | "identity", None) => Ok(Self::Identity),
            ("gzip" | "x-gzip", None) => Ok(Self::Gzip),
            ("deflate", None) => Ok(Self::Deflate),
            ("zstd", None) => Ok(Self::Zstd),
            _ => Err(Problem::new(
                "unsupported_media_type",
                format!("content-encoding {coding:?} is not one of gzip, zstd, deflate"),
            )),
        }
    }
}

/// A decoded body with the memory it holds.
pub(super) struct Decoded {
    pub(super) bytes: Bytes,
    /// Held until the events are durable.
    pub(super) _share: Share,
}

/// The memory that one body holds; it grows with the body and never waits while it holds some.
pub(super) struct Share {
    budget: ByteBudget,
    permits: Vec<BytePermit>,
    bytes: usize,
}

impl Share {
    /// Makes sure that `bytes` are held in all; false if they are not free.
    fn grow_to(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        let step = (bytes - self.bytes).max(SHARE_STEP_BYTES);
        let permit = self.budget.try_acquire(step);
        let grown = permit.is_some();
        self.permits.extend(permit);
        self.bytes += if grown { step } else { 0 };
        grown
    }
}

fn overloaded() -> Problem {
    Problem::new("overloaded", "too many bytes are in flight").retry_after(1)
}

/// Reads and decodes the body of a request.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit_bytes: usize,
    budget: &ByteBudget,
) -> Result<Decoded, Problem> {
    let coding = match Coding::of(headers) {
        Ok(coding) => coding,
        Err(problem) => return Err(refuse(body, limit_bytes, problem).await),
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let declared = declared.and_then(|value| value.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit_bytes) {
        return Err(refuse(body, limit_bytes, too_large(limit_bytes)).await);
    }
    // Where the size is not known the share grows while the body is read and inflated.
    let wanted = declared.unwrap_or(SHARE_STEP_BYTES).min(limit_bytes);
    let Ok(permit) = tokio::time::timeout(BUDGET_WAIT, budget.acquire(wanted)).await else {
        return Err(refuse(body, limit_bytes, overloaded()).await);
    };
    let mut share = Share { budget: budget.clone(), permits: vec![permit], bytes: wanted };
    let collected = collect(body, limit_bytes, declared, &mut share);
    let wire = match tokio::time::timeout(TOTAL_MAX, collected).await {
        Ok(result) => result?,
        Err(_) => {
            return Err(Problem::new("timeout", "the body took longer than 25 seconds").closing());
        }
    };
    if coding == Coding::Identity {
        return Ok(Decoded { bytes: wire, _share: share });
    }
    let inflated = tokio::task::spawn_blocking(move || {
        let bytes = inflate(coding, &wire, limit_bytes, &mut share)?;
        Ok(Decoded { bytes, _share: share })
    });
    inflated.await.unwrap_or_else(|_| Err(Problem::new("internal", "decompression failed")))
}

fn too_large(limit_bytes: usize) -> Problem {
    let detail = format!("the body is larger than http.body.max.bytes = {limit_bytes}");
    Problem::new("too_large", detail)
}

async fn collect(
    body: Body,
    limit: usize,
    declared: Option<usize>,
    share: &mut Share,
) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0).min(limit));
    loop {
        match tokio::time::timeout(IDLE_MAX, stream.next()).await {
            Err(_) => {
                return Err(Problem::new("timeout", "the body stopped for 10 seconds").closing());
            }
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(error))) => {
                let detail = format!("the body ended early: {error}");
                return Err(Problem::new("bad_request", detail).closing());
            }
            Ok(Some(Ok(piece))) => {
                if bytes.len() + piece.len() > limit {
                    let rest = Body::from_stream(stream);
                    return Err(refuse(rest, limit, too_large(limit)).await);
                }
                if !share.grow_to(bytes.len() + piece.len()) {
                    let rest = Body::from_stream(stream);
                    return Err(refuse(rest, limit, overloaded()).await);
                }
                bytes.extend_from_slice(&piece);
            }
        }
    }
}

/// Drops the rest of a body, within bounds, so that the client reads the answer instead of a
/// reset; beyond them the connection is closed.
async fn refuse(body: Body, limit: usize, problem: Problem) -> Problem {
    let mut stream = body.into_data_stream();
    let mut dropped = 0;
    let drain = async {
        while let Some(Ok(piece)) = stream.next().await {
            dropped += piece.len();
            if dropped > limit.saturating_mul(2) {
                return false;
            }
        }
        true
    };
    match tokio::time::timeout(DRAIN_MAX, drain).await {
        Ok(true) => problem,
        _ => problem.closing(),
    }
}

fn inflate(coding: Coding, wire: &[u8], limit: usize, share: &mut Share) -> Result<Bytes, Problem> {
    let mut decoder: Box<dyn Read + '_> = match coding {
        Coding::Identity => Box::new(wire),
        Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(wire)),
        // RFC 9110 means zlib; some clients send a raw stream.
        Coding::Deflate if wire.first().is_some_and(|byte| byte & 0x0f == 8) => {
            Box::new(flate2::read::ZlibDecoder::new(wire))
        }
        Coding::Deflate => Box::new(flate2::read::DeflateDecoder::new(wire)),
        Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(wire).map_err(undecodable)?),
    };
    let mut bytes = Vec::new();
    loop {
        let step = decoder.by_ref().take(INFLATE_STEP_BYTES).read_to_end(&mut bytes);
        if step.map_err(undecodable)? == 0 {
            return Ok(bytes.into());
        }
        if bytes.len() > limit {
            return Err(too_large(limit));
        }
        // The compressed body is held beside what comes out of it.
        if !share.grow_to(wire.len() + bytes.len()) {
            return Err(overloaded());
        }
    }
}

fn undecodable(error: std::io::Error) -> Problem {
    Problem::new("bad_request", format!("the body does not decompress: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn share(capacity_bytes: usize) -> Share {
        Share { budget: ByteBudget::new(capacity_bytes), permits: Vec::new(), bytes: 0 }
    }

    #[test]
    fn what_a_body_grows_to_is_taken_from_the_budget() {
        let body = gzip(&vec![b' '; 4 << 20]);
        let mut small = share(1 << 20);
        let refused = inflate(Coding::Gzip, &body, 16 << 20, &mut small).unwrap_err();
        assert_eq!(refused.code(), "overloaded");
        assert!(small.budget.used_bytes() <= 1 << 20);
        let mut large = share(16 << 20);
        assert_eq!(inflate(Coding::Gzip, &body, 16 << 20, &mut large).unwrap().len(), 4 << 20);
        assert!(large.budget.used_bytes() >= 4 << 20);
        let budget = large.budget.clone();
        drop(large);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_refused_when_it_outgrows_the_budget() {
        let budget = ByteBudget::new(1 << 20);
        let pieces = (0..64).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 64 << 10]));
        let body = Body::from_stream(futures::stream::iter(pieces));
        let refused = read(&HeaderMap::new(), body, 16 << 20, &budget).await.err().unwrap();
        assert_eq!(refused.code(), "overloaded");
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn codings_decode() {
        let text = b"{\"a\":1}".repeat(100);
        assert_eq!(
            inflate(Coding::Gzip, &gzip(&text), 1 << 20, &mut share(8 << 20)).unwrap(),
            text
        );
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        assert_eq!(inflate(Coding::Zstd, &zstd, 1 << 20, &mut share(8 << 20)).unwrap(), text);
        assert_eq!(
            inflate(Coding::Gzip, b"nonsense", 1 << 20, &mut share(8 << 20)).unwrap_err().code(),
            "bad_request"
        );
    }

    #[test]
    fn the_limit_is_that_of_the_body_however_well_it_compresses() {
        let text = b"{\"a\":1}\n".repeat(1 << 20);
        let small = zstd::encode_all(&text[..], 19).unwrap();
        assert!(small.len() * 1_000 < text.len());
        let body = inflate(Coding::Zstd, &small, text.len(), &mut share(16 << 20)).unwrap();
        assert_eq!(body.len(), text.len());
        let refused = inflate(Coding::Zstd, &small, text.len() - 1, &mut share(16 << 20));
        let refused = format!("{:?}", refused.unwrap_err());
        assert!(
            refused.contains(&format!("http.body.max.bytes = {}", text.len() - 1)),
            "{refused}"
        );
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert_eq!(
            inflate(Coding::Gzip, &bomb, 16 << 20, &mut share(64 << 20)).unwrap_err().code(),
            "too_large"
        );
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_with_and_without_its_length() {
        let budget = ByteBudget::new(1 << 20);
        let mut headers = HeaderMap::new();
        let body = || Body::from(vec![b'x'; 2000]);
        assert_eq!(read(&headers, body(), 1000, &budget).await.err().unwrap().code(), "too_large");
        headers.insert(header::CONTENT_LENGTH, 2000.into());
        assert_eq!(read(&headers, body(), 1000, &budget).await.err().unwrap().code(), "too_large");
        assert!(read(&headers, body(), 2000, &budget).await.is_ok());
        assert_eq!(budget.used_bytes(), 0);
    }
}
