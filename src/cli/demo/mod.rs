//! `floe demo`: a server on free ports, sample producers over Kafka and HTTP, and the rows that
//! landed in the table, read back from its files.

mod producers;
mod rows;

use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::client::Failure;
use super::{output, serve};
use crate::broker::Broker;
use crate::config::{Config, Settings};

/// Events from each of the two producers.
const EVENTS: usize = 500;
/// Rows shown at the end.
const ROWS_SHOWN: usize = 8;
/// Longest wait for the table.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) fn command() -> Command {
    Command::new("demo")
        .about("Starts a server on free ports, sends sample events, shows the rows in the table")
        .arg(
            Arg::new("keep")
                .long("keep")
                .action(ArgAction::SetTrue)
                .help("Keep the data directory and say where it is"),
        )
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("floe-demo-{}", uuid::Uuid::new_v4().simple()));
    let mut settings = Settings::new();
    for (key, value) in [
        ("data.dir", dir.to_string_lossy().as_ref()),
        ("kafka.listen", "127.0.0.1:0"),
        ("http.listen", "127.0.0.1:0"),
        ("wal.file.bytes", "16MiB"),
    ] {
        settings.insert(key.to_owned(), vec![value.to_owned()]);
    }
    let config = Config::resolve(&settings, &[]).map_err(|error| Failure::Usage(error.0))?;
    let broker = serve::start(&config).await?;
    let shown = show(&broker).await;
    serve::stop(broker, &config).await;
    if matches.get_flag("keep") {
        let dir = dir.display();
        output::line(format!("kept; go on with: floe serve --data-dir {dir}"));
    } else {
        let _ = std::fs::remove_dir_all(&dir);
    }
    shown
}

async fn show(broker: &Broker) -> Result<(), Failure> {
    let kafka = broker.kafka_addresses()[0].1;
    let http = broker.http_address();
    output::line(format!("a server is up: kafka {kafka}, http http://{http}"));
    output::line(format!(
        "sending {EVENTS} events over Kafka and {EVENTS} over HTTP to \"orders\" ..."
    ));
    let started = Instant::now();
    let (over_kafka, over_http) =
        tokio::join!(producers::kafka(kafka, EVENTS), producers::http(http, EVENTS));
    over_kafka.map_err(|error| Failure::Refused(format!("the Kafka producer failed: {error}")))?;
    over_http.map_err(|error| Failure::Refused(format!("the HTTP producer failed: {error}")))?;
    let acknowledged = started.elapsed();
    output::line(format!("all acknowledged, that is durable, after {acknowledged:.1?}"));
    output::line("waiting for the table streams.orders ...");
    let wanted = u64::try_from(2 * EVENTS).unwrap_or(u64::MAX);
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let status = broker.tiering().table("streams.orders");
        if status.as_ref().is_some_and(|status| status.rows >= wanted) {
            break;
        }
        if Instant::now() > deadline {
            return Err(Failure::Refused(format!("the rows did not land: {status:?}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    output::line(format!("all rows are committed, {:.1?} after the start", started.elapsed()));
    output::line("");
    let rows = rows::read(broker.catalog(), "streams", "orders").await.map_err(Failure::Refused)?;
    output::line(format!("streams.orders, read back from its files: {} rows", rows.count));
    let headings: Vec<&str> = rows.columns.iter().map(String::as_str).collect();
    output::table(&headings, &rows.cells[..rows.cells.len().min(ROWS_SHOWN)]);
    if rows.count != 2 * EVENTS {
        return Err(Failure::Refused(format!("expected {} rows", 2 * EVENTS)));
    }
    output::line("");
    output::line("every event once; now your own: floe serve");
    Ok(())
}
