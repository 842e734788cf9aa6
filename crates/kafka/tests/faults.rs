//! The client against librdkafka's mock cluster: faults a real broker cannot be asked for, and the plain round trip.
//!
//! The mock keeps at most 5 MiB per partition and checks no sequence numbers; what depends on a broker's own behaviour
//! is tested elsewhere against a real one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod faults {
    pub mod admin;
    pub mod common;
    pub mod consumer;
    pub mod producer;
}
