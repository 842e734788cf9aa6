//! `streamsend-uploader`.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::run_uploader(uploader::run)
}
