//! The Fetch response, encoded by hand: headers in small pieces, record batches as they lie in memory.
//! The envelope library would copy every byte of them.
//!
//! Versions 4 to 12; the tests hold it against the library's decoder for each.

use bytes::{BufMut, Bytes, BytesMut};

use crate::kafka::codec::{self, ResponseFrame};
use crate::kafka::dispatch::Call;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::fault::Fault;
use crate::runtime::BytePermit;
use crate::types::Offset;

/// First version with compact lengths and tagged fields.
const FLEXIBLE_FROM: i16 = 12;

/// The answer for one partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartitionAnswer {
    pub(crate) index: i32,
    pub(crate) code: ErrorCode,
    /// -1 where it is not known.
    pub(crate) high_watermark: Offset,
    /// -1 where it is not known.
    pub(crate) log_start_offset: Offset,
    /// Whole batches in order.
    pub(crate) batches: Vec<Bytes>,
}

impl PartitionAnswer {
    /// An error without offsets and records.
    pub(crate) fn failed(index: i32, code: ErrorCode) -> Self {
        Self { index, code, high_watermark: -1, log_start_offset: -1, batches: Vec::new() }
    }

    /// Bytes of its batches.
    pub(crate) fn len(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

/// The answers for the partitions of one topic.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TopicAnswer {
    pub(crate) name: Bytes,
    pub(crate) partitions: Vec<PartitionAnswer>,
}

/// Encodes a Fetch response without session. `read_committed` decides whether the list of aborted
/// transactions is empty or null (KIP-98); there are no transactions, so the last stable offset is
/// the high watermark.
///
/// # Errors
/// [`Fault::Encode`] above 2 GiB.
pub(crate) fn encode(
    call: Call,
    read_committed: bool,
    topics: Vec<TopicAnswer>,
    permits: Vec<BytePermit>,
) -> Result<ResponseFrame, Fault> {
    let mut out = Pieces { version: call.version, done: Vec::new(), head: BytesMut::new(), len: 0 };
    // Throttle time; from version 7 on the error of the whole request and session 0: no session.
    out.head.put_i32(0);
    if call.version >= 7 {
        out.head.put_i16(ErrorCode::None.code());
        out.head.put_i32(0);
    }
    out.count(topics.len());
    for topic in topics {
        out.string(&topic.name);
        out.count(topic.partitions.len());
        for partition in topic.partitions {
            out.partition(partition, read_committed);
        }
        out.no_tags();
    }
    out.no_tags();
    out.cut();
    let mut chunks = vec![codec::begin(call, out.len, 0)?.freeze()];
    chunks.append(&mut out.done);
    Ok(ResponseFrame { chunks, permits })
}

struct Pieces {
    version: i16,
    done: Vec<Bytes>,
    head: BytesMut,
    len: usize,
}

impl Pieces {
    fn flexible(&self) -> bool {
        self.version >= FLEXIBLE_FROM
    }

    fn partition(&mut self, answer: PartitionAnswer, read_committed: bool) {
        self.head.put_i32(answer.index);
        self.head.put_i16(answer.code.code());
        self.head.put_i64(answer.high_watermark);
        self.head.put_i64(answer.high_watermark);
        if self.version >= 5 {
            self.head.put_i64(answer.log_start_offset);
        }
        self.aborted(read_committed);
        if self.version >= 11 {
            // No preferred read replica.
            self.head.put_i32(-1);
        }
        // Empty and not null without records: old clients choke on null.
        self.count(answer.len());
        if !answer.batches.is_empty() {
            self.cut();
            for batch in answer.batches {
                self.len += batch.len();
                self.done.push(batch);
            }
        }
        self.no_tags();
    }

    fn aborted(&mut self, read_committed: bool) {
        match (read_committed, self.flexible()) {
            (true, _) => self.count(0),
            (false, true) => self.head.put_u8(0),
            (false, false) => self.head.put_i32(-1),
        }
    }

    /// The length of an array or of bytes.
    fn count(&mut self, count: usize) {
        if self.flexible() {
            self.varint(count + 1);
        } else {
            // Above 2 GiB `begin` refuses the frame.
            self.head.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
        }
    }

