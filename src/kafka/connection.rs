//! One connection: frames in, answers out, strictly in request order.
//!
//! Two stages, so that the order of appends is that of arrival while many requests wait for the disk
//! at once (KIP-98 needs both with several requests in flight). The reader takes one frame, takes
//! memory for it, runs its first stage (decode, check, queue the append) and puts the rest of the
//! request, a future, into a bounded queue; then it reads on. The writer resolves the queue in order
//! and writes. Work whose order does not matter runs when its turn comes, as in Apache Kafka.
//!
//! Owns: buffers, limits, time-outs. Does not own: what a request means (see [`Dispatch`]).

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::kafka::codec::ResponseFrame;
use crate::kafka::fault::Fault;
use crate::kafka::memory::{FrameMemory, Share};
use crate::kafka::options::Options;
use crate::kafka::sasl;
use crate::runtime::{ByteBudget, BytePermit, PACE_WINDOW, Pace};

/// The second stage of a request. It resolves to no frame where the protocol has no answer (acks=0).
pub(crate) type Reply =
    Pin<Box<dyn Future<Output = Result<Option<ResponseFrame>, Fault>> + Send + 'static>>;

/// What the first stage leaves behind.
pub(crate) struct Stage2 {
    /// The rest of the request.
    pub(crate) reply: Reply,
    /// True if it waits for the client's own time-out (a long poll) and holds nothing of the frame:
    /// its share of the request budget goes back at once, or sleeping consumers would starve others.
    pub(crate) parks: bool,
}

/// What a client may do before its next frame is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It said who it is, or need not.
    Known,
    /// It must say who it is first: its frames are small, and it does not think for long.
    Stranger,
    /// It could not: the connection ends with the answers that are under way.
    Refused,
}

/// Turns a frame into its second stage. The first stage, the call itself, may wait only for what
/// progresses without this connection, or it would hold back its own answers.
pub(crate) trait Dispatch: Sync {
    /// Runs the first stage of the request in `frame` (the bytes after its size).
    fn dispatch(&self, frame: Bytes) -> impl Future<Output = Result<Stage2, Fault>> + Send;

    /// What the client may do, as of the last first stage.
    fn standing(&self) -> Standing {
        Standing::Known
    }
}

/// Bytes asked from the socket while the size of the next frame is not known.
const READ_CHUNK_BYTES: usize = 8 << 10;

/// Bytes asked for at most in one read of a frame.
const READ_STEP_BYTES_MAX: usize = 256 << 10;

/// A frame up to this size gets its room at once when its first bytes are there, so that it is not
/// copied from buffer to buffer as it grows. Room that nothing was written to costs no memory.
const ROOM_BYTES_MAX: usize = 1 << 20;

/// Answers that are ready are written together up to this size.
const GATHER_BYTES_MAX: usize = 256 << 10;

/// A client that must say who it is has this long for its next frame.
const STRANGER_IDLE_MAX: Duration = Duration::from_secs(30);

/// Pieces of one `writev`; Linux takes at most 1,024.
const SLICES_MAX: usize = 64;

struct Pending {
    reply: Reply,
    /// Memory of the request frame, held until its answer is made.
    _permits: Option<(BytePermit, Share)>,
}

/// What a connection needs besides its socket.
pub(crate) struct Shared<'a> {
    /// Limits.
    pub(crate) options: &'a Options,
    /// Bytes of request frames of all connections.
    pub(crate) requests: &'a FrameMemory,
    /// Bytes of answers of all connections.
    pub(crate) answers: &'a ByteBudget,
    /// Fires when the server stops.
    pub(crate) stop: &'a CancellationToken,
    /// Fired by the connection when no more requests will come: long polls answer at once.
    pub(crate) closing: &'a CancellationToken,
}

/// Serves one connection until the client leaves, the server stops, or a fault. Requests in flight
/// at a fault go unanswered, and clients retry them.
///
/// # Errors
/// [`Fault`]: why the connection must be closed.
pub(crate) async fn serve(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    dispatch: &impl Dispatch,
    shared: &Shared<'_>,
) -> Result<(), Fault> {
    let (sender, receiver) = mpsc::channel(shared.options.in_flight_requests_max.max(1));
    let in_flight = AtomicUsize::new(0);
    let read = read_requests(reader, dispatch, shared, sender, &in_flight);
    let write = write_responses(writer, shared, receiver, &in_flight);
    tokio::pin!(read, write);
    let whole = async {
        tokio::select! {
            // The writer ends first only by a fault: its queue stays open while the reader lives.
            written = &mut write => return written,
            end = &mut read => end?,
        }
        shared.closing.cancel();
        timeout(shared.options.drain_timeout, write)
            .await
            .unwrap_or(Err(Fault::Stalled("the last answer")))
    };
    let cut = async {
        shared.stop.cancelled().await;
        tokio::time::sleep(shared.options.stop_timeout).await;
    };
    tokio::select! {
        end = whole => end,
        // The client does not read its answers, or waits for many: it asks again elsewhere.
        () = cut => Ok(()),
    }
}

