//! DeleteTopics (key 20), versions 1 to 6; from 6 by name or by id.
//!
//! The topic is gone for clients when the answer comes. Its untiered rows are still committed to the
//! table, and the log is freed after that; the table stays. A topic that stands twice is
//! INVALID_REQUEST, and so is one with both name and id, or neither.

use std::sync::Arc;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName as WireName};
use uuid::Uuid;

use crate::auth::{Operation, Resource};
use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::{ItemError, duplicates, some_text, wire_name};
use crate::topic::{self, Topic, Topics};
use crate::types::TopicId;

/// An entry of the request with the topic that it means.
type Entry = (DeleteTopicState, Result<Arc<Topic>, ItemError>);

pub(crate) async fn handle(
    context: Arc<Context>,
    version: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let topics = &context.deps.topics;
    let wanted = wanted(version, request).into_iter();
    let entries: Vec<Entry> = wanted.map(|one| allowed(&context, one)).collect();
    let twice = duplicates(entries.iter().map(identity));
    let mut results = Vec::with_capacity(entries.len());
    for entry in entries {
        let is_twice = twice.contains(&identity(&entry));
        let (wanted, found) = entry;
        let done = match found {
            _ if is_twice => Err(ItemError::new(
                ErrorCode::InvalidRequest,
                "the topic stands twice in the request",
            )),
            Ok(topic) => delete(topics, &wanted, topic.id).await,
            Err(error) => Err(error),
        };
        if let Ok(topic) = &done {
            let client = context.session.client;
            tracing::debug!(topic = %topic.name, id = %topic.id, %client, "topic deleted");
        }
        results.push(result(wanted, done));
    }
    DeleteTopicsResponse::default().with_responses(results)
}

/// What makes two entries one topic: its id, whether it is named by that or by its name.
fn identity((wanted, found): &Entry) -> (Uuid, Option<WireName>) {
    match found {
        Ok(topic) => (topic.id.0, None),
        Err(_) => (wanted.topic_id, wanted.name.clone()),
    }
}

fn wanted(version: i16, request: DeleteTopicsRequest) -> Vec<DeleteTopicState> {
    if version >= 6 {
        return request.topics;
    }
    let by_name = |name| DeleteTopicState::default().with_name(Some(name));
    request.topic_names.into_iter().map(by_name).collect()
}

/// The entry if the client may delete the topic. One that is named by its id and that the client
/// may not even see stays without name (source: `ControllerApis.deleteTopics`).
fn allowed(context: &Context, wanted: DeleteTopicState) -> Entry {
    let found = find(&context.deps.topics, &wanted);
    let name = match (&wanted.name, &found) {
        (Some(name), _) => name.to_string(),
        (None, Ok(topic)) => topic.name.to_string(),
        (None, Err(_)) => return (wanted, found),
    };
    match context.check_topic(Operation::Delete, &name) {
        Ok(()) => (wanted, found),
        Err(error) => {
            let is_seen = context.principal.may(Operation::Describe, Resource::Topic(&name));
            let by_id = wanted.name.is_none();
            if !by_id || is_seen {
                return (wanted.with_name(Some(wire_name(&name))), Err(error));
            }
            (wanted, Err(ItemError::new(error.code, "the token may not delete this topic")))
        }
    }
}

async fn delete(
    topics: &Topics,
    wanted: &DeleteTopicState,
    id: TopicId,
) -> Result<Arc<Topic>, ItemError> {
    let error = match topics.delete_by_id(id).await {
        Ok(topic) => return Ok(topic),
        Err(error) => error,
    };
    Err(match &wanted.name {
        // Somebody else was faster; the client never spoke of an id.
        Some(name) if error == topic::Error::UnknownId(id) => {
            topic::Error::Unknown(name.to_string()).into()
        }
        _ => error.into(),
    })
}

fn find(topics: &Topics, wanted: &DeleteTopicState) -> Result<Arc<Topic>, ItemError> {
    match (&wanted.name, wanted.topic_id.is_nil()) {
        (Some(name), true) => {
            topics.get(name).ok_or_else(|| topic::Error::Unknown(name.to_string()).into())
        }
        (None, false) => {
            let id = TopicId(wanted.topic_id);
            topics.by_id(id).ok_or_else(|| topic::Error::UnknownId(id).into())
        }
        _ => Err(ItemError::new(
            ErrorCode::InvalidRequest,
            "a topic is named by its name or by its id",
        )),
    }
}

fn result(wanted: DeleteTopicState, done: Result<Arc<Topic>, ItemError>) -> DeletableTopicResult {
    match done {
        Ok(topic) => DeletableTopicResult::default()
            .with_name(Some(wire_name(&topic.name)))
            .with_topic_id(topic.id.0)
            .with_error_message(None),
        Err(error) => DeletableTopicResult::default()
            .with_name(wanted.name)
            .with_topic_id(wanted.topic_id)
            .with_error_code(error.code.code())
            .with_error_message(some_text(error.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_old_versions_become_the_new_form() {
        let request = DeleteTopicsRequest::default().with_topic_names(vec![wire_name("a")]);
        assert_eq!(wanted(5, request.clone())[0].name, Some(wire_name("a")));
        assert!(wanted(6, request).is_empty());
    }

    #[test]
    fn failure_keeps_what_was_asked_for() {
        let wanted = DeleteTopicState::default().with_name(Some(wire_name("a")));
        let error = ItemError::new(ErrorCode::UnknownTopicOrPartition, "gone");
        let answer = result(wanted, Err(error));
        assert_eq!((answer.error_code, answer.name), (3, Some(wire_name("a"))));
    }
}
