//! The shapes of request bodies: which fields each version has, in order (source: the message
//! definitions of Apache Kafka 4.1).

use kafka_protocol::messages::ApiKey;

/// How a field is laid out.
pub(super) enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// A string, nullable or not.
    Str,
    /// A byte string with a four-byte length, nullable or not.
    Bytes,
    /// An array of plain values.
    Items(&'static Kind),
    /// An array of structures, each with its own tagged fields in flexible versions.
    Structs(&'static [Field]),
}

/// A field and the versions that have it, both inclusive.
pub(super) struct Field {
    pub(super) kind: Kind,
    pub(super) since: i16,
    pub(super) until: i16,
}

/// A whole request body.
pub(super) struct Shape {
    /// First version with compact lengths and tagged fields.
    pub(super) flexible_from: i16,
    pub(super) fields: &'static [Field],
    /// Tagged fields of the top level that the decoder reads by type.
    pub(super) known_tags: &'static [(u32, Kind)],
}

const BOOL: Kind = Kind::Fixed(1);
const I8: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const I32S: Kind = Kind::Items(&I32);
const STRS: Kind = Kind::Items(&Kind::Str);

const fn all(kind: Kind) -> Field {
    between(0, i16::MAX, kind)
}

const fn from(since: i16, kind: Kind) -> Field {
    between(since, i16::MAX, kind)
}

const fn between(since: i16, until: i16, kind: Kind) -> Field {
    Field { kind, since, until }
}

const fn plain(flexible_from: i16, fields: &'static [Field]) -> Shape {
    Shape { flexible_from, fields, known_tags: &[] }
}

static API_VERSIONS: Shape = plain(3, &[from(3, Kind::Str), from(3, Kind::Str)]);

/// Never flexible.
static SASL_HANDSHAKE: Shape = plain(i16::MAX, &[all(Kind::Str)]);

static SASL_AUTHENTICATE: Shape = plain(2, &[all(Kind::Bytes)]);

static METADATA: Shape = plain(
    9,
    &[
        all(Kind::Structs(&[from(10, UUID), all(Kind::Str)])),
        from(4, BOOL),
        between(8, 10, BOOL),
        from(8, BOOL),
    ],
);

static PRODUCE: Shape = plain(
    9,
    &[
        all(Kind::Str),
        all(I16),
        all(I32),
        all(Kind::Structs(&[
            between(0, 12, Kind::Str),
            from(13, UUID),
            all(Kind::Structs(&[all(I32), all(Kind::Bytes)])),
        ])),
    ],
);

static FETCH: Shape = Shape {
    flexible_from: 12,
    fields: &[
        between(0, 14, I32),
        all(I32),
        all(I32),
        all(I32),
        all(I8),
        from(7, I32),
        from(7, I32),
        all(Kind::Structs(&[
            between(0, 12, Kind::Str),
            from(13, UUID),
            all(Kind::Structs(&[
                all(I32),
                from(9, I32),
                all(I64),
                from(12, I32),
                from(5, I64),
                all(I32),
            ])),
        ])),
        from(7, Kind::Structs(&[between(7, 12, Kind::Str), from(13, UUID), from(7, I32S)])),
        from(11, Kind::Str),
    ],
    known_tags: &[(0, Kind::Str)],
};

static LIST_OFFSETS: Shape = plain(
    6,
    &[
        all(I32),
        from(2, I8),
        all(Kind::Structs(&[
            all(Kind::Str),
            all(Kind::Structs(&[all(I32), from(4, I32), all(I64)])),
        ])),
        from(10, I32),
    ],
);

static INIT_PRODUCER_ID: Shape = plain(2, &[all(Kind::Str), all(I32), from(3, I64), from(3, I16)]);

static FIND_COORDINATOR: Shape = plain(3, &[between(0, 3, Kind::Str), from(1, I8), from(4, STRS)]);

static CREATE_TOPICS: Shape = plain(
    5,
    &[
        all(Kind::Structs(&[
            all(Kind::Str),
            all(I32),
            all(I16),
            all(Kind::Structs(&[all(I32), all(I32S)])),
            all(Kind::Structs(&[all(Kind::Str), all(Kind::Str)])),
        ])),
        all(I32),
        all(BOOL),
    ],
);

static DELETE_TOPICS: Shape = plain(
    4,
    &[from(6, Kind::Structs(&[all(Kind::Str), all(UUID)])), between(0, 5, STRS), all(I32)],
);

static CREATE_PARTITIONS: Shape = plain(
    2,
    &[
        all(Kind::Structs(&[all(Kind::Str), all(I32), all(Kind::Structs(&[all(I32S)]))])),
        all(I32),
        all(BOOL),
    ],
);

static DESCRIBE_CONFIGS: Shape = plain(
    4,
    &[all(Kind::Structs(&[all(I8), all(Kind::Str), all(STRS)])), all(BOOL), from(3, BOOL)],
);

static ALTER_CONFIGS: Shape = plain(
    2,
    &[
        all(Kind::Structs(&[
            all(I8),
            all(Kind::Str),
            all(Kind::Structs(&[all(Kind::Str), all(Kind::Str)])),
        ])),
        all(BOOL),
    ],
);

static INCREMENTAL_ALTER_CONFIGS: Shape = plain(
    1,
    &[
        all(Kind::Structs(&[
            all(I8),
            all(Kind::Str),
            all(Kind::Structs(&[all(Kind::Str), all(I8), all(Kind::Str)])),
        ])),
        all(BOOL),
    ],
);

static DESCRIBE_CLUSTER: Shape = plain(0, &[all(BOOL), from(1, I8), from(2, BOOL)]);

/// The shape of the requests of `api`, if it is one of ours.
pub(super) fn shape(api: ApiKey) -> Option<&'static Shape> {
    Some(match api {
        ApiKey::ApiVersions => &API_VERSIONS,
        ApiKey::SaslHandshake => &SASL_HANDSHAKE,
        ApiKey::SaslAuthenticate => &SASL_AUTHENTICATE,
        ApiKey::Metadata => &METADATA,
        ApiKey::Produce => &PRODUCE,
        ApiKey::Fetch => &FETCH,
        ApiKey::ListOffsets => &LIST_OFFSETS,
        ApiKey::InitProducerId => &INIT_PRODUCER_ID,
        ApiKey::FindCoordinator => &FIND_COORDINATOR,
        ApiKey::CreateTopics => &CREATE_TOPICS,
        ApiKey::DeleteTopics => &DELETE_TOPICS,
        ApiKey::CreatePartitions => &CREATE_PARTITIONS,
        ApiKey::DescribeConfigs => &DESCRIBE_CONFIGS,
        ApiKey::AlterConfigs => &ALTER_CONFIGS,
        ApiKey::IncrementalAlterConfigs => &INCREMENTAL_ALTER_CONFIGS,
        ApiKey::DescribeCluster => &DESCRIBE_CLUSTER,
        _ => return None,
    })
}
