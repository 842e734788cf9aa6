//! libFuzzer's entry to the target `envelope` of crates/fuzzing.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::run("envelope", input));
