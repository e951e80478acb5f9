//! InitProducerId (key 22), versions 0 to 4.
//!
//! Without transactional id: a producer id that was never handed out, epoch 0. The time-out is
//! ignored then (clients send -1, 0 and the greatest integer), and so are the producer id and epoch
//! of a client that recovers (KIP-360): it gets a new id, as from Apache Kafka. With a transactional
//! id: UNSUPPORTED_VERSION, for transactions do not exist yet and must not be faked. Clients show that
//! code at once; they would retry COORDINATOR_NOT_AVAILABLE until their time-out. Whoever may write to
//! no topic gets CLUSTER_AUTHORIZATION_FAILED.

use std::sync::Arc;

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::auth::{Kind, Operation, Resource};
use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;

pub(crate) async fn handle(
    context: Arc<Context>,
    _version: i16,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    // Source: `KafkaApis.handleInitProducerIdRequest`, where it is IDEMPOTENT_WRITE (KIP-679).
    let principal = &context.principal;
    let may_write = principal.may(Operation::Write, Resource::Cluster)
        || principal.may_some(Operation::Write, Kind::Topic, "");
    if !may_write {
        return failed(ErrorCode::ClusterAuthorizationFailed);
    }
    if let Some(code) = refusal(&request) {
        return failed(code);
    }
    match context.deps.log.next_producer_id().await {
        Ok(id) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(0),
        // Retriable for every client: the broker is going down or its disk is full.
        Err(error) => {
            tracing::warn!(%error, "no producer id can be handed out");
            failed(ErrorCode::CoordinatorNotAvailable)
        }
    }
}

fn refusal(request: &InitProducerIdRequest) -> Option<ErrorCode> {
    let id = request.transactional_id.as_ref()?;
    // Source: `TransactionCoordinator.handleInitProducerId`.
    Some(if id.is_empty() { ErrorCode::InvalidRequest } else { ErrorCode::UnsupportedVersion })
}

fn failed(code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse::default()
        .with_error_code(code.code())
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::TransactionalId;

    use super::*;

    #[test]
    fn transactional_ids_are_refused_and_time_outs_ignored() {
        let mut request = InitProducerIdRequest::default().with_transaction_timeout_ms(-1);
        request.transactional_id = None;
        assert_eq!(refusal(&request), None);
        request.transactional_id = Some(TransactionalId("t".into()));
        assert_eq!(refusal(&request), Some(ErrorCode::UnsupportedVersion));
        request.transactional_id = Some(TransactionalId("".into()));
        assert_eq!(refusal(&request), Some(ErrorCode::InvalidRequest));
    }
}
