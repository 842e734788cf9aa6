//! The package on a host: a container that boots systemd, the `.deb` alone, a real broker outside of it.
//!
//! What must never happen here: a file put into the host's `/usr` or a unit changed by hand, where the package should have brought it.

mod install;
mod instances;
mod lifecycle;
mod rig;
