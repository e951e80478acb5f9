//! DeleteTopics (key 20), versions 1 to 6; from 6 by name or by id.
//!
//! The topic is gone for clients when the answer comes. Its untiered rows are still committed to the
//! table, and the log is freed after that; the table stays. A topic that stands twice is
//! INVALID_REQUEST, and so is one with both name and id, or neither.

use std::sync::Arc;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};

use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::{ItemError, duplicates, some_text, wire_name};
use crate::topic::Topic;
use crate::types::TopicId;

pub(crate) async fn handle(
    context: Arc<Context>,
    version: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let wanted = wanted(version, request);
    let key = |topic: &DeleteTopicState| (topic.topic_id, topic.name.clone());
    let twice = duplicates(wanted.iter().map(key));
    let mut results = Vec::with_capacity(wanted.len());
    for topic in wanted {
        let done = if twice.contains(&key(&topic)) {
            Err(ItemError::new(ErrorCode::InvalidRequest, "the topic stands twice in the request"))
        } else {
            delete(&context, &topic).await
        };
        results.push(result(topic, done));
    }
    DeleteTopicsResponse::default().with_responses(results)
}

fn wanted(version: i16, request: DeleteTopicsRequest) -> Vec<DeleteTopicState> {
    if version >= 6 {
        return request.topics;
    }
    let by_name = |name| DeleteTopicState::default().with_name(Some(name));
    request.topic_names.into_iter().map(by_name).collect()
}

async fn delete(context: &Context, wanted: &DeleteTopicState) -> Result<Arc<Topic>, ItemError> {
    let topics = &context.deps.topics;
    let name = match (&wanted.name, wanted.topic_id.is_nil()) {
        (Some(name), true) => name.to_string(),
        (None, false) => {
            let Some(topic) = topics.by_id(TopicId(wanted.topic_id)) else {
                return Err(ItemError::new(ErrorCode::UnknownTopicId, "no topic has this id"));
            };
            topic.name.to_string()
        }
        _ => {
            return Err(ItemError::new(
                ErrorCode::InvalidRequest,
                "a topic is named by its name or by its id",
            ));
        }
    };
    let topic = topics.delete(&name).await?;
    tracing::debug!(topic = name, id = %topic.id, client = %context.session.client, "topic deleted");
    Ok(topic)
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
