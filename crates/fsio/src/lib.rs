//! Durable file operations and path safety: locks, directories held open, partial files, barriers, publication.
//!
//! What must never happen here: following a symbolic link out of a folder that was given, replacing a file that nobody
//! asked to replace, or believing an fsync after one has failed.

mod dir;
mod flush;
mod lease;
pub mod lock;
mod partial;
pub mod probe;
mod publish;
mod space;

pub use dir::{Dir, Entry, mkdir_all_durable};
pub use flush::Flush;
pub use lease::{Writers, writers};
pub use partial::{FileAttributes, Partial, PartialStore};
pub use publish::{Collision, Published, Touched, publish};
pub use space::{Space, raise_open_file_limit};
