//! What a benchmark found: named figures with units, and percentiles of times.

use std::time::Duration;

use serde_json::{Value, json};

use super::Settings;
use crate::cli::output;

/// Times kept of one series; of more, every second one is dropped.
const TIMES_MAX: usize = 1 << 20;

/// Figures in order.
pub(super) struct Report {
    name: String,
    command: String,
    settings: Value,
    figures: Vec<(String, f64, &'static str)>,
}

impl Report {
    pub(super) fn new(name: &str, settings: &Settings) -> Self {
        let settings = json!({
            "seconds": settings.seconds.as_secs(),
            "record_bytes": settings.record_bytes,
            "batch_bytes": settings.batch_bytes,
            "in_flight": settings.in_flight,
            "partitions": settings.partitions,
            "rate": settings.rate,
            "poison_every": settings.poison_every,
            "topics": settings.topics,
            "lag": settings.lag.as_secs(),
            "retain_bytes": settings.retain_bytes,
            "log_bytes": settings.log_bytes,
            "tables_only": settings.is_tables_only,
            "mb_per_second": settings.mb_per_second,
            "commits": settings.commits,
            "set": settings.server,
        });
        let command = command(std::env::args().skip(1));
        Self { name: name.to_owned(), command, settings, figures: Vec::new() }
    }

    pub(super) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push((name.into(), value, unit));
    }

    /// Adds p50, p99 and p99.9 of a series in milliseconds.
    pub(super) fn add_times(&mut self, name: &str, times: &mut Times) {
        for (label, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            self.add(format!("{name}, {label}"), times.percentile_ms(share), "ms");
        }
    }

    pub(super) fn print(&self, as_json: bool) {
        if as_json {
            let figures = self.figures.iter().map(|(name, value, unit)| {
                let value = value.is_finite().then_some(*value);
                json!({ "name": name, "value": value, "unit": unit })
            });
            let figures: Vec<Value> = figures.collect();
            let name = &self.name;
            output::json(&json!({
                "bench": name, "command": self.command, "settings": self.settings, "figures": figures,
            }));
            return;
        }
        let rows: Vec<Vec<String>> = self
            .figures
            .iter()
            .map(|(name, value, unit)| vec![name.clone(), shown(*value), (*unit).to_owned()])
            .collect();
        output::table(&[&self.name, "", ""], &rows);
    }
}

/// What repeats the benchmark elsewhere: without what is about this machine.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut command = "floe".to_owned();
    let mut arguments = arguments.filter(|argument| argument != "--json");
    while let Some(argument) = arguments.next() {
        if argument == "--dir" {
            arguments.next();
        } else if !argument.starts_with("--dir=") {
            command.push(' ');
            command.push_str(&argument);
        }
    }
    command
}

/// Three significant digits, as more would be noise.
fn shown(value: f64) -> String {
    match value {
        value if !value.is_finite() => "-".to_owned(),
        value if value.abs() >= 100.0 => format!("{value:.0}"),
        value if value.abs() >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

/// A series of times, bounded: a fair sample of them.
#[derive(Debug)]
pub(super) struct Times {
    micros: Vec<u32>,
    /// Every how many-th is kept.
    step: usize,
    seen: usize,
}

impl Default for Times {
    fn default() -> Self {
        Self { micros: Vec::new(), step: 1, seen: 0 }
    }
}

impl Times {
    pub(super) fn push(&mut self, time: Duration) {
        self.seen += 1;
        if !self.seen.is_multiple_of(self.step) {
            return;
        }
        self.micros.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
        if self.micros.len() >= TIMES_MAX {
            let mut keep = false;
            self.micros.retain(|_| {
                keep = !keep;
                keep
            });
            self.step *= 2;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.micros.extend(&other.micros);
    }

    /// The time that `share` of all do not pass; not a number if there is none.
    pub(super) fn percentile_ms(&mut self, share: f64) -> f64 {
        if self.micros.is_empty() {
            return f64::NAN;
        }
        self.micros.sort_unstable();
        let at = ((self.micros.len() - 1) as f64 * share).round();
        f64::from(self.micros[(at as usize).min(self.micros.len() - 1)]) / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_that_of_any_machine() {
        let given = "bench start --dir /x --seconds 5 --json --dir=/y".split(' ');
        assert_eq!(command(given.map(ToOwned::to_owned)), "floe bench start --seconds 5");
    }

    #[test]
    fn percentiles_are_of_all_times_and_memory_is_bounded() {
        let mut times = Times::default();
        assert!(times.percentile_ms(0.5).is_nan());
        for micros in 1..=1000 {
            times.push(Duration::from_micros(micros));
        }
        assert_eq!(times.percentile_ms(0.0), 0.001);
        assert_eq!(times.percentile_ms(0.5), 0.501);
        assert_eq!(times.percentile_ms(1.0), 1.0);
        let mut many = Times::default();
        for micros in 0..3 * TIMES_MAX as u64 {
            many.push(Duration::from_micros(micros));
        }
        assert!(many.micros.len() < TIMES_MAX);
        let half = many.percentile_ms(0.5) * 1000.0 / (3 * TIMES_MAX) as f64;
        assert!((0.3..0.7).contains(&half), "{half}");
    }
}
