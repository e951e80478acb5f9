//! An HTTP/1.1 client of few lines: it sends the bytes that it is given, as connectors do.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long most connectors wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers as they came, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The first header of this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON, null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// The bytes of a request; `Content-Length` and `Host` stand where the caller put them.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// One connection at a time, kept as long as the server keeps it.
pub struct Http1 {
    address: String,
    stream: Option<TcpStream>,
}

impl Http1 {
    /// A client of the server at `HOST:PORT`.
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None }
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// True if there is a connection whose last answer was whole and did not end it.
    pub fn is_kept(&self) -> bool {
        self.stream.is_some()
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The connection is refused, or ends before the answer is whole: nothing is known then of what
    /// the server did. [`ErrorKind::InvalidData`] if a part of the answer came.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        let exchanged = tokio::time::timeout(PATIENCE, self.try_exchange(request)).await;
        let exchanged = exchanged.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        let is_kept = exchanged.as_ref().is_ok_and(|it| it.header("connection") != Some("close"));
        if !is_kept {
            self.stream = None;
        }
        exchanged
    }

    async fn try_exchange(&mut self, request: &[u8]) -> Result<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(TcpStream::connect(&self.address).await?),
        };
        stream.write_all(request).await?;
        let mut read = Vec::new();
        let head = loop {
            if let Some(at) = read.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            more(stream, &mut read).await?;
        };
        let mut answer = parse(&String::from_utf8_lossy(&read[..head]))?;
        let length = match answer.header("content-length") {
            Some(text) => text.parse().map_err(|_| invalid("its length is no number"))?,
            None if answer.header("transfer-encoding").is_some() => {
                return Err(invalid("it comes in chunks, which this client does not read"));
            }
            None => 0_usize,
        };
        while read.len() < head + length {
            more(stream, &mut read).await?;
        }
        if read.len() > head + length {
            return Err(invalid("bytes follow the answer"));
        }
        answer.body = String::from_utf8_lossy(&read[head..]).into_owned();
        Ok(answer)
    }
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

async fn more(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<()> {
    let begun = !into.is_empty();
    match stream.read_buf(into).await {
        Ok(1..) => Ok(()),
        _ if begun => Err(invalid("the connection ended within an answer")),
        Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error),
    }
}

fn parse(head: &str) -> Result<Answer> {
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| invalid(line))?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Ok(Answer { status, headers: lines.filter_map(header).collect(), body: String::new() })
}
