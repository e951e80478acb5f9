use std::sync::Arc;
use std::sync::Mutex;

use tokio::io::{DuplexStream, duplex};
use tokio::sync::oneshot;

use super::*;

/// Answers each frame by its first byte: `e` echoes at once, `w` waits until it is released, `f` is a
/// fault, `n` has no answer, `c` waits for the connection to close, `r` echoes and refuses the client.
struct Fake {
    standing: Mutex<Standing>,
    seen: Mutex<Vec<Bytes>>,
    releases: Mutex<Vec<oneshot::Receiver<()>>>,
    closing: CancellationToken,
}

impl Dispatch for Arc<Fake> {
    async fn dispatch(&self, frame: Bytes) -> Result<Stage2, Fault> {
        self.seen.lock().unwrap().push(frame.clone());
        let answer = ResponseFrame { chunks: vec![frame.clone()], permits: Vec::new() };
        let reply: Reply = match frame.first() {
            Some(b'w') => {
                let release = self.releases.lock().unwrap().remove(0);
                Box::pin(async move {
                    release.await.unwrap();
                    Ok(Some(answer))
                })
            }
            Some(b'f') => return Err(Fault::Malformed("as asked")),
            Some(b'r') => {
                *self.standing.lock().unwrap() = Standing::Refused;
                Box::pin(async move {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    Ok(Some(answer))
                })
            }
            Some(b'n') => Box::pin(std::future::ready(Ok(None))),
            Some(b'c') => {
                let closing = self.closing.clone();
                Box::pin(async move {
                    closing.cancelled().await;
                    Ok(Some(answer))
                })
            }
            _ => Box::pin(std::future::ready(Ok(Some(answer)))),
        };
        Ok(Stage2 { reply, parks: false })
    }

    fn standing(&self) -> Standing {
        *self.standing.lock().unwrap()
    }
}

struct Running {
    client: DuplexStream,
    fake: Arc<Fake>,
    stop: CancellationToken,
    requests: FrameMemory,
    end: tokio::task::JoinHandle<Result<(), Fault>>,
}

fn options() -> Options {
    Options { frame_bytes_max: 1 << 20, in_flight_requests_max: 3, ..Options::default() }
}

/// Longest wait for what must not take the stall time of [`options`], 30 seconds.
const SOON: Duration = Duration::from_secs(20);

/// Short time-outs, for the tests that wait for one.
fn impatient() -> Options {
    let short = Duration::from_millis(30);
    Options { stall_timeout: short, idle_timeout: short, ..options() }
}

#[allow(clippy::disallowed_methods, reason = "a test owns its task")]
fn start(options: Options, releases: Vec<oneshot::Receiver<()>>, pipe_bytes: usize) -> Running {
    let (client, server) = duplex(pipe_bytes);
    let (stop, closing) = (CancellationToken::new(), CancellationToken::new());
    let fake = Arc::new(Fake {
        standing: Mutex::new(Standing::Known),
        seen: Mutex::default(),
        releases: Mutex::new(releases),
        closing: closing.clone(),
    });
    let requests = FrameMemory::new(options.request_bytes_max);
    let (dispatch, token, budget) = (Arc::clone(&fake), stop.clone(), requests.clone());
    let answers = ByteBudget::new(options.fetch_bytes_in_flight_max);
    let end = tokio::spawn(async move {
        let (reader, writer) = tokio::io::split(server);
        let shared = Shared {
            options: &options,
            requests: &budget,
            answers: &answers,
            stop: &token,
            closing: &closing,
        };
        serve(reader, writer, &dispatch, &shared).await
    });
    Running { client, fake, stop, requests, end }
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32).to_be_bytes()[..], body].concat()
}

async fn read(client: &mut DuplexStream, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    client.read_exact(&mut out).await.unwrap();
    out
}

