//! Who sent a request that a proxy passed on, and how: `X-Forwarded-For`, `Forwarded` (RFC 7239)
//! and `X-Forwarded-Proto`, of proxies that `http.trusted.proxies` names. Nobody else is believed.
//!
//! Owns: which address counts. It takes the place of the connection's, so that all that asks where
//! a request comes from (rates, waits after refusals, the address among record headers) means it.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use crate::config::Network;
use crate::http::Api;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Whose word counts.
#[derive(Debug, Default)]
pub struct Proxies(Vec<Network>);

/// The request came to its first proxy over TLS, or it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scheme {
    is_https: bool,
}

impl Proxies {
    /// Those of these networks.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// Puts the sender that a proxy tells of in place of the proxy.
    pub(super) fn look_behind(&self, request: &mut Request) {
        if self.0.is_empty() {
            return;
        }
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        if !peer.is_some_and(|ConnectInfo(peer)| self.trust(peer.ip())) {
            return;
        }
        let (sender, scheme) = (self.sender(request.headers()), scheme(request.headers()));
        let extensions = request.extensions_mut();
        if let Some(sender) = sender {
            // What port it came from is known to the proxy alone.
            extensions.insert(ConnectInfo(SocketAddr::new(sender, 0)));
        }
        if let Some(scheme) = scheme {
            extensions.insert(scheme);
        }
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// The sender; none where the headers tell of none. A proxy sets one of the two headers and
    /// passes the other on as it came, from whomever: where they differ neither counts.
    fn sender(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let plain = lines(headers, FORWARDED_FOR);
        let plain = self.nearest(plain.iter().map(|it| address(it)));
        let standard = lines(headers, header::FORWARDED.as_str());
        let standard = self.nearest(standard.iter().map(|it| address(&member(it, "for")?)));
        match (plain, standard) {
            (Some(plain), Some(standard)) => (plain == standard).then_some(plain),
            (one, other) => one.or(other),
        }
    }

    /// Of addresses, each of them written behind those that it told of, the last that is no trusted
    /// proxy: what stands before it is its own word. The first, if all are; what is not an address
    /// ends the list.
    fn nearest(&self, told: impl DoubleEndedIterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
        let mut nearest = None;
        for address in told.rev() {
            let Some(address) = address else { break };
            nearest = Some(address);
            if !self.trust(address) {
                break;
            }
        }
        nearest
    }
}

/// The elements of a list that may be in several headers, each without space around it.
fn lines(headers: &HeaderMap, name: &str) -> Vec<String> {
    let mut elements = Vec::new();
    for line in headers.get_all(name) {
        // What is not text is an element that tells nothing.
        let line = line.to_str().unwrap_or("?");
        elements.extend(split(line, ',').map(|element| element.trim().to_owned()));
    }
    elements
}

/// Splits where `by` stands outside of quotes.
fn split(text: &str, by: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |letter| {
        is_quoted ^= letter == '"';
        letter == by && !is_quoted
    })
}

