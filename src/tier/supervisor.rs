//! One worker per topic, as topics come, change and go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::tier::context::Context;
use crate::tier::lifecycle;
use crate::tier::status::Cell;
use crate::tier::status::TableStatus;
use crate::tier::worker::Command;
use crate::tier::worker::View;
use crate::tier::worker::Wiring;
use crate::tier::worker::Worker;
use crate::topic::Topic;
use crate::types::TopicId;

/// Commands that wait at one worker.
const COMMANDS_MAX: usize = 64;

/// A worker that ended is started again after this time, if its topic is still there.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

struct Handle {
    views: watch::Sender<View>,
    commands: mpsc::Sender<Command>,
    cell: Cell,
}

#[derive(Default)]
struct Workers {
    by_topic: HashMap<TopicId, Handle>,
    /// The newest change of topics that the workers were told of.
    seen: u64,
}

/// All workers; cheap to clone.
#[derive(Clone)]
pub(super) struct Supervisor {
    context: Context,
    workers: Arc<Mutex<Workers>>,
    closing: CancellationToken,
    running: TaskTracker,
    ended: Arc<EndedWorkers>,
}

/// Topics whose workers ended since the last look.
#[derive(Default)]
struct EndedWorkers {
    topics: Mutex<Vec<TopicId>>,
    wake: Notify,
}

/// Tells the supervisor that a worker ended, by a panic too: a defect in tiering stops one table
/// for a moment, not the broker (rules 4.9).
struct Ended {
    topic: TopicId,
    ended: Arc<EndedWorkers>,
    _running: TaskTrackerToken,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.ended.topics.lock().push(self.topic);
        self.ended.wake.notify_one();
    }
}

impl Supervisor {
    pub(super) fn start(context: Context) -> Self {
        let supervisor = Self {
            closing: context.tasks.stop_token().child_token(),
            context,
            workers: Arc::default(),
            running: TaskTracker::new(),
            ended: Arc::default(),
        };
        supervisor.look();
        let follower = supervisor.clone();
        supervisor.context.tasks.spawn("tier-supervisor", async move { follower.follow().await });
        supervisor
    }

    async fn follow(self) {
        let mut changes = self.context.topics.subscribe();
        loop {
            self.look();
            tokio::select! {
                () = self.closing.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = self.ended.wake.notified() => tokio::time::sleep(RESTART_PAUSE).await,
            }
        }
    }

    /// True once the program ends.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Tells the workers of topics that changed what they are now, starts those that are missing.
    pub(super) fn look(&self) {
        if self.is_closing() {
            return;
        }
        // The lock comes first: an older list must not win over a newer one.
        let mut workers = self.workers.lock();
        let topics = &self.context.topics;
        let (newest, changed) = topics.changed_since(workers.seen);
        workers.seen = newest;
        let ended = std::mem::take(&mut *self.ended.topics.lock());
        for id in &ended {
            workers.by_topic.remove(id);
        }
        let again = ended.into_iter().filter_map(|id| topics.live_or_draining(id));
        for (topic, draining) in changed.into_iter().chain(again) {
            match workers.by_topic.get(&topic.id) {
                Some(handle) => {
                    handle.views.send_if_modified(|view| {
                        let same = view.draining == draining && Arc::ptr_eq(&view.topic, &topic);
                        *view = View { topic: Arc::clone(&topic), draining };
                        !same
                    });
                }
                None => {
                    let handle = self.spawn(&topic, draining);
                    workers.by_topic.insert(topic.id, handle);
                }
            }
        }
    }

    fn spawn(&self, topic: &Arc<Topic>, draining: bool) -> Handle {
        let view = View { topic: Arc::clone(topic), draining };
        let (views, views_seen) = watch::channel(view);
        let (commands, commands_taken) = mpsc::channel(COMMANDS_MAX);
        let cell = Cell::default();
        cell.update(|status| {
            status.table = lifecycle::planned_name(topic);
            status.topic = topic.name.to_string();
            status.topic_id = topic.id.to_string();
            status.state = "WAITING".to_owned();
        });
        let wiring = Wiring {
            views: views_seen,
            commands: commands_taken,
            closing: self.closing.clone(),
            cell: cell.clone(),
        };
        let worker = Box::new(Worker::new(self.context.clone(), wiring));
        let ended = Ended {
            topic: topic.id,
            ended: Arc::clone(&self.ended),
            _running: self.running.token(),
        };
        self.context.tasks.spawn_contained("tier-worker", async move {
            let _ended = ended;
            worker.run().await;
        });
        Handle { views, commands, cell }
    }

    pub(super) fn statuses(&self) -> Vec<TableStatus> {
        self.workers.lock().by_topic.values().map(|handle| handle.cell.get()).collect()
    }

    /// The table of that name; of a live and a deleted topic with one name the live one, of several
    /// that write to one table one that stands still, and else the first by name.
    pub(super) fn find(&self, name: &str) -> Option<(mpsc::Sender<Command>, Cell)> {
        let rank = |(_, cell): &(mpsc::Sender<Command>, Cell)| {
            let status = cell.get();
            (status.resume.is_none(), status.topic)
        };
        self.find_all(name).into_iter().min_by_key(rank)
    }

    /// Every live topic's part of the table of that name, or those of deleted ones.
    pub(super) fn find_all(&self, name: &str) -> Vec<(mpsc::Sender<Command>, Cell)> {
        let workers = self.workers.lock();
        let named = workers.by_topic.values().filter(|handle| handle.cell.is_named(name));
        let (gone, live): (Vec<&Handle>, Vec<&Handle>) =
            named.partition(|handle| handle.views.borrow().draining);
        let best = if live.is_empty() { gone } else { live };
        best.into_iter().map(|handle| (handle.commands.clone(), handle.cell.clone())).collect()
    }

    pub(super) async fn shutdown(&self, bound: Duration) -> bool {
        self.closing.cancel();
        self.running.close();
        tokio::time::timeout(bound, self.running.wait()).await.is_ok()
    }
}
