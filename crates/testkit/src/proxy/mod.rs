//! A link between clients and a broker that can be bad: slow, long, cut, reset, refused, silent, losing an answer, or telling a client of no
//! broker.
//!
//! The broker must advertise the proxy's address, so that everything passes through it ([`Proxy::address`] is known before the broker
//! starts). Plain threads, bounded queues; Kafka in the clear only, as frames are looked at ([`frames`]).
//! What must never happen here: a byte changed (but for [`metadata`]), doubled or out of order; a thread that outlives its proxy for long.

mod connection;
mod frames;
mod metadata;
mod pool;
mod queue;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt;

use crate::loopback::own_address;
use crate::wait::{LONG, wait_until};
use connection::Connection;
pub use pool::Link;

/// Connections at one time; more are refused.
const CONNECTIONS_MAX: usize = 512;
/// Connecting to the broker may take so long.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How soon a waiting thread sees that something changed, when nobody tells it.
const TURN: Duration = Duration::from_millis(50);
/// What the kernel keeps of bytes that we have not read yet: small, so that a slow link pushes back as a real one does.
const RECEIVE_BUFFER: usize = 256 << 10;

/// How the link is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Each byte takes so long from one end to the other, each way.
    pub delay: Duration,
    /// Bytes per second each way, over all connections; `None`: as fast as it goes.
    pub rate: Option<u64>,
    /// Nothing passes; connections stay open and what was sent waits.
    pub hole: bool,
    /// Nobody listens: connecting fails at once. Connections that are there stay.
    pub refuse: bool,
}

/// A link to one broker.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    weather: Mutex<Weather>,
    changed: Condvar,
    upstream: Mutex<Option<SocketAddr>>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    accepted: AtomicU64,
    listening: AtomicBool,
    stop: AtomicBool,
    /// Answers to Produce that are still to be lost, and that were.
    to_lose: AtomicU32,
    lost: AtomicU64,
    /// Answers to Metadata that are still to name no broker, and that did.
    to_empty: AtomicU32,
    emptied: AtomicU64,
    /// When the link is free again, to the broker and from it.
    free: [Mutex<Instant>; 2],
    /// Bytes that passed, to the broker and from it.
    passed: [AtomicU64; 2],
}

