//! Where signatures stand in a request. Pure. Sources: GitHub, Validating webhook deliveries;
//! Standard Webhooks 1.0, Signature scheme.

use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::auth::webhook::{Scheme, Signature, Webhook};
use crate::http::problem::Problem;

/// How far the time of a message may be off, seconds.
const TOLERANCE_S: u64 = 300;
/// Signatures that are looked at: senders have several while they change their secret.
const SIGNATURES_MAX: usize = 10;
/// Longest id of a message, bytes.
const ID_BYTES_MAX: usize = 255;

const GITHUB_EVENT: &str = "x-github-event";
const GITHUB_DELIVERY: &str = "x-github-delivery";
const STANDARD_ID: &str = "webhook-id";
const STANDARD_TIMESTAMP: &str = "webhook-timestamp";

/// What a request says of its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    /// What the message is known by, with the header that it is in.
    pub(super) id: Option<String>,
    /// Record headers: names and values.
    pub(super) headers: Vec<(&'static str, String)>,
    /// What is signed before the body.
    before: String,
    signatures: Vec<Signature>,
}

fn refused(detail: impl Into<String>) -> Problem {
    Problem::new("invalid_signature", detail)
}

/// The one value of a header.
fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(value), None) if !value.trim().is_empty() => Ok(value.trim()),
        _ => Err(refused(format!("header {name} is not there, or more than once"))),
    }
}

/// The same, of what a sender need not say and what goes into the log as it is.
fn optional(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let value = header(headers, name)?;
    if value.len() > ID_BYTES_MAX || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let detail = format!("header {name} has other than 1 to {ID_BYTES_MAX} visible characters");
        return Err(refused(detail));
    }
    Ok(Some(value.to_owned()))
}

impl Signed {
    /// What the headers say, at the second `now_s` since 1970.
    ///
    /// # Errors
    /// `invalid_signature`: there is none that could be right.
    pub(super) fn of(scheme: Scheme, headers: &HeaderMap, now_s: i64) -> Result<Self, Problem> {
        match scheme {
            Scheme::Github => Self::github(headers),
            Scheme::Standard => Self::standard(headers, now_s),
            Scheme::Url => Err(refused("this webhook has a secret in its URL")),
        }
    }

    fn github(headers: &HeaderMap) -> Result<Self, Problem> {
        const NAME: &str = "x-hub-signature-256";
        let signature = header(headers, NAME)?.strip_prefix("sha256=");
        let signature = signature.and_then(|text| hex::decode(text).ok()?.try_into().ok());
        let malformed = || refused(format!("header {NAME} is not sha256= with 64 hex digits"));
        let signatures = vec![signature.ok_or_else(malformed)?];
        let delivery = optional(headers, GITHUB_DELIVERY)?;
        let id = delivery.as_ref().map(|id| format!("{GITHUB_DELIVERY}:{id}"));
        let event = optional(headers, GITHUB_EVENT)?;
        let own = [(GITHUB_EVENT, event), (GITHUB_DELIVERY, delivery)];
        let headers = own.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Ok(Self { id, headers, before: String::new(), signatures })
    }

