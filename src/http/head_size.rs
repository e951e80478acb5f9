//! How long the head of a request may be. Beyond hyper's own buffer (`server`) it answers itself, with
//! a status alone. Pure.

use axum::extract::Request;
use axum::http::HeaderMap;

use crate::http::problem::Problem;

/// Most bytes of names and values of headers, with what stands between them in HTTP/1.
const HEADERS_BYTES_MAX: usize = 16 << 10;
/// Most bytes of a path with its parameters.
const URI_BYTES_MAX: usize = 8 << 10;
/// `: ` and the end of the line.
const BETWEEN_BYTES: usize = 4;

/// Refuses a head that is too long.
///
/// # Errors
/// The problems `uri_too_long` and `headers_too_large`.
pub(super) fn check(request: &Request) -> Result<(), Problem> {
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    if target.len() > URI_BYTES_MAX {
        let detail = format!(
            "path and parameters have {} bytes, the limit is {URI_BYTES_MAX}: send what is long in \
             the body or in a header",
            target.len()
        );
        return Err(Problem::new("uri_too_long", detail).at_most(URI_BYTES_MAX));
    }
    let bytes = size_bytes(request.headers());
    if bytes > HEADERS_BYTES_MAX {
        let detail = format!(
            "the headers have {bytes} bytes, the limit is {HEADERS_BYTES_MAX}: send fewer or \
             shorter ones"
        );
        return Err(Problem::new("headers_too_large", detail).at_most(HEADERS_BYTES_MAX));
    }
    Ok(())
}

fn size_bytes(headers: &HeaderMap) -> usize {
    let line = |name: &str, value: &[u8]| name.len() + value.len() + BETWEEN_BYTES;
    headers.iter().map(|(name, value)| line(name.as_str(), value.as_bytes())).sum()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn checked(uri: &str, headers: &[(&str, &str)]) -> Result<(), &'static str> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(Body::empty()).unwrap()).map_err(|problem| problem.code())
    }

    #[test]
    fn a_head_may_be_as_long_as_the_limits_and_no_longer() {
        let uri = |bytes: usize| format!("/t?{}", "a".repeat(bytes - 3));
        assert_eq!(checked(&uri(URI_BYTES_MAX), &[]), Ok(()));
        assert_eq!(checked(&uri(URI_BYTES_MAX + 1), &[]), Err("uri_too_long"));
        assert_eq!(checked("http://host.example/t", &[]), Ok(()));
        let value = |bytes: usize| "v".repeat(bytes);
        let half = value(HEADERS_BYTES_MAX / 2 - 1 - BETWEEN_BYTES);
        assert_eq!(checked("/", &[("a", &half), ("b", &half)]), Ok(()));
        assert_eq!(checked("/", &[("a", &half), ("a", &half)]), Ok(()));
        let headers = [("a", half.as_str()), ("bb", half.as_str())];
        assert_eq!(checked("/", &headers), Err("headers_too_large"));
    }
}
