//! A topic, a spool, an output, a licence, and the two daemons between them: what end-to-end tests and fault scenarios run on.
//!
//! What must never happen here: a test that passes because nothing was sent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::broker::{shared_broker, unique_topic};
use crate::daemon::Daemon;
use crate::faults::oracle::{Oracle, Verdict};
use crate::scratch::{Scratch, scratch};
use crate::source::Source;
use crate::tree::{self, Compare, Tree, WORK_DIRECTORY};
use crate::wait::LONG;
use crate::watcher::{Watcher, assert_all_whole};

/// How long a daemon may take to end after SIGTERM.
pub const STOP: Duration = Duration::from_secs(10);

/// The executable of this name that was built together with the one that runs: beside it, or above its `deps` folder.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_else(|error| panic!("finding this program: {error}"));
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not beside {}: build the binaries first", own.display()))
}

const UPLOADER: &str = "streamsend-uploader";
const DOWNLOADER: &str = "streamsend-downloader";

/// See the module.
pub struct Rig {
    /// Everything of this rig lies in it.
    pub scratch: Scratch,
    /// The uploader's spool.
    pub spool: PathBuf,
    /// The downloader's output.
    pub output: PathBuf,
    /// The topic's name.
    pub topic: String,
    /// Where both daemons find the broker.
    pub bootstrap: String,
    /// Folder that holds `state-NAME` of each daemon; the scratch folder unless a test moves it to another filesystem.
    pub states: PathBuf,
    license: Option<(PathBuf, String)>,
    /// State directories that lie elsewhere, by the daemon's name.
    elsewhere: BTreeMap<String, PathBuf>,
}

impl Rig {
    /// Folders and a topic with so many partitions; no licence.
    pub fn new(name: &str, partitions: i32) -> Rig {
        let broker = shared_broker();
        let rig = Rig::at(name, &broker.bootstrap());
        broker.create_topic(&rig.topic, partitions, &[]);
        rig
    }

    /// Folders for a broker of the test's own; the topic is not made.
    pub fn at(name: &str, bootstrap: &str) -> Rig {
        let scratch = scratch(name);
        let (spool, output) = (scratch.folder("spool"), scratch.folder("output"));
        let (topic, bootstrap) = (unique_topic(name), bootstrap.to_owned());
        let states = scratch.path().to_path_buf();
        Rig { scratch, spool, output, topic, bootstrap, states, license: None, elsewhere: BTreeMap::new() }
    }

    /// Gives both daemons a licence for 30 days.
    pub fn licensed(self) -> Rig {
        self.licensed_with(|secret| license_text(secret, 30))
    }

    /// Gives both daemons the licence that `issue` makes.
    pub fn licensed_with(mut self, issue: impl FnOnce(&license::VendorSecret) -> String) -> Rig {
        let secret = license::keygen().expect("a licence can be made");
        let file = self.scratch.path().join("license.key");
        std::fs::write(&file, issue(&secret)).expect("a licence can be made");
        self.license = Some((file, secret.public().to_base64()));
        self
    }

    /// File and public key of the licence, if there is one.
    pub fn license(&self) -> Option<(&Path, &str)> {
        self.license.as_ref().map(|(file, key)| (file.as_path(), key.as_str()))
    }

    /// Files for the spool.
    pub fn source(&self, seed: u64) -> Source {
        Source::new(&self.spool, seed)
    }

    fn common(&self, name: &str) -> Vec<String> {
        let state = self.state(name);
        let mut args = vec![
            "--bootstrap-server".to_owned(),
            self.bootstrap.clone(),
            "--topic".to_owned(),
            self.topic.clone(),
            "--name".to_owned(),
            name.to_owned(),
            "--state-directory".to_owned(),
            state.display().to_string(),
        ];
        if let Some((file, key)) = &self.license {
            let file = file.display().to_string();
            args.extend(["--license-key".to_owned(), file, "--license-public-key".to_owned(), key.clone()]);
        }
        args
    }

