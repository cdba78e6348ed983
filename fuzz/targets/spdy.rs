//! What a client of SPDY sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    berth_fuzz::bounded(64 << 20, || berth_streaming::fuzzing::spdy(data));
});
