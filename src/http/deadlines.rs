//! The timer of one connection. The library asks for a deadline with each request and hardly ever
//! reaches one: tokio's own is put among all others and taken out again each time, under a lock. Here
//! one of them is left where it is. It may be too early, and is put off then.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

/// For one connection, whose deadlines are all equally far away; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Deadlines(Arc<Mutex<Option<Armed>>>);

/// What wakes the connection.
struct Armed {
    sleep: Pin<Box<tokio::time::Sleep>>,
    waker: Waker,
}

struct Deadline {
    at: Instant,
    of: Deadlines,
}

impl Timer for Deadlines {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Deadline { at, of: self.clone() })
    }
}

impl Sleep for Deadline {}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(self.at);
        let mut armed = self.of.0.lock();
        let armed = armed.get_or_insert_with(|| Armed {
            sleep: Box::pin(tokio::time::sleep_until(at)),
            waker: Waker::noop().clone(),
        });
        let is_set = !armed.sleep.is_elapsed() && armed.sleep.deadline() <= at;
        if is_set && armed.waker.will_wake(context.waker()) {
            return Poll::Pending;
        }
        if !is_set {
            armed.sleep.as_mut().reset(at);
        }
        armed.waker = context.waker().clone();
        // A task that has done much would be told to come again, and the timer not be set.
        pin!(tokio::task::unconstrained(armed.sleep.as_mut())).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_is_reached_however_many_were_dropped_before_it() {
        let (timer, start) = (Deadlines::default(), Instant::now());
        let ms = Duration::from_millis;
        // Each deadline is put off from the one that is set.
        for _ in 0..5 {
            let mut deadline = timer.sleep(ms(20));
            assert!(futures::poll!(&mut deadline).is_pending());
        }
        let at = start + ms(100);
        timer.sleep_until(at).await;
        assert!(Instant::now() >= at);
        // One that is passed, and one after that.
        timer.sleep_until(start).await;
        timer.sleep_until(at + ms(20)).await;
        assert!(Instant::now() >= at + ms(20));
    }

    #[tokio::test]
    async fn whoever_polls_last_is_woken() {
        let timer = Deadlines::default();
        let mut deadline = timer.sleep(Duration::from_millis(20));
        let mut elsewhere = Context::from_waker(Waker::noop());
        assert!(deadline.as_mut().poll(&mut elsewhere).is_pending());
        deadline.await;
    }
}
