//! See `floe::fuzzing::partition_spec`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "partition_spec",
    floe::fuzzing::partition_spec,
    data
));
