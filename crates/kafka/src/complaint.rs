//! What librdkafka says: its log lines into `tracing` without floods, its last connection fault for the status.
//!
//! What must never happen here: the same fault logged more than once per 30 s, a growing table of faults, a line
//! with configuration values in it, a panic (these functions run inside callbacks from C).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ffi::{self, code};

/// The same fault is logged once in this time.
const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// librdkafka repeats a lasting fault every 30 to 40 s; one not repeated for this long is over.
const COMPLAINT_LIFE: Duration = Duration::from_secs(90);
/// Different faults remembered at a time.
const FAULTS_MAX: usize = 64;
/// Characters of a line that tell faults apart.
const KEY_CHARS: usize = 120;

/// The voice of one client.
pub(crate) struct Complaints {
    name: String,
    /// Whether there is anything for `healthy` to clear: it is called for every record.
    troubled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Complaint>,
    all_down: Option<Complaint>,
    fatal: Option<String>,
    /// Why the last certificate was refused.
    certificate: Option<String>,
    faults: BTreeMap<String, Fault>,
}

struct Complaint {
    err: i32,
    text: String,
    refused: bool,
    since: Instant,
}

struct Fault {
    logged: Instant,
    suppressed: u64,
}

/// What stands before the words that a certificate was refused. librdkafka says it in one of two ways, as the refusal comes with
/// the first answer or a later one.
fn before_refusal(words: &str) -> Option<&str> {
    let refused = words.contains("certificate verify failed");
    let mark =
        if refused && !words.contains("SSL handshake failed") { "error:" } else { "SSL handshake failed" };
    words.split_once(mark).map(|(who, _)| who)
}

