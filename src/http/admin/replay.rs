//! `/api/v1/topics/{topic}/sinks/{sink}/replay`: what the log still has is written again, with the
//! sink's mapping as it is now, to a new table: one that has rows must not get them twice.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use tokio::time::Instant;

use super::json as parse;
use super::sinks;
use crate::auth::Operation;
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::ingest::event::answer_by;
use crate::http::problem::Problem;
use crate::sink::{From, Sink, TableName, Wish};
use crate::types::Expected;

/// Most names that are tried.
const NAMES_MAX: usize = 100;
/// Time that a further name may take: the catalog is asked for its table.
const TRY_MAX: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ReplayQuery {
    from: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// What the new sink and its table are called; what is none gets a name that is free.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    sink: Option<String>,
    table: Option<String>,
}

/// Makes a sink like this one that begins at `from`, with a table of its own.
pub(in crate::http) async fn replay(
    State(api): State<Api>,
    caller: Caller,
    Path((topic, id)): Path<(String, String)>,
    query: Result<Query<ReplayQuery>, QueryRejection>,
    body: Bytes,
) -> Result<Response, Problem> {
    let topic = sinks::topic_of(&api, &caller, Operation::Alter, &topic)?;
    let sink = api.sinks.get(topic.id, &id).ok_or_else(|| sinks::unknown(&id))?;
    let bad = |error: QueryRejection| Problem::new("bad_request", error.body_text());
    let Query(ReplayQuery { from, dry_run }) = query.map_err(bad)?;
    api.may_define(&caller, dry_run)?;
    let from = begin(from.as_deref())?;
    let names: Names = parse(&body)?;
    let until = answer_by();
    for number in 1..=NAMES_MAX {
        let (id, table) = names.of(&api, &sink, number)?;
        // One that is marked as deleted has a place to go on from, and versions to come back to.
        if api.sinks.kept(topic.id, &id).is_some() {
            if names.sink.is_some() {
                return Err(exists(&id));
            }
            continue;
        }
        check_time(number, until)?;
        // A sink that is off would write nothing of it.
        let wish = Wish { table, from, enabled: true, ..sink.wish.clone() };
        let wished = (&*topic, id.as_str(), wish);
        match sinks::store(&api, &caller, wished, Expected::None, dry_run).await {
            Err(problem) => names.check_taken(&id, problem)?,
            Ok(mut made) => {
                let path = format!("/api/v1/topics/{}/sinks/{id}", topic.name);
                if made.status() == StatusCode::CREATED
                    && let Ok(path) = HeaderValue::try_from(path)
                {
                    made.headers_mut().insert(header::LOCATION, path);
                }
                return Ok(made);
            }
        }
    }
    let detail = format!("{NAMES_MAX} names are taken: say sink and table in the body");
    Err(Problem::new("exists", detail))
}

/// Where a replay begins. The next record to come is no start of one.
fn begin(from: Option<&str>) -> Result<From, Problem> {
    let bad = |detail: String| Problem::new("bad_request", detail);
    let allowed = "say where it begins: from=earliest, from=TIME as RFC 3339, or from=MILLISECONDS \
                   since 1970";
    // A plus in a query is a space, and no time has one there.
    let from = from.ok_or_else(|| bad(allowed.to_owned()))?.replace(' ', "+");
    match From::parse(&from).map_err(bad)? {
        From::Latest => Err(bad(format!("from=latest would write nothing again; {allowed}"))),
        from => Ok(from),
    }
}

/// One name is always tried, others while there is time for one more.
fn check_time(number: usize, until: Instant) -> Result<(), Problem> {
    if number > 1 && Instant::now() + TRY_MAX > until {
        let detail = "no free name was found in time: say sink and table in the body";
        return Err(Problem::new("timeout", detail));
    }
    Ok(())
}

fn exists(id: &str) -> Problem {
    let id: String = id.chars().take(100).collect();
    Problem::new("exists", format!("the topic has a sink {id:?} already, or had one"))
}

impl Names {
    /// The id and the table of try `number`.
    fn of(&self, api: &Api, sink: &Sink, number: usize) -> Result<(String, TableName), Problem> {
        let id = self.sink.clone().unwrap_or_else(|| format!("{}-replay-{number}", sink.id));
        let TableName { namespace, name } = &sink.wish.table;
        let table = match &self.table {
            Some(text) => sinks::table_name(api, text).ok_or_else(|| {
                let shown: String = text.chars().take(200).collect();
                let detail = format!("table {shown:?} is refused: a table is NAMESPACE.NAME");
                Problem::new("bad_request", detail)
            })?,
            None => {
                TableName { namespace: namespace.clone(), name: format!("{name}_replay_{number}") }
            }
        };
        Ok((id, table))
    }

    /// Goes on where a name was taken that is not the caller's.
    fn check_taken(&self, id: &str, problem: Problem) -> Result<(), Problem> {
        match (problem.code(), &self.sink, &self.table) {
            ("precondition_failed", None, _) | ("table_taken", _, None) => Ok(()),
            ("precondition_failed", Some(_), _) => Err(exists(id)),
            _ => Err(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_begins_at_a_time_or_at_the_first_record() {
        assert_eq!(begin(Some("earliest")), Ok(From::Earliest));
        assert_eq!(begin(Some("1970-01-01T01:00:01 01:00")), Ok(From::At(1_000)));
        for bad in [None, Some("latest"), Some(""), Some("yesterday")] {
            assert_eq!(begin(bad).unwrap_err().code(), "bad_request", "{bad:?}");
        }
    }

    #[test]
    fn a_further_name_is_tried_while_an_answer_can_still_be_given() {
        let second = Duration::from_secs(1);
        for (left, wanted) in [(TRY_MAX + second, Ok(())), (TRY_MAX - second, Err("timeout"))] {
            let tried = |number| check_time(number, Instant::now() + left);
            let tried = |number| tried(number).map_err(|problem| problem.code());
            assert_eq!((tried(1), tried(2), tried(9)), (Ok(()), wanted, wanted), "{left:?}");
        }
        assert!(check_time(2, answer_by()).is_ok(), "a request has time for more than one");
    }

    #[test]
    fn only_names_that_nobody_asked_for_are_passed_over() {
        let told = |sink: Option<&str>, table: Option<&str>, code| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let names = Names { sink: own(sink), table: own(table) };
            names.check_taken("a", Problem::new(code, "x")).map_err(|problem| problem.code())
        };
        assert_eq!(told(None, Some("n.t"), "precondition_failed"), Ok(()));
        assert_eq!(told(Some("a"), None, "table_taken"), Ok(()));
        assert_eq!(told(Some("a"), None, "precondition_failed"), Err("exists"));
        assert_eq!(told(None, Some("n.t"), "table_taken"), Err("table_taken"));
        assert_eq!(told(None, None, "limit_reached"), Err("limit_reached"));
    }
}
