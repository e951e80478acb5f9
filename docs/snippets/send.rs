//! Sends JSON lines from standard input to a topic: in batches, compressed, each batch once.
//!
//! `FLOE_TOKEN=… send orders < events.ndjson`; with the crates flate2, reqwest, tokio and uuid.

use std::io::{BufRead, Write};
use std::time::Duration;

use flate2::{Compression, write::GzEncoder};
use reqwest::{Client, Error, header::RETRY_AFTER};

enum Answer {
    Stored,
    /// Again, after so many seconds if that was said.
    Later(Option<u64>),
    Refused(String),
}

async fn attempt(client: &Client, url: &str, key: &str, body: Vec<u8>) -> Result<Answer, Error> {
    let mut request = client.post(url).body(body).header("Content-Type", "application/x-ndjson");
    request = request.header("Content-Encoding", "gzip").header("Idempotency-Key", key);
    if let Ok(token) = std::env::var("FLOE_TOKEN") {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await?;
    let status = answer.status();
    let later = answer.headers().get(RETRY_AFTER).and_then(|text| text.to_str().ok()?.parse().ok());
    let text = answer.text().await?;
    Ok(match status.as_u16() {
        200..300 => Answer::Stored,
        408 | 409 | 429 | 500.. => Answer::Later(later),
        code => Answer::Refused(format!("refused: {code} {text}")),
    })
}

async fn send(client: &Client, url: &str, lines: &str) -> Result<(), String> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(lines.as_bytes()).map_err(|error| error.to_string())?;
    let body = packed.finish().map_err(|error| error.to_string())?;
    // One key for all attempts: whatever happens in between, the batch is stored once.
    let key = uuid::Uuid::new_v4().to_string();
    let mut pause = 1;
    loop {
        let wait = match attempt(client, url, &key, body.clone()).await {
            Ok(Answer::Stored) => return Ok(()),
            Ok(Answer::Refused(why)) => return Err(why),
            Ok(Answer::Later(seconds)) => seconds.unwrap_or(pause),
            Err(error) => {
                eprintln!("no answer: {error}");
                pause
            }
        };
        tokio::time::sleep(Duration::from_secs(wait)).await;
        pause = (2 * pause).min(30);
    }
}

#[tokio::main]
async fn main() -> Result<(), String> {
    let topic = std::env::args().nth(1).ok_or("send TOPIC < events.ndjson")?;
    let base = std::env::var("FLOE_URL").unwrap_or("http://127.0.0.1:8080".to_owned());
    let url = format!("{base}/api/v1/topics/{topic}/events");
    let built = Client::builder().timeout(Duration::from_secs(30)).build();
    let client = built.map_err(|error| error.to_string())?;
    let (mut batch, mut count) = (String::new(), 0);
    for line in std::io::stdin().lock().lines() {
        batch.push_str(&line.map_err(|error| error.to_string())?);
        batch.push('\n');
        count += 1;
        if count == 500 {
            send(&client, &url, &batch).await?;
            (batch, count) = (String::new(), 0);
        }
    }
    if count > 0 { send(&client, &url, &batch).await } else { Ok(()) }
}
