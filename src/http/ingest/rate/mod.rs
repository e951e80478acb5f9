//! Rates: how many requests and bytes a sender may send in a second, and a topic takes.
//!
//! Every route that takes events reads its body by [`Engine::read`], which looks at the limits
//! before it looks at the body; where who sends, or to which topics, stands in the body, the route
//! asks [`Engine::admit`] itself, before anything is stored. A request is within all limits that it
//! has, or takes of none. Bytes are counted as they are sent, because that is known before they
//! come.
//!
//! Owns: which limits a request has. Does not own: what a limit is (`bucket`), what an answer says
//! of it (`told`).

mod bucket;
mod told;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::http::auth::Caller;
use crate::http::ingest::body::{self, BodyMemory, Decoded, Share};
use crate::http::ingest::engine::Engine;
use crate::http::ingest::stranger;
use crate::http::problem::Problem;
use crate::runtime::metrics;
use crate::topic::options::TopicOptions;
use crate::types::{OwnRate, Rate};

use bucket::{Bucket, Time};
use told::{Limit, Told};

pub(in crate::http) use told::within;

/// How many of each kind are told apart; more of them share what one has.
const HOLDERS_MAX: usize = 16_384;
/// How often those that wait for nothing are forgotten,
const SWEEP: Duration = Duration::from_secs(60);
/// and while all places are taken.
const SWEEP_FULL: Duration = Duration::from_secs(1);
/// What a body without a length counts until more of it came, or it ended.
const UNKNOWN_BYTES: u64 = 8 << 10;
/// How a name begins that is an address.
const ADDRESS: &str = "address:";
/// Bounds of what a refused sender is told to wait.
const RETRY_S: (u64, u64) = (1, 30);

/// Whose limits they are. Each kind has places of its own: anybody may come from many addresses,
/// and takes none from senders that are known by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    Sender,
    Address,
    Topic,
    /// A topic, of what strangers send to it: they never keep out who has a token.
    TopicOfStrangers,
}

impl Whose {
    const ALL: [Self; 4] = [Self::Sender, Self::Address, Self::Topic, Self::TopicOfStrangers];
}

/// Who sends a request. Whoever shows nothing is known by the address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender<'s> {
    name: &'s str,
    own: OwnRate,
    is_stranger: bool,
}

impl<'s> Sender<'s> {
    /// Whoever has a token, by its name, or has none.
    pub(crate) fn of(caller: &'s Caller) -> Self {
        let own = caller.0.token().map_or_else(OwnRate::default, |token| token.rate);
        let name = caller.0.token().map_or("", |token| token.name.as_str());
        Self { name, own, is_stranger: caller.0.as_stranger().is_some() }
    }

    /// Whoever knows the secret of this source or webhook.
    pub(crate) fn named(name: &'s str) -> Self {
        Self { name, own: OwnRate::default(), is_stranger: false }
    }

    /// Whose limits a topic has for what this one sends.
    fn topics(self) -> Whose {
        if self.is_stranger { Whose::TopicOfStrangers } else { Whose::Topic }
    }
}

/// The topic that events go to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct To<'t> {
    topic: &'t str,
    rate: Rate,
    /// What is too much is answered with this status.
    status: u16,
}

impl<'t> To<'t> {
    /// The topic with the options that it has, or will have.
    pub(crate) fn of(topic: &'t str, options: &TopicOptions) -> Self {
        Self { topic, rate: options.rate, status: options.overload_status }
    }
}

