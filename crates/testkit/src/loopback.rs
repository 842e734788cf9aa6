//! Addresses of the loopback network that belong to this process alone: 127.64.0.0/10, chosen by the process id.
//!
//! A port on them can be closed and opened again, or be known before anybody listens. What must never happen here: two live test
//! processes with one address, or a port that an outgoing connection may have taken (those come from 127.0.0.1).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

/// First port given out; services of the machine itself rarely listen on every address above it.
const FIRST_PORT: u16 = 20_000;

/// An address that nobody else uses, and nobody listens on yet. 12,000 for each process.
///
/// # Panics
/// When they are used up.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!((FIRST_PORT..32_000).contains(&port), "a process has 12,000 addresses");
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low)), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn addresses_are_ours_and_differ() {
        let (one, two) = (own_address(), own_address());
        assert_ne!(one, two);
        let _listener = TcpListener::bind(one).expect("nobody else listens there");
        assert!(TcpStream::connect(one).is_ok());
        assert!(TcpStream::connect(two).is_err(), "nobody listens there");
    }
}
