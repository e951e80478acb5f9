//! See `floe::fuzzing::wal_frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "wal_frame",
    floe::fuzzing::wal_frame,
    data
));
