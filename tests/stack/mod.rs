//! A broker without tables, on free ports and a temporary folder, and a client of few lines.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use floe::broker::{Broker, Components};
use floe::config::{Config, Settings};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Stack {
    broker: Broker,
    _folder: tempfile::TempDir,
}

impl Stack {
    pub(crate) async fn start(more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data").to_string_lossy().into_owned();
        let base = [
            ("data.dir", data.as_str()),
            ("kafka.listen", "127.0.0.1:0"),
            ("http.listen", "127.0.0.1:0"),
            ("wal.file.bytes", "8MiB"),
            ("disk.free.min.bytes", "1MiB"),
            ("table.mode", "off"),
        ];
        let mut settings = Settings::new();
        for (key, value) in base.iter().chain(more) {
            settings.insert((*key).to_owned(), vec![(*value).to_owned()]);
        }
        let config = Config::resolve(&settings, &["table.mode"]).unwrap();
        let components = Components::real(Arc::new(|reason| panic!("fatal: {reason}")));
        let broker = Broker::start(&config, components).await.unwrap();
        Self { broker, _folder: folder }
    }

    pub(crate) async fn client(&self) -> Client {
        let stream = TcpStream::connect(self.broker.kafka_addresses()[0].1).await.unwrap();
        Client { stream, correlation_id: 0, next_answer: 0 }
    }

    pub(crate) async fn stop(self) {
        self.broker.stop(Duration::from_secs(8)).await;
    }
}

/// Sends requests one after another and reads their answers in order.
pub(crate) struct Client {
    stream: TcpStream,
    correlation_id: i32,
    next_answer: i32,
}

/// Less than the longest poll of a test: an answer that comes only with its end is none.
const PATIENCE: Duration = Duration::from_secs(45);

impl Client {
    pub(crate) async fn send<Q: Request>(&mut self, version: i16, request: &Q) {
        let header = RequestHeader::default()
            .with_request_api_key(Q::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some("test".into()));
        self.correlation_id += 1;
        let mut body = BytesMut::new();
        header.encode(&mut body, Q::header_version(version)).unwrap();
        request.encode(&mut body, version).unwrap();
        let mut frame = BytesMut::new();
        frame.put_i32(body.len() as i32);
        frame.extend_from_slice(&body);
        self.send_bytes(&frame).await;
        if Q::KEY == ApiKey::Produce as i16 && is_unacked(&body, version) {
            // It has no answer.
            self.next_answer += 1;
        }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn receive<R: Decodable + HeaderVersion>(&mut self, version: i16) -> R {
        let read = async {
            let size = self.stream.read_i32().await.unwrap();
            let mut body = vec![0; size as usize];
            self.stream.read_exact(&mut body).await.unwrap();
            Bytes::from(body)
        };
        let mut body = tokio::time::timeout(PATIENCE, read).await.expect("no answer");
        let header = ResponseHeader::decode(&mut body, R::header_version(version)).unwrap();
        assert_eq!(header.correlation_id, self.next_answer);
        self.next_answer += 1;
        let response = R::decode(&mut body, version).unwrap();
        assert_eq!(body.remaining(), 0);
        response
    }

    pub(crate) async fn call<Q: Request>(&mut self, version: i16, request: &Q) -> Q::Response {
        self.send(version, request).await;
        self.receive(version).await
    }

    /// True once the server has closed without a byte more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut byte)).await;
        matches!(read.expect("still open"), Ok(0) | Err(_))
    }
}

/// True if the Produce request in `body` has acks 0.
fn is_unacked(body: &BytesMut, version: i16) -> bool {
    use kafka_protocol::messages::ProduceRequest;
    let mut body = body.clone().freeze();
    RequestHeader::decode(&mut body, ProduceRequest::header_version(version)).unwrap();
    ProduceRequest::decode(&mut body, version).unwrap().acks == 0
}
