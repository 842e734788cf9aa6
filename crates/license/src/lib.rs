//! Licence keys: what `license.key` says, and whether a vendor signed it.
//!
//! A key is one line, `streamsend-license-v1.<payload>.<signature>`: payload (JSON) and signature (Ed25519) in base64url without
//! padding; signed is everything before the last dot. This crate is pure but for [`check_file`], which reads one bounded file, and
//! [`VendorSecret::generate`], which asks the system for randomness; time is an argument.
//!
//! What must never happen here: a key is believed before its signature was verified strictly (no small-order points, no second
//! encoding of one signature), input of any kind panics, or a vendor secret is shown by `Debug`.

mod check;
mod keys;
mod payload;

pub use check::{Invalid, KEY_TEXT_BYTES_MAX, License, check, check_file, parse_unverified};
pub use keys::{KeyError, VendorKey, VendorSecret, keygen, pinned_vendor_key};
pub use payload::{IssueError, Terms, issue};

/// The feature that switches multi-partition operation on.
pub const MULTI_PARTITION: &str = "multi-partition";

/// What every key of this format begins with.
pub(crate) const PREFIX: &str = "streamsend-license-v1";
