//! A whole host for tests of the installed package: a container that boots systemd, on an overlay over a base system made once.
//!
//! It shares the network with the outside, so that a broker at 127.0.0.1 is reachable in it, and nothing else. Its mounts live in a
//! namespace of its own and go with it, whatever ends it; its control groups are removed with it, or swept by the next run.
//!
//! What must never happen here: a host that outlives the test run, booting the base system itself (all hosts would share its
//! machine-id and journal), or a test that is left out without saying so in one loud line.

mod groups;
mod package;

use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{self, tethered};
use crate::scratch::{Scratch, project_directory, scratch, target_directory};
use crate::wait::{LONG, wait_for, wait_until};
pub use package::{package, tarball};

/// nspawn's exit code after a reboot from the inside.
const REBOOT: i32 = 133;
/// Lines of the journal shown when a test fails.
const JOURNAL_LINES: &str = "60";

/// What a command in a host said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; 128 and the signal's number when killed.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Whether no host can be booted here. If so it says, loudly, that `what` is not tested, and why.
pub fn unavailable(what: &str) -> bool {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let Some(reason) = REASON.get_or_init(reason) else { return false };
    eprintln!("!!! NOT TESTED: {what}, because {reason}");
    true
}

fn reason() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can boot a container; run the tests as root".into());
    }
    let works = |program: &str, args: &[&str]| {
        let mut quiet = Command::new(program);
        quiet.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    for (program, package) in
        [("systemd-nspawn", "systemd-container"), ("mmdebstrap", "mmdebstrap"), ("dpkg-deb", "dpkg")]
    {
        if !works(program, &["--version"]) {
            return Some(format!("{program} is missing (package {package})"));
        }
    }
    if !works("unshare", &["-m", "-p", "-u", "-i", "-f", "--mount-proc", "true"]) {
        return Some("this system allows no namespaces".into());
    }
    let scratch = scratch("overlay-probe");
    let folder = |name: &str| scratch.folder(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", folder("l"), folder("u"), folder("w"));
    let script = format!("mount -t overlay -o {options} probe {}", folder("m"));
    (!works("unshare", &["-m", "sh", "-c", &script])).then(|| "this system mounts no overlay".into())
}

/// The base system's tree; never changed.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let script = project_directory().join("scripts/host-base");
        let status = Command::new(&script).status();
        assert!(status.is_ok_and(|status| status.success()), "{} failed: see above", script.display());
        target_directory().join("host-base/tree")
    })
}

/// A booted (or powered-off) host; its init and all in it end with this value and with the test process.
pub struct Host {
    name: String,
    scratch: Scratch,
    groups: Vec<PathBuf>,
    nspawn: Option<Child>,
    init: u32,
    boots: u32,
}

