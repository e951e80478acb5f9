//! `floe sink put|list|describe|delete`, over the running server.

use std::io::Read;

use clap::{Arg, ArgAction, ArgMatches, Command};
use reqwest::Method;
use serde_json::Value;

use super::client::{self, Client, Failure, segment};
use super::output;
use super::topic::report;
use crate::config::FILE_BYTES_MAX;

const EXAMPLES: &str = "\
Examples:
  echo '{\"table\": {\"name\": \"prices\"}, \"mapping\": {\"columns\": [
    {\"type\": \"path\", \"name\": \"price\", \"path\": \"price\", \"dataType\": \"double\"}]}}' > prices.json
  floe sink put orders prices prices.json --dry-run
  floe sink put orders prices prices.json
  floe sink list orders
  floe table flush streams.prices";

pub(super) fn command() -> Command {
    let topic = || Arg::new("topic").required(true).value_name("TOPIC").help("Topic name");
    let sink = || Arg::new("sink").required(true).value_name("SINK").help("Id of the sink");
    client::add_flags(
        Command::new("sink")
            .about("Makes, shows and deletes sinks: further tables of a topic, each with a mapping")
            .after_help(EXAMPLES)
            .subcommand_required(true)
            .arg_required_else_help(true),
    )
    .subcommand(
        Command::new("put")
            .about("Makes a sink, or replaces it as a whole")
            .after_help(EXAMPLES)
            .arg(topic())
            .arg(sink())
            .arg(
                Arg::new("file")
                    .required(true)
                    .value_name("FILE")
                    .help("JSON: table, mapping, commit, ...; - is standard input"),
            )
            .arg(
                Arg::new("dry-run")
                    .long("dry-run")
                    .action(ArgAction::SetTrue)
                    .help("Check everything and change nothing"),
            ),
    )
    .subcommand(Command::new("list").about("Lists the sinks of a topic").arg(topic()))
    .subcommand(
        Command::new("describe")
            .about("Shows a sink and where its table stands")
            .arg(topic())
            .arg(sink()),
    )
    .subcommand(
        Command::new("delete")
            .about("Deletes a sink; its table stays as it is")
            .arg(topic())
            .arg(sink()),
    )
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Failure::Usage("see floe sink --help".to_owned()));
    };
    let client = Client::new(matches)?;
    let text = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
    let all = format!("/api/v1/topics/{}/sinks", segment(text("topic")));
    if verb == "list" {
        let answer = client.send(Method::GET, &all, None).await?;
        report(&client, &answer, || list(&answer));
        return Ok(());
    }
    let id = text("sink");
    let path = format!("{all}/{}", segment(id));
    match verb {
        "put" => {
            let wish = read(text("file"))?;
            let dry_run = matches.get_flag("dry-run");
            let query = if dry_run { "?dry_run=true" } else { "" };
            let sink = client.send(Method::PUT, &format!("{path}{query}"), Some(wish)).await?;
            let (version, table) = (&sink["version"], output::cell(&sink["status"]["table"]));
            let done = if dry_run { "would be" } else { "is" };
            report(&client, &sink, || {
                output::line(format!(
                    "sink {id} {done} in version {version}, its table is {table}"
                ));
            });
        }
        "delete" => {
            client.send(Method::DELETE, &path, None).await?;
            report(&client, &Value::Null, || output::line(format!("sink {id} is deleted")));
        }
        _ => {
            let sink = client.send(Method::GET, &path, None).await?;
            report(&client, &sink, || describe(&sink));
        }
    }
    Ok(())
}

/// Reads JSON from a file or standard input.
fn read(path: &str) -> Result<Value, Failure> {
    let bytes = read_file(path)?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::Usage(format!("{path}: {error}")))
}

/// Reads a file, or standard input for `-`.
pub(super) fn read_file(path: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Usage(format!("{path}: {error}"));
    let mut input: Box<dyn Read> = match path {
        "-" => Box::new(std::io::stdin()),
        path => Box::new(std::fs::File::open(path).map_err(|error| failed(&error))?),
    };
    let mut bytes = Vec::new();
    let limited = input.by_ref().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    limited.map_err(|error| failed(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(&format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn list(answer: &Value) {
    let row = |sink: &Value| {
        let status = &sink["status"];
        let mut row = vec![output::field("id", &sink["id"])];
        row.extend(
            ["table", "state", "rows", "dlq_rows", "lag_ms"]
                .map(|key| output::field(key, &status[key])),
        );
        row
    };
    let rows: Vec<Vec<String>> =
        answer["sinks"].as_array().into_iter().flatten().map(row).collect();
    output::table(&["SINK", "TABLE", "STATE", "ROWS", "DEAD LETTERS", "LAG"], &rows);
}

fn describe(sink: &Value) {
    for key in ["id", "topic", "name", "version", "enabled", "from", "commit"] {
        output::line(format!("{key:<18} {}", output::field(key, &sink[key])));
    }
    for (key, value) in sink["status"].as_object().into_iter().flatten() {
        output::line(format!("{key:<18} {}", output::field(key, value)));
    }
    let columns = sink["mapping"]["columns"].as_array();
    let name = |column: &Value| output::cell(&column["name"]);
    let columns: Vec<String> = columns.into_iter().flatten().map(name).collect();
    output::line(format!("{:<18} {}", "columns", columns.join(", ")));
}
