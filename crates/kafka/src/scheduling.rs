//! What the kernel is told of the threads of the uploader: that they work in a row, librdkafka's among them (decision 20).
//!
//! A chunk passes from thread to thread: who is done with it wakes the next. By default the one that is woken may take the processor from one that is in the
//! middle of its own chunk, which then comes back to a cold cache. As a batch (`SCHED_BATCH`) it waits until that one sleeps or has had its turn, a few
//! milliseconds at most, and runs at once where a processor is free. What must never happen here: a policy other than the default one
//! overruled, or a process that does not run because the kernel refuses.

use libc::{SCHED_BATCH, SCHED_OTHER, c_int, sched_getscheduler, sched_param, sched_setscheduler};

/// The policy of the calling thread.
fn policy() -> c_int {
    // SAFETY: takes a number, 0 for the caller, and returns one.
    unsafe { sched_getscheduler(0) }
}

/// Makes the calling thread, and all that it starts from now on, a batch, unless it has another policy than the default one: to be called
/// before there are other threads. Needs no privilege; where it is refused all the same (a filter of system calls), everything works as before.
pub fn schedule_as_batch() {
    if policy() != SCHED_OTHER {
        return;
    }
    // SAFETY: the parameters live for the call, which only reads them; 0 is the one priority of this policy.
    let _refused = unsafe { sched_setscheduler(0, SCHED_BATCH, &sched_param { sched_priority: 0 }) };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use libc::SCHED_IDLE;

    /// On a thread of its own: the others of this process stay as they are.
    fn apart(work: impl FnOnce() -> (c_int, c_int) + Send + 'static) -> (c_int, c_int) {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn a_batch_hands_it_on_to_its_threads() {
        let policies = apart(|| {
            schedule_as_batch();
            schedule_as_batch();
            (policy(), std::thread::spawn(policy).join().unwrap())
        });
        assert_eq!(policies, (SCHED_BATCH, SCHED_BATCH));
    }

    #[test]
    fn a_policy_that_somebody_chose_stays() {
        let policies = apart(|| {
            // SAFETY: as in `schedule_as_batch`.
            let done = unsafe { sched_setscheduler(0, SCHED_IDLE, &sched_param { sched_priority: 0 }) };
            schedule_as_batch();
            (done, policy())
        });
        assert_eq!(policies, (0, SCHED_IDLE));
    }
}
