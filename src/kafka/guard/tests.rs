//! The guard against the envelope library: what the library encodes passes, and whatever passes the
//! library decodes without a lie about lengths. A forged length would abort the test process.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::kafka::api::APIS;

/// Writes random requests of any API and version.
struct Writer {
    rng: StdRng,
    version: i16,
}

impl Writer {
    fn len(&mut self) -> usize {
        self.rng.random_range(0..4)
    }

    fn text(&mut self) -> StrBytes {
        let len = if self.rng.random_bool(0.1) { 300 } else { self.len() };
        StrBytes::from_string("é".repeat(len))
    }

    fn name(&mut self) -> TopicName {
        TopicName(self.text())
    }

    fn maybe_text(&mut self) -> Option<StrBytes> {
        self.rng.random_bool(0.7).then(|| self.text())
    }

    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.len()).map(|_| one(self)).collect()
    }

    fn bytes(&mut self) -> Option<Bytes> {
        self.rng.random_bool(0.8).then(|| Bytes::from(vec![9; self.rng.random_range(0..300)]))
    }

    fn ids(&mut self) -> Vec<BrokerId> {
        self.many(|w| BrokerId(w.rng.random()))
    }

    fn request(&mut self, api: ApiKey) -> BytesMut {
        match api {
            ApiKey::Produce => self.produce(),
            ApiKey::Fetch => self.fetch(),
            ApiKey::ListOffsets => self.list_offsets(),
            ApiKey::Metadata => self.metadata(),
            ApiKey::CreateTopics => self.create_topics(),
            ApiKey::DeleteTopics => self.delete_topics(),
            ApiKey::CreatePartitions => self.create_partitions(),
            ApiKey::DescribeConfigs => self.describe_configs(),
            ApiKey::AlterConfigs => self.alter_configs(),
            ApiKey::IncrementalAlterConfigs => self.incremental_alter_configs(),
            other => self.small(other),
        }
    }

    fn encode(&self, request: &impl Encodable) -> BytesMut {
        let mut out = BytesMut::new();
        request.encode(&mut out, self.version).unwrap();
        out
    }

    fn small(&mut self, api: ApiKey) -> BytesMut {
        let version = self.version;
        match api {
            ApiKey::ApiVersions => {
                let mut request = ApiVersionsRequest::default();
                if version >= 3 {
                    request.client_software_name = self.text();
                    request.client_software_version = self.text();
                    request.unknown_tagged_fields = self.tags();
                }
                self.encode(&request)
            }
            ApiKey::SaslHandshake => {
                let mechanism = self.text();
                self.encode(&SaslHandshakeRequest::default().with_mechanism(mechanism))
            }
            ApiKey::SaslAuthenticate => {
                let bytes = self.bytes().unwrap_or_default();
                let mut request = SaslAuthenticateRequest::default().with_auth_bytes(bytes);
                if version >= 2 {
                    request.unknown_tagged_fields = self.tags();
                }
                self.encode(&request)
            }
            ApiKey::InitProducerId => {
                let id = self.maybe_text().map(TransactionalId);
                self.encode(&InitProducerIdRequest::default().with_transactional_id(id))
            }
            ApiKey::FindCoordinator => {
                let mut request = FindCoordinatorRequest::default();
                if version >= 4 {
                    request.coordinator_keys = self.many(Self::text);
                } else {
                    request.key = self.text();
                }
                self.encode(&request)
            }
            ApiKey::DescribeCluster => {
                let request =
                    DescribeClusterRequest::default().with_unknown_tagged_fields(self.tags());
                self.encode(&request)
            }
            other => panic!("no writer for {other:?}"),
        }
    }

    fn tags(&mut self) -> std::collections::BTreeMap<i32, Bytes> {
        self.many(|w| (w.rng.random_range(100..100_000), Bytes::from(vec![1; w.len() * 70])))
            .into_iter()
            .collect()
    }

    fn produce(&mut self) -> BytesMut {
        use produce_request::{PartitionProduceData, TopicProduceData};
        let mut request = ProduceRequest::default();
        request.transactional_id = self.maybe_text().map(TransactionalId);
        request.topic_data = self.many(|w| {
            TopicProduceData::default().with_name(w.name()).with_partition_data(
                w.many(|w| PartitionProduceData::default().with_records(w.bytes())),
            )
        });
        if self.version >= 9 {
            request.unknown_tagged_fields = self.tags();
        }
        self.encode(&request)
    }

    fn fetch(&mut self) -> BytesMut {
        use fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
        let version = self.version;
        let mut request = FetchRequest::default().with_max_bytes(7);
        request.topics = self.many(|w| {
            FetchTopic::default()
                .with_topic(w.name())
                .with_partitions(w.many(|_| FetchPartition::default().with_fetch_offset(1)))
        });
        if version >= 7 {
            request.forgotten_topics_data = self.many(|w| {
                ForgottenTopic::default()
                    .with_topic(w.name())
                    .with_partitions(w.many(|w| w.rng.random()))
            });
        }
        if version >= 11 {
            request.rack_id = self.text();
        }
        if version >= 12 {
            request.cluster_id = self.maybe_text();
            request.unknown_tagged_fields = self.tags();
        }
        self.encode(&request)
    }

    fn list_offsets(&mut self) -> BytesMut {
        use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
        let mut request = ListOffsetsRequest::default();
        request.topics = self.many(|w| {
            ListOffsetsTopic::default()
                .with_name(w.name())
                .with_partitions(w.many(|_| ListOffsetsPartition::default()))
        });
        self.encode(&request)
    }

    fn metadata(&mut self) -> BytesMut {
        use metadata_request::MetadataRequestTopic;
        let version = self.version;
        let mut request = MetadataRequest::default();
        let topics = self.many(|w| {
            let mut topic = MetadataRequestTopic::default().with_name(Some(w.name()));
            if version >= 10 {
                topic.topic_id = uuid::Uuid::from_u128(w.rng.random());
                topic.name = w.maybe_text().map(TopicName);
            }
            topic
        });
        request.topics = (version == 0 || self.rng.random_bool(0.8)).then_some(topics);
        self.encode(&request)
    }

    fn create_topics(&mut self) -> BytesMut {
        use create_topics_request::{
            CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
        };
        let mut request = CreateTopicsRequest::default();
        request.topics = self.many(|w| {
            CreatableTopic::default()
                .with_name(w.name())
                .with_assignments(
                    w.many(|w| CreatableReplicaAssignment::default().with_broker_ids(w.ids())),
                )
                .with_configs(w.many(|w| {
                    CreatableTopicConfig::default().with_name(w.text()).with_value(w.maybe_text())
                }))
        });
        self.encode(&request)
    }

    fn delete_topics(&mut self) -> BytesMut {
        use delete_topics_request::DeleteTopicState;
        let mut request = DeleteTopicsRequest::default();
        if self.version >= 6 {
            request.topics =
                self.many(|w| DeleteTopicState::default().with_name(w.maybe_text().map(TopicName)));
        } else {
            request.topic_names = self.many(Self::name);
        }
        self.encode(&request)
    }

    fn create_partitions(&mut self) -> BytesMut {
        use create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
        let mut request = CreatePartitionsRequest::default();
        request.topics = self.many(|w| {
            let list = w.many(|w| CreatePartitionsAssignment::default().with_broker_ids(w.ids()));
            let list = w.rng.random_bool(0.7).then_some(list);
            CreatePartitionsTopic::default().with_name(w.name()).with_assignments(list)
        });
        self.encode(&request)
    }

    fn describe_configs(&mut self) -> BytesMut {
        use describe_configs_request::DescribeConfigsResource;
        let mut request = DescribeConfigsRequest::default();
        request.resources = self.many(|w| {
            let keys = w.many(Self::text);
            let keys = w.rng.random_bool(0.7).then_some(keys);
            DescribeConfigsResource::default()
                .with_resource_name(w.text())
                .with_configuration_keys(keys)
        });
        self.encode(&request)
    }

    fn alter_configs(&mut self) -> BytesMut {
        use alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let mut request = AlterConfigsRequest::default();
        request.resources = self.many(|w| {
            AlterConfigsResource::default().with_resource_name(w.text()).with_configs(w.many(|w| {
                AlterableConfig::default().with_name(w.text()).with_value(w.maybe_text())
            }))
        });
        self.encode(&request)
    }

    fn incremental_alter_configs(&mut self) -> BytesMut {
        use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let mut request = IncrementalAlterConfigsRequest::default();
        request.resources = self.many(|w| {
            AlterConfigsResource::default().with_resource_name(w.text()).with_configs(w.many(|w| {
                AlterableConfig::default().with_name(w.text()).with_value(w.maybe_text())
            }))
        });
        self.encode(&request)
    }
}

