//! `io.aiven.kafka.connect.http.HttpSinkConnector`: one fixed URL, Java's own HTTP client, every
//! status from 400 on retried alike, everything below counted as delivered.

use protocol_tests::http1::{Http1, request};
use serde_json::Value;

use super::{Config, Data, Record, Sink, access, basic, json, taken_apart};

const KEYS: &[&str] = &[
    "http.url",
    "http.authorization.type",
    "http.headers.authorization",
    "http.headers.content.type",
    "http.headers.additional",
    "batching.enabled",
    "batch.max.size",
    "batch.prefix",
    "batch.separator",
    "batch.suffix",
    "max.retries",
    "retry.backoff.ms",
    "http.timeout",
    "oauth2.access.token.url",
    "oauth2.client.id",
    "oauth2.client.secret",
    "oauth2.client.scope",
    "oauth2.client.authorization.mode",
    "oauth2.response.token.property",
    "oauth2.token.renew.on.status.codes",
];

pub(super) struct Aiven {
    config: Config,
    connection: Http1,
    path: String,
    /// `Authorization`, as long as no answer was 401.
    access: Option<String>,
    /// The status of each answer.
    pub(super) seen: Vec<u16>,
    /// Values that went to the dead letter queue.
    pub(super) dead: Vec<String>,
}

impl Aiven {
    pub(super) fn new(config: &Value) -> Self {
        let config = Config::new(config, KEYS);
        let additional = config.get("http.headers.additional", "");
        let is_pair = |pair: &str| pair.matches(':').count() == 1;
        assert!(additional.is_empty() || additional.split(',').all(is_pair), "its validator");
        let tolerant = config.get("errors.tolerance", "none") == "all";
        assert!(!(tolerant && config.is("batching.enabled", false)), "its validator");
        let (address, path) = taken_apart(config.get("http.url", ""));
        let (connection, path) = (Http1::new(address), path.to_owned());
        Self { config, connection, path, access: None, seen: Vec::new(), dead: Vec::new() }
    }

    /// What Java's client sends: it prefers HTTP/2, and says so on a clear connection.
    fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
        let length = body.len().to_string();
        let own = [
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Content-Length", length.as_str()),
            ("Host", self.connection.address()),
            ("HTTP2-Settings", "AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA"),
            ("Upgrade", "h2c"),
            ("User-Agent", "Java-http-client/17.0.15"),
        ];
        request("POST", path, &[&own, headers].concat(), body)
    }

    async fn authorization(&mut self) -> Result<Option<String>, String> {
        match self.config.get("http.authorization.type", "none") {
            "none" => Ok(None),
            "static" => Ok(Some(self.config.get("http.headers.authorization", "").to_owned())),
            "oauth2" => {
                if self.access.is_none() {
                    self.access = Some(self.new_access().await?);
                }
                Ok(self.access.clone())
            }
            other => panic!("{other}"),
        }
    }

    /// Changes the client's credentials for an access token.
    async fn new_access(&mut self) -> Result<String, String> {
        let get = |key: &str| self.config.get(key, "").to_owned();
        let (id, secret) = (get("oauth2.client.id"), get("oauth2.client.secret"));
        let mut form = "grant_type=client_credentials".to_owned();
        let scope = get("oauth2.client.scope");
        if !scope.is_empty() {
            form.push_str(&format!("&scope={scope}"));
        }
        let header = basic(&id, &secret);
        let mut headers = vec![("Content-Type", "application/x-www-form-urlencoded")];
        match self.config.get("oauth2.client.authorization.mode", "HEADER") {
            "HEADER" => headers.push(("Authorization", header.as_str())),
            "URL" => form.push_str(&format!("&client_id={id}&client_secret={secret}")),
            other => panic!("{other}"),
        }
        let url = get("oauth2.access.token.url");
        let request = self.post(taken_apart(&url).1, &headers, &form);
        let answer = self.connection.exchange(&request).await.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("no access token: {} {}", answer.status, answer.body));
        }
        let field = self.config.get("oauth2.response.token.property", "access_token");
        access(&answer.json(), field)
    }

    async fn request(&mut self, body: &str) -> Result<Vec<u8>, String> {
        let authorization = self.authorization().await?;
        let kind = self.config.get("http.headers.content.type", "");
        let mut headers = Vec::new();
        if let Some(value) = &authorization {
            headers.push(("Authorization", value.as_str()));
        }
        if !kind.is_empty() {
            headers.push(("Content-Type", kind));
        }
        let additional = self.config.get("http.headers.additional", "");
        headers.extend(additional.split(',').filter_map(|pair| pair.split_once(':')));
        Ok(self.post(&self.path, &headers, body))
    }

    /// One request, with its retries.
    async fn send(&mut self, body: &str) -> Result<(), String> {
        let retries = self.config.number("max.retries", 1);
        let renew = self.config.get("oauth2.token.renew.on.status.codes", "401").to_owned();
        let mut last = String::new();
        for attempt in 0..=retries {
            if attempt > 0 {
                tokio::time::sleep(self.config.millis("retry.backoff.ms", 3_000)).await;
            }
            let sent = match self.request(body).await {
                Ok(request) => self.connection.exchange(&request).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            match sent {
                Ok(answer) => {
                    self.seen.push(answer.status);
                    if answer.status < 400 {
                        return Ok(());
                    }
                    if renew.split(',').any(|code| code.parse() == Ok(answer.status)) {
                        self.access = None;
                    }
                    last = format!("{} {}", answer.status, answer.body);
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(format!("Sending failed and no retries remain, stopping: {last}"))
    }

    fn batch(&self, values: &[String]) -> String {
        let get = |key: &str, default| self.config.get(key, default);
        let joined = values.join(get("batch.separator", "\n"));
        format!("{}{joined}{}", get("batch.prefix", ""), get("batch.suffix", "\n"))
    }
}

impl Sink for Aiven {
    async fn put(&mut self, records: &[Record]) -> Result<(), String> {
        let mut values = Vec::new();
        for record in records {
            if matches!(record.value, Data::Null) {
                return Err("Record value must not be null".to_owned());
            }
            values.extend(json(&record.value));
        }
        if self.config.is("batching.enabled", false) {
            for chunk in values.chunks(self.config.number("batch.max.size", 500)) {
                let body = self.batch(chunk);
                self.send(&body).await?;
            }
            return Ok(());
        }
        let is_tolerant = self.config.get("errors.tolerance", "none") == "all";
        for value in values {
            match self.send(&value).await {
                Err(_) if is_tolerant => self.dead.push(value),
                sent => sent?,
            }
        }
        Ok(())
    }
}
