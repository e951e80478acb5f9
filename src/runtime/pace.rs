//! How fast a client moves bytes: whoever holds memory that others wait for must go on.

use std::time::Duration;

use tokio::time::Instant;

/// Who moved fewer bytes than this in [`PACE_WINDOW`] is slow.
const BYTES_MIN: usize = 8 << 10;

/// How long a client may take for 8 KiB while memory is short.
pub const PACE_WINDOW: Duration = Duration::from_secs(1);

/// Counts the bytes of one request or answer as they move.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    bytes: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { since: Instant::now(), bytes: 0 }
    }
}

impl Pace {
    /// Counts `bytes` that moved, 0 if none did; true if they were too few for too long. To be
    /// asked at least once in [`PACE_WINDOW`].
    pub fn is_slow(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        if self.since.elapsed() < PACE_WINDOW {
            return false;
        }
        let few = self.bytes < BYTES_MIN;
        *self = Self::default();
        few
    }

    /// Leaves out a time in which the client was not listened to.
    pub fn excuse(&mut self, time: Duration) {
        self.since += time;
    }
}
