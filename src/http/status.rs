//! `GET /api/v1/status`: how this server is, for the person who is called at night. All of it is
//! known already: nothing is asked for it but how full the disk is.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::tier::TableStatus;

/// A table is late when its oldest row waits longer than so many times `table.target.lag.ms`.
const LATE_LAGS: i64 = 2;

/// Tables by how they stand; one may be several.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tables {
    all: usize,
    late: usize,
    retrying: usize,
    /// A person must decide.
    stopped: usize,
    /// Producers of their topics are refused.
    blocked: usize,
}

impl Tables {
    fn of(tables: &[TableStatus]) -> Self {
        let count = |is: fn(&TableStatus) -> bool| tables.iter().filter(|table| is(table)).count();
        Self {
            all: tables.len(),
            late: count(|table| table.lag_ms > table.target_lag_ms.saturating_mul(LATE_LAGS)),
            retrying: count(|table| table.state == "RETRYING"),
            stopped: count(|table| table.resume.is_some()),
            blocked: count(|table| table.blocked.is_some()),
        }
    }
}

/// Why the server is less than it should be.
fn reasons(tables: &Tables, refusal: Option<String>, catalog_fault: Option<&str>) -> Vec<String> {
    let mut reasons: Vec<String> =
        refusal.into_iter().map(|reason| format!("no events are taken: {reason}")).collect();
    reasons.extend(catalog_fault.map(|fault| format!("the catalog does not answer: {fault}")));
    let of_tables = |count: usize, what: &str| {
        let tables = if count == 1 { "table" } else { "tables" };
        (count > 0).then(|| format!("{count} {tables} {what} (floe table list)"))
    };
    reasons.extend(of_tables(tables.stopped, "stopped until resumed"));
    reasons.extend(of_tables(tables.blocked, "so far behind that producers are refused"));
    reasons
}

/// It names what is wrong, so it is not for everybody.
pub(super) async fn status(State(api): State<Api>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Describe, Resource::Cluster)?;
    let (files, data_dir) = (api.files.clone(), api.options.data_dir.clone());
    let space = tokio::task::spawn_blocking(move || files.space(&data_dir).ok());
    let space = space.await.ok().flatten();
    let tables = Tables::of(&api.tiering.tables());
    let catalog = api.reach.seen();
    let fault = catalog.as_ref().and_then(|seen| seen.fault.as_deref());
    let reasons = reasons(&tables, api.log.admission().err(), fault);
    let state = match (api.draining(), reasons.is_empty()) {
        (Some(_), _) => "draining",
        (None, false) => "degraded",
        (None, true) => "active",
    };
    Ok(Json(json!({
        "status": state,
        "reasons": reasons,
        "warnings": api.options.volume_warning.as_slice(),
        "version": env!("CARGO_PKG_VERSION"),
        "cluster_id": api.options.cluster_id,
        "started_ms": api.started.0,
        "uptime_s": api.started.1.elapsed().as_secs(),
        "disk": {
            "data_dir": api.options.data_dir.display().to_string(),
            "free_bytes": space.map(|space| space.free_bytes),
            "total_bytes": space.map(|space| space.total_bytes),
        },
        "catalog": {
            "reachable": catalog.as_ref().map(|seen| seen.fault.is_none()),
            "since_ms": catalog.as_ref().map(|seen| seen.since_ms),
            "reason": fault,
        },
        "topics": api.topics.list().len(),
        "streams": api.doors.streams.list().len(),
        "tables": {
            "all": tables.all,
            "late": tables.late,
            "retrying": tables.retrying,
            "stopped": tables.stopped,
            "blocked": tables.blocked,
        },
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lag_ms: i64, state: &str) -> TableStatus {
        let state = state.to_owned();
        TableStatus { lag_ms, target_lag_ms: 1_000, state, ..TableStatus::default() }
    }

    #[test]
    fn tables_are_counted_by_how_they_stand() {
        let resume = Some("floe table resume t".to_owned());
        let blocked = Some("it is far behind".to_owned());
        let tables = [
            table(2_000, "RUNNING"),
            table(2_001, "RETRYING"),
            TableStatus { resume, ..table(0, "ROLLED_BACK") },
            TableStatus { blocked, ..table(9_000, "RUNNING") },
        ];
        let wanted = Tables { all: 4, late: 2, retrying: 1, stopped: 1, blocked: 1 };
        assert_eq!(Tables::of(&tables), wanted);
    }

    #[test]
    fn what_is_wrong_is_named_and_late_tables_alone_are_not() {
        let late = Tables { all: 2, late: 1, retrying: 1, ..Tables::default() };
        assert!(reasons(&late, None, None).is_empty());
        let stuck = Tables { stopped: 1, blocked: 2, ..late };
        let told = reasons(&stuck, Some("full".to_owned()), Some("no route"));
        let wanted = [
            "no events are taken: full",
            "the catalog does not answer: no route",
            "1 table stopped until resumed (floe table list)",
            "2 tables so far behind that producers are refused (floe table list)",
        ];
        assert_eq!(told, wanted);
    }
}
