//! See `floe::fuzzing::mapping`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "mapping",
    floe::fuzzing::mapping,
    data
));