impl Host {
    /// A fresh system, booted; `name` is its host name too: letters and digits.
    ///
    /// # Panics
    /// When it does not come up; with its console.
    pub fn boot(name: &str) -> Host {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let scratch = scratch(&format!("host-{name}"));
        for folder in ["up/etc", "work", "m"] {
            scratch.folder(folder);
        }
        fs::write(scratch.path().join("up/etc/hostname"), format!("{name}\n")).expect("the folder is ours");
        let unique = format!("host-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let groups = groups::of_host(&unique);
        let mut host = Host { name: name.to_owned(), scratch, groups, nspawn: None, init: 0, boots: 0 };
        host.start();
        host
    }

    /// Boots it (again), on the disk that it has.
    ///
    /// # Panics
    /// When it does not come up; with its console.
    pub fn start(&mut self) {
        assert!(self.nspawn.is_none(), "{} runs already", self.name);
        self.boots += 1;
        let place = |name: &str| self.scratch.path().join(name).display().to_string();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", base().display(), place("up"), place("work"));
        // The mount is made in a namespace that ends with the container.
        let script = "set -e; options=$1; root=$2; name=$3; shift 3
            for group; do mkdir -p \"$group\"; echo $$ >\"$group/cgroup.procs\"; done
            mount -t overlay -o \"$options\" \"ov-$name\" \"$root\"
            exec systemd-nspawn --quiet --register=no --keep-unit --boot -M \"$name\" -D \"$root\"";
        let console = fs::File::create(self.console()).expect("the scratch folder is ours");
        let mut command = tethered("unshare");
        command.args(["-m", "sh", "-c", script, "sh", &options, &place("m"), &self.name]).args(&self.groups);
        command.stdin(Stdio::null());
        command.stdout(console.try_clone().expect("a file can be shared")).stderr(console);
        self.nspawn = Some(process::spawn(command).expect("setpriv and unshare are installed"));
        let init = wait_for(LONG, || self.find_init());
        self.init = init.unwrap_or_else(|| panic!("{} does not boot:\n{}", self.name, self.console_tail()));
        let up = wait_until(LONG, || {
            assert!(!self.has_ended(), "{} ended while booting:\n{}", self.name, self.console_tail());
            matches!(
                self.run(&["systemctl", "is-system-running", "--wait"]).out.trim(),
                "running" | "degraded"
            )
        });
        assert!(up, "{} does not boot:\n{}", self.name, self.console_tail());
        // Limits of memory and tasks are in force only when their groups can be written to.
        self.sh("cd /sys/fs/cgroup; for c in memory pids; do [ -d $c ] && mount -o remount,bind,rw $PWD/$c; done; \
                 systemctl daemon-reexec");
    }

    fn find_init(&mut self) -> Option<u32> {
        assert!(!self.has_ended(), "{} did not boot:\n{}", self.name, self.console_tail());
        let nspawn = self.nspawn.as_ref()?.id();
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
        let init: u32 = children.split_whitespace().next()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
        (name.trim() == "systemd").then_some(init)
    }

    fn has_ended(&mut self) -> bool {
        self.nspawn.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    fn console(&self) -> PathBuf {
        self.scratch.path().join(format!("console-{}.log", self.boots))
    }

    fn console_tail(&self) -> String {
        let text = fs::read(self.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// A path of the host as the outside sees it while the host runs. Not to be used on what leads over links.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Runs a command in the host, as its root and outside of every unit's sandbox, without the outside's environment.
    ///
    /// # Panics
    /// When it does not end.
    pub fn run(&self, command: &[&str]) -> Said {
        self.run_with(command, "")
    }

    /// [`Host::run`] with a text on standard input.
    ///
    /// # Panics
    /// When it does not end.
    pub fn run_with(&self, command: &[&str], input: &str) -> Said {
        let mut enter = tethered("nsenter");
        enter.args(["-t", &self.init.to_string(), "-a", "--", "env", "-i", "HOME=/root", "LC_ALL=C.UTF-8"]);
        enter.arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin").args(command);
        enter.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process::spawn(enter).expect("setpriv and nsenter are installed");
        let mut stdin = child.stdin.take().expect("it was piped");
        let mut stdout = child.stdout.take().expect("it was piped");
        let mut stderr = child.stderr.take().expect("it was piped");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A command that reads nothing closes it.
                let _ = stdin.write_all(input.as_bytes());
            });
            let out = scope.spawn(move || read_all(&mut stdout));
            let err = scope.spawn(move || read_all(&mut stderr));
            let status = process::wait(&mut child, LONG);
            if status.is_none() {
                process::signal(&child, Signal::KILL);
                let _ = child.wait();
            }
            let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
            let status =
                status.unwrap_or_else(|| panic!("{command:?} does not end in {}:\n{out}{err}", self.name));
            Said { code: process::code(status), out, err }
        })
    }

