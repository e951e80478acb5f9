//! Why a connection is closed.

use std::io;

use crate::auth::Refusal;
use crate::kafka::guard::GuardError;
use crate::kafka::sasl::PlainError;

/// A reason to close a connection. Everything a response can say is said in a response instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The size in front of a frame is negative or above the limit.
    #[error("request frame of {size} bytes is outside 0..={max}{hint}")]
    FrameSize {
        /// As sent.
        size: i32,
        /// The limit.
        max: usize,
        /// What the bytes look like when they are no Kafka frame.
        hint: &'static str,
    },
    /// The frame cannot be a request.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// A length in the body does not fit (see [`GuardError`]).
    #[error("malformed request of {api} version {version}: {source}")]
    Guard {
        /// Name of the API.
        api: &'static str,
        /// Version of the request.
        version: i16,
        /// What does not fit.
        source: GuardError,
    },
    /// The body does not decode (null where none is allowed, bad UTF-8).
    #[error("undecodable request of {api} version {version}: {reason}")]
    Undecodable {
        /// Name of the API.
        api: &'static str,
        /// Version of the request.
        version: i16,
        /// The decoder's text.
        reason: String,
    },
    /// The API is not among those that ApiVersions lists.
    #[error("unsupported api key {0}")]
    UnsupportedApi(i16),
    /// The version is outside of what is accepted; most responses cannot say so
    /// (source: `SocketServer` closes too).
    #[error("unsupported version {version} of {api}")]
    UnsupportedVersion {
        /// Name of the API.
        api: &'static str,
        /// Version of the request.
        version: i16,
    },
    /// With `acks=0` closing is the only way to tell (source: `KafkaApis.handleProduceRequest`).
    #[error("produce with acks=0 failed with error code {0}")]
    UnackedProduceFailed(i16),
    /// A request before the client said who it is (source: `SaslServerAuthenticator` closes too).
    #[error(
        "{0} before authentication: the client must use security.protocol=SASL_PLAINTEXT (or SASL_SSL \
         through a TLS proxy), sasl.mechanism=PLAIN and a token as password"
    )]
    Unauthenticated(&'static str),
    /// A wrong password where no answer can say so.
    #[error("authentication failed: {0}")]
    WrongPassword(PlainError),
    /// The token of the connection is over.
    #[error("the session is over: {0}")]
    SessionOver(Refusal),
    /// A response could not be encoded: a defect of ours.
    #[error("response of {api} version {version} cannot be encoded: {reason}")]
    Encode {
        /// Name of the API.
        api: &'static str,
        /// Version of the response.
        version: i16,
        /// The encoder's text.
        reason: String,
    },
    /// The client left in the middle of a frame.
    #[error("the client closed the connection inside a request frame")]
    Truncated,
    /// No request for the idle time.
    #[error("idle")]
    Idle,
    /// A frame or a response makes no progress.
    #[error("{0} makes no progress")]
    Stalled(&'static str),
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Fault {
    /// A short fixed name for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::FrameSize { .. } => "frame_size",
            Self::Malformed(_) | Self::Guard { .. } | Self::Undecodable { .. } => "malformed",
            Self::UnsupportedApi(_) => "unsupported_api",
            Self::UnsupportedVersion { .. } => "unsupported_version",
            Self::UnackedProduceFailed(_) => "acks_0",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::WrongPassword(_) => "wrong_password",
            Self::SessionOver(_) => "session_over",
            Self::Encode { .. } => "encode",
            Self::Truncated => "truncated",
            Self::Idle => "idle",
            Self::Stalled(_) => "stalled",
            Self::Io(_) => "io",
        }
    }

    /// True where an operator should read it: the peer is no proper client, or we have a defect.
    pub(crate) fn is_notable(&self) -> bool {
        !matches!(self, Self::Truncated | Self::Idle | Self::Io(_) | Self::UnackedProduceFailed(_))
    }
}
