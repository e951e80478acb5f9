//! `SIGTERM` while a request over HTTP/2 is half there. The frames are made by hand: clients do not
//! tell that they were asked to go (RFC 9113, sections 4, 5.4 and 6.8; RFC 7541, section 6.2.2).

use std::time::Duration;

use protocol_tests::{Floe, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// Flags; the last two have the same bit.
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// Longest wait for a frame.
const FRAME_MAX: Duration = Duration::from_secs(10);

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn write(writer: &mut OwnedWriteHalf, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    writer.write_all(&frame).await.unwrap();
}

/// The next frame; none at the end of the connection.
async fn read(reader: &mut OwnedReadHalf) -> Option<Frame> {
    let reading = async {
        let mut head = [0; 9];
        reader.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    };
    tokio::time::timeout(FRAME_MAX, reading).await.expect("a frame, or the end")
}

/// Names and values as literals that nobody keeps.
fn headers(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in pairs {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_http2_that_is_half_there_is_answered_and_the_client_told_to_go() {
    let partitions = format!("--num-partitions={}", super::PARTITIONS);
    let mut floe = Floe::start(&["--shutdown-timeout=60s", &partitions]).await;
    let address = floe.http_address();
    let (mut reader, mut writer) = TcpStream::connect(&address).await.unwrap().into_split();
    writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    write(&mut writer, SETTINGS, 0, 0, &[]).await;
    let block = headers(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", &address),
        (":path", "/api/v1/topics/drained/events"),
    ]);
    write(&mut writer, HEADERS, END_HEADERS, 1, &block).await;
    write(&mut writer, DATA, 0, 1, b"{\"half\":\"").await;
    // More than a small body, which would take no memory before it is whole.
    write(&mut writer, DATA, 0, 1, &[b'x'; 12_000]).await;
    let is_read = async || (floe.metric("floe_http_in_flight_bytes", "").await > 0.0).then_some(());
    eventually("a body that is read", is_read).await;
    floe.terminate();
    let (mut is_told, mut status, mut body) = (false, None, Vec::new());
    while let Some(Frame { kind, flags, stream, payload }) = read(&mut reader).await {
        match kind {
            SETTINGS if flags & ACK == 0 => write(&mut writer, SETTINGS, ACK, 0, &[]).await,
            PING if flags & ACK == 0 => write(&mut writer, PING, ACK, 0, &payload).await,
            // What comes before the request ends was not the end of the connection.
            GOAWAY if !is_told => {
                assert!(status.is_none(), "it is asked to go before it is answered");
                assert_eq!(payload[4..8], [0; 4], "no error");
                is_told = true;
                write(&mut writer, DATA, END_STREAM, 1, b"\"}").await;
            }
            HEADERS if stream == 1 => status = payload.first().copied(),
            DATA if stream == 1 => body.extend(payload),
            _ => {}
        }
    }
    // 0x88 is `:status: 200`.
    assert_eq!((is_told, status), (true, Some(0x88)), "{}", String::from_utf8_lossy(&body));
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&answer["accepted"], &answer["ack"]), (&1.into(), &"durable".into()), "{answer}");
    assert_eq!(floe.stop().await, Some(0));
    floe.restart().await;
    assert_eq!(super::found(&floe, "drained").len(), 1, "and it is there");
}
