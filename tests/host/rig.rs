//! A host with the package installed and both daemons set up against a topic of their own.

use std::path::{Path, PathBuf};
use testkit::host::{Host, package};
use testkit::{LONG, shared_broker, tree, unique_topic, wait_until};

/// The units without template.
pub const UPLOADER: &str = "streamsend-uploader";
/// Likewise.
pub const DOWNLOADER: &str = "streamsend-downloader";
/// Both.
pub const BOTH: &str = "streamsend-uploader streamsend-downloader";
/// Where the uploader's files arrive in the output: its name is the host's.
pub const SPOOL: &str = "/var/spool/streamsend";
/// The output.
pub const OUTPUT: &str = "/srv/streamsend";

/// See the module.
pub struct Installed {
    pub host: Host,
    pub topic: String,
}

impl Installed {
    /// A host of this name with the package, a topic of two partitions, both configurations edited as an operator would: the
    /// broker's address and the topic added to the file that came with the package. Nothing is started.
    pub fn new(name: &str) -> Installed {
        let installed = Installed::without_package(name);
        installed.host.install(&package(None));
        installed.configure("", "");
        installed
    }

    /// The same, nothing installed yet.
    pub fn without_package(name: &str) -> Installed {
        let topic = unique_topic(name);
        shared_broker().create_topic(&topic, 2, &[]);
        Installed { host: Host::boot(name), topic }
    }

    /// Edits both configurations; `uploader` and `downloader` are further lines.
    pub fn configure(&self, uploader: &str, downloader: &str) {
        self.configure_for(&shared_broker().bootstrap(), uploader, downloader);
    }

    /// The same for a broker of the test's own.
    pub fn configure_for(&self, bootstrap: &str, uploader: &str, downloader: &str) {
        for (daemon, more) in [("uploader", uploader), ("downloader", downloader)] {
            let file = format!("/etc/streamsend/{daemon}.yaml");
            let sample = self.host.sh(&format!("sed '/^# --- edited/,$d' {file}"));
            let edit = format!("topic: {}\nkafka.bootstrap.servers: {bootstrap}\n{more}", self.topic);
            self.host.write(&file, &format!("{sample}\n# --- edited\n{edit}"));
        }
    }

    /// Enables and starts both, as the manual says.
    pub fn enable_both(&self) {
        self.host.sh(&format!("systemctl enable --now {BOTH}"));
    }

    /// A folder of the host, seen from outside.
    pub fn folder(&self, inside: &str) -> PathBuf {
        self.host.path(inside)
    }

    /// Puts a file of `bytes` recomputable bytes into the spool, from outside, as root, whole at once.
    pub fn drop_file(&self, name: &str, bytes: u64, seed: u64) {
        let mut aside = testkit::Source::new(self.folder(SPOOL), seed);
        aside.write(name, bytes);
    }

    /// Waits until the output holds exactly what the spool holds, under the uploader's name, and compares it all.
    #[track_caller]
    pub fn assert_all_delivered(&self, uploader: &str, files: usize) {
        let arrived = self.folder(OUTPUT).join(uploader);
        let count = || if arrived.is_dir() { testkit::rig::count(&arrived) } else { 0 };
        let all = wait_until(LONG, || count() >= files);
        assert!(
            all,
            "{} of {files} files arrived\n{}\n{}",
            count(),
            self.host.journal(UPLOADER),
            self.host.journal(DOWNLOADER)
        );
        let expected = tree::digest(&self.folder(SPOOL));
        assert_eq!(expected.len(), files);
        tree::assert_same(&expected, &tree::digest(&arrived), tree::Compare::ContentAndMetadata);
        // The journal may be behind the file.
        wait_until(LONG, || self.delivered_lines() >= files);
        assert_eq!(self.delivered_lines(), files, "each file once:\n{}", self.host.journal(DOWNLOADER));
    }

    /// How many deliveries the downloader's journal tells of.
    pub fn delivered_lines(&self) -> usize {
        self.host.journal(DOWNLOADER).lines().filter(|line| line.contains(": delivered, ")).count()
    }
}

/// Mode, owner and group of a path in the host, as `stat` prints them.
pub fn rights(host: &Host, path: &str) -> String {
    host.sh(&format!("stat -c '%a %U:%G' {path}"))
}

/// Whether the path exists in the host.
pub fn exists(host: &Host, path: impl AsRef<Path>) -> bool {
    host.run(&["test", "-e", &path.as_ref().display().to_string()]).code == 0
}
