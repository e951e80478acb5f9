//! Where credentials stand in a request. Pure.
//!
//! ```text
//! token: TOKEN                       wins over all others
//! Authorization: Bearer TOKEN
//! Authorization: Basic base64(USER:TOKEN)    any user name; or TOKEN: with an empty password
//! Authorization: ApiKey TOKEN | Splunk TOKEN | Token TOKEN
//! X-API-Key: TOKEN
//! X-StorageApi-Token: TOKEN
//! ```

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Longest header that is looked at, in bytes: a JWT may be long.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// Headers that hold a token and nothing else, in order of precedence around `Authorization`.
const TOKEN: &str = "token";
const OTHERS: [&str; 2] = ["x-api-key", "x-storageapi-token"];

/// True for a header that holds credentials, which nobody is shown.
pub(crate) fn is_secret(name: &HeaderName) -> bool {
    let secret = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE];
    secret.contains(name) || *name == TOKEN || OTHERS.iter().any(|other| *name == *other)
}

/// User and password of `Authorization: Basic`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Basic {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The token or access token of a request; none where it has none, empty text where it has
/// something that can be none.
pub(crate) fn presented(headers: &HeaderMap) -> Option<String> {
    if !are_sent(headers) {
        return None;
    }
    plain(headers, TOKEN)
        .or_else(|| authorization(headers))
        .or_else(|| OTHERS.iter().find_map(|name| plain(headers, name)))
}

/// True if a header is there that may hold a token. Many requests have none, and to look for each
/// takes longer than to look at all that there are.
pub(crate) fn are_sent(headers: &HeaderMap) -> bool {
    let may_hold = |name: &str| {
        name == TOKEN || name == header::AUTHORIZATION.as_str() || OTHERS.contains(&name)
    };
    headers.keys().any(|name| may_hold(name.as_str()))
}

fn plain(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    let text = value.to_str().unwrap_or_default().trim();
    // An empty header says nothing; clients send it where a setting is empty.
    (!value.is_empty()).then(|| text.to_owned())
}

fn authorization(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = scheme(headers)?;
    match scheme.to_ascii_lowercase().as_str() {
        // PyIceberg sends its empty setting so.
        "bearer" if rest == "None" => None,
        "bearer" | "apikey" | "splunk" | "token" => Some(rest.to_owned()),
        "basic" => Some(basic_of(rest).map(Basic::token).unwrap_or_default()),
        _ => None,
    }
}

fn scheme(headers: &HeaderMap) -> Option<(&str, &str)> {
    let value = headers.get(header::AUTHORIZATION)?;
    let text = value.to_str().ok().filter(|text| text.len() <= HEADER_BYTES_MAX)?;
    let (scheme, rest) = text.trim().split_once(' ')?;
    Some((scheme, rest.trim()))
}

/// The bearer token of the request, if it has one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = scheme(headers)?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.to_owned())
}

/// User and password of the request, if it has such.
pub(crate) fn basic(headers: &HeaderMap) -> Option<Basic> {
    let (scheme, rest) = scheme(headers)?;
    scheme.eq_ignore_ascii_case("basic").then(|| basic_of(rest))?
}

fn basic_of(encoded: &str) -> Option<Basic> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Basic { user: user.to_owned(), password: password.to_owned() })
}

impl Basic {
    /// The token of the two. Clients with a single key send it as user and no password.
    fn token(self) -> String {
        if self.password.is_empty() { self.user } else { self.password }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn found(pairs: &[(&'static str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        presented(&headers)
    }

    #[test]
    fn every_form_gives_its_token() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (name, value) in [
            ("token", "T".to_owned()),
            ("authorization", "Bearer T".to_owned()),
            ("authorization", "bearer  T".to_owned()),
            ("authorization", basic("token:T")),
            ("authorization", basic("some-name:T")),
            ("authorization", basic(":T")),
            ("authorization", basic("T:")),
            ("authorization", "ApiKey T".to_owned()),
            ("authorization", "Splunk T".to_owned()),
            ("x-api-key", "T".to_owned()),
            ("x-storageapi-token", "T".to_owned()),
        ] {
            assert_eq!(found(&[(name, &value)]).as_deref(), Some("T"), "{name}: {value}");
        }
    }

    #[test]
    fn the_token_header_wins_and_an_empty_one_says_nothing() {
        assert_eq!(found(&[("authorization", "Bearer None")]), None, "PyIceberg without a token");
        let both = [("authorization", "Bearer B"), ("token", "T"), ("x-api-key", "X")];
        assert_eq!(found(&both).as_deref(), Some("T"));
        assert_eq!(found(&[("token", ""), ("authorization", "Bearer B")]).as_deref(), Some("B"));
        assert_eq!(
            found(&[("x-api-key", "X"), ("authorization", "Bearer B")]).as_deref(),
            Some("B")
        );
        assert_eq!(found(&[("token", "")]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn what_is_broken_is_a_wrong_token_and_other_schemes_are_none() {
        for broken in ["Basic !", "Basic", "Basic dA=="] {
            let wanted = broken.contains(' ').then(String::new);
            assert_eq!(found(&[("authorization", broken)]), wanted, "{broken}");
        }
        assert_eq!(found(&[("authorization", "AWS4-HMAC-SHA256 Credential=a")]), None);
        let mut headers = HeaderMap::new();
        headers.insert("token", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(presented(&headers).as_deref(), Some(""));
    }

    proptest! {
        #[test]
        fn no_header_panics(value in "[ -~]{0,60}", name in 0..4_usize) {
            let name = ["token", "authorization", "x-api-key", "x-storageapi-token"][name];
            let value = HeaderValue::from_str(&value).unwrap();
            let _ = presented(&HeaderMap::from_iter([(name.parse().unwrap(), value)]));
        }
    }
}
