//! CPU work off the async workers; a panic in it is a value (rules 4.9).

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::Error;

/// Runs `work` on the blocking pool.
pub(super) async fn on_blocking_pool<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        let reason = match error.try_into_panic() {
            Ok(panic) => panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned()),
            Err(error) => error.to_string(),
        };
        Err(Error::Panicked(reason))
    })
}

/// Runs `work`, which mixes I/O with much CPU work (Avro of manifests) that a library does inside
/// its futures, on a thread of the blocking pool. It goes on if the caller is dropped.
pub(super) async fn off_the_workers<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let runtime = Handle::current();
    on_blocking_pool(move || runtime.block_on(work)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_value_with_its_message() {
        let result = off_the_workers::<(), _>(async { panic!("bad row {}", 7) }).await;
        assert!(matches!(result, Err(Error::Panicked(reason)) if reason == "bad row 7"));
        let result = on_blocking_pool::<()>(|| panic!("plain")).await;
        assert!(matches!(result, Err(Error::Panicked(reason)) if reason == "plain"));
    }
}
