//! `streamsend-uploader`.

use std::process::ExitCode;

/// Thousands of headers, paths and log lines a second, made by one thread and freed by another: a tenth of the processor time for
/// small files went into the C library's allocator. librdkafka keeps that one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kafka::schedule_as_batch();
    daemon::run_uploader(uploader::run)
}
