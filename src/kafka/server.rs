//! Listeners: accepts connections under a limit and names the address a client gets back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::kafka::connection::{self, Shared};
use crate::kafka::dispatch::{Deps, Dispatcher, Session};
use crate::kafka::fault::Fault;
use crate::kafka::memory::FrameMemory;
use crate::runtime::{Tasks, metrics as names};

/// A bound listener of the Kafka wire.
pub struct Listener {
    /// Its name, for messages (`default`, `internal`, ...).
    pub name: String,
    /// Bound already, so that a taken port is an error of the start.
    pub socket: TcpListener,
    /// Host and port that clients of this listener are told. Without it a wildcard bind answers with
    /// the connection's own local address, any other bind with the bound address.
    pub advertised: Option<(String, u16)>,
}

/// How long accepting pauses after the system refused (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The Kafka side of the broker.
pub struct KafkaServer {
    deps: Deps,
    tasks: Tasks,
    stop: CancellationToken,
    connections: Arc<Semaphore>,
    requests: FrameMemory,
}

impl KafkaServer {
    /// A server that stops when `stop` fires: it accepts no more, answers what is in flight and
    /// closes.
    pub fn new(deps: Deps, tasks: Tasks, stop: CancellationToken) -> Self {
        let options = &deps.options;
        let connections = Arc::new(Semaphore::new(options.connections_max.max(1)));
        let requests = FrameMemory::new(options.request_bytes_max);
        Self { deps, tasks, stop, connections, requests }
    }

    /// Starts one accepting task per listener and returns.
    pub fn serve(self, listeners: Vec<Listener>) {
        let server = Arc::new(self);
        for listener in listeners {
            let server = Arc::clone(&server);
            server.tasks.clone().spawn("kafka-accept", server.accept(listener));
        }
    }

    async fn accept(self: Arc<Self>, listener: Listener) {
        let local = listener.socket.local_addr().ok();
        let listener = Arc::new(ListenerState { listener, local, warned: AtomicBool::new(false) });
        let mut full = false;
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.listener.socket.accept() => accepted,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listener = listener.listener.name, %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
                if !full {
                    let max = self.deps.options.connections_max;
                    tracing::warn!(%client, max, "connection limit reached, closing new ones");
                }
                full = true;
                metrics::counter!(names::KAFKA_ERRORS, "reason" => "connection_limit").increment(1);
                continue;
            };
            full = false;
            let server = Arc::clone(&self);
            let listener = Arc::clone(&listener);
            self.tasks.spawn_contained("kafka-connection", async move {
                server.connection(stream, client, &listener, permit).await;
            });
        }
    }

    async fn connection(
        &self,
        mut stream: TcpStream,
        client: SocketAddr,
        listener: &ListenerState,
        _permit: OwnedSemaphorePermit,
    ) {
        let _open = OpenConnection::new();
        // Answers are whole when they are written: Nagle would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%client, %error, "TCP_NODELAY is refused");
        }
        let closing = CancellationToken::new();
        let (host, port) = listener.advertised(&stream);
        let session = Session { client, host, port: i32::from(port), closing: closing.clone() };
        let dispatcher = Dispatcher::new(self.deps.clone(), session);
        let shared = Shared {
            options: &self.deps.options,
            requests: &self.requests,
            answers: &self.deps.fetched,
            stop: &self.stop,
            closing: &closing,
        };
        let (reader, writer) = stream.split();
        let end = connection::serve(reader, writer, &dispatcher, &shared).await;
        // Whatever else waits for this connection must not outlive it.
        closing.cancel();
        if let Err(fault) = end {
            report(client, &listener.listener.name, &fault);
        }
    }
}

fn report(client: SocketAddr, listener: &str, fault: &Fault) {
    metrics::counter!(names::KAFKA_ERRORS, "reason" => fault.label()).increment(1);
    if fault.is_notable() {
        tracing::warn!(%client, listener, reason = %fault, "kafka connection closed");
    } else {
        tracing::debug!(%client, listener, reason = %fault, "kafka connection closed");
    }
}

/// Counts a connection while it lives.
struct OpenConnection;

impl OpenConnection {
    fn new() -> Self {
        metrics::gauge!(names::KAFKA_CONNECTIONS).increment(1);
        Self
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        metrics::gauge!(names::KAFKA_CONNECTIONS).decrement(1);
    }
}

struct ListenerState {
    listener: Listener,
    local: Option<SocketAddr>,
    warned: AtomicBool,
}

impl ListenerState {
    /// What clients of this connection are told to connect to.
    fn advertised(&self, stream: &TcpStream) -> (String, u16) {
        let own = stream.local_addr().ok();
        if self.is_guess() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                listener = self.listener.name,
                "this listener is bound to all addresses and has none to advertise: clients are told \
                 the address they reached; set --kafka-advertise where that is not right (NAT, Docker)"
            );
        }
        advertised(self.listener.advertised.as_ref(), self.local, own)
    }

    fn is_guess(&self) -> bool {
        self.listener.advertised.is_none()
            && self.local.is_some_and(|local| local.ip().is_unspecified())
    }
}

/// The rule of what is advertised, apart from sockets.
fn advertised(
    configured: Option<&(String, u16)>,
    bound: Option<SocketAddr>,
    own: Option<SocketAddr>,
) -> (String, u16) {
    if let Some(configured) = configured {
        return configured.clone();
    }
    let address = match bound {
        Some(bound) if !bound.ip().is_unspecified() => Some(bound),
        _ => own.or(bound),
    };
    address.map_or_else(
        || ("127.0.0.1".to_owned(), 9092),
        |address| (plain_ip(address.ip()), address.port()),
    )
}

/// An IPv4 client of a dual-stack socket must not be told `::ffff:a.b.c.d`: many cannot parse it.
fn plain_ip(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn advertised_address_is_configured_then_bound_then_the_one_reached() {
        let configured = ("broker".to_owned(), 19092);
        let cases = [
            (Some(&configured), addr("0.0.0.0:9092"), addr("10.0.0.5:9092"), ("broker", 19092)),
            (None, addr("127.0.0.1:9092"), addr("127.0.0.1:9092"), ("127.0.0.1", 9092)),
            (None, addr("0.0.0.0:9092"), addr("10.0.0.5:9092"), ("10.0.0.5", 9092)),
            (None, addr("[::]:9092"), addr("[::ffff:10.0.0.5]:9092"), ("10.0.0.5", 9092)),
            (None, addr("[::]:9092"), addr("[::1]:9092"), ("::1", 9092)),
        ];
        for (configured, bound, own, (host, port)) in cases {
            assert_eq!(advertised(configured, bound, own), (host.to_owned(), port));
        }
    }
}
