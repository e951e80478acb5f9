//! SaslHandshake (key 17), versions 0 and 1.
//!
//! PLAIN is the one mechanism; another is UNSUPPORTED_SASL_MECHANISM with the list, and the end of
//! the connection. After version 0 the message of PLAIN follows without a Kafka header. Once the
//! client said who it is: ILLEGAL_SASL_STATE (source: `KafkaApis.handleSaslHandshakeRequest`).

use kafka_protocol::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::text;
use crate::kafka::sasl::{PLAIN, Stage};

/// The answer, and how far the connection is with it.
pub(crate) fn answer(
    stage: Stage,
    version: i16,
    request: &SaslHandshakeRequest,
) -> (SaslHandshakeResponse, Stage) {
    let (code, next) = match stage {
        Stage::Initial if request.mechanism.as_str() == PLAIN => {
            (ErrorCode::None, Stage::Chosen { bare: version == 0 })
        }
        Stage::Initial => (ErrorCode::UnsupportedSaslMechanism, Stage::Failed),
        Stage::Done => (ErrorCode::IllegalSaslState, Stage::Done),
        Stage::Chosen { .. } | Stage::Failed => (ErrorCode::IllegalSaslState, Stage::Failed),
    };
    let response = SaslHandshakeResponse::default()
        .with_error_code(code.code())
        .with_mechanisms(vec![text(PLAIN)]);
    (response, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_chosen_once_and_nothing_else_ever() {
        let plain = SaslHandshakeRequest::default().with_mechanism("PLAIN".into());
        let scram = SaslHandshakeRequest::default().with_mechanism("SCRAM-SHA-256".into());
        let cases = [
            (Stage::Initial, 0, &plain, 0, Stage::Chosen { bare: true }),
            (Stage::Initial, 1, &plain, 0, Stage::Chosen { bare: false }),
            (Stage::Initial, 1, &scram, 33, Stage::Failed),
            (Stage::Chosen { bare: false }, 1, &plain, 34, Stage::Failed),
            (Stage::Done, 1, &plain, 34, Stage::Done),
        ];
        for (stage, version, request, code, next) in cases {
            let (response, found) = answer(stage, version, request);
            assert_eq!((response.error_code, found), (code, next), "{stage:?}");
            assert_eq!(response.mechanisms, [text(PLAIN)]);
        }
    }
}
