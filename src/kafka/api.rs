//! The one table of APIs: what ApiVersions advertises and what is accepted.
//!
//! An API stands here only when all of its advertised versions work. The two ranges differ for
//! Produce alone.

use kafka_protocol::messages::ApiKey;

/// One API and its versions, all bounds inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// Which one.
    pub key: ApiKey,
    /// Lowest version that ApiVersions lists.
    pub advertised_min: i16,
    /// Lowest version that is decoded.
    pub accepted_min: i16,
    /// Highest version of both.
    pub max: i16,
}

const fn api(key: ApiKey, min: i16, max: i16) -> Api {
    Api { key, advertised_min: min, accepted_min: min, max }
}

/// All APIs, in the order of their keys.
pub const APIS: &[Api] = &[
    // Advertised from 0 because librdkafka below 2.6 turns compression off without it; versions 0
    // to 2 carry message formats that nobody accepts any more (KAFKA-18659, Kafka 4 does the same).
    Api { key: ApiKey::Produce, advertised_min: 0, accepted_min: 3, max: 9 },
    // No version with topic ids (13 and up) yet.
    api(ApiKey::Fetch, 4, 12),
    api(ApiKey::ListOffsets, 1, 8),
    api(ApiKey::Metadata, 0, 12),
    api(ApiKey::FindCoordinator, 0, 4),
    api(ApiKey::SaslHandshake, 0, 1),
    api(ApiKey::ApiVersions, 0, 4),
    api(ApiKey::CreateTopics, 2, 7),
    api(ApiKey::DeleteTopics, 1, 6),
    api(ApiKey::InitProducerId, 0, 4),
    api(ApiKey::DescribeConfigs, 1, 4),
    api(ApiKey::AlterConfigs, 0, 2),
    api(ApiKey::SaslAuthenticate, 0, 2),
    api(ApiKey::CreatePartitions, 0, 3),
    api(ApiKey::IncrementalAlterConfigs, 0, 1),
    api(ApiKey::DescribeCluster, 0, 1),
];

/// The entry of a key as it came over the wire.
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key as i16 == key)
}

impl Api {
    /// True if requests of `version` are decoded.
    pub fn accepts(&self, version: i16) -> bool {
        self.accepted_min <= version && version <= self.max
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::protocol::VersionRange;

    use super::*;

    #[test]
    fn every_accepted_version_is_one_the_envelope_decoder_knows() {
        for api in APIS {
            let known: VersionRange = api.key.valid_versions();
            assert!(known.min <= api.accepted_min && api.max <= known.max, "{api:?} {known:?}");
            assert!(api.advertised_min <= api.accepted_min, "{api:?}");
        }
    }

    #[test]
    fn keys_are_ordered_and_unique() {
        assert!(APIS.windows(2).all(|pair| (pair[0].key as i16) < pair[1].key as i16));
    }

    #[test]
    fn produce_is_advertised_from_zero_and_accepted_from_three() {
        let produce = find(0).unwrap();
        assert_eq!(produce.advertised_min, 0);
        assert!(!produce.accepts(2) && produce.accepts(3) && !produce.accepts(10));
        assert_eq!(find(11), None, "groups are not advertised before they work");
    }
}
