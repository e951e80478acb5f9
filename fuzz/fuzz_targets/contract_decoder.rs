//! See `floe::fuzzing::contract_decoder`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floe_fuzz::bounded(
    "contract_decoder",
    floe::fuzzing::contract_decoder,
    data
));
