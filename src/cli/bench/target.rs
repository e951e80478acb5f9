//! What is measured: a server of our own, or another broker that runs already and speaks the same
//! protocol (`--beside`).

use std::net::SocketAddr;
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, MetadataRequest,
    MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, StrBytes};
use tokio::net::TcpStream;

use super::process::Process;
use super::server::Server;
use crate::cli::wire;

const CREATE_TOPICS_VERSION: i16 = 4;
const DELETE_TOPICS_VERSION: i16 = 3;
const METADATA_VERSION: i16 = 8;

/// Longest wait for a topic to have its leaders.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Other work is given this long to settle before a measurement.
const REST: Duration = Duration::from_secs(1);

/// A topic of a broker that is measured.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Stands before the names of its figures; empty for ours.
    prefix: String,
    pub(super) address: SocketAddr,
    pub(super) process: Process,
    pub(super) topic: String,
}

/// Another broker: `NAME=HOST:PORT[,PID]`.
#[derive(Debug, Clone)]
pub(super) struct Beside {
    name: String,
    address: SocketAddr,
    pid: Option<u32>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl std::str::FromStr for Beside {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let form =
            || format!("{given:?} is not NAME=HOST:PORT[,PID], such as kafka=127.0.0.1:9092,77");
        let (name, rest) = given.split_once('=').ok_or_else(form)?;
        let (address, pid) = match rest.split_once(',') {
            Some((address, pid)) => (address, Some(pid.parse().map_err(|_| form())?)),
            None => (rest, None),
        };
        let address = address.parse().map_err(|_| form())?;
        Ok(Self { name: name.to_owned(), address, pid })
    }
}

impl Target {
    /// A new topic of the server that was started for this, with these options (JSON).
    pub(super) async fn ours(
        server: &Server,
        topic: &str,
        partitions: i32,
        options: serde_json::Value,
    ) -> Result<Self, String> {
        server.create(topic, partitions, options).await?;
        Ok(Self {
            prefix: String::new(),
            address: server.kafka,
            process: server.process(),
            topic: topic.to_owned(),
        })
    }

    /// A new topic of another broker.
    pub(super) async fn beside(beside: &Beside, partitions: i32) -> Result<Self, String> {
        let topic = format!("floe-bench-{}", uuid::Uuid::new_v4().simple());
        let target = Self {
            prefix: format!("{}: ", beside.name),
            address: beside.address,
            process: Process { pid: beside.pid },
            topic,
        };
        let made = tokio::time::timeout(WAIT_MAX, target.create(partitions)).await;
        made.map_err(|_| format!("{} made no topic in time", beside.name))??;
        tokio::time::sleep(REST).await;
        Ok(target)
    }

    /// The name of a figure of this target.
    pub(super) fn named(&self, figure: &str) -> String {
        format!("{}{figure}", self.prefix)
    }

    fn wire_name(&self) -> TopicName {
        TopicName(StrBytes::from_string(self.topic.clone()))
    }

    async fn create(&self, partitions: i32) -> Result<(), String> {
        let mut stream = TcpStream::connect(self.address).await.map_err(text)?;
        let topic = CreatableTopic::default()
            .with_name(self.wire_name())
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let request =
            CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let (api, version) = (ApiKey::CreateTopics, CREATE_TOPICS_VERSION);
        let mut answer = wire::call(&mut stream, api, version, &request).await?;
        let answer = CreateTopicsResponse::decode(&mut answer, version).map_err(text)?;
        if let Some(refused) = answer.topics.iter().find(|topic| topic.error_code != 0) {
            return Err(format!("the topic was refused with code {}", refused.error_code));
        }
        while !self.is_led(&mut stream, partitions).await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn is_led(&self, stream: &mut TcpStream, partitions: i32) -> Result<bool, String> {
        let topic = MetadataRequestTopic::default().with_name(Some(self.wire_name()));
        let request = MetadataRequest::default().with_topics(Some(vec![topic]));
        let (api, version) = (ApiKey::Metadata, METADATA_VERSION);
        let mut answer = wire::call(stream, api, version, &request).await?;
        let answer = MetadataResponse::decode(&mut answer, version).map_err(text)?;
        let led = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let led = led.filter(|one| one.error_code == 0 && one.leader_id.0 >= 0).count();
        Ok(i32::try_from(led) == Ok(partitions))
    }

    /// Deletes the topic of another broker; ours goes with its server.
    pub(super) async fn done(self) -> Result<(), String> {
        if self.prefix.is_empty() {
            return Ok(());
        }
        let mut stream = TcpStream::connect(self.address).await.map_err(text)?;
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![self.wire_name()])
            .with_timeout_ms(30_000);
        wire::call(&mut stream, ApiKey::DeleteTopics, DELETE_TOPICS_VERSION, &request).await?;
        tokio::time::sleep(REST).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_broker_is_told_by_name_address_and_process() {
        let beside: Beside = "kafka=127.0.0.1:9092,77".parse().unwrap();
        assert_eq!(
            (beside.name.as_str(), beside.address.port(), beside.pid),
            ("kafka", 9092, Some(77))
        );
        let beside: Beside = "k=[::1]:9".parse().unwrap();
        assert_eq!(beside.pid, None);
        for wrong in ["127.0.0.1:9092", "k=host:9092", "k=127.0.0.1:9092,x"] {
            assert!(wrong.parse::<Beside>().unwrap_err().contains("NAME=HOST:PORT"), "{wrong}");
        }
    }
}
