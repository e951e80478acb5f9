//! AlterConfigs (key 33), versions 0 to 2.
//!
//! Replaces all options that are set on a topic: what is not named goes back to its default. Old
//! tools and kafkajs know only this API. What it shares with IncrementalAlterConfigs is in
//! `alter_resources`.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use crate::kafka::dispatch::Context;
use crate::kafka::handler::alter_resources::{self, Edit, Resource, Wanted, key_twice, no_value};
use crate::kafka::handler::{ItemError, some_text};

pub(crate) async fn handle(
    context: Arc<Context>,
    _version: i16,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let wanted = request.resources.into_iter().map(wanted).collect();
    let done = alter_resources::alter(&context, wanted, request.validate_only).await;
    AlterConfigsResponse::default().with_responses(done.into_iter().map(response).collect())
}

fn wanted(resource: AlterConfigsResource) -> Wanted {
    let edit = overrides(&resource.configs).map(Edit::Replace);
    (Resource { kind: resource.resource_type, name: resource.resource_name }, edit)
}

fn response((resource, done): (Resource, Result<(), ItemError>)) -> AlterConfigsResourceResponse {
    let response = AlterConfigsResourceResponse::default()
        .with_resource_type(resource.kind)
        .with_resource_name(resource.name);
    match done {
        Ok(()) => response.with_error_message(None),
        Err(error) => {
            response.with_error_code(error.code.code()).with_error_message(some_text(error.message))
        }
    }
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
}
