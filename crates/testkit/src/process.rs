//! Child processes that never outlive the test run.
//!
//! `setpriv --pdeathsig KILL` ties a child to the *thread* that started it, and a test's thread ends with its test. So one thread,
//! which lives as long as the process, starts them all. Nothing here needs `unsafe`.

use std::ffi::OsStr;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_for;

type Order = (Command, SyncSender<io::Result<Child>>);

/// A command for `program` that is killed when this process ends, in a process group of its own: Ctrl-C in the terminal reaches
/// only us, and we end it in order.
pub(crate) fn tethered(program: impl AsRef<OsStr>) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).process_group(0);
    command
}

/// Starts a [`tethered`] command.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<Mutex<SyncSender<Order>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, orders) = sync_channel::<Order>(0);
        let keep = move || {
            // Ends never: the sender is static.
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("keeper".into()).spawn(keep).expect("a thread can be started");
        Mutex::new(sender)
    });
    let (reply, result) = sync_channel(1);
    let sender = keeper.lock().unwrap_or_else(PoisonError::into_inner).clone();
    sender.send((command, reply)).expect("the keeper lives as long as the process");
    result.recv().expect("the keeper answers every order")
}

pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Sends a signal to a child that was not waited for yet, so its pid is its own.
pub(crate) fn signal(child: &Child, signal: Signal) {
    // A child that is already gone is what a killer wants.
    let _ = kill_process(pid(child), signal);
}

/// Whether every thread of a process is stopped, or waits for a disk.
pub(crate) fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    // The state follows the name, which is in parentheses and may hold anything.
    let state = |stat: String| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat"));
        stat.ok().and_then(state).is_none_or(|state| matches!(state, 'T' | 't' | 'D' | 'Z' | 'X'))
    })
}

/// Waits for the end; `None` when it did not come within `deadline`.
pub(crate) fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    wait_for(deadline, || child.try_wait().expect("our own child can be waited for"))
}

/// Like a shell: the exit code, or 128 and the signal's number.
pub(crate) fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
