//! Keeps a consumer below a service's number of fetches per second.
//!
//! librdkafka has no such property: an answer that is there at once is followed by the next request at once. It has one
//! fetch on its way per broker, and calls us on that broker's thread when the answer has come; waiting there puts the
//! next request off. What must never happen here: a wait longer than the interval, a panic (it would unwind into C), a call
//! into librdkafka.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as sys;

use crate::ffi::{self, code};

/// The protocol's number of Fetch.
const FETCH: i16 = 1;
/// Whatever is asked for, a broker's thread is never held longer.
const INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Makes the client of `conf` send a broker its fetches at least `interval` apart. Zero: no pace.
///
/// # Safety
/// `conf` is live.
pub(crate) unsafe fn install(conf: *mut sys::rd_kafka_conf_t, interval: Duration) {
    let interval = usize::try_from(interval.min(INTERVAL_MAX).as_micros()).unwrap_or(0);
    if interval == 0 {
        return;
    }
    // SAFETY: live by contract, NUL-terminated name that is copied; the opaque is a number, never dereferenced.
    unsafe {
        sys::rd_kafka_conf_interceptor_add_on_new(
            conf,
            c"pace".as_ptr(),
            Some(on_new),
            ptr::without_provenance_mut(interval),
        );
    }
}

unsafe extern "C" fn on_new(
    rk: *mut sys::rd_kafka_t,
    _conf: *const sys::rd_kafka_conf_t,
    interval: *mut c_void,
    _error: *mut c_char,
    _error_size: usize,
) -> sys::rd_kafka_resp_err_t {
    // SAFETY: the client is live for the call, the name NUL-terminated and copied, the opaque a number; the callback never
    // unwinds.
    unsafe { ffi::rd_kafka_interceptor_add_on_response_received(rk, c"pace".as_ptr(), on_answer, interval) };
    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

unsafe extern "C" fn on_answer(
    _rk: *mut sys::rd_kafka_t,
    _socket: c_int,
    _broker: *const c_char,
    _broker_id: i32,
    api_key: i16,
    _version: i16,
    _correlation: i32,
    _size: usize,
    round_trip_us: i64,
    _err: i32,
    interval: *mut c_void,
) -> i32 {
    if api_key == FETCH {
        std::thread::sleep(pause(interval.addr(), round_trip_us));
    }
    code::NONE
}

/// How long the next request has to wait; without an answer the client waits by itself.
fn pause(interval_us: usize, round_trip_us: i64) -> Duration {
    let Ok(passed) = u64::try_from(round_trip_us) else { return Duration::ZERO };
    Duration::from_micros((interval_us as u64).saturating_sub(passed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_an_interval_apart_and_slow_ones_wait_no_longer() {
        assert_eq!(pause(220_000, 20_000), Duration::from_millis(200));
        assert_eq!(pause(220_000, 220_000), Duration::ZERO);
        assert_eq!(pause(220_000, i64::MAX), Duration::ZERO);
        assert_eq!(pause(220_000, -1), Duration::ZERO);
    }
}
