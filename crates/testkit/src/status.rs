//! What a daemon shows on its status page, which `--listen 127.0.0.1:0` turns on.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use crate::daemon::Daemon;
use crate::wait::LONG;

/// Argument that turns the status page on at a free port.
pub const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// A page such as `/metrics`, its head included.
///
/// # Panics
/// When the daemon does not say where its status page is.
pub fn page(daemon: &Daemon, path: &str) -> io::Result<String> {
    let line = daemon.wait_for_line("status page on http://", LONG);
    let address = line.split("http://").nth(1).unwrap_or_default().trim_end_matches('/');
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A figure of `/metrics` by its full name and labels; `None` when it is not there or the daemon does not answer.
pub fn metric(daemon: &Daemon, name: &str) -> Option<f64> {
    let text = page(daemon, "/metrics").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}
