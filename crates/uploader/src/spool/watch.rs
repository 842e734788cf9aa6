//! Events of one spool's folders, straight from inotify, as hints.
//!
//! One watch per folder, set on the folder's own descriptor before it is listed. The kernel's queue is the bounded queue
//! of hints; it says so when it was full. What must never happen here: a lost event that is not reported as
//! [`Event::Lost`], or a watch that is taken for the wrong folder after a move.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, epoll};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::filter::join;
use super::settle::Hint;

/// Bytes read from the kernel at once: some 2,000 events.
const BUFFER_BYTES: usize = 64 * 1024;

/// What happened, as far as can be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// To a name that is no folder.
    File(Vec<u8>, Hint),
    /// A folder came, or can perhaps be read now.
    Folder(Vec<u8>),
    /// A folder moved away: a scan that has it open goes on under a name that is no longer its own.
    FolderLeft,
    /// The spool folder itself was moved, deleted or unmounted.
    Root,
    /// Events were lost: only a scan tells what happened.
    Lost,
}

/// Why a folder is not watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchError {
    /// `fs.inotify.max_user_watches` is used up.
    Limit,
    /// Anything else.
    Other(Errno),
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    wd: i32,
    /// The last scan that saw the folder.
    round: u64,
}

/// The watches of one spool.
pub(super) struct Watch {
    inotify: Arc<OwnedFd>,
    folders: HashMap<i32, Arc<[u8]>>,
    wds: BTreeMap<Arc<[u8]>, Watched>,
    round: u64,
    buffer: Box<[MaybeUninit<u8>]>,
}

impl Watch {
    pub(super) fn new() -> io::Result<Watch> {
        let inotify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        Ok(Watch {
            inotify: Arc::new(inotify),
            folders: HashMap::new(),
            wds: BTreeMap::new(),
            round: 0,
            buffer: vec![MaybeUninit::uninit(); BUFFER_BYTES].into_boxed_slice(),
        })
    }

    /// Folders that are watched.
    pub(super) fn len(&self) -> usize {
        self.wds.len()
    }

    /// Watches the open folder `fd`, which lies at `path`. To be called before it is listed.
    pub(super) fn add(&mut self, path: &[u8], fd: BorrowedFd<'_>) -> Result<(), WatchError> {
        let mask = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::OPEN
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CLOSE_NOWRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR;
        // By descriptor, so that the folder that is listed is the one that is watched.
        let mut link = String::new();
        let _ = write!(link, "/proc/self/fd/{}", fd.as_raw_fd());
        let wd = inotify::add_watch(&*self.inotify, link.as_str(), mask).map_err(|errno| match errno {
            Errno::NOSPC => WatchError::Limit,
            other => WatchError::Other(other),
        })?;
        let path: Arc<[u8]> = path.into();
        if let Some(old) = self.folders.insert(wd, Arc::clone(&path))
            && old != path
        {
            // The same folder under a new name.
            self.wds.remove(&old);
        }
        if let Some(old) = self.wds.insert(path, Watched { wd, round: self.round })
            && old.wd != wd
        {
            // Another folder under the same name.
            self.folders.remove(&old.wd);
            self.remove_watch(old.wd);
        }
        Ok(())
    }

    /// A full scan begins.
    pub(super) fn begin_round(&mut self) {
        self.round += 1;
    }

    /// The full scan has seen every folder there is: the others are forgotten.
    pub(super) fn end_round(&mut self) {
        let round = self.round;
        let gone: Vec<_> =
            self.wds.iter().filter(|(_, w)| w.round < round).map(|(path, _)| Arc::clone(path)).collect();
        for path in gone {
            self.forget(&path);
        }
    }

