//! A Kafka client as small as can be, for the commands that send records themselves.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::{Encodable, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest answer taken.
const ANSWER_BYTES_MAX: usize = 64 << 20;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A request as it goes over the wire, length first. Every one has the same correlation id:
/// answers come in the order of requests.
pub(super) fn frame<R: Encodable>(api: ApiKey, version: i16, request: &R) -> Result<Bytes, String> {
    let header = RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(1)
        .with_client_id(Some(StrBytes::from_static_str("floe")));
    let mut body = BytesMut::new();
    header.encode(&mut body, api.request_header_version(version)).map_err(text)?;
    request.encode(&mut body, version).map_err(text)?;
    let mut frame = BytesMut::with_capacity(body.len() + 4);
    frame.put_u32(u32::try_from(body.len()).map_err(text)?);
    frame.put(body);
    Ok(frame.freeze())
}

/// Reads one answer; its body.
pub(super) async fn answer(
    stream: &mut (impl AsyncRead + Unpin),
    api: ApiKey,
    version: i16,
) -> Result<Bytes, String> {
    let size = stream.read_u32().await.map_err(text)? as usize;
    if size > ANSWER_BYTES_MAX {
        return Err(format!("an answer of {size} bytes"));
    }
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer).await.map_err(text)?;
    let mut answer = Bytes::from(answer);
    // Correlation id, and the tag buffer of a flexible header.
    let skip = if api.response_header_version(version) >= 1 { 5 } else { 4 };
    if answer.len() < skip {
        return Err("a short answer".to_owned());
    }
    answer.advance(skip);
    Ok(answer)
}

/// Sends one request and returns the body of its answer.
pub(super) async fn call<R: Encodable>(
    stream: &mut TcpStream,
    api: ApiKey,
    version: i16,
    request: &R,
) -> Result<Bytes, String> {
    stream.write_all(&frame(api, version, request)?).await.map_err(text)?;
    answer(stream, api, version).await
}
