//! See `floe::fuzzing::json_decoder`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "json_decoder",
    floe::fuzzing::json_decoder,
    data
));
