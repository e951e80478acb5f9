//! See `floe::fuzzing::table_ends`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "table_ends",
    floe::fuzzing::table_ends,
    data
));
