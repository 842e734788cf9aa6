//! What tests and the demo need around the daemons: a real Kafka broker, the daemons as child processes, folders full of
//! recomputable files, digests of whole trees, a watcher of the output folder, and the topic read back.
//!
//! For development only; no daemon depends on it. What must never happen here: a process or folder outlives the test run (children
//! die with the thread that keeps them, folders of dead runs are swept), a test waits by sleeping a fixed time (everything polls
//! for a condition, [`wait_until`]), or a failure hides what the daemon said (the tail of its log is printed on panic).

mod broker;
mod daemon;
pub mod faults;
pub mod forge;
pub mod host;
pub mod loopback;
pub mod netns;
pub mod pace;
pub mod page;
mod process;
pub mod proxy;
pub mod raw;
pub mod rig;
mod scratch;
pub mod secure;
pub mod source;
pub mod status;
pub mod topic;
pub mod tree;
pub mod volume;
mod wait;
mod watcher;

pub use broker::{Broker, BrokerBuilder, Cluster, kafka_version, shared_broker, unique_topic};
pub use daemon::Daemon;
pub use host::Host;
pub use page::Page;
pub use proxy::{Link, Proxy, Weather};
pub use rig::Rig;
pub use scratch::{Scratch, scratch};
pub use secure::Certificates;
pub use source::Source;
pub use wait::{LONG, wait_for, wait_until};
pub use watcher::{Sighting, Watcher, assert_all_whole};
