//! From a frame to its handler: header, version, guard, decode, and the way back.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::{Decodable, Encodable};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::auth::{Auth, Operation, Principal, Refusal, Resource};
use crate::kafka::api::{self, Api};
use crate::kafka::codec::{self, RequestHeader, ResponseFrame};
use crate::kafka::connection::{Dispatch, Reply, Stage2, Standing};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::fault::Fault;
use crate::kafka::guard;
use crate::kafka::handler::{self, ItemError};
use crate::kafka::options::Options;
use crate::kafka::sasl::{self, Mechanism, PlainError, Stage};
use crate::log::Log;
use crate::runtime::metrics as names;
use crate::runtime::{ByteBudget, Clock};
use crate::topic::Topics;
use crate::topic::rights::MayWrite;

/// The parts of the broker that the wire talks to; cheap to clone.
#[derive(Clone)]
pub struct Deps {
    /// All partitions.
    pub log: Log,
    /// All topics.
    pub topics: Topics,
    /// All tokens.
    pub auth: Auth,
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
    pub fn new(log: Log, topics: Topics, auth: Auth, clock: Clock, options: Options) -> Self {
        let fetched = ByteBudget::new(options.fetch_bytes_in_flight_max);
        let opening = Arc::new(Semaphore::new(OPENED_AT_ONCE));
        Self { log, topics, auth, clock, options: Arc::new(options), fetched, opening }
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
    /// Who sends the request.
    pub(crate) principal: Principal,
}

impl Context {
    /// Checks the right to do `operation` to a topic.
    ///
    /// # Errors
    /// TOPIC_AUTHORIZATION_FAILED, with the rule that is missing.
    pub(crate) fn check_topic(&self, operation: Operation, name: &str) -> Result<(), ItemError> {
        self.check(operation, Resource::Topic(name), ErrorCode::TopicAuthorizationFailed)
    }

    /// Checks the right to make a topic.
    ///
    /// # Errors
    /// TOPIC_AUTHORIZATION_FAILED, with the rule that is missing.
    pub(crate) fn check_create_topic(&self, name: &str) -> Result<(), ItemError> {
        if self.principal.may_create_topic(name) {
            return Ok(());
        }
        self.check_topic(Operation::Create, name)
    }

    /// What a topic may lead to if they say so.
    pub(crate) fn may_write(&self) -> MayWrite {
        let principal = &self.principal;
        MayWrite { tables: principal.may_write_tables(), topics: principal.may_write_topics() }
    }

    /// Checks the right to do `operation` to the cluster.
    ///
    /// # Errors
    /// CLUSTER_AUTHORIZATION_FAILED, with the rule that is missing.
    pub(crate) fn check_cluster(&self, operation: Operation) -> Result<(), ItemError> {
        self.check(operation, Resource::Cluster, ErrorCode::ClusterAuthorizationFailed)
    }

    fn check(
        &self,
        operation: Operation,
        resource: Resource<'_>,
        code: ErrorCode,
    ) -> Result<(), ItemError> {
        if self.principal.may(operation, resource) {
            return Ok(());
        }
        refused("forbidden");
        let rule = format!("{}:{resource}", operation.as_str());
        let name = self.principal.name();
        Err(ItemError::new(code, format!("token {name:?} lacks the rule {rule}")))
    }
}

fn refused(reason: &'static str) {
    metrics::counter!(names::AUTH_FAILURES, "side" => "kafka", "reason" => reason).increment(1);
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
    state: Mutex<State>,
}

struct State {
    context: Arc<Context>,
    stage: Stage,
}

/// How long a wrong password waits for its answer (`connection.failed.authentication.delay.ms`).
const FAILURE_DELAY: Duration = Duration::from_millis(100);

impl Dispatcher {
    pub(crate) fn new(deps: Deps, session: Session) -> Self {
        let context = Arc::new(Context { deps, session, principal: Principal::anonymous() });
        Self { state: Mutex::new(State { context, stage: Stage::Initial }) }
    }

