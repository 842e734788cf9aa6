//! `streamsend-downloader`: see the library of this crate.

/// Thousands of headers, paths and log lines a second, made by one thread and freed by another: a tenth of the processor time for
/// small files went into the C library's allocator. librdkafka allocates with it, too (the feature `override`): its answers of
/// 16 MiB are used again instead of going back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    daemon::run_downloader(downloader::run)
}
