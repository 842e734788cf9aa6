//! Notices that a client has no broker any more, or none that is up, and gives it its first addresses again.
//!
//! A broker that has just started, or was frozen for so long that its controller gave it up, may answer a question about the topic without
//! naming any broker. librdkafka 2.12 then lets go of all of them, those of `bootstrap.servers` too (its issue 5301). Beginning anew from there
//! is ordered by the thread of the last broker and called off by the thread that is still busy with the answer: when the order came first,
//! that client has no broker, and without one it asks nobody and says nothing, for ever. An order that was called off also
//! stays the last one, so a client whose brokers all move to other addresses later would hardly ever look at the first ones again.
//! Each broker is a thread of the library, and we are told when one begins, ends or is connected. What must never happen
//! here: a panic (it would unwind into C), a lock held while librdkafka is called.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;

use crate::settings::Properties;
use crate::{Result, ffi};

/// So long a client may be without any broker: librdkafka, beginning anew, is done within a moment. Doubled after each attempt…
const WITHOUT_MAX: Duration = Duration::from_secs(5);
/// …up to this, which is also how long no broker may be up.
const UNCONNECTED_MAX: Duration = Duration::from_secs(60);
/// What librdkafka calls the state of a broker that answers.
const UP: &str = "UP";
/// Threads like a broker's that are none: what carries the partitions that no broker has, and the coordinators, which have one beside their
/// broker's. All others, outside tests, are named by a broker's address, which may be cut off after 63 bytes.
const OTHERS: [&str; 3] = [":0/internal", "GroupCoordinator", "TxnCoordinator"];

/// The brokers that a client has, as far as it is told.
pub(crate) struct Brokers {
    /// `bootstrap.servers`; none where there is none.
    servers: Option<CString>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    threads: usize,
    up: usize,
    /// Since when none is up; or when the last of them was let go of, or the last attempt was, if that is later.
    since: Option<Instant>,
    /// Attempts since one was up.
    attempts: u32,
    /// The client has had the addresses since then, and no thread ended: they need no second time, which would stay in a list of the
    /// library's as long as it lives.
    has_addresses: bool,
    /// A client has called us, even if it then failed.
    installed: bool,
}

/// What a client lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Any broker.
    Broker,
    /// A broker that is up.
    Connection,
}

impl State {
    fn begun(&mut self) {
        self.threads += 1;
    }

    fn ended(&mut self, now: Instant) {
        self.has_addresses = false;
        self.threads = self.threads.saturating_sub(1);
        if self.threads == 0 {
            self.since = Some(now);
        }
    }

    fn came_up(&mut self) {
        self.up += 1;
        (self.since, self.attempts, self.has_addresses) = (None, 0, false);
    }

    fn went_down(&mut self, now: Instant) {
        self.up = self.up.saturating_sub(1);
        if self.up == 0 {
            self.since = Some(now);
        }
    }

    /// What the addresses should be given again for, now.
    fn lack(&mut self, now: Instant) -> Option<Lack> {
        if self.up > 0 || (self.threads > 0 && self.has_addresses) {
            return None;
        }
        let (lack, most) = if self.threads == 0 {
            (Lack::Broker, WITHOUT_MAX.saturating_mul(1 << self.attempts.min(8)).min(UNCONNECTED_MAX))
        } else {
            (Lack::Connection, UNCONNECTED_MAX)
        };
        // A client that has only just been made has none yet.
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) < most {
            return None;
        }
        self.since = Some(now);
        self.attempts = self.attempts.saturating_add(1);
        Some(lack)
    }
}

thread_local! {
    /// Of a thread of the library: whether it is a broker's, and that one is up.
    static IS_UP: Cell<Option<bool>> = const { Cell::new(None) };
}

