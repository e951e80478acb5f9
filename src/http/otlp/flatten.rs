//! A log record, a span or a metric point as one flat JSON object: its own members, then those of
//! the metric, the resource and the scope that it came under. Pure.

use crate::http::otlp::model::{LogRecord, Resource, Scope, Span, SpanEvent, SpanLink};
use crate::http::otlp::object::Object;
use crate::http::otlp::points::{
    Aggregation, Buckets, Exemplar, ExponentialPoint, HistogramPoint, Metric, NumberPoint,
    SummaryPoint,
};

/// Doubles are exact up to here.
const EXACT_MAX: u64 = 1 << 53;

/// `SpanKind`, without its prefix.
const SPAN_KINDS: [&str; 6] =
    ["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
/// `StatusCode`, without its prefix.
const STATUS_CODES: [&str; 3] = ["UNSET", "OK", "ERROR"];
/// `AggregationTemporality`, without its prefix.
const TEMPORALITIES: [&str; 3] = ["UNSPECIFIED", "DELTA", "CUMULATIVE"];

/// What a message flattens to, besides what is shared.
pub(super) trait Flatten {
    fn flatten(&self, object: &mut Object<'_>);
}

/// The name of an enumeration's value, or its number where it is of a later version.
fn named(names: &[&str], number: i32) -> String {
    let name = usize::try_from(number).ok().and_then(|at| names.get(at));
    name.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// Flags, if one is set.
fn flags(object: &mut Object<'_>, flags: u32) {
    object.dropped("flags", flags);
}

impl Flatten for LogRecord {
    fn flatten(&self, object: &mut Object<'_>) {
        object.time("timestamp", self.time_unix_nano);
        object.time("observed_timestamp", self.observed_time_unix_nano);
        if self.severity_number != 0 {
            object.plain("severity_number", self.severity_number);
        }
        object.text("severity_text", &self.severity_text);
        object.text("event_name", &self.event_name);
        object.value("body", self.body.as_ref());
        object.attributes("attributes", &self.attributes);
        object.dropped("dropped_attributes_count", self.dropped_attributes_count);
        flags(object, self.flags);
        object.id("trace_id", &self.trace_id);
        object.id("span_id", &self.span_id);
    }
}

impl Flatten for Span {
    fn flatten(&self, object: &mut Object<'_>) {
        object.time("timestamp", self.start_time_unix_nano);
        object.time("end_timestamp", self.end_time_unix_nano);
        object.id("trace_id", &self.trace_id);
        object.id("span_id", &self.span_id);
        object.id("parent_span_id", &self.parent_span_id);
        object.text("trace_state", &self.trace_state);
        object.text("name", &self.name);
        object.text("kind", &named(&SPAN_KINDS, self.kind));
        flags(object, self.flags);
        let status = self.status.clone().unwrap_or_default();
        object.text("status_code", &named(&STATUS_CODES, status.code));
        object.text("status_message", &status.message);
        object.attributes("attributes", &self.attributes);
        object.dropped("dropped_attributes_count", self.dropped_attributes_count);
        object.objects("events", &self.events, SpanEvent::flatten);
        object.dropped("dropped_events_count", self.dropped_events_count);
        object.objects("links", &self.links, SpanLink::flatten);
        object.dropped("dropped_links_count", self.dropped_links_count);
    }
}

impl Flatten for SpanEvent {
    fn flatten(&self, object: &mut Object<'_>) {
        object.time("timestamp", self.time_unix_nano);
        object.text("name", &self.name);
        object.attributes("attributes", &self.attributes);
        object.dropped("dropped_attributes_count", self.dropped_attributes_count);
    }
}

impl Flatten for SpanLink {
    fn flatten(&self, object: &mut Object<'_>) {
        object.id("trace_id", &self.trace_id);
        object.id("span_id", &self.span_id);
        object.text("trace_state", &self.trace_state);
        object.attributes("attributes", &self.attributes);
        object.dropped("dropped_attributes_count", self.dropped_attributes_count);
        flags(object, self.flags);
    }
}

/// A number that is measured as one or the other. A column has one type, so it is always a double;
/// whole numbers that a double does not hold exactly are there a second time.
fn number(object: &mut Object<'_>, as_double: Option<f64>, as_int: Option<i64>) {
    if let Some(number) = as_double {
        object.double("value", number);
    } else if let Some(number) = as_int {
        object.double("value", number as f64);
        if number.unsigned_abs() > EXACT_MAX {
            object.plain("value_int", number);
        }
    }
}

fn optional_double(object: &mut Object<'_>, name: &str, number: Option<f64>) {
    if let Some(number) = number {
        object.double(name, number);
    }
}

impl Flatten for NumberPoint {
    fn flatten(&self, object: &mut Object<'_>) {
        object.time("start_timestamp", self.start_time_unix_nano);
        object.time("timestamp", self.time_unix_nano);
        number(object, self.as_double, self.as_int);
        object.attributes("attributes", &self.attributes);
        flags(object, self.flags);
        object.objects("exemplars", &self.exemplars, Exemplar::flatten);
    }
}

impl Flatten for HistogramPoint {
    fn flatten(&self, object: &mut Object<'_>) {
        object.time("start_timestamp", self.start_time_unix_nano);
        object.time("timestamp", self.time_unix_nano);
        object.plain("count", self.count);
        optional_double(object, "sum", self.sum);
        optional_double(object, "min", self.min);
        optional_double(object, "max", self.max);
        if !self.bucket_counts.is_empty() {
            object.plain("bucket_counts", &self.bucket_counts);
        }
        object.doubles("explicit_bounds", &self.explicit_bounds);
        object.attributes("attributes", &self.attributes);
        flags(object, self.flags);
        object.objects("exemplars", &self.exemplars, Exemplar::flatten);
    }
}

impl Flatten for ExponentialPoint {
    fn flatten(&self, object: &mut Object<'_>) {
        object.time("start_timestamp", self.start_time_unix_nano);
        object.time("timestamp", self.time_unix_nano);
        object.plain("count", self.count);
        optional_double(object, "sum", self.sum);
        optional_double(object, "min", self.min);
        optional_double(object, "max", self.max);
        object.plain("scale", self.scale);
        object.plain("zero_count", self.zero_count);
        object.double("zero_threshold", self.zero_threshold);
        for (name, buckets) in [("positive", &self.positive), ("negative", &self.negative)] {
            if let Some(buckets) = buckets {
                object.object(name, |object| buckets.flatten(object));
            }
        }
        object.attributes("attributes", &self.attributes);
        flags(object, self.flags);
        object.objects("exemplars", &self.exemplars, Exemplar::flatten);
    }
}

impl Flatten for Buckets {
    fn flatten(&self, object: &mut Object<'_>) {
        object.plain("offset", self.offset);
        if !self.bucket_counts.is_empty() {
            object.plain("bucket_counts", &self.bucket_counts);
        }
    }
}

impl Flatten for SummaryPoint {
    fn flatten(&self, object: &mut Object<'_>) {
        object.time("start_timestamp", self.start_time_unix_nano);
        object.time("timestamp", self.time_unix_nano);
        object.plain("count", self.count);
        object.double("sum", self.sum);
        object.objects("quantile_values", &self.quantile_values, |quantile, object| {
            object.double("quantile", quantile.quantile);
            object.double("value", quantile.value);
        });
        object.attributes("attributes", &self.attributes);
        flags(object, self.flags);
    }
}

impl Flatten for Exemplar {
    fn flatten(&self, object: &mut Object<'_>) {
        object.time("timestamp", self.time_unix_nano);
        number(object, self.as_double, self.as_int);
        object.id("trace_id", &self.trace_id);
        object.id("span_id", &self.span_id);
        object.attributes("attributes", &self.filtered_attributes);
    }
}

/// The members that all records of a resource share.
pub(super) fn resource(resource: &Resource) -> Vec<u8> {
    let mut members = Vec::new();
    Object::members(&mut members).attributes("resource", &resource.attributes);
    members
}

/// The members that all records of a scope share.
pub(super) fn scope(scope: &Scope) -> Vec<u8> {
    let mut members = Vec::new();
    if *scope != Scope::default() {
        Object::members(&mut members).object("scope", |object| {
            object.text("name", &scope.name);
            object.text("version", &scope.version);
            object.attributes("attributes", &scope.attributes);
        });
    }
    members
}

/// The members that all points of a metric share. `aggregation` has what its type has of it.
pub(super) fn metric(
    metric: &Metric,
    kind: &str,
    aggregation: Option<&Aggregation>,
    is_sum: bool,
) -> Vec<u8> {
    let mut members = Vec::new();
    let mut object = Object::members(&mut members);
    object.text("metric_name", &metric.name);
    object.text("metric_description", &metric.description);
    object.text("metric_unit", &metric.unit);
    object.text("metric_type", kind);
    if let Some(aggregation) = aggregation {
        let temporality = named(&TEMPORALITIES, aggregation.aggregation_temporality);
        object.text("aggregation_temporality", &temporality);
        if is_sum {
            object.plain("is_monotonic", aggregation.is_monotonic);
        }
    }
    object.end();
    members
}
