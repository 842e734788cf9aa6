//! Which rights a daemon needs, and which of them are missing.
//!
//! What must never happen here: a right asked for that the daemon does not use.

use kafka::Rights;

/// What a daemon does at the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Sends to the topic.
    Upload,
    /// Reads the topic.
    Download,
    /// Commits offsets of its group.
    Commit,
}

/// The names of the operations that are needed and missing, as the broker calls them; empty: all are there.
pub fn missing_rights(need: Need, has: Rights) -> Vec<&'static str> {
    let wanted: &[(&str, bool)] = match need {
        Need::Upload => &[("Describe", has.describe), ("Write", has.write)],
        Need::Download => &[("Describe", has.describe), ("Read", has.read)],
        Need::Commit => &[("Read", has.read)],
    };
    wanted.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_daemon_needs_its_own_rights() {
        let has = Rights { describe: true, write: true, ..Rights::default() };
        assert!(missing_rights(Need::Upload, has).is_empty());
        assert_eq!(missing_rights(Need::Download, has), ["Read"]);
        assert_eq!(missing_rights(Need::Commit, has), ["Read"]);
        assert_eq!(missing_rights(Need::Upload, Rights::default()), ["Describe", "Write"]);
    }
}
