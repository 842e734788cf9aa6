//! Forgets files that are long gone from the spool, so that the ledger does not grow for ever where others clean up.
//!
//! Looks once a day, slowly. What must never happen here: forgetting because a folder is not mounted. A file must be
//! missing at every look of a week, at least at seven, before its entry goes; forgotten, it would be sent again if it came back.

use crate::bell::{Bell, Reporter};
use crate::records::Change;
use crate::spool::SpoolDir;
use crossbeam_channel::{Receiver, bounded, select};
use daemon::{Shutdown, SpoolSettings};
use ledger::rusqlite::{self, Connection, params};
use protocol::RelativePath;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// First look after the start.
const FIRST_LOOK: Duration = Duration::from_secs(10 * 60);
/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// A file must be missing for so long, in milliseconds…
const MISSING_MS_MIN: i64 = 7 * 24 * 60 * 60 * 1_000;
/// …and at so many looks: a clock that was set from 1970 to today has seen no week, and neither have seven restarts.
const MISSING_LOOKS_MIN: i64 = 7;
/// Entries looked at in one go…
const PAGE_ROWS: usize = 1_000;
/// …and the pause after each.
const PAGE_PAUSE: Duration = Duration::from_millis(50);

/// Starts the thread; its findings, for each of which `bell` is rung, are to be written into the ledger.
pub fn start(
    spools: Vec<Arc<SpoolDir>>,
    ledger: PathBuf,
    bell: &Bell,
    shutdown: Shutdown,
) -> std::io::Result<Receiver<Change>> {
    let (findings, receiver) = bounded(1);
    let findings = Reporter::new(findings, bell);
    // Detached: it only reads.
    std::thread::Builder::new().name("forget".into()).spawn(move || {
        let mut wait = FIRST_LOOK;
        while !ended(&shutdown, wait) {
            wait = INTERVAL;
            for spool in &spools {
                if spool.is_away() {
                    tracing::warn!("{}", spool.away_text());
                    continue;
                }
                let settings = spool.settings();
                if let Some(place) = spool.place() {
                    // Nobody reads it any more when the process ends.
                    let _ = findings.send(Change::Place { spool: settings.name.clone(), place });
                }
                if let Err(error) = look(settings, &ledger, &findings, &shutdown) {
                    tracing::debug!(
                        "the ledger's entries of {} were not looked through: {error}",
                        settings.name
                    );
                }
            }
        }
    })?;
    Ok(receiver)
}

/// Waits; true when the process is to end.
fn ended(shutdown: &Shutdown, wait: Duration) -> bool {
    select! {
        recv(shutdown.channel()) -> _ => true,
        default(wait) => false,
    }
}

fn look(
    spool: &SpoolSettings,
    ledger: &Path,
    findings: &Reporter<Change>,
    shutdown: &Shutdown,
) -> Result<(), Box<dyn std::error::Error>> {
    let connection = ledger::open_read_only(ledger)?;
    let folder = rustix::fs::open(
        &spool.directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut after = Vec::new();
    loop {
        let rows = page(&connection, &spool.name, &after)?;
        let Some((last, ..)) = rows.last() else { return Ok(()) };
        after = last.as_bytes().to_vec();
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let found = judge(&folder, &spool.name, rows, now_ms);
        let nothing = matches!(&found, Change::Seen { present, missing, gone, .. }
            if present.is_empty() && missing.is_empty() && gone.is_empty());
        if !nothing && findings.send(found).is_err() || ended(shutdown, PAGE_PAUSE) {
            return Ok(());
        }
    }
}

/// A file, since when it is missing, and at how many looks it was.
type Entry = (RelativePath, Option<i64>, i64);

fn page(connection: &Connection, spool: &str, after: &[u8]) -> rusqlite::Result<Vec<Entry>> {
    let sql =
        "SELECT path, missing_ms, missing_looks FROM sent WHERE spool = ? AND path > ? ORDER BY path LIMIT ?";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![spool, after, PAGE_ROWS as i64], |row| {
        let path = RelativePath::new(row.get::<_, Vec<u8>>(0)?)
            .map_err(|_| rusqlite::Error::InvalidColumnName("path: damaged".into()))?;
        Ok((path, row.get(1)?, row.get(2)?))
    })?;
    rows.collect()
}

/// Which entries changed their standing.
fn judge(folder: &OwnedFd, spool: &str, rows: Vec<Entry>, now_ms: i64) -> Change {
    let (mut present, mut missing, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for (path, missing_ms, looks) in rows {
        let found = rustix::fs::statat(
            folder,
            Path::new(OsStr::from_bytes(path.as_bytes())),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        let absent = matches!(found, Err(Errno::NOENT | Errno::NOTDIR));
        match missing_ms {
            Some(_) if found.is_ok() => present.push(path),
            Some(since)
                if absent
                    && now_ms.saturating_sub(since) >= MISSING_MS_MIN
                    && looks + 1 >= MISSING_LOOKS_MIN =>
            {
                gone.push(path);
            }
            _ if absent => missing.push(path),
            _ => {}
        }
    }
    Change::Seen { spool: spool.to_owned(), present, missing, gone, now_ms }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn only_what_is_missing_for_a_week_and_at_seven_looks_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("here"), "x").unwrap();
        std::fs::write(directory.path().join("back"), "x").unwrap();
        let folder = rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).unwrap();
        let path = |name: &str| RelativePath::new(name).unwrap();
        let now_ms = 10 * MISSING_MS_MIN;
        let rows = vec![
            (path("here"), None, 0),
            (path("back"), Some(0), 9),
            (path("new/gap"), None, 0),
            (path("here/below-a-file"), None, 0),
            (path("week"), Some(now_ms - MISSING_MS_MIN), 6),
            (path("day"), Some(now_ms - 1), 9),
            // The clock was in 1970 at the look before.
            (path("jump"), Some(5_000), 1),
        ];
        let Change::Seen { present, missing, gone, .. } = judge(&folder, "in", rows, now_ms) else {
            panic!("another change");
        };
        assert_eq!(present, [path("back")]);
        assert_eq!(missing, ["new/gap", "here/below-a-file", "day", "jump"].map(path));
        assert_eq!(gone, [path("week")]);
    }
}
