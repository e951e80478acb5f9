//! CreateTopics (key 19), versions 2 to 7.
//!
//! -1 for partitions and replication factor is the server's default in every version (kafkajs sends
//! it everywhere). A name that stands twice is INVALID_REQUEST. From version 5 the answer tells
//! partitions, replication factor and options (those of the first [`OPTIONS_TOLD_MAX`] topics: a small
//! request must not become a huge answer) where the client may describe the topic, from 7 the topic id. Differs from Apache Kafka: a
//! replication factor above the number of brokers is clamped to 1 instead of refused, so that
//! applications written for a cluster start; and the answer comes after the topic is durable, so
//! the time-out is not needed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use uuid::Uuid;

use crate::auth::{Operation, Resource};
use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::describe_configs::entries;
use crate::kafka::handler::{ItemError, duplicates, some_text};
use crate::topic::{NewTopic, Topic};

/// Topics of one answer that tell their options.
const OPTIONS_TOLD_MAX: usize = 1_000;

pub(crate) async fn handle(
    context: Arc<Context>,
    _version: i16,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let twice = duplicates(request.topics.iter().map(|topic| topic.name.clone()));
    let mut told = HashSet::new();
    let mut results = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        if twice.contains(&wanted.name) {
            if told.insert(wanted.name.clone()) {
                let error = ItemError::new(
                    ErrorCode::InvalidRequest,
                    "the topic stands twice in the request",
                );
                results.push(failed(&wanted, error));
            }
            continue;
        }
        let tells = results.len() < OPTIONS_TOLD_MAX;
        results.push(one(&context, wanted, request.validate_only, tells).await);
    }
    CreateTopicsResponse::default().with_topics(results)
}

async fn one(
    context: &Context,
    wanted: CreatableTopic,
    validate_only: bool,
    tells_options: bool,
) -> CreatableTopicResult {
    if let Err(error) = context.check_create_topic(&wanted.name) {
        return failed(&wanted, error);
    }
    let new = match translate(&wanted, context.deps.options.node_id) {
        Ok(new) => new,
        Err(error) => return failed(&wanted, error),
    };
    let may_write = context.may_write();
    match context.deps.topics.create_for(new, validate_only, may_write).await {
        Ok(topic) => {
            let options = if tells_options { options(context, &topic) } else { Vec::new() };
            let result = created(&topic, validate_only, options);
            let may_see =
                context.principal.may(Operation::Describe, Resource::Topic(topic.name.as_str()));
            if may_see { result } else { hidden(result) }
        }
        Err(error) => failed(&wanted, error.into()),
    }
}

/// Checks what only the wire knows (assignments, replication factor) and leaves the rest to `topic`.
fn translate(wanted: &CreatableTopic, node: i32) -> Result<NewTopic, ItemError> {
    let partitions = if wanted.assignments.is_empty() {
        check_replication_factor(wanted.replication_factor)?;
        partition_count(wanted.num_partitions)?
    } else {
        if wanted.num_partitions != -1 || wanted.replication_factor != -1 {
            return Err(ItemError::new(
                ErrorCode::InvalidRequest,
                "with a manual assignment partitions and replication factor must be -1",
            ));
        }
        Some(assigned_count(&wanted.assignments, node)?)
    };
    Ok(NewTopic {
        name: wanted.name.to_string(),
        partitions,
        overrides: overrides(&wanted.configs)?,
    })
}

fn partition_count(wanted: i32) -> Result<Option<i32>, ItemError> {
    match wanted {
        -1 => Ok(None),
        count if count > 0 => Ok(Some(count)),
        count => Err(ItemError::new(
            ErrorCode::InvalidPartitions,
            format!("number of partitions {count} must be above 0, or -1 for the default"),
        )),
    }
}

fn check_replication_factor(wanted: i16) -> Result<(), ItemError> {
    if wanted == -1 || wanted > 0 {
        return Ok(());
    }
    Err(ItemError::new(
        ErrorCode::InvalidReplicationFactor,
        format!("replication factor {wanted} must be above 0, or -1 for the default"),
    ))
}

/// Partitions must be 0, 1, ... each once, and each on brokers that exist: this one.
fn assigned_count(assignments: &[CreatableReplicaAssignment], node: i32) -> Result<i32, ItemError> {
    let invalid = |message: String| ItemError::new(ErrorCode::InvalidReplicaAssignment, message);
    let mut indexes: Vec<i32> = assignments.iter().map(|one| one.partition_index).collect();
    indexes.sort_unstable();
    let count = i32::try_from(indexes.len()).map_err(|_| invalid("too many".to_owned()))?;
    if !indexes.iter().copied().eq(0..count) {
        return Err(invalid("assigned partitions must be 0, 1, 2, ... each once".to_owned()));
    }
    for assignment in assignments {
        if assignment.broker_ids.len() != 1 || assignment.broker_ids[0].0 != node {
            return Err(invalid(format!(
                "partition {} must be assigned to broker {node}, the only one",
                assignment.partition_index
            )));
        }
    }
    Ok(count)
}

