//! Requests over HTTP, each sent once, with bounds on time and size.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::answer;
use crate::table::catalog::Error;

/// Longest answer, in bytes: metadata of a table that nobody maintains grows large.
const BODY_BYTES_MAX: usize = 256 << 20;

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

pub(super) struct Client {
    http: reqwest::Client,
    root: Url,
}

/// One request.
pub(super) struct Request {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(super) fn new<'a>(method: Method, path: impl IntoIterator<Item = &'a str>) -> Self {
        let path = path.into_iter().map(str::to_owned).collect();
        Self { method, path, query: Vec::new(), body: None }
    }

    pub(super) fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path.iter().copied())
    }

    /// Adds a parameter, unless it has no value.
    pub(super) fn query(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_owned())));
        self
    }

    pub(super) fn body(mut self, body: &impl Serialize) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(body).map_err(|error| Error::Invalid(error.to_string()))?;
        self.body = Some(bytes);
        Ok(self)
    }

    /// True if a taken name is what a conflict means.
    fn is_create(&self) -> bool {
        let last = self.path.last().map(String::as_str);
        self.method == Method::POST && matches!(last, Some("namespaces" | "tables" | "rename"))
    }
}

/// The body of a success.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// # Errors
    /// [`Error::Unknown`]: something was done, but what the catalog says of it cannot be read.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.0).map_err(|error| {
            Error::Unknown(format!("the catalog's answer cannot be read: {error}"))
        })
    }
}

impl Client {
    pub(super) fn new(uri: &str, token: Option<&str>, call_max: Duration) -> Result<Self, Error> {
        let invalid = |error: &dyn std::fmt::Display| {
            Error::Invalid(format!("catalog address {uri:?}: {error}"))
        };
        let trimmed = uri.trim_end_matches('/').trim_end_matches("/v1");
        let root = Url::parse(trimmed).map_err(|error| invalid(&error))?;
        if root.cannot_be_a_base() || !matches!(root.scheme(), "http" | "https") {
            return Err(invalid(&"it must start with http:// or https://"));
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Error::Invalid("catalog token has a forbidden character".into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("floe/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_MAX)
            .timeout(call_max)
            // A redirected commit would be sent twice.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| invalid(&error))?;
        Ok(Self { http, root })
    }

    /// Sends `request` once.
    ///
    /// # Errors
    /// By what the answer means (rules 4.5); [`Error::Unknown`] without a whole answer.
    pub(super) async fn send(&self, request: Request) -> Result<Answer, Error> {
        let path = request.path.join("/");
        let is_create = request.is_create();
        let mut url = self.root.clone();
        url.path_segments_mut()
            .map_err(|()| Error::Invalid("catalog address has no path".to_owned()))?
            .pop_if_empty()
            .extend(&request.path);
        let mut call = self.http.request(request.method, url).query(&request.query);
        if let Some(body) = request.body {
            call = call.header(CONTENT_TYPE, "application/json").body(body);
        }
        let unknown = |error: reqwest::Error| {
            Error::Unknown(format!("{path}: {}", describe(&error.without_url())))
        };
        let mut response = call.send().await.map_err(unknown)?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).cloned();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unknown)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(Error::Unknown(format!("{path}: the answer is too long")));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(Answer(body));
        }
        tracing::debug!(path, %status, ?retry_after, "the catalog did not do it");
        Err(answer::error(status.as_u16(), &body, &path, is_create))
    }
}

/// An error with its causes: reqwest's own text names only the outermost.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
