//! Tokens at the Kafka port: stock librdkafka with SASL/PLAIN, and the states of a connection that
//! no stock client shows.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    InitProducerIdRequest, MetadataRequest, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use protocol_tests::wire::{self, Wire, name};
use protocol_tests::{Floe, WAIT_MAX};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use crate::Guarded;

const PATIENCE: Duration = Duration::from_secs(20);

fn config(floe: &Floe, token: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", floe.bootstrap())
        .set("security.protocol", "SASL_PLAINTEXT")
        .set("sasl.mechanism", "PLAIN")
        .set("sasl.username", "token")
        .set("sasl.password", token)
        .set("message.timeout.ms", "60000")
        .set("group.id", "unused");
    config
}

async fn send(floe: &Floe, token: &str, topic: &str) -> Result<(), KafkaError> {
    let producer: FutureProducer = config(floe, token).create().unwrap();
    let record = FutureRecord::<(), _>::to(topic).payload("{\"id\":1}");
    producer.send(record, WAIT_MAX).await.map(|_| ()).map_err(|(error, _)| error)
}

/// The first record of a topic, or why it cannot be read.
fn first(floe: &Floe, token: &str, topic: &str) -> Result<Vec<u8>, RDKafkaErrorCode> {
    let consumer: BaseConsumer = config(floe, token).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        assert!(Instant::now() < deadline, "neither a record nor an error");
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => return Ok(message.payload().unwrap().to_vec()),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => return Err(code),
                _ => continue,
            },
        }
    }
}

