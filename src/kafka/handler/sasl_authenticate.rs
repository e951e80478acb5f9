//! SaslAuthenticate (key 36), versions 0 to 2.
//!
//! One message of PLAIN settles it. A wrong password is SASL_AUTHENTICATION_FAILED after a moment,
//! so that guessing is slow, and the end of the connection. The session has no end of its own
//! (`session_lifetime_ms` 0): the connection is closed when the token is over or revoked. Once the
//! client said who it is: ILLEGAL_SASL_STATE (source: `KafkaApis.handleSaslAuthenticateRequest`).

use kafka_protocol::messages::SaslAuthenticateResponse;

use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::some_text;
use crate::kafka::sasl::PlainError;

/// The answer to the right password.
pub(crate) fn accepted() -> SaslAuthenticateResponse {
    SaslAuthenticateResponse::default().with_error_message(None)
}

/// The answer to a wrong one.
pub(crate) fn refused(error: PlainError) -> SaslAuthenticateResponse {
    SaslAuthenticateResponse::default()
        .with_error_code(ErrorCode::SaslAuthenticationFailed.code())
        .with_error_message(some_text(format_args!("Authentication failed: {error}")))
}

/// The answer to who is known already.
pub(crate) fn out_of_turn() -> SaslAuthenticateResponse {
    SaslAuthenticateResponse::default()
        .with_error_code(ErrorCode::IllegalSaslState.code())
        .with_error_message(some_text("this connection is authenticated already"))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::*;
    use crate::auth::Refusal;

    #[test]
    fn every_answer_can_be_encoded_in_every_version() {
        let wrong = refused(PlainError::Refused(Refusal::Expired));
        assert!(wrong.error_message.as_ref().unwrap().contains("expired"));
        for (answer, code) in [(accepted(), 0), (wrong, 58), (out_of_turn(), 34)] {
            assert_eq!(answer.error_code, code);
            for version in 0..=2 {
                answer.encode(&mut BytesMut::new(), version).unwrap();
            }
        }
    }
}
