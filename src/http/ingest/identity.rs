//! What tells a request from its repeats, as headers: `Idempotency-Key` (compatible with
//! draft-ietf-httpapi-idempotency-key-header-07) and its relatives, `X-Channel` with
//! `X-Offset-Token`; or the body, for senders that repeat it byte by byte and can send no key. Pure.

use axum::http::{HeaderMap, HeaderName};

use crate::http::ingest::event::Once;
use crate::http::ingest::keys::{CHANNEL_BYTES_MAX, Channel, Key, REPLAY_CHANNELS};
use crate::http::problem::Problem;

/// Says that the answer is that of an earlier request with the same key.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Longest key, bytes.
const KEY_BYTES_MAX: usize = 255;

/// How long the body of a request is its key, milliseconds: longer than connectors repeat.
const BODY_WINDOW_MS: i64 = 600_000;

/// Headers that hold a key, in order of precedence. All but the first are unique for each message of
/// any sender by what defines them (Standard Webhooks, GitHub, Amazon SNS). `X-Batch-Id` is not among them:
/// senders count batches from 1, and two of them would take each other's keys.
const KEY_HEADERS: [&str; 4] =
    ["idempotency-key", "webhook-id", "x-github-delivery", "x-amz-sns-message-id"];

/// Headers that hold a place in a channel.
const CHANNEL_HEADERS: [&str; 2] = ["x-channel", "x-offset-token"];

/// What the headers say, before the body is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nothing.
    None,
    /// A key, with the header that it was in.
    Key(String),
    /// A place in a channel.
    Channel(Channel),
    /// Its body is its key.
    Body,
}

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new("invalid_idempotency_key", detail)
}

impl Identity {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        // Most requests have none of them; to look for each would take longer than all the others.
        let is_ours = |name: &str| KEY_HEADERS.contains(&name) || CHANNEL_HEADERS.contains(&name);
        if !headers.keys().any(|name| is_ours(name.as_str())) {
            return Ok(Self::None);
        }
        let channel = channel(headers)?;
        for name in KEY_HEADERS {
            let mut values = headers.get_all(name).iter();
            let Some(value) = values.next() else { continue };
            if values.next().is_some() {
                return Err(malformed(format!("header {name} is given twice")));
            }
            let key = key(value.as_bytes()).ok_or_else(|| {
                let allowed = "1 to 255 visible ASCII characters, in quotes or without";
                malformed(format!("header {name} is malformed: {allowed}"))
            })?;
            if channel.is_some() {
                let detail = format!("send {name} or X-Channel, not both");
                return Err(malformed(detail));
            }
            return Ok(Self::Key(format!("{name}:{key}")));
        }
        Ok(channel.map_or(Self::None, Self::Channel))
    }

    /// The same; a request that says nothing counts by its body if `is_body_key`.
    #[must_use]
    pub(crate) fn or_body(self, is_body_key: bool) -> Self {
        match self {
            Self::None if is_body_key => Self::Body,
            given => given,
        }
    }

    /// With who sent it and a function that gives the fingerprint of what was sent.
    pub(crate) fn once(self, principal: &str, fingerprint: impl FnOnce() -> u128) -> Once {
        match self {
            Self::None => Once::No,
            Self::Key(key) => {
                let principal = principal.to_owned();
                Once::Key(Key { principal, key, fingerprint: fingerprint(), window_ms: None })
            }
            Self::Body => {
                let (principal, fingerprint) = (principal.to_owned(), fingerprint());
                let (key, window_ms) = (format!("body:{fingerprint:032x}"), Some(BODY_WINDOW_MS));
                Once::Key(Key { principal, key, fingerprint, window_ms })
            }
            Self::Channel(channel) => Once::Channel(channel),
        }
    }
}