    fn string(&mut self, text: &[u8]) {
        if self.flexible() {
            self.varint(text.len() + 1);
        } else {
            // It came in with a length of 16 bits.
            self.head.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
        }
        self.head.put_slice(text);
    }

    fn no_tags(&mut self) {
        if self.flexible() {
            self.head.put_u8(0);
        }
    }

    fn varint(&mut self, value: usize) {
        let mut rest = value;
        while rest >= 0x80 {
            self.head.put_u8((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.head.put_u8(rest as u8);
    }

    /// Ends the current piece.
    fn cut(&mut self) {
        let piece = self.head.split().freeze();
        self.len += piece.len();
        if !piece.is_empty() {
            self.done.push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use kafka_protocol::messages::{ApiKey, FetchResponse, ResponseHeader};
    use kafka_protocol::protocol::Decodable;

    use super::*;

    fn answers() -> Vec<TopicAnswer> {
        let batches = vec![Bytes::from(vec![7; 300]), Bytes::from_static(b"second")];
        let good = PartitionAnswer {
            index: 3,
            code: ErrorCode::None,
            high_watermark: 1 << 40,
            log_start_offset: 5,
            batches,
        };
        let quiet = PartitionAnswer { index: 4, batches: vec![], ..good.clone() };
        let failed = PartitionAnswer::failed(9, ErrorCode::UnknownTopicOrPartition);
        vec![
            TopicAnswer { name: Bytes::from(vec![b'n'; 200]), partitions: vec![good, quiet] },
            TopicAnswer { name: Bytes::from_static(b"t"), partitions: vec![failed] },
            TopicAnswer { name: Bytes::from_static(b"none"), partitions: vec![] },
        ]
    }

    #[test]
    fn every_version_is_what_the_library_decodes() {
        for version in 4..=12 {
            for read_committed in [false, true] {
                let call = Call { api: ApiKey::Fetch, version, correlation_id: 77 };
                let frame = encode(call, read_committed, answers(), Vec::new()).unwrap();
                let mut bytes = Bytes::from(frame.chunks.concat());
                assert_eq!(bytes.get_i32() as usize, bytes.remaining());
                let header_version = ApiKey::Fetch.response_header_version(version);
                let header = ResponseHeader::decode(&mut bytes, header_version).unwrap();
                assert_eq!(header.correlation_id, 77);
                let response = FetchResponse::decode(&mut bytes, version).unwrap();
                assert!(bytes.is_empty(), "version {version}");
                check(&response, version, read_committed);
            }
        }
    }

    fn check(response: &FetchResponse, version: i16, read_committed: bool) {
        assert_eq!((response.error_code, response.session_id), (0, 0));
        for (answer, wanted) in response.responses.iter().zip(answers()) {
            assert_eq!(answer.topic.as_bytes(), &wanted.name[..]);
            assert_eq!(answer.partitions.len(), wanted.partitions.len());
            for (answer, wanted) in answer.partitions.iter().zip(wanted.partitions) {
                assert_eq!(answer.partition_index, wanted.index);
                assert_eq!(answer.error_code, wanted.code.code());
                assert_eq!(answer.high_watermark, wanted.high_watermark);
                assert_eq!(answer.last_stable_offset, wanted.high_watermark);
                let start = if version >= 5 { wanted.log_start_offset } else { -1 };
                assert_eq!(answer.log_start_offset, start);
                let records = answer.records.clone().expect("never null");
                assert_eq!(records, wanted.batches.concat());
                let aborted = answer.aborted_transactions.as_ref().map(Vec::len);
                assert_eq!(aborted, read_committed.then_some(0));
            }
        }
        assert_eq!(response.responses.len(), 3);
    }

    #[test]
    fn record_bytes_are_not_copied() {
        let call = Call { api: ApiKey::Fetch, version: 12, correlation_id: 1 };
        let topics = answers();
        let pointer = topics[0].partitions[0].batches[0].as_ptr();
        let frame = encode(call, false, topics, Vec::new()).unwrap();
        assert!(frame.chunks.iter().any(|chunk| chunk.as_ptr() == pointer));
    }
}
