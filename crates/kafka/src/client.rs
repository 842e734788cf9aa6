//! One librdkafka client: creation, callbacks, destruction.
//!
//! What must never happen here: a panic leaving a callback (it would unwind into C), a callback running after its
//! context is gone, a client destroyed twice or by one of its own threads.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rdkafka::bindings as sys;

use crate::brokers::{self, Brokers, Lack};
use crate::certificate;
use crate::complaint::Complaints;
use crate::ffi::{self, Queue, code};
use crate::pace::{self, Pace, Readers};
use crate::settings::{Conf, Properties, Said};
use crate::{Error, Result};

/// A poll thread to which nothing happens wakes up this often, ms: an idle daemon costs next to nothing. Whoever cannot wait so long wakes it
/// ([`Poller::wake`]).
pub(crate) const POLL_MS: c_int = 1000;

/// A delivery report, read out of the message it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The number given to `rd_kafka_produce`.
    pub(crate) ticket: usize,
    pub(crate) err: i32,
    /// Negative when the broker did not name one.
    pub(crate) offset: i64,
    /// The producer is dead, whatever this record's own error is.
    pub(crate) dead: bool,
}

type OnReport = Box<dyn Fn(Report) + Send + Sync>;
type OnEvent = Box<dyn Fn() + Send + Sync>;
type OnStatistics = Box<dyn Fn(&str) + Send + Sync>;

/// What callbacks work on; lives as long as the client.
pub(crate) struct Context {
    pub(crate) complaints: Complaints,
    on_report: Option<OnReport>,
    on_event: Option<OnEvent>,
    on_statistics: Option<OnStatistics>,
    pace: Pace,
}

impl Context {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self::plain(name))
    }

    fn plain(name: &str) -> Self {
        let complaints = Complaints::new(name);
        Self { complaints, on_report: None, on_event: None, on_statistics: None, pace: Pace::none() }
    }

    /// For a producer: `on_report` gets what became of each record, on the polling thread; `on_event` is called when there is something
    /// to poll for ([`Client::tell_of_events`]), by the thread that put it there.
    pub(crate) fn producing(name: &str, on_report: OnReport, on_event: OnEvent) -> Arc<Self> {
        Arc::new(Self { on_report: Some(on_report), on_event: Some(on_event), ..Self::plain(name) })
    }

    /// For a consumer whose fetches from one broker are at least so far apart, and wait while so much memory is held: by these
    /// readers, its own and those of the clients beside it.
    pub(crate) fn paced(
        name: &str,
        fetch_interval: Duration,
        held_max: usize,
        readers: &Arc<Readers>,
    ) -> Arc<Self> {
        let pace = Pace::new(fetch_interval, held_max, Arc::clone(readers));
        Arc::new(Self { pace, ..Self::plain(name) })
    }

    /// For a client that is asked about its inner state: `on_statistics` gets librdkafka's JSON, on the polling thread.
    pub(crate) fn observed(name: &str, on_statistics: OnStatistics) -> Arc<Self> {
        Arc::new(Self { on_statistics: Some(on_statistics), ..Self::plain(name) })
    }
}

/// Which kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Producer,
    Consumer,
}

/// An owned `rd_kafka_t`. Dropping it blocks until librdkafka's threads are gone: drop it on a thread that may wait.
pub(crate) struct Client {
    rk: NonNull<sys::rd_kafka_t>,
    context: Arc<Context>,
    pub(crate) brokers: Arc<Brokers>,
}

// SAFETY: librdkafka's clients are made for use by any thread, and context and brokers are Send + Sync.
unsafe impl Send for Client {}
// SAFETY: every call of this crate on a shared client is documented as thread-safe.
unsafe impl Sync for Client {}

