//! Where no token is needed, HTTP answers only requests that were meant for this machine: a page
//! of another site must not reach it through the visitor's browser (rules 8.2). Tokens are in no
//! browser that could add them to such a request.

use axum::http::{HeaderMap, header};

use crate::http::Api;
use crate::http::problem::Problem;

/// Refuses what was not meant for this machine.
///
/// # Errors
/// The problem `foreign_origin`.
pub(super) fn check(api: &Api, headers: &HeaderMap) -> Result<(), Problem> {
    let is_guarded = api.options.loopback_only && !api.auth.is_required();
    if is_guarded { check_names(headers) } else { Ok(()) }
}

fn check_names(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(host) = text(header::HOST)
        && !is_loopback(host)
    {
        let detail = format!("host {host:?} is not this machine; see auth.anonymous");
        return Err(Problem::new("foreign_origin", detail));
    }
    if let Some(origin) = text(header::ORIGIN)
        && !origin.split_once("://").is_some_and(|(_, host)| is_loopback(host))
    {
        let detail = format!("origin {origin:?} is another site; see auth.anonymous");
        return Err(Problem::new("foreign_origin", detail));
    }
    Ok(())
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_let_through() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            headers
        };
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "127.0.0.2"] {
            assert!(check_names(&headers(&[("host", host)])).is_ok(), "{host}");
        }
        assert!(check_names(&headers(&[("host", "evil.example")])).is_err());
        assert!(check_names(&headers(&[("host", "127.0.0.1.evil.example")])).is_err());
        let cross = [("host", "localhost:8080"), ("origin", "http://evil.example")];
        assert!(check_names(&headers(&cross)).is_err());
        let same = [("host", "localhost:8080"), ("origin", "http://localhost:8080")];
        assert!(check_names(&headers(&same)).is_ok());
    }
}