async fn create(floe: &Floe, token: &str, topic: &str) -> Result<(), RDKafkaErrorCode> {
    let admin: AdminClient<DefaultClientContext> = config(floe, token).create().unwrap();
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    let made = admin.create_topics(&[new], &AdminOptions::new()).await.unwrap().remove(0);
    made.map(|_| ()).map_err(|(_, code)| code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn librdkafka_writes_and_reads_with_a_token_and_within_its_rules() {
    let guarded = Guarded::start(&["--num-partitions", "1"]).await;
    let floe = &guarded.floe;
    create(floe, &guarded.admin, "orders-1").await.unwrap();
    send(floe, &guarded.admin, "orders-1").await.unwrap();
    let writer = guarded.token("writer", &["write:topic:orders-*"]).await;
    let reader = guarded.token("reader", &["read:topic:orders-*"]).await;
    send(floe, &writer, "orders-1").await.unwrap();
    assert_eq!(first(floe, &reader, "orders-1").unwrap(), b"{\"id\":1}");
    let denied = RDKafkaErrorCode::TopicAuthorizationFailed;
    assert_eq!(first(floe, &writer, "orders-1"), Err(denied));
    for (token, topic) in [(&reader, "orders-1"), (&writer, "other")] {
        let error = send(floe, token, topic).await.unwrap_err();
        assert_eq!(error.rdkafka_error_code(), Some(denied), "{topic}: {error}");
    }
    assert_eq!(create(floe, &writer, "orders-2").await, Err(denied));
    // A producer makes a topic where it may.
    let maker = guarded.token("maker", &["write:topic:made", "create:topic:made"]).await;
    send(floe, &maker, "made").await.unwrap();
    // An access token is a password as well.
    let form = format!("grant_type=client_credentials&client_secret={writer}");
    let request = guarded.request(reqwest::Method::POST, "/oauth/token", None).body(form);
    let answer: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
    send(floe, answer["access_token"].as_str().unwrap(), "orders-1").await.unwrap();
}

/// Keeps what librdkafka says of its connections.
#[derive(Clone, Default)]
struct Heard(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

impl ClientContext for Heard {
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.lock().unwrap().push(format!("{error:?} {reason}"));
    }
}

impl rdkafka::consumer::ConsumerContext for Heard {}

/// What it says until `is_enough`.
fn heard(config: &ClientConfig, is_enough: impl Fn(&str) -> bool) -> String {
    let heard = Heard::default();
    let consumer: BaseConsumer<Heard> = config.create_with_context(heard.clone()).unwrap();
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let _ = consumer.fetch_metadata(None, Duration::from_secs(3));
        consumer.poll(Duration::from_millis(100));
        let said = heard.0.lock().unwrap().join("\n");
        if is_enough(&said) || Instant::now() > deadline {
            return said;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn librdkafka_is_told_of_a_wrong_password_and_the_log_of_one_that_is_missing() {
    let guarded = Guarded::start(&[]).await;
    let wrong = config(&guarded.floe, "wrong");
    let said = heard(&wrong, |said| said.contains("Authentication failed"));
    assert!(said.contains("Authentication failed") && said.contains("floe token create"), "{said}");
    let mut plaintext = wrong;
    plaintext.set("security.protocol", "PLAINTEXT");
    let unsecured = "Metadata before authentication";
    heard(&plaintext, |_| guarded.floe.log().contains(unsecured));
    guarded.floe.printed("kafka authentication failed").await;
    let log = guarded.floe.printed(unsecured).await;
    assert!(log.contains("SASL_PLAINTEXT"), "{log}");
    assert!(!log.contains("wrong\""), "no password in the log");
}

fn handshake(mechanism: &'static str) -> SaslHandshakeRequest {
    SaslHandshakeRequest::default().with_mechanism(mechanism.into())
}

fn plain(token: &str) -> Bytes {
    Bytes::from(format!("\0user\0{token}"))
}

fn password(token: &str) -> SaslAuthenticateRequest {
    SaslAuthenticateRequest::default().with_auth_bytes(plain(token))
}

fn everything() -> MetadataRequest {
    MetadataRequest::default().with_topics(None)
}

pub(crate) async fn connected(guarded: &Guarded, token: &str) -> Wire {
    let mut wire = Wire::connect(&guarded.floe.bootstrap()).await;
    assert_eq!(wire.call(1, &handshake("PLAIN")).await.error_code, 0);
    assert_eq!(wire.call(2, &password(token)).await.error_code, 0);
    wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_authentication_only_what_leads_there_is_answered() {
    let guarded = Guarded::start(&[]).await;
    let address = guarded.floe.bootstrap();
    let mut wire = Wire::connect(&address).await;
    let versions = wire.call(0, &ApiVersionsRequest::default()).await;
    for (key, max) in [(17, 1), (36, 2)] {
        assert!(versions.api_keys.iter().any(|api| api.api_key == key && api.max_version == max));
    }
    for version in 0..=2 {
        assert_eq!(wire.call(0, &ApiVersionsRequest::default()).await.error_code, 0);
        let mut wire = Wire::connect(&address).await;
        assert_eq!(wire.call(1, &handshake("PLAIN")).await.error_code, 0);
        assert_eq!(wire.call(version, &password(&guarded.admin)).await.error_code, 0);
        assert_eq!(wire.call(9, &everything()).await.brokers.len(), 1);
        // Once is enough.
        assert_eq!(wire.call(1, &handshake("PLAIN")).await.error_code, 34);
        assert_eq!(wire.call(version, &password(&guarded.admin)).await.error_code, 34);
        assert_eq!(wire.call(9, &everything()).await.brokers.len(), 1);
    }
    // Whatever else comes first ends the connection: requests, passwords out of turn, large frames.
    let metadata = wire::frame(9, &everything(), 1);
    let early = wire::frame(1, &password(&guarded.admin), 1);
    let chosen = [wire::frame(1, &handshake("PLAIN"), 1), metadata.clone()].concat();
    let large = (1_i32 << 20).to_be_bytes();
    for bytes in [&metadata[..], &early, &chosen, &large] {
        let mut wire = Wire::connect(&address).await;
        wire.send_raw(bytes).await.unwrap();
        let got = wire.until_closed(PATIENCE).await.expect("the connection ends");
        // At most the answer to the handshake, if it was on its way.
        assert!(got.len() < 30, "{got:?}");
    }
    let mut wire = Wire::connect(&address).await;
    let answer = wire.call(1, &handshake("SCRAM-SHA-256")).await;
    assert_eq!((answer.error_code, answer.mechanisms[0].as_str()), (33, "PLAIN"));
    assert_eq!(wire.until_closed(PATIENCE).await, Some(vec![]));
    let mut wire = Wire::connect(&address).await;
    wire.call(1, &handshake("PLAIN")).await;
    let answer = wire.call(1, &password("wrong")).await;
    assert_eq!(answer.error_code, 58);
    assert!(answer.error_message.unwrap().contains("Authentication failed"));
    assert_eq!(wire.until_closed(PATIENCE).await, Some(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_handshake_takes_bare_messages() {
    let guarded = Guarded::start(&[]).await;
    let address = guarded.floe.bootstrap();
    let framed = |token: &str| {
        let message = plain(token);
        [&(message.len() as i32).to_be_bytes()[..], &message].concat()
    };
    let mut wire = Wire::connect(&address).await;
    assert_eq!(wire.call(0, &handshake("PLAIN")).await.error_code, 0);
    wire.send_raw(&framed(&guarded.admin)).await.unwrap();
    assert_eq!(wire.read_raw(4).await, [0; 4], "an empty frame");
    assert_eq!(wire.call(9, &everything()).await.brokers.len(), 1);
    let mut wire = Wire::connect(&address).await;
    wire.call(0, &handshake("PLAIN")).await;
    wire.send_raw(&framed("wrong")).await.unwrap();
    assert_eq!(wire.until_closed(PATIENCE).await, Some(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_its_token_and_with_the_first_token_of_all() {
    let guarded = Guarded::start(&[]).await;
    let gone = guarded.token("gone", &[]).await;
    let mut wire = connected(&guarded, &gone).await;
    guarded.revoke("gone").await;
    wire.send_raw(&wire::frame(9, &everything(), 9)).await.unwrap();
    assert_eq!(wire.until_closed(PATIENCE).await, Some(vec![]));
    // A long poll that began before ends without what came after.
    let late = guarded.token("late", &[]).await;
    let mut admin = connected(&guarded, &guarded.admin).await;
    let topic = MetadataRequestTopic::default().with_name(Some(name("polled")));
    let made = MetadataRequest::default().with_topics(Some(vec![topic]));
    admin.call(9, &made.with_allow_auto_topic_creation(true)).await;
    let mut wire = connected(&guarded, &late).await;
    let poll = wire::fetch_request("polled", 1 << 20).with_max_wait_ms(60_000);
    wire.send_raw(&wire::frame(wire::FETCH_VERSION, &poll, 9)).await.unwrap();
    guarded.revoke("late").await;
    assert_eq!(admin.produce("polled", 0, &["a"]).await.error_code, 0);
    assert_eq!(wire.until_closed(PATIENCE).await, Some(vec![]));
    guarded.floe.printed("the session is over").await;

    let open = Floe::start(&[]).await;
    let mut wire = Wire::connect(&open.bootstrap()).await;
    let topic = MetadataRequestTopic::default().with_name(Some(name("polled")));
    let all = MetadataRequest::default().with_topics(Some(vec![topic]));
    wire.call(9, &all.with_allow_auto_topic_creation(true)).await;
    let mut poller = Wire::connect(&open.bootstrap()).await;
    assert_eq!(poller.call(9, &everything()).await.brokers.len(), 1);
    let poll = wire::fetch_request("polled", 1 << 20).with_max_wait_ms(60_000);
    poller.send_raw(&wire::frame(wire::FETCH_VERSION, &poll, 9)).await.unwrap();
    let made = crate::floe(&["token", "create", "a", "--url", &open.url("")], None);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let event = reqwest::Client::new().post(open.url("/api/v1/topics/polled/events?partition=0"));
    let sent = event.header("token", made.out.trim_end()).body("{}").send().await.unwrap();
    assert_eq!(sent.status(), 200);
    assert_eq!(poller.until_closed(PATIENCE).await, Some(vec![]));
    wire.send_raw(&wire::frame(9, &everything(), 9)).await.unwrap();
    assert_eq!(wire.until_closed(PATIENCE).await, Some(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_api_refuses_with_the_code_that_kafka_has_for_it() {
    use kafka_protocol::messages::create_topics_request::CreatableTopic;
    use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
    let guarded = Guarded::start(&["--num-partitions", "1"]).await;
    let mut admin = connected(&guarded, &guarded.admin).await;
    let new = |topic: &str| {
        let topic = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(-1)
            .with_replication_factor(-1);
        CreateTopicsRequest::default().with_topics(vec![topic])
    };
    let made = admin.call(7, &new("secret")).await.topics.remove(0);
    assert_eq!(made.error_code, 0);
    let weak = guarded.token("weak", &["create:topic:blind", "describe:topic:seen"]).await;
    let mut wire = connected(&guarded, &weak).await;

    assert!(
        wire.call(9, &everything()).await.topics.is_empty(),
        "what may not be seen is left out"
    );
    let by_name = MetadataRequestTopic::default().with_name(Some(name("secret")));
    let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(made.topic_id);
    let asked = MetadataRequest::default().with_topics(Some(vec![by_name, by_id]));
    let topics = wire.call(12, &asked).await.topics;
    assert_eq!([topics[0].error_code, topics[1].error_code], [29, 100]);
    assert_eq!(wire.produce("secret", 0, &["a"]).await.error_code, 29);
    assert_eq!(wire.produce("seen", 0, &["a"]).await.error_code, 29, "whether it is there or not");
    let fetched = wire.call(wire::FETCH_VERSION, &wire::fetch_request("secret", 100)).await;
    assert_eq!(fetched.responses[0].partitions[0].error_code, 29);
    let id = InitProducerIdRequest::default().with_transactional_id(None);
    assert_eq!(wire.call(4, &id).await.error_code, 31, "who writes nowhere needs no producer id");
    assert_eq!(wire.call(7, &new("other")).await.topics[0].error_code, 29);
    let blind = wire.call(7, &new("blind")).await.topics.remove(0);
    let told = (blind.error_code, blind.topic_config_error_code, blind.num_partitions);
    assert_eq!(told, (0, 29, -1), "made, but not shown");
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![name("secret")]);
    assert_eq!(wire.call(5, &delete).await.responses[0].error_code, 29);
    let resource = |kind, name: &'static str| {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(name.into())
            .with_configuration_keys(None)
    };
    let configs = DescribeConfigsRequest::default()
        .with_resources(vec![resource(2, "secret"), resource(4, "1")]);
    let results = wire.call(4, &configs).await.results;
    assert_eq!([results[0].error_code, results[1].error_code], [29, 31]);
    let mut admin = connected(&guarded, &guarded.admin).await;
    assert_eq!(admin.produce("secret", 0, &["a"]).await.error_code, 0, "nothing was changed");
}
