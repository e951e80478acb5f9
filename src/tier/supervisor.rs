//! One worker per table, as topics and their sinks come, change and go.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::table::catalog::Catalog;
use crate::table::commit::marker::Writer;
use crate::tier::context::Context;
use crate::tier::feed::Feed;
use crate::tier::ledger;
use crate::tier::ledger::Ledger;
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
    by_writer: BTreeMap<Writer, Handle>,
    /// The newest changes of topics and sinks that the workers were told of.
    seen: u64,
    seen_wishes: (u64, u64),
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

/// Tables whose workers ended since the last look.
#[derive(Default)]
struct EndedWorkers {
    writers: Mutex<Vec<Writer>>,
    wake: Notify,
}

/// Tells the supervisor that a worker ended, by a panic too: a defect in tiering stops one table
/// for a moment, not the broker (rules 4.9).
struct Ended {
    writer: Writer,
    ended: Arc<EndedWorkers>,
    _running: TaskTrackerToken,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.ended.writers.lock().push(self.writer);
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
        let mut sinks = self.context.sinks.subscribe();
        let mut sources = self.context.sources.subscribe();
        self.forget_leftovers().await;
        loop {
            self.look();
            tokio::select! {
                // All workers end then: nothing is to be done about that.
                biased;
                () = self.closing.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                changed = sinks.changed() => if changed.is_err() { return },
                changed = sources.changed() => if changed.is_err() { return },
                () = self.ended.wake.notified() => {
                    let pause = tokio::time::sleep(RESTART_PAUSE);
                    if self.closing.run_until_cancelled(pause).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Sinks whose topic is gone, and what the ledger knows of sinks that are gone: the program
    /// ended in the middle of it. What fails is left to the next start.
    async fn forget_leftovers(&self) {
        let Context { topics, sinks, ledger, .. } = &self.context;
        for topic_id in sinks.topics() {
            if topics.live_or_draining(topic_id).is_none()
                && let Err(error) = sinks.forget(topic_id).await
            {
                tracing::warn!(%topic_id, %error, "sinks of a topic that is gone are left over");
            }
        }
        let reader = ledger.clone();
        let known = tokio::task::spawn_blocking(move || reader.sinks()).await;
        for writer in known.ok().and_then(Result::ok).unwrap_or_default() {
            let lives =
                sinks.all_of_topic(writer.topic_id).iter().any(|one| Some(one.uid) == writer.sink);
            if !lives && let Err(error) = ledger.write(ledger::delete(writer)).await {
                tracing::warn!(?writer, %error, "the ledger of a sink that is gone is left over");
            }
        }
    }

    /// True once the program ends.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Tells the workers of what changed what it is now, starts those that are missing.
    pub(super) fn look(&self) {
        if self.is_closing() {
            return;
        }
        // The lock comes first: an older list must not win over a newer one.
        let mut workers = self.workers.lock();
        let Context { topics, sinks, sources, .. } = &self.context;
        // Before they are read: what changes meanwhile is looked at once more.
        let newest_wishes = (sinks.newest(), sources.newest());
        let (newest, mut changed) = topics.changed_since(workers.seen);
        workers.seen = newest;
        let ended = std::mem::take(&mut *self.ended.writers.lock());
        for writer in &ended {
            workers.by_writer.remove(writer);
            self.forget_removed(*writer);
        }
        let again = ended.into_iter().map(|writer| writer.topic_id);
        let mut again: BTreeSet<TopicId> = again.collect();
        if workers.seen_wishes != newest_wishes {
            workers.seen_wishes = newest_wishes;
            again.extend(sinks.topics());
            again.extend(
                workers.by_writer.keys().filter(|it| it.sink.is_some()).map(|it| it.topic_id),
            );
        }
        changed.extend(again.into_iter().filter_map(|id| topics.live_or_draining(id)));
        for (topic, draining) in changed {
            self.look_at(&mut workers, &topic, draining);
        }
    }

    /// The log does not wait for a sink that is gone, however its worker ended.
    fn forget_removed(&self, writer: Writer) {
        let Context { topics, sinks, holds, .. } = &self.context;
        let Some(uid) = writer.sink else { return };
        let lives = sinks.all_of_topic(writer.topic_id).iter().any(|sink| sink.uid == uid);
        if !lives && let Some((topic, false)) = topics.live_or_draining(writer.topic_id) {
            holds.leave(&topic, writer);
        }
    }

    fn look_at(&self, workers: &mut Workers, topic: &Arc<Topic>, draining: bool) {
        let sinks = self.context.sinks.all_of_topic(topic.id);
        let mut feeds = vec![Feed::own(topic)];
        if !sinks.is_empty() {
            let defaults = self.context.sources.commit_of(topic.name.as_str());
            feeds.extend(sinks.iter().map(|sink| Feed::of_sink(topic, sink, defaults)));
        }
        // All before the first of them tells the log what it may give back.
        for feed in &feeds {
            self.context.holds.enter(topic, feed.writer());
        }
        let all = workers.by_writer.range(Writer::topic(topic.id)..);
        for (writer, handle) in all.take_while(|(writer, _)| writer.topic_id == topic.id) {
            if !feeds.iter().any(|feed| feed.writer() == *writer) {
                handle.views.send_modify(|view| view.removed = true);
            }
        }
        for feed in feeds {
            let view = View { feed, draining, removed: false };
            self.tell(workers, view);
        }
    }

    fn tell(&self, workers: &mut Workers, view: View) {
        let writer = view.feed.writer();
        match workers.by_writer.get(&writer) {
            Some(handle) => {
                handle.views.send_if_modified(|seen| {
                    let same = seen.draining == view.draining && seen.feed.is_same(&view.feed);
                    *seen = view;
                    !same
                });
            }
            // It is done, and others of its topic are not.
            None if self.context.holds.is_closed(writer) => {}
            None => {
                let handle = self.spawn(view);
                workers.by_writer.insert(writer, handle);
            }
        }
    }

    fn spawn(&self, view: View) -> Handle {
        let feed = view.feed.clone();
        let (views, views_seen) = watch::channel(view);
        let (commands, commands_taken) = mpsc::channel(COMMANDS_MAX);
        let cell = Cell::default();
        cell.update(|status| {
            status.table = lifecycle::planned_name(&feed);
            status.topic = feed.name.to_string();
            status.topic_id = feed.id.to_string();
            status.sink = feed.sink().map(|sink| sink.id.clone());
            status.principal = feed.service().map(|service| service.name);
            // Who looks for a table by its name goes by this before the worker has looked at anything.
            status.mode = feed.mode().to_owned();
            status.state = "WAITING".to_owned();
            status.target_lag_ms = feed.options.table_target_lag_ms;
        });
        let wiring = Wiring {
            views: views_seen,
            commands: commands_taken,
            closing: self.closing.clone(),
            cell: cell.clone(),
        };
        let worker = Box::new(Worker::new(self.context.clone(), wiring));
        let ended = Ended {
            writer: feed.writer(),
            ended: Arc::clone(&self.ended),
            _running: self.running.token(),
        };
        self.context.tasks.spawn_contained("tier-worker", async move {
            let _ended = ended;
            worker.run().await;
        });
        Handle { views, commands, cell }
    }

    pub(super) fn catalog(&self) -> &dyn Catalog {
        &*self.context.catalog
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.context.ledger
    }

    pub(super) fn status(&self, writer: Writer) -> Option<TableStatus> {
        self.workers.lock().by_writer.get(&writer).map(|handle| handle.cell.get())
    }

    pub(super) fn statuses(&self) -> Vec<TableStatus> {
        self.workers.lock().by_writer.values().map(|handle| handle.cell.get()).collect()
    }

    /// The table of that name; of a live and a deleted topic with one name the live one, of several
    /// that write to one table one that stands still, and else the first by name. A topic's name is
    /// that of its own table.
    pub(super) fn find(&self, name: &str) -> Option<(mpsc::Sender<Command>, Cell)> {
        let rank = |(_, cell): &(mpsc::Sender<Command>, Cell)| {
            let status = cell.get();
            (status.resume.is_none(), status.topic)
        };
        self.find_all(name).into_iter().min_by_key(rank)
    }

    /// Every live topic's part of the table of that name, or those of deleted ones. A topic without a
    /// table has only the name that it would ask for: whoever has the table comes before it.
    pub(super) fn find_all(&self, name: &str) -> Vec<(mpsc::Sender<Command>, Cell)> {
        let workers = self.workers.lock();
        let named = workers.by_writer.values().filter(|handle| handle.cell.is_named(name));
        let (gone, live): (Vec<&Handle>, Vec<&Handle>) =
            named.partition(|handle| handle.views.borrow().draining);
        let mut best = if live.is_empty() { gone } else { live };
        let has_table = |handle: &&Handle| handle.cell.get().has_table();
        if best.iter().any(has_table) {
            best.retain(has_table);
        }
        best.into_iter().map(|handle| (handle.commands.clone(), handle.cell.clone())).collect()
    }

    pub(super) async fn shutdown(&self, bound: Duration) -> bool {
        self.closing.cancel();
        self.running.close();
        tokio::time::timeout(bound, self.running.wait()).await.is_ok()
    }
}
