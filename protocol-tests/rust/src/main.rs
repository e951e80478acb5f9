//! rskafka, driven as ../python/drivers/wire.py tells.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder, Credentials, SaslConfig};
use rskafka::record::Record;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

type Outcome = Result<Value, Box<dyn Error>>;

#[derive(Deserialize)]
struct Request {
    op: String,
    topic: String,
    #[serde(default)]
    codec: String,
    #[serde(default)]
    records: Vec<Sent>,
    #[serde(default)]
    partitions: i32,
}

/// A record as it goes over the pipe: bytes in base64, absent as null.
#[derive(Serialize, Deserialize)]
struct Sent {
    partition: i32,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
    timestamp: i64,
}

fn unpack(text: &Option<String>) -> Result<Option<Vec<u8>>, Box<dyn Error>> {
    Ok(text.as_ref().map(|text| STANDARD.decode(text)).transpose()?)
}

fn pack(bytes: Option<Vec<u8>>) -> Option<String> {
    bytes.map(|bytes| STANDARD.encode(bytes))
}

impl Sent {
    fn to_record(&self) -> Result<Record, Box<dyn Error>> {
        let mut headers = BTreeMap::new();
        for (name, value) in &self.headers {
            headers.insert(name.clone(), unpack(value)?.unwrap_or_default());
        }
        Ok(Record {
            key: unpack(&self.key)?,
            value: unpack(&self.value)?,
            headers,
            timestamp: DateTime::from_timestamp_millis(self.timestamp).ok_or("no such time")?,
        })
    }

    fn of(partition: i32, record: Record) -> Self {
        let headers = record.headers.into_iter();
        Self {
            partition,
            key: pack(record.key),
            value: pack(record.value),
            headers: headers.map(|(name, value)| (name, pack(Some(value)))).collect(),
            timestamp: record.timestamp.timestamp_millis(),
        }
    }
}

fn codec(name: &str) -> Result<Compression, Box<dyn Error>> {
    Ok(match name {
        "none" => Compression::NoCompression,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        other => return Err(format!("no codec {other}").into()),
    })
}

async fn partition(
    client: &Client,
    topic: &str,
    index: i32,
) -> Result<PartitionClient, Box<dyn Error>> {
    Ok(client.partition_client(topic, index, UnknownTopicHandling::Retry).await?)
}

async fn produce(client: &Client, request: &Request) -> Outcome {
    let codec = codec(&request.codec)?;
    let mut by_partition: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
    for sent in &request.records {
        by_partition.entry(sent.partition).or_default().push(sent.to_record()?);
    }
    let mut count = 0;
    for (index, records) in by_partition {
        count += records.len();
        partition(client, &request.topic, index).await?.produce(records, codec).await?;
    }
    Ok(json!(count))
}

async fn fetch(client: &Client, request: &Request) -> Outcome {
    let mut found = Vec::new();
    for index in 0..request.partitions {
        let partition = partition(client, &request.topic, index).await?;
        let mut next = partition.get_offset(OffsetAt::Earliest).await?;
        let end = partition.get_offset(OffsetAt::Latest).await?;
        while next < end {
            let (records, _) = partition.fetch_records(next, 1..1_000_000, 200).await?;
            for one in records {
                next = one.offset + 1;
                found.push(Sent::of(index, one.record));
            }
        }
    }
    Ok(serde_json::to_value(found)?)
}

async fn answer(bootstrap: &str, line: &str) -> Outcome {
    let request: Request = serde_json::from_str(line)?;
    let mut builder = ClientBuilder::new(vec![bootstrap.to_owned()]);
    if let Ok(token) = std::env::var("KAFKA_TOKEN") {
        builder = builder.sasl_config(SaslConfig::Plain(Credentials::new("user".to_owned(), token)));
    }
    // It tries again for ever, whatever it is told.
    let client = tokio::time::timeout(Duration::from_secs(15), builder.build()).await??;
    let work = async {
        match request.op.as_str() {
            "produce" => produce(&client, &request).await,
            "fetch" => fetch(&client, &request).await,
            other => Err(format!("it has no {other}").into()),
        }
    };
    tokio::time::timeout(Duration::from_secs(30), work).await?
}

fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args().nth(1).ok_or("the broker's address is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for line in std::io::stdin().lock().lines() {
        let answer = match runtime.block_on(answer(&bootstrap, &line?)) {
            Ok(result) => json!({ "ok": result }),
            Err(error) => json!({ "failed": error.to_string() }),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
