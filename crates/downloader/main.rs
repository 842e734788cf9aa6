//! `streamsend-downloader`: see the library of this crate.

/// Thousands of headers, paths and log lines a second, made by one thread and freed by another: a tenth of the processor time for
/// small files went into the C library's allocator. librdkafka keeps that one, and what it holds
/// is counted there (`kafka::memory`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    kafka::keep_freed_memory();
    daemon::run_downloader(downloader::run)
}
