//! Reads a request body under limits: length checked before anything is read, memory taken from
//! a budget as the bytes come, decompression capped in size and ratio, an unread rest drained so that the client sees
//! the answer.
//!
//! Bodies that are half there could hold the whole budget. So one that makes no progress is closed
//! while others go without, and small bodies, once they are whole, have bytes of their own.

use std::io::Read;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::http::ingest::counts::Bodies;
use crate::http::ingest::event::answer_by;
use crate::http::ingest::senders::{Purse, Senders};
use crate::http::problem::Problem;
use crate::runtime::{ByteBudget, BytePermit, PACE_WINDOW, Pace};

/// How long a request waits for memory before it is told to come back.
const BUDGET_WAIT: Duration = Duration::from_millis(200);
/// Longest pause between two pieces of a body.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest time for a whole body; what is left of 25 seconds is for the log.
const TOTAL_MAX: Duration = Duration::from_secs(20);
/// How long, and how far beyond the limit, the rest of a refused body is read and dropped.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// A body takes no memory from the budget until it is larger than this, or whole.
const SMALL_BYTES: usize = 8 << 10;
/// Small bodies get this share of all memory on top of it.
const SMALL_SHARE: usize = 8;
/// A share of the memory budget grows by at least this.
const SHARE_STEP_BYTES: usize = 256 << 10;
/// A body up to this size may be as many times what was sent as it likes.
const INFLATE_FREE_BYTES: usize = 1 << 20;
/// Bytes that are decompressed between two looks at the limits.
const INFLATE_STEP_BYTES: u64 = 64 << 10;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
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
pub(crate) struct Decoded {
    pub(crate) bytes: Bytes,
    /// How many bytes it had as it was sent.
    pub(crate) sent_bytes: usize,
    /// When the answer must be out at the latest, counted from when the body began.
    pub(crate) until: Instant,
    /// How many bytes it could have had at most.
    pub(crate) limit_bytes: usize,
    /// To be held until the events are in the log.
    pub(crate) share: Share,
}

/// The memory of all bodies; cheap to clone.
#[derive(Clone)]
pub(crate) struct BodyMemory {
    budget: ByteBudget,
    small: ByteBudget,
    /// How many times what was sent a body may be, beyond [`INFLATE_FREE_BYTES`].
    ratio_max: usize,
    senders: Senders,
    measured: Bodies,
}

impl BodyMemory {
    /// `bytes` for all bodies, and a part of it more for small ones. A large one may be `ratio_max`
    /// times what was sent.
    pub(crate) fn new(bytes: usize, ratio_max: usize) -> Self {
        let (budget, small) = (ByteBudget::new(bytes), ByteBudget::new(bytes / SMALL_SHARE));
        let senders = Senders::new(budget.capacity_bytes());
        Self { budget, small, ratio_max, senders, measured: Bodies::new() }
    }

    /// The same; a sender that is known may hold so many of the bytes.
    #[must_use]
    pub(crate) fn with_sender_bytes(self, bytes: usize) -> Self {
        Self { senders: Senders::new(bytes), ..self }
    }

    /// A share that holds nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share::new(self.budget.clone())
    }

    /// The same for a body of this sender.
    pub(crate) fn share_of(&self, sender: u64) -> Share {
        Share { own: Some(self.senders.purse(sender)), ..self.share() }
    }

    /// Bytes that bodies hold.
    pub(crate) fn used_bytes(&self) -> usize {
        self.budget.used_bytes() + self.small.used_bytes()
    }

    /// In how many seconds there is about room again.
    pub(crate) fn back_in_s(&self) -> u64 {
        self.budget.back_in_s()
    }

    /// The share of a body that needed none while it came: it is small, and whole. None if the
    /// memory does not come in time.
    async fn hold_small(&self, bytes: usize) -> Option<Share> {
        let in_time = async {
            tokio::select! {
                biased;
                permit = self.budget.acquire(bytes) => permit,
                permit = self.small.acquire(bytes) => permit,
            }
        };
        let permit = match self.budget.try_acquire(bytes) {
            Some(permit) => permit,
            None => {
                let began = Instant::now();
                let permit = tokio::time::timeout(BUDGET_WAIT, in_time).await.ok();
                self.measured.waited(began);
                permit?
            }
        };
        Some(Share { permits: vec![permit], bytes, ..self.share() })
    }

    /// Holds `bytes` more in `share`, or as much of them as can be free beside what it holds.
    ///
    /// # Errors
    /// `overloaded` if they are not free in time.
    pub(super) async fn hold_more(&self, mut share: Share, bytes: usize) -> Result<Share, Problem> {
        let room = self.budget.capacity_bytes().saturating_sub(share.bytes) / 2;
        if room < SHARE_STEP_BYTES {
            return Ok(share);
        }
        let wanted = share.bytes + bytes.min(room);
        match share.wait_for(wanted, &self.measured).await {
            true => Ok(share),
            false => Err(without(wanted, &share)),
        }
    }
}