impl Proxy {
    /// A link in fair weather at an address of its own; leads nowhere until [`Proxy::lead_to`].
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start() -> Proxy {
        let address = own_address();
        let now = Instant::now();
        let shared = Arc::new(Shared {
            weather: Mutex::default(),
            changed: Condvar::new(),
            upstream: Mutex::default(),
            connections: Mutex::default(),
            accepted: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            to_lose: AtomicU32::new(0),
            lost: AtomicU64::new(0),
            to_empty: AtomicU32::new(0),
            emptied: AtomicU64::new(0),
            free: [Mutex::new(now), Mutex::new(now)],
            passed: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name("proxy".into());
            builder.spawn(move || shared.accept(address)).expect("a thread can be started")
        };
        let proxy = Proxy { shared, address, acceptor: Some(acceptor) };
        proxy.await_listening(true);
        proxy
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections lead from now on.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = Some(upstream);
    }

    /// Changes the link for all connections, also those that are there.
    ///
    /// # Panics
    /// When it cannot listen again.
    pub fn set(&self, weather: Weather) {
        *lock(&self.shared.weather) = weather;
        self.shared.changed.notify_all();
        self.await_listening(!weather.refuse);
    }

    /// Fair weather again. Answers that were to be lost are still lost.
    pub fn heal(&self) {
        self.set(Weather::default());
    }

    /// Closes all connections in order (FIN), in mid-stream. Says how many.
    pub fn cut(&self) -> usize {
        let all = self.shared.take_connections();
        all.iter().for_each(|connection| connection.close());
        all.len()
    }

    /// Breaks all connections off (RST). Says how many.
    pub fn reset(&self) -> usize {
        let all = self.shared.take_connections();
        all.iter().for_each(|connection| connection.break_off());
        all.len()
    }

    /// Loses the next `count` answers to Produce requests, which the broker has carried out: each is swallowed, and its
    /// connection closed.
    pub fn lose_produce_answers(&self, count: u32) {
        self.shared.to_lose.store(count, Ordering::Release);
    }

    /// Answers lost up to now.
    pub fn answers_lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Acquire)
    }

    /// The next `count` answers to Metadata that tell of a topic name no broker.
    pub fn name_no_brokers(&self, count: u32) {
        self.shared.to_empty.store(count, Ordering::Release);
    }

    /// Answers up to now that named no broker because of [`Proxy::name_no_brokers`].
    pub fn no_brokers_named(&self) -> u64 {
        self.shared.emptied.load(Ordering::Acquire)
    }

    /// Connections at the moment.
    pub fn connections(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// Bytes that passed up to now, to the broker and from it.
    pub fn passed(&self) -> (u64, u64) {
        let [up, down] = &self.shared.passed;
        (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
    }

    fn await_listening(&self, listening: bool) {
        let reached = wait_until(LONG, || self.shared.listening.load(Ordering::Acquire) == listening);
        assert!(reached, "the proxy cannot listen at {}", self.address);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        self.cut();
        if let Some(acceptor) = self.acceptor.take() {
            let ended = acceptor.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the proxy itself failed: see above");
        }
        // Those that came in between.
        self.cut();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn weather(&self) -> Weather {
        *lock(&self.weather)
    }

    /// Waits for a change of the weather, or a turn.
    fn wait(&self, time: Duration) {
        let guard = lock(&self.weather);
        drop(self.changed.wait_timeout(guard, time.min(TURN)));
    }

    fn accept(self: Arc<Shared>, address: SocketAddr) {
        let mut listener: Option<TcpListener> = None;
        while !self.stop.load(Ordering::Acquire) {
            if self.weather().refuse {
                // Closed for good: whoever waits in its queue is refused, too.
                listener = None;
                self.listening.store(false, Ordering::Release);
                self.wait(TURN);
                continue;
            }
            let Some(open) = &listener else {
                match listen(address) {
                    Ok(open) => {
                        listener = Some(open);
                        self.listening.store(true, Ordering::Release);
                    }
                    Err(_) => self.wait(TURN),
                }
                continue;
            };
            match open.accept() {
                Ok((client, _)) => self.admit(client),
                Err(_) => wait_for_client(open),
            }
        }
    }

    fn admit(self: &Arc<Shared>, client: TcpStream) {
        if lock(&self.connections).len() >= CONNECTIONS_MAX {
            return;
        }
        let shared = Arc::clone(self);
        // Without a thread the client is refused.
        let _ = std::thread::Builder::new().name("proxy-connect".into()).spawn(move || {
            let upstream = *lock(&shared.upstream);
            let server =
                upstream.and_then(|upstream| TcpStream::connect_timeout(&upstream, CONNECT_MAX).ok());
            let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
            // A broker that is away looks as if nobody listened.
            if let Some(Ok(connection)) = server.map(|server| Connection::new(client, server)) {
                connection::run(&shared, number, Arc::new(connection));
            }
        });
    }

    fn take_connections(&self) -> Vec<Arc<Connection>> {
        lock(&self.connections).drain().map(|(_, connection)| connection).collect()
    }

    /// Whether the answer at hand is to be lost.
    fn loses_this_answer(&self) -> bool {
        one_of(&self.to_lose, &self.lost)
    }

    /// Whether an answer to Metadata that comes now may have to name no broker.
    fn may_empty_answers(&self) -> bool {
        self.to_empty.load(Ordering::Acquire) > 0
    }

    /// Whether the answer at hand, which is whole, is to name no broker.
    fn empties_this_answer(&self) -> bool {
        one_of(&self.to_empty, &self.emptied)
    }
}

/// Takes one of those that are left over to those that are done.
fn one_of(left: &AtomicU32, done: &AtomicU64) -> bool {
    let one_less = |left: u32| left.checked_sub(1);
    let takes = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok();
    done.fetch_add(u64::from(takes), Ordering::AcqRel);
    takes
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    // Connections inherit it.
    sockopt::set_socket_recv_buffer_size(&listener, RECEIVE_BUFFER)?;
    Ok(listener)
}

fn wait_for_client(listener: &TcpListener) {
    let mut fds = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
    let turn = rustix::event::Timespec { tv_sec: 0, tv_nsec: TURN.as_nanos() as i64 };
    // Whatever comes of it, the listener is asked again.
    let _ = poll(&mut fds, Some(&turn));
}

#[cfg(test)]
mod tests;
