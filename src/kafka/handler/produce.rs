//! Produce (key 0), versions 3 to 9; advertised from 0 (see `api`).
//!
//! Every partition is checked and answered by itself. First stage, in order of arrival: check the
//! batch, queue the append. Second stage: wait until it is durable. acks 1 and -1 both wait for the
//! sync; acks 0 has no answer, and any error closes the connection. Topics are never created here.
//! Differs from Apache Kafka: records are not decompressed (only those of compacted topics are
//! walked), so timestamps are checked by the batch header; `timeout_ms` bounds replication there
//! and nothing here; transactional batches are INVALID_TXN_STATE.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::TopicName as WireName;
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};

use crate::auth::Operation;
use crate::kafka::codec;
use crate::kafka::connection::{Reply, Stage2};
use crate::kafka::dispatch::{Call, Context};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::fault::Fault;
use crate::kafka::handler::produce_check::{self, Refusal};
use crate::kafka::handler::{ItemError, partition_id, some_text};
use crate::log::{Append, AppendBatch, Appended, Origin, PendingAppend};
use crate::topic::Topic;

/// A partition whose append is queued.
struct Queued {
    pending: PendingAppend,
    /// The log stamps its time into the batch, and the answer tells it.
    log_append_time: bool,
}

struct TopicParts {
    name: WireName,
    partitions: Vec<(i32, Result<Queued, Refusal>)>,
}

/// Checks and queues everything in the request, in its order.
pub(crate) async fn start(
    context: &Arc<Context>,
    call: Call,
    body: Bytes,
) -> Result<Stage2, Fault> {
    let request: ProduceRequest = codec::decode(call.api, call.version, body)?;
    let acks = request.acks;
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for data in request.topic_data {
        let topic = context.deps.topics.get(&data.name);
        let allowed = context.check_topic(Operation::Write, &data.name);
        let mut partitions = Vec::with_capacity(data.partition_data.len());
        for partition in data.partition_data {
            let index = partition.index;
            let queued = match allowed.clone().and_then(|()| check_acks(acks)) {
                Ok(()) => queue(context, call.version, topic.as_deref(), partition).await,
                Err(error) => Err(error.into()),
            };
            partitions.push((index, queued));
        }
        topics.push(TopicParts { name: data.name, partitions });
    }
    let reply: Reply = Box::pin(async move {
        let response = finish(topics).await;
        if acks == 0 {
            return match first_error(&response) {
                None => Ok(None),
                Some(code) => Err(Fault::UnackedProduceFailed(code)),
            };
        }
        codec::encode(call, &response).map(Some)
    });
    Ok(Stage2 { reply, parks: false })
}

fn check_acks(acks: i16) -> Result<(), ItemError> {
    if matches!(acks, -1..=1) {
        return Ok(());
    }
    Err(ItemError::new(ErrorCode::InvalidRequiredAcks, format!("acks {acks} is none of -1, 0, 1")))
}

async fn queue(
    context: &Context,
    version: i16,
    topic: Option<&Topic>,
    partition: PartitionProduceData,
) -> Result<Queued, Refusal> {
    let unknown = |what| ItemError::new(ErrorCode::UnknownTopicOrPartition, what);
    let topic = topic.ok_or_else(|| unknown("the topic does not exist"))?;
    let id = partition_id(topic, partition.index)
        .ok_or_else(|| unknown("the partition does not exist"))?;
    let records = partition.records.unwrap_or_default();
    let now_ms = context.deps.clock.now_ms();
    produce_check::check(version, &records, &topic.options, now_ms)?;
    if topic.options.compacted {
        check_keys(context, records.clone()).await?;
    }
    let append = Append {
        batches: vec![AppendBatch { partition: id, batch: records, ext: Bytes::new() }],
        origin: Origin::Kafka,
        settle: None,
        is_awaited: true,
    };
    let pending = context.deps.log.append(append).await.map_err(ItemError::from)?;
    Ok(Queued { pending, log_append_time: topic.options.log_append_time })
}

/// Walking a batch may mean decompressing it, so few are walked at once.
async fn check_keys(context: &Context, batch: Bytes) -> Result<(), Refusal> {
    // Never closed; were it, the walk would still be right.
    let _turn = context.deps.opening.acquire().await;
    tokio::task::spawn_blocking(move || produce_check::check_keys(&batch)).await.unwrap_or_else(
        |error| {
            tracing::error!(%error, "the walk over a batch failed");
            Err(ItemError::new(ErrorCode::UnknownServerError, "the batch cannot be checked").into())
        },
    )
}

