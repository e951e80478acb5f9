//! AlterConfigs (key 33), versions 0 to 2.
//!
//! Replaces all options that are set on a topic: what is not named goes back to its default. Old
//! tools and kafkajs know only this API. Broker options are set at start, so altering them is
//! INVALID_REQUEST, as for read-only options of Apache Kafka.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::describe_configs::TOPIC;
use crate::kafka::handler::{ItemError, duplicates, some_text};

pub(crate) async fn handle(
    context: Arc<Context>,
    _version: i16,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let key = |one: &AlterConfigsResource| (one.resource_type, one.resource_name.clone());
    let twice = duplicates(request.resources.iter().map(key));
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let done = if twice.contains(&key(&resource)) {
            Err(stands_twice())
        } else {
            alter(&context, &resource, request.validate_only).await
        };
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name);
        responses.push(match done {
            Ok(()) => response.with_error_message(None),
            Err(error) => response
                .with_error_code(error.code.code())
                .with_error_message(some_text(error.message)),
        });
    }
    AlterConfigsResponse::default().with_responses(responses)
}

async fn alter(
    context: &Context,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), ItemError> {
    check_alterable(resource.resource_type)?;
    let overrides = overrides(&resource.configs)?;
    context.deps.topics.replace(&resource.resource_name, overrides, validate_only).await?;
    Ok(())
}

fn overrides(configs: &[AlterableConfig]) -> Result<BTreeMap<String, String>, ItemError> {
    let mut overrides = BTreeMap::new();
    for config in configs {
        let value = config.value.as_ref().ok_or_else(|| no_value(&config.name))?;
        if overrides.insert(config.name.to_string(), value.to_string()).is_some() {
            return Err(key_twice(&config.name));
        }
    }
    Ok(overrides)
}

/// Only topics have options that can be changed while the server runs.
pub(crate) fn check_alterable(resource_type: i8) -> Result<(), ItemError> {
    if resource_type == TOPIC {
        return Ok(());
    }
    Err(ItemError::new(
        ErrorCode::InvalidRequest,
        "only options of topics can be altered, those of the broker are set at start",
    ))
}

pub(crate) fn stands_twice() -> ItemError {
    ItemError::new(ErrorCode::InvalidRequest, "the resource stands twice in the request")
}

pub(crate) fn no_value(key: &str) -> ItemError {
    ItemError::new(ErrorCode::InvalidRequest, format!("option {key} has no value"))
}

pub(crate) fn key_twice(key: &str) -> ItemError {
    ItemError::new(ErrorCode::InvalidRequest, format!("option {key} stands twice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &'static str, value: Option<&'static str>) -> AlterableConfig {
        AlterableConfig::default().with_name(name.into()).with_value(value.map(Into::into))
    }

    #[test]
    fn options_need_a_value_and_stand_once() {
        let good = overrides(&[config("a", Some("1")), config("b", Some(""))]).unwrap();
        assert_eq!(good.len(), 2);
        assert!(overrides(&[config("a", None)]).is_err());
        assert!(overrides(&[config("a", Some("1")), config("a", Some("1"))]).is_err());
    }

    #[test]
    fn broker_options_are_read_only() {
        assert!(check_alterable(2).is_ok());
        assert_eq!(check_alterable(4).unwrap_err().code, ErrorCode::InvalidRequest);
    }
}
