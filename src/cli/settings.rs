//! Gathers settings from the TOML file, the environment and flags; later ones win.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{self, Config, Error, Kind, OLDER, OPTIONS, Settings};
use crate::schema::partition_spec;
use crate::table::storage;
use crate::topic::option_table;
use crate::topic::options;
use crate::topic::options::TopicOptions;

/// Variables that are no option of the server.
const OTHER_VARIABLES: &[&str] = &[
    "FLOE_CONFIG",
    "FLOE_URL",
    "FLOE_TOKEN",
    "FLOE_WEBHOOK_SECRET",
    "FLOE_LOG",
    "FLOE_LOG_FORMAT",
    "FLOE_BIN",
];

/// Adds a flag for every server option and every topic option.
pub(super) fn add_flags(mut command: Command) -> Command {
    command = command.arg(
        Arg::new("config")
            .long("config")
            .env("FLOE_CONFIG")
            .value_name("FILE")
            .help("TOML file with the same keys as the flags")
            .help_heading("Options"),
    );
    for spec in OPTIONS {
        let repeatable = matches!(spec.kind, Kind::NamedAddress | Kind::Names);
        let default = match spec.default {
            "" => String::new(),
            default => format!(" [default: {default}]"),
        };
        command = command.arg(
            Arg::new(spec.key)
                .long(flag(spec.key))
                .visible_aliases(other_flags(spec.key))
                .value_name(value_name(spec.kind))
                .action(if repeatable { ArgAction::Append } else { ArgAction::Set })
                .help(format!("{}{default} [env: {}]", spec.doc, variable(spec.key)))
                .help_heading("Server options"),
        );
    }
    for (key, doc) in topic_options() {
        command = command.arg(
            Arg::new(key)
                .long(flag(key))
                .visible_aliases(short_flag(key))
                .value_name("VALUE")
                .help(format!("{doc} [env: {}]", variable(key)))
                .help_heading("Topic options, for all topics that do not set their own"),
        );
    }
    command.arg(
        Arg::new("set")
            .long("set")
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .help("Any key, such as s3.endpoint or catalog.client.s3.endpoint")
            .help_heading("Options"),
    )
}

/// Resolves the configuration of `serve` from its arguments.
///
/// # Errors
/// [`Error`] names the key and where it came from.
pub(super) fn config(matches: &ArgMatches) -> Result<Config, Error> {
    let mut settings = Settings::new();
    if let Some(path) = matches.get_one::<String>("config") {
        settings = file(Path::new(path))?;
    }
    for (name, value) in std::env::vars() {
        if let Some(key) = key_of_variable(&name) {
            let values = if repeatable(&key) { split(&value) } else { vec![value] };
            settings.insert(key, values);
        } else if name.starts_with("FLOE_") && !OTHER_VARIABLES.contains(&name.as_str()) {
            return Err(Error(format!(
                "the environment variable {name} names no option (see floe serve --help)"
            )));
        }
    }
    for key in OPTIONS.iter().map(|spec| spec.key).chain(topic_options().map(|o| o.0)) {
        if let Some(values) = matches.get_many::<String>(key) {
            settings.insert(key.to_owned(), values.cloned().collect());
        }
    }
    for pair in matches.get_many::<String>("set").into_iter().flatten() {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error(format!("--set {pair:?} is refused: it must be KEY=VALUE")))?;
        settings.insert(config::current(key).to_owned(), vec![value.to_owned()]);
    }
    let topic_keys: Vec<&str> = topic_options().map(|option| option.0).collect();
    let mut config = Config::resolve(&settings, &topic_keys)?;
    // For a catalog of others it is only a name.
    if let Some(warehouse) = &config.warehouse
        && config.catalog_uri.is_none()
    {
        storage::check_location(warehouse).map_err(|allowed| {
            Error(format!("catalog.warehouse = {warehouse:?} is refused: {allowed}"))
        })?;
    }
    let given = &config.topic_defaults;
    let server = options::normalise(given, partition_spec::check)
        .and_then(|server| {
            TopicOptions::resolve("topic", &options::Overrides::new(), &server).map(|_| server)
        })
        .map_err(|error| Error(error.to_string()))?;
    config.topic_defaults = server;
    Ok(config)
}

/// Topic options that a server may set for all topics, with what they do.
fn topic_options() -> impl Iterator<Item = (&'static str, &'static str)> {
    option_table::OPTIONS.iter().filter(|def| !def.is_hidden()).map(|def| (def.key, def.doc))
}

fn flag(key: &str) -> String {
    key.replace('.', "-")
}

/// `--definitions` for `definitions.file`, and the flags of older names.
fn other_flags(key: &'static str) -> Vec<String> {
    let older = OLDER.iter().filter(|(_, current)| *current == key).map(|(older, _)| flag(older));
    key.strip_suffix(".file").map(flag).into_iter().chain(older).collect()
}

