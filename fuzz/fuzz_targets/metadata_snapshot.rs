//! See `floe::fuzzing::metadata_snapshot`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "metadata_snapshot",
    floe::fuzzing::metadata_snapshot,
    data
));
