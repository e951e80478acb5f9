//! What fuzzing feeds: one function per target, which hands arbitrary bytes to the real code and
//! asserts what must hold of it, besides that nothing panics. Only in tests and for `fuzz/`.
//!
//! Owns: these properties. Does not own: the inputs (`fuzz/seeds`), the runs (`fuzz/run`).

mod auth;
mod contract;
mod http;
mod kafka;
mod mapping;
mod options;
mod record;
mod rest;
mod schema;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod wal;

pub use auth::credential;
pub use contract::contract_decoder;
pub use http::json_splitter;
pub use http::otlp;
pub use kafka::kafka_request;
pub use mapping::mapping;
pub use options::options;
pub use record::batch_header;
pub use record::codecs;
pub use record::record_iter;
pub use rest::rest_bodies;
pub use schema::json_decoder;
pub use schema::partition_spec;
pub use state::metadata_snapshot;
pub use table::table_ends;
pub use wal::wal_frame;

/// One fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of its function, of its file in `fuzz/fuzz_targets` and of its folder in `fuzz/seeds`.
    pub name: &'static str,
    /// The target. It panics where a property does not hold.
    pub run: fn(&[u8]),
    /// Memory that it may hold at once whatever its input, in bytes.
    pub bytes: usize,
    /// Memory that it may hold at once for each byte of input, in bytes.
    pub bytes_per_byte: usize,
}

const fn target(name: &'static str, run: fn(&[u8]), bytes: usize, bytes_per_byte: usize) -> Target {
    Target { name, run, bytes, bytes_per_byte }
}

/// All targets. The memory of a target is that of the code and of the copies that its properties
/// need.
pub const TARGETS: &[Target] = &[
    // The guard's rule: an element takes at least one byte and about 200 bytes once decoded.
    target("kafka_request", kafka_request, 64 << 10, 1024),
    target("batch_header", batch_header, 64 << 10, 8),
    // A record of seven bytes is about 100 once it is kept; a batch may inflate to its cap.
    target("record_iter", record_iter, 160 << 20, 64),
    target("codecs", codecs, 16 << 20, 64),
    target("wal_frame", wal_frame, 64 << 10, 16),
    target("metadata_snapshot", metadata_snapshot, 1 << 20, 256),
    target("json_splitter", json_splitter, 1 << 20, 512),
    // A record takes some thirty times its bytes once decoded, and its JSON some twenty times.
    target("otlp", otlp, 1 << 20, 1024),
    target("json_decoder", json_decoder, 16 << 20, 4096),
    target("contract_decoder", contract_decoder, 16 << 20, 4096),
    target("mapping", mapping, 16 << 20, 4096),
    target("rest_bodies", rest_bodies, 4 << 20, 4096),
    target("partition_spec", partition_spec, 1 << 20, 512),
    target("table_ends", table_ends, 1 << 20, 1024),
    target("options", options, 1 << 20, 512),
    target("credential", credential, 1 << 20, 512),
];

/// Splits one byte off, which steers the target; 0 where there is none.
fn steer(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}
