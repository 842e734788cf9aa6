//! Notices that librdkafka has let go of every broker, and gives it their addresses again.
//!
//! A broker that has just started, or is cut off from its controller, may answer a question about the topic without naming any
//! broker. librdkafka 2.12 then lets go of all of them, those of `bootstrap.servers` too (its issue 5301). Beginning anew from there is
//! ordered by the thread of the last broker and called off by the thread that is still busy with the answer: when the order came
//! first, that client has no broker any more, and without one it asks nobody and says nothing, for ever. Each broker is a thread of the
//! library, and a client is told of their beginning and end; so no thread for some seconds is what is looked for here. What must never happen
//! here: a panic (it would unwind into C), a lock held while librdkafka is called.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;

use crate::settings::Properties;
use crate::{Result, ffi};

/// So long a client may be without any broker: librdkafka, beginning anew, is done within a moment. Also the time between two attempts,
/// as each stays in a list of the library's.
const WITHOUT_MAX: Duration = Duration::from_secs(5);
/// Threads like a broker's that are none: what carries the partitions that no broker has, and the coordinators, which have one beside their
/// broker's. All others are named by a broker's address, which may be cut off after 63 bytes.
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
    /// Since when there is none, or since the last attempt.
    without_since: Option<Instant>,
    /// A client has called us, even if it then failed.
    installed: bool,
}

impl State {
    fn begun(&mut self) {
        self.threads += 1;
        self.without_since = None;
    }

    fn ended(&mut self, now: Instant) {
        self.threads = self.threads.saturating_sub(1);
        if self.threads == 0 {
            self.without_since = Some(now);
        }
    }

    /// Whether it is time to give the addresses again.
    fn is_lost(&mut self, now: Instant) -> bool {
        if self.threads > 0 {
            return false;
        }
        // A client that has only just been made has none yet.
        let since = *self.without_since.get_or_insert(now);
        let lost = now.duration_since(since) >= WITHOUT_MAX;
        if lost {
            self.without_since = Some(now);
        }
        lost
    }
}

impl Brokers {
    /// Of the client with these properties.
    pub(crate) fn new(properties: &Properties) -> Result<Arc<Brokers>> {
        // librdkafka takes both names.
        let names = ["bootstrap.servers", "metadata.broker.list"];
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

    /// To be called about once a second: gives the client its first addresses again when it has had no broker for some seconds. True when
    /// it did.
    ///
    /// # Safety
    /// `rk` is the live client of these brokers.
    pub(crate) unsafe fn keep(&self, rk: *mut sys::rd_kafka_t) -> bool {
        let lost = self.state().is_lost(Instant::now());
        let Some(servers) = self.servers.as_ref().filter(|_| lost) else { return false };
        // SAFETY: the client is live by contract, the list NUL-terminated and copied. Those it still has are not added twice; waits for
        // nobody, and starts threads that call back, so our lock is free.
        unsafe { sys::rd_kafka_brokers_add(rk, servers.as_ptr()) };
        true
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
            (*brokers.cast::<Brokers>()).state().ended(Instant::now());
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
    use super::*;

    #[test]
    fn a_broker_is_told_from_the_librarys_other_threads() {
        use sys::rd_kafka_thread_type_t::{RD_KAFKA_THREAD_BROKER as BROKER, RD_KAFKA_THREAD_MAIN as MAIN};
        let long = "h".repeat(63);
        for name in ["127.0.0.1:9092/bootstrap", "sasl_ssl://kafka.example.org:9093/2", "[::1]:9092/17", &long] {
            assert!(is_broker(BROKER, name), "{name}");
        }
        for name in OTHERS {
            assert!(!is_broker(BROKER, name), "{name}");
        }
        assert!(!is_broker(MAIN, "main/1"));
    }

    #[test]
    fn a_client_is_lost_after_some_seconds_without_any_broker_and_again_after_as_many() {
        let (mut state, start) = (State::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let most = WITHOUT_MAX.as_secs();
        assert!(!state.is_lost(at(0)), "it has none yet");
        state.begun();
        state.begun();
        state.ended(at(50));
        assert!(!state.is_lost(at(100)), "one is left");
        state.ended(at(100));
        assert!(!state.is_lost(at(100 + most - 1)));
        assert!(state.is_lost(at(100 + most)));
        assert!(!state.is_lost(at(100 + 2 * most - 1)), "the attempt takes its time");
        assert!(state.is_lost(at(100 + 2 * most)));
        state.begun();
        assert!(!state.is_lost(at(500)));
        state.ended(at(500));
        assert!(!state.is_lost(at(500)), "what was before is forgotten");
        state.ended(at(500));
        assert_eq!(
            state.threads, 0,
            "more ends than beginnings would be a fault of the library's, and no panic"
        );
    }

    #[test]
    fn a_client_that_never_gets_a_broker_is_lost_too() {
        let (mut state, start) = (State::default(), Instant::now());
        assert!(!state.is_lost(start));
        assert!(state.is_lost(start + WITHOUT_MAX));
    }
}
