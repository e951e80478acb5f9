//! Settings of sources and sinks: seven keys that anybody with a token may set, and one of Floe's own
//! for sinks, each shown with the value that it has and where that comes from. Pure.
//!
//! The import triggers say when rows are committed. Without a value at the sink they are the
//! source's, without one there the topic's options. The upload triggers are kept and do nothing: there
//! is no stage between the log and a commit. `sync.wait` says what an answer of the ingest route means.

use serde_json::{Map, Value, json};

use super::failure::{Failure, listed};
use crate::sink::{Triggers, Validate};

/// What all keys begin with that Keboola has; those that are not below are protected.
const PREFIXES: [&str; 2] = ["storage.", "sink."];
const KEYS: [Key; 8] = [
    Key(
        "storage.level.local.encoding.sync.wait",
        Kind::Wait,
        "An answer waits until the record is on the disk.",
    ),
    Key(
        "storage.level.staging.upload.trigger.count",
        Kind::Records(true),
        "Kept for clients: there is no stage before a commit.",
    ),
    Key(
        "storage.level.staging.upload.trigger.size",
        Kind::Bytes(true),
        "Kept for clients: there is no stage before a commit.",
    ),
    Key(
        "storage.level.staging.upload.trigger.interval",
        Kind::Lag(true),
        "Kept for clients: there is no stage before a commit.",
    ),
    Key(
        "storage.level.target.import.trigger.count",
        Kind::Records(false),
        "Records that start a commit to the table.",
    ),
    Key(
        "storage.level.target.import.trigger.size",
        Kind::Bytes(false),
        "Bytes of the log that start a commit to the table.",
    ),
    Key(
        "storage.level.target.import.trigger.interval",
        Kind::Lag(false),
        "Longest time until a record is in the table.",
    ),
    Key(
        "floe.validate",
        Kind::Validate,
        "When templates are run: commit, or sync (before an answer, which they can refuse).",
    ),
];

/// Longest duration that is read: about 30 years.
const DURATION_MS_MAX: i64 = 1_000_000_000_000;

struct Key(&'static str, Kind, &'static str);

/// Whose settings they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Source,
    Sink,
}

impl Of {
    fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |Key(_, kind, _)| self == Self::Sink || *kind != Kind::Validate)
    }
}

/// What a key holds; true beside it for the stage that there is not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Wait,
    Validate,
    Records(bool),
    Bytes(bool),
    Lag(bool),
}

/// The settings of a source or a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Settings {
    pub(super) commit: Triggers,
    pub(super) staging: Triggers,
    pub(super) wait: Option<bool>,
    /// Of sinks only.
    pub(super) validate: Option<Validate>,
}

impl Settings {
    /// What counts without a value of one's own: Keboola's figures for the stage, Floe's for the rest.
    pub(super) fn floor(lag_ms: Option<i64>, bytes: Option<u64>) -> Self {
        let commit = Triggers { lag_ms, bytes, records: None };
        let staging =
            Triggers { lag_ms: Some(30_000), bytes: Some(5 << 20), records: Some(10_000) };
        Self { commit, staging, wait: Some(true), validate: Some(Validate::Commit) }
    }