    /// The state directory of the daemon of this name.
    pub fn state(&self, name: &str) -> PathBuf {
        self.elsewhere.get(name).cloned().unwrap_or_else(|| self.states.join(format!("state-{name}")))
    }

    /// Keeps the state directory of the daemon of this name in another folder.
    pub fn put_state(&mut self, name: &str, folder: &Path) {
        self.elsewhere.insert(name.to_owned(), folder.join(format!("state-{name}")));
    }

    /// The uploader `up` on the spool.
    pub fn uploader(&self, more: &[&str]) -> Daemon {
        Daemon::spawn(program(UPLOADER), self.uploader_args(more), &[])
    }

    /// An uploader of any name (and so state directory) on any spool.
    pub fn uploader_at(&self, name: &str, spool: &Path, more: &[&str]) -> Daemon {
        Daemon::spawn(program(UPLOADER), self.uploader_args_at(name, spool, more), &[])
    }

    /// The same without root's power to read everything.
    pub fn uploader_as_ordinary_user(&self, more: &[&str]) -> Daemon {
        if !rustix::process::geteuid().is_root() {
            return self.uploader(more);
        }
        let mut args = vec![
            "--bounding-set=-dac_override,-dac_read_search".to_owned(),
            program(UPLOADER).display().to_string(),
        ];
        args.extend(self.uploader_args(more));
        Daemon::spawn("/usr/bin/setpriv", args, &[])
    }

    /// The uploader `up` as a child of another program, such as `strace`, which gets `before` and then the command line.
    pub fn uploader_under(&self, wrapper: &str, before: &[&str], more: &[&str]) -> Daemon {
        Daemon::spawn(wrapper, wrapped(before, UPLOADER, self.uploader_args(more)), &[])
    }

    /// The downloader `down`, likewise.
    pub fn downloader_under(&self, wrapper: &str, before: &[&str], more: &[&str]) -> Daemon {
        let args = self.downloader_args("down", &self.output, more);
        Daemon::spawn(wrapper, wrapped(before, DOWNLOADER, args), &[])
    }

    /// The uploader of these arguments, as a child of `wrapper` or, without one, by itself.
    pub fn uploader_of(&self, wrapper: &[String], args: Vec<String>) -> Daemon {
        spawn_under(wrapper, UPLOADER, args)
    }

    /// The downloader of these arguments, likewise.
    pub fn downloader_of(&self, wrapper: &[String], args: Vec<String>) -> Daemon {
        spawn_under(wrapper, DOWNLOADER, args)
    }

    /// The uploader's command line, without the program.
    pub fn uploader_args(&self, more: &[&str]) -> Vec<String> {
        self.uploader_args_at("up", &self.spool, more)
    }

    /// The command line of an uploader of any name (and so state directory) on any spool.
    pub fn uploader_args_at(&self, name: &str, spool: &Path, more: &[&str]) -> Vec<String> {
        let mut args = self.common(name);
        args.extend(["--spool".to_owned(), spool.display().to_string()]);
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        args
    }

    /// The downloader `down` on the output, which lands files as they lie in the spool.
    pub fn downloader(&self, more: &[&str]) -> Daemon {
        self.downloader_at("down", &self.output, more)
    }

    /// A downloader of any name (and so state directory) on any output.
    pub fn downloader_at(&self, name: &str, output: &Path, more: &[&str]) -> Daemon {
        Daemon::spawn(program(DOWNLOADER), self.downloader_args(name, output, more), &[])
    }

    /// The command line of a downloader, without the program.
    pub fn downloader_args(&self, name: &str, output: &Path, more: &[&str]) -> Vec<String> {
        let mut args = self.common(name);
        args.extend(["--output".to_owned(), output.display().to_string()]);
        args.extend(["--set".to_owned(), "landing={path}".to_owned()]);
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        args
    }

