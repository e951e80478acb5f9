//! What the threads and tasks of the log share: the set of partitions, and orders for the
//! sequencer thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::log::Partition;
use crate::log::ports::State;
use crate::types::{Offset, PartitionId};

/// A change of append state that the sequencer makes before its next request.
#[derive(Debug)]
pub(crate) enum Order {
    /// These partitions are gone.
    Forget(Vec<PartitionId>),
    /// Producers that appended nothing since are unknown again.
    ExpireProducers { before_ms: i64 },
}

pub(crate) struct Shared {
    pub(crate) state: Arc<dyn State>,
    partitions: RwLock<HashMap<PartitionId, Arc<Partition>>>,
    orders: Mutex<Vec<Order>>,
    has_orders: AtomicBool,
    recent_runs: Arc<AtomicUsize>,
}

impl Shared {
    pub(crate) fn new(state: Arc<dyn State>) -> Self {
        Self {
            state,
            partitions: RwLock::default(),
            orders: Mutex::default(),
            has_orders: AtomicBool::new(false),
            recent_runs: Arc::default(),
        }
    }

    pub(crate) fn partition(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.partitions.read().get(&id).cloned()
    }

    /// All partitions, in no order.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    /// Runs of all partitions that are kept in memory.
    pub(crate) fn recent_runs(&self) -> usize {
        self.recent_runs.load(Ordering::Relaxed)
    }

    /// Adds a partition, or returns the one that is there.
    pub(crate) fn insert(
        &self,
        id: PartitionId,
        log_start: Offset,
        next_offset: Offset,
        bytes: u64,
    ) -> Arc<Partition> {
        let mut partitions = self.partitions.write();
        let partition = partitions.entry(id).or_insert_with(|| {
            let state = Arc::clone(&self.state);
            let recent_runs = Arc::clone(&self.recent_runs);
            let partition = Partition::new(id, state, recent_runs);
            partition.start_at(log_start, next_offset, bytes);
            Arc::new(partition)
        });
        Arc::clone(partition)
    }

    /// Drops partitions: appends to them are refused from now on, waiters wake up.
    pub(crate) fn remove(&self, ids: &[PartitionId]) {
        let removed: Vec<Arc<Partition>> = {
            let mut partitions = self.partitions.write();
            ids.iter().filter_map(|id| partitions.remove(id)).collect()
        };
        if removed.is_empty() {
            return;
        }
        for partition in &removed {
            partition.set_removed();
        }
        self.order(Order::Forget(removed.iter().map(|partition| partition.id()).collect()));
    }

    pub(crate) fn order(&self, order: Order) {
        self.orders.lock().push(order);
        self.has_orders.store(true, Ordering::Release);
    }

    /// Orders since the last call, in order.
    pub(crate) fn take_orders(&self) -> Vec<Order> {
        if !self.has_orders.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut orders = self.orders.lock();
        self.has_orders.store(false, Ordering::Release);
        std::mem::take(&mut *orders)
    }
}