fn overrides(configs: &[CreatableTopicConfig]) -> Result<BTreeMap<String, String>, ItemError> {
    let mut overrides = BTreeMap::new();
    for config in configs {
        let Some(value) = &config.value else {
            return Err(ItemError::new(
                ErrorCode::InvalidConfig,
                format!("option {} has no value", config.name.as_str()),
            ));
        };
        overrides.insert(config.name.to_string(), value.to_string());
    }
    Ok(overrides)
}

fn options(context: &Context, topic: &Topic) -> Vec<CreatableTopicConfigs> {
    let told = entries(&context.deps.topics.describe(topic)).into_iter().map(|entry| {
        CreatableTopicConfigs::default()
            .with_name(entry.name)
            .with_value(entry.value)
            .with_read_only(entry.read_only)
            .with_config_source(entry.config_source)
            .with_is_sensitive(entry.is_sensitive)
    });
    told.collect()
}

fn created(
    topic: &Topic,
    validate_only: bool,
    options: Vec<CreatableTopicConfigs>,
) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(crate::kafka::handler::wire_name(&topic.name))
        // What was only checked has no identity.
        .with_topic_id(if validate_only { Uuid::nil() } else { topic.id.0 })
        .with_error_message(None)
        .with_num_partitions(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
        .with_replication_factor(1)
        .with_configs(Some(options))
}

/// Without what only those may see who may describe the topic (source:
/// `ReplicationControlManager.createTopic`).
fn hidden(result: CreatableTopicResult) -> CreatableTopicResult {
    result
        .with_topic_config_error_code(ErrorCode::TopicAuthorizationFailed.code())
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_configs(Some(Vec::new()))
}

fn failed(wanted: &CreatableTopic, error: ItemError) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(wanted.name.clone())
        .with_error_code(error.code.code())
        .with_error_message(some_text(error.message))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::BrokerId;

    use super::*;
    use crate::kafka::handler::wire_name;

    fn wanted(partitions: i32, factor: i16) -> CreatableTopic {
        CreatableTopic::default()
            .with_name(wire_name("t"))
            .with_num_partitions(partitions)
            .with_replication_factor(factor)
    }

    fn assigned(index: i32, broker: i32) -> CreatableReplicaAssignment {
        CreatableReplicaAssignment::default()
            .with_partition_index(index)
            .with_broker_ids(vec![BrokerId(broker)])
    }

    fn code(wanted: &CreatableTopic) -> Option<ErrorCode> {
        translate(wanted, 1).err().map(|error| error.code)
    }

    #[test]
    fn minus_one_is_the_default_and_the_replication_factor_is_clamped() {
        assert_eq!(translate(&wanted(-1, -1), 1).unwrap().partitions, None);
        assert_eq!(translate(&wanted(6, 3), 1).unwrap().partitions, Some(6));
        assert_eq!(code(&wanted(0, 1)), Some(ErrorCode::InvalidPartitions));
        assert_eq!(code(&wanted(-2, 1)), Some(ErrorCode::InvalidPartitions));
        assert_eq!(code(&wanted(1, 0)), Some(ErrorCode::InvalidReplicationFactor));
    }

    #[test]
    fn manual_assignment_must_be_dense_and_on_this_broker() {
        let with = |list| wanted(-1, -1).with_assignments(list);
        let good = with(vec![assigned(1, 1), assigned(0, 1)]);
        assert_eq!(translate(&good, 1).unwrap().partitions, Some(2));
        for bad in
            [vec![assigned(1, 1)], vec![assigned(0, 1), assigned(0, 1)], vec![assigned(0, 2)]]
        {
            assert_eq!(code(&with(bad)), Some(ErrorCode::InvalidReplicaAssignment));
        }
        let both = wanted(1, -1).with_assignments(vec![assigned(0, 1)]);
        assert_eq!(code(&both), Some(ErrorCode::InvalidRequest));
    }

    #[test]
    fn an_option_without_value_is_refused() {
        let config = CreatableTopicConfig::default().with_name("a".into()).with_value(None);
        let topic = wanted(1, 1).with_configs(vec![config]);
        assert_eq!(code(&topic), Some(ErrorCode::InvalidConfig));
    }
}
