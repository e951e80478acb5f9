//! See `floe::fuzzing::otlp`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded("otlp", floe::fuzzing::otlp, data));
