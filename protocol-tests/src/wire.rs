//! A Kafka client of few lines, for requests that no stock client of ours can send.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ProduceRequest, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

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
        let header = RequestHeader::default()
            .with_request_api_key(Q::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some("test".into()));
        let mut body = BytesMut::new();
        header.encode(&mut body, Q::header_version(version)).expect("the header is valid");
        request.encode(&mut body, version).expect("the request is valid");
        let mut frame = BytesMut::new();
        frame.put_u32(u32::try_from(body.len()).expect("requests are small"));
        frame.extend_from_slice(&body);
        self.stream.write_all(&frame).await.expect("the server reads");
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
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(batch(values, 1_000)));
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        let mut response = self.call(9, &request).await;
        response.responses.remove(0).partition_responses.remove(0)
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
