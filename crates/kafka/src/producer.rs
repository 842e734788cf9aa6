//! The zero-copy producer: librdkafka reads a record's buffer where it lies and gives it back with the report.
//!
//! What must never happen here: a buffer freed or changed while librdkafka may still read it, a record reported
//! twice or never, an acknowledgement without an offset, a drop that waits for a broker.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;

use crate::Result;
use crate::client::{Client, Context, Kind, POLL_MS, Poller, Report, ticket_pointer};
use crate::ffi::{self, code};
use crate::settings::{self, Settings};
use crate::topic::Topic;

/// After a purge librdkafka reports at once; this is only for a machine in trouble.
const PURGE_DEADLINE: Duration = Duration::from_secs(5);
/// Between two requests for them, ms.
const PURGE_AGAIN_MS: std::ffi::c_int = 100;
/// Dropping waits this long for reports and librdkafka's threads, then leaves the rest to the poll thread.
const DROP_DEADLINE: Duration = Duration::from_secs(10);

/// Between two questions of a client that is being connected, after an error.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);

/// [`Producer::flush`] of an attended producer looks this often whether somebody else has served the last report, ms.
const FLUSH_STEP_MS: std::ffi::c_int = 50;

/// Sizes and switches of a producer.
#[derive(Debug, Clone)]
pub struct ProducerTuning {
    /// The client's `message.max.bytes`: the topic's `max.message.bytes` less 61 bytes of batch header. A record fits
    /// when key and value together are at most this less 36.
    pub message_max_bytes: usize,
    /// `queue.buffering.max.kbytes`, KiB: above the caller's own byte credits, so that it is never the limit.
    pub queue_max_kbytes: usize,
    /// `enable.idempotence`; a user's property of that name wins.
    pub idempotence: bool,
    /// `linger.ms`: how long a batch that is not full waits for more; a user's property of that name wins.
    pub linger: Duration,
}

/// What a record's life ended in. Only `Acknowledged` means that the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every in-sync replica has it.
    Acknowledged {
        /// Its offset in the partition, 0 or more.
        offset: i64,
    },
    /// "Success" without an offset, which proves nothing: it must be sent again.
    Unproven,
    /// Not acknowledged; it may be stored all the same.
    Failed {
        /// What librdkafka says, for the operator.
        error: String,
        /// The producer is dead.
        fatal: bool,
        /// What to do with the record.
        retry: Disposition,
    },
}

/// What to do with a record that was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Send it again, by this producer or another.
    Resend,
    /// Its size was refused: the same record will never pass.
    TooLarge,
    /// The broker refuses this client; send it again later, and tell somebody.
    NotAuthorized,
    /// The producer is dead: make a new one, then send again.
    NewProducer,
}

/// A record's bytes, in a buffer that may begin before them: so what follows an envelope can lie aligned.
#[derive(Debug, Clone, Default)]
pub struct Value {
    buffer: Vec<u8>,
    from: usize,
}

impl Value {
    /// A line of the processor's cache, bytes: the kernel's copy out of the page cache takes a quarter to a half longer to other places
    /// (0.12 against 0.15 to 0.20 s/GiB). A buffer needs so many beyond its record's.
    pub const ALIGNMENT: usize = 64;

    /// Where in this buffer a record begins whose byte `room` is aligned; less than [`Value::ALIGNMENT`].
    pub fn start(buffer: &[u8], room: usize) -> usize {
        let to_the_next = buffer.as_ptr().wrapping_add(room).align_offset(Self::ALIGNMENT);
        // "Cannot be aligned" is `usize::MAX`.
        if to_the_next < Self::ALIGNMENT { to_the_next } else { 0 }
    }

    /// The bytes of `buffer` from its byte `from` on; none when it has no more than so many.
    pub fn new(buffer: Vec<u8>, from: usize) -> Value {
        let from = from.min(buffer.len());
        Value { buffer, from }
    }

    /// The whole buffer, for reuse.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

impl From<Vec<u8>> for Value {
    fn from(buffer: Vec<u8>) -> Value {
        Value { buffer, from: 0 }
    }
}

impl std::ops::Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.from..]
    }
}

/// The report about one record.
#[derive(Debug)]
pub struct Delivery<T> {
    /// Partition it was sent to.
    pub partition: i32,
    /// The caller's token.
    pub token: T,
    /// The bytes as they were given, with their buffer for reuse.
    pub value: Value,
    /// What became of it.
    pub outcome: Outcome,
}

