//! See `floe::fuzzing::kafka_request`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "kafka_request",
    floe::fuzzing::kafka_request,
    data
));