impl Client {
    pub(crate) fn new(kind: Kind, properties: &Properties, context: Arc<Context>) -> Result<Self> {
        let conf = Conf::new(properties)?;
        let brokers = Brokers::new(properties)?;
        let mut said = Said::new();
        #[cfg(target_env = "gnu")]
        crate::patience::install();
        // SAFETY: the configuration is live and ours; context and brokers outlive the client because `Client` holds them
        // until the client is destroyed; the callbacks have the signatures librdkafka expects and never unwind.
        // On success librdkafka owns the configuration, on failure (null) it stays ours.
        let rk = unsafe {
            sys::rd_kafka_conf_set_opaque(conf.as_ptr(), Arc::as_ptr(&context).cast_mut().cast());
            sys::rd_kafka_conf_set_log_cb(conf.as_ptr(), Some(on_log));
            sys::rd_kafka_conf_set_error_cb(conf.as_ptr(), Some(on_error));
            if context.on_statistics.is_some() {
                sys::rd_kafka_conf_set_stats_cb(conf.as_ptr(), Some(on_statistics));
            }
            certificate::install(conf.as_ptr());
            pace::install(conf.as_ptr(), &context.pace);
            brokers::install(conf.as_ptr(), &brokers);
            if kind == Kind::Producer {
                sys::rd_kafka_conf_set_dr_msg_cb(conf.as_ptr(), Some(on_delivery));
            }
            let kind = match kind {
                Kind::Producer => sys::rd_kafka_type_t::RD_KAFKA_PRODUCER,
                Kind::Consumer => sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
            };
            let (room, size) = said.room();
            sys::rd_kafka_new(kind, conf.as_ptr(), room, size)
        };
        let Some(rk) = NonNull::new(rk) else {
            if brokers.was_installed() {
                // A client that fails after it has called its interceptors frees the lists of them that it shares with the
                // configuration; freeing that would free them again. A few KiB are lost instead.
                conf.forget();
                // One that did not begin in time leaves its threads behind, and they call us.
                std::mem::forget((Arc::clone(&context), Arc::clone(&brokers)));
            }
            return Err(Error::InvalidConfig(said.text()));
        };
        conf.forget();
        Ok(Self { rk, context, brokers })
    }

    /// For calls into librdkafka.
    pub(crate) fn as_ptr(&self) -> *mut sys::rd_kafka_t {
        self.rk.as_ptr()
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.context.pace
    }

    pub(crate) fn complaints(&self) -> &Complaints {
        &self.context.complaints
    }

    /// Serves callbacks for up to `timeout_ms`, and sees to it that the client has brokers to ask. True when there was one to serve.
    pub(crate) fn poll(&self, timeout_ms: c_int) -> bool {
        // SAFETY: the client is live, and the brokers are its own.
        let (served, helped) = unsafe {
            let served = sys::rd_kafka_poll(self.as_ptr(), timeout_ms);
            (served > 0, self.brokers.keep(self.as_ptr()))
        };
        match helped {
            None => {}
            Some((_, count)) if count <= 0 => self.complaints().warn("no broker can be reached, and bootstrap.servers cannot be tried again"),
            Some((Lack::Broker, _)) => self.complaints().warn(
                "no broker is left to this client, as when an answer of Kafka names none: beginning anew with bootstrap.servers",
            ),
            Some((Lack::Connection, _)) => {
                self.complaints().note("no broker is up: trying bootstrap.servers, too");
            }
        }
        served
    }

    /// The queue that [`Client::poll`] waits on.
    pub(crate) fn events(&self) -> Option<Queue> {
        // SAFETY: the client is live; the reference is ours, and who asks for it drops it before he lets go of the client.
        unsafe { Queue::own(sys::rd_kafka_queue_get_main(self.as_ptr())) }
    }

