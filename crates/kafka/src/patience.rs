//! Timed waits of the client library by the clock that only runs forward.
//!
//! librdkafka reads the wall clock to say when a wait ends and waits by that clock: set back by an hour, it lets a wait of 100 ms
//! last an hour, and with it the library's timers and every poll that nothing else wakes. Here the time that is left is measured
//! at once and waited for by the monotonic clock. What must never happen here: a wait that ends later than asked for because the
//! date changed.

use std::ffi::{c_int, c_long, c_void};

/// As in `time.h` of Linux.
const CLOCK_REALTIME: c_int = 0;
/// See [`CLOCK_REALTIME`].
const CLOCK_MONOTONIC: c_int = 1;
const NANOS: i128 = 1_000_000_000;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Timespec {
    seconds: i64,
    nanos: c_long,
}

impl Timespec {
    /// In nanoseconds.
    fn count(self) -> i128 {
        i128::from(self.seconds) * NANOS + i128::from(self.nanos)
    }
}

unsafe extern "C" {
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
    fn pthread_cond_clockwait(
        condition: *mut c_void,
        mutex: *mut c_void,
        clock: c_int,
        until: *const Timespec,
    ) -> c_int;
}

/// Results of the C library's thread functions (`threads.h`): done, failed, too late.
const THRD_SUCCESS: c_int = 0;
/// See [`THRD_SUCCESS`].
const THRD_ERROR: c_int = 2;
/// See [`THRD_SUCCESS`].
const THRD_TIMEDOUT: c_int = 4;
/// What the functions of `pthread.h` say when it is too late.
const ETIMEDOUT: c_int = 110;

/// Takes the place of the C library's function in this program: the same, but not at the mercy of the date.
///
/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
unsafe extern "C" fn cnd_timedwait(
    condition: *mut c_void,
    mutex: *mut c_void,
    until: *const Timespec,
) -> c_int {
    // SAFETY: the caller passes a valid time, see above.
    let until = unsafe { *until };
    let (date, forward) = (now(CLOCK_REALTIME), now(CLOCK_MONOTONIC));
    let end = (until.count() - date.count() + forward.count()).max(0);
    let end =
        Timespec { seconds: (end / NANOS).try_into().unwrap_or(i64::MAX), nanos: (end % NANOS) as c_long };
    // SAFETY: the caller passes both, initialised, and the mutex locked; in glibc `cnd_t` and `mtx_t` are condition variables and
    // mutexes of `pthread.h` under another name, and its own cnd_timedwait does the same. `end` outlives the call. Which clock
    // measures is an argument here, whatever the condition variable was made with.
    match unsafe { pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &end) } {
        0 => THRD_SUCCESS,
        ETIMEDOUT => THRD_TIMEDOUT,
        _ => THRD_ERROR,
    }
}

fn now(clock: c_int) -> Timespec {
    let mut time = Timespec::default();
    // SAFETY: `time` is valid for writing, and both clocks exist on every Linux.
    unsafe { clock_gettime(clock, &mut time) };
    time
}

/// Keeps the function above in the program: nobody else in it names it.
pub fn install() {
    std::hint::black_box(cnd_timedwait as *const () as usize);
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn mtx_lock(mutex: *mut c_void) -> c_int;
        fn mtx_unlock(mutex: *mut c_void) -> c_int;
    }

    #[test]
    fn a_wait_ends_when_its_time_is_over_and_not_later() {
        // All zeros is the initial state of both in glibc; they are smaller than this.
        let (mut condition, mut mutex) = ([0_u64; 16], [0_u64; 16]);
        let (condition, mutex) =
            (condition.as_mut_ptr().cast::<c_void>(), mutex.as_mut_ptr().cast::<c_void>());
        let date = now(CLOCK_REALTIME);
        for until in [
            Timespec { seconds: date.seconds - 3600, ..date },
            Timespec { seconds: -5, nanos: 0 },
            Timespec { seconds: date.seconds + 1, ..date },
        ] {
            // SAFETY: both are initialised, stay where they are, and only this thread knows them.
            let result = unsafe {
                let _locked = mtx_lock(mutex);
                cnd_timedwait(condition, mutex, &until)
            };
            assert_eq!(result, THRD_TIMEDOUT);
            // SAFETY: as above; locked by this thread.
            unsafe { mtx_unlock(mutex) };
        }
    }
}
