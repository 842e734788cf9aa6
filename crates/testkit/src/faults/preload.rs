//! Small libraries that are loaded into a daemon and change what single calls of the C library do.
//!
//! What must never happen here: a change of anything but the one program that is started with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a library of that source in `folder` with the C compiler of this machine; `None` when there is none.
pub(super) fn library(folder: &Path, name: &str, source: &str) -> Option<PathBuf> {
    let (file, library) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    fs::write(&file, source).expect("there is room");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &file]).status();
    built.is_ok_and(|status| status.success()).then_some(library)
}
