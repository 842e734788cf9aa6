//! The machine: folders, filesystems, free space, inotify, clock.
//!
//! What must never happen here: a visible name in the output folder, a folder made that was not there, or a wait for a large
//! spool to be counted (only `doctor` counts, and only so far).

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use daemon::{
    After, Build, DiskReserve, DownloaderSettings, Exit, UploaderSettings, bytes_text, escape_name,
};
use fsio::probe::{Step, may_change, probe};
use fsio::{Dir, Space};
use rustix::io::Errno;

use crate::finding::Finding;

/// Less than this beside the ledger, and it may not be able to grow, bytes.
const STATE_SPACE_MIN: u64 = 64 << 20;
/// Filesystems that are gone with the power: tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58F6];
/// Filesystems where a ledger's lock and write-ahead log cannot be relied on: NFS, SMB, CIFS, SMB2, 9P, Ceph, AFS.
const REMOTE: [u64; 7] = [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x0102_1997, 0x00C3_6400, 0x5346_414F];
/// A spool is counted so long…
const COUNT_TIME: Duration = Duration::from_secs(3);
/// …and so far, in names.
const COUNT_MAX: usize = 2_000_000;
/// A program that is older than this has a clock that is ahead, or an owner who should look for a new one.
const YEARS_MAX: i64 = 20;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A daemon that begins: the folders are there and locked, and time is short.
    Start,
    /// `streamsend doctor`: folders may be missing yet, and a spool may be counted.
    Doctor,
}

impl Asker {
    fn word(self) -> &'static str {
        match self {
            Asker::Start => "start",
            Asker::Doctor => "doctor",
        }
    }
}

/// Everything about the uploader's machine.
pub fn uploader(settings: &UploaderSettings, asker: Asker) -> Vec<Finding> {
    let mut found = state_directory(&settings.common.state_directory, asker);
    for spool in &settings.spools {
        let folder = &spool.directory;
        if asker == Asker::Doctor
            && let Err(error) = std::fs::read_dir(folder)
        {
            found.push(unusable("spool", folder, "read", &error, Asker::Doctor));
            continue;
        }
        if spool.after != After::Keep
            && let Err(error) = may_change(folder)
        {
            let message = format!("files cannot be taken out of {}: {error}", shown(folder));
            found.push(Finding::warning(
                "spool",
                message,
                "give this user the right to write there, or set after: keep",
            ));
        }
        if let Some(archive) = spool.archive_directory.as_deref().filter(|_| spool.after == After::Archive) {
            found.extend(archive_directory(folder, archive));
        }
    }
    found.extend(inotify(settings, asker));
    found.extend(clock());
    found
}

/// Everything about the downloader's machine.
pub fn downloader(settings: &DownloaderSettings, asker: Asker) -> Vec<Finding> {
    let (state, output) = (&settings.common.state_directory, &settings.output);
    let mut found = state_directory(state, asker);
    found.extend(output_folder(output, settings.disk_reserve, asker));
    let device = |path: &Path| std::fs::metadata(path).map(|about| about.dev()).ok();
    let nothing_kept = match settings.disk_reserve {
        DiskReserve::Bytes(bytes) => bytes == 0,
        DiskReserve::Fraction(part) => part == 0.0,
    };
    if nothing_kept && device(state).is_some() && device(state) == device(output) {
        let message = format!(
            "{} and the output are on one filesystem, and disk_reserve is 0: a full output leaves no room for the ledger",
            shown(state)
        );
        found.push(Finding::warning("same_filesystem", message, "set disk_reserve: 1%, or move one of them"));
    }
    found.extend(clock());
    found
}

