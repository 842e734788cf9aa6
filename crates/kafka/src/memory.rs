//! The memory that librdkafka takes from the C library: kept from one answer to the next, counted before another answer is asked
//! for, and given back when nothing comes.
//!
//! An answer of a broker is one piece of up to `fetch.max.bytes`, and lives until the last of its records was given back. By
//! default glibc returns such a piece to the kernel at once, which clears every page before it gives it out again (a tenth of a
//! downloader's processor time), and spreads pieces over an arena for each thread, where they fit badly. What must never happen
//! here: memory of another allocator counted as librdkafka's, or anything but numbers asked of the heap; who waits for it is
//! [`crate::pace`].

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(target_env = "gnu")]
mod heap {
    use std::ffi::c_int;

    /// `M_TRIM_THRESHOLD` of `malloc.h`: that much has to be free at the heap's end before it is returned to the kernel.
    const TRIM_THRESHOLD: c_int = -1;
    /// `M_MMAP_THRESHOLD`: larger pieces are mappings of their own, cleared by the kernel each time.
    const MMAP_THRESHOLD: c_int = -3;
    /// `M_ARENA_MAX`: one heap, so that a piece freed by a reader serves the next answer, whichever thread asks for it.
    const ARENA_MAX: c_int = -8;
    /// Above what the bounds of this crate's users let a heap grow to; [`trim`] is what returns it.
    const KEPT_MAX: c_int = 1 << 30;
    /// The largest that glibc takes for pieces within a heap (`HEAP_MAX_SIZE / 2`).
    const IN_HEAP_MAX: c_int = 32 << 20;

    /// `struct mallinfo2` of `malloc.h`, of glibc 2.33 and later (Debian 12 has 2.36).
    #[repr(C)]
    struct Information {
        _arena: usize,
        _ordblks: usize,
        _smblks: usize,
        _hblks: usize,
        /// Bytes in mappings of their own.
        hblkhd: usize,
        _usmblks: usize,
        _fsmblks: usize,
        /// Bytes in use within heaps.
        uordblks: usize,
        _fordblks: usize,
        _keepcost: usize,
    }

    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
        fn mallinfo2() -> Information;
        fn malloc_trim(keep: usize) -> c_int;
    }

    pub(super) fn keep() {
        for (parameter, value) in [(ARENA_MAX, 1), (MMAP_THRESHOLD, IN_HEAP_MAX), (TRIM_THRESHOLD, KEPT_MAX)]
        {
            // SAFETY: takes two numbers and the allocator's own lock; a value that it refuses changes nothing.
            unsafe { mallopt(parameter, value) };
        }
    }

    pub(super) fn in_use() -> usize {
        // SAFETY: takes the allocator's own lock and returns numbers.
        let information = unsafe { mallinfo2() };
        information.uordblks.saturating_add(information.hblkhd)
    }

    pub(super) fn trim() {
        // SAFETY: takes the allocator's own lock and touches only what is free.
        unsafe { malloc_trim(0) };
    }
}

/// Other C libraries do not tell: nothing is held, for all that is known, and nothing is kept.
#[cfg(not(target_env = "gnu"))]
mod heap {
    pub(super) fn keep() {}
    pub(super) fn in_use() -> usize {
        0
    }
    pub(super) fn trim() {}
}

/// Bytes in use that no reader will give back soon: what is there besides answers, and what is pinned by readers that stand still.
static BESIDE: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Memory that the client library frees stays with the process from now on, in one heap; every consumer asks for it. Best before there
/// is a second thread, which may have got a heap of its own.
pub fn keep_freed_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(heap::keep);
}

/// Bytes of answers whose records are not all given back, about, when one of `arrived` bytes has just come. Counts everything in the C
/// library's heap beyond the least that was ever there without such an answer, so it holds only in a program whose own memory
/// comes from elsewhere.
pub(crate) fn held(arrived: usize) -> usize {
    let in_use = heap::in_use();
    let rest = in_use.saturating_sub(arrived);
    in_use - BESIDE.fetch_min(rest, Ordering::Relaxed).min(rest)
}

/// What is in use besides the answer that has just come is not given back soon: it does not count until it has become less.
pub(crate) fn set_rest_aside(arrived: usize) {
    BESIDE.store(heap::in_use().saturating_sub(arrived), Ordering::Relaxed);
}

/// Gives the kernel back what librdkafka does not use; some milliseconds at most. For a consumer to which nothing has come for a
/// while: its next answers cost fresh pages.
pub fn give_back_memory() {
    heap::trim();
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// Far more than what other tests of this process take and give back meanwhile.
    const LARGE: usize = 256 << 20;

    #[test]
    fn what_is_taken_is_held_until_it_is_given_back() {
        keep_freed_memory();
        held(0);
        // Tests allocate with the C library, as librdkafka does.
        let taken = vec![0_u8; LARGE];
        let with = held(0);
        assert!(with >= LARGE / 2, "{with} bytes");
        drop(taken);
        let without = held(0);
        assert!(without < LARGE / 2, "{without} bytes");
        let pieces: Vec<Vec<u8>> = (0..64).map(|_| vec![0_u8; LARGE / 64]).collect();
        let with = held(0);
        assert!(with >= LARGE / 2, "{with} bytes");
        set_rest_aside(LARGE / 4);
        let arrived = held(LARGE / 4);
        assert!((LARGE / 8..LARGE / 2).contains(&arrived), "{arrived} bytes");
        drop(pieces);
        // What was set aside is gone, and counts again when it comes back.
        held(0);
        let again = vec![0_u8; LARGE];
        let with = held(0);
        assert!(with >= LARGE / 2, "{with} bytes");
        drop(again);
        give_back_memory();
    }
}
