//! libFuzzer's entry to the target `downloader_ledger` of crates/fuzzing.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::run("downloader_ledger", input));
