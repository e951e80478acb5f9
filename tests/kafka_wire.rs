//! The Kafka wire over a real log: requests as stock clients send them, through a socket, to disk
//! and back.

#![allow(clippy::unwrap_used, reason = "a test may unwrap")]

mod stack;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use stack::{Client, Stack};

use floe::record::{BatchBuilder, Codec, NewRecord};

fn name(text: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(text))
}

fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        let value = Some(value.as_bytes());
        builder.push(&NewRecord { key: None, value, headers: &[], timestamp: 1_000 }).unwrap();
    }
    builder.build(Codec::None).unwrap()
}

/// The batch as an idempotent producer sends it.
fn idempotent(values: &[&str], producer: i64, sequence: i32) -> Bytes {
    let mut bytes = BytesMut::from(&batch(values)[..]);
    bytes[43..51].copy_from_slice(&producer.to_be_bytes());
    bytes[51..53].copy_from_slice(&0_i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = floe::record::header::crc_of(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

fn produce(topic: &'static str, acks: i16, parts: Vec<(i32, Bytes)>) -> ProduceRequest {
    use produce_request::{PartitionProduceData, TopicProduceData};
    let parts = parts
        .into_iter()
        .map(|(index, records)| {
            PartitionProduceData::default().with_index(index).with_records(Some(records))
        })
        .collect();
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![
        TopicProduceData::default().with_name(name(topic)).with_partition_data(parts),
    ])
}

fn fetch(topic: &'static str, index: i32, offset: i64, wait_ms: i32) -> FetchRequest {
    use fetch_request::{FetchPartition, FetchTopic};
    let partition = FetchPartition::default()
        .with_partition(index)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_topics(vec![
            FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]),
        ])
}

fn metadata(topic: &'static str) -> MetadataRequest {
    use metadata_request::MetadataRequestTopic;
    let topic = MetadataRequestTopic::default().with_name(Some(name(topic)));
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true)
}

/// Errors and base offsets of the partitions of a Produce answer.
fn produced(response: &ProduceResponse) -> Vec<(i16, i64)> {
    let parts = &response.responses[0].partition_responses;
    parts.iter().map(|part| (part.error_code, part.base_offset)).collect()
}

fn fetched(response: &FetchResponse) -> (i16, i64, usize) {
    let part = &response.responses[0].partitions[0];
    (part.error_code, part.high_watermark, part.records.as_ref().expect("never null").len())
}

