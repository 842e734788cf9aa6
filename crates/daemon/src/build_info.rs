//! What was built, and the lines that say so.
//!
//! What must never happen here: a start-up line that differs from the one people look for.

use std::fmt;

use crate::settings::Program;

/// Version, date and commit of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// `1.2.3`.
    pub version: &'static str,
    /// Day of the build, UTC, `2026-11-24`.
    pub build: &'static str,
    /// Short commit hash, `unknown` where it was not built from a git checkout.
    pub git: &'static str,
}

impl Build {
    /// Of this very program.
    pub const fn current() -> Build {
        Build {
            version: env!("CARGO_PKG_VERSION"),
            build: env!("STREAMSEND_BUILD"),
            git: env!("STREAMSEND_GIT"),
        }
    }

    /// The uploader's first line once it is ready. `threads`: producer clients; `chunk_size` in bytes.
    pub fn uploader_banner(&self, threads: usize, topic: &str, partitions: i32, chunk_size: u32) -> String {
        format!(
            "*** Streamsend Uploader successfully started on {} with thread(s)={threads}, topic={topic}, \
             partition(s)={partitions}, Chunk Size={chunk_size}, Build={}, Git={}",
            host_name(),
            self.build,
            self.git
        )
    }

    /// The downloader's first line once it is ready. `threads`: consumer tasks.
    pub fn downloader_banner(&self, threads: usize, topic: &str, partitions: i32) -> String {
        format!(
            "*** Streamsend Downloader successfully started on {} with thread(s)={threads}, topic={topic}, \
             partition(s)={partitions}, Build={}, Git={}",
            host_name(),
            self.build,
            self.git
        )
    }

    /// What `--version` prints after the program's name.
    pub fn version_text(&self) -> String {
        self.to_string()
    }

    /// `NAME VERSION (Build=…, Git=…)` for `--version`.
    pub fn version_line(&self, program: Program) -> String {
        format!("{} {self}", program.executable())
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (Build={}, Git={})", self.version, self.build, self.git)
    }
}

/// The system's host name; `localhost` if it is not text or empty.
pub fn host_name() -> String {
    match rustix::system::uname().nodename().to_str() {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_up_lines_are_the_ones_people_look_for() {
        let build = Build { version: "1.2.3", build: "2026-11-24", git: "abc1234" };
        let host = host_name();
        assert_eq!(
            build.uploader_banner(1, "T", 6, 1_032_192),
            format!(
                "*** Streamsend Uploader successfully started on {host} with thread(s)=1, topic=T, partition(s)=6, Chunk Size=1032192, Build=2026-11-24, Git=abc1234"
            )
        );
        assert_eq!(
            build.downloader_banner(6, "T", 6),
            format!(
                "*** Streamsend Downloader successfully started on {host} with thread(s)=6, topic=T, partition(s)=6, Build=2026-11-24, Git=abc1234"
            )
        );
        assert_eq!(
            build.version_line(Program::Uploader),
            "streamsend-uploader 1.2.3 (Build=2026-11-24, Git=abc1234)"
        );
    }

    #[test]
    fn what_was_built_is_known() {
        let build = Build::current();
        assert_eq!(build.build.len(), "2026-11-24".len(), "{build}");
        assert!(build.git == "unknown" || build.git.len() >= 7, "{build}");
    }
}
