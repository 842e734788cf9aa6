//! End to end: both daemons as processes, a real Kafka, real folders. Each test has its own topic and folders.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod arrivals;
mod bombs;
mod configuration;
mod delivery;
mod disk;
mod doctor;
mod faults;
mod host;
mod licence;
mod losses;
mod manual;
mod network;
mod oci;
mod output;
mod pace;
mod partitions;
mod rig;
mod sizes;
mod spool;
mod strangers;
mod unreadable;
