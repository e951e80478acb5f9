//! What AlterConfigs and IncrementalAlterConfigs have in common: one change of options per resource,
//! each done whole or not at all.
//!
//! Only topics have options that can be changed while the server runs; those of the broker are set
//! at start, and altering them is INVALID_REQUEST, as for read-only options of Apache Kafka
//! (source: `org.apache.kafka.controller.ConfigurationControlManager`, `ConfigAdminManager`).

use std::collections::BTreeMap;

use kafka_protocol::protocol::StrBytes;

use crate::auth::Operation;
use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::describe_configs::TOPIC;
use crate::kafka::handler::{ItemError, duplicates};
use crate::topic::{Editor, OptionEdit};

/// A resource as both APIs name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    pub(crate) kind: i8,
    pub(crate) name: StrBytes,
}

/// What is to become of the options of one resource.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// These are all that is set on it.
    Replace(BTreeMap<String, String>),
    /// One after another.
    Each(Vec<OptionEdit>),
}

/// The change that a request asks of one resource, or why its words make none.
pub(crate) type Wanted = (Resource, Result<Edit, ItemError>);

/// Makes the changes in their order, or only checks them. A resource that stands twice is changed
/// not even once.
pub(crate) async fn alter(
    context: &Context,
    wanted: Vec<Wanted>,
    validate_only: bool,
) -> Vec<(Resource, Result<(), ItemError>)> {
    let twice = duplicates(wanted.iter().map(|(resource, _)| resource.clone()));
    let mut results = Vec::with_capacity(wanted.len());
    for (resource, edit) in wanted {
        let done = if twice.contains(&resource) {
            let text = "the resource stands twice in the request";
            Err(ItemError::new(ErrorCode::InvalidRequest, text))
        } else {
            one(context, &resource, edit, validate_only).await
        };
        results.push((resource, done));
    }
    results
}

async fn one(
    context: &Context,
    resource: &Resource,
    edit: Result<Edit, ItemError>,
    validate_only: bool,
) -> Result<(), ItemError> {
    match resource.kind {
        TOPIC => context.check_topic(Operation::Alter, &resource.name)?,
        _ => context.check_cluster(Operation::Alter)?,
    }
    check_alterable(resource.kind)?;
    let (topics, name) = (&context.deps.topics, &resource.name);
    let log = context.deps.log.clone();
    let editor = Editor {
        may_write: context.may_write(),
        ends: Box::new(move |partitions| log.ends(partitions)),
    };
    match edit? {
        Edit::Replace(options) => topics.replace_for(name, options, validate_only, editor).await?,
        Edit::Each(edits) => topics.edit_for(name, edits, validate_only, editor).await?,
    };
    Ok(())
}

fn check_alterable(kind: i8) -> Result<(), ItemError> {
    if kind == TOPIC {
        return Ok(());
    }
    Err(ItemError::new(
        ErrorCode::InvalidRequest,
        "only options of topics can be altered, those of the broker are set at start",
    ))
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

    #[test]
    fn broker_options_are_read_only() {
        assert!(check_alterable(2).is_ok());
        for kind in [0, 4, 8] {
            assert_eq!(check_alterable(kind).unwrap_err().code, ErrorCode::InvalidRequest);
        }
    }
}
