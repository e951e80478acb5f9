//! HTTP clients that are broken, slow or greedy.

use std::io::Write;
use std::time::Duration;

use protocol_tests::Floe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{Besieged, PATIENCE};

/// Measured are 170 MiB. Bodies are bounded by the 32 MiB of `http.in.bytes`; what is beyond is an
/// idle server, buffers of connections, batches on their way, and what is not given back at once.
const HTTP_MIB: u64 = 400;

const POST: &str = "POST /api/v1/topics/abused/events HTTP/1.1\r\nhost: localhost\r\n";

async fn connect(floe: &Floe) -> TcpStream {
    let address = floe.url("").trim_start_matches("http://").to_owned();
    TcpStream::connect(address).await.unwrap()
}

/// Sends bytes and reads until the connection is closed or nothing comes for two seconds.
async fn send(floe: &Floe, bytes: &[u8]) -> String {
    let mut stream = connect(floe).await;
    // A reset while we write is an answer too.
    let write = stream.write_all(bytes);
    let _ = tokio::time::timeout(PATIENCE, write).await.expect("the server reads or closes");
    read(&mut stream).await
}

async fn read(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 << 10];
    let mut pause = PATIENCE;
    while let Ok(Ok(count)) = tokio::time::timeout(pause, stream.read(&mut piece)).await {
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..count]);
        pause = Duration::from_millis(100);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    status.parse().unwrap_or_else(|_| panic!("no answer: {answer:?}"))
}

/// A request with this body, closed by us.
fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("{POST}connection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Sends 100 MB, with their length or in chunks; the status, or 0 for a reset.
async fn large_body(mut stream: TcpStream, chunked: bool) -> u16 {
    let total = 100_000_000_usize;
    let how = match chunked {
        true => "transfer-encoding: chunked".to_owned(),
        false => format!("content-length: {total}"),
    };
    let head = format!("{POST}content-type: application/json\r\n{how}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1_000_000];
    for _ in 0..total / piece.len() {
        let sent = async {
            if chunked {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            }
            stream.write_all(&piece).await?;
            if chunked { stream.write_all(b"\r\n").await } else { Ok(()) }
        };
        let sent = tokio::time::timeout(PATIENCE, sent).await.expect("it reads or closes");
        if sent.is_err() {
            break;
        }
    }
    let answer = read(&mut stream).await;
    if answer.is_empty() { 0 } else { status(&answer) }
}

fn gzip_bomb() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b' '; 64 << 20]).unwrap();
    encoder.finish().unwrap().repeat(8)
}

