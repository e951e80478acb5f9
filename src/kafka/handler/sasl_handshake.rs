//! SaslHandshake (key 17), versions 0 and 1.
//!
//! PLAIN and OAUTHBEARER are the mechanisms; another is UNSUPPORTED_SASL_MECHANISM with the list, and
//! the end of the connection. After version 0 the message of the mechanism follows without a Kafka
//! header. Once the
//! client said who it is: ILLEGAL_SASL_STATE (source: `KafkaApis.handleSaslHandshakeRequest`).

use kafka_protocol::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

use crate::kafka::error_code::ErrorCode;
use crate::kafka::handler::text;
use crate::kafka::sasl::{Mechanism, Stage};

/// The answer, and how far the connection is with it.
pub(crate) fn answer(
    stage: Stage,
    version: i16,
    request: &SaslHandshakeRequest,
) -> (SaslHandshakeResponse, Stage) {
    let asked = Mechanism::ALL.into_iter().find(|one| one.as_str() == request.mechanism.as_str());
    let (code, next) = match (stage, asked) {
        (Stage::Initial, Some(mechanism)) => {
            (ErrorCode::None, Stage::Chosen { mechanism, bare: version == 0 })
        }
        (Stage::Initial, None) => (ErrorCode::UnsupportedSaslMechanism, Stage::Failed),
        (Stage::Done, _) => (ErrorCode::IllegalSaslState, Stage::Done),
        (Stage::Chosen { .. } | Stage::Failed, _) => (ErrorCode::IllegalSaslState, Stage::Failed),
    };
    let response = SaslHandshakeResponse::default()
        .with_error_code(code.code())
        .with_mechanisms(Mechanism::ALL.map(|one| text(one.as_str())).to_vec());
    (response, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mechanism_is_chosen_once_and_no_unknown_one_ever() {
        let bearer = SaslHandshakeRequest::default().with_mechanism("OAUTHBEARER".into());
        let chosen = |mechanism, bare| Stage::Chosen { mechanism, bare };
        let plain = SaslHandshakeRequest::default().with_mechanism("PLAIN".into());
        let scram = SaslHandshakeRequest::default().with_mechanism("SCRAM-SHA-256".into());
        let cases = [
            (Stage::Initial, 0, &plain, 0, chosen(Mechanism::Plain, true)),
            (Stage::Initial, 1, &plain, 0, chosen(Mechanism::Plain, false)),
            (Stage::Initial, 1, &bearer, 0, chosen(Mechanism::OAuthBearer, false)),
            (Stage::Initial, 1, &scram, 33, Stage::Failed),
            (chosen(Mechanism::Plain, false), 1, &plain, 34, Stage::Failed),
            (Stage::Done, 1, &plain, 34, Stage::Done),
        ];
        for (stage, version, request, code, next) in cases {
            let (response, found) = answer(stage, version, request);
            assert_eq!((response.error_code, found), (code, next), "{stage:?}");
            assert_eq!(response.mechanisms, [text("PLAIN"), text("OAUTHBEARER")]);
        }
    }
}