/// The limits of one sender or topic.
struct Holder {
    whose: Whose,
    rate: Rate,
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Holder {
    fn new(whose: Whose, rate: Rate, time: &Time) -> Self {
        let bucket = |limit| NonZeroU64::new(limit).map(|limit| Bucket::new(limit, time));
        let (requests, bytes) = (bucket(u64::from(rate.requests)), bucket(rate.bytes));
        Self { whose, rate, requests, bytes }
    }

    /// Takes a request of so many bytes, or nothing; which limit refuses it, and how long.
    fn take(&self, bytes: u64) -> Result<(), (Limit, Duration)> {
        let [of_requests, of_bytes] = self.limits();
        if let Some(requests) = &self.requests {
            requests.take(1).map_err(|wait| (of_requests, wait))?;
        }
        let taken = self.bytes.as_ref().map_or(Ok(()), |bucket| bucket.take(bytes));
        taken.map_err(|wait| {
            self.requests.iter().for_each(|requests| requests.give_back(1));
            (of_bytes, wait)
        })
    }

    fn give_back(&self, bytes: u64) {
        self.requests.iter().for_each(|requests| requests.give_back(1));
        self.bytes.iter().for_each(|bucket| bucket.give_back(bytes));
    }

    fn limits(&self) -> [Limit; 2] {
        match self.whose {
            Whose::Sender | Whose::Address => [Limit::Requests, Limit::Bytes],
            Whose::Topic | Whose::TopicOfStrangers => [Limit::TopicRequests, Limit::TopicBytes],
        }
    }

    fn buckets(&self) -> impl Iterator<Item = (Limit, &Bucket)> {
        let buckets = [self.requests.as_ref(), self.bytes.as_ref()];
        self.limits().into_iter().zip(buckets).filter_map(|(limit, it)| Some((limit, it?)))
    }

    /// True if a new one would be the same, and nobody is about to take of it.
    fn is_idle(this: &Arc<Self>) -> bool {
        Arc::strong_count(this) == 1 && this.buckets().all(|(_, bucket)| bucket.is_full())
    }
}

/// The limits of all of a kind, by who it is.
struct Holders {
    whose: Whose,
    of: HashMap<u64, Arc<Holder>>,
    swept_ns: u64,
    time: Time,
}

impl Holders {
    fn known(&self, key: u64, rate: Rate) -> Option<Arc<Holder>> {
        self.of.get(&key).filter(|holder| holder.rate == rate).cloned()
    }

    /// The one of that key, or the one that all share who find no place; a rate that was changed
    /// begins anew.
    fn make(&mut self, (key, shared): (u64, u64), rate: Rate) -> Arc<Holder> {
        let now_ns = (self.time)();
        let is_full = |this: &Self| this.of.len() >= HOLDERS_MAX && !this.of.contains_key(&key);
        let pause = if is_full(self) { SWEEP_FULL } else { SWEEP };
        if now_ns - self.swept_ns >= pause.as_nanos() as u64 {
            self.of.retain(|_, holder| !Holder::is_idle(holder));
            self.swept_ns = now_ns;
        }
        // There are as many shared ones as there are rates, which only administrators make.
        let key = if is_full(self) { shared } else { key };
        self.known(key, rate).unwrap_or_else(|| {
            let holder = Arc::new(Holder::new(self.whose, rate, &self.time));
            self.of.insert(key, Arc::clone(&holder));
            holder
        })
    }
}

/// All limits.
pub(in crate::http::ingest) struct Limits {
    of_sender: Rate,
    /// What topics have that are not there yet: a rate and a status.
    of_new_topic: (Rate, u16),
    /// By [`Whose`].
    holders: [RwLock<Holders>; 4],
    hasher: RandomState,
}

/// What a request takes of one holder.
struct Want {
    holder: Arc<Holder>,
    bytes: u64,
}

/// What a request has taken; nothing where it has no limits.
struct Taken(Vec<Want>);

/// A body whose length is not known counts as it comes, so that those that begin meanwhile know of
/// it; however it ends, what came of it is what it has taken.
struct Credit {
    taken: Taken,
    came_bytes: u64,
}

impl Credit {
    fn came(&mut self, bytes: usize) {
        let had = self.came_bytes.max(UNKNOWN_BYTES);
        self.came_bytes = self.came_bytes.saturating_add(bytes as u64);
        self.taken.correct(had, self.came_bytes.max(UNKNOWN_BYTES));
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.taken.correct(self.came_bytes.max(UNKNOWN_BYTES), self.came_bytes);
        self.taken.tell(None);
    }
}

impl Limits {
    /// Senders have `of_sender`, unless they have a rate of their own.
    pub(in crate::http::ingest) fn new(of_sender: Rate, of_new_topic: &TopicOptions) -> Self {
        let start = Instant::now();
        let ns = move || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Self::within_time(of_sender, of_new_topic, Arc::new(ns))
    }