    /// From now on the context's `on_event` is called whenever something comes into the empty queue that [`Client::poll`] serves.
    pub(crate) fn tell_of_events(&self) {
        let Some(queue) = self.events() else { return };
        let context = Arc::as_ptr(&self.context).cast_mut().cast();
        // SAFETY: the reference to the queue is live; the queue itself lives as long as the client, and so does the context, which
        // `Client` holds until the client is destroyed; the callback has the signature librdkafka expects and never unwinds.
        unsafe { sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(on_event), context) }
    }

    /// The error that ended this client's life, if one did.
    pub(crate) fn fatal_error(&self) -> Option<String> {
        let mut said = Said::new();
        let (room, size) = said.room();
        // SAFETY: the client is live, the buffer has the length given.
        let err = unsafe { ffi::rd_kafka_fatal_error(self.as_ptr(), room, size) };
        (err != code::NONE).then(|| said.text())
    }

    /// A new queue for answers.
    pub(crate) fn queue(&self) -> ffi::Queue {
        // SAFETY: the client is live; callers drop queues before the client.
        let queue = unsafe { ffi::Queue::own(sys::rd_kafka_queue_new(self.as_ptr())) };
        queue.expect("librdkafka returns a queue or aborts")
    }

    /// An error for the operator: a refusal the client met says more than the time-out that followed from it.
    pub(crate) fn error(&self, err: i32, topic: &str, said: &str) -> Error {
        match ffi::classify(err, topic, said) {
            Error::Unreachable(text) => match self.complaints().refusal() {
                Some(refusal) => Error::NotAuthorized(refusal),
                None => match self.complaints().current() {
                    Some(complaint) => Error::Unreachable(format!("{text} ({complaint})")),
                    None => Error::Unreachable(text),
                },
            },
            other => other,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: ours, used by nobody else any more (we are being dropped), and never dropped inside a callback:
        // callbacks get no `Client`. Without the group close, which we do not need, this cannot wait for a broker.
        unsafe { sys::rd_kafka_destroy_flags(self.as_ptr(), sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE) }
    }
}

/// Runs a callback's body so that nothing unwinds into C.
fn guarded(body: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(body)).is_err() {
        // Logging may be what panicked.
        let _ = catch_unwind(|| tracing::error!(target: "kafka", "a callback panicked; its event is lost"));
    }
}

unsafe extern "C" fn on_log(
    rk: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    line: *const c_char,
) {
    guarded(|| {
        if rk.is_null() {
            return;
        }
        // SAFETY: librdkafka passes the live client whose opaque is our context (set before the client existed and
        // kept alive by `Client` until after destruction) and NUL-terminated strings that live for the call.
        unsafe {
            let context = sys::rd_kafka_opaque(rk).cast::<Context>();
            if let Some(context) = context.as_ref() {
                context.complaints.log(level, &ffi::text(facility), &ffi::text(line));
            }
        }
    });
}

unsafe extern "C" fn on_error(
    rk: *mut sys::rd_kafka_t,
    err: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    guarded(|| {
        // SAFETY: `opaque` is the context given at creation, alive as long as the client; the reason is
        // NUL-terminated and lives for the call; the client is live and the buffer has the length given.
        unsafe {
            let Some(context) = opaque.cast::<Context>().as_ref() else { return };
            let mut words = ffi::text(reason);
            if err == code::FATAL {
                let mut said = Said::new();
                let (room, size) = said.room();
                ffi::rd_kafka_fatal_error(rk, room, size);
                words = said.text();
            }
            context.complaints.fault(err, &words);
        }
    });
}

/// Called with the queue's lock held: what it calls must not use the client.
unsafe extern "C" fn on_event(_rk: *mut sys::rd_kafka_t, opaque: *mut c_void) {
    guarded(|| {
        // SAFETY: `opaque` is the context given with the callback, alive as long as the client.
        unsafe {
            let Some(context) = opaque.cast::<Context>().as_ref() else { return };
            if let Some(on_event) = &context.on_event {
                on_event();
            }
        }
    });
}

unsafe extern "C" fn on_statistics(
    _rk: *mut sys::rd_kafka_t,
    json: *mut c_char,
    _length: usize,
    opaque: *mut c_void,
) -> c_int {
    guarded(|| {
        // SAFETY: `opaque` is the context given at creation, alive as long as the client; the text is NUL-terminated, lives
        // for the call and is copied.
        unsafe {
            let Some(context) = opaque.cast::<Context>().as_ref() else { return };
            if let Some(on_statistics) = &context.on_statistics {
                on_statistics(&ffi::text(json));
            }
        }
    });
    // librdkafka frees the text.
    0
}