/// A record that `send` did not take; no report will come for it.
#[derive(Debug)]
pub struct Rejected<T> {
    /// The caller's token.
    pub token: T,
    /// The bytes as they were given.
    pub value: Value,
    /// What librdkafka says, for the operator.
    pub error: String,
    /// What to do with the record; `Resend` when the queue is full or the partition not known yet.
    pub retry: Disposition,
}

/// A producer for one topic. Shared freely between threads.
pub struct Producer<T: Send + 'static> {
    // Before the core: see `drop`.
    poller: Poller,
    core: Option<Arc<Core<T>>>,
}

impl<T: Send + 'static> Producer<T> {
    /// Starts it; does not wait for a broker. Fails only on the configuration.
    ///
    /// `on_delivery` is called on the producer's own thread, exactly once for every record that [`Producer::send`] took,
    /// at the latest while the producer is dropped. It must not wait for long: nothing else is reported meanwhile.
    pub fn new(
        settings: &Settings,
        tuning: &ProducerTuning,
        on_delivery: Box<dyn Fn(Delivery<T>) + Send + Sync>,
    ) -> Result<Self> {
        let core = Core::start(settings, tuning, on_delivery, None)?;
        let events = core.client().events();
        Self::with_poller(core, events, |core| {
            core.serve(POLL_MS);
        })
    }

    /// As [`Producer::new`], for a caller that waits for other things, too: `wake` says that there is something to
    /// [`serve`](Producer::serve), or that somebody else has served it. It is called by librdkafka with a lock held, and by whoever uses
    /// the producer, so it must not use it. `on_delivery` is called by who serves: the caller, the producer's own thread about once a second and at the end,
    /// and [`flush`](Producer::flush). One at a time: serving or flushing in it would wait for itself.
    ///
    /// A thread that only carries reports from librdkafka to the caller would be woken, and take a processor, once for each of them (decision 21).
    pub fn attended(
        settings: &Settings,
        tuning: &ProducerTuning,
        on_delivery: Box<dyn Fn(Delivery<T>) + Send + Sync>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self> {
        let core = Core::start(settings, tuning, on_delivery, Some(wake))?;
        core.client().tell_of_events();
        // For what may have come before.
        core.ledger.wake();
        // The thread is for what nobody rings for, and for the end.
        Self::with_poller(core, None, |core| {
            core.serve_aside(0);
            std::thread::park_timeout(Duration::from_millis(POLL_MS.unsigned_abs().into()));
        })
    }

    fn with_poller(
        core: Arc<Core<T>>,
        events: Option<ffi::Queue>,
        step: impl Fn(&Arc<Core<T>>) + Send + 'static,
    ) -> Result<Self> {
        let poller = Poller::start("kafka-producer", events, Arc::clone(&core), step, |core| core.wind_up())?;
        Ok(Self { poller, core: Some(core) })
    }

    /// Calls `on_delivery` for what was reported; waits for nothing but who else is just doing that. Only for one that is attended: the
    /// thread of the others does it for as long as there is nothing to report.
    pub fn serve(&self) {
        self.core().serve(0);
    }

    /// Hands a record to librdkafka without copying the value. On `Err` nothing was taken.
    pub fn send(
        &self,
        partition: i32,
        key: &[u8],
        value: impl Into<Value>,
        token: T,
    ) -> std::result::Result<(), Rejected<T>> {
        let (core, value) = (self.core(), value.into());
        let (at, length) = (value.as_ptr(), value.len());
        // First into the table: the report may come before `rd_kafka_produce` returns.
        let ticket = core.ledger.open(partition, value, token);
        // SAFETY: topic and client are live. The flags say neither copy nor free, so librdkafka reads `length` bytes
        // at `at` until its report for `ticket`, or until its threads are gone; that buffer is owned by the table and
        // moves out of it only then (`Ledger::settle`, `Core::wind_up`). Moving the `Value` does not move its bytes, and
        // nobody has a reference to them meanwhile. The key is copied. The opaque is a number, never dereferenced.
        let (outcome, err) = unsafe {
            let outcome = sys::rd_kafka_produce(
                core.topic().as_ptr(),
                partition,
                0,
                at.cast_mut().cast(),
                length,
                if key.is_empty() { std::ptr::null() } else { key.as_ptr().cast() },
                key.len(),
                ticket_pointer(ticket),
            );
            (outcome, if outcome == 0 { code::NONE } else { ffi::rd_kafka_last_error() })
        };
        if outcome == 0 {
            return Ok(());
        }
        let flight = core.ledger.withdraw(ticket).expect("librdkafka reports only what it took");
        let error = core.client().fatal_error().unwrap_or_else(|| ffi::describe(err));
        Err(Rejected { token: flight.token, value: flight.value, error, retry: disposition(err) })
    }

    /// Waits until this client has a connection of its own to one of the cluster's brokers and knows the topic, for about `limit`; a
    /// broker that goes away meanwhile may make it twice that. True when it has.
    ///
    /// Without it the first record waits for both; and an idempotent client, which asks for its producer id when it hears of the
    /// topic from such a broker, asks half a second after its start otherwise. Other brokers are connected when a record goes there.
    pub fn connect(&self, limit: Duration) -> bool {
        let (core, deadline) = (self.core(), Instant::now() + limit);
        loop {
            // The entries of `bootstrap.servers` are left when the brokers' own names are known; the next answer is from one of those.
            let seen = core.topic().look(core.client(), deadline);
            if seen.as_ref().is_ok_and(|seen| !seen.by_bootstrap) {
                return true;
            }
            // An error may pass: a broker that was asked may be the last to hear of the topic.
            let pause = if seen.is_ok() { Duration::ZERO } else { CONNECT_AGAIN };
            if Instant::now() + pause >= deadline {
                return false;
            }
            std::thread::sleep(pause);
        }
    }

    /// Records taken and not reported yet.
    pub fn in_flight(&self) -> usize {
        self.core().ledger.outstanding()
    }

    /// Waits until every record is reported, up to `deadline`; serves meanwhile. `true`: all are.
    pub fn flush(&self, deadline: Duration) -> bool {
        let (core, end) = (self.core(), Instant::now() + deadline);
        if core.ledger.wake.is_none() {
            return core.ledger.wait_empty(deadline);
        }
        core.serve_aside(0);
        while core.ledger.outstanding() > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            core.serve_aside(ffi::millis(left).min(FLUSH_STEP_MS));
        }
        true
    }

    /// The error that killed this producer, if one did: make a new one.
    pub fn fatal_error(&self) -> Option<String> {
        self.core().client().fatal_error()
    }

    /// Last connection-level complaint (all brokers down, authentication failed, ...); `None` once a record was
    /// acknowledged, or when the fault is long gone.
    pub fn complaint(&self) -> Option<String> {
        self.core().client().complaints().current()
    }

    /// For tests of fault handling: kills this producer the way a broker's refusal of its sequence would.
    pub fn test_fatal_error(&self) {
        let err = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        // SAFETY: the client is live, the reason is NUL-terminated and copied.
        unsafe {
            sys::rd_kafka_test_fatal_error(self.core().client().as_ptr(), err, c"raised by a test".as_ptr());
        }
    }

    fn core(&self) -> &Core<T> {
        self.core.as_ref().expect("only drop takes the core away")
    }
}

