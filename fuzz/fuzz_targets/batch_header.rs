//! See `floe::fuzzing::batch_header`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "batch_header",
    floe::fuzzing::batch_header,
    data
));
