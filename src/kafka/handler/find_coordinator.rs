//! FindCoordinator (key 10), versions 0 to 4.
//!
//! The one broker coordinates every group and every transactional id, so it answers itself for key
//! types 0 (group) and 1 (transaction), and INVALID_REQUEST for others. It is there before groups
//! are: librdkafka takes its presence as the sign that lz4 is understood.

use std::sync::Arc;

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::{some_text, text};

pub(crate) async fn handle(
    context: Arc<Context>,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let node = context.deps.options.node_id;
    answer(version, &request, node, &context.session.host, context.session.port)
}

fn answer(
    version: i16,
    request: &FindCoordinatorRequest,
    node: i32,
    host: &str,
    port: i32,
) -> FindCoordinatorResponse {
    let known = matches!(request.key_type, 0 | 1);
    let (code, node, host, port) = if known {
        (ErrorCode::None, node, host, port)
    } else {
        (ErrorCode::InvalidRequest, -1, "", -1)
    };
    let message = if known {
        None
    } else {
        some_text(format_args!("unknown coordinator key type {}", request.key_type))
    };
    if version < 4 {
        return FindCoordinatorResponse::default()
            .with_error_code(code.code())
            .with_error_message(message)
            .with_node_id(BrokerId(node))
            .with_host(text(host))
            .with_port(port);
    }
    let one = |key| {
        Coordinator::default()
            .with_key(key)
            .with_error_code(code.code())
            .with_error_message(message.clone())
            .with_node_id(BrokerId(node))
            .with_host(text(host))
            .with_port(port)
    };
    let keys = request.coordinator_keys.iter().cloned();
    FindCoordinatorResponse::default().with_coordinators(keys.map(one).collect())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    #[test]
    fn groups_and_transactions_are_coordinated_here() {
        for version in 0..=4 {
            for (key_type, code) in [(0, 0), (1, 0), (2, 42)] {
                let request = FindCoordinatorRequest::default()
                    .with_key_type(key_type)
                    .with_coordinator_keys(vec!["g".into()]);
                let response = answer(version, &request, 1, "h", 9092);
                response.encode(&mut BytesMut::new(), version).unwrap();
                let got = if version < 4 {
                    response.error_code
                } else {
                    response.coordinators[0].error_code
                };
                assert_eq!(got, code, "version {version}");
            }
        }
    }
}
