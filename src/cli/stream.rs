//! `floe stream create|list|describe|alter|terminate|start|delete`, over the running server.

use clap::{Arg, ArgAction, ArgMatches, Command};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{self, Client, Failure, segment};
use super::output;
use super::topic::{edits, option_flag, options, report, unset_flag};

const EXAMPLES: &str = "\
Examples:
  floe stream create shop --namespace prod -o table.target.lag.ms=5s
  curl http://127.0.0.1:8080/data-plane/prod/event-stream/shop/ingest \\
    -H 'table: floe.events.sales' -H 'content-type: application/json' -d '[{\"id\": 1}]'
  floe stream describe shop
  floe token create shop --allow write:stream:shop --allow write:table:events.sales";

pub(super) fn command() -> Command {
    let name = || Arg::new("name").required(true).value_name("NAME").help("Stream name");
    let verb =
        |verb: &'static str, about: &'static str| Command::new(verb).about(about).arg(name());
    let tag =
        |help| Arg::new("tag").long("tag").value_name("TEXT").action(ArgAction::Append).help(help);
    let option = || {
        option_flag(
            "An option of the stream's topics, such as table.contract.coerce=lenient or \
             table.target.lag.ms=5s",
        )
    };
    client::add_flags(
        Command::new("stream")
            .about("Makes, lists, alters, ends and deletes event streams: events over HTTP into tables that are there")
            .after_help(EXAMPLES)
            .subcommand_required(true)
            .arg_required_else_help(true),
    )
    .subcommand(
        verb("create", "Makes a stream that takes events")
            .after_help(EXAMPLES)
            .arg(
                Arg::new("namespace")
                    .long("namespace")
                    .short('n')
                    .default_value("default")
                    .value_name("NAMESPACE")
                    .help("The label that the stream's path has"),
            )
            .arg(tag("A word of yours, repeatable"))
            .arg(option()),
    )
    .subcommand(Command::new("list").about("Lists streams"))
    .subcommand(verb("describe", "Shows a stream, its tables, and fields that no column took"))
    .subcommand(
        verb("alter", "Gives a stream other tags, and its topics other options")
            .arg(tag("A word of yours, repeatable; they take the place of all that it has"))
            .arg(option())
            .arg(unset_flag())
            .arg(
                Arg::new("no-tags")
                    .long("no-tags")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("tag")
                    .help("Takes all its tags away"),
            ),
    )
    .subcommand(verb("terminate", "Ends a stream: events are refused with 503; it can be started again"))
    .subcommand(verb("start", "Lets a terminated stream take events again"))
    .subcommand(verb(
        "delete",
        "Deletes a stream; its tables stay, and get every event that was acknowledged",
    ))
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    const STREAMS: &str = "/api/v1/streams";
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Failure::Usage("see floe stream --help".to_owned()));
    };
    let client = Client::new(matches)?;
    let name = || matches.get_one::<String>("name").map_or("", String::as_str);
    let path = || format!("{STREAMS}/{}", segment(name()));
    match verb {
        "create" => {
            let body = json!({
                "name": name(),
                "namespace": matches.get_one::<String>("namespace"),
                "tags": tags(matches),
                "options": options(matches)?,
            });
            let stream = client.send(Method::POST, STREAMS, Some(body)).await?;
            report(&client, &stream, || {
                output::line(format!(
                    "stream {} takes events at {}",
                    name(),
                    output::cell(&stream["path"])
                ));
            });
        }
        "list" => {
            let answer = client.send(Method::GET, STREAMS, None).await?;
            report(&client, &answer, || list(&answer));
        }
        "describe" => {
            let stream = client.send(Method::GET, &path(), None).await?;
            report(&client, &stream, || describe(&stream));
        }
        "alter" => {
            let (tags, options) = (tags(matches), edits(matches)?);
            let is_tagged = !tags.is_empty() || matches.get_flag("no-tags");
            if !is_tagged && options.is_empty() {
                let text = "give --option, --unset, --tag or --no-tags";
                return Err(Failure::Usage(text.to_owned()));
            }
            let tags = is_tagged.then_some(tags);
            let body = json!({ "tags": tags, "options": options });
            let stream = client.send(Method::PATCH, &path(), Some(body)).await?;
            report(&client, &stream, || describe(&stream));
        }
        "delete" => {
            client.send(Method::DELETE, &path(), None).await?;
            report(&client, &Value::Null, || output::line(format!("stream {} is deleted", name())));
        }
        verb => {
            let stream = client.send(Method::POST, &format!("{}/{verb}", path()), None).await?;
            report(&client, &stream, || {
                output::line(format!("stream {} is {}", name(), output::cell(&stream["state"])));
            });
        }
    }
    Ok(())
}

fn tags(matches: &ArgMatches) -> Vec<&String> {
    matches.get_many::<String>("tag").into_iter().flatten().collect()
}

fn rows(list: &Value, keys: &[&str]) -> Vec<Vec<String>> {
    let row = |item: &Value| keys.iter().map(|key| output::field(key, &item[key])).collect();
    list.as_array().into_iter().flatten().map(row).collect()
}

fn list(answer: &Value) {
    let keys = ["name", "namespace", "state", "created_ms", "path"];
    let rows = rows(&answer["streams"], &keys);
    output::table(&["STREAM", "NAMESPACE", "STATE", "CREATED", "PATH"], &rows);
}

fn describe(stream: &Value) {
    for key in ["name", "namespace", "state", "path", "created_ms"] {
        output::line(format!("{:<12} {}", key, output::field(key, &stream[key])));
    }
    let joined =
        |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(", ") };
    let tags = stream["tags"].as_array().into_iter().flatten().map(output::cell).collect();
    output::line(format!("{:<12} {}", "tags", joined(tags)));
    let pairs = |key: &str| {
        let members = stream[key].as_object().into_iter().flatten();
        joined(members.map(|(name, value)| format!("{name}={}", output::cell(value))).collect())
    };
    output::line(format!("{:<12} {}", "options", pairs("options")));
    output::line(format!("{:<12} {}", "ignored", pairs("ignored_fields")));
    let keys = ["table", "topic", "state", "rows", "dlq_rows", "pending_offsets", "reason"];
    let rows = rows(&stream["tables"], &keys);
    if !rows.is_empty() {
        output::line("");
        let headings = ["TABLE", "TOPIC", "STATE", "ROWS", "DEAD LETTERS", "PENDING", "REASON"];
        output::table(&headings, &rows);
    }
}
