//! The neighbours as they are: the store and the write-ahead log behind the traits of `ports`.

use async_trait::async_trait;
use tokio::sync::watch;

use crate::log::AppendError;
use crate::log::ports::{FileUse, Frames, LivePage, RunError, State};
use crate::log::state::last_append_ms;
use crate::store::{self, Change, Counter, Space, Store, keys};
use crate::types::{Lsn, Offset, OffsetRange, PartitionId};
use crate::wal::{self, Request, Run, Wal, WrittenFrame};

/// Producers forgotten by one change.
const EXPIRED_PER_CHANGE: usize = 1_000;

fn text(error: store::Error) -> String {
    error.to_string()
}

fn append_error(error: store::Error) -> AppendError {
    match error {
        store::Error::Closed => AppendError::Closed,
        other => AppendError::StorageFull(other.to_string()),
    }
}

#[async_trait]
impl State for Store {
    fn applied(&self) -> Lsn {
        Store::applied(self)
    }

    fn run_floor(&self, id: PartitionId, offset: Offset) -> Result<Option<Run>, String> {
        self.index_floor(id, offset).map_err(text)
    }

    fn runs(&self, id: PartitionId, from: Offset, limit: usize) -> Result<Vec<Run>, String> {
        self.index_scan(id, from, limit).map_err(text)
    }

    fn gaps(&self, id: PartitionId) -> Result<Vec<(OffsetRange, String)>, String> {
        let gaps = Store::gaps(self, id).map_err(text)?;
        Ok(gaps.into_iter().map(|gap| (gap.range, gap.reason)).collect())
    }

    fn log_start(&self, id: PartitionId) -> Result<Option<Offset>, String> {
        Ok(self.partition(id).map_err(text)?.map(|state| state.log_start))
    }

    fn trim_step(&self, id: PartitionId, to: Offset) -> Result<Offset, String> {
        Store::trim_step(self, id, to).map_err(text)
    }

    async fn put_log_start(&self, id: PartitionId, to: Offset) -> Result<(), AppendError> {
        let store = self.clone();
        let gaps = tokio::task::spawn_blocking(move || Store::gaps(&store, id));
        let gaps = gaps.await.map_err(|_| AppendError::Closed)?.map_err(append_error)?;
        let mut change = keys::put_log_start(Change::new(), id, to);
        for gap in gaps.iter().filter(|gap| gap.range.end <= to) {
            change = keys::delete_gap(change, id, gap.range.base);
        }
        self.commit(change).await.map_err(append_error)?;
        Ok(())
    }

    async fn expire_producers(&self, id: PartitionId, before_ms: i64) -> Result<(), AppendError> {
        let store = self.clone();
        let producers = tokio::task::spawn_blocking(move || store.producers(id));
        let mut producers =
            producers.await.map_err(|_| AppendError::Closed)?.map_err(append_error)?;
        producers.retain(|(_, entry)| last_append_ms(entry) < before_ms);
        for some in producers.chunks(EXPIRED_PER_CHANGE) {
            let change = some.iter().fold(Change::new(), |change, (producer_id, _)| {
                change.delete(Space::Producer, keys::producer(id, *producer_id))
            });
            self.commit(change).await.map_err(append_error)?;
        }
        Ok(())
    }

    async fn reserve_producer_ids(&self, count: u32) -> Result<u64, AppendError> {
        self.reserve(Counter::Producer, count).await.map_err(append_error)
    }
}

/// The write-ahead log with the store that says which files may go.
pub(crate) struct WalFrames {
    pub(crate) wal: Wal,
    pub(crate) store: Store,
}

#[async_trait]
impl Frames for WalFrames {
    async fn append(&self, request: Request) -> Result<(), AppendError> {
        self.wal.append(request).await.map_err(wal_error)
    }

    fn admission(&self) -> Result<(), String> {
        self.wal.admission()
    }

    fn read_run(&self, run: &Run) -> Result<Vec<WrittenFrame>, RunError> {
        self.wal.read_run(run).map_err(|error| match error {
            wal::ReadError::Absent(_) => RunError::Absent,
            error @ wal::ReadError::Corrupt { .. } => RunError::Corrupt(error.to_string()),
            wal::ReadError::Io(error) => RunError::Io(error.to_string()),
        })
    }

    fn read_sound(&self, run: &Run) -> Vec<WrittenFrame> {
        self.wal.read_sound(run)
    }

    async fn roll(&self, min_age_ms: i64) -> Result<(), AppendError> {
        self.wal.roll(min_age_ms).await.map_err(wal_error)
    }

    async fn sync(&self) -> Result<(), AppendError> {
        self.wal.sync().await.map_err(wal_error)
    }

    fn has_next(&self) -> bool {
        self.wal.has_next()
    }

    fn sealed(&self) -> Vec<FileUse> {
        let files = sealed(&self.wal);
        let live = self.store.live_bytes(&files);
        let pair = |(file, live_bytes)| FileUse { file, live_bytes };
        files.into_iter().zip(live).map(pair).collect()
    }

    fn live_runs(&self, from: Lsn, end: Lsn, limit: usize) -> Result<LivePage, String> {
        let starts = self.store.live_starts(from, end, limit);
        let mut page = LivePage {
            next: starts.last().filter(|_| starts.len() >= limit).map(|last| Lsn(last.0 + 1)),
            ..LivePage::default()
        };
        for lsn in starts {
            match self.wal.key_at(lsn) {
                // An entry that is elsewhere was trimmed or moved since.
                Some((id, base)) => {
                    let run = self.store.index_at(id, base).map_err(text)?;
                    page.runs.extend(run.filter(|run| run.lsn == lsn));
                }
                None => page.unreadable.push(lsn),
            }
        }
        Ok(page)
    }

    fn begun(&self) -> watch::Receiver<u64> {
        self.wal.begun()
    }

    async fn reclaim(&self) -> Result<usize, String> {
        let (wal, store) = (self.wal.clone(), self.store.clone());
        let reclaim = move || {
            let mut freed = 0;
            for file in store.reclaimable(&sealed(&wal)).map_err(text)? {
                // A leased file is tried again in the next round.
                freed += usize::from(wal.release(file.first).map_err(|error| error.to_string())?);
            }
            Ok(freed)
        };
        tokio::task::spawn_blocking(reclaim).await.map_err(|error| error.to_string())?
    }
}

/// All files but the one that is written to.
fn sealed(wal: &Wal) -> Vec<wal::WalFile> {
    let mut files = wal.list();
    files.pop();
    files
}

fn wal_error(error: wal::Error) -> AppendError {
    match error {
        wal::Error::Closed => AppendError::Closed,
        wal::Error::TooLarge { bytes, limit } => AppendError::TooLarge { bytes, limit },
        other => AppendError::StorageFull(other.to_string()),
    }
}

#[cfg(test)]
mod moved_tests;
#[cfg(test)]
mod tests;