async fn finish(topics: Vec<TopicParts>) -> ProduceResponse {
    let mut responses = Vec::with_capacity(topics.len());
    for topic in topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (index, queued) in topic.partitions {
            partitions.push(match queued {
                Ok(queued) => done(index, queued).await,
                Err(refusal) => refused(index, refusal),
            });
        }
        responses.push(
            TopicProduceResponse::default()
                .with_name(topic.name)
                .with_partition_responses(partitions),
        );
    }
    ProduceResponse::default().with_responses(responses)
}

async fn done(index: i32, queued: Queued) -> PartitionProduceResponse {
    match queued.pending.wait().await {
        Ok(appended) => match appended.first() {
            Some(appended) => succeeded(index, appended, queued.log_append_time),
            None => refused(index, nothing_appended().into()),
        },
        Err(error) => refused(index, ItemError::from(error).into()),
    }
}

fn nothing_appended() -> ItemError {
    ItemError::new(ErrorCode::UnknownServerError, "the log told no offset")
}

fn succeeded(index: i32, appended: &Appended, log_append_time: bool) -> PartitionProduceResponse {
    PartitionProduceResponse::default()
        .with_index(index)
        .with_base_offset(appended.base_offset)
        .with_log_append_time_ms(if log_append_time { appended.append_ms } else { -1 })
        .with_log_start_offset(appended.log_start_offset)
        .with_error_message(None)
}

fn refused(index: i32, refusal: Refusal) -> PartitionProduceResponse {
    let records = refusal
        .records
        .into_iter()
        .map(|(index, message)| {
            BatchIndexAndErrorMessage::default()
                .with_batch_index(index)
                .with_batch_index_error_message(some_text(message))
        })
        .collect();
    PartitionProduceResponse::default()
        .with_index(index)
        .with_error_code(refusal.error.code.code())
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1)
        .with_record_errors(records)
        .with_error_message(some_text(refusal.error.message))
}

fn first_error(response: &ProduceResponse) -> Option<i16> {
    response
        .responses
        .iter()
        .flat_map(|topic| &topic.partition_responses)
        .map(|partition| partition.error_code)
        .find(|code| *code != 0)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use tokio::sync::oneshot;

    use super::*;
    use crate::kafka::handler::wire_name;
    use crate::log::AppendError;

    fn appended() -> Appended {
        Appended {
            base_offset: 40,
            last_offset: 41,
            append_ms: 700,
            log_start_offset: 3,
            duplicate: false,
        }
    }

    fn queued(result: Result<Vec<Appended>, AppendError>) -> Queued {
        let (sender, done) = oneshot::channel();
        sender.send(result).unwrap();
        Queued { pending: PendingAppend { done }, log_append_time: false }
    }

    #[tokio::test]
    async fn one_failing_partition_does_not_fail_the_others() {
        let refusal = Refusal {
            error: ItemError::new(ErrorCode::InvalidRecord, "why"),
            records: vec![(2, "no key")],
        };
        let parts = vec![
            (0, Ok(queued(Ok(vec![appended()])))),
            (1, Ok(queued(Err(AppendError::OutOfOrderSequence)))),
            (2, Err(refusal)),
        ];
        let topic = TopicParts { name: wire_name("t"), partitions: parts };
        let response = finish(vec![topic]).await;
        let parts = &response.responses[0].partition_responses;
        let codes: Vec<_> = parts.iter().map(|part| (part.error_code, part.base_offset)).collect();
        assert_eq!(codes, [(0, 40), (45, -1), (87, -1)]);
        assert_eq!(parts[2].record_errors[0].batch_index, 2);
        assert_eq!(first_error(&response), Some(45));
        for version in 3..=9 {
            let call = Call { api: ApiKey::Produce, version, correlation_id: 1 };
            codec::encode(call, &response).unwrap();
        }
    }

    #[tokio::test]
    async fn a_log_that_goes_away_is_a_retriable_error() {
        let (sender, done) = oneshot::channel();
        drop(sender);
        let queued = Queued { pending: PendingAppend { done }, log_append_time: false };
        assert_eq!(super::done(0, queued).await.error_code, 5);
    }

    #[test]
    fn append_time_is_told_for_log_append_time_only() {
        assert_eq!(succeeded(0, &appended(), false).log_append_time_ms, -1);
        assert_eq!(succeeded(0, &appended(), true).log_append_time_ms, 700);
    }

    #[test]
    fn other_acks_are_refused() {
        for acks in [-1, 0, 1] {
            assert!(check_acks(acks).is_ok());
        }
        assert_eq!(check_acks(2).unwrap_err().code, ErrorCode::InvalidRequiredAcks);
    }
}
