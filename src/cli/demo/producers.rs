//! Two small producers: one speaks the Kafka protocol, one HTTP.

use std::net::SocketAddr;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, MetadataRequest, ProduceRequest, ProduceResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, StrBytes};
use tokio::net::TcpStream;

use crate::cli::wire::call;
use crate::record::{BatchBuilder, Codec, NewRecord};

const CITIES: &[&str] = &["Oslo", "Lagos", "Lima", "Kyoto", "Quito"];
const METADATA_VERSION: i16 = 9;
const PRODUCE_VERSION: i16 = 9;

fn event(source: &str, number: usize) -> String {
    let city = CITIES[number % CITIES.len()];
    let price = (number * 137 % 10_000) as f64 / 100.0;
    format!(
        "{{\"id\":{number},\"source\":\"{source}\",\"city\":\"{city}\",\"price\":{price:.2},\
         \"paid\":{}}}",
        number.is_multiple_of(3)
    )
}

/// POSTs events as NDJSON, a hundred a request.
pub(super) async fn http(address: SocketAddr, events: usize) -> Result<(), String> {
    let client = reqwest::Client::new();
    let numbers: Vec<usize> = (0..events).collect();
    for part in numbers.chunks(100) {
        let lines: Vec<String> = part.iter().map(|number| event("http", *number)).collect();
        let response = client
            .post(format!("http://{address}/api/v1/topics/orders/events"))
            .header("content-type", "application/x-ndjson")
            .body(lines.join("\n"))
            .send()
            .await
            .map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(response.text().await.unwrap_or_default());
        }
    }
    Ok(())
}

/// Produces events as a Kafka client does: metadata makes the topic, then batches with acks all.
pub(super) async fn kafka(address: SocketAddr, events: usize) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let topic = TopicName(StrBytes::from_static_str("orders"));
    let metadata = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic.clone()))]))
        .with_allow_auto_topic_creation(true);
    call(&mut stream, ApiKey::Metadata, METADATA_VERSION, &metadata).await?;
    let numbers: Vec<usize> = (0..events).collect();
    for (turn, part) in numbers.chunks(100).enumerate() {
        let mut builder = BatchBuilder::new();
        for number in part {
            let value = event("kafka", *number);
            let key = number.to_string();
            let record = NewRecord {
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                headers: &[],
                timestamp: 1_700_000_000_000 + *number as i64,
            };
            builder.push(&record).map_err(|error| error.to_string())?;
        }
        let records = builder.build(Codec::Lz4).map_err(|error| error.to_string())?;
        let index = i32::try_from(turn % 4).unwrap_or(0);
        let data = PartitionProduceData::default().with_index(index).with_records(Some(records));
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![
                TopicProduceData::default()
                    .with_name(topic.clone())
                    .with_partition_data(vec![data]),
            ]);
        let mut answer = call(&mut stream, ApiKey::Produce, PRODUCE_VERSION, &request).await?;
        let answer = ProduceResponse::decode(&mut answer, PRODUCE_VERSION)
            .map_err(|error| error.to_string())?;
        let partitions = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
        if let Some(failed) = partitions.into_iter().find(|partition| partition.error_code != 0) {
            return Err(format!("produce answered error {}", failed.error_code));
        }
    }
    Ok(())
}