/// The memory that one body holds; it grows with the body.
pub(crate) struct Share {
    /// What it holds of what its sender has, where that is known.
    own: Option<Purse>,
    budget: ByteBudget,
    permits: Vec<BytePermit>,
    bytes: usize,
}

impl Share {
    /// A share that holds nothing yet.
    pub(crate) fn new(budget: ByteBudget) -> Self {
        Self { own: None, budget, permits: Vec::new(), bytes: 0 }
    }

    /// The same, counted for the sender of `other` if it is counted for none.
    pub(super) fn or_own(self, other: impl FnOnce() -> Self) -> Self {
        match self.own {
            Some(_) => self,
            None => Self { own: other().own, ..self },
        }
    }

    /// [`Share::grow_to`], but waits a moment for bytes that are not free.
    async fn wait_for(&mut self, bytes: usize, measured: &Bodies) -> bool {
        if self.grow_to(bytes) {
            return true;
        }
        let (step, began) = ((bytes - self.bytes).max(SHARE_STEP_BYTES), Instant::now());
        let in_turn = async {
            if let Some(own) = &mut self.own {
                own.wait_for(self.bytes + step).await;
            }
            self.budget.acquire(step).await
        };
        let permit = tokio::time::timeout(BUDGET_WAIT, in_turn).await.ok();
        measured.waited(began);
        let grown = permit.is_some();
        self.permits.extend(permit);
        self.bytes += if grown { step } else { 0 };
        grown
    }

    /// True if others go without the bytes that this holds.
    fn is_wanted(&self) -> bool {
        let own = self.own.as_ref();
        self.bytes > 0 && (self.budget.is_short() || own.is_some_and(Purse::is_wanted))
    }

    /// Makes sure that `bytes` are held in all; false if they are not free.
    fn grow_to(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        let step = (bytes - self.bytes).max(SHARE_STEP_BYTES);
        if !self.own.as_mut().is_none_or(|own| own.grow_to(self.bytes + step)) {
            return false;
        }
        let permit = self.budget.try_acquire(step);
        let grown = permit.is_some();
        self.permits.extend(permit);
        self.bytes += if grown { step } else { 0 };
        grown
    }
}

fn overloaded(budget: &ByteBudget) -> Problem {
    Problem::new("overloaded", "too many bytes are in flight").retry_after(budget.back_in_s())
}

/// Why a body did not get `bytes` in all.
fn without(bytes: usize, share: &Share) -> Problem {
    match share.own.as_ref().and_then(|own| own.refusal(bytes)) {
        Some((detail, again_s)) => Problem::new("overloaded", detail).retry_after(again_s),
        None => overloaded(&share.budget),
    }
}

/// How many bytes the body of a request has by its headers, as it is sent.
pub(super) fn declared(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads and decodes the body of a request.
pub(crate) fn read<'m>(
    headers: &'m HeaderMap,
    body: Body,
    limit_bytes: usize,
    memory: &'m BodyMemory,
) -> impl Future<Output = Result<Decoded, Problem>> + 'm {
    read_into(headers, body, limit_bytes, (memory, || memory.share()))
}

