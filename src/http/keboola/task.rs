//! Tasks: what became of a change. A change is done when it is answered, so a task is the name of a
//! version: it is known as long as the version is kept, over restarts too, and takes no state of its
//! own.
//!
//! ```text
//! api.create.source/BRANCH/SOURCE/TIME_VERSION
//! api.update.sinkSettings/BRANCH/SOURCE/SINK/TIME_VERSION
//! ```

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::admit;
use super::failure::Failure;
use super::show::{rfc3339, url_of};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::forwarded::Reached;
use crate::sink::Sink;
use crate::source::Source;

/// What was done, as it is said of it.
const VERBS: [(&str, &str); 7] = [
    ("create", "created"),
    ("update", "updated"),
    ("delete", "deleted"),
    ("disable", "disabled"),
    ("enable", "enabled"),
    ("undelete", "undeleted"),
    ("rollback", "rolled back"),
];
/// To what, and whether that is a sink.
const NOUNS: [(&str, &str, bool); 4] = [
    ("source", "Source has", false),
    ("sourceSettings", "Source settings have", false),
    ("sink", "Sink has", true),
    ("sinkSettings", "Sink settings have", true),
];

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    verb: &'static str,
    noun: &'static str,
    branch: u64,
    source: String,
    sink: Option<String>,
    at_ms: i64,
    version: u64,
}

impl Task {
    /// `verb` of a source's `noun` (`source` or `sourceSettings`).
    pub(super) fn of_source(
        api: &Api,
        verb: &'static str,
        noun: &'static str,
        source: &Source,
    ) -> Self {
        let branch = api.options.keboola_branch;
        let (at_ms, version) = (source.trail.changed.at_ms, source.version);
        Self { verb, noun, branch, source: source.id.clone(), sink: None, at_ms, version }
    }

    /// `verb` of a sink's `noun` (`sink` or `sinkSettings`).
    pub(super) fn of_sink(
        api: &Api,
        verb: &'static str,
        noun: &'static str,
        (source, sink): (&Source, &Sink),
    ) -> Self {
        let branch = api.options.keboola_branch;
        let (at_ms, version) = (sink.trail.changed.at_ms, sink.version);
        let (source, sink) = (source.id.clone(), Some(sink.id.clone()));
        Self { verb, noun, branch, source, sink, at_ms, version }
    }

    /// The answer to the change: clients ask for the task until it is no longer under way.
    pub(super) fn accepted(&self, api: &Api, base: &str) -> Response {
        (StatusCode::ACCEPTED, Json(self.shown(api, base, false))).into_response()
    }

    fn id(&self) -> String {
        let Self { verb, noun, branch, source, sink, at_ms, version } = self;
        let sink = sink.as_ref().map_or_else(String::new, |sink| format!("{sink}/"));
        format!("api.{verb}.{noun}/{branch}/{source}/{sink}{}_{version:05}", rfc3339(*at_ms))
    }

    fn parse(id: &str) -> Option<Self> {
        let mut parts = id.split('/');
        let (verb, noun) = parts.next()?.strip_prefix("api.")?.split_once('.')?;
        let (verb, _) = VERBS.iter().find(|(known, _)| *known == verb)?;
        let (noun, _, is_sink) = NOUNS.iter().find(|(known, ..)| *known == noun)?;
        let branch = parts.next()?.parse().ok()?;
        let source = parts.next()?.to_owned();
        let sink = if *is_sink { Some(parts.next()?.to_owned()) } else { None };
        let (at, version) = parts.next()?.split_once('_')?;
        let at_ms = chrono::DateTime::parse_from_rfc3339(at).ok()?.timestamp_millis();
        let version = version.parse().ok()?;
        let task = Self { verb, noun, branch, source, sink, at_ms, version };
        (parts.next().is_none() && task.id() == id).then_some(task)
    }

