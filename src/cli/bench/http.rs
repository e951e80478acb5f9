//! `floe bench http`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::post;
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Settings;
use super::report::{Report, Times};
use super::server::Server;
use super::tables::row;
use crate::cli::output;
use crate::http::ingest::split::{Form, split};

const TOPIC: &str = "bench";

/// Between two parts: disks and machines that are shared need a rest.
const REST: Duration = Duration::from_secs(1);

/// Size of a body of many events.
const BODY_BYTES: usize = 1_000_000;

/// Connections of the load of large bodies: enough that the next body is there when one is stored.
const BODY_CONNECTIONS: usize = 4;

/// Longest head of an answer.
const HEAD_MAX: usize = 16 << 10;

/// The command of the baseline.
pub(super) const BARE_COMMAND: &str = "bare";

/// Events that the baseline splits at most, as the server's default.
const EVENTS_MAX: usize = 100_000;

/// Paths of the handlers that store nothing.
const BARE: &str = "/bare";
const SPLIT: &str = "/split";

/// A request that is sent again and again, over so many connections.
struct Load {
    request: Vec<u8>,
    body_bytes: usize,
    connections: usize,
}

/// What a load did.
struct Done {
    requests: f64,
    seconds: f64,
    /// Of the server, seconds.
    cpu_seconds: f64,
    times: Times,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let event = row(4_711);
    let mut lines = Vec::with_capacity(BODY_BYTES + 400);
    for number in 0.. {
        if lines.len() >= BODY_BYTES {
            break;
        }
        lines.extend(row(number));
        lines.push(b'\n');
    }
    let connections = settings.in_flight;
    let one = |path: &str| Load::new(path, "application/json", &event, connections);
    let many = |path: &str| Load::new(path, "application/x-ndjson", &lines, BODY_CONNECTIONS);
    let path = |ack: &str| format!("/api/v1/topics/{TOPIC}/events?ack={ack}");

    let server = Server::start(settings, &["--table-mode", "off"]).await?;
    server.create(TOPIC, settings.partitions, serde_json::json!({})).await?;
    let accepted = measure(settings, &server, &one(&path("accepted"))).await?;
    let durable = measure(settings, &server, &one(&path("durable"))).await?;
    let body = measure(settings, &server, &many(&path("durable"))).await?;
    report.add("server memory, peak", server.process().peak_mb(), "MB");
    drop(server);

    let bare_server = Server::bare(settings).await?;
    let bare = measure(settings, &bare_server, &one(BARE)).await?;
    let bare_body = measure(settings, &bare_server, &many(SPLIT)).await?;

    for (name, done) in [
        ("one event a request, ack=accepted", accepted),
        ("one event a request, ack=durable", durable),
    ] {
        let per_core = done.requests / done.cpu_seconds;
        small(report, name, done);
        let bare_per_core = bare.requests / bare.cpu_seconds;
        report.add(format!("{name}: ratio to the bare handler"), per_core / bare_per_core, "");
    }
    small(report, "a bare handler that reads the body", bare);
    let rate = large(report, "NDJSON of 1 MB, ack=durable", &body, lines.len());
    let name = "the same handler with splitting and no log";
    let bare_rate = large(report, name, &bare_body, lines.len());
    report.add("NDJSON of 1 MB: ratio to it, MB/s", rate / bare_rate, "");
    let cpu = |done: &Done| done.cpu_seconds / done.requests;
    report.add("NDJSON of 1 MB: ratio to it, CPU", cpu(&body) / cpu(&bare_body), "");
    Ok(())
}

fn small(report: &mut Report, name: &str, mut done: Done) {
    report.add(name, done.requests / done.seconds, "1/s");
    report.add(format!("{name}: a second of server CPU"), done.requests / done.cpu_seconds, "1/s");
    report.add(format!("{name}: server CPU"), done.cpu_seconds * 1e6 / done.requests, "us");
    report.add_times(&format!("{name}: answer"), &mut done.times);
}