    /// These, and where they say nothing the others.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            commit: self.commit.or(other.commit),
            staging: self.staging.or(other.staging),
            wait: self.wait.or(other.wait),
            validate: self.validate.or(other.validate),
        }
    }

    /// As the API shows them; `defaults` is what counts where they say nothing.
    pub(super) fn shown(self, of: Of, defaults: Self) -> Value {
        let shown = of.keys().map(|Key(key, kind, description)| {
            let (own, default) = (self.value(*kind), defaults.value(*kind));
            let value = if own.is_null() { default.clone() } else { own.clone() };
            json!({
                "key": key,
                "type": kind.name(),
                "description": description,
                "value": value,
                "defaultValue": default,
                "overwritten": !own.is_null(),
                "protected": false,
                "validation": kind.validation(),
            })
        });
        json!({ "settings": shown.collect::<Vec<_>>() })
    }

    /// Takes what the body of a change asks for.
    pub(super) fn set(&mut self, of: Of, body: &Map<String, Value>) -> Result<(), Failure> {
        let bad = |text: &str| Failure::api(400, "badRequest", text);
        let entries = match body.get("settings") {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err(bad("settings must be an array of {\"key\", \"value\"}")),
        };
        let (mut faults, mut protected) = (Vec::new(), Vec::new());
        for entry in entries {
            let key = entry["key"].as_str();
            let key = key.ok_or_else(|| bad("a setting has no \"key\""))?;
            match of.keys().find(|Key(known, ..)| *known == key) {
                Some(Key(_, kind, _)) => {
                    if let Err(reason) = self.assign(*kind, &entry["value"]) {
                        faults.push(format!("invalid value of {key:?}: {reason}"));
                    }
                }
                None if PREFIXES.iter().any(|prefix| key.starts_with(prefix)) => {
                    protected.push(format!("{key:?}"));
                }
                None => faults.push(format!("key {key:?} does not exist")),
            }
        }
        if !protected.is_empty() {
            let message = format!("cannot modify protected keys: {}", protected.join(", "));
            return Err(Failure::api(403, "forbidden", message));
        }
        faults.extend(self.commit.faults("import.trigger"));
        faults.extend(self.staging.faults("upload.trigger"));
        if faults.is_empty() { Ok(()) } else { Err(bad(&listed(&faults))) }
    }

    fn value(self, kind: Kind) -> Value {
        let of = |staging: bool| if staging { self.staging } else { self.commit };
        match kind {
            Kind::Wait => self.wait.map_or(Value::Null, Value::from),
            Kind::Validate => self.validate.map_or(Value::Null, |it| it.as_str().into()),
            Kind::Records(staging) => of(staging).records.map_or(Value::Null, Value::from),
            Kind::Bytes(staging) => of(staging).bytes.map_or(Value::Null, |it| size(it).into()),
            Kind::Lag(staging) => of(staging).lag_ms.map_or(Value::Null, |it| duration(it).into()),
        }
    }

    fn assign(&mut self, kind: Kind, value: &Value) -> Result<(), String> {
        let text = value.as_str();
        let is_null = value.is_null();
        let of = |it: &mut Self, staging: bool, change: &dyn Fn(&mut Triggers)| {
            change(if staging { &mut it.staging } else { &mut it.commit });
        };
        match kind {
            Kind::Wait => {
                self.wait = if is_null { None } else { Some(as_bool(value)?) };
            }
            Kind::Validate => {
                let expected = |_| "expected \"commit\" or \"sync\"".to_owned();
                self.validate = serde_json::from_value(value.clone()).map_err(expected)?;
            }
            Kind::Records(staging) => {
                let records = match value.as_u64().or_else(|| text?.parse().ok()) {
                    None if !is_null => return Err("expected a count".to_owned()),
                    records => records,
                };
                of(self, staging, &|triggers| triggers.records = records);
            }
            Kind::Bytes(staging) => {
                let bytes = match text.and_then(parse_size).or_else(|| value.as_u64()) {
                    None if !is_null => return Err("expected a size such as \"50MB\"".to_owned()),
                    bytes => bytes,
                };
                of(self, staging, &|triggers| triggers.bytes = bytes);
            }
            Kind::Lag(staging) => {
                let lag_ms = match text.and_then(parse_duration) {
                    None if !is_null => {
                        return Err("expected a duration such as \"1m30s\"".to_owned());
                    }
                    lag_ms => lag_ms,
                };
                of(self, staging, &|triggers| triggers.lag_ms = lag_ms);
            }
        }
        Ok(())
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Wait => "bool",
            Self::Validate => "string",
            Self::Records(_) => "uint",
            Self::Bytes(_) => "size",
            Self::Lag(_) => "duration",
        }
    }

    fn validation(self) -> &'static str {
        match self {
            Self::Wait => "",
            Self::Validate => "oneof=commit sync",
            Self::Records(_) => "min=1,max=10000000",
            Self::Bytes(_) => "minBytes=100B,maxBytes=1TB",
            Self::Lag(_) => "minDuration=1s,maxDuration=24h",
        }
    }
}

