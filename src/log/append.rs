//! The way in: checks that need no sequencer, memory, admission, then the queue.

use std::sync::Arc;
use std::time::Instant;

use metrics::{Counter, Histogram};
use tokio::sync::oneshot;

use crate::log::sequence::error_of;
use crate::log::{
    Append, AppendBatch, AppendError, Appended, Log, Origin, Partition, PendingAppend,
};
use crate::record::{BatchHeader, batch};
use crate::runtime::metrics as names;
use crate::wal::{Ack, Done, FrameDraft, FrameKind, Request, Verdict};

/// Runs that are durable but not in the index. Past this the state store is so far behind that
/// appends wait outside: memory is bounded (about 64 bytes each).
const RECENT_RUNS_MAX: usize = 1 << 18;

/// Handles of the metrics of one origin.
pub(crate) struct Meters {
    records: Counter,
    bytes: Counter,
    seconds: Histogram,
}

impl Meters {
    pub(crate) fn new(origin: Origin) -> Self {
        let label = match origin {
            Origin::Kafka => "kafka",
            Origin::Http => "http",
        };
        Self {
            records: metrics::counter!(names::LOG_RECORDS, "origin" => label),
            bytes: metrics::counter!(names::LOG_BYTES, "origin" => label),
            seconds: metrics::histogram!(names::LOG_APPEND_SECONDS, "origin" => label),
        }
    }
}

/// What the answer needs of each batch.
struct Sent {
    partition: Arc<Partition>,
    record_count: u32,
    /// The append time that was written into the batch (`LogAppendTime`).
    stamped_ms: Option<i64>,
}

impl Log {
    /// Waits for memory, then queues the append: calls made one after another keep their order.
    /// Space is decided here, before an offset is assigned (rules 3.2). With `LogAppendTime` the
    /// time of this call is written into the batches, as the sequencer must not touch bytes.
    ///
    /// # Errors
    /// [`AppendError`] when it is refused at admission.
    pub async fn append(&self, append: Append) -> Result<PendingAppend, AppendError> {
        let result = self.admit_and_queue(append).await;
        if let Err(error) = &result {
            metrics::counter!(names::LOG_REJECTED, "reason" => reason(error)).increment(1);
        }
        result
    }

    async fn admit_and_queue(&self, append: Append) -> Result<PendingAppend, AppendError> {
        let started = Instant::now();
        let bytes: usize = append.batches.iter().map(|batch| batch.batch.len()).sum();
        let permit = self.inner.budget.acquire(bytes).await;
        if self.inner.shared.recent_runs() >= RECENT_RUNS_MAX {
            return Err(AppendError::StorageFull("the state store is behind".to_owned()));
        }
        self.inner.frames.admission().map_err(AppendError::StorageFull)?;
        let mut frames = Vec::with_capacity(append.batches.len());
        let mut sent = Vec::with_capacity(append.batches.len());
        for batch in append.batches {
            let (draft, facts) = self.draft(batch, append.origin)?;
            frames.push(draft);
            sent.push(facts);
        }
        let (sender, answered) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        let (origin, settle, is_awaited) = (append.origin, append.settle, append.is_awaited);
        let answer = move |ack: Ack| {
            let result = answer(&ack, &sent);
            if let Some(settle) = settle {
                settle(&result, ack.end);
            }
            inner.count(origin, &sent, bytes, started, &result);
            // The receiver may have gone away; the append stands.
            let _ = sender.send(result);
        };
        let answer = Box::new(answer);
        let done = if is_awaited { Done::Logged(answer) } else { Done::Unawaited(answer) };
        let request = Request { frames, done, permit: Some(permit) };
        self.inner.frames.append(request).await?;
        Ok(PendingAppend { done: answered })
    }

    fn draft(&self, batch: AppendBatch, origin: Origin) -> Result<(FrameDraft, Sent), AppendError> {
        let id = batch.partition;
        let options = self
            .inner
            .directory
            .options(id)
            .filter(|options| !options.draining)
            .ok_or(AppendError::UnknownPartition)?;
        let partition = self.partition(id).ok_or(AppendError::UnknownPartition)?;
        if let Some(reason) = partition.blocked() {
            return Err(AppendError::Blocked(reason));
        }
        let mut payload = batch.batch;
        let stamped_ms = options.log_append_time.then(|| self.inner.clock.now_ms());
        if let Some(now_ms) = stamped_ms {
            payload = batch::set_append_time(&payload, now_ms);
        }
        // The caller checked the batch; one that is none after all must not get offsets.
        let header =
            BatchHeader::parse(&payload).ok().filter(|header| header.size_bytes() == payload.len());
        let Some((header, record_count)) = header.and_then(|header| {
            let count = u32::try_from(header.record_count).ok().filter(|count| *count > 0)?;
            Some((header, count))
        }) else {
            let text = "an unchecked batch reached the log; it was not written".to_owned();
            return Err(AppendError::StorageFull(text));
        };
        let draft = FrameDraft {
            kind: match origin {
                Origin::Kafka => FrameKind::Records,
                Origin::Http => FrameKind::HttpRecords,
            },
            partition: id,
            base_offset: 0,
            record_count,
            producer_id: header.producer_id.max(-1),
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            max_timestamp: header.max_timestamp,
            moved_ms: None,
            ext: batch.ext,
            payload,
        };
        Ok((draft, Sent { partition, record_count, stamped_ms }))
    }
}

impl crate::log::Inner {
    fn count(
        &self,
        origin: Origin,
        sent: &[Sent],
        bytes: usize,
        started: Instant,
        result: &Result<Vec<Appended>, AppendError>,
    ) {
        let meters = match origin {
            Origin::Kafka => &self.kafka_meters,
            Origin::Http => &self.http_meters,
        };
        match result {
            Ok(appended) if appended.iter().all(|batch| !batch.duplicate) => {
                meters.records.increment(sent.iter().map(|s| u64::from(s.record_count)).sum());
                meters.bytes.increment(bytes as u64);
                meters.seconds.record(started.elapsed());
            }
            Ok(_) => {
                metrics::counter!(names::LOG_REJECTED, "reason" => "duplicate").increment(1);
            }
            Err(error) => {
                metrics::counter!(names::LOG_REJECTED, "reason" => reason(error)).increment(1);
            }
        }
    }
}

/// The answer to the sender, on a thread of the write-ahead log.
fn answer(ack: &Ack, sent: &[Sent]) -> Result<Vec<Appended>, AppendError> {
    let (append_ms, duplicate) = match ack.verdict {
        Verdict::Write => (ack.append_ms, false),
        Verdict::Duplicate { append_ms, .. } => (append_ms, true),
        Verdict::Reject(code) => return Err(error_of(code)),
    };
    let appended = |(sent, base_offset): (&Sent, &i64)| Appended {
        base_offset: *base_offset,
        last_offset: base_offset + i64::from(sent.record_count) - 1,
        append_ms: if duplicate { append_ms } else { sent.stamped_ms.unwrap_or(append_ms) },
        log_start_offset: sent.partition.log_start_offset(),
        duplicate,
    };
    Ok(sent.iter().zip(&ack.base_offsets).map(appended).collect())
}

fn reason(error: &AppendError) -> &'static str {
    match error {
        AppendError::UnknownPartition => "unknown_partition",
        AppendError::OutOfOrderSequence => "out_of_order_sequence",
        AppendError::InvalidProducerEpoch => "invalid_producer_epoch",
        AppendError::StorageFull(_) => "storage_full",
        AppendError::TooLarge { .. } => "too_large",
        AppendError::Closed => "closed",
        AppendError::Blocked(_) => "blocked",
    }
}
