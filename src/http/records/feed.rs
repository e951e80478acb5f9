//! The way of events from a task to the answer that they are part of. Who does not take them is waited
//! for only so long, and what nobody is to have any more is not kept for it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::response::sse::Event;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// One event: what is sent next. More would be memory that a client holds by not reading.
const QUEUE_MAX: usize = 1;

type Queue = Mutex<mpsc::Receiver<Event>>;

/// Where the task puts events. When it is dropped the answer ends, without what was not taken.
pub(super) struct Feed {
    patience: Duration,
    sender: mpsc::Sender<Event>,
    queue: Weak<Queue>,
}

/// A feed that waits so long for each event to be taken, and what is taken from it.
pub(super) fn open(patience: Duration) -> (Feed, impl Stream<Item = Event> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    let queue = Arc::new(Mutex::new(receiver));
    let feed = Feed { patience, sender, queue: Arc::downgrade(&queue) };
    (feed, futures::stream::poll_fn(move |context| queue.lock().poll_recv(context)))
}

impl Feed {
    /// Hands over an event; false if the client is gone, or did not take the one before in time.
    pub(super) async fn give(&self, event: Event) -> bool {
        let sent = tokio::time::timeout(self.patience, self.sender.send(event)).await;
        sent.is_ok_and(|sent| sent.is_ok())
    }

    /// Waits until the client is gone.
    pub(super) async fn abandoned(&self) {
        self.sender.closed().await;
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.upgrade() {
            let mut queue = queue.lock();
            queue.close();
            while queue.try_recv().is_ok() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_takes_nothing_is_not_waited_for_and_has_nothing_left() {
        let (feed, events) = open(Duration::from_millis(20));
        let mut events = pin!(events);
        assert!(feed.give(Event::default()).await);
        assert!(!feed.give(Event::default()).await, "the first was not taken");
        drop(feed);
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn events_come_until_the_client_is_gone() {
        let (feed, events) = open(LONG);
        let mut events = Box::pin(events);
        for _ in 0..3 {
            let (given, taken) = tokio::join!(feed.give(Event::default()), events.next());
            assert!(given && taken.is_some());
        }
        drop(events);
        feed.abandoned().await;
        assert!(!feed.give(Event::default()).await);
    }
}