    fn standard(headers: &HeaderMap, now_s: i64) -> Result<Self, Problem> {
        const NAME: &str = "webhook-signature";
        header(headers, STANDARD_ID)?;
        let id = optional(headers, STANDARD_ID)?.unwrap_or_default();
        let timestamp = header(headers, STANDARD_TIMESTAMP)?;
        let seconds: Option<i64> = timestamp.parse().ok();
        let age_s = seconds.and_then(|at| now_s.checked_sub(at));
        if age_s.is_none_or(|age_s| age_s.unsigned_abs() > TOLERANCE_S) {
            let detail = format!("header {STANDARD_TIMESTAMP} is more than {TOLERANCE_S} s off");
            return Err(refused(detail));
        }
        let texts = header(headers, NAME)?.split(' ').filter_map(|text| text.strip_prefix("v1,"));
        let signatures: Vec<Signature> = texts
            .take(SIGNATURES_MAX)
            .filter_map(|text| STANDARD.decode(text).ok()?.try_into().ok())
            .collect();
        if signatures.is_empty() {
            return Err(refused(format!("header {NAME} has no v1, with 32 bytes of base64")));
        }
        let before = format!("{id}.{timestamp}.");
        let own = vec![(STANDARD_ID, id.clone()), (STANDARD_TIMESTAMP, timestamp.to_owned())];
        Ok(Self { id: Some(format!("{STANDARD_ID}:{id}")), headers: own, before, signatures })
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// `invalid_signature`.
    pub(super) fn check(&self, webhook: &Webhook, body: &[u8]) -> Result<(), Problem> {
        if webhook.verifies(&[self.before.as_bytes(), body], &self.signatures) {
            return Ok(());
        }
        let detail = "the signature is not that of this body with the secret of the webhook";
        Err(refused(detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_614_265_330;
    const MAC: &str = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn signed(scheme: Scheme, pairs: &[(&'static str, &str)]) -> Result<Signed, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        Signed::of(scheme, &headers, NOW_S).map_err(|problem| {
            assert_eq!(problem.code(), "invalid_signature");
            problem.detail().to_owned()
        })
    }

    #[test]
    fn github_signs_the_body_and_names_delivery_and_event() {
        let hash = format!("sha256={}", "ab".repeat(32));
        let sent = [
            ("x-hub-signature-256", &*hash),
            ("x-github-delivery", "72d3162e"),
            ("x-github-event", "push"),
        ];
        let found = signed(Scheme::Github, &sent).unwrap();
        assert_eq!(found.id.as_deref(), Some("x-github-delivery:72d3162e"));
        assert_eq!((found.signatures, &*found.before), (vec![[0xab; 32]], ""));
        let names: Vec<_> = found.headers.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(names, [("x-github-event", "push"), ("x-github-delivery", "72d3162e")]);
        assert_eq!(signed(Scheme::Github, &sent[..1]).unwrap().id, None);
        for bad in ["", "sha256=", "sha1=ab", &hash[..70], "ab"] {
            assert!(signed(Scheme::Github, &[("x-hub-signature-256", bad)]).is_err(), "{bad}");
        }
        assert!(signed(Scheme::Github, &sent[1..]).unwrap_err().contains("x-hub-signature-256"));
        assert!(signed(Scheme::Github, &[sent[0], sent[0]]).is_err(), "twice");
        assert!(signed(Scheme::Github, &[sent[0], ("x-github-event", "a b")]).is_err());
    }

    #[test]
    fn standard_webhooks_sign_id_time_and_body_within_five_minutes() {
        let (id, mac) = (("webhook-id", "msg_1"), format!("v1,{MAC}"));
        let at = |seconds: i64| (NOW_S + seconds).to_string();
        let with = |time: &str, mac: &str| {
            signed(Scheme::Standard, &[id, ("webhook-timestamp", time), ("webhook-signature", mac)])
        };
        let found = with(&at(0), &mac).unwrap();
        assert_eq!((&*found.before, found.signatures.len()), ("msg_1.1614265330.", 1));
        assert_eq!(found.id.as_deref(), Some("webhook-id:msg_1"));
        for seconds in [-300, 300] {
            assert!(with(&at(seconds), &mac).is_ok(), "{seconds}");
            let late = with(&at(seconds + seconds.signum()), &mac).unwrap_err();
            assert!(late.contains("300 s off"), "{late}");
        }
        for time in ["", "x", "-9223372036854775808"] {
            assert!(with(time, &mac).is_err(), "{time}");
        }
        let several = format!("v1,AAAA v1a,{MAC} {mac} v1,{MAC}");
        assert_eq!(with(&at(0), &several).unwrap().signatures.len(), 2);
        for bad in ["", "v1,", "v1,AAAA", MAC, &format!("v2,{MAC}")] {
            assert!(with(&at(0), bad).is_err(), "{bad}");
        }
        let many = vec![&*mac; 50].join(" ");
        assert_eq!(with(&at(0), &many).unwrap().signatures.len(), SIGNATURES_MAX);
    }
}
