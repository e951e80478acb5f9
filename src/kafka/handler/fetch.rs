//! Fetch (key 1), versions 4 to 12, without sessions.
//!
//! Answers whole batches from the one that contains the offset, in the order of the request. The
//! first partition with data gets at least one batch whatever the limits; later ones get what fits.
//! A long poll waits for appends to any of its partitions until `min_bytes` are there, and answers
//! at once on any error. Session id 0 in every answer means "no session" (KIP-227), and clients go
//! on with full requests. Differs from Apache Kafka: never a part of a batch; zstd goes to versions
//! below 10 too, where Kafka would answer an error. There are no transactions, so both isolation
//! levels read up to the high watermark.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::FetchPartition;
use tokio::time::Instant;

use crate::auth::Operation;
use crate::kafka::codec;
use crate::kafka::connection::{Reply, Stage2};
use crate::kafka::dispatch::{Call, Context};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::fault::Fault;
use crate::kafka::fetch_response::{self, PartitionAnswer};
use crate::kafka::handler::fetch_read::{self, Limits};
use crate::kafka::handler::fetch_wait::Waiter;
use crate::kafka::handler::{check_leader_epoch, partition_id};
use crate::log::Partition;
use crate::topic::Topic;
use crate::types::Offset;
use crate::types::PartitionId;

/// Longest long poll; a client may ask for 24 days.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// One partition of a request.
pub(crate) struct Wanted {
    pub(crate) index: i32,
    pub(crate) offset: Offset,
    /// `partition_max_bytes`.
    pub(crate) bytes_max: usize,
    /// Where it is read from, or why not.
    pub(crate) source: Result<Source, ErrorCode>,
}

/// A partition that can be read.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) id: PartitionId,
    pub(crate) partition: Arc<Partition>,
}

pub(crate) struct WantedTopic {
    pub(crate) name: Bytes,
    pub(crate) partitions: Vec<Wanted>,
}

struct Fetch {
    topics: Vec<WantedTopic>,
    limits: Limits,
    min_bytes: usize,
    deadline: Instant,
    read_committed: bool,
}

pub(crate) fn start(context: &Arc<Context>, call: Call, body: Bytes) -> Result<Stage2, Fault> {
    let frame_len = body.len();
    let request: FetchRequest = codec::decode(call.api, call.version, body)?;
    let fetch = prepare(context, request);
    let context = Arc::clone(context);
    let reply: Reply = Box::pin(async move { answer(&context, call, fetch).await.map(Some) });
    // A usual request is small and waits long; a huge one stays accounted for.
    Ok(Stage2 { reply, parks: frame_len <= PARKED_BYTES_MAX })
}

/// Largest request whose memory is not accounted for while it waits.
const PARKED_BYTES_MAX: usize = 4 << 10;

fn prepare(context: &Context, request: FetchRequest) -> Fetch {
    let wait = u64::try_from(request.max_wait_ms).unwrap_or(0);
    let topics = request
        .topics
        .into_iter()
        .map(|wanted| {
            let topic = context
                .check_topic(Operation::Read, &wanted.topic)
                .map(|()| context.deps.topics.get(&wanted.topic))
                .map_err(|error| error.code);
            let partitions = wanted
                .partitions
                .iter()
                .map(|partition| prepare_partition(context, &topic, partition))
                .collect();
            WantedTopic { name: Bytes::copy_from_slice(wanted.topic.as_bytes()), partitions }
        })
        .collect();
    let bytes_max = positive(request.max_bytes).min(context.deps.options.fetch_bytes_max);
    Fetch {
        topics,
        limits: Limits { bytes_max },
        min_bytes: positive(request.min_bytes).min(bytes_max),
        deadline: Instant::now() + Duration::from_millis(wait).min(WAIT_MAX),
        read_committed: request.isolation_level == 1,
    }
}

fn positive(value: i32) -> usize {
    usize::try_from(value).unwrap_or(0)
}

fn prepare_partition(
    context: &Context,
    topic: &Result<Option<Arc<Topic>>, ErrorCode>,
    wanted: &FetchPartition,
) -> Wanted {
    let find = |topic: Option<&Topic>| {
        topic
            .and_then(|topic| partition_id(topic, wanted.partition))
            .and_then(|id| Some(Source { id, partition: context.deps.log.partition(id)? }))
            .ok_or(ErrorCode::UnknownTopicOrPartition)
    };
    let source = topic
        .as_ref()
        .map_err(|code| *code)
        .and_then(|topic| find(topic.as_deref()))
        .and_then(|source| check_leader_epoch(wanted.current_leader_epoch).map(|()| source));
    Wanted {
        index: wanted.partition,
        offset: wanted.fetch_offset,
        bytes_max: positive(wanted.partition_max_bytes),
        source,
    }
}

async fn answer(
    context: &Context,
    call: Call,
    fetch: Fetch,
) -> Result<codec::ResponseFrame, Fault> {
    let closing = &context.session.closing;
    let mut last = false;
    let found = loop {
        let before = Waiter::new(&fetch.topics);
        let found = fetch_read::read(context, &fetch.topics, &fetch.limits, fetch.deadline).await;
        let enough = last
            || found.failed
            || found.counted >= fetch.min_bytes
            || Instant::now() >= fetch.deadline
            || closing.is_cancelled()
            || before.is_empty();
        if enough {
            break found;
        }
        let missing = fetch.min_bytes - found.counted;
        // What was read is too little to send and is not kept while the client sleeps.
        drop(found);
        tokio::select! {
            grown = before.grown_by(missing) => last = !grown,
            () = tokio::time::sleep_until(fetch.deadline) => {}
            () = closing.cancelled() => {}
        }
    };
    // It may have waited for minutes: whose token was revoked meanwhile reads nothing more.
    context.deps.auth.recheck(&context.principal).map_err(Fault::SessionOver)?;
    fetch_response::encode(call, fetch.read_committed, found.topics, found.permits)
}

/// The answer of a partition that has nothing new.
pub(crate) fn quiet(index: i32, partition: &Partition) -> PartitionAnswer {
    PartitionAnswer {
        index,
        code: ErrorCode::None,
        high_watermark: partition.high_watermark(),
        log_start_offset: partition.log_start_offset(),
        batches: Vec::new(),
    }
}
