//! Accepts HTTP connections under a limit, with deadlines, and drains them at shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, Version, header};
use axum::response::Response;
use futures::future::{Either, select};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use crate::http::deadlines::Deadlines;
use crate::http::patience::Patient;
use crate::http::starting::Entry;
use crate::http::tls::{Certificate, Tls};
use crate::runtime::{Tasks, WhenWoken};

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
    let ending = Ending::default();
    let slots_max = u32::try_from(connections_max.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let slots = Arc::new(Semaphore::new(slots_max as usize));
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
        let (entry, ending) = (entry.clone(), ending.clone());
        if let Some(tls) = &tls {
            let tls = Arc::clone(tls);
            let connection = async move {
                let accepted = ending.unless_cut(tls.accept(stream)).await;
                let Some(accepted) = accepted else { return Ok(()) };
                let (stream, certificate) = accepted?;
                ending.until(connection(stream, entry, peer, certificate)).await
            };
            tasks.spawn_contained("https connection", held(connection, peer, slot));
            continue;
        }
        let connection = async move { ending.until(connection(stream, entry, peer, None)).await };
        tasks.spawn_contained("http connection", held(connection, peer, slot));
    }
    drop(listener);
    let linger = drain_max / LINGER_PART;
    // All slots are free once all connections have ended.
    let _ = tokio::time::timeout(linger, slots.acquire_many(slots_max)).await;
    ending.graceful.cancel();
    let _ = tokio::time::timeout(drain_max - linger, slots.acquire_many(slots_max)).await;
    ending.cut.cancel();
}

/// How connections end with the server.
#[derive(Clone, Default)]
struct Ending {
    /// They take no further request.
    graceful: CancellationToken,
    /// They are closed; after that.
    cut: CancellationToken,
}

impl Ending {
    /// Runs a connection to its end, or until it is cut.
    async fn until<C: GracefulConnection<Error = BoxError>>(
        self,
        connection: C,
    ) -> Result<(), BoxError> {
        let mut connection = pin!(connection);
        let graceful = WhenWoken::new(self.graceful.clone().cancelled_owned());
        match select(&mut connection, graceful).await {
            Either::Left((ended, _)) => return ended,
            Either::Right(_) => connection.as_mut().graceful_shutdown(),
        }
        self.unless_cut(connection).await.unwrap_or(Ok(()))
    }

    /// What comes of `work`; none if it is cut.
    async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.cut.run_until_cancelled(work).await
    }
}

/// Says in an answer of HTTP/1 that its connection ends; HTTP/2 has a frame for that.
fn end(entry: &Entry, version: Version, mut response: Response) -> Response {
    if entry.is_draining() && version <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Runs a connection, which holds `slot` until it ends.
async fn held(
    connection: impl Future<Output = Result<(), BoxError>>,
    peer: SocketAddr,
    slot: impl Send,
) {
    if let Err(error) = connection.await {
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
        let (version, entry) = (request.version(), entry.clone());
        let mut request: Request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo::<SocketAddr>(peer));
        if let Some(certificate) = &certificate {
            extensions.insert(certificate.clone());
        }
        async move {
            let response = entry.answer(request).await;
            Ok::<_, Infallible>(end(&entry, version, response))
        }
    });
    builder()
        .serve_connection_with_upgrades(TokioIo::new(Patient::new(stream)), service)
        .into_owned()
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(Deadlines::default())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX + (64 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    builder
}
