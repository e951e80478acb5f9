//! Metadata (key 3), versions 0 to 12.
//!
//! Null is all topics; empty is none, but all in version 0. Unknown topics are made where the server
//! and the client allow it (always allowed below version 4). The broker's address depends on the
//! listener that the client came from. Topics that the client may not describe are left out, or
//! TOPIC_AUTHORIZATION_FAILED by name and UNKNOWN_TOPIC_ID by id. Differs from Apache Kafka: an auto-created topic is answered
//! at once with its partitions, not with LEADER_NOT_AVAILABLE.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse};

use crate::auth::{Operation, Resource};
use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::{text, wire_name};
use crate::topic::{self, NewTopic, Topic};
use crate::types::LEADER_EPOCH;
use crate::types::TopicId;
use crate::types::TopicName;

pub(crate) async fn handle(
    context: Arc<Context>,
    version: i16,
    request: MetadataRequest,
) -> MetadataResponse {
    let options = &context.deps.options;
    let node = BrokerId(options.node_id);
    let may_create =
        options.auto_create_topics && (version < 4 || request.allow_auto_topic_creation);
    let topics = match wanted(version, request.topics) {
        Wanted::All => {
            let topics = context.deps.topics.list().into_iter();
            topics
                .filter(|topic| may_describe(&context, topic))
                .map(|topic| describe(&topic, node))
                .collect()
        }
        Wanted::These(wanted) => {
            let mut answers = Vec::with_capacity(wanted.len());
            let mut refused = Refused::default();
            for topic in wanted {
                answers.push(one(&context, version, topic, may_create, &mut refused).await);
            }
            refused.tell();
            answers
        }
    };
    let broker = MetadataResponseBroker::default()
        .with_node_id(node)
        .with_host(text(&context.session.host))
        .with_port(context.session.port);
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(text(&options.cluster_id)))
        .with_controller_id(node)
        .with_topics(topics)
}

fn may_describe(context: &Context, topic: &Topic) -> bool {
    context.principal.may(Operation::Describe, Resource::Topic(topic.name.as_str()))
}

#[derive(Debug, PartialEq)]
enum Wanted {
    All,
    /// Without repeats.
    These(Vec<MetadataRequestTopic>),
}

fn wanted(version: i16, topics: Option<Vec<MetadataRequestTopic>>) -> Wanted {
    match topics {
        None => Wanted::All,
        Some(topics) if topics.is_empty() && version == 0 => Wanted::All,
        Some(mut topics) => {
            let mut seen = HashSet::new();
            topics.retain(|topic| seen.insert((topic.topic_id, topic.name.clone())));
            Wanted::These(topics)
        }
    }
}

/// Topics of one request that could not be made: one line of the log, however many there are.
#[derive(Default)]
struct Refused {
    count: usize,
    first: Option<(String, topic::Error)>,
}

impl Refused {
    fn add(&mut self, name: &str, error: topic::Error) {
        self.count += 1;
        self.first.get_or_insert_with(|| (name.to_owned(), error));
    }

    fn tell(&self) {
        if let Some((topic, error)) = &self.first {
            tracing::warn!(topic, %error, count = self.count, "topics cannot be auto-created");
        }
    }
}

async fn one(
    context: &Context,
    version: i16,
    wanted: MetadataRequestTopic,
    may_create: bool,
    refused: &mut Refused,
) -> MetadataResponseTopic {
    let node = BrokerId(context.deps.options.node_id);
    let found = match &wanted.name {
        Some(name) if wanted.topic_id.is_nil() => by_name(context, name, may_create, refused).await,
        None if version >= 12 => {
            let id = TopicId(wanted.topic_id);
            let found = context.deps.topics.by_id(id);
            found.filter(|topic| may_describe(context, topic)).ok_or(ErrorCode::UnknownTopicId)
        }
        // Ids were not usable before version 12, and both at once never are.
        _ => Err(ErrorCode::InvalidRequest),
    };
    match found {
        Ok(topic) => describe(&topic, node),
        Err(code) => failed(version, wanted, code),
    }
}

async fn by_name(
    context: &Context,
    name: &str,
    may_create: bool,
    refused: &mut Refused,
) -> Result<Arc<Topic>, ErrorCode> {
    let topics = &context.deps.topics;
    context.check_topic(Operation::Describe, name).map_err(|error| error.code)?;
    if let Some(topic) = topics.get(name) {
        return Ok(topic);
    }
    if TopicName::parse(name).is_err() {
        return Err(ErrorCode::InvalidTopicException);
    }
    if !may_create {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    context.check_create_topic(name).map_err(|error| error.code)?;
    let new = NewTopic { name: name.to_owned(), ..NewTopic::default() };
    match topics.create(new, false).await {
        Ok(topic) => {
            tracing::debug!(topic = name, client = %context.session.client, "topic auto-created");
            Ok(topic)
        }
        // Another client was faster.
        Err(topic::Error::Exists(_)) => topics.get(name).ok_or(ErrorCode::LeaderNotAvailable),
        Err(error) => {
            let code = ErrorCode::from(&error);
            refused.add(name, error);
            Err(code)
        }
    }
}

fn failed(version: i16, wanted: MetadataRequestTopic, code: ErrorCode) -> MetadataResponseTopic {
    // The name is nullable from version 12 on.
    let name = wanted.name.or_else(|| (version < 12).then(|| wire_name("")));
    MetadataResponseTopic::default()
        .with_error_code(code.code())
        .with_name(name)
        .with_topic_id(wanted.topic_id)
}

fn describe(topic: &Topic, node: BrokerId) -> MetadataResponseTopic {
    let partitions = (0..topic.partitions.len())
        .filter_map(|index| i32::try_from(index).ok())
        .map(|index| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(node)
                .with_leader_epoch(LEADER_EPOCH)
                .with_replica_nodes(vec![node])
                .with_isr_nodes(vec![node])
        })
        .collect();
    MetadataResponseTopic::default()
        .with_name(Some(wire_name(&topic.name)))
        .with_topic_id(topic.id.0)
        .with_partitions(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> MetadataRequestTopic {
        MetadataRequestTopic::default().with_name(Some(wire_name(name)))
    }

    #[test]
    fn null_is_all_and_empty_is_none_except_in_version_0() {
        assert_eq!(wanted(0, Some(vec![])), Wanted::All);
        assert_eq!(wanted(1, Some(vec![])), Wanted::These(vec![]));
        for version in 0..=12 {
            assert_eq!(wanted(version, None), Wanted::All);
        }
    }

    #[test]
    fn a_name_asked_twice_is_answered_once() {
        let topics = vec![named("a"), named("b"), named("a")];
        assert_eq!(wanted(9, Some(topics)), Wanted::These(vec![named("a"), named("b")]));
    }

    #[test]
    fn a_missing_topic_keeps_what_was_asked_for() {
        let answer = failed(9, named("a"), ErrorCode::UnknownTopicOrPartition);
        assert_eq!((answer.error_code, answer.name), (3, Some(wire_name("a"))));
    }
}
