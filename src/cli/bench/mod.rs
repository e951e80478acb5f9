//! `floe bench`: what this machine makes of the whole server, each figure beside a baseline of the
//! same work in the same run. A server of its own, in a process of its own, is measured from
//! outside; the load comes from here and shares the cores with it.

mod baseline;
mod consume;
mod growth;
mod http;
mod latency;
mod load;
mod process;
mod produce;
mod report;
mod server;
mod sparse;
mod start;
mod steady;
mod tables;
mod target;
mod topics;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::client::Failure;
use report::Report;
use target::Beside;

/// What every benchmark is told.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// How long load goes on.
    seconds: Duration,
    /// Bytes of a record's value.
    record_bytes: usize,
    /// Bytes of records in a batch; a batch has at least one.
    batch_bytes: usize,
    /// Requests in flight, over all connections.
    in_flight: usize,
    /// Partitions, each with a connection of its own.
    partitions: i32,
    /// Records a second where the load has a pace; of each topic where there are many.
    rate: u64,
    /// Every how many-th record is none that a table takes.
    poison_every: Option<usize>,
    /// Topics, where there are many.
    topics: usize,
    /// `table.target.lag.ms`, where there are many topics.
    lag: Duration,
    /// Bytes of each partition that are kept, in a log that has filled its files before.
    retain_bytes: Option<u64>,
    /// Bytes of batches that a log is filled with, of which the disk has the headers only.
    log_bytes: Option<u64>,
    /// The same load with tables off is left out.
    is_tables_only: bool,
    /// Megabytes of JSON a second where a load of rows has a pace.
    mb_per_second: Option<u64>,
    /// Table commits, one after the other.
    commits: u64,
    /// Where the server's data and the baseline's file lie.
    dir: PathBuf,
    /// More options for the server, as `--set` takes them.
    server: Vec<String>,
    /// Other brokers that get the same load.
    beside: Vec<Beside>,
}

fn number(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_parser(value_parser!(u64).range(1..=1 << 30))
        .value_name("NUMBER")
        .help(help)
}

/// An option of every benchmark.
fn shared(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    number(name, help).global(true).default_value(default)
}

fn tables_command() -> Command {
    Command::new("tables")
        .about(
            "JSON of 300 bytes and 9 fields to committed Parquet, beside the same load with \
             tables off",
        )
        .arg(number("mb-per-second", "Megabytes of JSON a second [default: as it goes]"))
        .arg(
            Arg::new("poison-every")
                .long("poison-every")
                .value_parser(value_parser!(u64).range(1..=10_000))
                .value_name("NUMBER")
                .help(
                    "Make every so many-th record one that is no JSON object, beside the same \
                     load without; dead letters are counted by code",
                ),
        )
}

fn topics_command() -> Command {
    Command::new("topics")
        .about(
            "The rows of `tables` at a steady rate to many topics of one partition, with and \
             without tables",
        )
        .arg(number("topics", "Topics").default_value("1000"))
        .arg(number("lag", "Target lag of each table, seconds").default_value("60"))
}

fn steady_command() -> Command {
    Command::new("steady")
        .about(
            "JSON to tables at a steady pace: times of answers with tables and without, memory, and \
             from a row to its table",
        )
        .arg(number("mb-per-second", "Megabytes of JSON a second").default_value("50"))
        .arg(number("retain-mb", "Keep so many MB of each partition [default: all]"))
        .arg(
            Arg::new("tables-only")
                .long("tables-only")
                .action(ArgAction::SetTrue)
                .help("Leave out the same load with tables off"),
        )
}

fn kinds() -> Vec<Command> {
    vec![
        Command::new("produce")
            .about(
                "Batches with acks=all, beside a plain file synced the same way and a sink that \
                 stores nothing",
            )
            .arg(number(
                "retain-mb",
                "Keep so many MB of each partition and measure after the log has filled its \
                 files once, as a log does whose retention frees what comes [default: a new log]",
            )),
        Command::new("consume").about("Reads stored batches, beside a copy over loopback"),
        Command::new("latency").about(
            "Single records at a steady rate: time to the answer and to a consumer, beside \
             fdatasync alone",
        ),
        Command::new("http").about(
            "POST of one event and of a megabyte of them, beside handlers that store nothing; \
             --in-flight is the connections of single events",
        ),
        Command::new(http::BARE_COMMAND)
            .hide(true)
            .about("The baseline of `http`: reads bodies and stores nothing, until it is killed"),
        tables_command(),
        topics_command(),
        steady_command(),
        Command::new("start")
            .about(
                "Time to be ready and to the first row; memory; a log written, kill -9, ready \
                 again",
            )
            .arg(number(
                "log-mb",
                "Go on until so many MB of batches are written. The values in files that are \
                 sealed are given back to the disk, which holds the frames' headers and the state \
                 [default: for --seconds, and all stays]",
            )),
        Command::new("growth")
            .about("Many commits of one table: times and metadata of the first beside the last")
            .arg(number("commits", "Table commits").default_value("200")),
    ]
}