impl Brokers {
    /// Of the client with these properties.
    pub(crate) fn new(properties: &Properties) -> Result<Arc<Brokers>> {
        // Two names for the same; librdkafka gets them in the order of the map, and keeps the last.
        let names = ["metadata.broker.list", "bootstrap.servers"];
        let servers = names.iter().find_map(|name| properties.get(*name));
        let servers = servers.map(|servers| ffi::c_string("bootstrap.servers", servers)).transpose()?;
        Ok(Arc::new(Brokers { servers, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a client has begun to tell of its threads, even if it then failed.
    pub(crate) fn was_installed(&self) -> bool {
        self.state().installed
    }

    /// To be called about once a second: gives the client its first addresses again when it has had no broker for some seconds, or none
    /// that is up for a minute. Says what it lacked, and how many of the addresses it has now.
    ///
    /// # Safety
    /// `rk` is the live client of these brokers.
    pub(crate) unsafe fn keep(&self, rk: *mut sys::rd_kafka_t) -> Option<(Lack, c_int)> {
        let lack = self.state().lack(Instant::now())?;
        let servers = self.servers.as_ref()?;
        // SAFETY: the client is live by contract, the list NUL-terminated and copied. Takes the client's own lock for a moment, asks no
        // name server, and starts threads that call back: our lock is free.
        let count = unsafe { sys::rd_kafka_brokers_add(rk, servers.as_ptr()) };
        let mut state = self.state();
        // One that came up meanwhile may end the outage that they were given for.
        state.has_addresses = count > 0 && state.up == 0;
        Some((lack, count))
    }
}

/// Makes the client of `conf` tell of its brokers.
///
/// # Safety
/// `conf` is live, and `brokers` stays where it is until the client that is made of it is destroyed.
pub(crate) unsafe fn install(conf: *mut sys::rd_kafka_conf_t, brokers: &Brokers) {
    // SAFETY: live by contract, NUL-terminated name that is copied; the opaque is only ever read as the brokers that it is.
    unsafe {
        let opaque = ptr::from_ref(brokers).cast_mut().cast();
        sys::rd_kafka_conf_interceptor_add_on_new(conf, NAME.as_ptr(), Some(on_new), opaque);
    }
}

const NAME: &CStr = c"brokers";

unsafe extern "C" fn on_new(
    rk: *mut sys::rd_kafka_t,
    _conf: *const sys::rd_kafka_conf_t,
    brokers: *mut c_void,
    _error: *mut c_char,
    _error_size: usize,
) -> sys::rd_kafka_resp_err_t {
    // SAFETY: the client is live for the call and has no threads yet, the name is NUL-terminated and copied; the callbacks never unwind,
    // and the brokers outlive the client by the contract of `install`.
    unsafe {
        (*brokers.cast::<Brokers>()).state().installed = true;
        sys::rd_kafka_interceptor_add_on_thread_start(rk, NAME.as_ptr(), Some(on_thread_start), brokers);
        sys::rd_kafka_interceptor_add_on_thread_exit(rk, NAME.as_ptr(), Some(on_thread_exit), brokers);
        sys::rd_kafka_interceptor_add_on_broker_state_change(rk, NAME.as_ptr(), Some(on_state), brokers);
    }
    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

unsafe extern "C" fn on_thread_start(
    _rk: *mut sys::rd_kafka_t,
    kind: sys::rd_kafka_thread_type_t,
    name: *const c_char,
    brokers: *mut c_void,
) -> sys::rd_kafka_resp_err_t {
    // SAFETY: the name is NUL-terminated and lives for the call; the brokers are set by `install`, whose contract keeps them alive.
    unsafe {
        if is_broker(kind, &ffi::text(name)) {
            IS_UP.set(Some(false));
            (*brokers.cast::<Brokers>()).state().begun();
        }
    }
    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

unsafe extern "C" fn on_thread_exit(
    _rk: *mut sys::rd_kafka_t,
    kind: sys::rd_kafka_thread_type_t,
    name: *const c_char,
    brokers: *mut c_void,
) -> sys::rd_kafka_resp_err_t {
    // SAFETY: as for the start; it is the name that the thread began with.
    unsafe {
        if is_broker(kind, &ffi::text(name)) {
            let mut state = (*brokers.cast::<Brokers>()).state();
            if IS_UP.take() == Some(true) {
                state.went_down(Instant::now());
            }
            state.ended(Instant::now());
        }
    }
    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

unsafe extern "C" fn on_state(
    _rk: *mut sys::rd_kafka_t,
    _id: i32,
    _protocol: *const c_char,
    _name: *const c_char,
    _port: c_int,
    state: *const c_char,
    brokers: *mut c_void,
) -> sys::rd_kafka_resp_err_t {
    // A broker's thread speaks of itself; who makes one speaks of a state that is no news.
    if let Some(was_up) = IS_UP.get() {
        // SAFETY: the text is NUL-terminated and lives for the call; the brokers are set by `install`, whose contract keeps them alive.
        let (is_up, brokers) = unsafe { (ffi::text(state) == UP, &*brokers.cast::<Brokers>()) };
        IS_UP.set(Some(is_up));
        match (was_up, is_up) {
            (false, true) => brokers.state().came_up(),
            (true, false) => brokers.state().went_down(Instant::now()),
            _ => {}
        }
    }
    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// Whether a thread of this name is a broker's.
fn is_broker(kind: sys::rd_kafka_thread_type_t, name: &str) -> bool {
    kind == sys::rd_kafka_thread_type_t::RD_KAFKA_THREAD_BROKER && !OTHERS.contains(&name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::client::{Client, Context, Kind};

    /// Threads, and those that are up.
    fn seen(brokers: &Brokers) -> (usize, usize) {
        let state = brokers.state();
        (state.threads, state.up)
    }

    fn client(kind: Kind, properties: &[(&str, &str)]) -> Client {
        let properties = [("group.id", "g")].iter().chain(properties);
        let properties = properties.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Client::new(kind, &properties, Context::new("test")).unwrap()
    }

    fn poll_until(client: &Client, what: impl Fn(&Client) -> bool) {
        let deadline = Instant::now() + seconds(60);
        while !what(client) {
            assert!(Instant::now() < deadline, "{:?}", client.brokers.state());
            client.poll(10);
        }
    }

    /// Nobody listens there.
    const NOWHERE: &str = "127.0.0.1:1";

    #[test]
    fn the_librarys_other_threads_are_not_counted() {
        for kind in [Kind::Producer, Kind::Consumer] {
            let client = client(kind, &[("bootstrap.servers", NOWHERE)]);
            // The broker's thread is made after the others, and has tried to connect.
            poll_until(&client, |client| client.complaints().current().is_some());
            assert_eq!(seen(&client.brokers), (1, 0), "{kind:?}");
        }
    }

    #[test]
    fn a_connected_broker_is_up_and_an_ended_one_is_not() {
        for kind in [Kind::Producer, Kind::Consumer] {
            let client = client(kind, &[("test.mock.num.brokers", "3")]);
            poll_until(&client, |client| seen(&client.brokers).1 > 0);
            let brokers = Arc::clone(&client.brokers);
            drop(client);
            assert_eq!(seen(&brokers), (0, 0), "{kind:?}");
        }
    }

    #[test]
    fn a_client_without_any_broker_gets_the_addresses_and_a_thread_for_them() {
        let client = client(Kind::Consumer, &[]);
        let properties = [("bootstrap.servers".to_owned(), NOWHERE.to_owned())].into();
        let addresses = Brokers::new(&properties).unwrap();
        // SAFETY: the client is live; these brokers are another's, and what they know of threads is their own.
        let keep = || unsafe { addresses.keep(client.as_ptr()) };
        assert_eq!(keep(), None, "not at once");
        addresses.state().since = Instant::now().checked_sub(WITHOUT_MAX);
        assert_eq!(keep(), Some((Lack::Broker, 1)));
        poll_until(&client, |client| seen(&client.brokers).0 == 1);
        poll_until(&client, |client| client.complaints().current().is_some());
    }

    #[test]
    fn a_broker_is_told_from_the_librarys_other_threads() {
        use sys::rd_kafka_thread_type_t::{RD_KAFKA_THREAD_BROKER as BROKER, RD_KAFKA_THREAD_MAIN as MAIN};
        let long = "h".repeat(63);
        for name in
            ["127.0.0.1:9092/bootstrap", "sasl_ssl://kafka.example.org:9093/2", "[::1]:9092/17", &long]
        {
            assert!(is_broker(BROKER, name), "{name}");
        }
        for name in OTHERS {
            assert!(!is_broker(BROKER, name), "{name}");
        }
        assert!(!is_broker(MAIN, "main/1"));
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_client_without_any_broker_is_helped_after_some_seconds_and_again_less_and_less_often() {
        let (mut state, start) = (State::default(), Instant::now());
        let at = |count| start + seconds(count);
        assert_eq!(state.lack(at(0)), None, "it has none yet");
        for _ in 0..2 {
            state.begun();
            state.came_up();
        }
        state.went_down(at(50));
        state.ended(at(50));
        assert_eq!(state.lack(at(100)), None, "one is left");
        state.went_down(at(100));
        state.ended(at(101));
        assert_eq!(state.lack(at(105)), None);
        let helped: Vec<u64> =
            (106..400).filter(|count| state.lack(at(*count)) == Some(Lack::Broker)).collect();
        assert_eq!(helped, [106, 116, 136, 176, 236, 296, 356]);
        state.begun();
        state.came_up();
        assert_eq!(state.lack(at(1_000)), None);
        state.went_down(at(1_000));
        state.ended(at(1_000));
        assert_eq!((state.lack(at(1_004)), state.lack(at(1_005))), (None, Some(Lack::Broker)), "as at first");
        state.ended(at(1_006));
        state.went_down(at(1_006));
        assert_eq!(
            (state.threads, state.up),
            (0, 0),
            "more ends than beginnings would be a fault, and no panic"
        );
    }

    #[test]
    fn a_client_whose_brokers_are_all_away_is_helped_after_a_minute() {
        let (mut state, start) = (State::default(), Instant::now());
        let at = |count| start + seconds(count);
        state.begun();
        state.came_up();
        state.went_down(at(10));
        let helped = |state: &mut State, (from, to)| -> Vec<u64> {
            (from..to).filter(|count| state.lack(at(*count)) == Some(Lack::Connection)).collect()
        };
        assert_eq!(helped(&mut state, (10, 200)), [70, 130, 190], "it takes none of the addresses");
        state.has_addresses = true;
        assert_eq!(helped(&mut state, (200, 500)), [0; 0], "it has them");
        state.begun();
        state.ended(at(500));
        assert_eq!(helped(&mut state, (500, 600)), [500, 560], "one was let go of");
        state.ended(at(200));
        assert_eq!(state.lack(at(201)), None, "the last one was let go of only now");
    }

    #[test]
    fn a_client_that_never_gets_a_broker_is_helped_too() {
        let (mut state, start) = (State::default(), Instant::now());
        assert_eq!(state.lack(start), None);
        assert_eq!(state.lack(start + WITHOUT_MAX), Some(Lack::Broker));
    }

    #[test]
    fn the_addresses_are_those_that_the_library_takes() {
        let servers = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Brokers::new(&pairs.collect()).map(|brokers| brokers.servers.clone())
        };
        let (ours, alias) = (("bootstrap.servers", "a:1"), ("metadata.broker.list", "b:2"));
        assert_eq!(servers(&[ours]), Ok(Some(c"a:1".to_owned())));
        assert_eq!(servers(&[ours, alias]), Ok(Some(c"b:2".to_owned())));
        assert_eq!(servers(&[]), Ok(None));
    }
}
