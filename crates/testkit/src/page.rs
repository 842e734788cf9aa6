//! What a daemon says over HTTP: `/status`, `/metrics`. Start it with [`LISTEN`].
//!
//! What must never happen here: an old answer taken for a new one.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::wait::{LONG, wait_for};

/// The arguments that switch the page on, on any free port.
pub const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];
/// One answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The page of one running daemon.
#[derive(Debug, Clone)]
pub struct Page {
    address: String,
}

impl Page {
    /// Waits until the daemon says where its page is.
    ///
    /// # Panics
    /// When it does not.
    pub fn of(daemon: &Daemon) -> Page {
        let line = daemon.wait_for_line("status page on http://", LONG);
        let address = line.split("http://").nth(1).unwrap_or_default().trim_end_matches('/').to_owned();
        Page { address }
    }

    /// One answer; empty when there is none.
    pub fn get(&self, path: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        ask().unwrap_or_default()
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let text = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    /// The members of `/status`.
    pub fn status(&self) -> serde_json::Value {
        let text = self.get("/status");
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }

    /// Whether one of the last errors has this in it.
    pub fn has_error(&self, part: &str) -> bool {
        let status = self.status();
        let errors = status["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().any(|error| error["message"].as_str().is_some_and(|message| message.contains(part)))
    }

    /// Waits for a metric to have at least this value.
    ///
    /// # Panics
    /// When it does not come to that.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, at_least: u64) -> u64 {
        let found = wait_for(LONG, || self.metric(name).filter(|value| *value >= at_least));
        found.unwrap_or_else(|| panic!("{name} is {:?}, not {at_least}", self.metric(name)))
    }
}
