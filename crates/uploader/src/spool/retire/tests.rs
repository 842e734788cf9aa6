//! Deleting, archiving, the races with a writer, and what a crash leaves behind.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::testing::{relative, settings};
use super::*;

struct Place {
    folder: tempfile::TempDir,
    spool: SpoolDir,
}

impl Place {
    fn new(after: After) -> Place {
        let folder = tempfile::tempdir().unwrap();
        Place { spool: Place::open(folder.path(), after, &folder.path().join("archive")), folder }
    }

    fn open(folder: &Path, after: After, archive: &Path) -> SpoolDir {
        fs::create_dir_all(folder.join("spool")).unwrap();
        let mut settings = settings(&folder.join("spool"));
        settings.after = after;
        settings.archive_directory = Some(archive.to_owned());
        SpoolDir::open(&settings).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("spool").join(name)
    }

    fn write(&self, name: &str, content: &str) -> Identity {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        Identity::of(&rustix::fs::stat(&path).unwrap())
    }

    fn archived(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.path().join("archive").join(name)).ok()
    }

    fn set_aside_only(&self, name: &str, identity: &Identity) {
        let root = self.spool.root();
        let private = open_private(&root).unwrap();
        let aside = Aside::new(&relative(name), identity);
        aside.write_note(&private).unwrap();
        let folder = root.open_folder(parent_of(name.as_bytes())).unwrap();
        rename_new(folder, name_of(name.as_bytes()), &private, aside.name()).unwrap();
    }

    fn private_is_empty(&self) -> bool {
        fs::read_dir(self.folder.path().join("spool/.streamsend-retired")).unwrap().count() == 0
    }
}

#[test]
fn keep_leaves_the_file() {
    let place = Place::new(After::Keep);
    let identity = place.write("a", "x");
    assert!(matches!(retire(&place.spool, &relative("a"), &identity), Retired::Kept));
    assert!(place.file("a").exists() && !place.file(".streamsend-retired").exists());
}

#[test]
fn delete_removes_the_file_that_was_sent_and_no_other() {
    let place = Place::new(After::Delete);
    let identity = place.write("d/a", "one");
    assert!(matches!(retire(&place.spool, &relative("d/a"), &identity), Retired::Done));
    assert!(!place.file("d/a").exists() && place.private_is_empty());
    sync_retired(&place.spool).unwrap();
    assert!(matches!(retire(&place.spool, &relative("d/a"), &identity), Retired::Gone));
    assert!(matches!(retire(&place.spool, &relative("nowhere/a"), &identity), Retired::Gone));

    place.write("d/a", "other");
    assert!(matches!(retire(&place.spool, &relative("d/a"), &identity), Retired::Changed));
    assert_eq!(fs::read_to_string(place.file("d/a")).unwrap(), "other");
    // Mode and times other than mtime do not make another file.
    let identity = place.write("b", "x");
    fs::set_permissions(place.file("b"), std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    assert!(matches!(retire(&place.spool, &relative("b"), &identity), Retired::Done));
}

#[test]
fn a_file_replaced_after_the_first_look_is_put_back() {
    let place = Place::new(After::Delete);
    let sent = place.write("d/a", "one");
    place.write("other.tmp", "another");
    rustix::fs::rename(place.file("other.tmp"), place.file("d/a")).unwrap();
    let result = set_aside(&place.spool, &place.spool.root(), &relative("d/a"), &sent);
    assert!(matches!(result, Ok(Retired::Changed)), "{result:?}");
    assert_eq!(fs::read_to_string(place.file("d/a")).unwrap(), "another");
    assert!(place.private_is_empty());
}

#[test]
fn links_are_not_followed_to_other_files() {
    let place = Place::new(After::Delete);
    let outside = place.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("a"), "x").unwrap();
    let identity = Identity::of(&rustix::fs::stat(outside.join("a")).unwrap());
    std::os::unix::fs::symlink(&outside, place.file("d")).unwrap();
    assert!(matches!(retire(&place.spool, &relative("d/a"), &identity), Retired::Gone));
    assert!(outside.join("a").exists());
}

#[test]
fn archive_keeps_the_path_and_never_overwrites() {
    let place = Place::new(After::Archive);
    for (number, content) in ["one", "two", "three"].into_iter().enumerate() {
        let identity = place.write("d/e/report.csv", content);
        let result = retire(&place.spool, &relative("d/e/report.csv"), &identity);
        assert!(matches!(result, Retired::Done), "{number}: {result:?}");
    }
    let found =
        ["report.csv", "report~1.csv", "report~2.csv"].map(|name| place.archived(&format!("d/e/{name}")));
    assert_eq!(found, ["one", "two", "three"].map(|content| Some(content.to_owned())));
    assert!(!place.file("d/e/report.csv").exists() && place.private_is_empty());
}