/// The same; `share` makes what holds it, nothing at first. Most small bodies need none.
pub(crate) async fn read_into(
    headers: &HeaderMap,
    body: Body,
    limit_bytes: usize,
    (memory, share): (&BodyMemory, impl Fn() -> Share),
) -> Result<Decoded, Problem> {
    let until = answer_by();
    let coding = match Coding::of(headers) {
        Ok(coding) => coding,
        Err(problem) => return Err(Box::pin(refuse(headers, body, limit_bytes, problem)).await),
    };
    let declared = declared(headers);
    if declared.is_some_and(|length| length > limit_bytes) {
        let problem = too_large(limit_bytes);
        return Err(Box::pin(refuse(headers, body, limit_bytes, problem)).await);
    }
    let mut stream = body.into_data_stream();
    // Most small bodies came with their heads: no clock is looked at for them.
    let begun = match stream.next().now_or_never().flatten() {
        Some(piece) => piece.map_err(ended_early)?,
        None => Bytes::new(),
    };
    let (wire, taken) = if stream.is_end_stream() && begun.len() <= SMALL_BYTES.min(limit_bytes) {
        (Bytes::copy_from_slice(&begun), None)
    } else {
        let mut share = share();
        let collected = collect(
            (begun, stream),
            limit_bytes,
            declared.unwrap_or(0),
            (&mut share, &memory.measured),
        );
        let late = |_| Problem::new("timeout", "the body took longer than 20 seconds").closing();
        let wire = tokio::time::timeout(TOTAL_MAX, Box::pin(collected)).await.map_err(late)??;
        (wire, Some(share))
    };
    let mut share = match taken {
        Some(taken) if taken.bytes > 0 => taken,
        taken => {
            let held = memory.hold_small(wire.len()).await;
            let held = held.ok_or_else(|| overloaded(&memory.budget))?;
            // Decompressed it may become a large one.
            let inflates = coding != Coding::Identity;
            let own = inflates.then(|| taken.unwrap_or_else(share).own).flatten();
            Share { own, ..held }
        }
    };
    let sent_bytes = wire.len();
    if coding == Coding::Identity {
        memory.measured.came(sent_bytes, sent_bytes);
        return Ok(Decoded { bytes: wire, sent_bytes, until, limit_bytes, share });
    }
    let limits = (limit_bytes, memory.ratio_max);
    let inflated = tokio::task::spawn_blocking(move || {
        let bytes = inflate(coding, &wire, limits, &mut share)?;
        Ok(Decoded { bytes, sent_bytes, until, limit_bytes, share })
    });
    let failed = |_| Err(Problem::new("internal", "decompression failed"));
    let inflated = inflated.await.unwrap_or_else(failed);
    inflated.inspect(|decoded| memory.measured.came(sent_bytes, decoded.bytes.len()))
}

fn ended_early(error: axum::Error) -> Problem {
    Problem::new("bad_request", format!("the body ended early: {error}")).closing()
}

fn too_large(limit_bytes: usize) -> Problem {
    let detail = format!(
        "the body is larger than http.body.max.bytes = {limit_bytes}: send fewer events at once"
    );
    Problem::new("too_large", detail).at_most(limit_bytes)
}

/// The limit was the route's own, not that of the server.
pub(crate) fn over(limit_bytes: usize, problem: Problem) -> Problem {
    let Some(max_bytes) = problem.max_bytes() else { return problem };
    let limit = format!("{} bytes, decompressed", limit_bytes.min(max_bytes));
    problem.detailed(format!("the body is larger than {limit}: send less at once"))
}

/// Reads all of a body, given what came of it already. Memory is not taken by the `declared` length
/// but as the bytes come, so who announces much and sends little holds little; the buffer is made as
/// large as what is held, so that it is not grown, and copied, piece by piece.
async fn collect(
    (begun, mut stream): (Bytes, BodyDataStream),
    limit: usize,
    declared: usize,
    (share, measured): (&mut Share, &Bodies),
) -> Result<Bytes, Problem> {
    let timeout = |detail| Err(Problem::new("timeout", detail).closing());
    let mut begun = Some(begun).filter(|piece| !piece.is_empty());
    let mut bytes = BytesMut::new();
    let (mut last, mut pace, mut moved) = (Instant::now(), Pace::default(), 0);
    loop {
        if pace.is_slow(std::mem::take(&mut moved)) && share.is_wanted() {
            return timeout("the body comes too slowly while others wait for memory");
        }
        let next = match begun.take() {
            Some(piece) => Ok(Some(Ok(piece))),
            None => tokio::time::timeout(PACE_WINDOW, stream.next()).await,
        };
        match next {
            Err(_) if last.elapsed() >= IDLE_MAX => {
                return timeout("the body stopped for 10 seconds");
            }
            Err(_) => {}
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(error))) => return Err(ended_early(error)),
            Ok(Some(Ok(piece))) => {
                if bytes.len() + piece.len() > limit {
                    let rest = Body::from_stream(stream);
                    return Err(drain(rest, limit, too_large(limit)).await);
                }
                let (wanted, began) = (bytes.len() + piece.len(), Instant::now());
                if wanted > SMALL_BYTES && !share.wait_for(wanted, measured).await {
                    drop(bytes);
                    let rest = Body::from_stream(stream);
                    return Err(drain(rest, limit, without(wanted, share)).await);
                }
                if wanted > bytes.capacity() {
                    let whole = declared.min(share.bytes.max(SMALL_BYTES)).max(wanted);
                    bytes.reserve(whole - bytes.len());
                }
                bytes.extend_from_slice(&piece);
                pace.excuse(began.elapsed());
                (last, moved) = (Instant::now(), piece.len());
            }
        }
    }
}

