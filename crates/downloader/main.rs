//! `streamsend-downloader`: see the library of this crate.

fn main() -> std::process::ExitCode {
    daemon::run_downloader(downloader::run)
}
