//! The frame around a daemon's body: how it is told to stop, and how the process ends.
//!
//! What must never happen here: a process that ends without a message, a thread that dies unnoticed, or a shutdown that waits
//! for ever.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::build_info::Build;
use crate::license_watch::LicenseWatch;
use crate::status::Status;

/// What the process tells its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// All done.
    Done = 0,
    /// Of `streamsend doctor`: nothing stops a daemon, and something should be changed.
    Advice = 1,
    /// A bad flag.
    Usage = 64,
    /// Timed out, or something needed is not there.
    Unavailable = 69,
    /// A fault of this program.
    Internal = 70,
    /// Reading or writing failed.
    Io = 74,
    /// Another process has the state directory or the output folder.
    AlreadyRunning = 75,
    /// Not allowed.
    Permission = 77,
    /// The configuration is wrong.
    Configuration = 78,
}

impl Exit {
    /// The number itself.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit.code())
    }
}

/// Why a daemon ends, and with which code. The wrapper logs it, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The exit code.
    pub exit: Exit,
    /// Cause, thing and remedy, for people.
    pub message: String,
}

impl Stop {
    /// A reason to end.
    pub fn new(exit: Exit, message: impl Into<String>) -> Stop {
        Stop { exit, message: message.into() }
    }

    /// A failed file operation: [`Exit::Permission`] if it was not allowed, else [`Exit::Io`].
    pub fn io(context: impl fmt::Display, error: &std::io::Error) -> Stop {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Io,
        };
        Stop { exit, message: format!("{context}: {error}") }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}

/// The wish that the daemon ends: stop taking new work, finish or checkpoint, flush, return within 10 seconds.
///
/// Clones are the same wish. It is never taken back.
#[derive(Clone)]
pub struct Shutdown {
    inner: Arc<ShutdownInner>,
}

struct ShutdownInner {
    requested: AtomicBool,
    /// Dropped with the request, which closes the channel.
    open: Mutex<Option<Sender<()>>>,
    channel: Receiver<()>,
}

impl Shutdown {
    /// Not requested yet.
    pub fn new() -> Shutdown {
        let (open, channel) = bounded(0);
        Shutdown {
            inner: Arc::new(ShutdownInner {
                requested: AtomicBool::new(false),
                open: Mutex::new(Some(open)),
                channel,
            }),
        }
    }

    /// Whether somebody asked for the end.
    pub fn requested(&self) -> bool {
        self.inner.requested.load(Ordering::Acquire)
    }

    /// Asks for the end; a second time changes nothing.
    pub fn request(&self) {
        self.inner.requested.store(true, Ordering::Release);
        crate::lock(&self.inner.open).take();
    }

    /// For `select!`: never yields a value; is closed (`recv` returns an error) once the end was asked for.
    pub fn channel(&self) -> &Receiver<()> {
        &self.inner.channel
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown::new()
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").field("requested", &self.requested()).finish()
    }
}

/// What a daemon's body gets from its wrapper.
#[derive(Clone)]
pub struct Context {
    /// When to end.
    pub shutdown: Shutdown,
    /// Which mode to run in.
    pub license: LicenseWatch,
    /// Where to say how it goes.
    pub status: Status,
    /// From `--timeout`. The wrapper asks for the end when it has passed, and makes the exit code 69; no need to act on it.
    pub deadline: Option<Instant>,
    /// What was built, for the start-up line.
    pub build: Build,
}
