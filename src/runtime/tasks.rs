//! Named tasks and threads: each is joined at shutdown, and one that fails stops the process
//! with its name as the reason.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

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
    on_fatal: OnFatal,
}

impl Tasks {
    /// A new group; `on_fatal` is told why the process must end.
    pub fn new(on_fatal: OnFatal) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            threads: Arc::default(),
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
        let inner = self.tracker.spawn(task);
        self.tracker.spawn(async move {
            if let Err(error) = inner.await
                && error.is_panic()
            {
                on_fatal(&format!("task {name} panicked"));
            }
        });
    }

    /// Runs `task` under `name` where a panic concerns only this task (a connection).
    pub fn spawn_contained<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let inner = self.tracker.spawn(task);
        self.tracker.spawn(async move {
            if let Err(error) = inner.await
                && error.is_panic()
            {
                tracing::error!(task = name, "task panicked");
            }
        });
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
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
                on_fatal(&format!("thread {thread_name} panicked"));
            }
        })?;
        let mut threads = self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
        let threads = std::mem::take(
            &mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        for (name, handle) in threads {
            if handle.join().is_err() {
                tracing::error!(thread = name, "thread ended by a panic");
            }
        }
    }
}