/// Refuses a request whose body was not read. A client that waits to be told to send it
/// (RFC 9110, `Expect`) is answered at once; the body of others is dropped as it comes.
pub(crate) async fn refuse(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    problem: Problem,
) -> Problem {
    if headers.contains_key(header::EXPECT) {
        return problem.closing();
    }
    drain(body, limit, problem).await
}

/// Drops the rest of a body, within bounds, so that the client reads the answer instead of a
/// reset; beyond them the connection is closed.
async fn drain(body: Body, limit: usize, problem: Problem) -> Problem {
    let mut stream = body.into_data_stream();
    let mut dropped = 0;
    let dropping = async {
        while let Some(Ok(piece)) = stream.next().await {
            dropped += piece.len();
            if dropped > limit.saturating_mul(2) {
                return false;
            }
        }
        true
    };
    match tokio::time::timeout(DRAIN_MAX, dropping).await {
        Ok(true) => problem,
        _ => problem.closing(),
    }
}

/// Decompresses the body `wire` to at most `limit` bytes, and, beyond [`INFLATE_FREE_BYTES`], to at
/// most `ratio_max` times its size; what it takes is held in `share`.
pub(crate) fn inflate(
    coding: Coding,
    wire: &[u8],
    (limit, ratio_max): (usize, usize),
    share: &mut Share,
) -> Result<Bytes, Problem> {
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
        if bytes.len() > INFLATE_FREE_BYTES && bytes.len() / ratio_max > wire.len() {
            let detail = format!(
                "the body is more than http.inflation.max = {ratio_max} times what was sent: send it \
                 uncompressed, or in parts of less than 1 MiB"
            );
            return Err(Problem::new("too_large", detail));
        }
        // The compressed body is held beside what comes out of it.
        let held = wire.len() + bytes.len();
        if !share.grow_to(held) {
            return Err(without(held, share));
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

    const RATIO: usize = 100;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Text that compresses as the data of senders does.
    fn text(bytes: usize) -> Vec<u8> {
        let line =
            |at: u64| format!("{{\"id\":{},\"note\":\"much the same each time\"}}\n", at * at);
        (0_u64..).flat_map(|at| line(at).into_bytes()).take(bytes).collect()
    }

    fn share(capacity_bytes: usize) -> Share {
        Share::new(ByteBudget::new(capacity_bytes))
    }

    #[test]
    fn what_a_body_grows_to_is_taken_from_the_budget() {
        let body = gzip(&text(4 << 20));
        let mut small = share(1 << 20);
        let refused = inflate(Coding::Gzip, &body, (16 << 20, RATIO), &mut small).unwrap_err();
        assert_eq!(refused.code(), "overloaded");
        assert!(small.budget.used_bytes() <= 1 << 20);
        let mut large = share(16 << 20);
        assert_eq!(
            inflate(Coding::Gzip, &body, (16 << 20, RATIO), &mut large).unwrap().len(),
            4 << 20
        );
        assert!(large.budget.used_bytes() >= 4 << 20);
        let budget = large.budget.clone();
        drop(large);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_refused_when_it_outgrows_the_budget() {
        let memory = BodyMemory::new(1 << 20, RATIO);
        let pieces = (0..64).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 64 << 10]));
        let body = Body::from_stream(futures::stream::iter(pieces));
        let refused = read(&HeaderMap::new(), body, 16 << 20, &memory).await.err().unwrap();
        assert_eq!(refused.code(), "overloaded");
        assert_eq!(memory.budget.used_bytes(), 0);
    }

    #[test]
    fn codings_decode() {
        let text = b"{\"a\":1}".repeat(100);
        assert_eq!(
            inflate(Coding::Gzip, &gzip(&text), (1 << 20, RATIO), &mut share(8 << 20)).unwrap(),
            text
        );
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        assert_eq!(
            inflate(Coding::Zstd, &zstd, (1 << 20, RATIO), &mut share(8 << 20)).unwrap(),
            text
        );
        assert_eq!(
            inflate(Coding::Gzip, b"nonsense", (1 << 20, RATIO), &mut share(8 << 20))
                .unwrap_err()
                .code(),
            "bad_request"
        );
    }

    #[test]
    fn the_limit_is_that_of_the_body_and_not_of_what_is_sent() {
        let text = text(8 << 20);
        let small = zstd::encode_all(&text[..], 3).unwrap();
        assert!(small.len() * 2 < text.len() && small.len() * RATIO > text.len());
        let body =
            inflate(Coding::Zstd, &small, (text.len(), RATIO), &mut share(16 << 20)).unwrap();
        assert_eq!(body.len(), text.len());
        let refused = inflate(Coding::Zstd, &small, (text.len() - 1, RATIO), &mut share(16 << 20));
        let refused = format!("{:?}", refused.unwrap_err());
        assert!(
            refused.contains(&format!("http.body.max.bytes = {}", text.len() - 1)),
            "{refused}"
        );
    }

    #[test]
    fn a_bomb_stops_at_a_hundred_times_what_was_sent() {
        let bomb = gzip(&vec![b' '; 64 << 20]);
        let mut held = share(64 << 20);
        let refused = inflate(Coding::Gzip, &bomb, (64 << 20, RATIO), &mut held).unwrap_err();
        assert_eq!(refused.code(), "too_large");
        assert!(refused.detail().contains("= 100 times"), "{}", refused.detail());
        assert!(held.budget.used_bytes() < bomb.len() * (RATIO + 1) + (1 << 20));
        // What is small anyway may be as regular as it likes.
        let regular = gzip(&vec![b' '; INFLATE_FREE_BYTES]);
        assert!(regular.len() * RATIO < INFLATE_FREE_BYTES);
        assert!(inflate(Coding::Gzip, &regular, (16 << 20, RATIO), &mut share(64 << 20)).is_ok());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_with_and_without_its_length() {
        let memory = BodyMemory::new(1 << 20, RATIO);
        let mut headers = HeaderMap::new();
        let body = || Body::from(vec![b'x'; 2000]);
        assert_eq!(read(&headers, body(), 1000, &memory).await.err().unwrap().code(), "too_large");
        headers.insert(header::CONTENT_LENGTH, 2000.into());
        assert_eq!(read(&headers, body(), 1000, &memory).await.err().unwrap().code(), "too_large");
        let whole = read(&headers, body(), 2000, &memory).await.unwrap();
        assert_eq!(memory.budget.used_bytes(), 2000, "a small body is counted once it is whole");
        drop(whole);
        assert_eq!(memory.budget.used_bytes(), 0);
    }

    /// A body that begins with `bytes` and never ends.
    fn endless(bytes: usize) -> Body {
        let head = futures::stream::iter([Ok::<_, std::io::Error>(vec![b'x'; bytes])]);
        Body::from_stream(head.chain(futures::stream::pending()))
    }

    #[tokio::test]
    async fn half_a_body_holds_what_came_and_gives_it_up_while_others_go_without() {
        let memory = BodyMemory::new(1 << 20, RATIO);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, (900 << 10).into());
        let silent = read(&headers, endless(1), 16 << 20, &memory);
        assert!(tokio::time::timeout(BUDGET_WAIT, silent).await.is_err());
        assert_eq!(memory.budget.used_bytes(), 0, "announced is not sent");
        let half = read(&headers, endless(800 << 10), 16 << 20, &memory);
        let others = async {
            tokio::time::sleep(BUDGET_WAIT).await;
            let small = read(&HeaderMap::new(), Body::from("{}"), 16 << 20, &memory).await;
            assert!(small.is_ok(), "a small body waits for no half one");
            let large = || read(&headers, Body::from(vec![b'x'; 600 << 10]), 16 << 20, &memory);
            assert_eq!(large().await.err().unwrap().code(), "overloaded");
            let gone = async { while large().await.is_err() {} };
            // It would end for being idle a little later.
            tokio::time::timeout(8 * PACE_WINDOW, gone).await.expect("the half body gives way");
        };
        let (half, ()) = tokio::join!(half, others);
        assert_eq!(half.err().unwrap().code(), "timeout");
    }
}
