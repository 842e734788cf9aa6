//! Whole processes: this test program starts itself again with another role, as a daemon with a small body.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use license::{Terms, issue, keygen};
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::status::{Files, Snapshot, fetch};

const ROLE: &str = "STREAMSEND_TEST_ROLE";
const ARGUMENTS: &str = "STREAMSEND_TEST_ARGUMENTS";

/// No test by itself: the daemon that the tests below start.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let arguments = std::env::var(ARGUMENTS).unwrap();
    let arguments: Vec<OsString> = arguments.lines().map(OsString::from).collect();
    let exit = uploader(arguments, |settings, run, context| body(&role, &settings, run, &context));
    std::process::exit(i32::from(exit.code()));
}

fn body(role: &str, settings: &UploaderSettings, run: UploaderRun, context: &Context) -> Result<(), Stop> {
    context.status.set_source(Box::new(|| Snapshot {
        files: Files { queued: 3, ..Files::default() },
        ..Snapshot::default()
    }));
    let wait = || {
        tracing::info!("at work with {} spool(s), once={}", settings.spools.len(), run.once);
        context.status.ready("working");
        context.status.progress();
        let _ = context.shutdown.channel().recv();
    };
    match role {
        "done" => {}
        "wait" => wait(),
        "stop" => return Err(Stop::new(Exit::AlreadyRunning, "process 4711 has it")),
        "stuck" => {
            wait();
            loop {
                std::thread::park();
            }
        }
        "hung" => {
            let stage = context.status.stage("hung", Duration::ZERO);
            let _work = stage.work();
            while context.status.health().is_ok() {
                std::hint::spin_loop();
            }
            context.status.ready("working");
            // The main loop turns as if nothing were wrong.
            let turn = Duration::from_millis(1);
            while context.shutdown.channel().recv_timeout(turn).is_err_and(|end| end.is_timeout()) {
                context.status.progress();
            }
        }
        "panic" => {
            let _ = std::thread::spawn(|| panic!("on purpose")).join();
            wait();
        }
        "license" => {
            let changes = context.license.changes();
            tracing::info!("at work, multi={}", context.license.multi_partition());
            changes.recv().unwrap();
            tracing::info!("changed, multi={}", context.license.multi_partition());
            wait();
        }
        other => panic!("no role {other}"),
    }
    Ok(())
}

/// A daemon that ends with its test.
struct Daemon {
    child: Child,
    lines: BufReader<ChildStderr>,
    seen: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(role: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Daemon {
        // systemd names the process that it watches, and only the shell can know that number beforehand.
        let mut command = Command::new("sh");
        command.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
        let own: Vec<_> = std::env::vars_os()
            .filter(|(name, _)| name.to_string_lossy().starts_with("STREAMSEND_"))
            .collect();
        for (name, _) in own {
            command.env_remove(name);
        }
        let arguments = std::iter::once("streamsend-uploader").chain(arguments.iter().copied());
        command
            .args(["--exact", "run::tests::child", "--nocapture"])
            .env(ROLE, role)
            .env(ARGUMENTS, arguments.collect::<Vec<_>>().join("\n"))
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Daemon { child, lines, seen: String::new() }
    }

    /// Reads on until a line has `part`.
    fn wait_for(&mut self, part: &str) {
        self.wait_for_all(&[part]);
    }

    /// Reads on until each of `parts` has come, in any order.
    fn wait_for_all(&mut self, parts: &[&str]) {
        let begin = self.seen.len();
        while !parts.iter().all(|part| self.seen[begin..].contains(part)) {
            let read = self.lines.read_line(&mut self.seen).unwrap();
            assert!(read > 0, "{parts:?} never came:\n{}", self.seen);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Exit code and all of stderr.
    fn end(mut self) -> (i32, String) {
        self.lines.read_to_string(&mut self.seen).unwrap();
        (self.child.wait().unwrap().code().unwrap(), std::mem::take(&mut self.seen))
    }
}

/// Arguments of a daemon that works in `directory`.
fn at(directory: &Path) -> Vec<String> {
    let state = directory.join("state");
    std::fs::create_dir_all(&state).unwrap();
    vec!["--spool=/nonexistent/spool".into(), format!("--state-directory={}", state.display())]
}

fn start_in(directory: &Path, role: &str, more: &[&str], environment: &[(&str, &str)]) -> Daemon {
    let arguments = at(directory);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Daemon::start(role, &arguments, environment)
}

#[test]
fn a_run_that_is_done_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text) = start_in(directory.path(), "done", &[], &[]).end();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("INFO License status: no license: single-partition operation\n"), "{text}");
    assert!(text.ends_with("INFO stopped\n"), "{text}");
    assert!(!directory.path().join("state/status.sock").exists());
}