pub(super) fn command() -> Command {
    Command::new("bench")
        .about("Measures a server of its own beside baselines of the same work")
        .long_about(
            "Measures a server of its own, started in a folder that is removed afterwards, beside \
             baselines of the same work in the same run: ratios count, absolute figures are this \
             machine's and today's. CPU seconds are the server's; the load shares the cores.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(kinds())
        .arg(number("seconds", "How long load goes on [default: 5; of topics: 60]").global(true))
        .arg(shared("record-bytes", "1000", "Bytes of a record"))
        .arg(shared("batch-bytes", "131072", "Bytes of records in a batch"))
        .arg(shared("in-flight", "16", "Requests in flight"))
        .arg(shared("partitions", "4", "Partitions, each with a connection of its own"))
        .arg(
            number("rate", "Records a second [default: latency 2000; topics 20 to each]")
                .global(true),
        )
        .arg(
            Arg::new("dir")
                .long("dir")
                .global(true)
                .value_parser(value_parser!(PathBuf))
                .value_name("DIR")
                .help("An existing folder for the data, on the disk to measure [default: TMPDIR]"),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .global(true)
                .action(ArgAction::Append)
                .value_name("KEY=VALUE")
                .help("One more option for the measured server; repeatable"),
        )
        .arg(
            Arg::new("beside")
                .long("beside")
                .global(true)
                .action(ArgAction::Append)
                .value_parser(Beside::from_str)
                .value_name("NAME=HOST:PORT[,PID]")
                .help(
                    "Another Kafka broker that gets the same load in the same run (produce, \
                     consume, latency); repeatable",
                ),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .global(true)
                .action(ArgAction::SetTrue)
                .help("Print the figures as JSON"),
        )
}

impl Settings {
    fn of(bench: &str, matches: &ArgMatches) -> Self {
        // Some are options of one benchmark only.
        let given = |name: &str| matches.try_get_one::<u64>(name).ok().flatten().copied();
        let number = |name: &str| given(name).unwrap_or(1);
        let (seconds, rate) = if bench == "topics" { (60, 20) } else { (5, 2_000) };
        let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
        let dir = matches.get_one::<PathBuf>("dir").cloned();
        Self {
            seconds: Duration::from_secs(given("seconds").unwrap_or(seconds)),
            record_bytes: size("record-bytes"),
            batch_bytes: size("batch-bytes"),
            in_flight: size("in-flight"),
            partitions: i32::try_from(number("partitions")).unwrap_or(i32::MAX),
            rate: given("rate").unwrap_or(rate),
            poison_every: given("poison-every").map(|_| size("poison-every")),
            topics: size("topics"),
            lag: Duration::from_secs(number("lag")),
            retain_bytes: given("retain-mb").map(|mb| mb * 1_000_000),
            log_bytes: given("log-mb").map(|mb| mb * 1_000_000),
            is_tables_only: matches.try_get_one("tables-only").ok().flatten() == Some(&true),
            mb_per_second: given("mb-per-second"),
            commits: number("commits"),
            dir: dir.unwrap_or_else(std::env::temp_dir),
            server: matches.get_many("set").unwrap_or_default().cloned().collect(),
            beside: matches.get_many("beside").unwrap_or_default().cloned().collect(),
        }
    }
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Failure::Usage("see floe bench --help".to_owned()));
    };
    if name == http::BARE_COMMAND {
        return http::serve_bare().await.map_err(Failure::Refused);
    }
    let settings = Settings::of(name, matches);
    let mut report = Report::new(name, &settings);
    let done = match name {
        "produce" => produce::run(&settings, &mut report).await,
        "consume" => consume::run(&settings, &mut report).await,
        "latency" => latency::run(&settings, &mut report).await,
        "http" => http::run(&settings, &mut report).await,
        "topics" => topics::run(&settings, &mut report).await,
        "start" => start::run(&settings, &mut report).await,
        "growth" => growth::run(&settings, &mut report).await,
        "steady" => steady::run(&settings, &mut report).await,
        _ => tables::run(&settings, &mut report).await,
    };
    done.map_err(Failure::Refused)?;
    report.print(matches.get_flag("json"));
    Ok(())
}
