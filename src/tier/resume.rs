//! Leaving a stopped state (rules 4.4): where the table goes on, in a new generation.

use serde::Deserialize;
use serde::Serialize;

use crate::table::commit::marker::Ends;
use crate::table::commit::marker::Gap;
use crate::table::commit::newest::newest;
use crate::tier::Error;
use crate::tier::ledger::StopState;
use crate::tier::ledger::put_entry;
use crate::tier::pending::Part;
use crate::tier::worker::Worker;
use crate::topic::options::TableMode;

/// Where a table goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// Where the table itself says that it ends.
    Table,
    /// Where the ledger says that it ends.
    Ledger,
    /// At the first record that the log still has.
    LogStart,
    /// At the next record that is appended.
    Latest,
}

/// What the starts are chosen from.
struct Known<'a> {
    parts: &'a [Part],
    ledger: &'a Ends,
    table: Option<&'a Ends>,
    /// The rows go to a table that does not hold any of them.
    new_table: bool,
}

/// Starts by partition and the offsets that are left out between the known end and the start.
fn starts(
    from: From,
    known: &Known<'_>,
    allow_duplicates: bool,
) -> Result<(Ends, Vec<Gap>), Error> {
    let mut starts = Ends::new();
    let mut gaps = Vec::new();
    for part in known.parts {
        let ledger = known.ledger.get(&part.index).copied();
        let table = known.table.and_then(|ends| ends.get(&part.index).copied());
        let log_start = part.handle.log_start_offset();
        let start = match from {
            From::Table if known.table.is_some() => table,
            From::Table | From::Ledger => ledger,
            From::LogStart => Some(log_start),
            From::Latest => Some(part.high_watermark),
        };
        // Beyond the log's end there is nothing to go on from (a log that was restored).
        let Some(start) = start.map(|start| start.min(part.high_watermark)) else {
            continue;
        };
        let own_end = if known.new_table { 0 } else { table.or(ledger).unwrap_or(0) };
        if start < own_end.min(part.high_watermark) && !allow_duplicates {
            return Err(Error::Duplicates { partition: part.index, start, end: own_end });
        }
        let end = table.or(ledger).unwrap_or(0);
        if start > end {
            let reason = "resume".to_owned();
            gaps.push(Gap { partition: part.index, from: end, to: start, reason });
        }
        starts.insert(part.index, start);
    }
    Ok((starts, gaps))
}

impl Worker {
    /// Raises the generation and goes on at `from`. After `LOG_BEHIND`, `REPLACED` and
    /// `TABLE_DROPPED` the rows go to a new table, of a contract to the one that has the name then.
    ///
    /// # Errors
    /// [`Error::NotStopped`]; [`Error::NoTable`]; [`Error::Duplicates`] below the table's own end without
    /// `allow_duplicates`; [`Error::Catalog`] where the table cannot be looked at.
    pub(super) async fn resume(&mut self, from: From, allow_duplicates: bool) -> Result<(), Error> {
        let Some(stop) = self.entry.stop.clone() else {
            return Err(Error::NotStopped);
        };
        let is_gone = matches!(stop.state, StopState::Replaced | StopState::TableDropped);
        if is_gone && from == From::Table {
            return Err(Error::NoTable);
        }
        // There is no new table beside one of others.
        let is_contract = self.topic.options.table_mode == TableMode::Contract;
        let new_table = is_gone || (stop.state == StopState::LogBehind && !is_contract);
        let found = match &self.entry.table {
            Some(table) if !is_gone => {
                let loaded = self.context.catalog.load(&table.ident()?).await;
                let loaded = loaded.map_err(|error| Error::Catalog(error.to_string()))?;
                Some(newest(&loaded.metadata, self.entry.writer()))
            }
            _ => None,
        };
        let accepted = found.as_ref().map(|found| found.accepted);
        let had_rows = matches!(stop.state, StopState::RolledBack | StopState::LedgerGap);
        let table = found.and_then(|found| {
            // A table that holds nothing of ours any more ends at the beginning.
            let nothing = (had_rows && found.at_root).then(Ends::new);
            found.ends.or(nothing)
        });
        let parts = self.parts();
        let known =
            Known { parts: &parts, ledger: &self.entry.ends, table: table.as_ref(), new_table };
        let (starts, gaps) = starts(from, &known, allow_duplicates)?;
        let mut next = self.entry.clone();
        next.resume(starts, gaps.clone(), accepted);
        if new_table {
            next.leave_table();
        }
        self.context.ledger.write(put_entry(&next)).await?;
        self.entry = next;
        self.prepared = None;
        self.manifests = None;
        self.table = None;
        self.oldest = None;
        (self.failures, self.failure) = (0, None);
        self.count_gaps(&gaps);
        self.release();
        tracing::info!(
            topic = %self.topic.name, ?from, generation = self.entry.generation, "table goes on"
        );
        Ok(())
    }
}
