//! See `floe::fuzzing::credential`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "credential",
    floe::fuzzing::credential,
    data
));
