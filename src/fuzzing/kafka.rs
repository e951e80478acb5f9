//! Request frames: header, version, guard, decoder, as `kafka::dispatch` calls them.

use std::fmt::Debug;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{
    AlterConfigsRequest, ApiKey, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, FetchRequest,
    FindCoordinatorRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, ProduceRequest, SaslAuthenticateRequest,
    SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::kafka::codec;
use crate::kafka::dispatch::{self, Call};
use crate::kafka::guard;

/// A frame without its size. What the guard lets pass the decoder refuses or decodes up to the byte
/// where the guard stopped, and what was decoded survives a round trip.
///
/// # Panics
/// If a property does not hold.
pub fn kafka_request(data: &[u8]) {
    if let Some((call, body, left)) = accepted(data) {
        decode(call, body, left);
    }
}

/// The request as its decoder gets it and how many bytes the guard leaves over, unless it is
/// refused before.
pub(super) fn accepted(frame: &[u8]) -> Option<(Call, Bytes, usize)> {
    let Ok(header) = codec::peek_header(frame) else {
        assert!(frame.len() < 8, "a whole header was refused");
        return None;
    };
    let (api, call) = dispatch::admit(&header).ok()?;
    assert!(api.accepts(call.version) && call.correlation_id == header.correlation_id);
    let mut body = Bytes::copy_from_slice(frame);
    codec::split_header(&mut body, call).ok()?;
    assert!(frame.ends_with(&body), "the header took bytes of the body");
    let left = guard::check(call.api, call.version, &body).ok()?;
    Some((call, body, left))
}

/// Decodes a request that the guard let pass; false if the decoder refuses it.
pub(super) fn decode(call: Call, body: Bytes, left: usize) -> bool {
    match call.api {
        ApiKey::Produce => of::<ProduceRequest>(call, body, left),
        ApiKey::Fetch => of::<FetchRequest>(call, body, left),
        ApiKey::ListOffsets => of::<ListOffsetsRequest>(call, body, left),
        ApiKey::Metadata => of::<MetadataRequest>(call, body, left),
        ApiKey::FindCoordinator => of::<FindCoordinatorRequest>(call, body, left),
        ApiKey::SaslHandshake => of::<SaslHandshakeRequest>(call, body, left),
        ApiKey::SaslAuthenticate => of::<SaslAuthenticateRequest>(call, body, left),
        ApiKey::ApiVersions => of::<ApiVersionsRequest>(call, body, left),
        ApiKey::CreateTopics => of::<CreateTopicsRequest>(call, body, left),
        ApiKey::DeleteTopics => of::<DeleteTopicsRequest>(call, body, left),
        ApiKey::InitProducerId => of::<InitProducerIdRequest>(call, body, left),
        ApiKey::DescribeConfigs => of::<DescribeConfigsRequest>(call, body, left),
        ApiKey::AlterConfigs => of::<AlterConfigsRequest>(call, body, left),
        ApiKey::CreatePartitions => of::<CreatePartitionsRequest>(call, body, left),
        ApiKey::IncrementalAlterConfigs => of::<IncrementalAlterConfigsRequest>(call, body, left),
        ApiKey::DescribeCluster => of::<DescribeClusterRequest>(call, body, left),
        other => panic!("dispatch knows {other:?}, this target does not"),
    }
}

fn of<R: Decodable + Encodable + PartialEq + Debug>(call: Call, body: Bytes, left: usize) -> bool {
    let mut rest = body.clone();
    let Ok(request) = codec::decode::<R>(call.api, call.version, body) else { return false };
    let again = R::decode(&mut rest, call.version).expect("it was decoded a moment ago");
    assert_eq!(again, request);
    assert_eq!(rest.remaining(), left, "guard and decoder stop at different bytes");
    let mut encoded = BytesMut::new();
    request.encode(&mut encoded, call.version).expect("what was decoded can be encoded");
    let encoded = encoded.freeze();
    // The library counts unknown tags from 2^31 on and does not write them: what follows is then
    // read as something else. We never send tags.
    let whole = guard::check(call.api, call.version, &encoded) == Ok(0);
    let back = whole.then(|| codec::decode::<R>(call.api, call.version, encoded));
    let same = matches!(&back, Some(Ok(back)) if *back == request);
    assert!(same || has_negative_tag(&request), "{request:?} became {back:?}");
    true
}

/// True if a tag does not fit 31 bits: maps are shown in the order of their keys.
fn has_negative_tag(request: &impl Debug) -> bool {
    format!("{request:?}").contains("unknown_tagged_fields: {-")
}