fn zstd_bomb() -> Vec<u8> {
    zstd::bulk::compress(&vec![b' '; 64 << 20], 3).unwrap().repeat(16)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_and_bombs_are_refused() {
    let mut siege = Besieged::start(&[], HTTP_MIB).await;
    for chunked in [false, true] {
        let mut uploads = JoinSet::new();
        for _ in 0..8 {
            uploads.spawn(large_body(connect(&siege.floe).await, chunked));
        }
        for status in uploads.join_all().await {
            assert!(matches!(status, 0 | 413 | 429), "{status}");
        }
        siege.phase(&format!("8 bodies of 100 MB at once, chunked: {chunked}"));
    }
    for (coding, bomb) in [("gzip", gzip_bomb()), ("zstd", zstd_bomb())] {
        let request = post(&format!("content-encoding: {coding}\r\n"), &bomb);
        let mut all = JoinSet::new();
        for _ in 0..8 {
            let (mut stream, request) = (connect(&siege.floe).await, request.clone());
            all.spawn(async move {
                stream.write_all(&request).await.unwrap();
                status(&read(&mut stream).await)
            });
        }
        for status in all.join_all().await {
            assert!(matches!(status, 413 | 429), "{status}");
        }
        let kib = bomb.len() >> 10;
        siege.phase(&format!("8 bombs at once, {coding}: {kib} KiB for 512 MiB and more"));
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_small_events_have_in_common_is_bounded() {
    let mut siege = Besieged::start(&[], HTTP_MIB).await;
    let lines = "content-type: application/x-ndjson\r\n";
    let long = "x".repeat(14_000);
    let event = r#"{"specversion":"1.0","id":"7","source":"/s","type":"t"}"#;
    for (what, headers, body, wanted) in [
        ("a header", format!("{lines}x-kafka-header-a: {long}\r\n"), "1\n".repeat(100_000), 413),
        ("a key", format!("{lines}x-kafka-key: {long}\r\n"), "1\n".repeat(16_000), 413),
        ("a path", format!("{lines}x-kafka-key: $.{long}\r\n"), "1\n".repeat(100_000), 413),
        (
            "a header of CloudEvents",
            format!(
                "content-type: application/cloudevents-batch+json\r\nx-kafka-header-a: {long}\r\n"
            ),
            format!("[{}]", vec![event; 10_000].join(",")),
            413,
        ),
        (
            "no more than fits",
            format!("{lines}x-kafka-header-a: {long}\r\n"),
            "1\n".repeat(4_000),
            200,
        ),
    ] {
        let mut all = JoinSet::new();
        for _ in 0..8 {
            let (mut stream, request) =
                (connect(&siege.floe).await, post(&headers, body.as_bytes()));
            all.spawn(async move {
                stream.write_all(&request).await.unwrap();
                status(&read(&mut stream).await)
            });
        }
        let found = all.join_all().await;
        assert!(found.iter().all(|it| [wanted, 429].contains(it)), "{what}: {found:?}");
        assert!(found.contains(&wanted), "{what}: {found:?}");
        siege.phase(&format!("8 times {what}, {} KiB of body", body.len() >> 10));
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_starve_nobody() {
    let mut siege = Besieged::start(&[], HTTP_MIB).await;
    let (mut slow, mut managed) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        let mut stream = connect(&siege.floe).await;
        stream.write_all(&POST.as_bytes()[..40]).await.unwrap();
        slow.push(stream);
    }
    for path in [
        "/oauth/token",
        "/iceberg/v1/oauth/tokens",
        "/api/v1/topics",
        "/v1/branches/default/sources",
    ] {
        for _ in 0..50 {
            // Routes that take no events have bodies too.
            let mut stream = connect(&siege.floe).await;
            let head =
                format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000\r\n\r\n[");
            stream.write_all(head.as_bytes()).await.unwrap();
            managed.push(stream);
        }
    }
    for _ in 0..100 {
        // Much is announced, little comes.
        let mut stream = connect(&siege.floe).await;
        let head = format!("{POST}content-length: {}\r\n\r\n[", 16 << 20);
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    siege.phase("500 halves of a header, 100 bodies of 16 MiB announced");
    for _ in 0..8 {
        // Almost all of it comes.
        let mut stream = connect(&siege.floe).await;
        let head = format!("{POST}content-length: {}\r\n\r\n[", 16 << 20);
        stream.write_all(head.as_bytes()).await.unwrap();
        let body = vec![b' '; (15 << 20) + (900 << 10)];
        let _ = tokio::time::timeout(Duration::from_millis(500), stream.write_all(&body)).await;
        slow.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    siege.phase("8 bodies of 16 MiB that stop before their end");
    let mut deaf = Vec::new();
    for _ in 0..200 {
        let mut stream = connect(&siege.floe).await;
        let request = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(200);
        let write = stream.write_all(request.as_bytes());
        let _ = tokio::time::timeout(Duration::from_millis(20), write).await;
        deaf.push(stream);
    }
    siege.phase("200 clients with 200 requests each that never read");
    let mut stream = connect(&siege.floe).await;
    let request = post("", b"{\"slow\":true}");
    for byte in request {
        stream.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(status(&read(&mut stream).await), 200);
    siege.phase("a request of one byte a write");
    for mut stream in managed {
        assert_eq!(status(&read(&mut stream).await), 408, "it waits for no body for ever");
    }
    drop((slow, deaf));
    siege.end().await;
}

/// Bodies that are hard to read, with the statuses that are right for them.
fn odd_bodies() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let deep =
        |levels: usize| [b"{\"a\":".repeat(levels), b"1".to_vec(), b"}".repeat(levels)].concat();
    let array = |elements: usize| {
        [b"{\"a\":[1", ",1".repeat(elements).as_bytes(), b"]}".as_slice()].concat()
    };
    let keys = |count: usize| {
        let keys: Vec<String> = (0..count).map(|i| format!("\"k{i}\":{i}")).collect();
        format!("{{{}}}", keys.join(",")).into_bytes()
    };
    let long_key = format!("{{\"{}\":1}}", "k".repeat(1_000_000)).into_bytes();
    vec![
        ("64 levels", deep(64), &[200]),
        ("65 levels", deep(65), &[400]),
        ("100,000 levels", deep(100_000), &[400]),
        ("100,000 levels of arrays", b"[".repeat(100_000), &[400]),
        ("a million elements", array(400_000), &[200, 413]),
        ("a million elements, too large", array(1_000_000), &[413]),
        (
            "a million events",
            [b"[1".to_vec(), b",1".repeat(1_000_000), b"]".to_vec()].concat(),
            &[413],
        ),
        ("10,000 keys", keys(10_000), &[200]),
        ("a key of a million bytes", long_key, &[200, 413]),
        ("invalid UTF-8", b"{\"a\":\"\xff\xfe\"}".to_vec(), &[400]),
        ("half a surrogate", b"{\"a\":\"\\ud800\"}".to_vec(), &[200, 400]),
        ("zeros", vec![0; 100_000], &[400, 415]),
        (
            "a number of 100,000 digits",
            [b"{\"a\":".to_vec(), b"9".repeat(100_000), b"}".to_vec()].concat(),
            &[200],
        ),
        ("nothing", Vec::new(), &[400]),
    ]
}

/// Whole requests that no client sends.
fn odd_requests() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let named = |name: &str| {
        let post = POST.replace("abused", name);
        format!("{post}connection: close\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes()
    };
    let many: String = (0..2_000).map(|i| format!("x-kafka-header-{i}: {i}\r\n")).collect();
    let long = format!("x-kafka-header-a: {}\r\n", "v".repeat(500_000));
    let host = "GET /healthz HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    let no_host = "GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n";
    let method = "BREW /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let both = format!(
        "{POST}content-length: 2\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    );
    vec![
        ("2,000 headers", post(&many, b"{}"), &[400, 431]),
        ("a header of 500 KB", post(&long, b"{}"), &[400, 431]),
        ("another host", host.into(), &[403, 421]),
        ("no host", no_host.into(), &[200, 400]),
        ("an unknown method", method.into(), &[405]),
        ("an unknown path", get("/api/v9/nothing").into_bytes(), &[404]),
        (
            "a path of 60 KB",
            get(&format!("/{}", "a/".repeat(30_000))).into_bytes(),
            &[404, 414, 431],
        ),
        ("no UTF-8 in a name", named("%ff%fe"), &[400]),
        ("a slash in a name", named("a%2Fb"), &[400]),
        ("a zero in a name", named("a%00b"), &[400]),
        ("half an escape in a name", named("%e2%28%a1%"), &[400]),
        ("dots as a name", named(".."), &[400, 404]),
        ("a name of 3,000 bytes", named(&"n".repeat(3_000)), &[400]),
        ("length and chunks", both.into_bytes(), &[200, 400]),
        ("no HTTP", b"\x00\x01\x02\x03 nonsense\r\n\r\n".to_vec(), &[400]),
        ("a negative length", format!("{POST}content-length: -5\r\n\r\n").into_bytes(), &[400]),
        (
            "a huge length",
            format!("{POST}content-length: 99999999999999999999999\r\n\r\n").into_bytes(),
            &[400],
        ),
        (
            "a bad chunk",
            format!("{POST}transfer-encoding: chunked\r\n\r\nzz\r\n").into_bytes(),
            &[400],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_and_bodies_get_their_status() {
    let mut siege = Besieged::start(&[], HTTP_MIB).await;
    let json = "content-type: application/json\r\n";
    for (what, body, allowed) in odd_bodies() {
        let status = status(&send(&siege.floe, &post(json, &body)).await);
        assert!(allowed.contains(&status), "{what}: {status}");
    }
    siege.phase("odd bodies");
    for (what, request, allowed) in odd_requests() {
        let status = status(&send(&siege.floe, &request).await);
        assert!(allowed.contains(&status), "{what}: {status}");
    }
    siege.phase("odd requests");
    let one = |more: &str| format!("{POST}{more}content-length: 7\r\n\r\n{{\"a\":1}}");
    let pipelined = one("").repeat(499) + &one("connection: close\r\n");
    let mut stream = connect(&siege.floe).await;
    stream.write_all(pipelined.as_bytes()).await.unwrap();
    // Until it is closed: a busy machine pauses between two answers.
    let mut answers = Vec::new();
    let read = stream.read_to_end(&mut answers);
    tokio::time::timeout(10 * PATIENCE, read).await.expect("the server closes").unwrap();
    let answers = String::from_utf8_lossy(&answers);
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 500);
    siege.phase("500 requests in one write");
    let table = siege.floe.flush("abused").await;
    assert_eq!(table["state"], "RUNNING", "{table:#}");
    siege.phase("their table");
    siege.end().await;
}