impl<T: Send + 'static> Drop for Producer<T> {
    /// Gives up what is not acknowledged: each such record is reported as failed, to be sent again.
    fn drop(&mut self) {
        // The poll thread is then the last owner.
        self.core = None;
        // Dropped by its own report handler: the thread winds up after that, and must not wait for itself.
        let deadline = if self.poller.is_current() { Duration::ZERO } else { DROP_DEADLINE };
        if !self.poller.stop(deadline) && !deadline.is_zero() {
            tracing::warn!(
                target: "kafka",
                "the Kafka client does not end in time; its last reports come when it does"
            );
        }
    }
}

/// librdkafka's side of the producer.
struct Core<T> {
    // Order of fields: the topic must go before the client.
    topic: Option<Topic>,
    client: Option<Client>,
    ledger: Arc<Ledger<T>>,
    /// Held by who serves: a partition's reports are settled in their order (`Open::close`).
    serving: Mutex<()>,
}

impl<T: Send + 'static> Core<T> {
    fn start(
        settings: &Settings,
        tuning: &ProducerTuning,
        on_delivery: Box<dyn Fn(Delivery<T>) + Send + Sync>,
        wake: Option<Box<dyn Fn() + Send + Sync>>,
    ) -> Result<Arc<Self>> {
        let ledger = Arc::new(Ledger::new(on_delivery, wake));
        let (reported, rung) = (Arc::clone(&ledger), Arc::clone(&ledger));
        let on_report = Box::new(move |report: Report| reported.settle(&report));
        let context = Context::producing(&settings.client_id, on_report, Box::new(move || rung.wake()));
        let client = Client::new(Kind::Producer, &settings::for_producer(settings, tuning), context)?;
        let c_topic = ffi::c_string("the topic", &settings.topic)?;
        let topic = Topic::new(&client, &c_topic)?;
        Ok(Arc::new(Self { topic: Some(topic), client: Some(client), ledger, serving: Mutex::new(()) }))
    }

    /// Serves what has come, and waits up to `wait_ms` when nothing has. True when there was something.
    fn serve(&self, wait_ms: std::ffi::c_int) -> bool {
        let _alone = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        self.client().poll(wait_ms)
    }

    /// The same for who is not the one that looks at what was reported: it is told.
    fn serve_aside(&self, wait_ms: std::ffi::c_int) {
        if self.serve(wait_ms) {
            self.ledger.wake();
        }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("only wind_up takes the client away")
    }

    fn topic(&self) -> &Topic {
        self.topic.as_ref().expect("only wind_up takes the topic away")
    }

    /// The end, on the poll thread: takes everything back from librdkafka, destroys it, reports what is left.
    fn wind_up(self: Arc<Self>) {
        self.ledger.closing.store(true, Ordering::Release);
        let deadline = Instant::now() + PURGE_DEADLINE;
        let flags =
            sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT | sys::RD_KAFKA_PURGE_F_NON_BLOCKING;
        while self.ledger.outstanding() > 0 && Instant::now() < deadline {
            // SAFETY: the client is live. Non-blocking: a broker thread in a slow name lookup must not hold us.
            unsafe { sys::rd_kafka_purge(self.client().as_ptr(), flags) };
            self.serve_aside(PURGE_AGAIN_MS);
        }
        let ledger = Arc::clone(&self.ledger);
        let Some(mut core) = Arc::into_inner(self) else { return };
        core.topic = None;
        // Returns when librdkafka's threads are gone: from here on nobody reads the buffers.
        core.client = None;
        ledger.abandon();
    }
}

