//! Tokens from the command line to every door: who may come in, and what they may do.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod cli;
mod http;
mod iceberg;
mod in_query;
mod kafka;
mod public;
mod senders;
mod services;
mod strangers;
mod streams;
mod tails;

use std::path::Path;
use std::process::Command;

use protocol_tests::{Floe, binary};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

/// What a command did.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `floe` with these arguments and nothing of ours in its environment.
fn floe(arguments: &[&str], token: Option<&str>) -> Ran {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("FLOE_URL").env_remove("FLOE_TOKEN");
    if let Some(token) = token {
        command.env("FLOE_TOKEN", token);
    }
    let run = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: run.status.code(), out: text(&run.stdout), err: text(&run.stderr) }
}

/// Makes a token in a data directory without a server.
fn local_token(data: &Path, name: &str, more: &[&str]) -> String {
    let data = data.to_str().unwrap();
    let ran = floe(&[&["token", "create", name, "--data-dir", data], more].concat(), None);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    ran.out.trim_end().to_owned()
}

/// A server that needs tokens, with one that may do everything.
struct Guarded {
    floe: Floe,
    admin: String,
    dir: tempfile::TempDir,
}

impl Guarded {
    async fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let admin = local_token(&data, "admin", &[]);
        Self { floe: Floe::start_in(&data, flags).await, admin, dir }
    }

    /// A token with these rules, made over HTTP.
    async fn token(&self, name: &str, allow: &[&str]) -> String {
        let wish = serde_json::json!({ "name": name, "allow": allow });
        let request = self.request(Method::POST, "/api/v1/tokens", Some(&self.admin)).json(&wish);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    async fn revoke(&self, name: &str) {
        let path = format!("/api/v1/tokens/{name}");
        let answer = self.request(Method::DELETE, &path, Some(&self.admin)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }

    fn request(&self, method: Method, path: &str, token: Option<&str>) -> RequestBuilder {
        let request = reqwest::Client::new().request(method, self.floe.url(path));
        match token {
            Some(token) => request.header("token", token),
            None => request,
        }
    }

    /// Status and JSON of an answer.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = self.request(method, path, token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}
