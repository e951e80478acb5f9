//! How far a connection got with saying who it is: SASL/PLAIN (RFC 4616), whose password is a token.
//!
//! ```text
//! Initial -- SaslHandshake PLAIN --> Chosen -- SaslAuthenticate, or bare bytes --> Done
//!    |                                  |
//!    '-- another mechanism --> Failed <-' wrong password
//! ```
//!
//! After SaslHandshake version 0 the message comes without a Kafka header (source:
//! `org.apache.kafka.common.security.authenticator.SaslServerAuthenticator`). Owns: these rules.
//! Does not own: tokens (`auth`), answers (`handler/sasl_*`).

use crate::auth::{Auth, Principal, Refusal};

/// The one mechanism.
pub(crate) const PLAIN: &str = "PLAIN";

/// Largest frame of a connection that has not said who it is, in bytes
/// (`sasl.server.max.receive.size`).
pub(crate) const FRAME_BYTES_MAX: usize = 512 << 10;

/// How far a connection got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was said.
    Initial,
    /// The next message is that of PLAIN; `bare` if it comes without a Kafka header.
    Chosen { bare: bool },
    /// The client said who it is.
    Done,
    /// It could not; the connection ends with the answer.
    Failed,
}

/// What is wrong with a PLAIN message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlainError {
    /// It does not have three parts of text.
    #[error("the message of PLAIN is malformed")]
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
            Self::Malformed | Self::OtherUser | Self::Refused(Refusal::Invalid) => "invalid_token",
            Self::Refused(Refusal::Expired) => "expired_token",
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

/// Who sends a PLAIN message.
///
/// # Errors
/// [`PlainError`].
pub(crate) fn authenticate(auth: &Auth, message: &[u8]) -> Result<Principal, PlainError> {
    auth.authenticate(password(message)?).map_err(PlainError::Refused)
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