async fn topic(client: &mut Client, topic: &'static str) {
    let response: MetadataResponse = client.call(9, &metadata(topic)).await;
    assert_eq!(response.topics[0].error_code, 0);
    assert_eq!(response.topics[0].partitions.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn produce_and_fetch_go_through_the_log_in_every_version() {
    let stack = Stack::start(&[]).await;
    let mut client = stack.client().await;
    topic(&mut client, "t").await;
    let mut offset = 0;
    for version in 3..=9 {
        let parts = vec![(0, batch(&["a", "b"])), (9, batch(&["x"])), (1, Bytes::new())];
        let response: ProduceResponse = client.call(version, &produce("t", -1, parts)).await;
        assert_eq!(produced(&response), [(0, offset), (3, -1), (87, -1)], "version {version}");
        offset += 2;
    }
    for version in 4..=12 {
        let response: FetchResponse = client.call(version, &fetch("t", 0, 3, 0)).await;
        let (code, end, len) = fetched(&response);
        // The batch that contains offset 3, and all after it.
        assert_eq!((code, end, len), (0, 14, 6 * batch(&["a", "b"]).len()), "version {version}");
        let response: FetchResponse = client.call(version, &fetch("t", 0, 15, 1_000)).await;
        assert_eq!(fetched(&response), (1, 14, 0), "out of range answers at once");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_an_idempotent_producer_gets_the_original_offset() {
    let stack = Stack::start(&[]).await;
    let mut client = stack.client().await;
    topic(&mut client, "t").await;
    let id: InitProducerIdResponse =
        client.call(4, &InitProducerIdRequest::default().with_transactional_id(None)).await;
    assert_eq!((id.error_code, id.producer_epoch), (0, 0));
    let producer = id.producer_id.0;
    let send = |sequence| produce("t", -1, vec![(0, idempotent(&["a"], producer, sequence))]);
    // Three in flight at once: their order is that of arrival.
    for sequence in [0, 1, 1, 5] {
        client.send(9, &send(sequence)).await;
    }
    let mut results = Vec::new();
    for _ in 0..4 {
        let response: ProduceResponse = client.receive(9).await;
        results.push(produced(&response)[0]);
    }
    assert_eq!(results, [(0, 0), (0, 1), (0, 1), (45, -1)]);
    stack.stop().await;
}

/// A consumer that asks for as much as it takes would else wait its whole time for each answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_its_limit_ends_does_not_wait_for_more_bytes() {
    let stack = Stack::start(&[]).await;
    let mut client = stack.client().await;
    topic(&mut client, "t").await;
    let value = "x".repeat(1_000);
    for _ in 0..3 {
        let parts = vec![(0, batch(&[&value]))];
        let _: ProduceResponse = client.call(9, &produce("t", -1, parts)).await;
    }
    let mut request = fetch("t", 0, 0, 60_000).with_min_bytes(2_500);
    request.topics[0].partitions[0].partition_max_bytes = 2_500;
    let answer = client.call(12, &request);
    let answer: FetchResponse =
        tokio::time::timeout(std::time::Duration::from_secs(20), answer).await.unwrap();
    assert_eq!(fetched(&answer), (0, 3, 2 * batch(&[&value]).len()));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_answers_when_a_record_comes() {
    let stack = Stack::start(&[]).await;
    let mut producer = stack.client().await;
    topic(&mut producer, "t").await;
    let mut consumer = stack.client().await;
    consumer.send(12, &fetch("t", 2, 0, 60_000)).await;
    let response: ProduceResponse =
        producer.call(9, &produce("t", 1, vec![(2, batch(&["a"]))])).await;
    assert_eq!(produced(&response), [(0, 0)]);
    let response: FetchResponse = consumer.receive(12).await;
    assert_eq!(fetched(&response), (0, 1, batch(&["a"]).len()));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_0_has_no_answer_and_an_error_closes() {
    let stack = Stack::start(&[]).await;
    let mut client = stack.client().await;
    topic(&mut client, "t").await;
    client.send(9, &produce("t", 0, vec![(0, batch(&["a"]))])).await;
    // The next answer belongs to the next request.
    let response: FetchResponse = client.call(12, &fetch("t", 0, 0, 10_000)).await;
    assert_eq!(fetched(&response).1, 1);
    client.send(9, &produce("missing", 0, vec![(0, batch(&["a"]))])).await;
    assert!(client.is_closed().await);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_made_described_altered_grown_and_deleted() {
    use create_topics_request::CreatableTopic;
    use describe_configs_request::DescribeConfigsResource;
    let stack = Stack::start(&[]).await;
    let mut client = stack.client().await;
    let wanted = CreatableTopic::default()
        .with_name(name("t"))
        .with_num_partitions(-1)
        .with_replication_factor(3);
    let twice = CreatableTopic::default().with_name(name("u")).with_num_partitions(1);
    let request = CreateTopicsRequest::default().with_topics(vec![wanted, twice.clone(), twice]);
    for (version, first) in [(7, 0), (2, 36)] {
        let response: CreateTopicsResponse = client.call(version, &request).await;
        let codes: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [first, 42]);
    }
    let resource =
        DescribeConfigsResource::default().with_resource_type(2).with_resource_name("t".into());
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource.with_configuration_keys(None)]);
    for version in 1..=4 {
        let response: DescribeConfigsResponse = client.call(version, &request).await;
        let result = &response.results[0];
        assert_eq!(result.error_code, 0);
        for key in ["cleanup.policy", "retention.ms", "max.message.bytes", "segment.bytes"] {
            assert!(result.configs.iter().any(|config| config.name.as_str() == key), "{key}");
        }
    }
    let grow = create_partitions_request::CreatePartitionsTopic::default()
        .with_name(name("t"))
        .with_count(6)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default().with_topics(vec![grow]);
    for (version, code) in [(3, 0), (0, 37)] {
        let response: CreatePartitionsResponse = client.call(version, &request).await;
        assert_eq!(response.results[0].error_code, code);
    }
    let request = DeleteTopicsRequest::default().with_topic_names(vec![name("t")]);
    for (version, code) in [(5, 0), (1, 3)] {
        let response: DeleteTopicsResponse = client.call(version, &request).await;
        assert_eq!(response.responses[0].error_code, code);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_offsets_finds_ends_and_timestamps() {
    use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    let stack = Stack::start(&[]).await;
    let mut client = stack.client().await;
    topic(&mut client, "t").await;
    let _: ProduceResponse = client.call(9, &produce("t", 1, vec![(0, batch(&["a", "b"]))])).await;
    for (timestamp, wanted) in [(-1, (2, -1)), (-2, (0, -1)), (500, (0, 1_000)), (2_000, (-1, -1))]
    {
        for version in 1..=8 {
            let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
            let topic =
                ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
            let request = ListOffsetsRequest::default().with_topics(vec![topic]);
            let response: ListOffsetsResponse = client.call(version, &request).await;
            let part = &response.topics[0].partitions[0];
            assert_eq!((part.offset, part.timestamp), wanted, "{timestamp} in {version}");
        }
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_probes_close_only_their_connection() {
    let stack = Stack::start(&[]).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        // Metadata version 9 with an array of 4 billion topics.
        &[0, 0, 0, 16, 0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0x0f],
        // JoinGroup, which is not advertised.
        &[0, 0, 0, 8, 0, 11, 0, 0, 0, 0, 0, 1],
        // Produce version 2.
        &[0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 1],
    ] {
        let mut client = stack.client().await;
        client.send_bytes(bytes).await;
        assert!(client.is_closed().await, "{bytes:?}");
    }
    let mut client = stack.client().await;
    let response: ApiVersionsResponse = client
        .call(
            4,
            &ApiVersionsRequest::default()
                .with_client_software_name("t".into())
                .with_client_software_version("1".into()),
        )
        .await;
    assert_eq!((response.error_code, response.api_keys.len()), (0, floe::kafka::api::APIS.len()));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_limit_closes_what_is_too_much() {
    let stack = Stack::start(&[("kafka.connections.max", "1")]).await;
    let mut first = stack.client().await;
    topic(&mut first, "t").await;
    let mut second = stack.client().await;
    assert!(second.is_closed().await);
    topic(&mut first, "t").await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_waits_for_min_bytes_over_all_its_partitions() {
    let stack = Stack::start(&[]).await;
    let mut producer = stack.client().await;
    topic(&mut producer, "t").await;
    let size = batch(&["a"]).len();
    let mut request = fetch("t", 0, 0, 60_000);
    let other = request.topics[0].partitions[0].clone().with_partition(3);
    request.topics[0].partitions.push(other);
    // On disk a batch takes more than its own bytes: three of them are surely there at four.
    request.min_bytes = (3 * size) as i32;
    let mut consumer = stack.client().await;
    consumer.send(12, &request).await;
    for index in [0, 3, 0, 3] {
        let parts = vec![(index, batch(&["a"]))];
        let _: ProduceResponse = producer.call(9, &produce("t", 1, parts)).await;
    }
    let response: FetchResponse = consumer.receive(12).await;
    let parts = &response.responses[0].partitions;
    let bytes: usize = parts.iter().map(|part| part.records.as_ref().unwrap().len()).sum();
    assert!(bytes >= 3 * size, "{bytes}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_fetch_are_soft_for_the_first_partition_only() {
    let stack = Stack::start(&[]).await;
    let mut client = stack.client().await;
    topic(&mut client, "t").await;
    let size = batch(&["a"]).len();
    for _ in 0..3 {
        let parts = vec![(0, batch(&["a"])), (1, batch(&["a"]))];
        let _: ProduceResponse = client.call(9, &produce("t", 1, parts)).await;
    }
    for (max_bytes, wanted) in
        [(1, [1, 0]), (2 * size, [2, 0]), (4 * size, [3, 1]), (100 * size, [3, 3])]
    {
        let mut request = fetch("t", 0, 0, 1_000).with_max_bytes(max_bytes as i32);
        let other = request.topics[0].partitions[0].clone().with_partition(1);
        request.topics[0].partitions.push(other);
        let response: FetchResponse = client.call(12, &request).await;
        let parts = &response.responses[0].partitions;
        let batches: Vec<_> =
            parts.iter().map(|part| part.records.as_ref().unwrap().len() / size).collect();
        assert_eq!(batches, wanted, "max_bytes {max_bytes}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_append_time_is_stamped_told_and_found_again() {
    use create_topics_request::{CreatableTopic, CreatableTopicConfig};
    use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    let stack = Stack::start(&[]).await;
    let mut client = stack.client().await;
    let config = CreatableTopicConfig::default()
        .with_name("message.timestamp.type".into())
        .with_value(Some("LogAppendTime".into()));
    let wanted = CreatableTopic::default()
        .with_name(name("t"))
        .with_num_partitions(1)
        .with_replication_factor(1)
        .with_configs(vec![config]);
    let _: CreateTopicsResponse =
        client.call(7, &CreateTopicsRequest::default().with_topics(vec![wanted])).await;
    let before_ms = chrono::Utc::now().timestamp_millis();
    let response: ProduceResponse =
        client.call(9, &produce("t", -1, vec![(0, batch(&["a", "b"]))])).await;
    let told_ms = response.responses[0].partition_responses[0].log_append_time_ms;
    assert!((before_ms..=chrono::Utc::now().timestamp_millis()).contains(&told_ms), "{told_ms}");
    let response: FetchResponse = client.call(12, &fetch("t", 0, 0, 0)).await;
    let bytes = response.responses[0].partitions[0].records.clone().unwrap();
    let header = floe::record::BatchHeader::parse(&bytes).unwrap();
    assert!(header.is_log_append_time());
    assert_eq!(header.max_timestamp, told_ms);
    assert_eq!(floe::record::header::crc_of(&bytes), header.crc, "consumers check it");
    let mut reader = floe::record::BatchReader::new();
    let times: Vec<_> =
        reader.records(&bytes).unwrap().map(|record| record.unwrap().timestamp).collect();
    assert_eq!(times, [told_ms, told_ms]);
    for (asked, wanted) in [(1_001, (0, told_ms)), (told_ms, (0, told_ms)), (told_ms + 1, (-1, -1))]
    {
        let partition = ListOffsetsPartition::default().with_timestamp(asked);
        let topic =
            ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_topics(vec![topic]);
        let response: ListOffsetsResponse = client.call(7, &request).await;
        let part = &response.topics[0].partitions[0];
        assert_eq!((part.offset, part.timestamp), wanted, "{asked}");
    }
    stack.stop().await;
}
