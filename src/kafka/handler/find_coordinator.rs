//! FindCoordinator (key 10), versions 0 to 4.
//!
//! The one broker coordinates every group and every transactional id, so it answers itself for key
//! types 0 (group) and 1 (transaction), and INVALID_REQUEST for others. It is there before groups
//! are: librdkafka takes its presence as the sign that lz4 is understood.
//!
//! Clients that ask for a group's coordinator with version 0 or 1 (kafka-python 2, aiokafka) join without
//! looking whether JoinGroup exists, and start over for ever when the connection closes. They get
//! UNSUPPORTED_VERSION, which they show. Later versions must not: librdkafka would report it to
//! consumers that only assign.

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
    let (code, message) = match request.key_type {
        0 if version < 2 => {
            let message = some_text(format_args!("consumer groups are not supported yet"));
            (ErrorCode::UnsupportedVersion, message)
        }
        0 | 1 => (ErrorCode::None, None),
        other => {
            let message = some_text(format_args!("unknown coordinator key type {other}"));
            (ErrorCode::InvalidRequest, message)
        }
    };
    let (node, host, port) =
        if code == ErrorCode::None { (node, host, port) } else { (-1, "", -1) };
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
    fn groups_and_transactions_are_coordinated_here_but_groups_of_old_clients_refused() {
        for version in 0..=4 {
            let group = if version < 2 { 35 } else { 0 };
            for (key_type, code) in [(0, group), (1, 0), (2, 42)] {
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
