//! `floe table list|describe|flush|resume`, over the running server.

use clap::{Arg, ArgAction, ArgMatches, Command};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{self, Client, Failure, segment};
use super::output::{self, Column};
use super::topic::report;

pub(super) fn command() -> Command {
    let name =
        || Arg::new("name").required(true).value_name("NAME").help("Table, such as streams.orders");
    client::add_flags(
        Command::new("table")
            .about("Lists and describes the tables of topics, flushes and resumes them")
            .subcommand_required(true)
            .arg_required_else_help(true),
    )
    .subcommand(Command::new("list").about("Lists tables with their state and lag"))
    .subcommand(
        Command::new("describe")
            .about("Shows state, lag, ends per partition, last snapshot and file sizes")
            .arg(name()),
    )
    .subcommand(
        Command::new("flush")
            .about("Commits everything appended so far and waits for it")
            .arg(name()),
    )
    .subcommand(
        Command::new("resume")
            .about("Leaves a stopped state; the state itself names the right --from")
            .arg(name())
            .arg(
                Arg::new("from")
                    .long("from")
                    .required(true)
                    .value_parser(["table", "ledger", "log-start", "latest"])
                    .help(
                        "Where to go on: at the table's own end, at the ledger's end, \
                         at the start of the log, or with what comes next",
                    ),
            )
            .arg(
                Arg::new("allow-duplicates")
                    .long("allow-duplicates")
                    .action(ArgAction::SetTrue)
                    .help("Allow a start below the table's end: rows will be there twice"),
            ),
    )
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Failure::Usage("see floe table --help".to_owned()));
    };
    let client = Client::new(matches)?;
    let name = || matches.get_one::<String>("name").map_or("", String::as_str);
    let path = |suffix: &str| format!("/api/v1/tables/{}{suffix}", segment(name()));
    let answer = match verb {
        "list" => client.send(Method::GET, "/api/v1/tables", None).await?,
        "describe" => client.send(Method::GET, &path(""), None).await?,
        "flush" => {
            if !client.json {
                output::progress(format!("committing {} ...", name()));
            }
            client.send(Method::POST, &path("/flush"), None).await?
        }
        _ => {
            let body = json!({
                "from": matches.get_one::<String>("from"),
                "allow_duplicates": matches.get_flag("allow-duplicates"),
            });
            client.send(Method::POST, &path("/resume"), Some(body)).await?
        }
    };
    report(&client, &answer, || if verb == "list" { list(&answer) } else { describe(&answer) });
    Ok(())
}

const TABLES: &[Column] = &[
    ("TABLE", "table"),
    ("TOPIC", "topic"),
    ("STATE", "state"),
    ("LAG", "lag_ms"),
    ("PENDING", "pending_offsets"),
    ("ROWS", "rows"),
    ("DEAD", "dlq_rows"),
    ("BLOCKED", "blocked"),
];

fn list(answer: &Value) {
    output::objects(TABLES, answer["tables"].as_array().into_iter().flatten());
}

fn describe(table: &Value) {
    for (key, value) in table.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) if items.first().is_some_and(Value::is_object) => {
                output::line(format!("{key}:"));
                for item in items {
                    let parts = item.as_object().into_iter().flatten();
                    let parts: Vec<String> = parts
                        .map(|(key, value)| format!("{} {}", label(key), output::field(key, value)))
                        .collect();
                    output::line(format!("  {}", parts.join(", ")));
                }
            }
            value => output::line(format!("{}: {}", label(key), output::field(key, value))),
        }
    }
}

/// A key without its unit, which the value has.
fn label(key: &str) -> &str {
    key.strip_suffix("_ms").unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_whose_producers_are_refused() {
        let table = json!({
            "table": "streams.t", "topic": "t", "state": "RUNNING", "lag_ms": 61_000,
            "pending_offsets": 1, "rows": 2, "dlq_rows": 3, "blocked": "9 bytes wait",
        });
        let wanted = [
            "TABLE      TOPIC  STATE    LAG        PENDING  ROWS  DEAD  BLOCKED",
            "streams.t  t      RUNNING  1 min 1 s  1        2     3     9 bytes wait",
        ];
        assert_eq!(output::lines(TABLES, [&table]), wanted);
    }
}
