//! What an NRI plugin sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    berth_fuzz::bounded(8 << 20, || berth_nri::fuzzing::frames(data));
});
