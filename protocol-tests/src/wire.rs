//! A Kafka client of few lines, for requests that no stock client of ours can send.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    FetchRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Less than the longest poll of a test: an answer that comes only with its end is none.
const PATIENCE: Duration = Duration::from_secs(50);

/// One connection; requests are answered before the next one is sent.
pub struct Wire {
    stream: TcpStream,
    correlation_id: i32,
}

impl Wire {
    /// Connects to `HOST:PORT`.
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        Self { stream, correlation_id: 0 }
    }

    /// Sends a request and waits for its answer.
    pub async fn call<Q: Request>(&mut self, version: i16, request: &Q) -> Q::Response {
        self.correlation_id += 1;
        let frame = frame(version, request, self.correlation_id);
        self.stream.write_all(&frame).await.expect("the server reads");
        self.answer::<Q>(version).await
    }

    /// Waits for the answer to a request that was sent.
    async fn answer<Q: Request>(&mut self, version: i16) -> Q::Response {
        tokio::time::timeout(PATIENCE, self.receive::<Q::Response>(version))
            .await
            .expect("the answer comes")
    }

    /// Sends one batch of these values and waits for the answer of its partition.
    pub async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        values: &[&str],
    ) -> PartitionProduceResponse {
        self.produce_batch(topic, partition, batch(values, 1_000)).await
    }

    /// Sends these bytes as a batch and waits for the answer of its partition.
    pub async fn produce_batch(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Bytes,
    ) -> PartitionProduceResponse {
        let mut response = self.call(9, &produce_request(topic, partition, batch)).await;
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Sends a produce request one byte a write, and waits for the answer of its partition.
    pub async fn produce_by_bytes(
        &mut self,
        topic: &str,
        values: &[&str],
    ) -> PartitionProduceResponse {
        self.correlation_id += 1;
        let request = produce_request(topic, 0, batch(values, 1_000));
        let frame = frame(9, &request, self.correlation_id);
        self.stream.set_nodelay(true).expect("the socket is open");
        for byte in frame {
            self.stream.write_all(&[byte]).await.expect("the server reads");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut response = self.answer::<ProduceRequest>(9).await;
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Fetches from the start of a topic's first partition; the bytes that came.
    pub async fn fetch(&mut self, topic: &str, bytes_max: i32) -> usize {
        let mut response = self.call(FETCH_VERSION, &fetch_request(topic, bytes_max)).await;
        assert_eq!(response.error_code, 0);
        let partition = response.responses.remove(0).partitions.remove(0);
        assert_eq!(partition.error_code, 0);
        partition.records.map_or(0, |records| records.len())
    }

    /// Sends bytes as they are, as far as the server takes them.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads so many bytes as they are.
    pub async fn read_raw(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut bytes))
            .await
            .expect("the bytes come")
            .expect("the server answers");
        bytes
    }

    /// Says that no more will be sent.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        self.stream.shutdown().await
    }

    /// Reads until the server closes the connection; the bytes that came. None: it is still open
    /// after `patience`.
    pub async fn until_closed(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.stream.read_to_end(&mut bytes);
        // A reset is an end as well.
        tokio::time::timeout(patience, read).await.ok().map(|_| bytes)
    }

    async fn receive<R: Decodable + HeaderVersion>(&mut self, version: i16) -> R {
        let size = self.stream.read_u32().await.expect("the server answers");
        let mut body = vec![0; size as usize];
        self.stream.read_exact(&mut body).await.expect("the answer is whole");
        let mut body = Bytes::from(body);
        let header = ResponseHeader::decode(&mut body, R::header_version(version))
            .expect("the header can be read");
        assert_eq!(header.correlation_id, self.correlation_id);
        let response = R::decode(&mut body, version).expect("the answer can be read");
        assert_eq!(body.remaining(), 0, "bytes follow the answer");
        response
    }
}

/// Version of [`fetch_request`].
pub const FETCH_VERSION: i16 = 12;

/// A whole request frame, its size in front.
pub fn frame<Q: Request>(version: i16, request: &Q, correlation_id: i32) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(Q::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some("test".into()));
    let mut body = BytesMut::new();
    header.encode(&mut body, Q::header_version(version)).expect("the header is valid");
    request.encode(&mut body, version).expect("the request is valid");
    let mut frame = BytesMut::new();
    frame.put_u32(u32::try_from(body.len()).expect("requests are small"));
    frame.extend_from_slice(&body);
    frame.freeze()
}

/// A produce request of one batch.
pub fn produce_request(topic: &str, partition: i32, batch: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

/// A fetch of at most `bytes_max` from the start of a topic's first partition.
pub fn fetch_request(topic: &str, bytes_max: i32) -> FetchRequest {
    let partition = FetchPartition::default().with_partition_max_bytes(bytes_max);
    let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(bytes_max)
        .with_topics(vec![topic])
}

/// A name as requests carry it.
pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// One uncompressed batch of records without key, all of one time.
pub fn batch(values: &[&str], timestamp_ms: i64) -> Bytes {
    let record = |(offset, value): (i64, &&str)| Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        // None: -1 at the first record, and they count up.
        sequence: offset as i32 - 1,
        timestamp: timestamp_ms,
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Default::default(),
    };
    let records: Vec<Record> = (0..).zip(values).map(record).collect();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    let mut bytes = BytesMut::new();
    RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("the batch is valid");
    bytes.freeze()
}