async fn read_requests(
    mut reader: impl AsyncRead + Unpin,
    dispatch: &impl Dispatch,
    shared: &Shared<'_>,
    sender: mpsc::Sender<Pending>,
    in_flight: &AtomicUsize,
) -> Result<(), Fault> {
    let own = ByteBudget::new(shared.options.in_flight_bytes_max);
    let mut buffer = BytesMut::new();
    loop {
        let limits = match dispatch.standing() {
            Standing::Known => FrameLimits::known(shared.options),
            Standing::Stranger => FrameLimits::stranger(shared.options),
            Standing::Refused => return Ok(()),
        };
        let size = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            size = read_size(&mut reader, &mut buffer, limits, in_flight) => size?,
        };
        let Some(size) = size else { return Ok(()) };
        // Memory first, bytes after: a client waits here, not in our heap.
        let own = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            own = own.acquire(size.min(own.capacity_bytes() / 2)) => own,
        };
        let mut share = Share::default();
        let frame = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            frame = read_body(&mut reader, &mut buffer, size, shared, &mut share) => frame?,
        };
        let permits = (own, share);
        let stage = dispatch.dispatch(frame).await?;
        let permits = if stage.parks { None } else { Some(permits) };
        in_flight.fetch_add(1, Ordering::Relaxed);
        if sender.send(Pending { reply: stage.reply, _permits: permits }).await.is_err() {
            return Ok(());
        }
    }
}

/// Limits of the next frame.
#[derive(Clone, Copy)]
struct FrameLimits {
    idle_timeout: Duration,
    bytes_max: usize,
}

impl FrameLimits {
    fn known(options: &Options) -> Self {
        Self { idle_timeout: options.idle_timeout, bytes_max: options.frame_bytes_max }
    }

    fn stranger(options: &Options) -> Self {
        Self {
            idle_timeout: options.idle_timeout.min(STRANGER_IDLE_MAX),
            bytes_max: options.frame_bytes_max.min(sasl::FRAME_BYTES_MAX),
        }
    }
}

/// Reads until the size of the next frame is known and legal. None: the client left between frames.
async fn read_size(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    limits: FrameLimits,
    in_flight: &AtomicUsize,
) -> Result<Option<usize>, Fault> {
    while buffer.len() < 4 {
        if buffer.is_empty() && buffer.capacity() > READ_CHUNK_BYTES {
            // An idle connection must not keep the memory of its last large frame.
            *buffer = BytesMut::new();
        }
        buffer.reserve(READ_CHUNK_BYTES - buffer.len());
        match timeout(limits.idle_timeout, reader.read_buf(buffer)).await {
            Err(_) if in_flight.load(Ordering::Relaxed) > 0 => {}
            Err(_) => return Err(Fault::Idle),
            Ok(read) => {
                if read? == 0 {
                    return if buffer.is_empty() { Ok(None) } else { Err(Fault::Truncated) };
                }
            }
        }
    }
    let size = i32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    let max = limits.bytes_max;
    match usize::try_from(size) {
        Ok(len) if len <= max => {
            buffer.advance(4);
            Ok(Some(len))
        }
        _ => Err(Fault::FrameSize { size, max, hint: hint(size) }),
    }
}

/// What other protocols look like when their first bytes are read as a size.
fn hint(size: i32) -> &'static str {
    match &size.to_be_bytes() {
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"OPTI" | b"DELE" | b"PRI " => {
            "; this looks like HTTP sent to the Kafka port"
        }
        [0x16, 0x03, ..] => "; this looks like TLS sent to a plaintext Kafka port",
        b"SSH-" => "; this looks like SSH sent to the Kafka port",
        _ => "",
    }
}

/// Reads the rest of a frame. Buffer and share grow with the bytes that came, not with the announced
/// size; the first bytes are those that every connection has room for.
async fn read_body(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    size: usize,
    shared: &Shared<'_>,
    share: &mut Share,
) -> Result<Bytes, Fault> {
    let options = shared.options;
    let deadline = Instant::now() + options.frame_timeout;
    let mut until = deadline.min(Instant::now() + options.stall_timeout);
    let mut pace = Pace::default();
    while buffer.len() < size {
        let missing = size - buffer.len();
        let step = missing.min(READ_CHUNK_BYTES.max(buffer.len()).min(READ_STEP_BYTES_MAX));
        if buffer.len() >= READ_CHUNK_BYTES {
            let began = Instant::now();
            if !shared.requests.grow(share, buffer.len() + step).await {
                return Err(Fault::Stalled("a request frame that waits for memory"));
            }
            // While we waited for memory we read nothing, which is not the client's fault.
            pace.excuse(began.elapsed());
            until = deadline.min(until + began.elapsed());
        }
        let has_begun = buffer.len() >= READ_CHUNK_BYTES && size <= ROOM_BYTES_MAX;
        buffer.reserve(if has_begun { missing } else { step });
        let look = until.min(Instant::now() + PACE_WINDOW);
        let read = match timeout_at(look, reader.read_buf(&mut (&mut *buffer).limit(step))).await {
            Err(_) if Instant::now() >= until => return Err(Fault::Stalled("a request frame")),
            Err(_) => 0,
            Ok(read) => {
                until = deadline.min(Instant::now() + options.stall_timeout);
                match read? {
                    0 => return Err(Fault::Truncated),
                    read => read,
                }
            }
        };
        if pace.is_slow(read) && shared.requests.is_wanted(share) {
            return Err(Fault::Stalled("a request frame whose memory others wait for"));
        }
    }
    if size <= READ_CHUNK_BYTES {
        shared.requests.hold_small(share, size).await;
    } else if !shared.requests.grow(share, size).await {
        return Err(Fault::Stalled("a request frame that waits for memory"));
    }
    share.whole();
    Ok(buffer.split_to(size).freeze())
}