/// Write, sync and rename in the state directory; its filesystem and the space on it.
pub fn state_directory(folder: &Path, asker: Asker) -> Vec<Finding> {
    const CHECK: &str = "state_directory";
    if !folder.exists() && asker == Asker::Doctor {
        return vec![not_there_yet(CHECK, folder)];
    }
    if let Err((step, error)) = probe(folder, asker.word()) {
        return vec![unusable(CHECK, folder, step.as_str(), &error, asker)];
    }
    let mut found = vec![Finding::fine(CHECK, format!("{}: written, synced and renamed in", shown(folder)))];
    found.extend(filesystem(folder));
    if let Some(space) = space_of(folder)
        && space.available < STATE_SPACE_MIN
    {
        let message = format!("{} are left for the ledger in {}", bytes_text(space.available), shown(folder));
        found.push(Finding::warning(
            "free_space",
            message,
            "make room on this filesystem: without it the daemon ends",
        ));
    }
    if asker == Asker::Doctor
        && rustix::process::geteuid().is_root()
        && let Some(owner) = std::fs::metadata(folder).map(|about| about.uid()).ok().filter(|uid| *uid != 0)
    {
        let message = format!("checked as root, and {} belongs to user {owner}", shown(folder));
        let remedy =
            format!("check as that user as well: setpriv --reuid {owner} --init-groups streamsend doctor …");
        found.push(Finding::note("user", message, remedy));
    }
    found
}

fn filesystem(folder: &Path) -> Option<Finding> {
    let kind = rustix::fs::statfs(folder).ok()?.f_type as u64 & u64::from(u32::MAX);
    if IN_MEMORY.contains(&kind) {
        let message =
            format!("{} is in memory: after a reboot files are sent or delivered again", shown(folder));
        return Some(Finding::warning("filesystem", message, "move state_directory to a local disk"));
    }
    if REMOTE.contains(&kind) {
        let message =
            format!("{} is on a network filesystem, where locks and syncs may not hold", shown(folder));
        return Some(Finding::warning("filesystem", message, "move state_directory to a local disk"));
    }
    None
}

/// Write, sync and rename where the output's work lies; whether names can be made in the output itself; space above the reserve.
pub fn output_folder(folder: &Path, reserve: DiskReserve, asker: Asker) -> Vec<Finding> {
    const CHECK: &str = "output";
    let work = folder.join(".streamsend");
    let usable = match std::fs::symlink_metadata(&work) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            may_change(folder).map_err(|error| (folder, Step::Write, error))
        }
        _ => may_change(folder)
            .map_err(|error| (folder, Step::Write, error))
            .and_then(|()| probe(&work, asker.word()).map_err(|(step, error)| (work.as_path(), step, error))),
    };
    if let Err((place, step, error)) = usable {
        let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        if !full {
            return vec![unusable(CHECK, place, step.as_str(), &error, asker)];
        }
        let message = format!("{} cannot be {}: {error}", shown(place), step.as_str());
        return vec![Finding::warning(CHECK, message, "make room there: the downloader waits for it")];
    }
    let mut found = vec![Finding::fine(CHECK, format!("{}: written, synced and renamed in", shown(folder)))];
    let device = |path: &Path| std::fs::metadata(path).map(|about| about.dev()).ok();
    if work.exists() && device(&work) != device(folder) {
        let message = format!(
            "{} is another filesystem than {}, and files are renamed out of it",
            shown(&work),
            shown(folder)
        );
        found.push(Finding::fault(CHECK, Exit::Configuration, message, "unmount it"));
    }
    if let Some(space) = space_of(folder) {
        let kept = match reserve {
            DiskReserve::Bytes(bytes) => bytes,
            DiskReserve::Fraction(part) => (space.total as f64 * part) as u64,
        };
        let free = bytes_text(space.available);
        if space.available <= kept {
            let message =
                format!("{free} are left in {}, and disk_reserve keeps {}", shown(folder), bytes_text(kept));
            found.push(Finding::warning(
                "free_space",
                message,
                "make room there: the downloader waits for it",
            ));
        } else {
            found.push(Finding::fine("free_space", format!("{free} are left in {}", shown(folder))));
        }
    }
    found
}