/// A record that librdkafka may be reading.
struct Flight<T> {
    partition: i32,
    value: Value,
    token: T,
}

/// Owner of every record in flight, by ticket. A ticket is given out once and settled once.
struct Ledger<T> {
    open: Mutex<Open<T>>,
    empty: Condvar,
    /// The producer is being dropped: failures are our doing, not its death.
    closing: AtomicBool,
    on_delivery: Box<dyn Fn(Delivery<T>) + Send + Sync>,
    /// Of an attended producer, whose owner serves; none where its own thread does.
    wake: Option<Box<dyn Fn() + Send + Sync>>,
}

struct Open<T> {
    flights: HashMap<usize, Flight<T>>,
    next_ticket: usize,
    /// Also counts the record whose report is being delivered.
    unreported: usize,
    /// By partition, after an answer without an offset.
    counted_on: HashMap<i32, Count>,
}

/// What librdkafka makes of an answer without an offset (-1) for the next record of the same batch.
#[derive(Clone, Copy)]
struct Count {
    next: i64,
    /// Records that were given to librdkafka after that answer, from this ticket on, are not of that batch.
    before: usize,
}

impl<T> Open<T> {
    /// Takes the record of a report out; true when its offset is none: an answer without one is for a whole batch, whose
    /// records librdkafka then numbers -1, 0, 1, … in the order of their reports. A record that was under way already and truly
    /// has the offset that such a count would give next is sent once too often; that is harmless. When it is sent again it is
    /// no longer of the batch, or it would be sent for ever: the log goes on counting just like that.
    fn close(&mut self, report: &Report) -> Option<(Flight<T>, bool)> {
        let flight = self.flights.remove(&report.ticket)?;
        let count = self.counted_on.remove(&flight.partition);
        let before = match count {
            _ if report.err != code::NONE => None,
            _ if report.offset == -1 => Some(self.next_ticket),
            Some(Count { next, before }) if next == report.offset && report.ticket < before => Some(before),
            _ => None,
        };
        if let Some(before) = before {
            self.counted_on.insert(flight.partition, Count { next: report.offset + 1, before });
        }
        Some((flight, before.is_some()))
    }
}