#[test]
fn bad_flags_are_64_and_bad_values_elsewhere_78() {
    let usage = [&["--nonsense"][..], &["--settle", "nonsense"], &["--set", "x"], &["stray"]];
    for arguments in usage {
        let (code, text) = Daemon::start("done", arguments, &[]).end();
        assert_eq!(code, 64, "{arguments:?}: {text}");
        assert!(text.contains("error: "), "{text}");
    }
    let wrong = [
        (&[][..], &[][..], "spool: missing"),
        (&["--spool=/s", "--set", "spool.settle=soon"], &[], "--set: spool.settle: `soon`"),
        (
            &["--spool=/s"],
            &[("STREAMSEND_SPOOL__SETTLE", "soon")],
            "STREAMSEND_SPOOL__SETTLE: spool.settle: `soon`",
        ),
        (&["--spool=/s", "--config=/nonexistent/c.yaml"], &[], "/nonexistent/c.yaml: cannot read"),
    ];
    for (arguments, environment, part) in wrong {
        let (code, text) = Daemon::start("done", arguments, environment).end();
        assert_eq!(code, 78, "{arguments:?}: {text}");
        assert!(text.contains(part) && text.contains("1 mistake in the configuration"), "{text}");
    }
    assert_eq!(Daemon::start("done", &["--version"], &[]).end().0, 0);
}

#[test]
fn the_reason_of_an_end_is_said_once_with_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text) = start_in(directory.path(), "stop", &[], &[]).end();
    assert_eq!(code, 75);
    assert_eq!(text.matches("ERROR process 4711 has it\n").count(), 1, "{text}");
}

#[test]
fn a_signal_ends_the_daemon_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempfile::tempdir().unwrap();
        let mut daemon = start_in(directory.path(), "wait", &["--name=me"], &[]);
        daemon.wait_for("at work with 1 spool(s), once=false");
        let state = directory.path().join("state");
        let status: serde_json::Value = serde_json::from_str(&fetch(&state).unwrap()).unwrap();
        assert_eq!((&status["name"], &status["files"]["queued"]), (&"me".into(), &3.into()));
        daemon.signal(signal);
        let (code, text) = daemon.end();
        assert_eq!(code, 0, "{text}");
        assert!(text.ends_with("INFO stopped\n"), "{text}");
        assert!(!state.join("status.sock").exists());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = start_in(directory.path(), "stuck", &[], &[]);
    daemon.wait_for("at work");
    daemon.signal(Signal::TERM);
    daemon.wait_for("SIGTERM: stopping");
    daemon.signal(Signal::INT);
    let (code, text) = daemon.end();
    assert_eq!(code, 130, "{text}");
    assert!(text.contains("SIGINT again: ending at once"), "{text}");
}

#[test]
fn a_body_that_does_not_end_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = start_in(directory.path(), "stuck", &[], &[]);
    daemon.wait_for("at work");
    daemon.signal(Signal::TERM);
    let (code, text) = daemon.end();
    assert_eq!(code, 70, "{text}");
    assert!(text.contains("ending by force"), "{text}");
}

