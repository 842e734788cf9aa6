//! `make demo`: the whole product in one run. A real Kafka, both daemons with a licence, a mixed set of files dropped into the
//! spool, and at the end every byte compared by two programs that are not ours.
//!
//! Environment: `BOOTSTRAP=HOST:PORT` uses that broker, `DEMO_DIR` is the work folder, `DEMO_LARGE_MB` the size of the large file,
//! `DEMO_FOLDER` the folder that is copied, `KEEP=1` stays up until Ctrl-C. Exit code: 0 only if every file arrived as it was.
//!
//! What must never happen here: a success that was not checked, a process left behind, a folder removed that is not the demo's.

mod report;
mod run;
mod setup;
mod stage;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::run::Demo;
use crate::setup::{Setup, WorkDirectory};

/// Asked for by Ctrl-C.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn install() -> Result<Interrupt> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second Ctrl-C ends at once; the children die with us.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Interrupt(flag))
    }

    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub fn check(&self) -> Result<()> {
        if self.requested() {
            bail!("interrupted");
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let interrupt = Interrupt::install()?;
    let keep = std::env::var_os("KEEP").is_some_and(|value| !value.is_empty() && value != "0");
    let mut work = WorkDirectory::create()?;
    let result = run(&work, keep, &interrupt);
    // What the table speaks of can be looked at until the next run; Ctrl-C wants nothing left.
    if !interrupt.requested() {
        work.keep();
    }
    result
}

fn run(work: &WorkDirectory, keep: bool, interrupt: &Interrupt) -> Result<()> {
    println!("preparing files in {}", work.path().display());
    let staged = stage::prepare(&work.path().join("staging"), interrupt).context("preparing the files")?;

    let setup = Setup::new(work)?;
    let mut demo = Demo::start(&setup, work, interrupt)?;
    let timing = demo.send(&staged, interrupt)?;
    let findings = report::check(work, &staged)?;
    report::print(&staged, &demo, &timing, &findings);
    report::print_places(&setup, work);
    let result = findings.verdict();
    if keep && !interrupt.requested() {
        demo.stay(&setup, work, interrupt);
    }
    demo.stop()?;
    setup.clean_up();
    if result.is_ok() {
        println!("all files arrived exactly as they were sent");
    }
    result
}