#[tokio::test]
async fn answers_leave_in_request_order_while_later_requests_are_read() {
    let (release, first) = oneshot::channel();
    let mut running = start(options(), vec![first], 1 << 16);
    let all = [framed(b"w1"), framed(b"e2"), framed(b"n3"), framed(b"e4")].concat();
    running.client.write_all(&all).await.unwrap();
    // The first waits, yet those behind it are dispatched as far as the limit of three allows: one
    // at the writer, three in its queue.
    while running.fake.seen.lock().unwrap().len() < 4 {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    assert_eq!(read(&mut running.client, 6).await, b"w1e2e4");
    drop(running.client);
    running.end.await.unwrap().unwrap();
}

#[tokio::test]
async fn no_more_requests_are_read_than_may_be_in_flight() {
    let (release, first) = oneshot::channel();
    let mut running = start(options(), vec![first], 1 << 16);
    running.client.write_all(&framed(b"w0")).await.unwrap();
    for _ in 0..20 {
        running.client.write_all(&framed(b"e")).await.unwrap();
    }
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    // One at the writer, three queued, one waits for a place.
    assert!(running.fake.seen.lock().unwrap().len() <= 5);
    release.send(()).unwrap();
    read(&mut running.client, 22).await;
    assert_eq!(running.fake.seen.lock().unwrap().len(), 21);
}

#[tokio::test]
async fn a_frame_split_into_single_bytes_is_one_request() {
    let mut running = start(options(), vec![], 1 << 16);
    for byte in framed(b"echo") {
        running.client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(read(&mut running.client, 4).await, b"echo");
}

#[tokio::test]
async fn illegal_sizes_close_before_memory_is_taken() {
    for (size, hint) in [
        (*b"GET ", "HTTP"),
        ([0x16, 3, 1, 0], "TLS"),
        ((1_i32 << 21).to_be_bytes(), ""),
        ((-1_i32).to_be_bytes(), ""),
    ] {
        let mut running = start(options(), vec![], 1 << 16);
        running.client.write_all(&size).await.unwrap();
        let fault = running.end.await.unwrap().unwrap_err();
        assert!(matches!(fault, Fault::FrameSize { .. }) && fault.to_string().contains(hint));
        assert_eq!(running.requests.used_bytes(), 0);
    }
}

#[tokio::test]
async fn who_must_say_who_it_is_sends_small_frames() {
    let size = (1_i32 << 20).to_be_bytes();
    for (standing, is_fault) in [(Standing::Known, false), (Standing::Stranger, true)] {
        let mut running = start(options(), vec![], 1 << 16);
        *running.fake.standing.lock().unwrap() = standing;
        running.client.write_all(&framed(b"echo")).await.unwrap();
        assert_eq!(read(&mut running.client, 4).await, b"echo");
        running.client.write_all(&size).await.unwrap();
        drop(running.client);
        let fault = running.end.await.unwrap().unwrap_err();
        assert_eq!(matches!(fault, Fault::FrameSize { .. }), is_fault, "{standing:?}: {fault}");
    }
}

#[tokio::test]
async fn who_is_refused_gets_its_answer_and_the_end() {
    let mut running = start(options(), vec![], 1 << 16);
    let both = [framed(b"refused"), framed(b"echo")].concat();
    running.client.write_all(&both).await.unwrap();
    let mut answers = Vec::new();
    running.client.read_to_end(&mut answers).await.unwrap();
    assert_eq!(answers, b"refused", "what came after it is not even read");
    running.end.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stalled_frame_gives_its_memory_back() {
    let mut running = start(impatient(), vec![], 1 << 16);
    running.client.write_all(&framed(&[b'e'; 1000])[..500]).await.unwrap();
    let fault = (&mut running.end).await.unwrap().unwrap_err();
    assert!(matches!(fault, Fault::Stalled(_)), "{fault}");
    assert_eq!(running.requests.used_bytes(), 0);
}

#[tokio::test]
async fn a_frame_that_is_only_announced_holds_nothing() {
    let mut running = start(options(), vec![], 1 << 16);
    running.client.write_all(&framed(&[b'e'; 1 << 20])[..500]).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.requests.used_bytes(), 0);
    running.client.write_all(&[b'e'; 100_000]).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let used = running.requests.used_bytes();
    assert!((100_000..250_000).contains(&used), "{used}");
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed() {
    let mut running = start(impatient(), vec![], 1 << 10);
    running.client.write_all(&framed(&[b'e'; 8 << 10])).await.unwrap();
    let fault = (&mut running.end).await.unwrap().unwrap_err();
    assert!(matches!(fault, Fault::Stalled(_)), "{fault}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_but_not_one_that_waits_for_its_answer() {
    let idle = start(impatient(), vec![], 64);
    assert!(matches!(idle.end.await.unwrap(), Err(Fault::Idle)));
    let (release, first) = oneshot::channel();
    let mut waiting = start(impatient(), vec![first], 64);
    waiting.client.write_all(&framed(b"w")).await.unwrap();
    tokio::time::sleep(impatient().idle_timeout * 3).await;
    release.send(()).unwrap();
    assert_eq!(read(&mut waiting.client, 1).await, b"w");
}

#[tokio::test]
async fn stop_answers_what_is_in_flight_and_wakes_long_polls() {
    let mut running = start(options(), vec![], 1 << 16);
    running.client.write_all(&[framed(b"c"), framed(b"e")].concat()).await.unwrap();
    while running.fake.seen.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    running.stop.cancel();
    assert_eq!(read(&mut running.client, 2).await, b"ce");
    running.end.await.unwrap().unwrap();
}

#[tokio::test]
async fn stop_does_not_wait_for_a_client_that_never_reads() {
    let options = Options { stop_timeout: Duration::from_millis(50), ..options() };
    let mut running = start(options, vec![], 1 << 10);
    running.client.write_all(&framed(&[b'e'; 8 << 10])).await.unwrap();
    while running.fake.seen.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    running.stop.cancel();
    let end = tokio::time::timeout(SOON, &mut running.end).await;
    end.expect("it waits").unwrap().unwrap();
    assert_eq!(running.requests.used_bytes(), 0);
}

#[tokio::test]
async fn stop_does_not_wait_for_the_rest_of_a_frame() {
    let options = Options { stop_timeout: Duration::from_secs(600), ..options() };
    let mut running = start(options, vec![], 1 << 16);
    running.client.write_all(&framed(&[b'e'; 100_000])[..50_000]).await.unwrap();
    while running.requests.used_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    running.stop.cancel();
    let end = tokio::time::timeout(SOON, &mut running.end).await;
    end.expect("it waits").unwrap().unwrap();
}

#[tokio::test]
async fn a_fault_ends_the_connection() {
    let mut running = start(options(), vec![], 1 << 16);
    running.client.write_all(&framed(b"f")).await.unwrap();
    assert!(matches!(running.end.await.unwrap(), Err(Fault::Malformed(_))));
}

#[tokio::test]
async fn many_chunks_are_written_whole() {
    let chunks: Vec<Bytes> = (0..500_u32).map(|n| Bytes::from(n.to_be_bytes().to_vec())).collect();
    let wanted = chunks.concat();
    let (mut writer, mut reader) = duplex(97);
    let mut out = Output::default();
    out.push(Some(ResponseFrame { chunks, permits: Vec::new() }));
    let answers = ByteBudget::new(1 << 10);
    let write = async {
        write_all(&mut writer, out, Duration::from_secs(1), &answers).await.unwrap();
    };
    let read = async {
        let mut got = vec![0; wanted.len()];
        reader.read_exact(&mut got).await.unwrap();
        got
    };
    let ((), got) = tokio::join!(write, read);
    assert_eq!(got, wanted);
}

#[tokio::test]
async fn who_does_not_read_is_closed_when_others_wait_for_its_memory() {
    let answers = ByteBudget::new(1 << 10);
    let (mut writer, _reader) = duplex(64);
    let mut out = Output::default();
    let permits = vec![answers.acquire(1 << 10).await];
    out.push(Some(ResponseFrame { chunks: vec![vec![7; 1 << 10].into()], permits }));
    let stall = Duration::from_secs(60);
    let write = write_all(&mut writer, out, stall, &answers);
    tokio::pin!(write);
    let later = 2 * PACE_WINDOW + PACE_WINDOW / 2;
    assert!(timeout(later, &mut write).await.is_err(), "nobody wants its memory");
    let other = answers.acquire(1);
    let (written, _) = timeout(SOON, async { tokio::join!(write, other) }).await.unwrap();
    assert!(matches!(written, Err(Fault::Stalled(_))));
}

#[tokio::test]
async fn half_a_frame_is_closed_when_others_wait_for_its_memory() {
    let options = Options { request_bytes_max: 128 << 10, ..options() };
    let mut running = start(options, vec![], 1 << 20);
    running.client.write_all(&framed(&[b'e'; 200_000])[..150_000]).await.unwrap();
    while running.requests.used_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    let later = 2 * PACE_WINDOW + PACE_WINDOW / 2;
    assert!(timeout(later, &mut running.end).await.is_err(), "nobody wants its memory");
    let mut others = crate::kafka::memory::Share::default();
    running.requests.grow(&mut others, 64 << 10).await;
    let mut more = crate::kafka::memory::Share::default();
    let (end, ()) = timeout(SOON, async {
        tokio::join!(&mut running.end, async {
            assert!(running.requests.grow(&mut more, 64 << 10).await);
        })
    })
    .await
    .unwrap();
    assert!(matches!(end.unwrap(), Err(Fault::Stalled(_))));
}