/// Decodes with the library; true if it accepts, with the bytes it left.
fn decode(api: ApiKey, version: i16, body: &[u8]) -> Option<usize> {
    fn run<R: Decodable>(version: i16, body: &[u8]) -> Option<usize> {
        let mut body = Bytes::copy_from_slice(body);
        R::decode(&mut body, version).ok().map(|_| body.len())
    }
    match api {
        ApiKey::Produce => run::<ProduceRequest>(version, body),
        ApiKey::Fetch => run::<FetchRequest>(version, body),
        ApiKey::ListOffsets => run::<ListOffsetsRequest>(version, body),
        ApiKey::Metadata => run::<MetadataRequest>(version, body),
        ApiKey::FindCoordinator => run::<FindCoordinatorRequest>(version, body),
        ApiKey::SaslHandshake => run::<SaslHandshakeRequest>(version, body),
        ApiKey::SaslAuthenticate => run::<SaslAuthenticateRequest>(version, body),
        ApiKey::ApiVersions => run::<ApiVersionsRequest>(version, body),
        ApiKey::CreateTopics => run::<CreateTopicsRequest>(version, body),
        ApiKey::DeleteTopics => run::<DeleteTopicsRequest>(version, body),
        ApiKey::InitProducerId => run::<InitProducerIdRequest>(version, body),
        ApiKey::DescribeConfigs => run::<DescribeConfigsRequest>(version, body),
        ApiKey::AlterConfigs => run::<AlterConfigsRequest>(version, body),
        ApiKey::CreatePartitions => run::<CreatePartitionsRequest>(version, body),
        ApiKey::IncrementalAlterConfigs => run::<IncrementalAlterConfigsRequest>(version, body),
        ApiKey::DescribeCluster => run::<DescribeClusterRequest>(version, body),
        other => panic!("no decoder for {other:?}"),
    }
}

