//! Credentials as clients send them, and rules as people write them.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::auth::rule::{Kind, Operation, Resource, Rules};
use crate::auth::token::{self, Parsed};
use crate::fuzzing::steer;
use crate::http::{credentials, oauth};
use crate::kafka::sasl;

/// Headers that may hold credentials.
const HEADERS: [&str; 4] = ["token", "authorization", "x-api-key", "x-storageapi-token"];

/// The first byte picks a header; the rest is its value, a message of PLAIN, a form for an access
/// token, a token, and rules, one a line.
///
/// # Panics
/// If a property does not hold.
pub fn credential(data: &[u8]) {
    let (first, rest) = steer(data);
    header(HEADERS[usize::from(first) % HEADERS.len()], rest);
    if let Ok(password) = sasl::password(rest) {
        assert!(rest.ends_with(password.as_bytes()) && !password.contains('\0'));
    }
    let _ = oauth::form(rest);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match token::parse(text) {
        Some(Parsed::Token { id }) => assert!(text.contains(id)),
        Some(Parsed::Access { id, expires_s, signed, .. }) => {
            assert!(text.starts_with(signed) && signed.contains(id) && expires_s >= 0);
        }
        None => {}
    }
    rules(text);
}

/// A header alone is a credential, and never a longer one than it is.
fn header(name: &'static str, value: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let len = value.len();
    let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
    if let Some(found) = credentials::presented(&headers) {
        assert!(found.len() <= len);
    }
    let _ = credentials::basic(&headers);
}

/// Rules that are understood are written as they were, and allow on one name what they allow on
/// every name.
fn rules(text: &str) {
    let lines: Vec<&str> = text.lines().take(8).collect();
    let Ok(rules) = Rules::parse(&lines) else { return };
    assert_eq!(Rules::parse(rules.texts()).as_ref(), Ok(&rules));
    for operation in Operation::ALL {
        let every = rules.allow_every(operation, Kind::Topic, "orders");
        let one = rules.allow(operation, Resource::Topic("orders-1"));
        let some = rules.allow_some(operation, Kind::Topic, "orders");
        assert!((!every || one) && (!one || some), "{lines:?}");
    }
}
