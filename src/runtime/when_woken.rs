//! A future that waits beside a busy one in the same task: it is polled when it was woken, not
//! whenever the other one has something to do.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// See the module. What tokio wakes by (tokens, channels, notifications) takes a lock that all who
/// wait share, each time it is polled.
pub struct WhenWoken<F> {
    future: Pin<Box<F>>,
    signal: Arc<Signal>,
    waker: Waker,
}

struct Signal {
    is_woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F> WhenWoken<F> {
    /// The first poll polls `future` in any case.
    pub fn new(future: F) -> Self {
        let signal = Signal { is_woken: AtomicBool::new(true), task: AtomicWaker::new() };
        let signal = Arc::new(signal);
        let waker = Waker::from(Arc::clone(&signal));
        Self { future: Box::pin(future), signal, waker }
    }
}

impl<F: Future> Future for WhenWoken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // First of all: who wakes after the look below finds whom to wake.
        self.signal.task.register(context.waker());
        if !self.signal.is_woken.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.signal.is_woken.swap(false, Ordering::AcqRel);
        let Self { future, waker, .. } = &mut *self;
        future.as_mut().poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_first_and_when_it_was_woken() {
        let (token, polls) = (CancellationToken::new(), AtomicUsize::new(0));
        let mut inner = Box::pin(token.cancelled());
        let mut waits = WhenWoken::new(poll_fn(|context| {
            polls.fetch_add(1, Ordering::Relaxed);
            inner.as_mut().poll(context)
        }));
        for _ in 0..5 {
            assert!(futures::poll!(&mut waits).is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        token.cancel();
        waits.await;
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn no_wake_is_missed() {
        for _ in 0..2_000 {
            let token = CancellationToken::new();
            let waits = WhenWoken::new(token.clone().cancelled_owned());
            let other = std::thread::spawn(move || token.cancel());
            waits.await;
            other.join().unwrap();
        }
    }
}