/// `--table-target-lag` for `table.target.lag.ms`.
fn short_flag(key: &str) -> Vec<String> {
    let short = key.strip_suffix(".ms").or_else(|| key.strip_suffix(".bytes"));
    short.filter(|short| short.starts_with("table.")).map(flag).into_iter().collect()
}

fn variable(key: &str) -> String {
    format!("FLOE_{}", key.replace(['.', '-'], "_").to_ascii_uppercase())
}

fn key_of_variable(name: &str) -> Option<String> {
    let known = OPTIONS.iter().map(|spec| spec.key).chain(topic_options().map(|o| o.0));
    for key in known {
        let short = key.strip_suffix(".ms").or_else(|| key.strip_suffix(".bytes")).unwrap_or(key);
        if name == variable(key) || name == variable(short) {
            return Some(key.to_owned());
        }
    }
    if let Some((_, key)) = OLDER.iter().find(|(older, _)| name == variable(older)) {
        return Some((*key).to_owned());
    }
    const STORAGE: &[&str] = &[
        "s3.endpoint",
        "s3.region",
        "s3.access-key-id",
        "s3.secret-access-key",
        "s3.session-token",
        "s3.path-style-access",
    ];
    let client = STORAGE.iter().map(|key| format!("catalog.client.{key}"));
    STORAGE.iter().map(|key| (*key).to_owned()).chain(client).find(|key| name == variable(key))
}

fn repeatable(key: &str) -> bool {
    OPTIONS
        .iter()
        .any(|spec| spec.key == key && matches!(spec.kind, Kind::NamedAddress | Kind::Names))
}

fn split(value: &str) -> Vec<String> {
    value.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::Path => "PATH",
        Kind::Address => "ADDRESS",
        Kind::NamedAddress => "[NAME=]ADDRESS",
        Kind::Names => "NAME",
        Kind::Bytes => "SIZE",
        Kind::Duration => "DURATION",
        Kind::Number => "NUMBER",
        Kind::Flag => "true|false",
        Kind::OneOf(_) => "WORD",
    }
}

fn file(path: &Path) -> Result<Settings, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error(format!("cannot read {}: {error}", path.display())))?;
    let table: toml::Table = text.parse().map_err(|error| {
        let hint = nested_hint(&text);
        Error(format!("{} is not TOML: {error}{hint}", path.display()))
    })?;
    let mut settings = Settings::new();
    flatten("", &toml::Value::Table(table), &mut settings)
        .map_err(|error| Error(format!("{}: {error}", path.display())))?;
    let own = nested().map(|(key, _)| (format!("{key}.{OWN_VALUE}"), key));
    let older = OLDER.iter().map(|(older, key)| ((*older).to_owned(), *key));
    for (given, key) in own.chain(older) {
        let Some(values) = settings.remove(&given) else { continue };
        if settings.insert(key.to_owned(), values).is_some() {
            return Err(Error(format!("{}: {key} is set twice", path.display())));
        }
    }
    Ok(settings)
}

/// Name of a key's own value where TOML makes a table of it, because another key begins with it.
const OWN_VALUE: &str = "path";

/// Keys that another key begins with, and that one: in TOML no key is a value and a table at once.
fn nested() -> impl Iterator<Item = (&'static str, &'static str)> {
    let keys = || OPTIONS.iter().map(|spec| spec.key);
    let begins =
        |key: &str, other: &str| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    keys().flat_map(move |key| {
        keys().filter(move |other| begins(key, other)).map(move |other| (key, other))
    })
}

/// How to write keys that begin with one another, if `text` may have tried.
fn nested_hint(text: &str) -> String {
    let last = |key: &'static str| key.rsplit('.').next().unwrap_or_default();
    let hints = nested()
        .filter(|(key, other)| text.contains(last(key)) && text.contains(last(other)))
        .map(|(key, other)| {
            format!(
                "\n{key} begins {other}: write them as {OWN_VALUE} and {} under [{key}], \
                 or quote the longer key",
                last(other)
            )
        });
    hints.collect()
}

