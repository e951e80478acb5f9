//! `io.confluent.connect.http.HttpSinkConnector`: Apache's HTTP client, 2xx is delivered, which
//! other statuses are retried is an option, and what comes after the retries is another.

use protocol_tests::http1::{Http1, request};
use serde_json::Value;

use super::{Config, Data, Record, Sink, access, basic, json, taken_apart};

const KEYS: &[&str] = &[
    "http.api.url",
    "request.method",
    "request.body.format",
    "batch.json.as.array",
    "batch.max.size",
    "batch.prefix",
    "batch.separator",
    "batch.suffix",
    "headers",
    "header.separator",
    "auth.type",
    "connection.user",
    "connection.password",
    "oauth2.token.url",
    "oauth2.client.id",
    "oauth2.client.secret",
    "oauth2.client.scope",
    "oauth2.client.auth.mode",
    "oauth2.token.property",
    "max.retries",
    "retry.backoff.ms",
    "retry.on.status.codes",
    "behavior.on.error",
    "behavior.on.null.values",
    "reporter.bootstrap.servers",
    "reporter.error.topic.name",
    "reporter.error.topic.replication.factor",
    "reporter.result.topic.name",
    "reporter.result.topic.replication.factor",
    "confluent.topic.bootstrap.servers",
    "confluent.topic.replication.factor",
];

pub(super) struct Confluent {
    config: Config,
    topic: &'static str,
    connection: Http1,
    /// Content type of the client where `headers` has none.
    plain: Option<&'static str>,
    access: Option<String>,
    /// The status of each answer.
    pub(super) seen: Vec<u16>,
    /// What went to the error topic: status, and the body of the answer.
    pub(super) reported: Vec<(u16, String)>,
}

/// True if `status` is in a list such as `408,429,500-`.
fn covers(codes: &str, status: u16) -> bool {
    codes.split(',').any(|range| match range.trim().split_once('-') {
        None => range.trim().parse() == Ok(status),
        Some((from, to)) => {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap_or(u16::MAX));
            (from..=to).contains(&status)
        }
    })
}

