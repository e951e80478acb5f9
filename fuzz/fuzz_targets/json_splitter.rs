//! See `floe::fuzzing::json_splitter`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "json_splitter",
    floe::fuzzing::json_splitter,
    data
));
