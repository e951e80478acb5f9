//! See `floe::fuzzing::options`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "options",
    floe::fuzzing::options,
    data
));
