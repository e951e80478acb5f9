//! `floe bench consume`.

use std::time::Instant;

use futures::future::try_join_all;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{ApiKey, FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::{Decodable, StrBytes};
use tokio::net::TcpStream;

use super::process::Process;
use super::report::Report;
use super::server::Server;
use super::target::Target;
use super::{Settings, baseline, load};
use crate::cli::{output, wire};
use crate::record::BatchHeader;

const TOPIC: &str = "bench";
const FETCH_VERSION: i16 = 11;
const FETCH_BYTES: i32 = 1 << 20;

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let server = Server::start(settings, &["--table-mode", "off"]).await?;
    let ours = Target::ours(&server, TOPIC, settings.partitions, serde_json::json!({})).await?;
    let rate = measure(settings, &ours, report).await?;
    drop(server);
    for beside in &settings.beside {
        let target = Target::beside(beside, settings.partitions).await?;
        let theirs = measure(settings, &target, report).await?;
        report.add(target.named("ratio of ours to it"), rate / theirs, "");
        target.done().await?;
    }
    output::progress("a copy over loopback ...");
    let copy = baseline::loopback(settings.seconds).await;
    let copy = copy.map_err(|error| format!("loopback: {error}"))?;
    report.add("copy over loopback, one connection", copy.mb_per_second(), "MB/s");
    report.add("copy CPU, both ends", copy.cpu_seconds / (copy.bytes / 1e9), "s/GB");
    report.add("ratio to the copy", rate / copy.mb_per_second(), "");
    Ok(())
}

/// MB a second of reading what was stored before.
async fn measure(settings: &Settings, target: &Target, report: &mut Report) -> Result<f64, String> {
    let series = load::shots(settings, &target.topic)?.into_iter().map(|shot| vec![shot]).collect();
    output::progress(target.named(&format!("storing for {:?} ...", settings.seconds)));
    let stored = load::produce(target.address, series, load::Load::full(settings)).await?;
    output::progress(target.named(&format!("reading {} MB ...", stored.bytes / 1_000_000)));
    let (before, own, started) = (target.process.usage(), Process::own().usage(), Instant::now());
    let readers = (0..settings.partitions).map(|partition| read_all(target, partition));
    let read: u64 = try_join_all(readers).await?.iter().sum();
    let seconds = started.elapsed().as_secs_f64();
    let (used, own) = (target.process.usage() - before, Process::own().usage() - own);
    if read != stored.bytes {
        return Err(format!("{} bytes were stored, {read} were read", stored.bytes));
    }
    let rate = read as f64 / 1e6 / seconds;
    report.add(target.named("consume stored batches"), rate, "MB/s");
    report.add(target.named("records"), stored.records as f64 / seconds, "1/s");
    report.add(target.named("server CPU"), used.cpu_seconds / (read as f64 / 1e9), "s/GB");
    report.add(target.named("reader CPU"), own.cpu_seconds / (read as f64 / 1e9), "s/GB");
    report.add(target.named("server memory, peak"), target.process.peak_mb(), "MB");
    Ok(rate)
}

/// A fetch of one partition that waits at most `wait_ms`.
pub(super) fn fetch(
    topic: &str,
    partition: i32,
    offset: i64,
    wait_ms: i32,
) -> Result<bytes::Bytes, String> {
    let one = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(FETCH_BYTES);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![one]);
    let request = FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES)
        .with_topics(vec![topic]);
    wire::frame(ApiKey::Fetch, FETCH_VERSION, &request)
}

/// Batches of one answer with the high watermark.
pub(super) async fn fetched(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Result<(bytes::Bytes, i64), String> {
    let mut answer = wire::answer(reader, ApiKey::Fetch, FETCH_VERSION).await?;
    let answer = FetchResponse::decode(&mut answer, FETCH_VERSION).map_err(|e| e.to_string())?;
    let partition = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
    let partition = partition.ok_or("an answer without a partition")?;
    if partition.error_code != 0 {
        return Err(format!("fetch was refused with code {}", partition.error_code));
    }
    Ok((partition.records.unwrap_or_default(), partition.high_watermark))
}

/// Offset after the last whole batch of an answer, and the bytes of its whole batches: brokers may
/// cut the last one off.
pub(super) fn end_of(batches: &[u8]) -> Option<(i64, usize)> {
    let mut bytes = 0;
    let mut end = None;
    while let Ok(header) = BatchHeader::parse(batches.get(bytes..).unwrap_or_default()) {
        if bytes + header.size_bytes() > batches.len() {
            break;
        }
        bytes += header.size_bytes();
        end = Some((header.last_offset() + 1, bytes));
    }
    end
}

async fn read_all(target: &Target, partition: i32) -> Result<u64, String> {
    use tokio::io::AsyncWriteExt;

    let mut stream = TcpStream::connect(target.address).await.map_err(|error| error.to_string())?;
    let (mut offset, mut bytes) = (0, 0);
    loop {
        let request = fetch(&target.topic, partition, offset, 0)?;
        stream.write_all(&request).await.map_err(|error| error.to_string())?;
        let (batches, high_watermark) = fetched(&mut stream).await?;
        match end_of(&batches) {
            Some((end, size)) => {
                bytes += size as u64;
                offset = end;
            }
            None if offset >= high_watermark => return Ok(bytes),
            None => return Err(format!("nothing at offset {offset} of {high_watermark}")),
        }
    }
}
