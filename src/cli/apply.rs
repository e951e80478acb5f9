//! `floe apply FILE`: makes topics, their sinks, and sources as a file says that lies in a repository,
//! over the running server. What is as the file says is left alone, so it can run again and again.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{self, Client, Failure, segment};
use super::output;
use super::sink::read_file;
use crate::config::{Declared, DeclaredTopic};

const EXAMPLES: &str = "\
A file, in TOML or JSON (by its name):
  [topics.shop]
  partitions = 3
  options = { \"table.mode\" = \"off\", \"retention.ms\" = 604800000 }

  [topics.shop.sinks.prices]
  table = { namespace = \"streams\", name = \"prices\" }
  mapping.columns = [
    { type = \"uuid\", name = \"id\" },
    { type = \"path\", name = \"price\", path = \"price\", dataType = \"double\" },
  ]

  [sources.shop]
  topic = \"shop\"

  [streams.shop]                    # none of them: streams stay as they are
  namespace = \"prod\"

Examples:
  floe apply floe.toml --dry-run
  floe apply floe.toml
  floe apply floe.toml --prune      # what the file has no more is deleted; topics and tables stay";

pub(super) fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    client::add_flags(
        Command::new("apply")
            .about("Makes topics, sinks, sources and streams as a file says")
            .after_help(EXAMPLES)
            .arg(
                Arg::new("file")
                    .required(true)
                    .value_name("FILE")
                    .help("NAME.json, or else TOML; - is JSON from standard input"),
            )
            .arg(flag("dry-run", "Check as much as can be and change nothing"))
            .arg(flag("prune", "Delete sources, streams, and sinks and options of the file's topics, that the file does not have")),
    )
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let client = Client::new(matches)?;
    let path = matches.get_one::<String>("file").map_or("", String::as_str);
    let declared = Declared::parse(path, &read_file(path)?);
    let declared = declared.map_err(|error| Failure::Usage(error.0))?;
    let (dry_run, prune) = (matches.get_flag("dry-run"), matches.get_flag("prune"));
    let mut run = Run { client, dry_run, prune, done: Vec::new() };
    let result = run.all(declared).await;
    if run.client.json {
        output::json(&Value::Array(run.done));
    }
    result
}

struct Run {
    client: Client,
    dry_run: bool,
    prune: bool,
    /// What became of each thing, for `--json`.
    done: Vec<Value>,
}

impl Run {
    async fn all(&mut self, declared: Declared) -> Result<(), Failure> {
        let listed = self.client.send(Method::GET, "/api/v1/topics", None).await?;
        for (name, topic) in declared.topics {
            let is_there = names(&listed["topics"], "name").contains(&name);
            self.topic(&name, is_there, &topic)
                .await
                .map_err(|failure| of("topic", &name, failure))?;
            self.sinks(&name, is_there, topic.sinks).await?;
        }
        self.sources(declared.sources).await?;
        self.streams(declared.streams).await
    }

    async fn topic(
        &mut self,
        name: &str,
        is_there: bool,
        wish: &DeclaredTopic,
    ) -> Result<(), Failure> {
        let path = format!("/api/v1/topics/{}", segment(name));
        if !is_there {
            if !self.dry_run {
                let mut body = json!({ "name": name, "options": wish.options });
                if let Some(partitions) = wish.partitions {
                    body["partitions"] = partitions.into();
                }
                self.client.send(Method::POST, "/api/v1/topics", Some(body)).await?;
            }
            self.tell("topic", name, "made");
            return Ok(());
        }
        let before = self.client.send(Method::GET, &path, None).await?;
        let mut options: Map<String, Value> = wish.options.clone().into_iter().collect();
        if self.prune {
            for key in own_options(&before).into_keys() {
                options.entry(key).or_insert(Value::Null);
            }
        }
        let count = before["partitions"].as_array().map_or(0, Vec::len) as i64;
        let grows = wish.partitions.filter(|wanted| i64::from(*wanted) != count);
        let is_same = grows.is_none()
            && options
                .iter()
                .all(|(key, value)| own_options(&before).get(key) == text(value).as_ref());
        if is_same || self.dry_run {
            self.tell("topic", name, if is_same { "unchanged" } else { "changed" });
            return Ok(());
        }
        let mut body = json!({ "options": options });
        if let Some(partitions) = grows {
            body["partitions"] = partitions.into();
        }
        let after = self.client.send(Method::PATCH, &path, Some(body)).await?;
        let is_same = grows.is_none() && own_options(&before) == own_options(&after);
        self.tell("topic", name, if is_same { "unchanged" } else { "changed" });
        Ok(())
    }

    async fn sinks(
        &mut self,
        topic: &str,
        is_there: bool,
        wishes: BTreeMap<String, Value>,
    ) -> Result<(), Failure> {
        let all = format!("/api/v1/topics/{}/sinks", segment(topic));
        let name = |id: &str| format!("{topic}/{id}");
        if !is_there && self.dry_run {
            for id in wishes.keys() {
                self.tell("sink", &name(id), "made, as far as can be told before its topic is");
            }
            return Ok(());
        }
        let listed = self.client.send(Method::GET, &all, None).await?;
        for (id, wish) in &wishes {
            let done = self.put(&all, id, wish, &listed["sinks"]).await;
            let done = done.map_err(|failure| of("sink", &name(id), failure))?;
            self.tell("sink", &name(id), done);
        }
        for id in names(&listed["sinks"], "id").into_iter().filter(|id| !wishes.contains_key(id)) {
            self.drop_it(&all, "sink", (&id, &name(&id))).await?;
        }
        Ok(())
    }

    async fn sources(&mut self, wishes: BTreeMap<String, Value>) -> Result<(), Failure> {
        const ALL: &str = "/api/v1/sources";
        if wishes.is_empty() && !self.prune {
            return Ok(());
        }
        let listed = self.client.send(Method::GET, ALL, None).await?;
        for (id, wish) in &wishes {
            let done = self.put(ALL, id, wish, &listed["sources"]).await;
            let done = done.map_err(|failure| of("source", id, failure))?;
            self.tell("source", id, done);
        }
        for id in names(&listed["sources"], "id").into_iter().filter(|id| !wishes.contains_key(id))
        {
            self.drop_it(ALL, "source", (&id, &id)).await?;
        }
        Ok(())
    }

    /// Of a file that says nothing of streams they stay as they are.
    async fn streams(&mut self, wishes: Option<BTreeMap<String, Value>>) -> Result<(), Failure> {
        const ALL: &str = "/api/v1/streams";
        let Some(wishes) = wishes else { return Ok(()) };
        let listed = self.client.send(Method::GET, ALL, None).await?;
        for (name, wish) in &wishes {
            let done = self.put(ALL, name, wish, &listed["streams"]).await;
            let done = done.map_err(|failure| of("stream", name, failure))?;
            self.tell("stream", name, done);
        }
        let known = names(&listed["streams"], "name").into_iter();
        for name in known.filter(|name| !wishes.contains_key(name)) {
            self.drop_it(ALL, "stream", (&name, &name)).await?;
        }
        Ok(())
    }

    /// Makes or replaces one of `all`; what became of it.
    async fn put(
        &self,
        all: &str,
        id: &str,
        wish: &Value,
        listed: &Value,
    ) -> Result<&'static str, Failure> {
        let query = if self.dry_run { "?dry_run=true" } else { "" };
        let path = format!("{all}/{}{query}", segment(id));
        let now = self.client.send(Method::PUT, &path, Some(wish.clone())).await?;
        let mut known = listed.as_array().into_iter().flatten();
        // Streams have no id and no number of a version.
        let is_it = |one: &&Value| one.get("id").unwrap_or(&one["name"]) == id;
        let is_same = |before: &Value| {
            let members = ["version", "namespace", "tags", "options"];
            members.iter().all(|member| before[*member] == now[*member])
        };
        Ok(match known.find(is_it) {
            None => "made",
            Some(before) if is_same(before) => "unchanged",
            Some(_) => "changed",
        })
    }

    /// Deletes what the file does not have, if that is wanted.
    async fn drop_it(
        &mut self,
        all: &str,
        kind: &str,
        (id, name): (&str, &str),
    ) -> Result<(), Failure> {
        if !self.prune {
            self.tell(kind, name, "not in the file");
            return Ok(());
        }
        if !self.dry_run {
            let path = format!("{all}/{}", segment(id));
            let deleted = self.client.send(Method::DELETE, &path, None).await;
            deleted.map_err(|failure| of(kind, name, failure))?;
        }
        self.tell(kind, name, "deleted");
        Ok(())
    }

    fn tell(&mut self, kind: &str, name: &str, done: &str) {
        let changes = !["unchanged", "not in the file"].contains(&done);
        let done = if self.dry_run && changes { format!("would be {done}") } else { done.into() };
        if self.client.json {
            self.done.push(json!({ "kind": kind, "name": name, "result": done }));
        } else {
            output::line(format!("{kind:<7} {name:<40} {done}"));
        }
    }
}

/// The failure with what it is about.
fn of(kind: &str, name: &str, failure: Failure) -> Failure {
    let text = |text: String| format!("{kind} {name}: {text}");
    match failure {
        Failure::Refused(reason) => Failure::Refused(text(reason)),
        Failure::Usage(reason) => Failure::Usage(text(reason)),
        Failure::Unreachable(reason) => Failure::Unreachable(text(reason)),
    }
}

fn names(listed: &Value, member: &str) -> Vec<String> {
    let all = listed.as_array().into_iter().flatten();
    all.filter_map(|one| one[member].as_str().map(str::to_owned)).collect()
}

/// Options that the topic has of its own, as text.
fn own_options(topic: &Value) -> BTreeMap<String, String> {
    let all = topic["options"].as_array().into_iter().flatten();
    let own = all.filter(|option| option["source"] == "topic");
    own.filter_map(|option| Some((option["key"].as_str()?.to_owned(), text(&option["value"])?)))
        .collect()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