fn archive_directory(spool: &Path, archive: &Path) -> Option<Finding> {
    const CHECK: &str = "archive_directory";
    let nearest = archive.ancestors().find(|folder| folder.exists())?;
    if let Err(error) = may_change(nearest) {
        let message = format!("nothing can be written to {}: {error}", shown(nearest));
        return Some(Finding::warning(
            CHECK,
            message,
            "give this user the right to write there: until then sent files stay",
        ));
    }
    let device = |path: &Path| std::fs::metadata(path).map(|about| about.dev()).ok();
    (device(spool) != device(nearest)).then(|| {
        let message = format!(
            "{} is on another filesystem than the spool {}: files are copied there",
            shown(archive),
            shown(spool)
        );
        Finding::note(CHECK, message, "")
    })
}

/// Whether folders can be watched, and whether there are enough watches for all of them.
fn inotify(settings: &UploaderSettings, asker: Asker) -> Vec<Finding> {
    const CHECK: &str = "inotify";
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let slower = "until then files are found by scanning, every scan_interval";
    let instance = match init(CreateFlags::CLOEXEC) {
        Ok(instance) => instance,
        Err(errno) => {
            let message = format!("no folder can be watched: {errno}");
            let remedy = format!("raise fs.inotify.max_user_instances (sysctl); {slower}");
            return vec![Finding::warning(CHECK, message, remedy)];
        }
    };
    let mut found = Vec::new();
    for spool in &settings.spools {
        match add_watch(&instance, &spool.directory, WatchFlags::CREATE | WatchFlags::ONLYDIR) {
            Ok(_) => {}
            Err(Errno::NOSPC) => {
                let message = format!(
                    "the limit of watched folders is used up: {} is not watched",
                    shown(&spool.directory)
                );
                let remedy = format!("raise fs.inotify.max_user_watches (sysctl); {slower}");
                found.push(Finding::warning(CHECK, message, remedy));
            }
            Err(errno) => {
                let message = format!("{} cannot be watched: {errno}", shown(&spool.directory));
                found.push(Finding::note(CHECK, message, "files are found by scanning, every scan_interval"));
            }
        }
    }
    if asker == Asker::Doctor && found.is_empty() {
        found.push(enough_watches(settings));
    }
    found
}

fn enough_watches(settings: &UploaderSettings) -> Finding {
    const CHECK: &str = "inotify";
    let deadline = Instant::now() + COUNT_TIME;
    let spools = settings.spools.iter().filter(|spool| spool.recursive);
    let names = spools.flat_map(|spool| walkdir::WalkDir::new(&spool.directory)).take(COUNT_MAX);
    let in_time = names.take_while(|_| Instant::now() < deadline);
    let folders =
        in_time.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_type().is_dir())).count();
    let folders = folders.max(settings.spools.len());
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches")
        .ok()
        .and_then(|text| text.trim().parse::<usize>().ok());
    match limit {
        Some(limit) if folders > limit => Finding::warning(
            CHECK,
            format!("the spools have {folders} folders or more, and {limit} can be watched"),
            "raise fs.inotify.max_user_watches (sysctl); the rest is found by scanning, every scan_interval",
        ),
        Some(limit) => Finding::fine(CHECK, format!("{folders} folder(s) to watch, {limit} allowed")),
        None => Finding::fine(CHECK, format!("{folders} folder(s) to watch")),
    }
}

/// Whether the clock can be right: not before this program was built, and not decades after.
pub fn clock() -> Vec<Finding> {
    let built = Build::current().build.parse::<jiff::civil::Date>().ok();
    built.map(|built| clock_at(jiff::Timestamp::now(), built)).into_iter().collect()
}

fn clock_at(now: jiff::Timestamp, built: jiff::civil::Date) -> Finding {
    const CHECK: &str = "clock";
    let remedy = "set the clock, and keep it by NTP (timedatectl set-ntp true)";
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let day_before = built.yesterday().unwrap_or(built);
    if today < day_before {
        let message = format!("this machine says it is {today}, and this program was built on {built}");
        return Finding::warning(CHECK, message, remedy);
    }
    if i64::from(today.year()) - i64::from(built.year()) > YEARS_MAX {
        let message =
            format!("this machine says it is {today}, {YEARS_MAX} years after this program was built");
        return Finding::warning(CHECK, message, remedy);
    }
    Finding::fine(CHECK, format!("{now:.0} by this machine"))
}

