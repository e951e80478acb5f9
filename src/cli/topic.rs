//! `floe topic create|list|describe|alter|delete`, over the running server.

use clap::{Arg, ArgAction, ArgMatches, Command};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{self, Client, Failure, segment};
use super::output::{self, Column};

pub(super) fn command() -> Command {
    let name = || Arg::new("name").required(true).value_name("NAME").help("Topic name");
    let option =
        || option_flag("An option of the topic, such as retention.ms=3600000 or table.mode=raw");
    let partitions = || {
        Arg::new("partitions")
            .long("partitions")
            .short('p')
            .value_name("NUMBER")
            .value_parser(clap::value_parser!(u32))
            .help("Number of partitions")
    };
    client::add_flags(
        Command::new("topic")
            .about("Makes, lists, describes, changes and deletes topics of a running server")
            .subcommand_required(true)
            .arg_required_else_help(true),
    )
    .subcommand(
        Command::new("create").about("Makes a topic").arg(name()).arg(partitions()).arg(option()),
    )
    .subcommand(Command::new("list").about("Lists topics"))
    .subcommand(
        Command::new("describe").about("Shows partitions and options of a topic").arg(name()).arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .help("Show options that have their default too"),
        ),
    )
    .subcommand(
        Command::new("alter")
            .about("Sets options, or raises the number of partitions")
            .arg(name())
            .arg(partitions())
            .arg(option())
            .arg(unset_flag()),
    )
    .subcommand(
        Command::new("delete")
            .about("Deletes a topic; its table stays, with every record that was stored")
            .arg(name()),
    )
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Failure::Usage("see floe topic --help".to_owned()));
    };
    let client = Client::new(matches)?;
    let name = || matches.get_one::<String>("name").map_or("", String::as_str);
    let path = || format!("/api/v1/topics/{}", segment(name()));
    match verb {
        "create" => {
            let body = json!({
                "name": name(),
                "partitions": matches.get_one::<u32>("partitions"),
                "options": options(matches)?,
            });
            let topic = client.send(Method::POST, "/api/v1/topics", Some(body)).await?;
            report(&client, &topic, || {
                output::line(format!("topic {} has {} partitions", name(), count(&topic)));
            });
        }
        "list" => {
            let answer = client.send(Method::GET, "/api/v1/topics", None).await?;
            report(&client, &answer, || list(&answer));
        }
        "describe" => {
            let topic = client.send(Method::GET, &path(), None).await?;
            report(&client, &topic, || describe(&topic, matches.get_flag("all")));
        }
        "alter" => {
            let edits = edits(matches)?;
            let partitions = matches.get_one::<u32>("partitions");
            if edits.is_empty() && partitions.is_none() {
                return Err(Failure::Usage("give --option, --unset or --partitions".to_owned()));
            }
            let body = json!({"partitions": partitions, "options": edits});
            let topic = client.send(Method::PATCH, &path(), Some(body)).await?;
            report(&client, &topic, || describe(&topic, false));
        }
        _ => {
            client.send(Method::DELETE, &path(), None).await?;
            report(&client, &Value::Null, || output::line(format!("topic {} is deleted", name())));
        }
    }
    Ok(())
}

/// `--option`, which [`options`] reads.
pub(super) fn option_flag(help: &'static str) -> Arg {
    Arg::new("option")
        .long("option")
        .short('o')
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .help(help)
}

/// `--unset`, which [`edits`] reads.
pub(super) fn unset_flag() -> Arg {
    Arg::new("unset")
        .long("unset")
        .value_name("KEY")
        .action(ArgAction::Append)
        .help("An option that goes back to the default")
}

pub(super) fn options(matches: &ArgMatches) -> Result<Map<String, Value>, Failure> {
    let mut options = Map::new();
    for pair in matches.get_many::<String>("option").into_iter().flatten() {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Failure::Usage(format!("--option {pair:?} is refused: it must be KEY=VALUE"))
        })?;
        options.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    Ok(options)
}

/// `--option` and `--unset`, the latter as null.
pub(super) fn edits(matches: &ArgMatches) -> Result<Map<String, Value>, Failure> {
    let mut edits = options(matches)?;
    for key in matches.get_many::<String>("unset").into_iter().flatten() {
        edits.insert(key.clone(), Value::Null);
    }
    Ok(edits)
}

/// Prints the answer as JSON if that was asked for, else by `print`.
pub(super) fn report(client: &Client, answer: &Value, print: impl FnOnce()) {
    if client.json {
        output::json(answer);
    } else {
        print();
    }
}

fn count(topic: &Value) -> usize {
    topic["partitions"].as_array().map_or(0, Vec::len)
}

const TOPICS: &[Column] = &[
    ("TOPIC", "name"),
    ("PARTITIONS", "partitions"),
    ("RECORDS", "records"),
    ("SIZE", "size_bytes"),
    ("TABLE MODE", "table_mode"),
];

const PARTITIONS: &[Column] = &[
    ("PARTITION", "partition"),
    ("LOG START", "log_start_offset"),
    ("HIGH WATERMARK", "high_watermark"),
    ("DURABLE", "durable_end"),
    ("TIERED", "tiered_offset"),
    ("SIZE", "size_bytes"),
];

const OPTIONS: &[Column] = &[("OPTION", "key"), ("VALUE", "value"), ("SOURCE", "source")];

fn list(answer: &Value) {
    output::objects(TOPICS, answer["topics"].as_array().into_iter().flatten());
}

fn describe(topic: &Value, all: bool) {
    output::line(format!(
        "topic {} ({})",
        output::cell(&topic["name"]),
        output::cell(&topic["id"])
    ));
    output::objects(PARTITIONS, topic["partitions"].as_array().into_iter().flatten());
    let options: Vec<&Value> = topic["options"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|option| all || option["source"] != "default")
        .collect();
    if !options.is_empty() {
        output::line("");
        output::objects(OPTIONS, options);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_partition_has_stands_under_its_headings() {
        let partition = json!({
            "partition": 0, "log_start_offset": 1, "high_watermark": 4, "durable_end": 3,
            "tiered_offset": 2, "size_bytes": 2_048,
        });
        let wanted = [
            "PARTITION  LOG START  HIGH WATERMARK  DURABLE  TIERED  SIZE",
            "0          1          4               3        2       2.0 KiB",
        ];
        assert_eq!(output::lines(PARTITIONS, [&partition]), wanted);
    }
}
