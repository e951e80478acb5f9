//! Options of TLS and of an OpenID Connect issuer: each set belongs together.

use std::path::PathBuf;

use super::{Error, Reader};

/// The OpenID Connect issuer whose JWTs count (`auth.oidc.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oidc {
    /// Its URL, as it stands in `iss`.
    pub issuer: String,
    /// What `aud` must name.
    pub audience: String,
    /// Where its keys are; none is where its description says.
    pub jwks_uri: Option<String>,
    /// The claim that says whose a JWT is.
    pub claim: String,
    /// A scope that each JWT must have.
    pub scope: Option<String>,
}

/// Files for TLS (`http.tls.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM: the server's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: authorities whose client certificates count.
    pub client_ca: Option<PathBuf>,
}

/// Refuses an address that others could answer for: JWTs are checked by what comes from there.
///
/// # Errors
/// What is allowed.
pub fn check_issuer_url(address: &str) -> Result<(), &'static str> {
    let allowed = "it must be an https URL, or http on this machine, without ? and #";
    let url = url::Url::parse(address).map_err(|_| allowed)?;
    let is_here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_here);
    let is_plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    (is_safe && is_plain).then_some(()).ok_or(allowed)
}

impl Reader<'_> {
    /// An option without which another one means nothing.
    fn needed(&self, key: &str, by: &str) -> Result<String, Error> {
        self.optional_text(key).ok_or_else(|| Error(format!("{by} needs {key}")))
    }

    pub(super) fn oidc(&self) -> Result<Option<Oidc>, Error> {
        let key = "auth.oidc.issuer";
        let (jwks, scope) = ("auth.oidc.jwks.uri", "auth.oidc.scope");
        let Some(issuer) = self.optional_text(key) else {
            let others = ["auth.oidc.audience", jwks, scope];
            let alone = others.into_iter().find(|other| self.optional_text(other).is_some());
            return alone.map_or(Ok(None), |other| Err(Error(format!("{other} needs {key}"))));
        };
        let checked = |key: &str| self.parsed(key, |url| Ok(check_issuer_url(url)?));
        checked(key)?;
        let jwks_uri = self.optional_text(jwks);
        if jwks_uri.is_some() {
            checked(jwks)?;
        }
        let audience = self.needed("auth.oidc.audience", key)?;
        let (claim, scope) = (self.text("auth.oidc.claim"), self.optional_text(scope));
        Ok(Some(Oidc { issuer, audience, jwks_uri, claim, scope }))
    }

    pub(super) fn tls(&self) -> Result<Option<Tls>, Error> {
        let keys = ["http.tls.certificate", "http.tls.key", "http.tls.client.ca"];
        let Some(given) = keys.into_iter().find(|key| self.optional_text(key).is_some()) else {
            return Ok(None);
        };
        let path = |key: &str| self.needed(key, given).map(PathBuf::from);
        let client_ca = self.optional_text(keys[2]).map(PathBuf::from);
        Ok(Some(Tls { certificate: path(keys[0])?, key: path(keys[1])?, client_ca }))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Settings};

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let one = |(key, value): &(&str, &str)| ((*key).to_owned(), vec![(*value).to_owned()]);
        pairs.iter().map(one).collect()
    }

    #[test]
    fn options_of_tls_and_of_an_issuer_belong_together() {
        for (given, wanted) in [
            (&[("http.tls.certificate", "c")][..], "http.tls.key"),
            (&[("http.tls.client.ca", "c")], "http.tls.certificate"),
            (&[("auth.oidc.issuer", "https://id.example")], "auth.oidc.audience"),
            (&[("auth.oidc.audience", "floe")], "auth.oidc.issuer"),
            (&[("auth.oidc.issuer", "http://id.example"), ("auth.oidc.audience", "f")], "https"),
            (&[("auth.oidc.issuer", "https://id.example?x"), ("auth.oidc.audience", "f")], "https"),
        ] {
            let error = Config::resolve(&settings(given), &[]).unwrap_err();
            assert!(error.0.contains(given[0].0) && error.0.contains(wanted), "{error}");
        }
        let given = [("auth.oidc.issuer", "http://127.0.0.1:1/a"), ("auth.oidc.audience", "f")];
        let oidc = Config::resolve(&settings(&given), &[]).unwrap().oidc.unwrap();
        assert_eq!((oidc.claim.as_str(), oidc.jwks_uri, oidc.scope), ("sub", None, None));
    }
}
