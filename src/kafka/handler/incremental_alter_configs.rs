//! IncrementalAlterConfigs (key 44, KIP-339), versions 0 and 1.
//!
//! Edits single options of a topic: SET 0, DELETE 1, APPEND 2, SUBTRACT 3. All edits of one topic
//! are applied, or none. What it shares with AlterConfigs is in `alter_resources`.

use std::sync::Arc;

use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::alter_resources::{self, Edit, Resource, Wanted, key_twice, no_value};
use crate::kafka::handler::{ItemError, duplicates, some_text};
use crate::topic::OptionEdit;

pub(crate) async fn handle(
    context: Arc<Context>,
    _version: i16,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let wanted = request.resources.into_iter().map(wanted).collect();
    let done = alter_resources::alter(&context, wanted, request.validate_only).await;
    IncrementalAlterConfigsResponse::default()
        .with_responses(done.into_iter().map(response).collect())
}

fn wanted(resource: AlterConfigsResource) -> Wanted {
    let edit = edits(&resource.configs).map(Edit::Each);
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

fn edits(configs: &[AlterableConfig]) -> Result<Vec<OptionEdit>, ItemError> {
    if let Some(key) = duplicates(configs.iter().map(|config| config.name.clone())).iter().next() {
        return Err(key_twice(key));
    }
    configs.iter().map(edit).collect()
}

fn edit(config: &AlterableConfig) -> Result<OptionEdit, ItemError> {
    let key = config.name.to_string();
    let value =
        || config.value.as_ref().map(ToString::to_string).ok_or_else(|| no_value(&config.name));
    match config.config_operation {
        0 => Ok(OptionEdit::Set(key, value()?)),
        1 => Ok(OptionEdit::Delete(key)),
        2 => Ok(OptionEdit::Append(key, value()?)),
        3 => Ok(OptionEdit::Subtract(key, value()?)),
        other => Err(ItemError::new(
            ErrorCode::InvalidRequest,
            format!("operation {other} on option {key} is unknown"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(operation: i8, value: Option<&'static str>) -> AlterableConfig {
        AlterableConfig::default()
            .with_name("k".into())
            .with_config_operation(operation)
            .with_value(value.map(Into::into))
    }

    #[test]
    fn operations_become_edits() {
        let cases = [
            (0, Some("v"), Some(OptionEdit::Set("k".into(), "v".into()))),
            (0, None, None),
            (1, None, Some(OptionEdit::Delete("k".into()))),
            (2, Some("v"), Some(OptionEdit::Append("k".into(), "v".into()))),
            (3, Some("v"), Some(OptionEdit::Subtract("k".into(), "v".into()))),
            (4, Some("v"), None),
            (-1, Some("v"), None),
        ];
        for (operation, value, wanted) in cases {
            assert_eq!(edit(&config(operation, value)).ok(), wanted, "{operation}");
        }
        assert!(edits(&[config(1, None), config(1, None)]).is_err());
    }
}