#[test]
fn a_run_out_of_time_says_what_was_not_finished() {
    for role in ["wait", "stuck"] {
        let directory = tempfile::tempdir().unwrap();
        let (code, text) = start_in(directory.path(), role, &["--once", "--timeout=300ms"], &[]).end();
        assert_eq!(code, 69, "{text}");
        assert_eq!(
            text.matches("ERROR timed out after 300ms: 3 file(s) queued, 0 under way").count(),
            1,
            "{text}"
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let (code, text) = start_in(directory.path(), "done", &["--once", "--timeout=1h"], &[]).end();
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_panic_in_any_thread_ends_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text) = start_in(directory.path(), "panic", &[], &[]).end();
    assert_eq!(code, 70, "{text}");
    assert!(text.contains("ERROR internal fault in thread") && text.contains("on purpose"), "{text}");
}

#[test]
fn sighup_reads_the_licence_and_reopens_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (logs, key) = (directory.path().join("logs"), directory.path().join("license.key"));
    let secret = keygen().unwrap();
    std::fs::write(&key, "").unwrap();
    let flags = [
        format!("--log-directory={}", logs.display()),
        format!("--license-key={}", key.display()),
        format!("--license-public-key={}", secret.public().to_base64()),
    ];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut daemon = start_in(directory.path(), "license", &flags, &[]);
    daemon.wait_for("WARN License status: License is not valid: ");
    daemon.wait_for("at work, multi=false");
    let log = std::fs::read_dir(&logs).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&log, directory.path().join("old.log")).unwrap();
    std::fs::remove_file(&log).unwrap();
    let now = jiff::Timestamp::now();
    let terms = Terms {
        id: None,
        issued_to: "ACME".into(),
        not_before: now,
        expires: now + Duration::from_secs(39 * 86_400 + 3600),
        features: vec![license::MULTI_PARTITION.into()],
    };
    std::fs::write(&key, issue(&secret, &terms).unwrap()).unwrap();
    daemon.signal(Signal::HUP);
    // Two threads say it, in any order.
    daemon.wait_for_all(&["INFO License status: License is valid for 39 days", "changed, multi=true"]);
    daemon.signal(Signal::TERM);
    let (code, text) = daemon.end();
    assert_eq!(code, 0, "{text}");
    let old = std::fs::read_to_string(directory.path().join("old.log")).unwrap();
    assert!(old.contains("at work, multi=false"), "{old}");
    let new = std::fs::read_to_string(&log).unwrap();
    assert!(new.contains("License is valid for 39 days") && !new.contains("at work, multi"), "{new}");
}

#[test]
fn an_address_in_use_ends_the_daemon() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let (code, text) = start_in(directory.path(), "wait", &["--listen", &address], &[]).end();
    assert_eq!(code, 69, "{text}");
    assert!(text.contains(&format!("cannot listen on {address}")), "{text}");
}

#[test]
fn the_watchdog_starves_when_any_part_is_stuck() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // Food would be due at every turn.
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "4000")];
    let mut daemon = start_in(directory.path(), "hung", &[], &environment);
    daemon.wait_for(
        "ERROR the hung thread has been at one step for 0 s: the watchdog will restart this daemon",
    );
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().0, 0);
    let mut heard = String::new();
    while !heard.contains("STOPPING=1") {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap();
        heard.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    assert!(heard.starts_with("READY=1\n") && !heard.contains("WATCHDOG=1"), "{heard}");
}

#[test]
fn systemd_hears_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let receive = || {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "30000000")];
    let mut daemon = start_in(directory.path(), "wait", &[], &environment);
    daemon.wait_for("at work");
    assert_eq!(receive(), "READY=1\nSTATUS=working\n");
    assert_eq!(receive(), "WATCHDOG=1\n");
    daemon.signal(Signal::TERM);
    assert!(receive().starts_with("STOPPING=1\n"));
    assert_eq!(daemon.end().0, 0);
}
