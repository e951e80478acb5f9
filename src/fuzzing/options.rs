//! Options of topics and of the server, units, names.

use std::net::SocketAddr;

use crate::config::units;
use crate::config::{Config, Kind, OPTIONS, Settings};
use crate::schema::partition_spec;
use crate::tier::naming;
use crate::topic::options::{Overrides, TopicOptions, normalise};
use crate::types::TopicName;

/// Lines of `key=value`, tried as options of a topic and of the server; each value also as every
/// unit and as a name.
///
/// # Panics
/// If a property does not hold.
pub fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines: Vec<(&str, &str)> =
        text.lines().take(8).map(|line| line.split_once('=').unwrap_or(("", line))).collect();
    for (_, value) in &lines {
        quantities(value);
        addresses(value);
        names(value);
    }
    of_topic(&lines);
    of_server(&lines);
}

fn quantities(value: &str) {
    if let Ok(ms) = units::parse_duration_ms(value) {
        assert!(ms >= 0);
        assert_eq!(units::parse_duration_ms(&format!("{ms}ms")), Ok(ms));
        assert!(!units::human_ms(ms.cast_unsigned()).is_empty());
    }
    if let Ok(bytes) = units::parse_bytes(value) {
        assert_eq!(units::parse_bytes(&bytes.to_string()), Ok(bytes));
        assert!(!units::human_bytes(bytes).is_empty());
    }
}

/// True if no name server is asked about `value`.
fn is_numeric(value: &str) -> bool {
    value.parse::<SocketAddr>().is_ok()
}

fn addresses(value: &str) {
    if let Ok((host, port)) = units::parse_host_port(value) {
        let after = value.rsplit_once(':').expect("there is a port").1;
        assert!(port > 0 && !host.is_empty() && after.parse() == Ok(port));
    }
    if let Ok(address) = value.parse::<SocketAddr>() {
        assert_eq!(units::parse_address(value), Ok(address));
    }
}

fn names(value: &str) {
    if let Ok(name) = TopicName::parse(value) {
        assert_eq!(name.as_str(), value);
        assert!((1..=249).contains(&value.len()) && value != "." && value != "..");
    }
    let table = naming::table_name(value);
    assert!((1..=200).contains(&table.len()));
    assert!(table.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
}

/// Options that are accepted are accepted again as they came out, and resolve or name a fault.
fn of_topic(lines: &[(&str, &str)]) {
    let given: Overrides =
        lines.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    // One bad line must not hide the others.
    let one = |(key, value): (&String, &String)| {
        normalise(&Overrides::from([(key.clone(), value.clone())]), partition_spec::check).ok()
    };
    let each: Overrides = given.iter().filter_map(one).flatten().collect();
    let whole = normalise(&given, partition_spec::check);
    for accepted in [Some(each), whole.ok()].into_iter().flatten() {
        assert_eq!(normalise(&accepted, partition_spec::check).as_ref(), Ok(&accepted));
        let Ok(options) = TopicOptions::resolve("t", &accepted, &Overrides::new()) else {
            continue;
        };
        assert!(options.table_snapshot_min_count <= options.table_snapshot_max_count);
        assert!(options.table_commit_min_interval_ms <= options.table_target_lag_ms);
        assert!(options.retention_ms.is_none_or(|ms| ms >= 0));
        assert!(options.table_target_lag_ms > 0 && options.table_max_columns > 0);
        assert!(partition_spec::check(&options.table_partition_spec).is_ok());
    }
}

fn of_server(lines: &[(&str, &str)]) {
    let asks_names = |key: &str, value: &str| {
        let spec = OPTIONS.iter().find(|spec| spec.key == key);
        let address = spec.is_some_and(|s| matches!(s.kind, Kind::Address | Kind::NamedAddress));
        address && !is_numeric(value.rsplit_once('=').map_or(value, |(_, address)| address))
    };
    let mut settings = Settings::new();
    // The hint for an unknown key takes the square of its length; the command line may.
    let short = lines.iter().filter(|(key, _)| key.len() <= 64);
    for (key, value) in short.filter(|(key, value)| !asks_names(key, value)) {
        settings.entry((*key).to_owned()).or_default().push((*value).to_owned());
    }
    let keys: Vec<&str> = crate::topic::options::OPTIONS.iter().map(|def| def.key).collect();
    let known = |key: &String| {
        let one = Settings::from([(key.clone(), settings[key].clone())]);
        Config::resolve(&one, &keys).is_ok()
    };
    let good: Settings = settings.iter().filter(|(key, _)| known(key)).map(owned).collect();
    for settings in [good, settings] {
        let Ok(config) = Config::resolve(&settings, &keys) else { continue };
        assert!(!config.kafka_listeners.is_empty());
        assert!((1..=100_000).contains(&config.num_partitions));
        assert!(config.kafka_frame_max_bytes >= 1024 && config.wal_file_bytes >= 1 << 20);
    }
}

fn owned((key, values): (&String, &Vec<String>)) -> (String, Vec<String>) {
    (key.clone(), values.clone())
}
