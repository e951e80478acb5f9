//! From the bytes of a request to its events: first the way down to each record, counted and
//! bounded and with nothing of it decoded, then one record after another as the engine asks for
//! them. Pure.
//!
//! ```text
//! logs     resource_logs    > scope_logs    > log_records
//! traces   resource_spans   > scope_spans   > spans
//! metrics  resource_metrics > scope_metrics > metrics > gauge | sum | ... > data_points
//! ```

use std::ops::Range;

use bytes::Bytes;
use prost::Message;
use serde::de::DeserializeOwned;

use crate::http::ingest::event::{Event, Source};
use crate::http::otlp::encoding::{Encoding, MESSAGE_BYTES_MAX, Member, member};
use crate::http::otlp::flatten::{self, Flatten};
use crate::http::otlp::model::{LogRecord, Span};
use crate::http::otlp::object::Object;
use crate::http::otlp::points::{
    Aggregation, ExponentialPoint, HistogramPoint, Metric, NumberPoint, SummaryPoint,
};
use crate::http::problem::{EventError, Problem};
use crate::types::Signal;

const RESOURCE: Member = member(1, "resource");
const SCOPE: Member = member(1, "scope");
const POINTS: Member = member(1, "dataPoints");

/// The members on the way down: groups of a resource, groups of a scope, records.
fn way(signal: Signal) -> [Member; 3] {
    match signal {
        Signal::Logs => {
            [member(1, "resourceLogs"), member(2, "scopeLogs"), member(2, "logRecords")]
        }
        Signal::Traces => [member(1, "resourceSpans"), member(2, "scopeSpans"), member(2, "spans")],
        Signal::Metrics => {
            [member(1, "resourceMetrics"), member(2, "scopeMetrics"), member(2, "metrics")]
        }
    }
}

/// What a record is decoded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Log,
    Span,
    Gauge,
    Sum,
    Histogram,
    Exponential,
    Summary,
}

/// The types of a metric: member, kind, name.
const METRIC_KINDS: [(Member, Kind, &str); 5] = [
    (member(5, "gauge"), Kind::Gauge, "gauge"),
    (member(7, "sum"), Kind::Sum, "sum"),
    (member(9, "histogram"), Kind::Histogram, "histogram"),
    (member(10, "exponentialHistogram"), Kind::Exponential, "exponential_histogram"),
    (member(11, "summary"), Kind::Summary, "summary"),
];

/// What a request may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Records, and on each level of the way to them as much.
    pub(crate) events_max: usize,
    /// All records, each with what it shares with others, bytes.
    pub(crate) bytes_max: usize,
}

/// Members that records share: of a resource, and under it of a scope, and under it of a metric.
#[derive(Debug, Default, Clone, Copy)]
struct Shared {
    resource: usize,
    scope: usize,
    metric: Option<usize>,
}

#[derive(Debug)]
struct Record {
    kind: Kind,
    range: Range<usize>,
    shared: Shared,
}

/// The records of a request.
pub(crate) struct Records {
    body: Bytes,
    encoding: Encoding,
    records: Vec<Record>,
    /// Members of resources, scopes and metrics, which [`Shared`] counts.
    shared: Vec<Vec<u8>>,
    /// Of all records, each with what it shares with others.
    size_bytes: usize,
}

/// The way down, under way.
struct Walk<'b> {
    body: &'b [u8],
    encoding: Encoding,
    limits: Limits,
    /// How many more messages there may be.
    left: usize,
    /// Of all records so far, bytes.
    bytes: usize,
    records: Vec<Record>,
    shared: Vec<Vec<u8>>,
}

