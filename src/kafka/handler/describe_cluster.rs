//! DescribeCluster (key 60), versions 0 and 1.
//!
//! One broker, which is its own controller. Endpoint type 2 (controllers, KIP-919) is answered with
//! MISMATCHED_ENDPOINT_TYPE, as by an Apache Kafka broker.

use std::sync::Arc;

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};

use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::{some_text, text};

pub(crate) async fn handle(
    context: Arc<Context>,
    version: i16,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let options = &context.deps.options;
    let endpoint = if version >= 1 { request.endpoint_type } else { 1 };
    if let Some(code) = endpoint_error(endpoint) {
        return DescribeClusterResponse::default()
            .with_error_code(code.code())
            .with_error_message(some_text("this is a broker's endpoint"))
            .with_endpoint_type(endpoint);
    }
    let node = BrokerId(options.node_id);
    let broker = DescribeClusterBroker::default()
        .with_broker_id(node)
        .with_host(text(&context.session.host))
        .with_port(context.session.port);
    DescribeClusterResponse::default()
        .with_error_message(None)
        .with_endpoint_type(1)
        .with_cluster_id(text(&options.cluster_id))
        .with_controller_id(node)
        .with_brokers(vec![broker])
}

fn endpoint_error(endpoint: i8) -> Option<ErrorCode> {
    match endpoint {
        1 => None,
        2 => Some(ErrorCode::MismatchedEndpointType),
        _ => Some(ErrorCode::UnsupportedEndpointType),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_broker_endpoints_are_described() {
        assert_eq!(endpoint_error(1), None);
        assert_eq!(endpoint_error(2), Some(ErrorCode::MismatchedEndpointType));
        assert_eq!(endpoint_error(9), Some(ErrorCode::UnsupportedEndpointType));
    }
}