    fn within_time(of_sender: Rate, of_new_topic: &TopicOptions, time: Time) -> Self {
        let none = |whose| Holders {
            whose,
            of: HashMap::new(),
            swept_ns: time(),
            time: Arc::clone(&time),
        };
        Self {
            of_sender,
            of_new_topic: (of_new_topic.rate, of_new_topic.overload_status),
            holders: Whose::ALL.map(none).map(RwLock::new),
            hasher: RandomState::new(),
        }
    }

    fn holder(&self, whose: Whose, name: impl Hash, rate: Rate) -> Option<Arc<Holder>> {
        if rate == Rate::default() {
            return None;
        }
        let holders = &self.holders[whose as usize];
        let key = self.hasher.hash_one((whose, name));
        let known = holders.read().known(key, rate);
        Some(known.unwrap_or_else(|| {
            let shared = self.hasher.hash_one((whose, rate.requests, rate.bytes));
            holders.write().make((key, shared), rate)
        }))
    }

    fn of_sender(&self, sender: Sender<'_>) -> Option<Arc<Holder>> {
        let rate = self.of_sender.unless(sender.own);
        if sender.name.is_empty() {
            return self.holder(Whose::Address, told::peer().map(network), rate);
        }
        self.holder(Whose::Sender, sender.name, rate)
    }
}

/// Whoever sends no token, by the address that its rate is known by, in words that are no token's
/// name.
pub(in crate::http) fn address() -> String {
    let network = told::peer().map(|peer| network(peer).to_string());
    format!("{ADDRESS}{}", network.unwrap_or_default())
}

/// True if it is what [`address`] says of somebody.
pub(in crate::http) fn is_address(name: &str) -> bool {
    name.starts_with(ADDRESS)
}

/// What one sender has for itself: an address, or, of IPv6, a /64, which is the least that anybody
/// is given (source: RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
    }
}

impl Taken {
    /// Takes everything, or nothing.
    fn take(wants: Vec<Want>) -> Result<Self, Problem> {
        let refused = wants.iter().enumerate().find_map(|(at, Want { holder, bytes })| {
            let (limit, wait) = holder.take(*bytes).err()?;
            wants[..at].iter().for_each(|Want { holder, bytes }| holder.give_back(*bytes));
            Some((limit, wait, holder.rate))
        });
        let this = Self(wants);
        let Some((limit, wait, rate)) = refused else { return Ok(this) };
        this.tell(Some(limit));
        let name = limit.as_str();
        ::metrics::counter!(metrics::HTTP_RATE_LIMITED, "limit" => name).increment(1);
        let quota = match limit {
            Limit::Requests | Limit::TopicRequests => u64::from(rate.requests),
            Limit::Bytes | Limit::TopicBytes => rate.bytes,
        };
        let wait_s = u64::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX);
        let problem = Problem::new("rate_limited", limit.detail(quota));
        Err(problem.retry_after(wait_s.clamp(RETRY_S.0, RETRY_S.1)))
    }

    fn tell(&self, refused: Option<Limit>) {
        let buckets = self.0.iter().flat_map(|want| want.holder.buckets());
        for (limit, bucket) in buckets {
            told::note(Told { limit, left: bucket.left(), refuses: refused == Some(limit) });
        }
    }

    fn correct(&self, had: u64, has: u64) {
        for want in &self.0 {
            want.holder.bytes.iter().for_each(|bucket| bucket.correct(had, has));
        }
    }

    /// The same body, which counts as it comes and is told of when it is dropped.
    fn on_credit(self, body: Body) -> Body {
        if self.0.is_empty() {
            return body;
        }
        let mut credit = Credit { taken: self, came_bytes: 0 };
        Body::new(body.map_frame(move |frame| {
            credit.came(frame.data_ref().map_or(0, Bytes::len));
            frame
        }))
    }
}