/// MB a second.
fn large(report: &mut Report, name: &str, done: &Done, body_bytes: usize) -> f64 {
    let mb = done.requests * body_bytes as f64 / 1e6;
    let rate = mb / done.seconds;
    report.add(name, rate, "MB/s");
    report.add(format!("{name}: server CPU"), done.cpu_seconds / (mb / 1e3), "s/GB");
    rate
}

impl Load {
    fn new(path: &str, content_type: &str, body: &[u8], connections: usize) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {content_type}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let mut request = head.into_bytes();
        request.extend(body);
        Self { request, body_bytes: body.len(), connections }
    }
}

/// One request in flight on each connection.
async fn measure(settings: &Settings, server: &Server, load: &Load) -> Result<Done, String> {
    let Load { body_bytes, connections, .. } = load;
    let length = settings.seconds;
    output::progress(format!(
        "{connections} connections, bodies of {body_bytes} B, {length:?} ..."
    ));
    tokio::time::sleep(REST).await;
    let address = server.http.trim_start_matches("http://");
    let address: SocketAddr = address.parse().map_err(text)?;
    let (before, started) = (server.process().usage(), Instant::now());
    let connections = (0..*connections).map(|_| connection(address, &load.request, length));
    let all = try_join_all(connections).await?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = (server.process().usage() - before).cpu_seconds;
    let mut done = Done { requests: 0.0, seconds, cpu_seconds, times: Times::default() };
    for (requests, times) in all {
        done.requests += requests;
        done.times.merge(&times);
    }
    Ok(done)
}

async fn connection(
    address: SocketAddr,
    request: &[u8],
    length: Duration,
) -> Result<(f64, Times), String> {
    let mut stream = TcpStream::connect(address).await.map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    let (mut requests, mut times) = (0.0, Times::default());
    let mut answer = Vec::with_capacity(4096);
    let started = Instant::now();
    while started.elapsed() < length {
        let sent = Instant::now();
        stream.write_all(request).await.map_err(text)?;
        read_answer(&mut stream, &mut answer).await?;
        times.push(sent.elapsed());
        requests += 1.0;
    }
    Ok((requests, times))
}

/// Reads one answer whole; anything but a success is an error.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<(), String> {
    answer.clear();
    let head_end = loop {
        if let Some(at) = memchr::memmem::find(answer, b"\r\n\r\n") {
            break at + 4;
        }
        if answer.len() > HEAD_MAX || stream.read_buf(answer).await.map_err(text)? == 0 {
            return Err(format!("no answer: {}", String::from_utf8_lossy(answer)));
        }
    };
    let head = String::from_utf8_lossy(&answer[..head_end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|value| value.trim().parse().ok()).unwrap_or(0);
    while answer.len() < head_end + length {
        if stream.read_buf(answer).await.map_err(text)? == 0 {
            return Err("the answer ends early".to_owned());
        }
    }
    if head.starts_with("http/1.1 2") {
        return Ok(());
    }
    Err(String::from_utf8_lossy(answer).into_owned())
}

/// A server that reads bodies and stores nothing, until it is killed: the baseline, in a process
/// of its own so that its CPU can be told from the generator's.
pub(super) async fn serve_bare() -> Result<(), String> {
    let bare = post(|body: Bytes| async move { (StatusCode::OK, body.len().to_string()) });
    let lines = post(|body: Bytes| async move {
        let events = split(&body, Form::Lines, EVENTS_MAX).events.len();
        (StatusCode::OK, events.to_string())
    });
    let routes = Router::new().route(BARE, bare).route(SPLIT, lines);
    let routes = routes.layer(DefaultBodyLimit::max(2 * BODY_BYTES));
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(text)?;
    let address = listener.local_addr().map_err(text)?;
    output::line(format!("http http://{address}\nready"));
    axum::serve(listener, routes.into_make_service()).await.map_err(text)
}