fn as_bool(value: &Value) -> Result<bool, String> {
    let text = value.as_str().and_then(|text| text.parse().ok());
    value.as_bool().or(text).ok_or_else(|| "expected true or false".to_owned())
}

/// Milliseconds as Go writes a duration: `1h0m0s`, `1m30s`, `1.5s`, `200ms`.
fn duration(ms: i64) -> String {
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    let (hours, minutes, rest_ms) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let seconds = match rest_ms % 1_000 {
        0 => format!("{}", rest_ms / 1_000),
        part => format!("{}.{}", rest_ms / 1_000, format!("{part:03}").trim_end_matches('0')),
    };
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// A duration of Go's, in milliseconds; none if it is none, or not a whole number of them.
fn parse_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut ms = 0_i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let factor = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        ms = ms.checked_add(times(number, factor)?)?;
        rest = after;
    }
    (!text.is_empty() && ms <= DURATION_MS_MAX).then_some(ms)
}

/// A decimal number, times `factor`; none if that is not whole.
fn times(number: &str, factor: i64) -> Option<i64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let part = part.trim_end_matches('0');
    let unit = 10_i64.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part = if part.is_empty() { 0 } else { part.parse::<i64>().ok()?.checked_mul(factor)? };
    let whole = whole.parse::<i64>().ok()?.checked_mul(factor)?;
    (part % unit == 0).then(|| whole.checked_add(part / unit))?
}

const UNITS: [(&str, u64); 5] =
    [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10), ("B", 1)];

