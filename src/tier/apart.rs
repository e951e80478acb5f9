//! The records of one stored batch, as rows need them.

use crate::log::StoredBatch;
use crate::record::BatchHeader;
use crate::record::BatchReader;
use crate::record::Record;
use crate::record::RecordError;
use crate::tier::encode::Job;
use crate::tier::encode::fault;
use crate::tier::rows::Header;
use crate::tier::rows::Row;
use crate::tier::rows::dlq;
use crate::tier::rows::dlq::DeadLetter;
use crate::tier::rows::dlq::Fault;
use crate::types::Offset;

/// Headers at which a group ends within a batch: an empty one has two bytes there, and here many
/// times that. A record with more of them is a dead letter without them.
pub(super) const HEADERS_MAX: usize = 1 << 18;

/// Records of a batch.
#[derive(Default)]
pub(super) struct Apart<'a> {
    pub(super) rows: Vec<Row<'a>>,
    /// What cannot be a row, whatever the table is.
    pub(super) letters: Vec<DeadLetter<'a>>,
    /// The first offset that was left, if not all of the batch was taken.
    pub(super) cut: Option<Offset>,
}

/// The batch's records within the job's offsets, at most `rows_max`. `held` grows by the bytes that
/// the reader holds, and by what headers take.
pub(super) fn take_apart<'a>(
    job: &Job,
    batch: &'a StoredBatch,
    reader: &'a mut BatchReader,
    rows_max: usize,
    held: &mut usize,
) -> Result<Apart<'a>, Fault> {
    let decode = |error: RecordError| fault(dlq::code::DECODE, &error.to_string(), "decode");
    let header = BatchHeader::parse(&batch.bytes).map_err(|error| decode(error.into()))?;
    let mut apart = Apart::default();
    if header.is_control() {
        return Ok(apart);
    }
    let records = reader.records(&batch.bytes).map_err(decode)?;
    *held += records.body_bytes();
    let mut headers = 0;
    for record in records {
        let record = match record {
            Ok(record) => record,
            // Every record of the batch was there; what follows them is none.
            Err(RecordError::Trailing { .. }) => break,
            Err(error) => return Err(decode(error)),
        };
        if record.offset < job.from || record.offset >= job.until {
            continue;
        }
        let count = record.headers.len();
        let fits = count <= HEADERS_MAX;
        if apart.rows.len() >= rows_max || (fits && headers + count > HEADERS_MAX) {
            apart.cut = Some(record.offset);
            break;
        }
        let mut row = row(job, batch, &record, header.is_log_append_time());
        if !fits {
            let message = format!("the record has {count} headers, more than {HEADERS_MAX}");
            let fault = fault(dlq::code::DECODE, &message, "decode");
            apart.letters.push(DeadLetter { row, fault });
            continue;
        }
        row.headers = record.headers.collect();
        if job.takes(&row) {
            headers += count;
            *held += count * size_of::<Header<'_>>();
            apart.rows.push(row);
        }
    }
    Ok(apart)
}

/// The record as a row, without headers.
fn row<'a>(job: &Job, batch: &StoredBatch, record: &Record<'a>, is_append_time: bool) -> Row<'a> {
    Row {
        partition: job.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp,
        is_append_time,
        append_ms: batch.append_ms,
        origin: batch.origin,
        key: record.key,
        value: record.value,
        headers: Vec::new(),
    }
}
