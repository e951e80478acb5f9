//! Amazon SNS at a webhook with a secret in its URL: before a topic sends anything, the address that
//! it names has to be asked once. Source: Amazon SNS, "Sending messages to HTTP/S endpoints".
//!
//! What comes can be made up by whoever knows the URL, so only topics that the configuration names
//! (`webhook.sns.topic`) are confirmed, and only addresses of SNS are asked: this server is nobody's
//! way into a network.

use std::time::Duration;

use axum::Json;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::http::problem::Problem;
use crate::http::request_id;

/// What a message is; SNS sends it with every one.
const TYPE: &str = "x-amz-sns-message-type";
/// How long SNS may take to answer.
const ASK_MAX: Duration = Duration::from_secs(10);

/// Which topics of SNS are confirmed.
#[derive(Debug, Clone, Default)]
pub struct Sns {
    /// ARNs; one that ends with `*` stands for all that begin so.
    pub topics: Vec<String>,
    /// What an address to be asked may begin with, besides that of SNS in the topic's region.
    pub endpoints: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Confirmation {
    topic_arn: String,
    #[serde(rename = "SubscribeURL")]
    subscribe_url: String,
}

/// True for what has to be confirmed.
pub(super) fn is_confirmation(headers: &HeaderMap) -> bool {
    headers.get(TYPE).is_some_and(|kind| kind == "SubscriptionConfirmation")
}

/// Confirms the subscription that `body` tells of.
///
/// # Errors
/// `bad_request`, `forbidden` for a topic or an address that is not allowed, and
/// `subscription_unconfirmed`, after which SNS comes again.
pub(super) async fn confirm(sns: &Sns, body: &[u8]) -> Result<Response, Problem> {
    let bad = |error| Problem::new("bad_request", format!("not a confirmation of SNS: {error}"));
    let Confirmation { topic_arn, subscribe_url } = serde_json::from_slice(body).map_err(bad)?;
    check(sns, &topic_arn, &subscribe_url)?;
    let failed = |reason: String| {
        let detail = format!("SNS did not confirm the subscription of {topic_arn}: {reason}");
        Problem::new("subscription_unconfirmed", detail).retry_after(20)
    };
    // Its reason would tell the address, which has a token in it.
    let short = |error: reqwest::Error| failed(error.without_url().to_string());
    let client = reqwest::Client::builder().timeout(ASK_MAX);
    let client = client.redirect(reqwest::redirect::Policy::none());
    // It reads the certificates of the system.
    let built = tokio::task::spawn_blocking(move || client.build()).await;
    let client = built.map_err(|error| failed(error.to_string()))?.map_err(short)?;
    let answer = client.get(subscribe_url).send().await.map_err(short)?;
    if !answer.status().is_success() {
        return Err(failed(format!("it answers {}", answer.status())));
    }
    tracing::info!(topic_arn, "subscription of SNS confirmed");
    let request_id = request_id::current();
    let told = json!({ "confirmed": true, "topic_arn": topic_arn, "request_id": request_id });
    Ok(Json(told).into_response())
}

/// Checks that the topic is one that the configuration names, and that the address is SNS's.
fn check(sns: &Sns, arn: &str, url: &str) -> Result<(), Problem> {
    let matches = |allowed: &String| match allowed.strip_suffix('*') {
        Some(prefix) => arn.starts_with(prefix),
        None => arn == allowed,
    };
    if !sns.topics.iter().any(matches) {
        let arn: String = arn.chars().take(300).collect();
        let detail = format!("webhook.sns.topic does not name {arn:?}: it is not confirmed");
        return Err(Problem::new("forbidden", detail));
    }
    let of_region = region(arn).is_some_and(|(region, domain)| {
        url.starts_with(&format!("https://sns.{region}.{domain}/"))
    });
    let is_own =
        |endpoint: &String| url.starts_with(&format!("{}/", endpoint.trim_end_matches('/')));
    if of_region || sns.endpoints.iter().any(is_own) {
        return Ok(());
    }
    let detail = "SubscribeURL is not an address of SNS in the region of the topic";
    Err(Problem::new("forbidden", detail))
}

/// Region and domain of `arn:aws:sns:REGION:ACCOUNT:NAME`.
fn region(arn: &str) -> Option<(&str, &'static str)> {
    let mut parts = arn.split(':');
    let (_, partition, _) = (parts.next()?, parts.next()?, parts.next()?);
    let domain = if partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
    let region = parts.next()?;
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (!region.is_empty() && region.bytes().all(legal)).then_some((region, domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(sns: &Sns, arn: &str, url: &str) -> Result<(), &'static str> {
        check(sns, arn, url).map_err(|problem| problem.code())
    }

    #[test]
    fn only_named_topics_and_addresses_of_sns_are_confirmed() {
        let topics = ["arn:aws:sns:eu-west-1:1:orders", "arn:aws-cn:sns:cn-north-1:2:*"];
        let topics = topics.map(str::to_owned).to_vec();
        let sns = Sns { topics, endpoints: vec!["http://127.0.0.1:4566/".to_owned()] };
        let (orders, url) =
            ("arn:aws:sns:eu-west-1:1:orders", "https://sns.eu-west-1.amazonaws.com/?Action=C");
        assert_eq!(code(&sns, orders, url), Ok(()));
        assert_eq!(code(&sns, orders, "http://127.0.0.1:4566/?Action=C"), Ok(()));
        let china = "https://sns.cn-north-1.amazonaws.com.cn/?Action=C";
        assert_eq!(code(&sns, "arn:aws-cn:sns:cn-north-1:2:any", china), Ok(()));
        for bad in [
            "http://sns.eu-west-1.amazonaws.com/",
            "https://sns.eu-west-1.amazonaws.com.evil.example/",
            "https://sns.eu-west-2.amazonaws.com/",
            "https://evil.example/?https://sns.eu-west-1.amazonaws.com/",
            "https://sns.eu-west-1.amazonaws.com@evil.example/",
            "http://127.0.0.1:45666/",
            "http://169.254.169.254/latest/meta-data",
            "",
        ] {
            assert_eq!(code(&sns, orders, bad), Err("forbidden"), "{bad}");
        }
        for other in ["arn:aws:sns:eu-west-1:1:orders2", "arn:aws:sns:x@y/:1:orders", ""] {
            assert_eq!(code(&sns, other, url), Err("forbidden"), "{other}");
        }
        assert_eq!(code(&Sns::default(), orders, url), Err("forbidden"));
    }
}
