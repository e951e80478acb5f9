//! Talks to a running server over its HTTP API.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use reqwest::Method;
use serde_json::Value;

/// Where the server listens unless `--url` or `FLOE_URL` says otherwise.
const URL_DEFAULT: &str = "http://127.0.0.1:8080";

/// Why a command failed, by exit code.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no (exit code 1).
    Refused(String),
    /// The command line is wrong (exit code 2).
    Usage(String),
    /// The server cannot be reached (exit code 3).
    Unreachable(String),
}

impl Failure {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Usage(text) | Self::Unreachable(text) => text,
        }
    }
}

/// Adds `--url`, `--token` and `--json`.
pub(super) fn add_flags(command: Command) -> Command {
    command
        .arg(
            Arg::new("url")
                .long("url")
                .env("FLOE_URL")
                .global(true)
                .default_value(URL_DEFAULT)
                .value_name("URL")
                .help("The server's HTTP address"),
        )
        .arg(
            Arg::new("token")
                .long("token")
                .env("FLOE_TOKEN")
                .hide_env_values(true)
                .global(true)
                .value_name("TOKEN")
                .help("The token to send; the variable keeps it out of the list of processes"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .global(true)
                .action(ArgAction::SetTrue)
                .help("Print the server's answer as JSON"),
        )
}

/// A client of one server.
pub(super) struct Client {
    url: String,
    /// What every request says of who sends it.
    token: Option<String>,
    http: reqwest::Client,
    /// Print JSON instead of text.
    pub(super) json: bool,
}

impl Client {
    pub(super) fn new(matches: &ArgMatches) -> Result<Self, Failure> {
        let url = matches.get_one::<String>("url").map_or(URL_DEFAULT, String::as_str);
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(120))
            .build()
            .map_err(|error| Failure::Unreachable(error.to_string()))?;
        let json = matches.get_flag("json");
        let token = matches.get_one::<String>("token").map(|token| token.trim().to_owned());
        let token = token.filter(|token| !token.is_empty());
        Ok(Self { url: url.trim_end_matches('/').to_owned(), token, http, json })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_builder() {
            return Failure::Usage(wrong_url(&self.url));
        }
        Failure::Unreachable(format!(
            "no answer from {}: {}; is `floe serve` running? --url or FLOE_URL names another server",
            self.url,
            root_cause(error)
        ))
    }

    /// Sends a request; the answer's JSON, or `Null` for an empty one.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("token", token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let bytes =
            response.bytes().await.map_err(|error| Failure::Unreachable(error.to_string()))?;
        let value: Value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).map_err(|_| {
                Failure::Unreachable(format!("{} does not answer like a floe server", self.url))
            })?
        };
        if status.is_success() {
            return Ok(value);
        }
        let detail = value["detail"].as_str().map_or_else(|| status.to_string(), ToOwned::to_owned);
        let hint = match (status.as_u16(), &self.token) {
            (401, None) => "; set FLOE_TOKEN, or give --token",
            _ => "",
        };
        Err(Failure::Refused(format!("{detail}{hint}")))
    }
}

/// What is wrong with a URL that cannot be requested: mostly its scheme is forgotten.
fn wrong_url(url: &str) -> String {
    let hint = match url.contains("://") {
        true => "it must begin with http:// or https://".to_owned(),
        false => format!("did you mean http://{url}?"),
    };
    format!("--url {url:?} is not a URL of a server: {hint}")
}

/// The innermost cause of an error, which says what the system said.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Percent-encodes one path segment.
pub(super) fn segment(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_without_scheme_is_shown_with_one() {
        let http = reqwest::Client::new();
        for url in ["127.0.0.1:38080", "localhost:8080"] {
            let (url, token) = (url.to_owned(), None);
            let client = Client { url: url.clone(), token, http: http.clone(), json: false };
            let failure = client.send(Method::GET, "/", None).await.unwrap_err();
            let wanted = format!("did you mean http://{url}?");
            assert!(failure.text().contains(&wanted), "{}", failure.text());
            assert_eq!(failure.exit_code(), 2);
        }
    }
}
