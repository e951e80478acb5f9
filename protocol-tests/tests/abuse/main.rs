//! Clients that are broken, hostile or many: the server's memory stays below a stated bound, it logs
//! no panic, and the clients beside them keep going. Figures are printed with `--nocapture`;
//! docs/reliability.md has those of one run.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod batches;
mod connections;
mod http;
mod requests;
mod topics;

use std::time::{Duration, Instant};

use protocol_tests::Floe;
use protocol_tests::healthy::Healthy;
use protocol_tests::memory::{forget_peak, peak_bytes, raise_open_files, resident_bytes};

const MIB: u64 = 1 << 20;

/// No request of a healthy client takes longer. Far above what was measured: it finds what hangs,
/// not what is slow on a machine that does other things as well. A stalled frame has 30 seconds.
const HANG: Duration = Duration::from_secs(25);

/// Longest wait for what the server must do at once: an answer, or the end of a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with healthy clients, and the memory that it may take.
struct Besieged {
    floe: Floe,
    healthy: Healthy,
    began: Instant,
    bound_mib: u64,
}

impl Besieged {
    async fn start(flags: &[&str], bound_mib: u64) -> Self {
        raise_open_files();
        let floe = Floe::start(flags).await;
        let healthy = Healthy::start(&floe).await;
        Self { floe, healthy, began: Instant::now(), bound_mib }
    }

    /// Tells the peak of memory since the last time, and holds it to the bound.
    fn phase(&mut self, what: &str) {
        let (peak, now) = (peak_bytes(&self.floe) / MIB, resident_bytes(&self.floe) / MIB);
        let seconds = self.began.elapsed().as_secs_f64();
        println!("{what}: {seconds:.1} s, peak {peak} MiB, then {now} MiB");
        assert!(peak <= self.bound_mib, "{what}: {peak} MiB, allowed are {}", self.bound_mib);
        forget_peak(&self.floe);
        self.began = Instant::now();
    }

    /// Nothing panicked, nothing hung, the server is up.
    async fn end(self) {
        for latency in self.healthy.stop().await {
            println!("  {latency}");
            assert!(latency.max < HANG, "{latency}");
        }
        let log = self.floe.log();
        let panic = log.lines().find(|line| line.contains("panicked"));
        assert_eq!(panic, None, "{log}");
        let ready = reqwest::get(self.floe.url("/readyz")).await.unwrap();
        assert!(ready.status().is_success());
    }
}
