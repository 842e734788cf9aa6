//! SIGTERM and SIGINT ask for the end, SIGHUP for fresh files; the second wish to end is granted at once.
//!
//! SIGPIPE is ignored, as in every Rust program: a closed pipe is an error of the write.
//!
//! What must never happen here: a daemon that cannot be ended, or a handler that does more than set a flag.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::Shutdown;

/// What SIGHUP does.
pub(crate) type OnHangup = Box<dyn Fn() + Send>;

/// Handles signals on a thread of its own until the process ends.
///
/// # Errors
/// When the system refuses.
pub(crate) fn start(shutdown: Shutdown, on_hangup: OnHangup) -> io::Result<()> {
    let insist = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // Even if the thread below cannot write its line: the signal after the second ends the process in its handler.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, insist.clone())?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => {
                    tracing::info!("SIGHUP: reopening log files, reading the licence again");
                    on_hangup();
                }
                signal if asked => {
                    insist.store(true, std::sync::atomic::Ordering::Release);
                    tracing::warn!(
                        "{} again: ending at once; the next start goes on from here",
                        name(signal)
                    );
                    signal_hook::low_level::exit(128 + signal);
                }
                signal => {
                    asked = true;
                    tracing::info!("{}: stopping", name(signal));
                    shutdown.request();
                }
            }
        }
    })?;
    Ok(())
}

fn name(signal: i32) -> &'static str {
    if signal == SIGINT { "SIGINT" } else { "SIGTERM" }
}