    /// Sends what is in the spool and waits for the end.
    pub fn upload_once(&self, more: &[&str]) -> Daemon {
        let args = [&["--once", "--settle", "0s", "--timeout", "300s"], more].concat();
        let mut daemon = self.uploader(&args);
        assert_eq!(daemon.wait_exit(LONG * 3), 0);
        daemon
    }

    /// Takes what is on the topic and waits for the end.
    pub fn download_once(&self, more: &[&str]) -> Daemon {
        let args = [&["--until-idle", "1s", "--timeout", "300s"], more].concat();
        let mut daemon = self.downloader(&args);
        assert_eq!(daemon.wait_exit(LONG * 3), 0);
        daemon
    }

    /// Begins to watch the output.
    pub fn watcher(&self) -> Watcher {
        Watcher::start(&self.output)
    }

    /// What the oracle says of the output; if anything is wrong the folders are kept and named.
    pub fn judged(&self, oracle: &Oracle) -> Verdict {
        self.judged_at(oracle, &self.output)
    }

    /// The same of another output.
    pub fn judged_at(&self, oracle: &Oracle, output: &Path) -> Verdict {
        let verdict = oracle.judge(output);
        if !verdict.is_clean() {
            self.scratch.keep();
        }
        verdict
    }

    /// The spool and the output hold the same files, and everything ever seen in the output was one of them.
    pub fn assert_delivered(&self, watcher: Watcher) -> Tree {
        let expected = self.assert_same();
        let whole = expected.values().map(|entry| entry.blake3).collect();
        let sightings = watcher.finish();
        assert_all_whole(&sightings, &whole);
        assert!(
            sightings.len() >= expected.len(),
            "the watcher saw {} of {}",
            sightings.len(),
            expected.len()
        );
        expected
    }

    /// The spool and the output hold the same files.
    pub fn assert_same(&self) -> Tree {
        let expected = tree::digest(&self.spool);
        assert!(!expected.is_empty(), "nothing was sent");
        tree::assert_same(&expected, &tree::digest(&self.output), Compare::ContentAndMetadata);
        expected
    }
}

fn wrapped(before: &[&str], name: &str, args: Vec<String>) -> Vec<OsString> {
    let before = before.iter().map(OsString::from);
    before.chain([program(name).into_os_string()]).chain(args.into_iter().map(OsString::from)).collect()
}

fn spawn_under(wrapper: &[String], name: &str, args: Vec<String>) -> Daemon {
    match wrapper {
        [] => Daemon::spawn(program(name), args, &[]),
        [wrapper, before @ ..] => {
            let before: Vec<&str> = before.iter().map(String::as_str).collect();
            Daemon::spawn(wrapper, wrapped(&before, name, args), &[])
        }
    }
}

/// A licence for so many days (negative: it ended).
pub fn license_text(secret: &license::VendorSecret, days: i64) -> String {
    let hours = jiff::SignedDuration::from_hours;
    let now = jiff::Timestamp::now();
    // One hour more, so that whole days are still left while the test runs.
    let expires = now.checked_add(hours(24 * days + 1)).expect("a licence can be made");
    license_between(secret, now.min(expires).checked_sub(hours(1)).expect("a licence can be made"), expires)
}

/// A licence for any time.
pub fn license_between(
    secret: &license::VendorSecret,
    not_before: jiff::Timestamp,
    expires: jiff::Timestamp,
) -> String {
    let terms = license::Terms {
        id: None,
        issued_to: "tests".to_owned(),
        not_before,
        expires,
        features: vec![license::MULTI_PARTITION.to_owned()],
    };
    license::issue(secret, &terms).expect("a licence can be made")
}

/// Number of regular files below a folder, without the work folder.
pub fn count(folder: &Path) -> usize {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .filter_entry(|entry| entry.file_name() != WORK_DIRECTORY)
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_type().is_file()))
        .count()
}