/// What Java prints of a value.
fn printed(value: &Value, is_struct: bool) -> String {
    let list = |values: Vec<String>, separator: &str| values.join(separator);
    match value {
        Value::Object(map) => {
            let field =
                |(name, value): (&String, &Value)| format!("{name}={}", printed(value, is_struct));
            let fields: Vec<String> = map.iter().map(field).collect();
            match is_struct {
                true => format!("Struct{{{}}}", list(fields, ",")),
                false => format!("{{{}}}", list(fields, ", ")),
            }
        }
        Value::Array(values) => {
            let values = values.iter().map(|value| printed(value, is_struct)).collect();
            format!("[{}]", list(values, ", "))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Confluent {
    pub(super) fn new(config: &Value, topic: &'static str, plain: Option<&'static str>) -> Self {
        let config = Config::new(config, KEYS);
        let connection = Http1::new(taken_apart(config.get("http.api.url", "")).0);
        let (seen, reported) = (Vec::new(), Vec::new());
        Self { config, topic, connection, plain, access: None, seen, reported }
    }

    fn path(&self, key: &str) -> String {
        let path = taken_apart(self.config.get("http.api.url", "")).1;
        path.replace("${topic}", self.topic).replace("${key}", key)
    }

    /// What Apache's client sends.
    fn bytes(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
        let length = body.len().to_string();
        let mut all = headers.to_vec();
        if method != "DELETE" {
            all.push(("Content-Length", length.as_str()));
        }
        all.extend([
            ("Host", self.connection.address()),
            ("Connection", "Keep-Alive"),
            ("User-Agent", "Apache-HttpClient/4.5.13 (Java/17.0.15)"),
            ("Accept-Encoding", "gzip,deflate"),
        ]);
        request(method, path, &all, body)
    }

    async fn authorization(&mut self) -> Result<Option<String>, String> {
        let get = |key: &str| self.config.get(key, "").to_owned();
        match self.config.get("auth.type", "NONE") {
            "NONE" => Ok(None),
            "BASIC" => Ok(Some(basic(&get("connection.user"), &get("connection.password")))),
            "OAUTH2" => {
                if self.access.is_none() {
                    self.access = Some(self.new_access().await?);
                }
                Ok(self.access.clone())
            }
            other => panic!("{other}"),
        }
    }

    async fn new_access(&mut self) -> Result<String, String> {
        let get = |key: &str, default| self.config.get(key, default).to_owned();
        let (id, secret) = (get("oauth2.client.id", ""), get("oauth2.client.secret", ""));
        let scope = get("oauth2.client.scope", "any");
        let mut form = format!("grant_type=client_credentials&scope={scope}");
        let header = basic(&id, &secret);
        let mut headers = vec![("Content-Type", "application/x-www-form-urlencoded")];
        match self.config.get("oauth2.client.auth.mode", "header") {
            "header" => headers.push(("Authorization", header.as_str())),
            "url" => form.push_str(&format!("&client_id={id}&client_secret={secret}")),
            other => panic!("{other}"),
        }
        let url = get("oauth2.token.url", "");
        let request = self.bytes("POST", taken_apart(&url).1, &headers, &form);
        let answer = self.connection.exchange(&request).await.map_err(|error| error.to_string())?;
        match answer.status {
            200 => access(&answer.json(), self.config.get("oauth2.token.property", "access_token")),
            status => Err(format!("no access token: {status} {}", answer.body)),
        }
    }

    async fn request(&mut self, method: &str, path: &str, body: &str) -> Result<Vec<u8>, String> {
        let authorization = self.authorization().await?;
        let separator = self.config.get("header.separator", "|");
        let given = self.config.get("headers", "").split(separator);
        let given = given.filter_map(|pair| pair.split_once(':'));
        let mut headers: Vec<(&str, &str)> =
            given.map(|(name, value)| (name.trim(), value.trim())).collect();
        let is_kind = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case("content-type");
        if let Some(plain) = self.plain
            && !headers.iter().any(is_kind)
        {
            headers.push(("Content-Type", plain));
        }
        if let Some(value) = &authorization {
            headers.push(("Authorization", value.as_str()));
        }
        Ok(self.bytes(method, path, &headers, body))
    }

    /// One request, with its retries, and what is done when they are used up.
    async fn send(&mut self, method: &str, path: &str, body: &str) -> Result<(), String> {
        let mut last = (0, String::new());
        for attempt in 0..=self.config.number("max.retries", 5) {
            if attempt > 0 {
                tokio::time::sleep(self.config.millis("retry.backoff.ms", 3_000)).await;
            }
            let sent = match self.request(method, path, body).await {
                Ok(request) => self.connection.exchange(&request).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            let answer = match sent {
                Ok(answer) => answer,
                Err(error) => {
                    last = (0, error.to_string());
                    continue;
                }
            };
            self.seen.push(answer.status);
            if (200..300).contains(&answer.status) {
                return Ok(());
            }
            if answer.status == 401 {
                self.access = None;
            }
            last = (answer.status, answer.body);
            if !covers(self.config.get("retry.on.status.codes", "400-"), last.0) {
                break;
            }
        }
        self.reported.push(last.clone());
        match self.config.get("behavior.on.error", "fail") {
            "fail" => Err(format!("Status code : {}, {}", last.0, last.1)),
            _ => Ok(()),
        }
    }

    fn body(&self, values: &[&Data]) -> String {
        let get = |key: &str, default| self.config.get(key, default);
        if get("request.body.format", "string") == "json" {
            let values: Vec<String> = values.iter().filter_map(|value| json(value)).collect();
            return match self.config.is("batch.json.as.array", true) {
                true => format!("[{}]", values.join(",")),
                false => values.join("\n"),
            };
        }
        let text = |value: &&Data| match value {
            Data::Text(text) => text.clone(),
            Data::Map(value) => printed(value, false),
            Data::Struct(value) => printed(value, true),
            Data::Null => "null".to_owned(),
        };
        let values: Vec<String> = values.iter().map(text).collect();
        let joined = values.join(get("batch.separator", ","));
        format!("{}{joined}{}", get("batch.prefix", ""), get("batch.suffix", ""))
    }
}

impl Sink for Confluent {
    async fn put(&mut self, records: &[Record]) -> Result<(), String> {
        let method = self.config.get("request.method", "post").to_ascii_uppercase();
        let nulls = self.config.get("behavior.on.null.values", "ignore").to_owned();
        let is_null = |record: &&Record| matches!(record.value, Data::Null);
        for record in records.iter().filter(is_null) {
            match nulls.as_str() {
                "ignore" => {}
                "delete" => self.send("DELETE", &self.path(record.key), "").await?,
                _ => return Err("a null value".to_owned()),
            }
        }
        let valued: Vec<&Record> = records.iter().filter(|record| !is_null(record)).collect();
        for chunk in valued.chunks(self.config.number("batch.max.size", 1)) {
            let values: Vec<&Data> = chunk.iter().map(|record| &record.value).collect();
            let (path, body) = (self.path(chunk[0].key), self.body(&values));
            self.send(&method, &path, &body).await?;
        }
        Ok(())
    }
}

#[test]
fn lists_of_statuses_are_read() {
    assert!(covers("400-", 503) && covers("408,429,500-", 429) && covers("400-499", 404));
    assert!(!covers("408,429,500-", 400) && !covers("400-499", 500));
}
