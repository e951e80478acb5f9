//! ApiVersions (key 18), versions 0 to 4.
//!
//! Lists exactly [`APIS`]. A version above ours is answered in version 0 with `UNSUPPORTED_VERSION`
//! and our own range, so that a client can go down (KIP-511). No features: none is finalized
//! (`finalized_features_epoch` -1), which keeps clients on the classic transaction protocol.

use std::sync::Arc;

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use crate::kafka::api::APIS;
use crate::kafka::codec::{self, ResponseFrame};
use crate::kafka::dispatch::{Call, Context};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::fault::Fault;

pub(crate) async fn handle(
    _context: Arc<Context>,
    version: i16,
    request: ApiVersionsRequest,
) -> ApiVersionsResponse {
    answer(version, &request)
}

fn answer(version: i16, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    let legal = version < 3
        || (is_software_text(&request.client_software_name)
            && is_software_text(&request.client_software_version));
    if !legal {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    ApiVersionsResponse::default().with_api_keys(APIS.iter().map(range).collect())
}

fn range(api: &crate::kafka::api::Api) -> ApiVersion {
    ApiVersion::default()
        .with_api_key(api.key as i16)
        .with_min_version(api.advertised_min)
        .with_max_version(api.max)
}

/// The answer to a version that we do not know.
pub(crate) fn unknown_version(correlation_id: i32) -> Result<ResponseFrame, Fault> {
    let own = APIS.iter().filter(|api| api.key == ApiKey::ApiVersions).map(range).collect();
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(own);
    codec::encode(Call { api: ApiKey::ApiVersions, version: 0, correlation_id }, &response)
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?` (source: `ApiVersionsRequest.isValid`).
fn is_software_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kafkas_pattern() {
        for good in ["apache-kafka-java", "3.9.0-dev", "kgo", "v1.18.0", "a"] {
            assert!(is_software_text(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "é", "."] {
            assert!(!is_software_text(bad), "{bad}");
        }
    }

    #[test]
    fn unknown_version_is_answered_in_version_0_with_our_range() {
        let frame = unknown_version(9).unwrap();
        let bytes = frame.chunks.concat();
        // Size, correlation id, error 35, one entry: key 18, 0 to 4. No tag buffer anywhere.
        let wanted = [0, 0, 0, 16, 0, 0, 0, 9, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4];
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn bad_software_name_is_an_invalid_request() {
        let request = ApiVersionsRequest::default().with_client_software_name("?".into());
        assert_eq!(answer(3, &request).error_code, 42);
        assert_eq!(answer(2, &request).error_code, 0);
    }
}
