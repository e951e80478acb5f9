//! State that the threads of the log and its handle share: how far it is written and durable, and
//! whether it failed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::runtime::metrics;
use crate::types::Lsn;
use crate::wal::turn::Turn;

/// State that the threads and the handle share.
#[derive(Debug)]
pub(crate) struct Shared {
    written: AtomicU64,
    durable: AtomicU64,
    failed: AtomicBool,
    pub(crate) running: Mutex<usize>,
    pub(crate) ended: Condvar,
    pub(crate) turn: Turn,
}

impl Shared {
    pub(crate) fn new(durable: Lsn) -> Self {
        Self {
            written: AtomicU64::new(durable.0),
            durable: AtomicU64::new(durable.0),
            failed: AtomicBool::new(false),
            running: Mutex::new(0),
            ended: Condvar::new(),
            turn: Turn::default(),
        }
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn set_durable(&self, end: Lsn) {
        self.durable.store(end.0, Ordering::Release);
        self.turn.give();
    }

    pub(crate) fn set_written(&self, end: Lsn) {
        self.written.store(end.0, Ordering::Release);
        self.count_unsynced();
    }

    pub(crate) fn count_unsynced(&self) {
        let unsynced = self.written.load(Ordering::Acquire).saturating_sub(self.durable().0);
        ::metrics::gauge!(metrics::WAL_UNSYNCED_BYTES).set(unsynced as f64);
    }

    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.turn.give();
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}
