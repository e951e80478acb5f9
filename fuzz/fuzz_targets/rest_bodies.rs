//! See `floe::fuzzing::rest_bodies`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "rest_bodies",
    floe::fuzzing::rest_bodies,
    data
));