impl<T> Ledger<T> {
    fn new(
        on_delivery: Box<dyn Fn(Delivery<T>) + Send + Sync>,
        wake: Option<Box<dyn Fn() + Send + Sync>>,
    ) -> Self {
        let (flights, counted_on) = (HashMap::new(), HashMap::new());
        let open = Open { flights, next_ticket: 1, unreported: 0, counted_on };
        let closing = AtomicBool::new(false);
        Self { open: Mutex::new(open), empty: Condvar::new(), closing, on_delivery, wake }
    }

    fn lock(&self) -> MutexGuard<'_, Open<T>> {
        // Nothing panics under this lock; and if it did, the table would still own the buffers.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, partition: i32, value: Value, token: T) -> usize {
        let mut open = self.lock();
        let ticket = open.next_ticket;
        open.next_ticket += 1;
        open.flights.insert(ticket, Flight { partition, value, token });
        open.unreported += 1;
        ticket
    }

    /// Takes back a record that librdkafka did not take.
    fn withdraw(&self, ticket: usize) -> Option<Flight<T>> {
        let flight = self.lock().flights.remove(&ticket)?;
        self.reported();
        Some(flight)
    }

    /// librdkafka is done with a record.
    fn settle(&self, report: &Report) {
        // In a statement of its own: the lock must be free again when the caller's code runs.
        let found = self.lock().close(report);
        match found {
            Some((flight, counted_on)) => {
                let dead = report.dead && !self.closing.load(Ordering::Acquire);
                let outcome = if counted_on { Outcome::Unproven } else { outcome(report, dead) };
                self.deliver(flight, outcome);
            }
            None => tracing::error!(target: "kafka", ticket = report.ticket, "report for an unknown record"),
        }
    }

    /// The client is gone without a report for these.
    fn abandon(&self) {
        let left: Vec<Flight<T>> = self.lock().flights.drain().map(|(_, flight)| flight).collect();
        for flight in left {
            let error = "the Kafka client was closed before the broker answered".to_owned();
            self.deliver(flight, Outcome::Failed { error, fatal: false, retry: Disposition::Resend });
        }
        self.wake();
    }

    fn deliver(&self, flight: Flight<T>, outcome: Outcome) {
        let Flight { partition, value, token } = flight;
        let delivery = Delivery { partition, token, value, outcome };
        if catch_unwind(AssertUnwindSafe(|| (self.on_delivery)(delivery))).is_err() {
            tracing::error!(target: "kafka", partition, "the handler of delivery reports panicked");
        }
        self.reported();
    }

    fn reported(&self) {
        let mut open = self.lock();
        open.unreported -= 1;
        if open.unreported == 0 {
            self.empty.notify_all();
        }
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake();
        }
    }

    fn outstanding(&self) -> usize {
        self.lock().unreported
    }

    fn wait_empty(&self, deadline: Duration) -> bool {
        let open = self.lock();
        let waited = self.empty.wait_timeout_while(open, deadline, |open| open.unreported > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.unreported == 0
    }
}

/// What a report means for the record. A dead producer's failures all need a new one, except a size never to pass.
fn outcome(report: &Report, dead: bool) -> Outcome {
    match (report.err, report.offset) {
        (code::NONE, offset) if offset >= 0 => Outcome::Acknowledged { offset },
        (code::NONE, _) => Outcome::Unproven,
        (err, _) => {
            let retry = match disposition(err) {
                Disposition::TooLarge => Disposition::TooLarge,
                _ if dead => Disposition::NewProducer,
                other => other,
            };
            Outcome::Failed { error: ffi::describe(err), fatal: dead, retry }
        }
    }
}

/// What an error means for the record, as far as the error alone says.
fn disposition(err: i32) -> Disposition {
    match err {
        code::MSG_SIZE_TOO_LARGE | code::RECORD_LIST_TOO_LARGE => Disposition::TooLarge,
        code::TOPIC_REFUSED | code::CLUSTER_REFUSED => Disposition::NotAuthorized,
        code::FATAL => Disposition::NewProducer,
        _ => Disposition::Resend,
    }
}
