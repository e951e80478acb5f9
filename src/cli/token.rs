//! `floe token create|list|revoke`, over the running server, or in a data directory without one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{self, Client, Failure, segment};
use super::output;
use super::topic::report;
use crate::auth::rule::GRAMMAR;
use crate::auth::{self, NewToken};
use crate::broker::{self, Components, Offline};
use crate::config::{Config, Settings, units};
use crate::http::admin::{SERVICE_STAYS, identity_of, service_tokens, shown_token};
use crate::runtime::tasks::OnFatal;
use crate::types::OwnRate;

const EXAMPLES: &str = "\
Examples:
  floe token create admin --data-dir floe-data           the first one, before the server runs
  floe token create shop --allow write:topic:orders-* --allow create:topic:orders-* --expires 30d
  floe token create ci --subject 'repo:example/shop' --allow write:topic:*   for a JWT of the issuer
  floe token create pos --certificate 'CN=pos,O=Example' --allow write:topic:sales
  floe token create spark --allow read:table:* --allow describe:cluster
  FLOE_TOKEN=$(floe token create admin --data-dir floe-data) floe serve";

pub(super) fn command() -> Command {
    let data_dir = Arg::new("data-dir")
        .long("data-dir")
        .global(true)
        .value_name("PATH")
        .help("Work in this data directory, which no server may run on, instead of over --url");
    client::add_flags(
        Command::new("token")
            .about("Makes, lists and revokes the tokens that requests are sent with")
            .after_help(format!("{GRAMMAR}\n\n{EXAMPLES}"))
            .subcommand_required(true)
            .arg_required_else_help(true)
            .arg(data_dir),
    )
    .subcommand(
        Command::new("create")
            .about(
                "Makes a token and prints it, once; from the first one on every request needs one",
            )
            .after_help(format!("{GRAMMAR}\n\n{EXAMPLES}"))
            .arg(Arg::new("name").required(true).value_name("NAME").help("What you call it"))
            .arg(
                Arg::new("allow")
                    .long("allow")
                    .value_name("RULE")
                    .action(ArgAction::Append)
                    .help("What it may do, repeatable; without any it may do everything"),
            )
            .arg(
                Arg::new("subject").long("subject").value_name("SUBJECT").help(
                    "Instead of a secret: whoever has a JWT of auth.oidc.issuer with this subject",
                ),
            )
            .arg(
                Arg::new("certificate")
                    .long("certificate")
                    .value_name("SUBJECT")
                    .conflicts_with("subject")
                    .help(
                        "Instead of a secret: whoever has a client certificate with this subject, as \
                         `openssl x509 -noout -subject -nameopt RFC2253` prints it",
                    ),
            )
            .arg(
                Arg::new("expires")
                    .long("expires")
                    .value_name("DURATION")
                    .help("How long it holds, such as 12h or 30d; without it for ever"),
            )
            .args(rate_flags()),
    )
    .subcommand(
        Command::new("list").about(
            "Lists tokens, those that are over too, without secrets, and as whom sinks write",
        ),
    )
    .subcommand(
        Command::new("revoke")
            .about("Ends a token at once, on open connections too")
            .arg(Arg::new("name").required(true).value_name("NAME|ID").help("Its name or its id")),
    )
}

fn rate_flags() -> [Arg; 2] {
    let requests = "Most requests with events in a second over HTTP, instead of \
                    http.rate.requests; 0 is without limit";
    let bytes = "Most bytes of bodies in a second over HTTP, instead of http.rate.bytes; 0 is \
                 without limit";
    let flag = |name: &'static str, value| Arg::new(name).long(name).value_name(value);
    [
        flag("rate-requests", "NUMBER").value_parser(value_parser!(u32)).help(requests),
        flag("rate-bytes", "SIZE").help(bytes),
    ]
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Failure::Usage("see floe token --help".to_owned()));
    };
    let client = Client::new(matches)?;
    let answer = match matches.get_one::<String>("data-dir") {
        None => remote(&client, verb, matches).await?,
        Some(data_dir) => {
            let offline = open(Path::new(data_dir)).await?;
            let answer = local(&offline, verb, matches).await;
            offline.close().await;
            answer?
        }
    };
    match verb {
        "create" => {
            report(&client, &answer, || match answer["token"].as_str() {
                Some(token) => output::line(token),
                None => output::line(format!("token {} is made", name(matches))),
            });
            if answer["enforces"] == true {
                output::progress("from now on every request needs a token");
            }
        }
        "list" => report(&client, &answer, || list(&answer)),
        _ => report(&client, &answer, || {
            output::line(format!("token {} is revoked", name(matches)));
        }),
    }
    Ok(())
}

fn name(matches: &ArgMatches) -> &str {
    matches.get_one::<String>("name").map_or("", String::as_str)
}

fn text(matches: &ArgMatches, key: &str) -> Option<String> {
    matches.get_one::<String>(key).cloned()
}

fn allow(matches: &ArgMatches) -> Vec<String> {
    matches.get_many::<String>("allow").into_iter().flatten().cloned().collect()
}