#[test]
fn archive_onto_another_filesystem_copies() {
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = Place::new(After::Archive);
    let archive = shm.path().join("new/archive");
    let spool = Place::open(place.folder.path(), After::Archive, &archive);
    for content in ["one", "two"] {
        let identity = place.write("d/a.csv", content);
        assert!(matches!(retire(&spool, &relative("d/a.csv"), &identity), Retired::Done));
        assert!(!place.file("d/a.csv").exists());
        let name = if content == "one" { "a.csv" } else { "a~1.csv" };
        let copy = fs::metadata(archive.join("d").join(name)).unwrap();
        assert_eq!((copy.mtime(), copy.mtime_nsec()), (identity.mtime_seconds, identity.mtime_nanos.into()));
    }
    assert_eq!(fs::read_to_string(archive.join("d/a.csv")).unwrap(), "one");
    assert_eq!(fs::read_to_string(archive.join("d/a~1.csv")).unwrap(), "two");
    assert_eq!(fs::read_dir(archive.join("d")).unwrap().count(), 2);
}

#[test]
fn an_archive_that_cannot_be_written_leaves_the_file_in_the_spool() {
    let place = Place::new(After::Archive);
    fs::write(place.folder.path().join("archive"), "a file").unwrap();
    let identity = place.write("d/a", "x");
    assert!(matches!(retire(&place.spool, &relative("d/a"), &identity), Retired::Failed(_)));
    assert!(place.file("d/a").exists() && place.private_is_empty());
}

#[test]
fn the_next_start_finishes_what_a_crash_left() {
    let long = format!("{0}/{0}/file", "x".repeat(200));
    for name in ["d/a%2F.csv", long.as_str()] {
        let place = Place::new(After::Delete);
        let identity = place.write(name, "x");
        place.set_aside_only(name, &identity);
        assert!(!place.private_is_empty());
        let spool = Place::open(place.folder.path(), After::Delete, Path::new("/nowhere"));
        assert!(place.private_is_empty() && !place.file(name).exists());

        // The setting has changed meanwhile: it is put back, even into a folder that is gone.
        let identity = place.write(name, "x");
        place.set_aside_only(name, &identity);
        fs::remove_dir_all(place.file(name).parent().unwrap()).unwrap();
        drop(spool);
        Place::open(place.folder.path(), After::Keep, Path::new("/nowhere"));
        assert!(place.private_is_empty() && place.file(name).exists());
    }
}

#[test]
fn the_next_start_puts_back_another_file_also_beside_a_newer_one() {
    let place = Place::new(After::Delete);
    let mut wrong = place.write("d/a.csv", "second");
    wrong.size += 1;
    place.set_aside_only("d/a.csv", &wrong);
    place.write("d/a.csv", "third");
    Place::open(place.folder.path(), After::Delete, Path::new("/nowhere"));
    assert!(place.private_is_empty());
    assert_eq!(fs::read_to_string(place.file("d/a.csv")).unwrap(), "third");
    assert_eq!(fs::read_to_string(place.file("d/a~1.csv")).unwrap(), "second");
}

#[test]
fn strangers_in_the_private_folder_are_left_alone() {
    let place = Place::new(After::Delete);
    let identity = place.write("a", "x");
    assert!(matches!(retire(&place.spool, &relative("a"), &identity), Retired::Done));
    for name in ["stranger", "r1-1-2-3-4-..%2F..%2Fetc", "note-alone"] {
        fs::write(place.file(".streamsend-retired").join(name), "x").unwrap();
    }
    recover(&place.spool);
    assert_eq!(fs::read_dir(place.file(".streamsend-retired")).unwrap().count(), 3);
}

#[test]
fn numbers_go_before_the_extension_and_names_stay_short() {
    for (name, expected) in [
        ("report.csv", "report~7.csv"),
        ("report", "report~7"),
        (".profile", ".profile~7"),
        ("a.tar.gz", "a.tar~7.gz"),
    ] {
        assert_eq!(numbered(name.as_bytes(), 7), expected.as_bytes());
    }
    let longest = [&b"x".repeat(251)[..], b".csv"].concat();
    let result = numbered(&longest, 12);
    assert_eq!(result.len(), 255);
    assert!(result.ends_with(b"~12.csv"));
    assert_eq!(numbered(&b".".repeat(255), 1).len(), 255);
}

#[test]
fn a_file_that_somebody_has_open_for_writing_stays() {
    for after in [After::Delete, After::Archive] {
        let place = Place::new(after);
        let identity = place.write("d/a", "one");
        if fsio::writers(&File::open(place.file("d/a")).unwrap()) == fsio::Writers::Unknown {
            return eprintln!(
                "!!! NOT TESTED: files open for writing, because this filesystem has no leases"
            );
        }
        let mut writer = fs::OpenOptions::new().append(true).open(place.file("d/a")).unwrap();
        let retired = retire(&place.spool, &relative("d/a"), &identity);
        assert!(matches!(retired, Retired::Failed(_)), "{retired:?}");
        std::io::Write::write_all(&mut writer, b", two").unwrap();
        drop(writer);
        assert_eq!(fs::read_to_string(place.file("d/a")).unwrap(), "one, two");
        assert!(place.private_is_empty() && place.archived("d/a").is_none());
        assert!(matches!(retire(&place.spool, &relative("d/a"), &identity), Retired::Changed));
    }
}