    /// Reads up to about `max` events. False: there may be more.
    pub(super) fn drain(&mut self, max: usize, events: &mut Vec<Event>) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let inotify = Arc::clone(&self.inotify);
        let mut reader = inotify::Reader::new(&*inotify, &mut buffer);
        let mut read = 0_usize;
        let drained = loop {
            if read >= max && reader.is_buffer_empty() {
                break false;
            }
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map_or(&b""[..], |name| name.to_bytes());
                    self.take(event.wd(), event.events(), name, events);
                    read += 1;
                }
                Err(Errno::AGAIN) => break true,
                Err(Errno::INTR) => {}
                Err(_) => {
                    events.push(Event::Lost);
                    break true;
                }
            }
        };
        self.buffer = buffer;
        drained
    }

    fn take(&mut self, wd: i32, flags: ReadFlags, name: &[u8], events: &mut Vec<Event>) {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            events.push(Event::Lost);
            return;
        }
        // A watch that was given up: whatever is there now has a watch of its own or is about to be listed.
        let Some(folder) = self.folders.get(&wd).map(Arc::clone) else { return };
        if flags.contains(ReadFlags::IGNORED) {
            self.forget(&folder);
            if folder.is_empty() {
                events.push(Event::Root);
            }
            return;
        }
        if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) {
            // For folders below the spool, the folder above tells what became of them.
            let what = if folder.is_empty() { Some(Event::Root) } else { None };
            events.extend(what.or(flags.contains(ReadFlags::UNMOUNT).then_some(Event::Lost)));
            return;
        }
        if name.is_empty() {
            return;
        }
        let path = join(&folder, name);
        if flags.contains(ReadFlags::ISDIR) {
            if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
                self.forget_below(&path);
                if flags.contains(ReadFlags::MOVED_FROM) {
                    events.push(Event::FolderLeft);
                }
            } else if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::ATTRIB) {
                events.push(Event::Folder(path));
            }
        } else if let Some(hint) = hint_of(flags) {
            events.push(Event::File(path, hint));
        }
    }

    fn forget_below(&mut self, path: &[u8]) {
        self.forget(path);
        let mut prefix = path.to_vec();
        prefix.push(b'/');
        let below: Vec<Arc<[u8]>> = (self.wds)
            .range::<[u8], _>((Bound::Included(&prefix[..]), Bound::Unbounded))
            .map(|(path, _)| Arc::clone(path))
            .take_while(|path| path.starts_with(&prefix))
            .collect();
        for path in below {
            self.forget(&path);
        }
    }

    fn forget(&mut self, path: &[u8]) {
        if let Some(watched) = self.wds.remove(path) {
            self.folders.remove(&watched.wd);
            self.remove_watch(watched.wd);
        }
    }

    fn remove_watch(&self, wd: i32) {
        // EINVAL: the kernel has given it up by itself.
        let _ = inotify::remove_watch(&*self.inotify, wd);
    }
}

fn hint_of(flags: ReadFlags) -> Option<Hint> {
    const HINTS: [(ReadFlags, Hint); 9] = [
        (ReadFlags::MOVED_TO, Hint::MovedIn),
        (ReadFlags::CLOSE_WRITE, Hint::Closed),
        (ReadFlags::CREATE, Hint::Created),
        (ReadFlags::MODIFY, Hint::Modified),
        (ReadFlags::DELETE, Hint::Removed),
        (ReadFlags::MOVED_FROM, Hint::Removed),
        (ReadFlags::ATTRIB, Hint::Attributes),
        (ReadFlags::OPEN, Hint::Opened),
        (ReadFlags::CLOSE_NOWRITE, Hint::ReaderClosed),
    ];
    HINTS.iter().find(|(flag, _)| flags.contains(*flag)).map(|(_, hint)| *hint)
}

/// Wakes the spool thread when there are events to read. A wake-up disarms; [`Waker::arm`] arms again.
pub(super) struct Waker {
    epoll: Arc<OwnedFd>,
    stop: Arc<OwnedFd>,
    wake: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// What `epoll` says for the stop descriptor; the spools have their index.
const STOP: u64 = u64::MAX;

impl Waker {
    pub(super) fn new() -> io::Result<Waker> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&*epoll, &*stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        // One wake-up that is not yet taken says as much as many.
        let (send, wake) = bounded(1);
        let poll = Arc::clone(&epoll);
        let thread =
            std::thread::Builder::new().name("spool-events".to_owned()).spawn(move || wait(&poll, &send))?;
        Ok(Waker { epoll, stop, wake, thread: Some(thread) })
    }

    /// Yields when a watch has events.
    pub(super) fn channel(&self) -> &Receiver<()> {
        &self.wake
    }

    /// Includes a watch; it stays until it is dropped.
    pub(super) fn include(&self, watch: &Watch, spool: usize) -> io::Result<()> {
        let data = epoll::EventData::new_u64(spool as u64);
        epoll::add(&*self.epoll, &*watch.inotify, data, epoll::EventFlags::IN | epoll::EventFlags::ONESHOT)?;
        Ok(())
    }

    /// Wakes the thread at the next event of this watch, or at once if there is one.
    pub(super) fn arm(&self, watch: &Watch, spool: usize) -> io::Result<()> {
        let data = epoll::EventData::new_u64(spool as u64);
        epoll::modify(
            &*self.epoll,
            &*watch.inotify,
            data,
            epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
        )?;
        Ok(())
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        let _ = rustix::io::write(self.stop.as_fd(), &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait(poll: &OwnedFd, wake: &Sender<()>) {
    loop {
        let mut ready =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 16];
        match epoll::wait(poll, &mut ready, None) {
            Ok(count) => {
                if ready.iter().take(count).any(|event| event.data.u64() == STOP) {
                    return;
                }
                let _ = wake.try_send(());
            }
            Err(Errno::INTR) => {}
            // The descriptor is ours and valid; without it the scans still find everything.
            Err(_) => return,
        }
    }
}
