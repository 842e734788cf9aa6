//! libFuzzer's entry to the target `uploader_ledger` of crates/fuzzing.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::run("uploader_ledger", input));