fn flatten(prefix: &str, value: &toml::Value, settings: &mut Settings) -> Result<(), String> {
    let scalar = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    };
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, settings)?;
            }
        }
        toml::Value::Array(items) => {
            let values: Option<Vec<String>> = items.iter().map(scalar).collect();
            let values =
                values.ok_or_else(|| format!("{prefix} must be a list of plain values"))?;
            settings.insert(prefix.to_owned(), values);
        }
        value => {
            let value = scalar(value)
                .ok_or_else(|| format!("{prefix} = {value} must be a text, a number or a flag"))?;
            settings.insert(prefix.to_owned(), vec![value]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_the_same_as_flags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floe.toml");
        std::fs::write(
            &path,
            "[kafka]\nlisten = [\"a=127.0.0.1:1\", \"b=127.0.0.1:2\"]\n\
             [table]\nmode = \"off\"\n[num]\npartitions = 8\n",
        )
        .unwrap();
        let settings = file(&path).unwrap();
        assert_eq!(settings["kafka.listen"].len(), 2);
        assert_eq!(settings["num.partitions"], ["8"]);
        assert_eq!(settings["table.mode"], ["off"]);
        std::fs::write(&path, "a = 1.5").unwrap();
        assert!(file(&path).unwrap_err().0.contains("floe.toml"));
    }

    #[test]
    fn a_key_that_begins_another_one_can_be_set_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floe.toml");
        for text in [
            "[data.dir]\npath = \"/x\"\nnetwork = \"allow\"\n",
            "[data]\ndir.path = \"/x\"\ndir.network = \"allow\"\n",
            "[data]\ndir = \"/x\"\n\"dir.network\" = \"allow\"\n",
            "\"data.dir\" = \"/x\"\ndata.dir.network = \"allow\"\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let config = Config::resolve(&file(&path).unwrap(), &[]).unwrap();
            assert_eq!(config.data_dir, Path::new("/x"), "{text}");
            assert!(config.data_dir_network, "{text}");
        }
        std::fs::write(&path, "[data]\ndir = \"/x\"\ndir.network = \"allow\"\n").unwrap();
        let error = file(&path).unwrap_err().0;
        assert!(error.contains("path and network under [data.dir]"), "{error}");
        std::fs::write(&path, "[data]\ndir = /x\n").unwrap();
        assert!(!file(&path).unwrap_err().0.contains("[data.dir]"));
        std::fs::write(&path, "\"data.dir\" = \"/x\"\ndata.dir.path = \"/y\"\n").unwrap();
        assert!(file(&path).unwrap_err().0.contains("data.dir is set twice"));
    }

    #[test]
    fn a_key_counts_under_its_older_name_too() {
        let flags = |args: &[&str]| {
            let args = [&["serve"], args].concat();
            let matches = add_flags(Command::new("serve")).try_get_matches_from(args).unwrap();
            config(&matches).unwrap().catalog_names
        };
        let wanted = ["floe", "analytics", "lake"];
        assert_eq!(flags(&["--catalog-alias=analytics", "--catalog-alias=lake"]), wanted);
        let now = "--catalog-embedded-aliases";
        assert_eq!(flags(&[now, "analytics", now, "lake"]), wanted);
        for key in ["catalog.alias", "catalog.embedded.aliases"] {
            assert_eq!(flags(&["--set", &format!("{key}=analytics")]), wanted[..2], "{key}");
        }
        for name in ["FLOE_CATALOG_ALIAS", "FLOE_CATALOG_EMBEDDED_ALIASES"] {
            let key = key_of_variable(name);
            assert_eq!(key.as_deref(), Some("catalog.embedded.aliases"), "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floe.toml");
        let now = "[catalog.embedded]\naliases = [\"analytics\", \"lake\"]\n";
        let older = "[catalog]\nalias = [\"analytics\", \"lake\"]\n";
        for text in [now, older] {
            std::fs::write(&path, text).unwrap();
            let config = Config::resolve(&file(&path).unwrap(), &[]).unwrap();
            assert_eq!(config.catalog_names, wanted, "{text}");
        }
        std::fs::write(&path, format!("{older}{now}")).unwrap();
        assert!(file(&path).unwrap_err().0.contains("aliases is set twice"));
    }

    #[test]
    fn variables_of_other_commands_are_no_fault_of_the_server() {
        let mut commands = vec![crate::cli::command()];
        let mut seen = 0;
        while let Some(command) = commands.pop() {
            for name in command.get_arguments().filter_map(Arg::get_env) {
                let name = name.to_str().unwrap();
                assert!(OTHER_VARIABLES.contains(&name), "{name}");
                seen += 1;
            }
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(seen > 4, "only {seen} variables were found");
    }

    #[test]
    fn every_flag_is_accepted_and_resolves() {
        let command = add_flags(Command::new("serve"));
        let matches = command
            .try_get_matches_from([
                "serve",
                "--table-target-lag",
                "1s",
                "--kafka-listen",
                "127.0.0.1:0",
                "--set",
                "s3.endpoint=http://127.0.0.1:9000",
            ])
            .unwrap();
        let config = config(&matches).unwrap();
        assert_eq!(config.topic_defaults["table.target.lag.ms"], "1s");
        assert_eq!(config.storage["s3.endpoint"], "http://127.0.0.1:9000");
    }
}