    /// Refuses what a client may not ask before it said who it is, and all that it asks once its
    /// token is over.
    fn admit_client(&self, api: ApiKey) -> Result<Arc<Context>, Fault> {
        let state = self.state.lock();
        let context = &state.context;
        let auth = &context.deps.auth;
        if matches!(api, ApiKey::ApiVersions | ApiKey::SaslHandshake) {
            return Ok(Arc::clone(context));
        }
        let is_due = match state.stage {
            Stage::Initial => auth.is_required() || api == ApiKey::SaslAuthenticate,
            Stage::Chosen { .. } => api != ApiKey::SaslAuthenticate,
            Stage::Done => false,
            Stage::Failed => true,
        };
        if is_due {
            refused("missing");
            return Err(Fault::Unauthenticated(codec::name(api)));
        }
        // Who is about to say who it is, is nobody yet.
        let is_yet_to_say = matches!(state.stage, Stage::Chosen { .. });
        if !(is_yet_to_say && context.principal.is_anonymous()) {
            auth.recheck(&context.principal).map_err(Fault::SessionOver)?;
        }
        Ok(Arc::clone(context))
    }

    /// Decodes a request and makes the future that answers it when its turn comes.
    fn later<Q, R, H, F>(
        context: Arc<Context>,
        call: Call,
        body: Bytes,
        handler: H,
    ) -> Result<Stage2, Fault>
    where
        Q: Decodable,
        R: Encodable + Send,
        H: FnOnce(Arc<Context>, i16, Q) -> F,
        F: Future<Output = R> + Send + 'static,
    {
        let request: Q = codec::decode(call.api, call.version, body)?;
        let answer = handler(context, call.version, request);
        let reply: Reply = Box::pin(async move {
            let response = answer.await;
            codec::encode(call, &response).map(Some)
        });
        Ok(Stage2 { reply, parks: false })
    }

    async fn route(&self, context: Arc<Context>, call: Call, body: Bytes) -> Result<Stage2, Fault> {
        use handler::{
            alter_configs, api_versions, create_partitions, create_topics, delete_topics,
            describe_cluster, describe_configs, fetch, find_coordinator, incremental_alter_configs,
            init_producer_id, list_offsets, metadata, produce,
        };
        match call.api {
            ApiKey::Produce => produce::start(&context, call, body).await,
            ApiKey::Fetch => fetch::start(&context, call, body),
            ApiKey::SaslHandshake => self.handshake(call, body),
            ApiKey::SaslAuthenticate => self.authenticate(call, body).await,
            ApiKey::ListOffsets => Self::later(context, call, body, list_offsets::handle),
            ApiKey::Metadata => Self::later(context, call, body, metadata::handle),
            ApiKey::FindCoordinator => Self::later(context, call, body, find_coordinator::handle),
            ApiKey::ApiVersions => Self::later(context, call, body, api_versions::handle),
            ApiKey::CreateTopics => Self::later(context, call, body, create_topics::handle),
            ApiKey::DeleteTopics => Self::later(context, call, body, delete_topics::handle),
            ApiKey::InitProducerId => Self::later(context, call, body, init_producer_id::handle),
            ApiKey::DescribeConfigs => Self::later(context, call, body, describe_configs::handle),
            ApiKey::AlterConfigs => Self::later(context, call, body, alter_configs::handle),
            ApiKey::CreatePartitions => Self::later(context, call, body, create_partitions::handle),
            ApiKey::IncrementalAlterConfigs => {
                Self::later(context, call, body, incremental_alter_configs::handle)
            }
            ApiKey::DescribeCluster => Self::later(context, call, body, describe_cluster::handle),
            other => Err(Fault::UnsupportedApi(other as i16)),
        }
    }

    fn handshake(&self, call: Call, body: Bytes) -> Result<Stage2, Fault> {
        let request: SaslHandshakeRequest = codec::decode(call.api, call.version, body)?;
        let mut state = self.state.lock();
        let (response, next) = handler::sasl_handshake::answer(state.stage, call.version, &request);
        state.stage = next;
        if next == Stage::Failed {
            let client = state.context.session.client;
            tracing::warn!(%client, "kafka client asked for another SASL mechanism than PLAIN and OAUTHBEARER");
        }
        ready(codec::encode(call, &response))
    }

