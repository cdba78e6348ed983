//! What a shim prints and sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    berth_fuzz::bounded(32 << 20, || berth_shim_client::fuzzing::shim(data));
});
