//! A flush of a whole filesystem beside the caller, in a thread of its own.
//!
//! What must never happen here: an answer that is not the kernel's, or a flush that outlives its owner.

use crate::Dir;
use std::io;
use std::thread::JoinHandle;

/// A flush that was begun. Dropped without [`Flush::end`], it is still waited for, so that none is under way when its owner is
/// gone; its error is then told to nobody, so what it should have made durable must not count.
#[derive(Debug)]
pub struct Flush {
    state: State,
}

#[derive(Debug)]
enum State {
    Runs(JoinHandle<io::Result<()>>),
    Ended(io::Result<()>),
    Told,
}

impl Dir {
    /// Begins [`Dir::syncfs`] beside the caller; without threads or descriptors left, it is done here and now.
    ///
    /// The flush uses the same open file description, so that an error is told to it or to a later [`Dir::syncfs`], once.
    pub fn begin_flush(&self) -> Flush {
        let begun = self
            .try_clone()
            .and_then(|dir| std::thread::Builder::new().name("flush".to_owned()).spawn(move || dir.syncfs()));
        Flush { state: begun.map_or_else(|_| State::Ended(self.syncfs()), State::Runs) }
    }
}

impl Flush {
    /// Waits for the end.
    ///
    /// # Errors
    /// Those of `syncfs(2)`.
    pub fn end(mut self) -> io::Result<()> {
        self.wait()
    }

    fn wait(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.state, State::Told) {
            State::Runs(thread) => {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("the flush panicked")))
            }
            State::Ended(result) => result,
            State::Told => Ok(()),
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let _ = self.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_flush_ends_by_itself_and_when_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("a"), b"a").unwrap();
        dir.begin_flush().end().unwrap();
        drop(dir.begin_flush());
    }
}