    /// True if the version that it names was made so. Blocks.
    fn was_done(&self, api: &Api) -> bool {
        let Some(source) = api.sources.kept(&self.source) else { return false };
        let at_ms = match &self.sink {
            None => {
                let found = api.sources.version(&source.id, self.version).ok().flatten();
                found.map(|version| version.mark.at_ms)
            }
            Some(sink) => {
                let topic = api.topics.get(&source.wish.topic);
                let sink = topic.and_then(|topic| api.sinks.kept(topic.id, sink));
                let found =
                    sink.and_then(|sink| api.sinks.version(sink.uid, self.version).ok().flatten());
                found.map(|version| version.mark.at_ms)
            }
        };
        at_ms == Some(self.at_ms) && self.branch == api.options.keboola_branch
    }

    fn shown(&self, api: &Api, base: &str, is_finished: bool) -> Value {
        let id = self.id();
        let mut task = json!({
            "taskId": id,
            "type": format!("api.{}.{}", self.verb, self.noun),
            "url": format!("{base}/v1/tasks/{id}"),
            "status": if is_finished { "success" } else { "processing" },
            "isFinished": is_finished,
            "createdAt": rfc3339(self.at_ms),
        });
        if is_finished {
            let verb = VERBS.iter().find(|(verb, _)| *verb == self.verb).map_or("", |it| it.1);
            let noun = NOUNS.iter().find(|(noun, ..)| *noun == self.noun).map_or("", |it| it.1);
            task["finishedAt"] = rfc3339(self.at_ms).into();
            task["duration"] = 0.into();
            task["result"] = format!("{noun} been {verb} successfully.").into();
            let mut outputs = json!({
                "url": url_of(base, self.branch, &self.source, self.sink.as_deref()),
                "projectId": api.options.keboola_project,
                "branchId": self.branch,
                "sourceId": self.source,
            });
            if let Some(sink) = &self.sink {
                outputs["sinkId"] = sink.as_str().into();
            }
            task["outputs"] = outputs;
        }
        task
    }
}

/// `GET /v1/tasks/{task}`.
pub(super) async fn describe(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    reached: Reached,
) -> Result<Json<Value>, Failure> {
    admit(&api, &caller, "default")?;
    let unknown = || Failure::not_found("task", &id, "project");
    let task = Task::parse(&id).ok_or_else(unknown)?;
    let looking = (api.clone(), task.clone());
    let looked = tokio::task::spawn_blocking(move || looking.1.was_done(&looking.0)).await;
    if !looked.unwrap_or(false) {
        return Err(unknown());
    }
    Ok(Json(task.shown(&api, &reached.base(), true)))
}

/// The same, as Keboola's documentation has it.
pub(super) async fn of_source(
    state: State<Api>,
    caller: Caller,
    Path((branch, _, id)): Path<(String, String, String)>,
    reached: Reached,
) -> Result<Json<Value>, Failure> {
    admit(&state.0, &caller, &branch)?;
    describe(state, caller, Path(id), reached).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_task_is_read_back_from_its_id_and_nothing_else_is_one() {
        let of_source = "api.create.source/1/shop/2026-11-27T09:00:00.123Z_00001";
        let task = Task::parse(of_source).unwrap();
        assert_eq!((task.source.as_str(), &task.sink, task.version), ("shop", &None, 1));
        assert_eq!(task.id(), of_source);
        let of_sink = "api.update.sinkSettings/1/shop/orders/2026-11-27T09:00:00.000Z_00012";
        let task = Task::parse(of_sink).unwrap();
        assert_eq!((task.sink.as_deref(), task.version), (Some("orders"), 12));
        assert_eq!(task.id(), of_sink);
        for bad in [
            "",
            "api.create.source",
            "api.create.source/1/shop",
            "api.burn.source/1/shop/2026-11-27T09:00:00.123Z_00001",
            "api.create.topic/1/shop/2026-11-27T09:00:00.123Z_00001",
            "api.create.source/x/shop/2026-11-27T09:00:00.123Z_00001",
            "api.create.source/1/shop/2026-11-27T09:00:00.123Z_1",
            "api.create.source/1/shop/more/2026-11-27T09:00:00.123Z_00001",
            "api.create.source/1/shop/yesterday_00001",
        ] {
            assert_eq!(Task::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_id_panics(id in "(api\\.(create|update)\\.(source|sink)/)?[0-9a-zTZ:._/-]{0,60}") {
            if let Some(task) = Task::parse(&id) {
                prop_assert_eq!(task.id(), id);
            }
        }
    }
}