async fn write_responses(
    mut writer: impl AsyncWrite + Unpin,
    shared: &Shared<'_>,
    mut receiver: mpsc::Receiver<Pending>,
    in_flight: &AtomicUsize,
) -> Result<(), Fault> {
    let mut next = None;
    loop {
        let pending = match next.take() {
            Some(pending) => pending,
            None => match receiver.recv().await {
                Some(pending) => pending,
                None => return Ok(()),
            },
        };
        let mut out = Output::default();
        out.push(resolve(pending).await?);
        // Whatever else is ready by now goes out with the same system call.
        while out.bytes < GATHER_BYTES_MAX && out.frames.len() < SLICES_MAX {
            let Ok(mut pending) = receiver.try_recv() else {
                break;
            };
            match poll_once(&mut pending.reply).await {
                Poll::Ready(frame) => out.push(frame?),
                Poll::Pending => {
                    next = Some(pending);
                    break;
                }
            }
        }
        let answered = out.answered;
        write_all(&mut writer, out, shared.options.stall_timeout, shared.answers).await?;
        in_flight.fetch_sub(answered, Ordering::Relaxed);
    }
}

async fn resolve(pending: Pending) -> Result<Option<ResponseFrame>, Fault> {
    pending.reply.await
}

/// Polls `reply` with the waker of this task, but does not wait.
async fn poll_once(reply: &mut Reply) -> Poll<Result<Option<ResponseFrame>, Fault>> {
    std::future::poll_fn(|context| Poll::Ready(reply.as_mut().poll(context))).await
}

/// Frames that are written together. They keep their permits until they are written.
#[derive(Default)]
struct Output {
    frames: Vec<ResponseFrame>,
    bytes: usize,
    answered: usize,
}

impl Output {
    fn push(&mut self, frame: Option<ResponseFrame>) {
        self.answered += 1;
        if let Some(frame) = frame {
            self.bytes += frame.len();
            self.frames.push(frame);
        }
    }
}

/// Writes all chunks without copying them. Each write must make progress within the stall time, and
/// keep the pace while answers wait for memory: a client that never reads would hold its own for ever.
async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    out: Output,
    stall: Duration,
    answers: &ByteBudget,
) -> Result<(), Fault> {
    const STALLED: Fault = Fault::Stalled("the writing of an answer");
    let holds = out.frames.iter().any(|frame| !frame.permits.is_empty());
    let mut pace = Pace::default();
    let mut until = Instant::now() + stall;
    let mut chunks: Vec<&[u8]> = out
        .frames
        .iter()
        .flat_map(|frame| frame.chunks.iter().map(|chunk| &chunk[..]))
        .filter(|chunk| !chunk.is_empty())
        .collect();
    let mut first = 0;
    while first < chunks.len() {
        let end = chunks.len().min(first + SLICES_MAX);
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        for (slice, chunk) in slices.iter_mut().zip(&chunks[first..end]) {
            *slice = IoSlice::new(chunk);
        }
        let write = writer.write_vectored(&slices[..end - first]);
        let mut written = match timeout_at(until.min(Instant::now() + PACE_WINDOW), write).await {
            Err(_) if Instant::now() >= until => return Err(STALLED),
            Err(_) => 0,
            Ok(written) => {
                until = Instant::now() + stall;
                match written? {
                    0 => return Err(Fault::Io(std::io::ErrorKind::WriteZero.into())),
                    written => written,
                }
            }
        };
        if pace.is_slow(written) && holds && answers.is_short() {
            return Err(Fault::Stalled("the writing of an answer whose memory others wait for"));
        }
        while written > 0 {
            let taken = written.min(chunks[first].len());
            chunks[first] = &chunks[first][taken..];
            written -= taken;
            if chunks[first].is_empty() {
                first += 1;
            }
        }
    }
    if !chunks.is_empty() {
        timeout(stall, writer.flush()).await.map_err(|_| STALLED)??;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