fn versions() -> impl Iterator<Item = (ApiKey, i16)> {
    APIS.iter().flat_map(|api| (api.accepted_min..=api.max).map(|version| (api.key, version)))
}

#[test]
fn every_request_that_the_library_encodes_passes() {
    for (api, version) in versions() {
        for seed in 0..200 {
            let mut writer = Writer { rng: StdRng::seed_from_u64(seed), version };
            let body = writer.request(api);
            assert_eq!(check(api, version, &body), Ok(0), "{api:?} {version} seed {seed}");
            assert_eq!(decode(api, version, &body), Some(0), "{api:?} {version} seed {seed}");
        }
    }
}

#[test]
fn a_trailing_byte_is_let_pass_and_a_missing_one_is_refused() {
    for (api, version) in versions() {
        let mut writer = Writer { rng: StdRng::seed_from_u64(5), version };
        let mut body = writer.request(api);
        body.extend_from_slice(&[0]);
        assert_eq!(check(api, version, &body), Ok(1), "{api:?} {version}");
        body.truncate(body.len() - 1);
        if !body.is_empty() {
            assert!(check(api, version, &body[..body.len() - 1]).is_err(), "{api:?} {version}");
        }
    }
}

#[test]
fn forged_array_lengths_are_refused() {
    let short = Err(GuardError::Short);
    assert_eq!(check(ApiKey::Metadata, 9, &[0xff, 0xff, 0xff, 0xff, 0x0f]), short);
    assert_eq!(check(ApiKey::Metadata, 1, &[0x7f, 0xff, 0xff, 0xff]), short);
    assert_eq!(check(ApiKey::Metadata, 1, &[0xff, 0, 0, 0]), Err(GuardError::Negative));
    let long = [0xff, 0xff, 0xff, 0xff, 0x1f];
    assert_eq!(check(ApiKey::Metadata, 9, &long), Err(GuardError::Varint));
}

#[test]
fn the_number_of_elements_is_bounded_over_the_whole_request() {
    // Metadata version 1: names of no characters, two bytes each.
    let request = |count: usize| {
        let mut body = BytesMut::new();
        body.extend_from_slice(&(count as i32).to_be_bytes());
        body.resize(4 + 2 * count, 0);
        body
    };
    assert_eq!(check(ApiKey::Metadata, 1, &request(ELEMENTS_MAX)), Ok(0));
    let many = request(ELEMENTS_MAX + 1);
    assert_eq!(check(ApiKey::Metadata, 1, &many), Err(GuardError::Elements));
}

#[test]
fn a_known_tag_must_fill_its_size() {
    let mut writer = Writer { rng: StdRng::seed_from_u64(1), version: 12 };
    let request = FetchRequest::default().with_cluster_id(Some("abc".into()));
    let good = writer.encode(&request);
    assert_eq!(check(ApiKey::Fetch, 12, &good), Ok(0));
    // The tag's size stands before its four bytes: length plus one, and "abc".
    let mut bad = good.clone();
    let at = bad.len() - 5;
    assert_eq!(bad[at], 4);
    bad[at] = 3;
    assert_eq!(check(ApiKey::Fetch, 12, &bad), Err(GuardError::Tag));
    let _ = writer.len();
}

/// What passes the guard the library either refuses or decodes to the same byte; it never aborts.
fn hold(api: ApiKey, version: i16, body: &[u8]) -> Result<(), TestCaseError> {
    if check(api, version, body).is_ok()
        && let Some(left) = decode(api, version, body)
    {
        prop_assert_eq!(Ok(left), check(api, version, body));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_never_abort(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (api, version) in versions() {
            hold(api, version, &body)?;
        }
    }

    #[test]
    fn mutated_requests_never_abort(
        seed in any::<u64>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        for (api, version) in versions() {
            let mut writer = Writer { rng: StdRng::seed_from_u64(seed), version };
            let mut body = writer.request(api);
            if body.is_empty() {
                continue;
            }
            for (at, byte) in &edits {
                let at = at.index(body.len());
                // Near the ends of the range lie the lengths that hurt.
                body[at] = if byte % 3 == 0 { 0xff } else { *byte };
            }
            hold(api, version, &body)?;
            hold(api, version, &body[..cut.index(body.len())])?;
        }
    }
}