/// The value of a pair of a forwarded element.
fn member(element: &str, name: &str) -> Option<String> {
    let mut pairs = split(element, ';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// An address with or without a port, that of IPv6 in brackets where there is one.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let of_socket = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let address = text.parse().ok().or_else(of_socket).or_else(bare)?;
    Some(IpAddr::to_canonical(&address))
}

/// How the request came to the proxy that is nearest.
fn scheme(headers: &HeaderMap) -> Option<Scheme> {
    let plain = lines(headers, FORWARDED_PROTO).pop();
    let standard = || member(lines(headers, header::FORWARDED.as_str()).last()?, "proto");
    let told = plain.or_else(standard)?;
    let is = |scheme: &str| told.eq_ignore_ascii_case(scheme);
    (is("https") || is("http")).then(|| Scheme { is_https: is("https") })
}

/// How the sender reached this server: what it is to follow must be absolute.
pub(super) struct Reached {
    pub(super) scheme: &'static str,
    host: Option<String>,
}

impl Reached {
    /// Of the request with these parts.
    pub(super) fn of(parts: &Parts, api: &Api) -> Self {
        let told = parts.extensions.get::<Scheme>();
        let is_https = api.options.is_tls || told.is_some_and(|scheme| scheme.is_https);
        let host = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
        let scheme = if is_https { "https" } else { "http" };
        Self { scheme, host: host.map(str::to_owned) }
    }

    /// The beginning of absolute URLs.
    pub(super) fn base(&self) -> String {
        format!("{}://{}", self.scheme, self.host.as_deref().unwrap_or("localhost"))
    }
}

impl FromRequestParts<Api> for Reached {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Infallible> {
        Ok(Self::of(parts, api))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn proxies() -> Proxies {
        Proxies::new(["10.0.0.0/8", "::1"].map(|it| Network::parse(it).unwrap()).to_vec())
    }

    /// The address and whether it is known to be TLS, as `proxies` see a request from `peer`.
    fn seen(proxies: &Proxies, peer: &str, pairs: &[(&str, &str)]) -> (String, Option<bool>) {
        let mut request = Request::builder();
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        let peer = SocketAddr::new(peer.parse().unwrap(), 7);
        request.extensions_mut().insert(ConnectInfo(peer));
        proxies.look_behind(&mut request);
        let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>().unwrap();
        let scheme = request.extensions().get::<Scheme>();
        (peer.ip().to_string(), scheme.map(|scheme| scheme.is_https))
    }

    #[test]
    fn the_sender_is_the_last_that_no_trusted_proxy_is() {
        let plain = "x-forwarded-for";
        for (pairs, wanted) in [
            (&[(plain, "203.0.113.9")][..], "203.0.113.9"),
            // What the sender itself claims stands before it.
            (&[(plain, "198.51.100.1, 203.0.113.9")], "203.0.113.9"),
            (&[(plain, "203.0.113.9, 10.0.0.7")], "203.0.113.9"),
            (&[(plain, "198.51.100.1"), (plain, "203.0.113.9, 10.0.0.7")], "203.0.113.9"),
            (&[(plain, "10.0.0.8, 10.0.0.7")], "10.0.0.8"),
            (&[(plain, "203.0.113.9, unknown, 10.0.0.7")], "10.0.0.7"),
            (&[(plain, "nonsense")], "10.0.0.1"),
            (&[(plain, "203.0.113.9:4711")], "203.0.113.9"),
            (&[(plain, "[2001:db8::1]:4711")], "2001:db8::1"),
            (&[(plain, "::ffff:203.0.113.9")], "203.0.113.9"),
            (&[("forwarded", "for=203.0.113.9;proto=https")], "203.0.113.9"),
            (&[("forwarded", "For=\"[2001:db8::1]:4711\" , by=x;for=10.0.0.7")], "2001:db8::1"),
            (&[("forwarded", "for=_hidden")], "10.0.0.1"),
            (&[(plain, "203.0.113.9"), ("forwarded", "for=203.0.113.9")], "203.0.113.9"),
            // One of the two is what the sender made up.
            (&[(plain, "203.0.113.9"), ("forwarded", "for=198.51.100.1")], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(seen(&proxies(), "10.0.0.1", pairs).0, wanted, "{pairs:?}");
        }
    }

    #[test]
    fn the_scheme_is_what_the_nearest_proxy_says() {
        let plain = "x-forwarded-proto";
        for (pairs, wanted) in [
            (&[(plain, "https")][..], Some(true)),
            (&[(plain, "https, http")], Some(false)),
            (&[(plain, "gopher")], None),
            (&[("forwarded", "for=203.0.113.9;proto=\"https\"")], Some(true)),
            (&[], None),
        ] {
            assert_eq!(seen(&proxies(), "::1", pairs).1, wanted, "{pairs:?}");
        }
    }

    #[test]
    fn nobody_else_is_believed() {
        let pairs = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")];
        for (proxies, peer) in [(proxies(), "192.0.2.1"), (Proxies::default(), "10.0.0.1")] {
            assert_eq!(seen(&proxies, peer, &pairs), (peer.to_owned(), None));
        }
    }
}
