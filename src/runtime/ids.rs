//! Ids that nobody else makes.

use uuid::timestamp::context::{ContextV7, ThreadLocalContext};
use uuid::{Timestamp, Uuid};

thread_local! {
    static CONTEXT: ContextV7 = const { ContextV7::new() };
}

/// A UUID of version 7 (RFC 9562, 5.7), later than those that this thread made before.
/// [`Uuid::now_v7`] is later than those of all threads, which take turns for that.
pub fn uuid_v7() -> Uuid {
    Uuid::new_v7(Timestamp::now(ThreadLocalContext::new(&CONTEXT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_thread_are_in_order_and_of_their_time() {
        let now = Uuid::now_v7().get_timestamp().unwrap().to_unix().0;
        let made: Vec<Uuid> = (0..1000).map(|_| uuid_v7()).collect();
        assert!(made.windows(2).all(|pair| pair[0] < pair[1]));
        let (seconds, _) = made[0].get_timestamp().unwrap().to_unix();
        assert!(made[0].get_version_num() == 7 && seconds.abs_diff(now) < 60, "{seconds} {now}");
        let other = std::thread::spawn(uuid_v7).join().unwrap();
        assert!(!made.contains(&other));
    }
}
