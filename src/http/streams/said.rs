//! What a request to a door says besides table and body: parameters, and what it would prefer. Pure.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;

use super::head::Door;
use crate::http::ingest::event::{Ack, Terms, answer_by};
use crate::http::ingest::prefer::Prefer;
use crate::http::ingest::request::Parameters;
use crate::http::problem::Problem;

/// A query string, taken apart.
pub(super) type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// What it says.
pub(super) struct Said {
    /// The table that the query names.
    pub(super) table: Option<String>,
    pub(super) terms: Terms,
    /// The answer has no body.
    pub(super) minimal: bool,
}

impl Said {
    /// Reads the query. What is not known at the door is refused, lest a sender thinks that it counts.
    ///
    /// # Errors
    /// `bad_request`, with what is known.
    pub(super) fn of(door: Door<'_>, query: Pairs, headers: &HeaderMap) -> Result<Self, Problem> {
        let Query(pairs) = query.map_err(|error| Problem::new("bad_request", error.body_text()))?;
        let known: &[&str] = match door {
            Door::Array { .. } => &["table"],
            Door::Any { .. } => &["table", "on_error", "ack", "wait"],
            Door::Table { .. } => &["on_error", "ack", "wait"],
        };
        let (mut table, mut others) = (None, Vec::new());
        for (name, value) in pairs {
            match name.as_str() {
                other if !known.contains(&other) => {
                    let shown: String = other.chars().take(100).collect();
                    let known = known.join(", ");
                    let detail = format!("parameter {shown:?} is not known here; there is {known}");
                    return Err(Problem::new("bad_request", detail));
                }
                "table" if table.is_none() => table = Some(value),
                "table" => {
                    return Err(Problem::new("bad_request", "parameter table is given twice"));
                }
                _ => others.push((name, value)),
            }
        }
        if door.is_array() {
            // Senders of that route know one answer.
            let terms = Terms { ack: Ack::Durable, ..Terms::new(answer_by()) };
            return Ok(Self { table, terms, minimal: false });
        }
        let prefer = Prefer::of(headers);
        let others = others.into_iter().map(|(name, value)| (name.into(), value.into()));
        let terms = Parameters::parse(others)?.terms(&prefer);
        let ack = if terms.ack == Ack::Logged { Ack::Durable } else { terms.ack };
        Ok(Self { table, terms: Terms { ack, ..terms }, minimal: prefer.minimal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ingest::event::OnError;

    fn said(door: Door<'_>, query: &str, prefer: &'static str) -> Result<Said, String> {
        let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let headers = [("prefer".parse().unwrap(), prefer.parse().unwrap())].into_iter().collect();
        Said::of(door, Ok(Query(pairs)), &headers).map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn each_door_takes_what_counts_there_and_names_it_otherwise() {
        let any = Door::Any { stream: "s" };
        let array = Door::Array { namespace: "n", stream: "s" };
        let found = said(any, "table=t&on_error=skip&ack=committed&wait=3", "").unwrap();
        let committed = Ack::Committed(std::time::Duration::from_secs(3));
        assert_eq!((found.table.as_deref(), found.terms.ack), (Some("t"), committed));
        assert_eq!(found.terms.on_error, OnError::Skip);
        let found = said(any, "", "respond-async, handling=lenient, return=minimal").unwrap();
        assert_eq!((found.terms.ack, found.minimal), (Ack::Accepted, true));
        assert_eq!(found.terms.on_error, OnError::Skip);
        let found = said(array, "table=t", "respond-async, handling=lenient").unwrap();
        assert_eq!((found.terms.ack, found.terms.on_error), (Ack::Durable, OnError::Reject));
        for (door, query, wanted) in [
            (array, "on_error=skip", "there is table"),
            (array, "table=a&table=b", "given twice"),
            (any, "key=a", "there is table, on_error, ack, wait"),
            (any, "ack=no", "allowed are accepted, durable and committed"),
        ] {
            let refused = said(door, query, "").err().unwrap();
            assert!(refused.contains(wanted), "{query}: {refused}");
        }
        assert_eq!(said(any, "", "").unwrap().terms.ack, Ack::Durable);
    }
}
