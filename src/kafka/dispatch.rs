//! From a frame to its handler: header, version, guard, decode, and the way back.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Encodable};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::kafka::api::{self, Api};
use crate::kafka::codec::{self, RequestHeader};
use crate::kafka::connection::{Dispatch, Reply, Stage2};
use crate::kafka::fault::Fault;
use crate::kafka::guard;
use crate::kafka::handler;
use crate::kafka::options::Options;
use crate::log::Log;
use crate::runtime::metrics as names;
use crate::runtime::{ByteBudget, Clock};
use crate::topic::Topics;

/// The parts of the broker that the wire talks to; cheap to clone.
#[derive(Clone)]
pub struct Deps {
    /// All partitions.
    pub log: Log,
    /// All topics.
    pub topics: Topics,
    /// Wall-clock time, for the timestamp bounds of topics.
    pub clock: Clock,
    /// Limits and names.
    pub options: Arc<Options>,
    /// Bytes of fetched record batches that are not written yet.
    pub(crate) fetched: ByteBudget,
    /// The right to open a batch of a compacted topic.
    pub(crate) opening: Arc<Semaphore>,
}

/// Batches that are decompressed at once to look at their keys: one may take
/// [`crate::record::CAP_BYTES_MAX`].
const OPENED_AT_ONCE: usize = 2;

impl Deps {
    /// Puts the parts together.
    pub fn new(log: Log, topics: Topics, clock: Clock, options: Options) -> Self {
        let fetched = ByteBudget::new(options.fetch_bytes_in_flight_max);
        let opening = Arc::new(Semaphore::new(OPENED_AT_ONCE));
        Self { log, topics, clock, options: Arc::new(options), fetched, opening }
    }
}

/// What is known of the connection that a request came from.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The peer.
    pub(crate) client: SocketAddr,
    /// Host that this client is told to connect to.
    pub(crate) host: String,
    /// Port that this client is told to connect to.
    pub(crate) port: i32,
    /// Fires when nobody will read a late answer.
    pub(crate) closing: CancellationToken,
}

/// What handlers get besides their request.
pub(crate) struct Context {
    pub(crate) deps: Deps,
    pub(crate) session: Session,
}

/// One request, as its answer needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
}

/// Dispatches the requests of one connection.
pub(crate) struct Dispatcher {
    context: Arc<Context>,
}

impl Dispatcher {
    pub(crate) fn new(deps: Deps, session: Session) -> Self {
        Self { context: Arc::new(Context { deps, session }) }
    }

    /// Decodes a request and makes the future that answers it when its turn comes.
    fn later<Q, R, H, F>(&self, call: Call, body: Bytes, handler: H) -> Result<Stage2, Fault>
    where
        Q: Decodable,
        R: Encodable + Send,
        H: FnOnce(Arc<Context>, i16, Q) -> F,
        F: Future<Output = R> + Send + 'static,
    {
        let request: Q = codec::decode(call.api, call.version, body)?;
        let answer = handler(Arc::clone(&self.context), call.version, request);
        let reply: Reply = Box::pin(async move {
            let response = answer.await;
            codec::encode(call, &response).map(Some)
        });
        Ok(Stage2 { reply, parks: false })
    }

    async fn route(&self, call: Call, body: Bytes) -> Result<Stage2, Fault> {
        match call.api {
            ApiKey::Produce => handler::produce::start(&self.context, call, body).await,
            ApiKey::Fetch => handler::fetch::start(&self.context, call, body),
            ApiKey::ListOffsets => self.later(call, body, handler::list_offsets::handle),
            ApiKey::Metadata => self.later(call, body, handler::metadata::handle),
            ApiKey::FindCoordinator => self.later(call, body, handler::find_coordinator::handle),
            ApiKey::ApiVersions => self.later(call, body, handler::api_versions::handle),
            ApiKey::CreateTopics => self.later(call, body, handler::create_topics::handle),
            ApiKey::DeleteTopics => self.later(call, body, handler::delete_topics::handle),
            ApiKey::InitProducerId => self.later(call, body, handler::init_producer_id::handle),
            ApiKey::DescribeConfigs => self.later(call, body, handler::describe_configs::handle),
            ApiKey::AlterConfigs => self.later(call, body, handler::alter_configs::handle),
            ApiKey::CreatePartitions => self.later(call, body, handler::create_partitions::handle),
            ApiKey::IncrementalAlterConfigs => {
                self.later(call, body, handler::incremental_alter_configs::handle)
            }
            ApiKey::DescribeCluster => self.later(call, body, handler::describe_cluster::handle),
            other => Err(Fault::UnsupportedApi(other as i16)),
        }
    }
}

/// Finds out what a frame asks for. `Err(None)`: an ApiVersions request of an unknown version, which
/// has an answer of its own (KIP-511).
pub(crate) fn admit(header: &RequestHeader) -> Result<(&'static Api, Call), Option<Fault>> {
    let Some(api) = api::find(header.api_key) else {
        return Err(Some(Fault::UnsupportedApi(header.api_key)));
    };
    let call =
        Call { api: api.key, version: header.version, correlation_id: header.correlation_id };
    if api.accepts(header.version) {
        Ok((api, call))
    } else if api.key == ApiKey::ApiVersions {
        Err(None)
    } else {
        Err(Some(Fault::UnsupportedVersion { api: codec::name(api.key), version: header.version }))
    }
}

impl Dispatch for Dispatcher {
    async fn dispatch(&self, mut frame: Bytes) -> Result<Stage2, Fault> {
        let header = codec::peek_header(&frame)?;
        let call = match admit(&header) {
            Ok((_, call)) => call,
            Err(Some(fault)) => return Err(fault),
            Err(None) => {
                let frame = handler::api_versions::unknown_version(header.correlation_id)?;
                let reply: Reply = Box::pin(std::future::ready(Ok(Some(frame))));
                return Ok(Stage2 { reply, parks: false });
            }
        };
        let api = codec::name(call.api);
        codec::split_header(&mut frame, call)?;
        guard::check(call.api, call.version, &frame).map_err(|source| Fault::Guard {
            api,
            version: call.version,
            source,
        })?;
        metrics::counter!(names::KAFKA_REQUESTS, "api" => api).increment(1);
        tracing::trace!(
            client = %self.context.session.client,
            api,
            version = call.version,
            correlation_id = call.correlation_id,
            "kafka request"
        );
        self.route(call, frame).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(api_key: i16, version: i16) -> RequestHeader {
        RequestHeader { api_key, version, correlation_id: 7 }
    }

    #[test]
    fn only_listed_apis_and_accepted_versions_are_admitted() {
        assert!(admit(&header(0, 9)).is_ok());
        assert!(matches!(admit(&header(0, 2)), Err(Some(Fault::UnsupportedVersion { .. }))));
        assert!(matches!(admit(&header(11, 0)), Err(Some(Fault::UnsupportedApi(11)))));
        assert!(matches!(admit(&header(-5, 0)), Err(Some(Fault::UnsupportedApi(-5)))));
        assert!(matches!(admit(&header(18, 99)), Err(None)));
        assert!(matches!(admit(&header(18, -1)), Err(None)));
    }
}