/// A message that is small enough to be decoded.
fn decode<M>(encoding: Encoding, bytes: &[u8]) -> Result<M, (&'static str, String)>
where
    M: Message + Default + DeserializeOwned,
{
    if bytes.len() > MESSAGE_BYTES_MAX {
        let message = format!("{} bytes are more than {MESSAGE_BYTES_MAX}", bytes.len());
        return Err(("too_large", message));
    }
    encoding.decode(bytes).map_err(|message| ("invalid_otlp", message))
}

impl<'b> Walk<'b> {
    fn each(&mut self, message: &'b [u8], member: Member) -> Result<Vec<&'b [u8]>, Problem> {
        let found = self.encoding.each(message, member, self.limits.events_max)?;
        // Each level may have as many as there may be records.
        self.left = self.left.checked_sub(found.len()).ok_or_else(|| self.too_many())?;
        Ok(found)
    }

    fn too_many(&self) -> Problem {
        let detail = format!("there are more than {} records; send less", self.limits.events_max);
        Problem::new("too_large", detail)
    }

    /// Keeps members that records share, and says which they are.
    fn share<M>(
        &mut self,
        message: Option<&[u8]>,
        members: impl FnOnce(&M) -> Vec<u8>,
    ) -> Result<usize, Problem>
    where
        M: Message + Default + DeserializeOwned,
    {
        let decoded = message.map(|bytes| decode::<M>(self.encoding, bytes)).transpose();
        let decoded = decoded.map_err(|(code, message)| match code {
            "too_large" => Problem::new("too_large", message),
            _ => Problem::new("bad_request", message),
        })?;
        self.shared.push(members(&decoded.unwrap_or_default()));
        Ok(self.shared.len() - 1)
    }

    fn down(&mut self, signal: Signal) -> Result<(), Problem> {
        let [resources, scopes, records] = way(signal);
        for group in self.each(self.body, resources)? {
            let [resource] = self.encoding.pick(group, [RESOURCE])?;
            let resource = self.share(resource, flatten::resource)?;
            for group in self.each(group, scopes)? {
                let [scope] = self.encoding.pick(group, [SCOPE])?;
                let scope = self.share(scope, flatten::scope)?;
                let shared = Shared { resource, scope, metric: None };
                for record in self.each(group, records)? {
                    match signal {
                        Signal::Logs => self.record(Kind::Log, record, shared)?,
                        Signal::Traces => self.record(Kind::Span, record, shared)?,
                        Signal::Metrics => self.metric(record, shared)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn metric(&mut self, message: &'b [u8], shared: Shared) -> Result<(), Problem> {
        let found = self.encoding.pick(message, METRIC_KINDS.map(|(member, ..)| member))?;
        let data = found
            .into_iter()
            .zip(METRIC_KINDS)
            .find_map(|(data, (_, kind, name))| Some((data?, kind, name)));
        // A metric without points.
        let Some((data, kind, name)) = data else { return Ok(()) };
        let bad = |message: String| Problem::new("bad_request", message);
        let metric: Metric = self.encoding.decode(message).map_err(bad)?;
        let aggregation: Option<Aggregation> = match kind {
            Kind::Gauge | Kind::Summary => None,
            _ => Some(self.encoding.decode(data).map_err(bad)?),
        };
        let is_sum = kind == Kind::Sum;
        self.shared.push(flatten::metric(&metric, name, aggregation.as_ref(), is_sum));
        let shared = Shared { metric: Some(self.shared.len() - 1), ..shared };
        for point in self.each(data, POINTS)? {
            self.record(kind, point, shared)?;
        }
        Ok(())
    }

    fn record(&mut self, kind: Kind, record: &'b [u8], shared: Shared) -> Result<(), Problem> {
        if self.records.len() == self.limits.events_max {
            return Err(self.too_many());
        }
        let part = |at: usize| self.shared[at].len();
        let beside = part(shared.resource) + part(shared.scope) + shared.metric.map_or(0, part);
        self.bytes += record.len() + beside;
        if self.bytes > self.limits.bytes_max {
            let detail = format!(
                "the records, each with its resource and scope, have more than {} bytes; send less",
                self.limits.bytes_max
            );
            return Err(Problem::new("too_large", detail));
        }
        let start = record.as_ptr() as usize - self.body.as_ptr() as usize;
        self.records.push(Record { kind, range: start..start + record.len(), shared });
        Ok(())
    }
}

impl Records {
    /// Finds the records of a body.
    ///
    /// # Errors
    /// `bad_request`: it is no request of this kind; `too_large`: it is above the limits.
    pub(crate) fn new(
        body: Bytes,
        encoding: Encoding,
        signal: Signal,
        limits: Limits,
    ) -> Result<Self, Problem> {
        let left = limits.events_max.saturating_mul(4);
        let (records, shared) = (Vec::new(), Vec::new());
        let mut walk = Walk { body: &body, encoding, limits, left, bytes: 0, records, shared };
        walk.down(signal)?;
        let Walk { records, shared, bytes: size_bytes, .. } = walk;
        Ok(Self { body, encoding, records, shared, size_bytes })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// True if there is nothing to store.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Writes a record with all that it shares with others.
    fn write(&self, record: &Record, out: &mut Vec<u8>) -> Result<(), (&'static str, String)> {
        out.clear();
        let bytes = &self.body[record.range.clone()];
        match record.kind {
            Kind::Log => self.write_as::<LogRecord>(bytes, record.shared, out),
            Kind::Span => self.write_as::<Span>(bytes, record.shared, out),
            Kind::Gauge | Kind::Sum => self.write_as::<NumberPoint>(bytes, record.shared, out),
            Kind::Histogram => self.write_as::<HistogramPoint>(bytes, record.shared, out),
            Kind::Exponential => self.write_as::<ExponentialPoint>(bytes, record.shared, out),
            Kind::Summary => self.write_as::<SummaryPoint>(bytes, record.shared, out),
        }
    }

    fn write_as<M>(
        &self,
        bytes: &[u8],
        shared: Shared,
        out: &mut Vec<u8>,
    ) -> Result<(), (&'static str, String)>
    where
        M: Message + Default + DeserializeOwned + Flatten,
    {
        let message: M = decode(self.encoding, bytes)?;
        let mut object = Object::begin(out);
        if let Some(metric) = shared.metric {
            object.raw(&self.shared[metric]);
        }
        message.flatten(&mut object);
        object.raw(&self.shared[shared.resource]);
        object.raw(&self.shared[shared.scope]);
        object.end();
        Ok(())
    }
}

impl Source for Records {
    fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        let record = self.records.get(error.index);
        record.map(|record| &self.body[record.range.clone()]).unwrap_or_default()
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        let mut out = Vec::new();
        for (index, record) in self.records.iter().enumerate() {
            let offset_bytes = record.range.start;
            match self.write(record, &mut out) {
                Ok(()) => {
                    take(Ok(Event { index, offset_bytes, value: Some(&out), ..Event::default() }));
                }
                Err((code, message)) => {
                    take(Err(EventError { index, offset_bytes, field: None, code, message }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