    /// Runs a shell script in the host and returns its standard output without the last line end.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let said = self.run(&["sh", "-c", script]);
        assert!(said.code == 0, "{script}: exit {} in {}:\n{}{}", said.code, self.name, said.out, said.err);
        said.out.trim_end_matches('\n').to_owned()
    }

    /// A property of a unit, as `systemctl show` prints it.
    ///
    /// # Panics
    /// When systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.sh(&format!("systemctl show -P {name} {unit}"))
    }

    /// Waits until a unit's property is `value`.
    ///
    /// # Panics
    /// When it does not become so; with the unit's journal.
    #[track_caller]
    pub fn wait_for_property(&self, unit: &str, name: &str, value: &str) {
        let mut last = String::new();
        let holds = wait_until(LONG, || {
            last = self.property(unit, name);
            last == value
        });
        assert!(holds, "{unit}: {name}={last}, not {value}; its journal:\n{}", self.journal_tail(unit));
    }

    /// A unit's lines in the journal, from the first boot on, as they were written.
    pub fn journal(&self, unit: &str) -> String {
        let said = self.run(&["journalctl", "-u", unit, "-o", "cat", "--no-pager", "-q"]);
        said.out
    }

    fn journal_tail(&self, unit: &str) -> String {
        self.run(&["journalctl", "-u", unit, "-n", JOURNAL_LINES, "--no-pager", "-q"]).out
    }

    /// Waits for a line with `part` in a unit's journal.
    ///
    /// # Panics
    /// When it does not come; with the unit's journal.
    #[track_caller]
    pub fn wait_for_line(&self, unit: &str, part: &str) -> String {
        let line =
            wait_for(LONG, || self.journal(unit).lines().find(|line| line.contains(part)).map(str::to_owned));
        line.unwrap_or_else(|| {
            panic!("{unit}: no line with {part:?}; its journal:\n{}", self.journal_tail(unit))
        })
    }

    /// Writes a file of the host in place: owner and rights of one that is there stay.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn write(&self, inside: &str, text: &str) {
        let said =
            self.run_with(&["sh", "-c", "mkdir -p \"$(dirname \"$1\")\" && cat >\"$1\"", "sh", inside], text);
        assert!(said.code == 0, "{inside} cannot be written: {}", said.err);
    }

    /// Copies a package into the host and installs it; returns what dpkg said.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn install(&self, package: &Path) -> String {
        let name = self.copy(package);
        self.sh(&format!("dpkg -i /var/tmp/{name} </dev/null 2>&1"))
    }

    /// Copies a file into `/var/tmp` of the host and returns its name.
    ///
    /// # Panics
    /// When that fails.
    pub fn copy(&self, file: &Path) -> String {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::copy(file, self.path("/var/tmp").join(&name)).expect("the host has a folder for it");
        name
    }

    /// Reboots it from the inside.
    ///
    /// # Panics
    /// When it does not come up again.
    pub fn reboot(&mut self) {
        self.run(&["systemctl", "reboot"]);
        self.wait_for_end(Some(REBOOT));
        self.start();
    }

    /// Shuts it down in order; [`Host::start`] boots it again.
    ///
    /// # Panics
    /// When it does not end.
    pub fn power_off(&mut self) {
        self.run(&["systemctl", "poweroff"]);
        self.wait_for_end(Some(0));
    }

    /// Stops it as a power cut of the machine does, but for its disk: every process is gone at once.
    ///
    /// # Panics
    /// When it does not end.
    pub fn cut_power(&mut self) {
        if let Some(init) = i32::try_from(self.init).ok().and_then(Pid::from_raw) {
            let _ = kill_process(init, Signal::KILL);
        }
        self.wait_for_end(None);
    }

    fn wait_for_end(&mut self, code: Option<i32>) {
        let Some(mut child) = self.nspawn.take() else { return };
        let Some(status) = process::wait(&mut child, LONG) else {
            self.nspawn = Some(child);
            panic!("{} does not end:\n{}", self.name, self.console_tail());
        };
        let found = process::code(status);
        assert!(
            code.is_none_or(|code| code == found),
            "{} ended with {found}:\n{}",
            self.name,
            self.console_tail()
        );
    }
}

fn read_all(pipe: &mut dyn Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() && self.nspawn.is_some() {
            let said = self.run(&["journalctl", "-b", "-n", JOURNAL_LINES, "--no-pager", "-q"]);
            eprintln!("--- the last lines of the journal of {}:\n{}", self.name, said.out);
        }
        if let Some(mut child) = self.nspawn.take() {
            // Orderly would take its time, and nobody needs its disk any more.
            if let Some(init) = i32::try_from(self.init).ok().and_then(Pid::from_raw) {
                let _ = kill_process(init, Signal::KILL);
            }
            if process::wait(&mut child, Duration::from_secs(10)).is_none() {
                process::signal(&child, Signal::KILL);
                let _ = child.wait();
            }
        }
        groups::remove(&self.groups);
    }
}
