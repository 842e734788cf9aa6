//! The package of this very build, for installing it in a host.
//!
//! What must never happen here: a package of binaries that are older than the sources under test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::rig::program;
use crate::scratch::project_directory;

/// The `.deb` of the binaries that were built together with this test, with this version (the workspace's if `None`); made once.
///
/// # Panics
/// When it cannot be made.
pub fn package(version: Option<&str>) -> PathBuf {
    made("deb", version)
}

/// The archive with the install script, for systems without packages; likewise.
///
/// # Panics
/// When it cannot be made.
pub fn tarball() -> PathBuf {
    made("tarball", None)
}

fn made(kind: &'static str, version: Option<&str>) -> PathBuf {
    static MADE: Mutex<BTreeMap<(&str, Option<String>), PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry((kind, version.map(str::to_owned))).or_insert_with(|| make(kind, version)).clone()
}

fn make(kind: &str, version: Option<&str>) -> PathBuf {
    let uploader = program("streamsend-uploader");
    let profile = uploader.parent().and_then(|folder| folder.file_name()).unwrap_or_default();
    let mut command = Command::new(project_directory().join("scripts/package"));
    command
        .arg(kind)
        .arg(profile)
        .args(version)
        .stdin(Stdio::null())
        .env("COMPRESSION", if kind == "deb" { "0" } else { "1" });
    let output = command.output().unwrap_or_else(|error| panic!("scripts/package: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "scripts/package failed:\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let name = said.lines().last().unwrap_or_default();
    project_directory().join(name)
}
