//! The only mapping from Floe's errors to Kafka's error codes
//! (source: `org.apache.kafka.common.protocol.Errors`).

use crate::log::AppendError;
use crate::log::ReadError;
use crate::record::ProduceRefusal;
use crate::topic;

/// A code of Kafka's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum ErrorCode {
    /// A defect of the server.
    UnknownServerError = -1,
    /// Success.
    None = 0,
    /// Fetch below the log start or above the end.
    OffsetOutOfRange = 1,
    /// A batch fails its CRC; retriable.
    CorruptMessage = 2,
    /// No such topic or partition; retriable.
    UnknownTopicOrPartition = 3,
    /// The partition has no leader at the moment; retriable.
    LeaderNotAvailable = 5,
    /// The batch is larger than `max.message.bytes`.
    MessageTooLarge = 10,
    /// Transactions and groups have no coordinator; retriable.
    CoordinatorNotAvailable = 15,
    /// The topic name is illegal.
    InvalidTopicException = 17,
    /// `acks` is none of -1, 0, 1.
    InvalidRequiredAcks = 21,
    /// The principal may not do this to the topic.
    TopicAuthorizationFailed = 29,
    /// The principal may not do this to the cluster.
    ClusterAuthorizationFailed = 31,
    /// A record timestamp is outside the topic's bounds.
    InvalidTimestamp = 32,
    /// A mechanism other than PLAIN.
    UnsupportedSaslMechanism = 33,
    /// A SASL request out of turn.
    IllegalSaslState = 34,
    /// An ApiVersions request of an unknown version.
    UnsupportedVersion = 35,
    /// The topic exists.
    TopicAlreadyExists = 36,
    /// A partition count out of bounds.
    InvalidPartitions = 37,
    /// A replication factor that cannot be.
    InvalidReplicationFactor = 38,
    /// A manual assignment that cannot be.
    InvalidReplicaAssignment = 39,
    /// An option is unknown or its value is refused.
    InvalidConfig = 40,
    /// The request contradicts itself.
    InvalidRequest = 42,
    /// A limit of the server.
    PolicyViolation = 44,
    /// KIP-98.
    OutOfOrderSequenceNumber = 45,
    /// KIP-98, KIP-360.
    InvalidProducerEpoch = 47,
    /// A transactional batch outside of a transaction.
    InvalidTxnState = 48,
    /// The disk is full or failed; retriable.
    KafkaStorageError = 56,
    /// The password is no token that holds.
    SaslAuthenticationFailed = 58,
    /// The client knows an older leader epoch.
    FencedLeaderEpoch = 74,
    /// The client knows a newer leader epoch.
    UnknownLeaderEpoch = 75,
    /// A batch is compressed in a way that the version does not have.
    UnsupportedCompressionType = 76,
    /// The batch breaks a rule.
    InvalidRecord = 87,
    /// No topic with that id; retriable.
    UnknownTopicId = 100,
    /// A broker was asked for controllers (KIP-919).
    MismatchedEndpointType = 114,
    /// The kind of endpoint is unknown (KIP-919).
    UnsupportedEndpointType = 115,
}

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }
}

impl From<&AppendError> for ErrorCode {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::UnknownPartition => Self::UnknownTopicOrPartition,
            AppendError::OutOfOrderSequence => Self::OutOfOrderSequenceNumber,
            AppendError::InvalidProducerEpoch => Self::InvalidProducerEpoch,
            // Retriable without a limit other than the client's delivery time-out.
            AppendError::StorageFull(_) | AppendError::Blocked(_) => Self::KafkaStorageError,
            AppendError::TooLarge { .. } => Self::MessageTooLarge,
            // The partition comes back when the broker does.
            AppendError::Closed => Self::LeaderNotAvailable,
        }
    }
}

impl From<&ReadError> for ErrorCode {
    fn from(error: &ReadError) -> Self {
        match error {
            ReadError::UnknownPartition => Self::UnknownTopicOrPartition,
            ReadError::OutOfRange { .. } => Self::OffsetOutOfRange,
            ReadError::Corrupt(_) => Self::CorruptMessage,
            ReadError::Io(_) => Self::KafkaStorageError,
        }
    }
}

impl From<&ProduceRefusal> for ErrorCode {
    fn from(refusal: &ProduceRefusal) -> Self {
        match refusal {
            ProduceRefusal::Malformed(_) | ProduceRefusal::Crc { .. } => Self::CorruptMessage,
            ProduceRefusal::TooLarge { .. } => Self::MessageTooLarge,
            ProduceRefusal::Codec(_) => Self::UnsupportedCompressionType,
            ProduceRefusal::TimestampType | ProduceRefusal::Timestamp { .. } => {
                Self::InvalidTimestamp
            }
            ProduceRefusal::Empty
            | ProduceRefusal::Magic(_)
            | ProduceRefusal::Trailing { .. }
            | ProduceRefusal::BaseOffset(_)
            | ProduceRefusal::Count { .. }
            | ProduceRefusal::Control
            | ProduceRefusal::Sequence { .. } => Self::InvalidRecord,
        }
    }
}

impl From<&topic::Error> for ErrorCode {
    fn from(error: &topic::Error) -> Self {
        match error {
            topic::Error::InvalidName(_) => Self::InvalidTopicException,
            topic::Error::Exists(_) => Self::TopicAlreadyExists,
            topic::Error::Unknown(_) => Self::UnknownTopicOrPartition,
            topic::Error::UnknownId(_) => Self::UnknownTopicId,
            topic::Error::InvalidPartitions(_) => Self::InvalidPartitions,
            topic::Error::InvalidConfig(_) => Self::InvalidConfig,
            topic::Error::PolicyViolation(_) | topic::Error::Kept(_) => Self::PolicyViolation,
            topic::Error::TableForbidden(_) | topic::Error::TopicForbidden(_) => {
                Self::TopicAuthorizationFailed
            }
            topic::Error::Store(_) => Self::KafkaStorageError,
        }
    }
}
