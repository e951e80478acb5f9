//! ListOffsets (key 2), versions 1 to 8.
//!
//! -1 is the high watermark (there are no transactions, so isolation makes no difference), -2 and -4
//! the log start, -3 the record with the greatest timestamp, -5 nothing: no offset can be fetched
//! from remote storage (KIP-405). A timestamp finds the first record at or after it. Offset and
//! timestamp are both -1 when nothing is found: the Java client refuses a mix. -3 needs version 7
//! and -4 version 8, UNSUPPORTED_VERSION otherwise (source: `ReplicaManager.fetchOffset`).

use std::sync::Arc;

use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use crate::auth::Operation;
use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::{check_leader_epoch, partition_id};
use crate::log::ReadError;
use crate::topic::Topic;
use crate::types::LEADER_EPOCH;
use crate::types::Offset;

pub(crate) async fn handle(
    context: Arc<Context>,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let topic = context.deps.topics.get(&wanted.name);
        let allowed = context.check_topic(Operation::Describe, &wanted.name);
        let mut partitions = Vec::with_capacity(wanted.partitions.len());
        for partition in &wanted.partitions {
            let found = match &allowed {
                Ok(()) => find(&context, version, topic.as_deref(), partition).await,
                Err(error) => Err(error.code),
            };
            partitions.push(answer(version, partition.partition_index, found));
        }
        topics.push(
            ListOffsetsTopicResponse::default().with_name(wanted.name).with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// What a timestamp asks for.
#[derive(Debug, PartialEq, Eq)]
enum Spec {
    Latest,
    Earliest,
    MaxTimestamp,
    Nothing,
    At(i64),
}

fn spec(version: i16, timestamp: i64) -> Result<Spec, ErrorCode> {
    match timestamp {
        -1 => Ok(Spec::Latest),
        -2 => Ok(Spec::Earliest),
        -3 if version >= 7 => Ok(Spec::MaxTimestamp),
        -4 if version >= 8 => Ok(Spec::Earliest),
        -5 if version >= 8 => Ok(Spec::Nothing),
        -5..=-3 => Err(ErrorCode::UnsupportedVersion),
        at if at >= 0 => Ok(Spec::At(at)),
        _ => Err(ErrorCode::InvalidRequest),
    }
}

/// Offset and timestamp, or none.
async fn find(
    context: &Context,
    version: i16,
    topic: Option<&Topic>,
    wanted: &ListOffsetsPartition,
) -> Result<Option<(Offset, i64)>, ErrorCode> {
    let log = &context.deps.log;
    let topic = topic.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let id =
        partition_id(topic, wanted.partition_index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = log.partition(id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    check_leader_epoch(wanted.current_leader_epoch)?;
    let found = match spec(version, wanted.timestamp)? {
        Spec::Latest => return Ok(Some((partition.high_watermark(), -1))),
        Spec::Earliest => return Ok(Some((partition.log_start_offset(), -1))),
        Spec::Nothing => return Ok(None),
        Spec::MaxTimestamp => log.max_timestamp(id).await,
        Spec::At(at) => log.offset_for_timestamp(id, at).await,
    };
    found.map_err(|error: ReadError| ErrorCode::from(&error))
}

fn answer(
    version: i16,
    index: i32,
    found: Result<Option<(Offset, i64)>, ErrorCode>,
) -> ListOffsetsPartitionResponse {
    let (code, found) = match found {
        Ok(found) => (ErrorCode::None, found),
        Err(code) => (code, None),
    };
    let (offset, timestamp) = found.unwrap_or((-1, -1));
    let epoch = if found.is_some() && version >= 4 { LEADER_EPOCH } else { -1 };
    ListOffsetsPartitionResponse::default()
        .with_partition_index(index)
        .with_error_code(code.code())
        .with_offset(offset)
        .with_timestamp(timestamp)
        .with_leader_epoch(epoch)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    #[test]
    fn special_timestamps_need_their_version() {
        let cases = [
            (1, -1, Ok(Spec::Latest)),
            (1, -2, Ok(Spec::Earliest)),
            (6, -3, Err(ErrorCode::UnsupportedVersion)),
            (7, -3, Ok(Spec::MaxTimestamp)),
            (7, -4, Err(ErrorCode::UnsupportedVersion)),
            (8, -4, Ok(Spec::Earliest)),
            (8, -5, Ok(Spec::Nothing)),
            (8, -6, Err(ErrorCode::InvalidRequest)),
            (1, 0, Ok(Spec::At(0))),
        ];
        for (version, timestamp, wanted) in cases {
            assert_eq!(spec(version, timestamp), wanted, "version {version} at {timestamp}");
        }
    }

    #[test]
    fn nothing_found_is_minus_one_twice_in_every_version() {
        for version in 1..=8 {
            let answer = answer(version, 0, Ok(None));
            assert_eq!((answer.offset, answer.timestamp, answer.error_code), (-1, -1, 0));
            answer.encode(&mut BytesMut::new(), version).unwrap();
            let found = super::answer(version, 0, Ok(Some((5, 9))));
            assert_eq!(found.leader_epoch, if version >= 4 { 0 } else { -1 });
            found.encode(&mut BytesMut::new(), version).unwrap();
        }
    }
}
