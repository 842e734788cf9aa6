//! One connection through the link: two sockets, and two threads for each direction.
//!
//! What must never happen here: a byte that leaves before its time, or after the connection was closed.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::frames::{Frames, Part, answer_id, frame_len, produce_id};
use super::metadata::{ANSWER_MAX, metadata_id, without_brokers};
use super::queue::Queue;
use super::{RECEIVE_BUFFER, Shared, TURN, lock};

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Bytes that leave a slow link at once; of a fast one so much time of it.
const SLICE_BYTES: usize = 16 << 10;
const SLICE_TIME: Duration = Duration::from_micros(500);
/// A thread that was woken late makes up for so much at most: the link was idle only for us.
const LATE_MAX: Duration = Duration::from_millis(50);
/// Requests of one connection whose answers are looked at and awaited; of a client with more the others are not looked at.
const AWAITED_MAX: usize = 100_000;

/// Both sockets.
#[derive(Debug)]
pub struct Connection {
    client: TcpStream,
    server: TcpStream,
    closed: AtomicBool,
    /// Requests whose answers did not come yet, by correlation id.
    awaited: Mutex<HashMap<u32, Asked>>,
}

/// A request whose answer is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Produce,
    Metadata,
}

/// An answer that is kept until it is whole, to be changed.
#[derive(Debug)]
struct Kept {
    answer: Vec<u8>,
    /// Bytes that it will have.
    len: usize,
}

