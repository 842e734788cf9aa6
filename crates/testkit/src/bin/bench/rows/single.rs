//! How long one small file takes from its closing in the spool to its name in the output.
//!
//! What must never happen here: a name that was seen by looking rarely; the kernel tells us.

use std::ffi::CStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use crate::measure::percentile;
use crate::place::Place;
use crate::table::{Line, Target};

const FILE_BYTES: usize = 10_000;
/// Files before those that count: connections are made, pages are in memory.
const WARM_UP: usize = 20;
/// Between two files, so that the daemons are idle when the next one comes.
const QUIET: Duration = Duration::from_millis(50);
const NAME_WAIT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Names that appear in a folder.
struct Names(rustix::fd::OwnedFd);

impl Names {
    fn of(folder: &std::path::Path) -> Result<Names> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, folder, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE)?;
        Ok(Names(fd))
    }

    fn wait_for(&self, name: &str) -> Result<Instant> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        loop {
            let mut ready = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
            ensure!(poll(&mut ready, Some(&NAME_WAIT))? > 0, "{name} did not appear");
            let seen = Instant::now();
            let mut reader = inotify::Reader::new(&self.0, &mut buffer);
            loop {
                let event = reader.next()?;
                if event.file_name().map(CStr::to_bytes) == Some(name.as_bytes()) {
                    return Ok(seen);
                }
                if reader.is_buffer_empty() {
                    break;
                }
            }
        }
    }
}

/// The delays of many files, one after the other.
pub(crate) fn delay(place: &Place) -> Result<Vec<Line>> {
    let round = place.round(6);
    let (downloader, uploader) = (round.ready_downloader(&[]), round.ready_uploader(&[]));
    let names = Names::of(&round.output)?;
    let mut delays = Vec::new();
    for number in 0..WARM_UP + place.scale.singles {
        let name = format!("file-{number}");
        fs::write(round.spool.join(&name), vec![number as u8; FILE_BYTES])?;
        let closed = Instant::now();
        let seen = names.wait_for(&name)?;
        if number >= WARM_UP {
            delays.push(seen.saturating_duration_since(closed).as_secs_f64() * 1e3);
        }
        std::thread::sleep(QUIET);
    }
    round.end(uploader);
    round.end(downloader);
    let line = |percent: f64, most: f64, then: &'static str| Line {
        what: format!("one file of 10 KB, close to visible, p{percent}"),
        product: format!("{:.1} ms", percentile(delays.iter().copied(), percent)),
        against: String::new(),
        value: percentile(delays.iter().copied(), percent),
        unit: " ms",
        target: Target::AtMost(most),
        then,
        note: format!("{} files", delays.len()),
    };
    Ok(vec![line(50.0, 25.0, "10"), line(99.0, 100.0, "")])
}