unsafe extern "C" fn on_delivery(
    rk: *mut sys::rd_kafka_t,
    message: *const sys::rd_kafka_message_t,
    opaque: *mut c_void,
) {
    guarded(|| {
        // SAFETY: `opaque` is the context given at creation, alive as long as the client; client and message live
        // for the call; the code is read as a number, the other fields are plain; a null buffer of size 0 is allowed.
        unsafe {
            let Some(context) = opaque.cast::<Context>().as_ref() else { return };
            let Some(on_report) = &context.on_report else { return };
            let err = ffi::stored_code(&raw const (*message).err);
            let report = Report {
                ticket: (*message)._private.addr(),
                err,
                offset: (*message).offset,
                dead: err != code::NONE && ffi::rd_kafka_fatal_error(rk, ptr::null_mut(), 0) != code::NONE,
            };
            if report.err == code::NONE && report.offset >= 0 {
                context.complaints.healthy();
            }
            on_report(report);
        }
    });
}

/// The value librdkafka carries for us with each message: a number, never dereferenced.
pub(crate) fn ticket_pointer(ticket: usize) -> *mut c_void {
    ptr::without_provenance_mut(ticket)
}

/// Nothing that panics is done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The queue goes before the client that the same thread holds, also when a step panics: a local value is dropped before what the
/// thread was given.
struct GoesFirst(Arc<Mutex<Option<Queue>>>);

impl Drop for GoesFirst {
    fn drop(&mut self) {
        drop(lock(&self.0).take());
    }
}

/// A thread that serves a client's events until told to stop.
pub(crate) struct Poller {
    stop: Arc<AtomicBool>,
    /// What the thread waits on; gone before its client can be.
    events: Arc<Mutex<Option<Queue>>>,
    gone: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Poller {
    /// Runs `step` (which may wait about [`POLL_MS`] on `events`) again and again, then `end`, which gets what `step` used.
    pub(crate) fn start<S: Send + 'static>(
        name: &str,
        events: Option<Queue>,
        state: S,
        step: impl Fn(&S) + Send + 'static,
        end: impl FnOnce(S) + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let events = Arc::new(Mutex::new(events));
        let (alive, gone): (Sender<()>, Receiver<()>) = bounded(0);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn({
            let (stop, events) = (Arc::clone(&stop), Arc::clone(&events));
            move || {
                let events = GoesFirst(events);
                while !stop.load(Ordering::Acquire) {
                    step(&state);
                }
                drop(events);
                end(state);
                drop(alive);
            }
        });
        let thread =
            thread.map_err(|error| Error::Other(format!("no thread for the Kafka client: {error}")))?;
        Ok(Self { stop, events, gone, thread: Some(thread) })
    }

    /// Ends the thread's wait, now or the next one: its step goes on.
    pub(crate) fn wake(&self) {
        if let Some(events) = &*lock(&self.events) {
            events.end_wait();
        }
        // A step that waits for something else is parked.
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Whether the caller is the poll thread itself.
    pub(crate) fn is_current(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.thread().id() == std::thread::current().id())
    }

    /// Asks it to stop; nobody waits for its end yet.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Asks it to stop and waits up to `deadline` for its end. `false`: it is still busy, and left to itself.
    pub(crate) fn stop(&mut self, deadline: Duration) -> bool {
        self.ask_to_stop();
        // Nothing is ever sent: the answer is the sender's disappearance.
        let ended = matches!(
            self.gone.recv_timeout(deadline),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected)
        );
        if let Some(thread) = self.thread.take().filter(|_| ended) {
            // It has nothing left to do; a panic in it was reported where it happened.
            let _ = thread.join();
        }
        ended
    }
}
