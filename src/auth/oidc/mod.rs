//! People and programs whom others vouch for: an OpenID Connect issuer by the JWTs that it signs, an
//! authority by the client certificates that it signs. Neither knows what may be done here: a token
//! without a secret has the rules, and says whose it is ([`Identity`]).
//!
//! Sources: RFC 7519 (JWT), RFC 7517 (JWK), OpenID Connect Discovery 1.0. Owns: the check of a JWT,
//! which of its claims counts. Does not own: signatures (`jws`), the issuer's keys (`keys`), rules (`auth`), the check of
//! a certificate (its listener's TLS).

mod jws;
mod keys;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::auth::{Error, Refusal};
use crate::config;
use crate::runtime::Tasks;

use jws::{Jws, Key};
use keys::{Found, Keys};

/// Longest subject of a token, bytes.
const IDENTITY_BYTES_MAX: usize = 512;
/// Longest JWT that is looked at, bytes.
const JWT_BYTES_MAX: usize = 16 << 10;
/// How far the issuer's clock may be off, seconds.
const LEEWAY_S: i64 = 30;
/// Longest wait for a key that is not known yet.
const KEY_WAIT_MAX: Duration = Duration::from_secs(4);

/// Who somebody is by the word of others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The claim `auth.oidc.claim` of a JWT.
    Subject(String),
    /// The subject of a client certificate, as RFC 4514 writes it: `CN=shop,O=Example`.
    Certificate(String),
}

impl Identity {
    /// As it is compared.
    pub fn text(&self) -> &str {
        match self {
            Self::Subject(text) | Self::Certificate(text) => text,
        }
    }

    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Certificate(_) => "certificate",
        }
    }

    /// What its owner shows.
    pub(super) fn kind_of_proof(&self) -> &'static str {
        match self {
            Self::Subject(_) => "JWT",
            Self::Certificate(_) => "client certificate",
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let text = self.text();
        let is_legal = (1..=IDENTITY_BYTES_MAX).contains(&text.len())
            && !text.chars().any(char::is_control)
            && text.trim() == text;
        is_legal.then_some(()).ok_or(Error::InvalidIdentity(self.kind()))
    }
}

/// What a JWT says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vouched {
    /// Whose it is.
    pub(super) identity: Identity,
    /// Until when, milliseconds; none of our leeway is left then.
    pub(super) expires_ms: i64,
}

/// The issuer whose JWTs count; cheap to clone.
#[derive(Clone)]
pub(super) struct Oidc {
    options: Arc<config::Oidc>,
    keys: Keys,
}

/// True for a text that is none of our tokens and has the form of a JWT.
pub(super) fn is_jwt(credential: &str) -> bool {
    credential.starts_with("eyJ") && credential.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Oidc {
    /// Fetches the issuer's keys from now on.
    pub(super) fn start(options: config::Oidc, tasks: &Tasks) -> Self {
        let options = Arc::new(options);
        let keys = Keys::start(Arc::clone(&options), tasks);
        Self { options, keys }
    }

    /// Waits, bounded, for the key that a JWT names where it is not known yet.
    pub(super) async fn prepare(&self, jwt: &str) {
        if let Ok(jws) = parse(jwt) {
            self.keys.want(jws.key_id.as_deref(), KEY_WAIT_MAX).await;
        }
    }

    /// Whose JWT this is. No disk, no wait.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn check(&self, jwt: &str, now_ms: i64) -> Result<Vouched, Refusal> {
        let jws = parse(jwt)?;
        match self.keys.find(jws.key_id.as_deref()) {
            Found::Key(key) => check(&self.options, &jws, &key, now_ms),
            Found::None => Err(Refusal::Jwt("the issuer has no key of that id")),
            Found::Unknown => Err(Refusal::Unavailable),
        }
    }
}

fn parse(jwt: &str) -> Result<Jws<'_>, Refusal> {
    if jwt.len() > JWT_BYTES_MAX {
        return Err(Refusal::Jwt("it is longer than 16 KiB"));
    }
    Jws::parse(jwt).ok_or(Refusal::Jwt("it is malformed, or signed in a way that is not taken"))
}

/// The rule over plain values.
fn check(
    options: &config::Oidc,
    jws: &Jws<'_>,
    key: &Key,
    now_ms: i64,
) -> Result<Vouched, Refusal> {
    if !jws.is_signed_by(key) {
        return Err(Refusal::Jwt("its signature is wrong"));
    }
    let claims: Map<String, Value> = serde_json::from_slice(&jws.payload)
        .map_err(|_| Refusal::Jwt("what it says is no JSON object"))?;
    if claims.get("iss").is_none_or(|issuer| *issuer != options.issuer) {
        return Err(Refusal::Jwt("its iss is not auth.oidc.issuer"));
    }
    if !claims.get("aud").is_some_and(|audience| names(audience, &options.audience)) {
        return Err(Refusal::Jwt("its aud does not name auth.oidc.audience"));
    }
    let seconds = |name: &str| claims.get(name).map(|at| at.as_f64().map(|at| at as i64));
    let expires_s = seconds("exp").flatten().ok_or(Refusal::Jwt("its exp is no number"))?;
    let now_s = now_ms.div_euclid(1_000);
    let expires_s = expires_s.saturating_add(LEEWAY_S);
    if expires_s <= now_s {
        return Err(Refusal::Expired);
    }
    let begins_s = seconds("nbf").map(|at| at.ok_or(Refusal::Jwt("its nbf is no number")));
    if begins_s.transpose()?.is_some_and(|at| at.saturating_sub(LEEWAY_S) > now_s) {
        return Err(Refusal::Jwt("its time has not come, by its nbf"));
    }
    if let Some(scope) = &options.scope
        && !has_scope(&claims, scope)
    {
        return Err(Refusal::Jwt("it lacks the scope of auth.oidc.scope"));
    }
    let subject = claims.get(&options.claim).and_then(Value::as_str);
    let subject = subject.filter(|subject| !subject.is_empty());
    let subject = subject.ok_or(Refusal::Jwt("it has no text in the claim of auth.oidc.claim"))?;
    let expires_ms = expires_s.saturating_mul(1_000);
    Ok(Vouched { identity: Identity::Subject(subject.to_owned()), expires_ms })
}

/// `scope` is text with spaces (RFC 8693), `scp` such a text or a list.
fn has_scope(claims: &Map<String, Value>, wanted: &str) -> bool {
    let has = |value: &Value| match value {
        Value::String(text) => text.split(' ').any(|scope| scope == wanted),
        Value::Array(list) => list.iter().any(|scope| scope == wanted),
        _ => false,
    };
    ["scope", "scp"].iter().filter_map(|name| claims.get(*name)).any(has)
}

/// `aud` is text or a list of such.
fn names(audience: &Value, wanted: &str) -> bool {
    match audience {
        Value::String(one) => one == wanted,
        Value::Array(list) => list.iter().any(|one| one == wanted),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
