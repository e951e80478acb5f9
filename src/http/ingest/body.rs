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
/// A body may inflate by this factor beyond its first MiB.
const INFLATION_MAX: usize = 100;

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
    pub(super) _permit: BytePermit,
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
    // A compressed body is counted at the size it may grow to; what is not used comes back.
    let wanted = match (coding, declared) {
        (Coding::Identity, Some(length)) => length,
        (_, Some(length)) => length.saturating_mul(8).min(limit_bytes),
        (_, None) => limit_bytes.min(1 << 20),
    };
    let Ok(permit) = tokio::time::timeout(BUDGET_WAIT, budget.acquire(wanted)).await else {
        let problem = Problem::new("overloaded", "too many bytes are in flight").retry_after(1);
        return Err(refuse(body, limit_bytes, problem).await);
    };
    let wire = match tokio::time::timeout(TOTAL_MAX, collect(body, limit_bytes, declared)).await {
        Ok(result) => result?,
        Err(_) => {
            return Err(Problem::new("timeout", "the body took longer than 25 seconds").closing());
        }
    };
    if coding == Coding::Identity {
        return Ok(Decoded { bytes: wire, _permit: permit });
    }
    let decoded = tokio::task::spawn_blocking(move || inflate(coding, &wire, limit_bytes)).await;
    let bytes =
        decoded.unwrap_or_else(|_| Err(Problem::new("internal", "decompression failed")))?;
    Ok(Decoded { bytes, _permit: permit })
}

fn too_large(limit_bytes: usize) -> Problem {
    Problem::new("too_large", format!("the body is larger than {limit_bytes} bytes"))
}

async fn collect(body: Body, limit: usize, declared: Option<usize>) -> Result<Bytes, Problem> {
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

fn inflate(coding: Coding, wire: &[u8], limit: usize) -> Result<Bytes, Problem> {
    let cap = limit.min(wire.len().saturating_mul(INFLATION_MAX).saturating_add(1 << 20));
    let mut bytes = Vec::with_capacity(wire.len().saturating_mul(4).min(cap));
    let limited = cap as u64 + 1;
    let result = match coding {
        Coding::Identity => return Ok(Bytes::copy_from_slice(wire)),
        Coding::Gzip => {
            flate2::read::MultiGzDecoder::new(wire).take(limited).read_to_end(&mut bytes)
        }
        // RFC 9110 means zlib; some clients send a raw stream.
        Coding::Deflate if wire.first().is_some_and(|byte| byte & 0x0f == 8) => {
            flate2::read::ZlibDecoder::new(wire).take(limited).read_to_end(&mut bytes)
        }
        Coding::Deflate => {
            flate2::read::DeflateDecoder::new(wire).take(limited).read_to_end(&mut bytes)
        }
        Coding::Zstd => zstd::stream::read::Decoder::new(wire)
            .and_then(|decoder| decoder.take(limited).read_to_end(&mut bytes)),
    };
    match result {
        Ok(_) if bytes.len() > cap => Err(too_large(cap)),
        Ok(_) => Ok(bytes.into()),
        Err(error) => {
            Err(Problem::new("bad_request", format!("the body does not decompress: {error}")))
        }
    }
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

    #[test]
    fn codings_decode() {
        let text = b"{\"a\":1}".repeat(100);
        assert_eq!(inflate(Coding::Gzip, &gzip(&text), 1 << 20).unwrap(), text);
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        assert_eq!(inflate(Coding::Zstd, &zstd, 1 << 20).unwrap(), text);
        assert_eq!(inflate(Coding::Gzip, b"nonsense", 1 << 20).unwrap_err().code(), "bad_request");
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert_eq!(inflate(Coding::Gzip, &bomb, 16 << 20).unwrap_err().code(), "too_large");
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