fn is_visible(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// A key in quotes (RFC 8941 string, without what its visible characters do not need) or bare.
fn key(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let mut key = Vec::with_capacity(value.len());
    match value.strip_prefix(b"\"") {
        Some(rest) => {
            let mut bytes = rest.strip_suffix(b"\"")?.iter();
            while let Some(byte) = bytes.next() {
                key.push(match byte {
                    b'"' => return None,
                    b'\\' => *bytes.next().filter(|escaped| b"\"\\".contains(escaped))?,
                    byte => *byte,
                });
            }
        }
        None => key.extend_from_slice(value),
    }
    let legal = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(|b| is_visible(*b));
    legal.then(|| String::from_utf8(key).ok()).flatten()
}

fn channel(headers: &HeaderMap) -> Result<Option<Channel>, Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    let [name, token] = CHANNEL_HEADERS;
    let (name, token) = match (text(name), text(token)) {
        (None, None) => return Ok(None),
        (Some(name), Some(token)) => (name, token),
        _ => return Err(malformed("X-Channel and X-Offset-Token are sent together")),
    };
    if !(1..=CHANNEL_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_visible) {
        let allowed = format!("1 to {CHANNEL_BYTES_MAX} visible ASCII characters");
        return Err(malformed(format!("header X-Channel is malformed: {allowed}")));
    }
    let token = token
        .parse()
        .map_err(|_| malformed("header X-Offset-Token is malformed: a whole number from 0 on"))?;
    if name.starts_with(REPLAY_CHANNELS) {
        let detail =
            format!("header X-Channel is malformed: {REPLAY_CHANNELS} begins names of ours");
        return Err(malformed(detail));
    }
    Ok(Some(Channel { name: name.to_owned(), token, after: None }))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn identity(pairs: &[(&'static str, &str)]) -> Result<Identity, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Identity::of(&headers).map_err(|problem| problem.code())
    }

    #[test]
    fn a_key_is_the_same_in_quotes_and_without() {
        let key = |text: &str| Ok(Identity::Key(format!("idempotency-key:{text}")));
        for (value, wanted) in [("abc", "abc"), ("\"abc\"", "abc"), (r#""a\"\\b""#, r#"a"\b"#)] {
            assert_eq!(identity(&[("idempotency-key", value)]), key(wanted), "{value}");
        }
        let long = "k".repeat(256);
        for value in ["", "\"\"", "\"abc", "\"a\"b\"", "\"a\\n\"", "a b", "\"a b\"", &long] {
            let found = identity(&[("idempotency-key", value)]);
            assert_eq!(found, Err("invalid_idempotency_key"), "{value}");
        }
        let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
        assert_eq!(identity(&twice), Err("invalid_idempotency_key"));
    }

    #[test]
    fn keys_of_webhooks_are_taken_and_those_of_batches_are_not() {
        let key = |text: &str| Ok(Identity::Key(text.to_owned()));
        assert_eq!(identity(&[("webhook-id", "msg_1")]), key("webhook-id:msg_1"));
        assert_eq!(identity(&[("x-github-delivery", "7")]), key("x-github-delivery:7"));
        assert_eq!(identity(&[("x-batch-id", "1")]), Ok(Identity::None));
        let both = [("webhook-id", "msg_1"), ("idempotency-key", "k")];
        assert_eq!(identity(&both), key("idempotency-key:k"));
    }

    #[test]
    fn a_body_is_the_key_of_a_request_that_has_no_other() {
        let once = |identity: Identity, body: u128| match identity.or_body(true).once("p", || body)
        {
            Once::Key(key) => (key.key, key.window_ms),
            other => panic!("{other:?}"),
        };
        assert_eq!(once(Identity::None, 7), (format!("body:{:032x}", 7), Some(BODY_WINDOW_MS)));
        assert_ne!(once(Identity::None, 7), once(Identity::None, 8));
        let own = Identity::Key("idempotency-key:k".to_owned());
        assert_eq!(once(own, 7), ("idempotency-key:k".to_owned(), None));
        assert!(matches!(Identity::None.or_body(false).once("p", || 7), Once::No));
    }

    #[test]
    fn a_channel_has_a_name_and_a_token() {
        let pair = [("x-channel", "c1"), ("x-offset-token", "123")];
        let channel = Channel { name: "c1".to_owned(), token: 123, after: None };
        assert_eq!(identity(&pair), Ok(Identity::Channel(channel)));
        for pairs in [
            &[("x-channel", "c1")][..],
            &[("x-offset-token", "1")],
            &[("x-channel", "c 1"), ("x-offset-token", "1")],
            &[("x-channel", "floe.quarantine.x"), ("x-offset-token", "1")],
            &[("x-channel", "c1"), ("x-offset-token", "-1")],
            &[("x-channel", "c1"), ("x-offset-token", "18446744073709551616")],
            &[("x-channel", "c1"), ("x-offset-token", "1"), ("idempotency-key", "k")],
        ] {
            assert_eq!(identity(pairs), Err("invalid_idempotency_key"), "{pairs:?}");
        }
    }
}
