//! CreatePartitions (key 37), versions 0 to 3.
//!
//! The count can only grow; INVALID_PARTITIONS otherwise. A manual assignment must put every new
//! partition on this broker. A topic that stands twice is INVALID_REQUEST.

use std::sync::Arc;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use crate::auth::Operation;
use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::{ItemError, duplicates, some_text};

pub(crate) async fn handle(
    context: Arc<Context>,
    _version: i16,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let twice = duplicates(request.topics.iter().map(|topic| topic.name.clone()));
    let mut results = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let done = if twice.contains(&wanted.name) {
            Err(ItemError::new(ErrorCode::InvalidRequest, "the topic stands twice in the request"))
        } else {
            grow(&context, &wanted, request.validate_only).await
        };
        let result = CreatePartitionsTopicResult::default().with_name(wanted.name);
        results.push(match done {
            Ok(()) => result.with_error_message(None),
            Err(error) => result
                .with_error_code(error.code.code())
                .with_error_message(some_text(error.message)),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

async fn grow(
    context: &Context,
    wanted: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), ItemError> {
    context.check_topic(Operation::Alter, &wanted.name)?;
    let topics = &context.deps.topics;
    if let (Some(topic), Some(_)) = (topics.get(&wanted.name), &wanted.assignments) {
        let now = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        check_assignments(wanted, now, context.deps.options.node_id)?;
    }
    topics.grow(&wanted.name, wanted.count, validate_only).await?;
    Ok(())
}

fn check_assignments(wanted: &CreatePartitionsTopic, now: i32, node: i32) -> Result<(), ItemError> {
    let assignments = wanted.assignments.as_deref().unwrap_or_default();
    let new = i64::from(wanted.count) - i64::from(now);
    // A count that does not grow is refused by its own rule.
    if new > 0 && usize::try_from(new) != Ok(assignments.len()) {
        return Err(ItemError::new(
            ErrorCode::InvalidReplicaAssignment,
            format!("{} assignments are given for {new} new partitions", assignments.len()),
        ));
    }
    let here = |ids: &[kafka_protocol::messages::BrokerId]| ids.len() == 1 && ids[0].0 == node;
    if assignments.iter().all(|one| here(&one.broker_ids)) {
        return Ok(());
    }
    Err(ItemError::new(
        ErrorCode::InvalidReplicaAssignment,
        format!("every new partition must be assigned to broker {node}, the only one"),
    ))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::create_partitions_request::CreatePartitionsAssignment;

    use super::*;

    #[test]
    fn assignments_must_match_the_new_partitions_and_this_broker() {
        let on = |ids: &[i32]| {
            let ids = ids.iter().map(|id| BrokerId(*id)).collect();
            CreatePartitionsAssignment::default().with_broker_ids(ids)
        };
        let wanted = |count, list| {
            CreatePartitionsTopic::default().with_count(count).with_assignments(Some(list))
        };
        assert!(check_assignments(&wanted(3, vec![on(&[1]), on(&[1])]), 1, 1).is_ok());
        assert!(check_assignments(&wanted(3, vec![on(&[1])]), 1, 1).is_err());
        assert!(check_assignments(&wanted(2, vec![on(&[2])]), 1, 1).is_err());
        assert!(check_assignments(&wanted(2, vec![on(&[1, 2])]), 1, 1).is_err());
        assert!(check_assignments(&wanted(i32::MIN, vec![]), i32::MAX, 1).is_ok());
    }
}
