//! Accepts HTTP connections under a limit, with deadlines, and drains them at shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, Version, header};
use axum::response::Response;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use crate::http::starting::Entry;
use crate::http::tls::{Certificate, Tls};
use crate::runtime::Tasks;

/// A client must have sent its headers within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request line and headers, bytes.
const HEADER_BYTES_MAX: usize = 24 << 10;
/// The part of the drain in which a connection that waits for its next request is not closed yet:
/// that request may be on its way.
const LINGER_PART: u32 = 5;

/// Serves what comes in by `entry` on `listener`, over TLS where `tls` is given, until `stop` fires, then drains: requests in flight get
/// `drain_max`, and what is open after that is closed. From `Api::drain` on each answer ends its
/// connection (RFC 9112 9.6): nobody sends another request over one that is about to be closed.
pub async fn serve(
    listener: TcpListener,
    entry: Entry,
    tls: Option<Arc<Tls>>,
    connections_max: usize,
    tasks: Tasks,
    stop: CancellationToken,
    drain_max: Duration,
) {
    let cut = CancellationToken::new();
    let slots_max = u32::try_from(connections_max.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let slots = Arc::new(Semaphore::new(slots_max as usize));
    let graceful = Arc::new(GracefulShutdown::new());
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or a connection that is gone already: both pass.
                tracing::warn!(%error, "http accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (entry, cut) = (entry.clone(), cut.clone());
        if let Some(tls) = &tls {
            let (tls, watcher) = (Arc::clone(tls), graceful.watcher());
            let connection = async move {
                let (stream, certificate) = tls.accept(stream).await?;
                watcher.watch(connection(stream, entry, peer, certificate)).await
            };
            tasks.spawn_contained("https connection", until(cut, connection, peer, slot));
            continue;
        }
        let watched = graceful.watch(connection(stream, entry, peer, None));
        tasks.spawn_contained("http connection", until(cut, watched, peer, slot));
    }
    drop(listener);
    let linger = drain_max / LINGER_PART;
    // All slots are free once all connections have ended.
    let _ = tokio::time::timeout(linger, slots.acquire_many(slots_max)).await;
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = tokio::time::timeout(drain_max - linger, graceful.shutdown()).await;
    }
    cut.cancel();
}

/// Says in an answer of HTTP/1 that its connection ends; HTTP/2 has a frame for that.
fn end(entry: &Entry, version: Version, mut response: Response) -> Response {
    if entry.is_draining() && version <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Runs a connection to its end, or until `cut`.
async fn until(
    cut: CancellationToken,
    connection: impl Future<Output = Result<(), BoxError>>,
    peer: SocketAddr,
    slot: impl Send,
) {
    if let Some(Err(error)) = cut.run_until_cancelled(connection).await {
        tracing::debug!(%peer, %error, "http connection ended");
    }
    drop(slot);
}

/// A connection of `peer`, whose requests name it, and its certificate if it has one.
fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    entry: Entry,
    peer: SocketAddr,
    certificate: Option<Certificate>,
) -> impl GracefulConnection<Error = BoxError> {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (version, at) = (request.version(), entry.clone());
        let mut request: Request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo::<SocketAddr>(peer));
        if let Some(certificate) = &certificate {
            extensions.insert(certificate.clone());
        }
        let answered = entry.answer(request);
        answered.map(move |response| Ok::<_, Infallible>(end(&at, version, response)))
    });
    builder().serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned()
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX + (64 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    builder
}