    async fn authenticate(&self, call: Call, body: Bytes) -> Result<Stage2, Fault> {
        let request: SaslAuthenticateRequest = codec::decode(call.api, call.version, body)?;
        let stage = self.state.lock().stage;
        let Stage::Chosen { mechanism, .. } = stage else {
            return ready(codec::encode(call, &handler::sasl_authenticate::out_of_turn()));
        };
        match self.check_credential(mechanism, &request.auth_bytes).await {
            // A refusal would be final for clients; whose connection ends comes again.
            Err(error @ PlainError::Refused(Refusal::Unavailable)) => {
                Err(Fault::WrongPassword(error))
            }
            Ok(()) => ready(codec::encode(call, &handler::sasl_authenticate::accepted())),
            Err(error) => {
                let client = self.state.lock().context.session.client;
                tracing::warn!(%client, %error, "kafka authentication failed");
                let frame = codec::encode(call, &handler::sasl_authenticate::refused(error))?;
                let reply: Reply = Box::pin(async move {
                    tokio::time::sleep(FAILURE_DELAY).await;
                    Ok(Some(frame))
                });
                Ok(Stage2 { reply, parks: false })
            }
        }
    }

    /// The message of a mechanism without a header, after SaslHandshake version 0. The right one is
    /// answered with nothing in a frame, a wrong one with the end.
    async fn authenticate_bare(
        &self,
        mechanism: Mechanism,
        message: &[u8],
    ) -> Result<Stage2, Fault> {
        match self.check_credential(mechanism, message).await {
            Ok(()) => ready(Ok(ResponseFrame {
                chunks: vec![Bytes::from_static(&[0; 4])],
                permits: Vec::new(),
            })),
            Err(error) => {
                tokio::time::sleep(FAILURE_DELAY).await;
                Err(Fault::WrongPassword(error))
            }
        }
    }

    async fn check_credential(
        &self,
        mechanism: Mechanism,
        message: &[u8],
    ) -> Result<(), PlainError> {
        let auth = self.state.lock().context.deps.auth.clone();
        let authenticated = sasl::authenticate(&auth, mechanism, message).await;
        let mut state = self.state.lock();
        match authenticated {
            Ok(principal) => {
                let (deps, session) = (state.context.deps.clone(), state.context.session.clone());
                state.context = Arc::new(Context { deps, session, principal });
                state.stage = Stage::Done;
                Ok(())
            }
            Err(error) => {
                state.stage = Stage::Failed;
                refused(error.label());
                Err(error)
            }
        }
    }
}

fn ready(frame: Result<ResponseFrame, Fault>) -> Result<Stage2, Fault> {
    let reply: Reply = Box::pin(std::future::ready(Ok(Some(frame?))));
    Ok(Stage2 { reply, parks: false })
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
        let stage = self.state.lock().stage;
        if let Stage::Chosen { mechanism, bare: true } = stage {
            return self.authenticate_bare(mechanism, &frame).await;
        }
        let header = codec::peek_header(&frame)?;
        let call = match admit(&header) {
            Ok((_, call)) => call,
            Err(Some(fault)) => return Err(fault),
            Err(None) => {
                return ready(handler::api_versions::unknown_version(header.correlation_id));
            }
        };
        let context = self.admit_client(call.api)?;
        let api = codec::name(call.api);
        codec::split_header(&mut frame, call)?;
        guard::check(call.api, call.version, &frame).map_err(|source| Fault::Guard {
            api,
            version: call.version,
            source,
        })?;
        metrics::counter!(names::KAFKA_REQUESTS, "api" => api).increment(1);
        tracing::trace!(
            client = %context.session.client,
            api,
            version = call.version,
            correlation_id = call.correlation_id,
            "kafka request"
        );
        self.route(context, call, frame).await
    }

    fn standing(&self) -> Standing {
        let state = self.state.lock();
        match state.stage {
            Stage::Failed => Standing::Refused,
            Stage::Done => Standing::Known,
            Stage::Initial | Stage::Chosen { .. } if state.context.deps.auth.is_required() => {
                Standing::Stranger
            }
            Stage::Initial | Stage::Chosen { .. } => Standing::Known,
        }
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