/// To the broker, or from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Connection {
    /// Takes the sockets over.
    pub fn new(client: TcpStream, server: TcpStream) -> io::Result<Connection> {
        sockopt::set_socket_recv_buffer_size(&server, RECEIVE_BUFFER)?;
        for socket in [&client, &server] {
            socket.set_nonblocking(false)?;
            socket.set_nodelay(true)?;
            // Writing to somebody who does not read must not keep a thread for ever.
            socket.set_write_timeout(Some(TURN))?;
        }
        Ok(Connection { client, server, closed: AtomicBool::new(false), awaited: Mutex::default() })
    }

    /// Ends it in order, without what is still on its way.
    pub fn close(&self) {
        self.end(Shutdown::Both);
    }

    /// Ends it with a reset, which goes out when the last thread has let go of the sockets.
    pub fn break_off(&self) {
        for socket in [&self.client, &self.server] {
            // A socket that is gone needs no reset.
            let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
        self.end(Shutdown::Read);
    }

    fn end(&self, how: Shutdown) {
        self.closed.store(true, Ordering::Release);
        for socket in [&self.client, &self.server] {
            // Wakes whoever reads. One that is gone already is as it should be.
            let _ = socket.shutdown(how);
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn source(&self, way: Way) -> &TcpStream {
        if way == Way::Up { &self.client } else { &self.server }
    }

    fn target(&self, way: Way) -> &TcpStream {
        if way == Way::Up { &self.server } else { &self.client }
    }
}

/// Starts the threads of a new connection.
pub fn run(shared: &Arc<Shared>, number: u64, connection: Arc<Connection>) {
    let mut connections = lock(&shared.connections);
    if shared.stop.load(Ordering::Acquire) {
        return;
    }
    connections.insert(number, Arc::clone(&connection));
    drop(connections);
    for way in [Way::Up, Way::Down] {
        let queue = Arc::new(Queue::default());
        let direction =
            Direction { way, number, shared: Arc::clone(shared), connection: Arc::clone(&connection), queue };
        let other = direction.clone();
        let name = || std::thread::Builder::new().name("proxy-link".into());
        let started =
            name().spawn(move || other.fill()).is_ok() && name().spawn(move || direction.empty()).is_ok();
        if !started {
            connection.close();
        }
    }
}

#[derive(Clone)]
struct Direction {
    way: Way,
    number: u64,
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    queue: Arc<Queue>,
}

impl Direction {
    /// Reads from one end into the queue.
    fn fill(&self) {
        let mut frames = if self.way == Way::Up { Frames::of_requests() } else { Frames::of_answers() };
        let mut kept = None;
        let mut buffer = vec![0; READ_BYTES];
        let mut source = self.connection.source(self.way);
        loop {
            let len = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.connection.break_off();
                    break;
                }
            };
            let Some(piece) = self.looked_through(&mut frames, &mut kept, &buffer[..len]) else {
                self.connection.close();
                break;
            };
            if !piece.is_empty() && !self.queue.put(piece, || self.shared.weather()) {
                break;
            }
        }
        self.queue.end();
    }

    /// The bytes to pass on; `None` when an answer in them is to be lost.
    fn looked_through(&self, frames: &mut Frames, kept: &mut Option<Kept>, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut passed = Vec::with_capacity(bytes.len() + 12);
        for part in frames.take(bytes) {
            match (part, kept.as_mut()) {
                (Part::Head(head), _) if self.way == Way::Up => {
                    self.note_request(&head);
                    passed.extend_from_slice(&head);
                }
                (Part::Head(head), _) => {
                    let asked = lock(&self.connection.awaited).remove(&answer_id(&head));
                    if asked == Some(Asked::Produce) && self.shared.loses_this_answer() {
                        return None;
                    }
                    let len = frame_len(&head);
                    let may_change = asked == Some(Asked::Metadata) && self.shared.may_empty_answers();
                    if may_change && (head.len() + 1..ANSWER_MAX).contains(&len) {
                        *kept = Some(Kept { answer: head, len });
                    } else {
                        passed.extend_from_slice(&head);
                    }
                }
                (Part::Body(range), Some(answer)) => {
                    answer.answer.extend_from_slice(&bytes[range]);
                    if answer.answer.len() >= answer.len {
                        let whole = kept.take().map(|kept| kept.answer).unwrap_or_default();
                        let changed = without_brokers(&whole).filter(|_| self.shared.empties_this_answer());
                        passed.extend(changed.unwrap_or(whole));
                    }
                }
                (Part::Body(range), None) => passed.extend_from_slice(&bytes[range]),
            }
        }
        Some(passed)
    }

    fn note_request(&self, head: &[u8]) {
        let produce = produce_id(head).map(|id| (id, Asked::Produce));
        let asked = produce.or_else(|| metadata_id(head).map(|id| (id, Asked::Metadata)));
        let mut awaited = lock(&self.connection.awaited);
        if awaited.len() < AWAITED_MAX {
            awaited.extend(asked);
        }
    }

    /// Writes from the queue to the other end, each byte in its time.
    fn empty(&self) {
        while let Some((due, piece)) = self.queue.take() {
            let rate = self.shared.weather().rate.unwrap_or(u64::MAX);
            let slice = (rate as f64 * SLICE_TIME.as_secs_f64()) as usize;
            let mut slices = piece.chunks(slice.max(SLICE_BYTES));
            if !slices.all(|slice| self.may_leave(due, slice.len()) && self.write(slice)) {
                // Nobody is there to read what follows; or it must not arrive.
                self.connection.end(Shutdown::Read);
                self.queue.end();
                break;
            }
        }
        if !self.connection.is_closed() {
            // One end has said everything; the other may still have something to say.
            let _ = self.connection.target(self.way).shutdown(Shutdown::Write);
        }
        if self.way == Way::Down || self.connection.is_closed() {
            self.connection.end(Shutdown::Read);
            lock(&self.shared.connections).remove(&self.number);
        }
    }

    /// Waits until so many bytes may leave; false when the connection was closed.
    fn may_leave(&self, due: Instant, len: usize) -> bool {
        let mut free: Option<Instant> = None;
        loop {
            if self.connection.is_closed() {
                return false;
            }
            let weather = self.shared.weather();
            let now = Instant::now();
            let until = free.unwrap_or(due);
            if weather.hole {
                self.shared.wait(TURN);
            } else if now < until {
                self.shared.wait(until - now);
            } else if let (Some(rate), None) = (weather.rate, free) {
                free = Some(self.reserve(due, now, len, rate));
            } else {
                return true;
            }
        }
    }

    /// Takes the link for so many bytes that could leave since they were due; until when. Not from now on: this thread
    /// is always woken late, on a busy machine very late, and the link would never be full.
    fn reserve(&self, due: Instant, now: Instant, len: usize, rate: u64) -> Instant {
        let begun = due.max(now.checked_sub(LATE_MAX).unwrap_or(now));
        let mut free = lock(&self.shared.free[self.way as usize]);
        *free = (*free).max(begun) + Duration::from_secs_f64(len as f64 / rate.max(1) as f64);
        *free
    }

    fn write(&self, mut slice: &[u8]) -> bool {
        let mut target = self.connection.target(self.way);
        while !slice.is_empty() {
            match target.write(slice) {
                Ok(len) => {
                    slice = &slice[len..];
                    self.shared.passed[self.way as usize].fetch_add(len as u64, Ordering::Relaxed);
                }
                Err(error) if retry(&error) && !self.connection.is_closed() => {}
                Err(_) => return false,
            }
        }
        true
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
