//! Request headers in, response frames out.
//!
//! Owns the envelope: size, correlation id, tagged fields of headers. Bodies are the business of
//! `kafka-protocol`, except Fetch (see `fetch_response`), whose record bytes are never copied.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::kafka::dispatch::Call;
use crate::kafka::fault::Fault;
use crate::kafka::guard;
use crate::runtime::BytePermit;

/// The parts of a request header that matter.
#[derive(Debug, Clone)]
pub(crate) struct RequestHeader {
    /// The API, as a number: it may be unknown.
    pub(crate) api_key: i16,
    /// Version of the body.
    pub(crate) version: i16,
    /// Sent back with the response.
    pub(crate) correlation_id: i32,
}

/// The body of a response as it goes out: a frame in pieces, and the memory it holds.
#[derive(Debug, Default)]
pub(crate) struct ResponseFrame {
    /// Written one after the other.
    pub(crate) chunks: Vec<Bytes>,
    /// Held until the frame is written.
    #[allow(dead_code, reason = "held for its drop")]
    pub(crate) permits: Vec<BytePermit>,
}

impl ResponseFrame {
    /// All bytes of the frame, its size field included.
    pub(crate) fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

/// Length of the fields that every request header has: key, version, correlation id.
const HEADER_FIXED_LEN: usize = 8;

/// Reads the three fixed fields, which every version of the header begins with.
///
/// # Errors
/// [`Fault::Malformed`].
pub(crate) fn peek_header(frame: &[u8]) -> Result<RequestHeader, Fault> {
    if frame.len() < HEADER_FIXED_LEN {
        return Err(Fault::Malformed("the frame is shorter than a request header"));
    }
    let mut head = frame;
    Ok(RequestHeader {
        api_key: head.get_i16(),
        version: head.get_i16(),
        correlation_id: head.get_i32(),
    })
}

/// Splits the header off `frame` and leaves the body. The client id is skipped: it stays a string
/// with a two-byte length also in header version 2 (KIP-482).
///
/// # Errors
/// [`Fault::Malformed`].
pub(crate) fn split_header(frame: &mut Bytes, call: Call) -> Result<(), Fault> {
    const CUT: Fault = Fault::Malformed("the request header is cut off");
    frame.advance(HEADER_FIXED_LEN);
    if frame.remaining() < 2 {
        return Err(CUT);
    }
    let client_id_len = match frame.get_i16() {
        -1 => 0,
        len => usize::try_from(len)
            .map_err(|_| Fault::Malformed("the client id has a negative length"))?,
    };
    if frame.remaining() < client_id_len {
        return Err(CUT);
    }
    frame.advance(client_id_len);
    if call.api.request_header_version(call.version) >= 2 {
        let len = guard::tagged_fields_len(frame)
            .map_err(|_| Fault::Malformed("the tagged fields of the request header are cut off"))?;
        frame.advance(len);
    }
    Ok(())
}

/// Decodes a body that passed the guard.
///
/// # Errors
/// [`Fault::Undecodable`].
pub(crate) fn decode<R: Decodable>(api: ApiKey, version: i16, body: Bytes) -> Result<R, Fault> {
    let mut body = body;
    R::decode(&mut body, version).map_err(|error| Fault::Undecodable {
        api: name(api),
        version,
        reason: error.to_string(),
    })
}

/// The start of a response frame: size and header, for a body of `body_len` bytes.
///
/// # Errors
/// [`Fault::Encode`] when the frame would pass 2 GiB.
pub(crate) fn begin(call: Call, body_len: usize, capacity: usize) -> Result<BytesMut, Fault> {
    // ApiVersions always answers header version 0, so that any client can read it (KIP-511); the
    // crate's table knows.
    let flexible = call.api.response_header_version(call.version) >= 1;
    let size = i32::try_from(body_len + 4 + usize::from(flexible)).map_err(|_| Fault::Encode {
        api: name(call.api),
        version: call.version,
        reason: "the response would be above 2 GiB".to_owned(),
    })?;
    let mut frame = BytesMut::with_capacity(capacity + 9);
    frame.put_i32(size);
    frame.put_i32(call.correlation_id);
    if flexible {
        frame.put_u8(0);
    }
    Ok(frame)
}

/// Encodes a whole response.
///
/// # Errors
/// [`Fault::Encode`]: a field is set that the version does not have.
pub(crate) fn encode<R: Encodable>(call: Call, response: &R) -> Result<ResponseFrame, Fault> {
    let version = call.version;
    let fault = |reason: String| Fault::Encode { api: name(call.api), version, reason };
    let size = response.compute_size(version).map_err(|error| fault(error.to_string()))?;
    let mut frame = begin(call, size, size)?;
    let body_at = frame.len();
    response.encode(&mut frame, version).map_err(|error| fault(error.to_string()))?;
    if frame.len() - body_at != size {
        return Err(fault(format!("{} bytes instead of {size}", frame.len() - body_at)));
    }
    Ok(ResponseFrame { chunks: vec![frame.freeze()], permits: Vec::new() })
}

/// The API's name for log lines and metrics.
pub(crate) fn name(api: ApiKey) -> &'static str {
    match api {
        ApiKey::Produce => "Produce",
        ApiKey::Fetch => "Fetch",
        ApiKey::ListOffsets => "ListOffsets",
        ApiKey::Metadata => "Metadata",
        ApiKey::FindCoordinator => "FindCoordinator",
        ApiKey::SaslHandshake => "SaslHandshake",
        ApiKey::SaslAuthenticate => "SaslAuthenticate",
        ApiKey::ApiVersions => "ApiVersions",
        ApiKey::CreateTopics => "CreateTopics",
        ApiKey::DeleteTopics => "DeleteTopics",
        ApiKey::InitProducerId => "InitProducerId",
        ApiKey::DescribeConfigs => "DescribeConfigs",
        ApiKey::AlterConfigs => "AlterConfigs",
        ApiKey::CreatePartitions => "CreatePartitions",
        ApiKey::IncrementalAlterConfigs => "IncrementalAlterConfigs",
        ApiKey::DescribeCluster => "DescribeCluster",
        _ => "other",
    }
}
