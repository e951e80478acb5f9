//! How far a connection got with saying who it is: SASL/PLAIN (RFC 4616), whose password is a token or
//! a JWT, and SASL/OAUTHBEARER (RFC 7628), whose bearer token is one.
//!
//! ```text
//! Initial -- SaslHandshake ----> Chosen -- SaslAuthenticate, or bare bytes --> Done
//!    |                             |
//!    '- other mechanism -> Failed <-' wrong password
//! ```
//!
//! After SaslHandshake version 0 the message comes without a Kafka header (source:
//! `org.apache.kafka.common.security.authenticator.SaslServerAuthenticator`). Owns: these rules.
//! Does not own: tokens (`auth`), answers (`handler/sasl_*`).

use crate::auth::{Auth, Principal, Refusal};

/// How a client says who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// User and password.
    Plain,
    /// A bearer token.
    OAuthBearer,
}

impl Mechanism {
    /// All of them, as they are listed.
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::OAuthBearer];

    /// As clients name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }
}

/// Largest frame of a connection that has not said who it is, in bytes
/// (`sasl.server.max.receive.size`).
pub(crate) const FRAME_BYTES_MAX: usize = 512 << 10;

/// How far a connection got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was said.
    Initial,
    /// The next message is that of the mechanism; `bare` if it comes without a Kafka header.
    Chosen { mechanism: Mechanism, bare: bool },
    /// The client said who it is.
    Done,
    /// It could not; the connection ends with the answer.
    Failed,
}

/// What is wrong with the message of a mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlainError {
    /// It does not have the parts that it must have.
    #[error("the message of the mechanism is malformed")]
    Malformed,
    /// One user may not act for another.
    #[error("the authorization id differs from the user name")]
    OtherUser,
    /// The password is no token that holds.
    #[error(
        "{0}; the password must be a token (floe token create), the user name is not looked at"
    )]
    Refused(Refusal),
}

impl PlainError {
    /// A short fixed name for metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Malformed | Self::OtherUser => "invalid_token",
            Self::Refused(refusal) => refusal.label(),
        }
    }
}

/// The password of a PLAIN message: `authzid NUL authcid NUL password`.
///
/// # Errors
/// [`PlainError`].
pub(crate) fn password(message: &[u8]) -> Result<&str, PlainError> {
    let text = std::str::from_utf8(message).map_err(|_| PlainError::Malformed)?;
    let mut parts = text.split('\0');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(other), Some(user), Some(_), None) if !other.is_empty() && other != user => {
            Err(PlainError::OtherUser)
        }
        (Some(_), Some(_), Some(password), None) => Ok(password),
        _ => Err(PlainError::Malformed),
    }
}

/// The token of an OAUTHBEARER message: a GS2 header and `key=value` pairs, each before a 0x01; other
/// pairs are not looked at.
///
/// # Errors
/// [`PlainError`].
pub(crate) fn bearer(message: &[u8]) -> Result<&str, PlainError> {
    let text = std::str::from_utf8(message).map_err(|_| PlainError::Malformed)?;
    let mut parts = text.split('\x01');
    let header = parts.next().unwrap_or_default();
    let value = parts.find_map(|pair| pair.strip_prefix("auth="));
    match value.and_then(|value| value.split_once(' ')) {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && header.starts_with("n,") =>
        {
            Ok(token.trim())
        }
        _ => Err(PlainError::Malformed),
    }
}

/// Who sends the message of a mechanism. Waits where the key of a JWT must be fetched.
///
/// # Errors
/// [`PlainError`].
pub(crate) async fn authenticate(
    auth: &Auth,
    mechanism: Mechanism,
    message: &[u8],
) -> Result<Principal, PlainError> {
    let credential = match mechanism {
        Mechanism::Plain => password(message)?,
        Mechanism::OAuthBearer => bearer(message)?,
    };
    auth.prepare(credential).await;
    auth.authenticate(credential).map_err(PlainError::Refused)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_password_is_the_third_part() {
        assert_eq!(password(b"\0user\0secret"), Ok("secret"));
        assert_eq!(password(b"user\0user\0secret"), Ok("secret"));
        assert_eq!(password(b"\0\0secret"), Ok("secret"));
        assert_eq!(password(b"other\0user\0secret"), Err(PlainError::OtherUser));
        for bad in [&b""[..], b"user", b"user\0secret", b"\0u\0s\0", b"\0u\0\xff"] {
            assert_eq!(password(bad), Err(PlainError::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn the_bearer_token_is_where_clients_put_it() {
        // The Java client's message, and librdkafka's with an extension.
        assert_eq!(bearer(b"n,,\x01auth=Bearer floe_a\x01\x01"), Ok("floe_a"));
        let extended = b"n,a=me,\x01auth=bearer  eyJ.e.s\x01traceId=7\x01\x01";
        assert_eq!(bearer(extended), Ok("eyJ.e.s"));
        for bad in [&b""[..], b"n,,", b"auth=Bearer t", b"n,,\x01auth=Basic t\x01", b"n,,\x01\xff"]
        {
            assert_eq!(bearer(bad), Err(PlainError::Malformed), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_taken_apart_or_refused(
            message in prop::collection::vec(0..4_u8, 0..12),
        ) {
            if let Ok(password) = password(&message) {
                prop_assert!(message.ends_with(password.as_bytes()));
            }
        }
    }
}