fn expires_in(matches: &ArgMatches) -> Result<Option<Duration>, Failure> {
    let Some(text) = matches.get_one::<String>("expires") else { return Ok(None) };
    let refused =
        |allowed: &str| Failure::Usage(format!("--expires {text:?} is refused: {allowed}"));
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused("it needs a unit, such as 12h or 30d"));
    }
    let ms = units::parse_duration_ms(text).map_err(|allowed| refused(&allowed))?;
    Ok(Some(Duration::from_millis(u64::try_from(ms).unwrap_or_default())))
}

/// What may be sent with it in a second.
fn rate(matches: &ArgMatches) -> Result<OwnRate, Failure> {
    let requests = matches.get_one::<u32>("rate-requests").copied();
    let bytes = text(matches, "rate-bytes").map(|text| {
        let refused =
            |allowed| Failure::Usage(format!("--rate-bytes {text:?} is refused: {allowed}"));
        units::parse_bytes(&text).map_err(refused)
    });
    Ok(OwnRate { requests, bytes: bytes.transpose()? })
}

async fn remote(client: &Client, verb: &str, matches: &ArgMatches) -> Result<Value, Failure> {
    const TOKENS: &str = "/api/v1/tokens";
    match verb {
        "create" => {
            let expires_in_ms = expires_in(matches)?.map(|time| time.as_millis() as u64);
            let rate = rate(matches)?;
            let body = json!({
                "name": name(matches),
                "allow": allow(matches),
                "expires_in_ms": expires_in_ms,
                "subject": text(matches, "subject"),
                "certificate": text(matches, "certificate"),
                "rate_requests": rate.requests,
                "rate_bytes": rate.bytes,
            });
            client.send(Method::POST, TOKENS, Some(body)).await
        }
        "list" => client.send(Method::GET, TOKENS, None).await,
        _ => {
            let path = format!("{TOKENS}/{}", segment(name(matches)));
            client.send(Method::DELETE, &path, None).await
        }
    }
}

async fn local(offline: &Offline, verb: &str, matches: &ArgMatches) -> Result<Value, Failure> {
    let auth = offline.auth();
    let services = || service_tokens(offline.sinks(), |_| None);
    let refused = |error: auth::Error| Failure::Refused(error.to_string());
    match verb {
        "create" => {
            let expires_in = expires_in(matches)?;
            let (subject, certificate) = (text(matches, "subject"), text(matches, "certificate"));
            let identity = identity_of(subject, certificate).map_err(refused)?;
            let (name, allow) = (name(matches).to_owned(), allow(matches));
            let new = NewToken { name, allow, expires_in, identity, rate: rate(matches)? };
            let made = auth.create(new).await.map_err(refused)?;
            let mut answer = shown_token(&made.token, auth.now_ms());
            if made.token.identity().is_none() {
                answer["token"] = made.text.into();
            }
            // No server runs that could be surprised.
            answer["enforces"] = false.into();
            Ok(answer)
        }
        "list" => {
            let tokens = auth.list();
            let tokens = tokens.iter().map(|token| shown_token(token, auth.now_ms()));
            let all: Vec<Value> = tokens.chain(services()).collect();
            Ok(json!({ "tokens": all }))
        }
        _ => {
            let name = name(matches);
            if services().iter().any(|one| one["id"] == name || one["name"] == name) {
                return Err(Failure::Refused(SERVICE_STAYS.to_owned()));
            }
            auth.revoke(name).await.map(|_| Value::Null).map_err(refused)
        }
    }
}

/// Opens a data directory, which is made if it is not there.
async fn open(data_dir: &Path) -> Result<Offline, Failure> {
    let mut settings = Settings::new();
    for (key, value) in
        [("data.dir", data_dir.to_string_lossy().as_ref()), ("wal.file.bytes", "16MiB")]
    {
        settings.insert(key.to_owned(), vec![value.to_owned()]);
    }
    let config = Config::resolve(&settings, &[]).map_err(|error| Failure::Usage(error.0))?;
    let on_fatal: OnFatal = Arc::new(|reason| {
        output::error(format!("fatal: {reason}"));
        std::process::exit(70);
    });
    Offline::open(&config, &Components::real(on_fatal)).await.map_err(|error| {
        let text = error.to_string();
        let hint = match matches!(error, broker::Error::Failed(_)) && text.contains("in use") {
            true => "; if that is a server, leave --data-dir out: it is asked over --url",
            false => "",
        };
        Failure::Refused(format!("{text}{hint}"))
    })
}

fn list(answer: &Value) {
    let keys = ["name", "id", "state", "created_ms", "expires_ms", "last_used_ms"];
    let row = |token: &Value| {
        let mut row: Vec<String> = keys.iter().map(|key| output::field(key, &token[key])).collect();
        let identity = ["subject", "certificate"].into_iter();
        let identity =
            identity.filter_map(|kind| Some(format!("{kind} {}", token[kind].as_str()?)));
        let whose: String = identity.collect();
        row.push(token["description"].as_str().map_or(whose, str::to_owned));
        let rules: Vec<String> =
            token["allow"].as_array().into_iter().flatten().map(output::cell).collect();
        row.push(if rules.is_empty() { "all".to_owned() } else { rules.join(" ") });
        row
    };
    let rows: Vec<Vec<String>> =
        answer["tokens"].as_array().into_iter().flatten().map(row).collect();
    output::table(
        &["TOKEN", "ID", "STATE", "CREATED", "EXPIRES", "LAST USED", "WHOSE", "ALLOW"],
        &rows,
    );
}
