//! `floe webhook create|list|rotate|delete`, over the running server.

use clap::{Arg, ArgMatches, Command};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{self, Client, Failure, segment};
use super::output;
use super::topic::report;

const EXAMPLES: &str = "\
Examples:
  floe webhook create shop --topic github_events --scheme github     prints the secret, once
  floe webhook create forms --topic forms --scheme url               prints the path of its URL, once
  FLOE_WEBHOOK_SECRET=whsec_... floe webhook create billing --topic billing --scheme standard";

pub(super) fn command() -> Command {
    let name = || Arg::new("name").required(true).value_name("NAME").help("What you call it");
    let secret = || {
        Arg::new("secret")
            .long("secret")
            .value_name("SECRET")
            .env("FLOE_WEBHOOK_SECRET")
            .hide_env_values(true)
            .help("The secret, where the sender has chosen it; without it a new one")
    };
    client::add_flags(
        Command::new("webhook")
            .about("Makes, lists and deletes webhooks: senders without a token, each for one topic")
            .after_help(EXAMPLES)
            .subcommand_required(true)
            .arg_required_else_help(true),
    )
    .subcommand(
        Command::new("create")
            .about("Makes a webhook and prints its secret, or its path, once")
            .after_help(EXAMPLES)
            .arg(name())
            .arg(
                Arg::new("topic")
                    .long("topic")
                    .value_name("TOPIC")
                    .required(true)
                    .help("Where its events go"),
            )
            .arg(
                Arg::new("scheme")
                    .long("scheme")
                    .value_name("SCHEME")
                    .value_parser(["github", "standard", "url"])
                    .default_value("standard")
                    .help("github: X-Hub-Signature-256; standard: Standard Webhooks; url: a secret in the path"),
            )
            .arg(secret()),
    )
    .subcommand(
        Command::new("rotate")
            .about("Gives a webhook a new secret and prints it, or its path, once")
            .arg(name())
            .arg(secret()),
    )
    .subcommand(Command::new("list").about("Lists webhooks, without secrets"))
    .subcommand(Command::new("delete").about("Ends a webhook at once").arg(name()))
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    const WEBHOOKS: &str = "/api/v1/webhooks";
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Failure::Usage("see floe webhook --help".to_owned()));
    };
    let client = Client::new(matches)?;
    let text = |key: &str| matches.get_one::<String>(key).map_or("", String::as_str);
    match verb {
        "create" => {
            let body = json!({
                "name": text("name"),
                "topic": text("topic"),
                "scheme": text("scheme"),
                "secret": matches.get_one::<String>("secret"),
            });
            let answer = client.send(Method::POST, WEBHOOKS, Some(body)).await?;
            report(&client, &answer, || output::line(told(&answer)));
        }
        "rotate" => {
            let path = format!("{WEBHOOKS}/{}/rotate", segment(text("name")));
            let body = json!({ "secret": matches.get_one::<String>("secret") });
            let answer = client.send(Method::POST, &path, Some(body)).await?;
            report(&client, &answer, || output::line(told(&answer)));
        }
        "list" => {
            let answer = client.send(Method::GET, WEBHOOKS, None).await?;
            report(&client, &answer, || list(&answer));
        }
        _ => {
            let path = format!("{WEBHOOKS}/{}", segment(text("name")));
            let answer = client.send(Method::DELETE, &path, None).await?;
            report(&client, &answer, || {
                output::line(format!("webhook {} is deleted", text("name")));
            });
        }
    }
    Ok(())
}

/// What the sender must know: its secret, or the path that has it.
fn told(answer: &Value) -> String {
    let key = if answer["scheme"] == "url" { "path" } else { "secret" };
    output::cell(&answer[key])
}

fn list(answer: &Value) {
    let keys = ["name", "topic", "scheme", "path", "created_ms"];
    let row = |webhook: &Value| -> Vec<String> {
        keys.iter().map(|key| output::field(key, &webhook[key])).collect()
    };
    let rows: Vec<Vec<String>> =
        answer["webhooks"].as_array().into_iter().flatten().map(row).collect();
    output::table(&["WEBHOOK", "TOPIC", "SCHEME", "PATH", "CREATED"], &rows);
}