fn space_of(folder: &Path) -> Option<Space> {
    Dir::open(folder).and_then(|dir| Space::of(&dir)).ok()
}

fn not_there_yet(check: &'static str, folder: &Path) -> Finding {
    let nearest = folder.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
    match may_change(nearest) {
        Ok(()) => {
            Finding::note(check, format!("{} is not there yet: made at the first start", shown(folder)), "")
        }
        Err(error) => {
            let message = format!("{} is not there, and cannot be made: {error}", shown(folder));
            Finding::fault(
                check,
                Exit::Permission,
                message,
                format!("make it (mkdir -p {}) and give it to the daemon's user", shown(folder)),
            )
        }
    }
}

fn unusable(check: &'static str, folder: &Path, step: &str, error: &io::Error, asker: Asker) -> Finding {
    let message = format!("{check} {} cannot be {step}: {error}", shown(folder));
    let (exit, remedy) = match error.kind() {
        ErrorKind::PermissionDenied => (
            Exit::Permission,
            "give the daemon's user the right to it (chown, or ReadWritePaths= of the unit)",
        ),
        ErrorKind::NotFound if asker == Asker::Doctor => {
            (Exit::Configuration, "make it (mkdir -p) or correct the path")
        }
        ErrorKind::NotADirectory => (Exit::Configuration, "correct the path: a folder is needed"),
        ErrorKind::ReadOnlyFilesystem => {
            (Exit::Io, "mount its filesystem read-write, or choose another folder")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (Exit::Io, "make room on its filesystem"),
        _ => (Exit::Io, "check the disk and its filesystem (dmesg), or choose another folder"),
    };
    Finding::fault(check, exit, message, remedy)
}

fn shown(path: &Path) -> String {
    escape_name(path.as_os_str().as_encoded_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;
    use crate::finding::Level;

    fn levels(found: &[Finding]) -> Vec<(&str, Level)> {
        found.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn nothing_is_left_behind() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join(".streamsend")).unwrap();
        assert!(
            levels(&state_directory(top.path(), Asker::Doctor)).contains(&("state_directory", Level::Fine))
        );
        let found = output_folder(top.path(), DiskReserve::Bytes(0), Asker::Start);
        assert_eq!(levels(&found), [("output", Level::Fine), ("free_space", Level::Fine)]);
        let left = |path: &Path| std::fs::read_dir(path).unwrap().count();
        assert_eq!((left(top.path()), left(&top.path().join(".streamsend"))), (1, 0));
    }

    #[test]
    fn a_reserve_above_the_free_space_is_a_warning_and_no_fault() {
        let top = tempfile::tempdir().unwrap();
        let found = output_folder(top.path(), DiskReserve::Bytes(u64::MAX), Asker::Start);
        assert_eq!(levels(&found), [("output", Level::Fine), ("free_space", Level::Warning)]);
        assert!(found[1].line().contains("the downloader waits for it"), "{}", found[1].line());
    }

    #[test]
    fn what_is_not_there_yet_is_worth_a_note_and_what_is_no_folder_is_a_mistake() {
        let top = tempfile::tempdir().unwrap();
        let found = state_directory(&top.path().join("a/b"), Asker::Doctor);
        assert_eq!(levels(&found), [("state_directory", Level::Note)]);
        assert!(!top.path().join("a").exists());
        let file = top.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(
            levels(&state_directory(&file, Asker::Start)),
            [("state_directory", Level::Fault(Exit::Configuration))]
        );
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_seen() {
        let built = jiff::civil::date(2026, 11, 24);
        let level = |now: &str| clock_at(now.parse().unwrap(), built).level;
        assert_eq!(level("1970-01-01T00:00:00Z"), Level::Warning);
        assert_eq!(level("2026-11-22T00:00:00Z"), Level::Warning);
        // Built in another time zone, it may be yesterday here.
        assert_eq!(level("2026-11-23T00:00:00Z"), Level::Fine);
        assert_eq!(level("2031-01-01T00:00:00Z"), Level::Fine);
        assert_eq!(level("2099-01-01T00:00:00Z"), Level::Warning);
    }
}