impl Engine {
    /// The memory of a body of this sender; whoever shows nothing is known by the address.
    pub(crate) fn share_of(&self, sender: Sender<'_>) -> Share {
        let key = match sender.name {
            "" => self.limits.hasher.hash_one((Whose::Address, told::peer().map(network))),
            name => self.limits.hasher.hash_one((Whose::Sender, name)),
        };
        self.memory_of(sender).share_of(key)
    }

    /// The memory that bodies of this sender are held in.
    pub(in crate::http::ingest) fn memory_of(&self, sender: Sender<'_>) -> &BodyMemory {
        if sender.is_stranger { &self.strangers } else { self.memory() }
    }

    /// The topic that a request is for, which its first event may have to make.
    pub(crate) fn to<'t>(&self, topic: &'t str) -> To<'t> {
        match self.topics.get(topic) {
            Some(known) => To::of(topic, &known.options),
            None => {
                let (rate, status) = self.limits.of_new_topic;
                To { topic, rate, status }
            }
        }
    }

    /// Takes a request of `from` and so many bytes, which go to these topics, of all its limits. To
    /// be asked before anything of it is stored.
    ///
    /// # Errors
    /// `rate_limited`, with the status of the topic.
    pub(crate) fn admit(
        &self,
        from: Option<(Sender<'_>, u64)>,
        to: &[(To<'_>, u64)],
    ) -> Result<(), Problem> {
        self.take(from, to).map(|taken| taken.tell(None))
    }

    fn take(
        &self,
        from: Option<(Sender<'_>, u64)>,
        to: &[(To<'_>, u64)],
    ) -> Result<Taken, Problem> {
        let of_sender = from.and_then(|(sender, bytes)| {
            self.limits.of_sender(sender).map(|holder| Want { holder, bytes })
        });
        let whose = from.map_or(Whose::Topic, |(sender, _)| sender.topics());
        let of_topics = to.iter().filter_map(|(to, bytes)| {
            let holder = self.limits.holder(whose, to.topic, to.rate)?;
            Some(Want { holder, bytes: *bytes })
        });
        let wants = of_sender.into_iter().chain(of_topics).collect();
        let status = to.first().map_or(429, |(to, _)| to.status);
        Taken::take(wants).map_err(|problem| problem.overloaded_as(status))
    }

    /// Reads and decodes the body of a request that is within its limits; none is the topic that
    /// only the body tells.
    ///
    /// # Errors
    /// `rate_limited`, and as [`body::read`]; too much has the status of the topic.
    pub(crate) async fn read(
        &self,
        from: Sender<'_>,
        to: Option<To<'_>>,
        headers: &HeaderMap,
        body: Body,
        limit_bytes: usize,
    ) -> Result<Decoded, Problem> {
        let limit_bytes = match from.is_stranger {
            true => stranger::body_max(limit_bytes, to.map_or(0, |to| to.rate.bytes)),
            false => limit_bytes,
        };
        // What is announced beyond the limit will not be read; what a stranger announces says nothing.
        let declared = body::declared(headers).filter(|_| !from.is_stranger);
        let declared = declared.map(|bytes| bytes.min(limit_bytes) as u64);
        let bytes = declared.unwrap_or(UNKNOWN_BYTES);
        let topics = to.map(|to| (to, bytes));
        let body = match self.take(Some((from, bytes)), topics.as_slice()) {
            Ok(taken) if declared.is_none() => taken.on_credit(body),
            Ok(taken) => {
                taken.tell(None);
                body
            }
            Err(problem) => {
                return Err(Box::pin(body::refuse(headers, body, limit_bytes, problem)).await);
            }
        };
        let read = (self.memory_of(from), || self.share_of(from));
        let read = body::read_into(headers, body, limit_bytes, read).await;
        let bounded = |problem| match from.is_stranger {
            true => body::over(limit_bytes, problem),
            false => problem,
        };
        read.map_err(|problem| bounded(problem).overloaded_as(to.map_or(429, |to| to.status)))
    }
}

#[cfg(test)]
mod tests;