impl Complaints {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), troubled: AtomicBool::new(false), state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A poisoned lock still holds plain data: going on is right, panicking in a C callback is not.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error event of the client.
    pub(crate) fn fault(&self, err: i32, text: &str) {
        tracing::debug!(target: "kafka", client = self.name, "{text}");
        // Reaching the end of a partition is not a fault.
        if err == code::PARTITION_EOF {
            return;
        }
        // How long the connection was in which state is for the log, not for people.
        let words = text.split_once(" (after ").map_or(text, |(words, _)| words);
        let mut state = self.state();
        let words = match (&state.certificate, before_refusal(words)) {
            (Some(why), Some(who)) => format!("{who}{why}"),
            _ => words.to_owned(),
        };
        let complaint = Complaint { err, text: words, refused: ffi::is_refusal(err), since: Instant::now() };
        match err {
            // Follows each single broker's fault, which says more.
            code::ALL_BROKERS_DOWN => state.all_down = Some(complaint),
            code::FATAL => state.fatal = Some(complaint.text),
            _ => state.last = Some(complaint),
        }
        self.troubled.store(true, Ordering::Release);
    }

    /// A broker's certificate was refused; the fault that follows does not say why.
    pub(crate) fn note_certificate(&self, why: String) {
        self.state().certificate = Some(why);
        self.troubled.store(true, Ordering::Release);
    }

    /// The broker did what was asked: earlier faults are over.
    pub(crate) fn healthy(&self) {
        if !self.troubled.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state();
        self.troubled.store(false, Ordering::Release);
        state.last = None;
        state.certificate = None;
        state.all_down = None;
    }

    /// What to tell people now.
    pub(crate) fn current(&self) -> Option<String> {
        let state = self.state();
        let fresh = |complaint: &&Complaint| complaint.since.elapsed() < COMPLAINT_LIFE;
        state
            .fatal
            .clone()
            .or_else(|| state.last.as_ref().filter(fresh).map(|complaint| complaint.text.clone()))
            .or_else(|| state.all_down.as_ref().filter(fresh).map(|complaint| complaint.text.clone()))
    }

    /// The current complaint if it is that this user has no right on the group.
    pub(crate) fn group_refusal(&self) -> Option<String> {
        let state = self.state();
        let last = state.last.as_ref()?;
        (last.err == code::GROUP_REFUSED).then(|| last.text.clone())
    }

    /// The current complaint if it is a broker saying no, rather than one that is away.
    pub(crate) fn refusal(&self) -> Option<String> {
        let state = self.state();
        let last = state.last.as_ref()?;
        (last.refused && last.since.elapsed() < COMPLAINT_LIFE).then(|| last.text.clone())
    }

    /// A log line of the client. `level` is syslog's: 0 emergency to 7 debug.
    pub(crate) fn log(&self, level: i32, facility: &str, line: &str) {
        let name = self.name.as_str();
        if level >= 7 {
            // Asked for by the user with `debug`. The dump of the configuration may show keys.
            if facility != "CONF" {
                tracing::debug!(target: "kafka", client = name, facility, "{line}");
            }
            return;
        }
        // One set of properties serves producers and consumers: those of the other kind are no news.
        if facility == "CONFWARN" {
            tracing::debug!(target: "kafka", client = name, facility, "{line}");
            return;
        }
        let Some(suppressed) = self.admit(facility, line) else { return };
        let more = if suppressed > 0 { format!(" ({suppressed} more like this)") } else { String::new() };
        // A broker that is away makes ten such lines with as many words; the daemon says it once in 30 s, from the
        // complaint.
        match level {
            ..=2 => tracing::error!(target: "kafka", client = name, facility, "{line}{more}"),
            _ => tracing::debug!(target: "kafka", client = name, facility, "{line}{more}"),
        }
    }

    /// Something that we do about it, for whoever looks for a fault.
    pub(crate) fn note(&self, line: &str) {
        tracing::debug!(target: "kafka", client = self.name, "{line}");
    }

    /// Something that we noticed ourselves, for people.
    pub(crate) fn warn(&self, line: &str) {
        let Some(suppressed) = self.admit("", line) else { return };
        let more = if suppressed > 0 { format!(" ({suppressed} more like this)") } else { String::new() };
        tracing::warn!(target: "kafka", client = self.name, "{line}{more}");
    }

    /// Whether the line may be logged, and how many like it were not since the last.
    fn admit(&self, facility: &str, line: &str) -> Option<u64> {
        // Times and counters differ in each repetition.
        let words = line.chars().filter(|c| !c.is_ascii_digit()).take(KEY_CHARS);
        let key: String = facility.chars().chain(words).collect();
        let now = Instant::now();
        let mut state = self.state();
        if let Some(fault) = state.faults.get_mut(&key) {
            if now.duration_since(fault.logged) < REPEAT_AFTER {
                fault.suppressed += 1;
                return None;
            }
            fault.logged = now;
            return Some(std::mem::take(&mut fault.suppressed));
        }
        if state.faults.len() >= FAULTS_MAX {
            state.faults.retain(|_, fault| now.duration_since(fault.logged) < REPEAT_AFTER);
        }
        if state.faults.len() >= FAULTS_MAX {
            return None;
        }
        state.faults.insert(key, Fault { logged: now, suppressed: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_line_is_logged_once_however_its_numbers_change() {
        let complaints = Complaints::new("test");
        assert_eq!(complaints.admit("FAIL", "broker away (after 12ms in state CONNECT)"), Some(0));
        assert_eq!(complaints.admit("FAIL", "broker away (after 977ms in state CONNECT)"), None);
        assert_eq!(complaints.admit("FAIL", "something else"), Some(0));
    }

    #[test]
    fn the_table_of_faults_is_bounded() {
        let complaints = Complaints::new("test");
        for length in 0..10 * FAULTS_MAX {
            complaints.admit("FAIL", &"x".repeat(length % 500));
        }
        assert!(complaints.state().faults.len() <= FAULTS_MAX);
    }

    #[test]
    fn the_telling_fault_is_kept_over_the_general_one() {
        let complaints = Complaints::new("test");
        complaints.fault(code::AUTHENTICATION, "wrong password (after 313ms in state AUTH_REQ)");
        complaints.fault(code::ALL_BROKERS_DOWN, "1/1 brokers are down");
        assert_eq!(complaints.current().as_deref(), Some("wrong password"));
        assert_eq!(complaints.refusal().as_deref(), Some("wrong password"));
        complaints.healthy();
        assert_eq!(complaints.current(), None);
    }

    #[test]
    fn a_refused_certificate_is_explained_in_whatever_words_the_refusal_comes() {
        for said in [
            "ssl://h:1/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker",
            "ssl://h:1/bootstrap: error:0A000086:SSL routines::certificate verify failed",
            "ssl://h:1/bootstrap: SSL handshake failed: Disconnected",
        ] {
            let complaints = Complaints::new("c");
            complaints.note_certificate("it is for another host".to_owned());
            complaints.fault(-195, said);
            assert_eq!(complaints.current().as_deref(), Some("ssl://h:1/bootstrap: it is for another host"));
        }
        let complaints = Complaints::new("c");
        complaints.note_certificate("it is for another host".to_owned());
        complaints.fault(-195, "ssl://h:1/bootstrap: Connection refused");
        assert_eq!(complaints.current().as_deref(), Some("ssl://h:1/bootstrap: Connection refused"));
    }

    #[test]
    fn the_end_of_a_partition_is_no_fault() {
        let complaints = Complaints::new("test");
        complaints.fault(code::PARTITION_EOF, "reached end of partition");
        assert_eq!(complaints.current(), None);
    }

    #[test]
    fn a_fatal_error_stays() {
        let complaints = Complaints::new("test");
        complaints.fault(code::FATAL, "fenced");
        complaints.healthy();
        assert_eq!(complaints.current().as_deref(), Some("fenced"));
    }
}
