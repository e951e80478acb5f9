//! Named tasks and threads: each is joined at shutdown, and one that fails stops the process
//! with its name as the reason.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Called once with the reason when the process must not go on (failed sync, poisoned store).
/// The binary prints it as its last line and exits; tests record it.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// The group of all tasks and threads of one broker; cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    threads: Arc<Mutex<Vec<(String, JoinHandle<()>)>>>,
    /// Tasks that have not ended, by name.
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    on_fatal: OnFatal,
}

/// Counts a task while it lives.
struct Running {
    name: &'static str,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}

impl Tasks {
    /// A new group; `on_fatal` is told why the process must end.
    pub fn new(on_fatal: OnFatal) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            threads: Arc::default(),
            running: Arc::default(),
            on_fatal,
        }
    }

    /// A group for tests: a fatal reason panics in the thread that found it.
    pub fn for_tests() -> Self {
        Self::new(Arc::new(|reason| panic!("fatal: {reason}")))
    }

    /// Fires when the group is asked to stop.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells the owner of the process that it must end, and why.
    pub fn fatal(&self, reason: &str) {
        (self.on_fatal)(reason);
    }

    /// Runs `task` under `name`. A panic in it is fatal: it would leave state half changed.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let on_fatal = Arc::clone(&self.on_fatal);
        self.tracked(name, task, move || on_fatal(&format!("task {name} panicked")));
    }

    /// Runs `task` under `name` to its end even if the caller goes away. None: it panicked, which is
    /// fatal, or the runtime ended.
    pub async fn finish<T, F>(&self, name: &'static str, task: F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.spawn(name, async move { drop(sender.send(task.await)) });
        receiver.await.ok()
    }

    /// Runs `task` under `name` where a panic concerns only this task (a connection).
    pub fn spawn_contained<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracked(name, task, move || tracing::error!(task = name, "task panicked"));
    }

    /// Runs `task` and counts it; combinators and no second task, or async block around it, because
    /// there are many and each of those would hold a copy of its state.
    fn tracked<F>(&self, name: &'static str, task: F, panicked: impl FnOnce() + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        let running = Running { name, running: Arc::clone(&self.running) };
        self.tracker.spawn(AssertUnwindSafe(task).catch_unwind().map(move |ended| {
            if ended.is_err() {
                panicked();
            }
            drop(running);
        }));
    }

    /// Names of the tasks that have not ended, with how many there are of each.
    pub fn running(&self) -> Vec<String> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let name = |(name, count): (&&str, &usize)| match count {
            1 => (*name).to_owned(),
            count => format!("{name} ({count})"),
        };
        running.iter().map(name).collect()
    }

    /// Runs `body` on a named thread of its own, joined by [`Tasks::join_threads`]. A panic in
    /// it is fatal.
    ///
    /// # Errors
    /// The system's error when no thread can be started.
    pub fn thread(&self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let on_fatal = Arc::clone(&self.on_fatal);
        let thread_name = name.to_owned();
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if std::panic::catch_unwind(AssertUnwindSafe(body)).is_err() {
                on_fatal(&format!("thread {thread_name} panicked"));
            }
        })?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push((name.to_owned(), handle));
        Ok(())
    }

    /// Asks all tasks to stop and waits at most `bound` for them. True if all ended.
    pub async fn stop(&self, bound: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(bound, self.tracker.wait()).await.is_ok()
    }

    /// Joins the threads. They end when their queues close, so the parts that feed them must be
    /// dropped before. Blocks: call it outside of the async workers.
    pub fn join_threads(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, handle) in threads {
            if handle.join().is_err() {
                tracing::error!(thread = name, "thread ended by a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_that_do_not_end_are_named() {
        let tasks = Tasks::for_tests();
        for _ in 0..2 {
            tasks.spawn("sleeper", std::future::pending());
        }
        tasks.spawn_contained("done", std::future::ready(()));
        let stop = tasks.stop_token();
        tasks.spawn("polite", async move { stop.cancelled().await });
        assert!(!tasks.stop(Duration::from_millis(50)).await);
        assert_eq!(tasks.running(), ["sleeper (2)"]);
    }
}
