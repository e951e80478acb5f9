//! See `floe::fuzzing::codecs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "codecs",
    floe::fuzzing::codecs,
    data
));
