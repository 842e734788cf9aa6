//! The rig of [`testkit::rig`], with the executables of this very build.

pub use testkit::rig::{Rig, STOP, count, license_between, license_text};

/// The uploader's executable.
pub const UPLOADER: &str = env!("CARGO_BIN_EXE_streamsend-uploader");
/// The downloader's executable.
pub const DOWNLOADER: &str = env!("CARGO_BIN_EXE_streamsend-downloader");
/// The operator's tool.
pub const TOOL: &str = env!("CARGO_BIN_EXE_streamsend");
