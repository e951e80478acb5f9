//! See `floe::fuzzing::record_iter`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "record_iter",
    floe::fuzzing::record_iter,
    data
));