/// Bytes in the largest unit that holds them whole: `50MB`, `1500B`.
fn size(bytes: u64) -> String {
    let whole = UNITS.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    let (name, unit) = whole.copied().unwrap_or(("B", 1));
    format!("{}{name}", bytes / unit)
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_uppercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let factor =
        match UNITS.iter().find(|(name, _)| *name == unit || name.trim_end_matches('B') == unit) {
            Some((_, factor)) => *factor,
            None if unit.is_empty() => 1,
            None => return None,
        };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(settings: &mut Settings, pairs: Value) -> Result<(), Failure> {
        settings.set(Of::Sink, json!({ "settings": pairs }).as_object().unwrap())
    }

    #[test]
    fn durations_are_those_of_go() {
        for (ms, text) in [
            (200, "200ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (60_000, "1m0s"),
            (80_000, "1m20s"),
            (86_400_000, "24h0m0s"),
            (3_661_010, "1h1m1.01s"),
        ] {
            assert_eq!(duration(ms), text);
            assert_eq!(parse_duration(text), Some(ms), "{text}");
        }
        assert_eq!(parse_duration("24h"), Some(86_400_000));
        for bad in ["", "5", "s", "1d", "-1s", "1.0005s", "1e99h", "1..2s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_in_units_of_1024() {
        for (bytes, text) in [(100, "100B"), (50 << 20, "50MB"), (1 << 30, "1GB"), (1500, "1500B")]
        {
            assert_eq!(size(bytes), text);
            assert_eq!(parse_size(text), Some(bytes));
        }
        assert_eq!(
            (parse_size("12 mb"), parse_size("7"), parse_size("1K")),
            (Some(12 << 20), Some(7), Some(1024))
        );
        for bad in ["", "MB", "1XB", "-1B", "99999999999999999999B", "9999999999999TB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_change_sets_and_resets_and_nothing_of_a_refused_one_counts() {
        let mut settings = Settings::default();
        let pairs = json!([
            {"key": "storage.level.target.import.trigger.interval", "value": "30s"},
            {"key": "storage.level.target.import.trigger.size", "value": "12MB"},
            {"key": "storage.level.target.import.trigger.count", "value": 500},
            {"key": "storage.level.local.encoding.sync.wait", "value": false},
            {"key": "storage.level.staging.upload.trigger.count", "value": 5},
        ]);
        set(&mut settings, pairs).unwrap();
        let commit = Triggers { lag_ms: Some(30_000), bytes: Some(12 << 20), records: Some(500) };
        assert_eq!((settings.commit, settings.wait), (commit, Some(false)));
        let key = "storage.level.target.import.trigger.count";
        set(&mut settings, json!([{"key": key, "value": null}])).unwrap();
        assert_eq!(settings.commit.records, None);
        settings.set(Of::Sink, &Map::new()).unwrap();
        let refused = set(&mut settings, json!([{"key": key, "value": 0}])).unwrap_err();
        assert_eq!((refused.status, refused.name.as_str()), (400, "stream.api.badRequest"));
        let protected = json!([{"key": "storage.level.local.volume.assignment.count", "value": 2}]);
        let refused = set(&mut settings, protected).unwrap_err();
        assert_eq!(
            (refused.status, refused.message.as_str()),
            (403, "Cannot modify protected keys: \"storage.level.local.volume.assignment.count\".")
        );
        for bad in [json!([{"value": 1}]), json!({}), json!([{"key": "x", "value": 1}])] {
            assert_eq!(set(&mut settings, bad).unwrap_err().status, 400);
        }
    }

    #[test]
    fn a_sink_may_run_its_templates_first_and_a_source_has_none() {
        let mut settings = Settings::default();
        let pairs = |value: &str| json!([{"key": "floe.validate", "value": value}]);
        set(&mut settings, pairs("sync")).unwrap();
        let shown = settings.shown(Of::Sink, Settings::floor(None, None));
        let own = &shown["settings"][7];
        assert_eq!((&own["value"], &own["defaultValue"]), (&"sync".into(), &"commit".into()));
        assert_eq!((&own["overwritten"], &own["protected"]), (&true.into(), &false.into()));
        assert_eq!(set(&mut settings, pairs("never")).unwrap_err().status, 400);
        set(&mut settings, json!([{"key": "floe.validate", "value": null}])).unwrap();
        assert_eq!(settings.validate, None);
        let body = json!({ "settings": pairs("sync") });
        let refused = settings.set(Of::Source, body.as_object().unwrap()).unwrap_err();
        assert_eq!(refused.message, "Key \"floe.validate\" does not exist.");
        let shown = settings.shown(Of::Source, Settings::floor(None, None));
        assert_eq!(shown["settings"].as_array().unwrap().len(), 7);
    }

    #[test]
    fn what_a_sink_does_not_say_is_as_the_source_says() {
        let floor = Settings::floor(Some(60_000), Some(32 << 20));
        let source = Settings { wait: Some(false), ..Settings::default() };
        let shown = Settings::default().shown(Of::Sink, source.or(floor));
        let wait = &shown["settings"][0];
        assert_eq!((&wait["value"], &wait["overwritten"]), (&false.into(), &false.into()));
        let lag = &shown["settings"][6];
        assert_eq!((&lag["value"], &lag["defaultValue"]), (&"1m0s".into(), &"1m0s".into()));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_shown_is_read_back(
            text in "[0-9hmsTGMKB. ]{0,20}",
            ms in 0_i64..1_000_000_000_000,
            bytes in 0_u64..,
        ) {
            let _ = (parse_duration(&text), parse_size(&text));
            prop_assert_eq!(parse_duration(&duration(ms)), Some(ms));
            prop_assert_eq!(parse_size(&size(bytes)), Some(bytes));
        }
    }
}
