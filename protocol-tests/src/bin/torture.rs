//! Tortures the real binary for as long as it is told, and counts what was lost or doubled.
//! `cargo run --release -p protocol-tests --bin torture -- --minutes 60`; `FLOE_BIN` names the
//! server. A seed that fails is printed, and its data is kept.

#![allow(clippy::print_stdout, reason = "it reports by printing")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use protocol_tests::torture::{CatalogKind, Plan, Report, run};

/// Long runs of random faults against the real binary.
#[derive(Parser)]
struct Arguments {
    /// Ends after so many minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Seed of the first history; the next ones follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs only the first history.
    #[arg(long)]
    once: bool,
    /// Length of one history in seconds.
    #[arg(long, default_value_t = 30)]
    length: u64,
    /// The catalog: embedded, rest, or both in turn.
    #[arg(long, default_value = "both")]
    catalog: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kinds = match arguments.catalog.as_str() {
        "embedded" => vec![CatalogKind::Embedded],
        "rest" => vec![CatalogKind::Rest],
        _ => vec![CatalogKind::Embedded, CatalogKind::Rest],
    };
    let started = Instant::now();
    let ends = started + Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut total = Report::default();
    let (mut histories, mut failed) = (0_u64, 0_u64);
    while Instant::now() < ends && !(arguments.once && histories > 0) {
        let seed = arguments.seed + histories;
        let catalog = kinds[usize::try_from(seed).unwrap_or(0) % kinds.len()];
        let length = Duration::from_secs(arguments.length);
        match run(Plan { seed, length, catalog }).await {
            Ok(report) => {
                println!("seed {seed} {catalog:?}: {report:?}");
                total.faults += report.faults;
                total.counts += report.counts;
            }
            Err(why) => {
                failed += 1;
                println!("seed {seed} {catalog:?} FAILED: {why}");
            }
        }
        histories += 1;
    }
    println!(
        "{histories} histories in {} s, {failed} failed: {total:?}",
        started.elapsed().as_secs()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
