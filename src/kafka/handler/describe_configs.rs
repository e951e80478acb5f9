//! DescribeConfigs (key 32), versions 1 to 4.
//!
//! Topics (type 2) and the broker (4) answer every option that exists, with value, source, type and
//! doc; a logger (8) has none. A null or empty list of keys is all. Differs from Apache Kafka: the
//! broker lists only what Floe has a meaning for.

use std::sync::Arc;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::auth::Operation;
use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::{ItemError, broker_configs, duplicates, some_text, text};
use crate::topic::options::{OptionView, Source, ValueType};
use crate::types::TopicName;

/// Resource types (source: `org.apache.kafka.common.config.ConfigResource`).
pub(crate) const TOPIC: i8 = 2;
pub(crate) const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;

/// Sources of a value (source: `DescribeConfigsResponse.ConfigSource`).
const SOURCE_TOPIC: i8 = 1;
pub(crate) const SOURCE_STATIC_BROKER: i8 = 4;
pub(crate) const SOURCE_DEFAULT: i8 = 5;

pub(crate) async fn handle(
    context: Arc<Context>,
    _version: i16,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let key = |one: &DescribeConfigsResource| (one.resource_type, one.resource_name.clone());
    let twice = duplicates(request.resources.iter().map(key));
    let mut results = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        // Repeats would multiply a small request into a large answer.
        let found = if twice.contains(&key(resource)) {
            Err(ItemError::new(
                ErrorCode::InvalidRequest,
                "the resource stands twice in the request",
            ))
        } else {
            describe(&context, resource)
        };
        results.push(result(&request, resource, found));
    }
    DescribeConfigsResponse::default().with_results(results)
}

fn describe(
    context: &Context,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, ItemError> {
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        TOPIC => {
            context.check_topic(Operation::Describe, name)?;
            TopicName::parse(name).map_err(|error| {
                ItemError::new(ErrorCode::InvalidTopicException, error.to_string())
            })?;
            let topic = context.deps.topics.get(name).ok_or_else(|| {
                ItemError::new(
                    ErrorCode::UnknownTopicOrPartition,
                    format!("topic {name} does not exist"),
                )
            })?;
            Ok(entries(&context.deps.topics.describe(&topic)))
        }
        BROKER => {
            context.check_cluster(Operation::Describe)?;
            broker_configs::check_name(name, context.deps.options.node_id)?;
            Ok(broker_configs::entries(&context.deps.options))
        }
        BROKER_LOGGER => {
            context.check_cluster(Operation::Describe)?;
            broker_configs::check_name(name, context.deps.options.node_id)?;
            Ok(Vec::new())
        }
        other => Err(ItemError::new(
            ErrorCode::InvalidRequest,
            format!("resource type {other} has no options"),
        )),
    }
}

/// The options of a topic as entries of a response, doc and synonyms included.
pub(crate) fn entries(views: &[OptionView]) -> Vec<DescribeConfigsResourceResult> {
    views.iter().map(entry).collect()
}

fn entry(view: &OptionView) -> DescribeConfigsResourceResult {
    let key = text(view.key);
    let value = some_text(&view.value);
    let source = match view.source {
        Source::Topic => SOURCE_TOPIC,
        Source::Server => SOURCE_STATIC_BROKER,
        Source::Default => SOURCE_DEFAULT,
    };
    let synonym = |value: &str, source| {
        DescribeConfigsSynonym::default()
            .with_name(key.clone())
            .with_value(some_text(value))
            .with_source(source)
    };
    let mut synonyms = Vec::new();
    if view.source == Source::Topic {
        synonyms.push(synonym(&view.value, SOURCE_TOPIC));
    }
    if let Some(server) = &view.server {
        synonyms.push(synonym(server, SOURCE_STATIC_BROKER));
    }
    synonyms.push(synonym(view.default, SOURCE_DEFAULT));
    DescribeConfigsResourceResult::default()
        .with_name(key)
        .with_value(value)
        .with_config_source(source)
        .with_config_type(type_code(view.value_type))
        .with_documentation(some_text(&view.doc))
        .with_synonyms(synonyms)
}

/// Types of a value (source: `DescribeConfigsResponse.ConfigType`).
pub(crate) fn type_code(kind: ValueType) -> i8 {
    match kind {
        ValueType::Boolean => 1,
        ValueType::String => 2,
        ValueType::Int => 3,
        ValueType::Long => 5,
        ValueType::Double => 6,
        ValueType::List => 7,
    }
}

fn result(
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
    found: Result<Vec<DescribeConfigsResourceResult>, ItemError>,
) -> DescribeConfigsResult {
    let result = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone());
    match found {
        Ok(configs) => {
            let keys = resource.configuration_keys.as_deref().unwrap_or_default();
            let configs = select(configs, keys, request);
            result.with_error_message(None).with_configs(configs)
        }
        Err(error) => {
            result.with_error_code(error.code.code()).with_error_message(some_text(error.message))
        }
    }
}

/// Keeps the wanted keys and strips what was not asked for.
fn select(
    mut configs: Vec<DescribeConfigsResourceResult>,
    keys: &[StrBytes],
    request: &DescribeConfigsRequest,
) -> Vec<DescribeConfigsResourceResult> {
    configs.retain(|config| keys.is_empty() || keys.contains(&config.name));
    for config in &mut configs {
        if !request.include_synonyms {
            config.synonyms.clear();
        }
        if !request.include_documentation {
            config.documentation = None;
        }
    }
    configs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(key: &'static str, source: Source) -> OptionView {
        OptionView {
            key,
            value: "7".to_owned(),
            source,
            server: (source != Source::Default).then(|| "6".to_owned()),
            default: "5",
            value_type: ValueType::Long,
            doc: "doc".to_owned(),
            no_effect: false,
        }
    }

    #[test]
    fn an_override_shows_its_source_and_the_default_behind_it() {
        let entry = entry(&view("retention.ms", Source::Topic));
        assert_eq!((entry.config_source, entry.config_type), (1, 5));
        let synonyms: Vec<_> =
            entry.synonyms.iter().map(|one| (one.value.clone().unwrap(), one.source)).collect();
        assert_eq!(synonyms, [("7".into(), 1), ("6".into(), 4), ("5".into(), 5)]);
        assert_eq!(super::entry(&view("a", Source::Default)).config_source, 5);
    }

    #[test]
    fn only_wanted_keys_and_parts_are_sent() {
        let all = || entries(&[view("a", Source::Default), view("b", Source::Server)]);
        let request = DescribeConfigsRequest::default();
        let both = select(all(), &[], &request);
        assert_eq!(both.len(), 2);
        assert!(both.iter().all(|one| one.synonyms.is_empty() && one.documentation.is_none()));
        let one = select(all(), &["b".into()], &request.with_include_synonyms(true));
        assert_eq!((one.len(), one[0].name.as_str(), one[0].synonyms.len()), (1, "b", 2));
    }
}
