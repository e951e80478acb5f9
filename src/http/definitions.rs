//! A file that says what sinks, sources and streams there are (`definitions.file`): at the start they are made
//! so, and requests do not change them from then on.
//!
//! Owns: the order in which a file is checked and applied. Does not own: the form of the file
//! (`config`), what may be asked of topics, sinks and sources (`topic`, `sink`, `source`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;

use super::Api;
use super::admin::{precondition, sinks, sources, topics};
use super::streams::{manage, put};
use crate::auth::{Operation, Resource};
use crate::config::{Declared, DeclaredTopic, FILE_BYTES_MAX};
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::sink::{self, SINKS_MAX, SINKS_PER_TOPIC_MAX, Sink};
use crate::source::{self, SOURCES_MAX};
use crate::store::history::Edit;
use crate::stream::{NewStream, STREAMS_MAX};
use crate::topic::option_value::definition;
use crate::topic::{Editor, NewTopic, OptionEdit, Topic};
use crate::types::Expected;

/// A file as it was read.
#[derive(Debug)]
pub struct Definitions {
    path: PathBuf,
    declared: Declared,
    prune: bool,
}

impl Definitions {
    /// Reads the file. With `prune`, what it does not have is to be deleted. Blocks.
    ///
    /// # Errors
    /// A text that names the file and what is wrong with it.
    pub fn read(path: &Path, prune: bool) -> Result<Self, String> {
        let shown = path.display().to_string();
        let failed = |error: &dyn Display| format!("{shown}: {error}");
        let size = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(failed(&format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
        let declared = Declared::parse(&shown, &bytes).map_err(|error| error.0)?;
        Ok(Self { path: path.to_owned(), declared, prune })
    }

    /// Names of the topics that it has.
    fn topics(&self) -> BTreeSet<String> {
        self.declared.topics.keys().cloned().collect()
    }
}

/// Who made what a file says, as everybody may see it: where the file lies is the server's affair.
fn edit() -> Edit {
    Edit::by("definitions.file")
}

/// What has to be done so that everything is as a file says: all of it can be done.
#[derive(Default)]
struct Plan {
    made: Vec<NewTopic>,
    /// Of topics that are there: options that change, and how many partitions there are to be.
    altered: Vec<(String, Vec<OptionEdit>, Option<i32>)>,
    /// Partitions that both have more than there are.
    partitions: usize,
    /// By topic and id.
    sinks: Vec<(String, String, sink::Wish)>,
    dropped_sinks: Vec<Arc<Sink>>,
    sources: Vec<(String, source::Wish)>,
    dropped_sources: Vec<String>,
    streams: Vec<NewStream>,
    dropped_streams: Vec<String>,
}

impl Api {
    /// Refuses a change of a sink or a source while a file says what they are; to try one is none.
    ///
    /// # Errors
    /// `read_only`, with the name of the file for those who may alter the cluster.
    pub(in crate::http) fn may_define(
        &self,
        caller: &Caller,
        dry_run: bool,
    ) -> Result<(), Problem> {
        let Some(path) = self.options.definitions.as_ref().filter(|_| !dry_run) else {
            return Ok(());
        };
        let file = match caller.may(Operation::Alter, Resource::Cluster) {
            true => path.display().to_string(),
            false => "a file of the server".to_owned(),
        };
        let detail = format!(
            "this is as {file} says (definitions.file): change that file and start the server again"
        );
        Err(Problem::new("read_only", detail))
    }

    /// [`Self::may_define`] for streams, which a file need not speak of.
    ///
    /// # Errors
    /// As [`Self::may_define`].
    pub(in crate::http) fn may_define_streams(
        &self,
        caller: &Caller,
        dry_run: bool,
    ) -> Result<(), Problem> {
        match self.has_defined_streams.load(Ordering::Relaxed) {
            true => self.may_define(caller, dry_run),
            false => Ok(()),
        }
    }

    /// Makes topics, sinks, sources and streams as the file says. Nothing is changed unless all of it can be.
    /// Before any request is answered: nobody else changes them meanwhile.
    ///
    /// # Errors
    /// A text that says what cannot be, and why.
    pub async fn define(&self, definitions: &Definitions) -> Result<(), String> {
        let path = definitions.path.display();
        let plan = self.plan(definitions).await.map_err(|error| format!("{path}: {error}"))?;
        let (sinks, sources, streams) = (plan.sinks.len(), plan.sources.len(), plan.streams.len());
        let dropped = plan.dropped_sources.len() + plan.dropped_streams.len();
        let deleted = plan.dropped_sinks.len() + dropped;
        let topics = plan.made.len() + plan.altered.len();
        // Before a stream that is not in the file takes along what is.
        self.topics.keep(definitions.topics());
        let done = self.carry_out(plan).await;
        done.map_err(|error| format!("{path}, which is applied in part: {error}"))?;
        let has_streams = definitions.declared.streams.is_some();
        self.has_defined_streams.store(has_streams, Ordering::Relaxed);
        tracing::info!(file = %path, topics, sinks, sources, streams, deleted, "definitions applied");
        Ok(())
    }

    async fn plan(&self, definitions: &Definitions) -> Result<Plan, String> {
        let Definitions { declared, prune, .. } = definitions;
        let mut plan = Plan::default();
        for (name, topic) in &declared.topics {
            let there = self.topics.get(name);
            let planned = self.plan_topic(&mut plan, (name, topic), there.as_deref(), *prune).await;
            planned.map_err(|error| format!("topic {name}: {error}"))?;
            for (id, wish) in &topic.sinks {
                let planned = self.plan_sink(&mut plan, there.as_deref(), (name, id), wish).await;
                planned.map_err(|error| format!("sink {name}/{id}: {error}"))?;
            }
            let known = there.map_or_else(Vec::new, |topic| self.sinks.of_topic(topic.id));
            let gone =
                known.into_iter().filter(|sink| *prune && !topic.sinks.contains_key(&sink.id));
            plan.dropped_sinks.extend(gone);
        }
        for (id, wish) in &declared.sources {
            let planned = self.plan_source(&mut plan, id, wish);
            planned.map_err(|error| format!("source {id}: {error}"))?;
        }
        if let Some(streams) = &declared.streams {
            self.plan_streams(&mut plan, streams, *prune).await?;
        }
        if *prune {
            let known = self.sources.list().into_iter().map(|source| source.id.clone());
            plan.dropped_sources = known.filter(|id| !declared.sources.contains_key(id)).collect();
        }
        let room = self.topics.check_room(plan.made.len(), plan.partitions);
        room.map_err(|error| error.to_string())?;
        self.check_room(&plan)?;
        Ok(plan)
    }

    async fn plan_topic(
        &self,
        plan: &mut Plan,
        (name, wish): (&str, &DeclaredTopic),
        there: Option<&Topic>,
        prune: bool,
    ) -> Result<(), String> {
        if let Some(count) = wish.partitions.filter(|count| *count < 1) {
            return Err(format!("partitions = {count} is refused: at least 1, or leave it out"));
        }
        let text = |(key, value): (&String, &Value)| {
            let value = topics::text(key, value.clone()).map_err(|it| it.detail().to_owned())?;
            Ok((key.clone(), value))
        };
        let options: BTreeMap<String, Option<String>> =
            wish.options.iter().map(text).collect::<Result<_, String>>()?;
        let Some(topic) = there else {
            let given = options.into_iter().filter_map(|(key, value)| Some((key, value?)));
            let (name, partitions) = (name.to_owned(), wish.partitions);
            let new = NewTopic { name, partitions, overrides: given.collect() };
            let checked = self.topics.create(new.clone(), true).await;
            plan.partitions += checked.map_err(|error| error.to_string())?.partitions.len();
            plan.made.push(new);
            return Ok(());
        };
        let is_said = |own: &&String| options.keys().any(|key| is_called(key, own));
        let own = topic.overrides.keys().filter(|own| prune && !is_said(own));
        let mut edits: Vec<OptionEdit> = own.cloned().map(OptionEdit::Delete).collect();
        edits.extend(options.into_iter().map(|(key, value)| match value {
            Some(value) => OptionEdit::Set(key, value),
            None => OptionEdit::Delete(key),
        }));
        let edited = self.topics.edit_for(name, edits.clone(), true, self.editor()).await;
        let edited = edited.map_err(|error| error.to_string())?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let grown = wish.partitions.filter(|wanted| *wanted > count);
        if let Some(total) = grown {
            let checked = self.topics.grow(name, total, true).await;
            let grown = checked.map_err(|error| error.to_string())?;
            plan.partitions += grown.partitions.len() - topic.partitions.len();
        } else if let Some(partitions) = wish.partitions.filter(|wanted| *wanted < count) {
            tracing::warn!(topic = name, partitions, count, "a topic keeps the partitions it has");
        }
        let edits = if edited.overrides == topic.overrides { Vec::new() } else { edits };
        if grown.is_some() || !edits.is_empty() {
            plan.altered.push((name.to_owned(), edits, grown));
        }
        Ok(())
    }

    async fn plan_sink(
        &self,
        plan: &mut Plan,
        topic: Option<&Topic>,
        (name, id): (&str, &str),
        wish: &Value,
    ) -> Result<(), String> {
        let wish: sink::Wish =
            precondition::wish_of(wish.clone(), &sinks::SHOWN_ONLY, "invalid_sink")
                .map_err(|problem| problem.detail().to_owned())?;
        let mapping = wish.check(id).map_err(|error| error.to_string())?;
        let wish = sink::Wish { mapping: mapping.to_json(), ..wish };
        let there = topic.and_then(|topic| self.sinks.get(topic.id, id));
        // What is so already needs no catalog.
        if there.as_ref().is_some_and(|sink| sink.wish == wish) {
            return Ok(());
        }
        let checked = sinks::check(self, topic.map(|topic| topic.id), id, &wish).await;
        checked.map_err(|unfit| unfit.to_string())?;
        if let (Some(topic), Some(_)) = (topic, there) {
            let asked = sinks::asked(self, topic, (id, wish.clone()), Edit::default()).await;
            let asked = asked.map_err(|problem| problem.detail().to_owned())?;
            let checked = self.sinks.put((topic.id, id), asked, Expected::Any, true).await;
            checked.map_err(|error| error.to_string())?;
        }
        plan.sinks.push((name.to_owned(), id.to_owned(), wish));
        Ok(())
    }

    fn plan_source(&self, plan: &mut Plan, id: &str, wish: &Value) -> Result<(), String> {
        let wish: source::Wish =
            precondition::wish_of(wish.clone(), &sources::SHOWN_ONLY, "invalid_source")
                .map_err(|problem| problem.detail().to_owned())?;
        let wish = wish.checked(id).map_err(|error| error.to_string())?;
        if self.sources.get(id).is_none_or(|source| source.wish != wish) {
            plan.sources.push((id.to_owned(), wish));
        }
        Ok(())
    }

    /// Streams, of a file that speaks of them.
    async fn plan_streams(
        &self,
        plan: &mut Plan,
        declared: &BTreeMap<String, Value>,
        prune: bool,
    ) -> Result<(), String> {
        let known = self.doors.streams.list();
        if prune {
            let names = known.iter().map(|stream| stream.name.clone());
            plan.dropped_streams = names.filter(|name| !declared.contains_key(name)).collect();
        }
        let mut count = known.len() - plan.dropped_streams.len();
        for (name, wish) in declared {
            let planned = async {
                let wish = put::wish(self, name, wish.clone())?;
                let (_, is_new) = put::store(self, None, wish.clone(), Expected::Any, true).await?;
                Ok((wish, is_new))
            };
            let failed = |it: Problem| format!("stream {name}: {}", it.detail());
            let (wish, is_new) = planned.await.map_err(failed)?;
            count += usize::from(is_new);
            plan.streams.push(wish);
        }
        match count > STREAMS_MAX {
            true => Err(format!("there would be more than {STREAMS_MAX} streams")),
            false => Ok(()),
        }
    }

    /// Checks everything together as it would be.
    fn check_room(&self, plan: &Plan) -> Result<(), String> {
        let wished: BTreeSet<(&str, &str)> =
            plan.sinks.iter().map(|(topic, id, _)| (topic.as_str(), id.as_str())).collect();
        let mut all = Vec::new();
        for topic_id in self.sinks.topics() {
            let topic = self.topics.live_or_draining(topic_id);
            // Sinks of a topic that is going away are not those of one with its name.
            let name = match &topic {
                Some((topic, false)) => topic.name.to_string(),
                _ => topic_id.to_string(),
            };
            for sink in self.sinks.all_of_topic(topic_id) {
                let is_dropped = plan.dropped_sinks.iter().any(|gone| gone.uid == sink.uid);
                if !is_dropped && !wished.contains(&(name.as_str(), sink.id.as_str())) {
                    let table = sink.wish.table.display();
                    all.push((name.clone(), sink.id.clone(), table, sink.is_live()));
                }
            }
        }
        let new = plan.sinks.iter();
        all.extend(new.map(|(t, id, wish)| (t.clone(), id.clone(), wish.table.display(), true)));
        crowded(&all).map_or(Ok(()), Err)?;
        let is_new = |(id, _): &&(String, source::Wish)| self.sources.get(id).is_none();
        let sources = self.sources.list().len() - plan.dropped_sources.len();
        if sources + plan.sources.iter().filter(is_new).count() > SOURCES_MAX {
            return Err(format!("there would be more than {SOURCES_MAX} sources"));
        }
        Ok(())
    }

    async fn carry_out(&self, plan: Plan) -> Result<(), String> {
        fn failed(error: impl Display) -> String {
            error.to_string()
        }
        for new in plan.made {
            self.topics.create(new, false).await.map_err(failed)?;
        }
        for (name, edits, grown) in plan.altered {
            if !edits.is_empty() {
                let edited = self.topics.edit_for(&name, edits, false, self.editor()).await;
                edited.map_err(failed)?;
            }
            if let Some(total) = grown {
                self.topics.grow(&name, total, false).await.map_err(failed)?;
            }
        }
        for sink in plan.dropped_sinks {
            let deleted = self.sinks.delete(sink.topic_id, &sink.id, Expected::Any).await;
            deleted.map_err(failed)?;
            tracing::info!(sink = sink.id, table = sink.wish.table.display(), "sink deleted");
        }
        for (topic, id, wish) in plan.sinks {
            let unknown = || format!("topic {topic} is gone");
            let topic = self.topics.get(&topic).ok_or_else(unknown)?;
            let asked = sinks::asked(self, &topic, (&id, wish), edit()).await;
            let asked = asked.map_err(|problem| problem.detail().to_owned())?;
            let put = self.sinks.put((topic.id, &id), asked, Expected::Any, false).await;
            let version = put.map_err(failed)?.sink().version;
            tracing::info!(topic = topic.name.as_str(), sink = id, version, "sink changed");
        }
        for name in plan.dropped_streams {
            manage::forget(self, &name, Expected::Any).await.map_err(failed)?;
            tracing::info!(stream = name, "stream deleted");
        }
        for wish in plan.streams {
            let put = put::store(self, None, wish, Expected::Any, false).await;
            put.map_err(|problem| problem.detail().to_owned())?;
        }
        for id in plan.dropped_sources {
            self.sources.delete(&id, Expected::Any).await.map_err(failed)?;
            tracing::info!(source = id, "source deleted");
        }
        for (id, wish) in plan.sources {
            let put = self.sources.put(&id, wish, edit(), Expected::Any, false).await;
            let version = put.map_err(failed)?.0.version;
            tracing::info!(source = id, version, "source changed");
        }
        Ok(())
    }

    fn editor(&self) -> Editor {
        let log = self.log.clone();
        Editor { ends: Box::new(move |partitions| log.ends(partitions)), ..Editor::server() }
    }
}

/// True if `key`, in any spelling, is that of the option `own`.
fn is_called(key: &str, own: &str) -> bool {
    definition(key).is_ok_and(|definition| definition.key == own)
}

/// What is wrong with these sinks together: topic, id and table of each, and whether it is one that
/// counts for the topic.
fn crowded(all: &[(String, String, String, bool)]) -> Option<String> {
    if all.len() > SINKS_MAX {
        return Some(format!("there would be more than {SINKS_MAX} sinks"));
    }
    let (mut counts, mut tables) = (BTreeMap::new(), BTreeMap::new());
    for (topic, id, table, is_live) in all {
        let count = counts.entry(topic).or_insert(0_usize);
        *count += usize::from(*is_live);
        if *count > SINKS_PER_TOPIC_MAX {
            return Some(format!("topic {topic} would have more than {SINKS_PER_TOPIC_MAX} sinks"));
        }
        if let Some((other, sink)) = tables.insert(table.to_lowercase(), (topic, id)) {
            let both = format!("{other}/{sink} and {topic}/{id}");
            return Some(format!("table {table} would belong to two sinks: {both}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_have_room_and_a_table_each() {
        let sink = |topic: &str, at: usize, table: &str, is_live| {
            (topic.to_owned(), format!("s{at}"), table.to_owned(), is_live)
        };
        let mut all: Vec<_> = (0..20).map(|at| sink("t", at, &format!("n.t{at}"), true)).collect();
        all.push(sink("t", 20, "n.t20", false));
        assert_eq!(crowded(&all), None, "one that is marked as deleted takes no place");
        all.push(sink("u", 0, "n.T20", true));
        let twice = "table n.T20 would belong to two sinks: t/s20 and u/s0";
        assert_eq!(crowded(&all).as_deref(), Some(twice));
        all.pop();
        all.push(sink("t", 21, "n.t21", true));
        assert_eq!(crowded(&all).as_deref(), Some("topic t would have more than 20 sinks"));
    }
}
