//! How much memory a piece of work asked for.
//!
//! What must never happen here: an allocation that is not counted; so this crate counts for every program it is in.

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Does the work and says that all allocations in it together stay within `bytes_max`, freed again or not.
///
/// # Panics
/// When they do not.
pub fn bounded<T>(what: &str, bytes_max: usize, work: impl FnOnce() -> T) -> T {
    let region = Region::new(GLOBAL);
    let result = work();
    let bytes = region.change().bytes_allocated;
    assert!(bytes <= bytes_max, "{what}: {bytes} bytes were allocated, {bytes_max} are allowed");
    result
}
