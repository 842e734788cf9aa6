//! The tool as people call it: what it prints, what it leaves on disk, its exit codes.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use daemon::Exit;

/// Exit code and standard output.
fn streamsend<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> (Exit, String) {
    let mut out = Vec::new();
    let program = OsString::from("streamsend");
    let exit = tool::run(std::iter::once(program).chain(args.into_iter().map(Into::into)), &mut out);
    (exit, String::from_utf8(out).unwrap())
}

/// A command line split at spaces, with `@` for a folder.
fn line(folder: &Path, text: &str) -> (Exit, String) {
    streamsend(text.split(' ').map(|word| word.replace('@', folder.to_str().unwrap())))
}

#[test]
fn bad_usage_is_64_and_help_is_0() {
    for text in [
        "",
        "nonsense",
        "license",
        "license issue --days 1",
        "generate",
        "generate x --size big",
        "status --what",
    ] {
        assert_eq!(streamsend(text.split_whitespace()).0, Exit::Usage, "{text}");
    }
    for text in ["--help", "--version", "license issue --help"] {
        assert_eq!(streamsend(text.split_whitespace()).0, Exit::Done, "{text}");
    }
}

#[test]
fn a_vendor_key_pair_signs_a_licence_that_holds() {
    let top = tempfile::tempdir().unwrap();
    let (exit, said) = line(top.path(), "license keygen --out @/vendor");
    assert_eq!(exit, Exit::Done);
    let key = top.path().join("vendor/vendor.key");
    let public = fs::read_to_string(top.path().join("vendor/vendor.pub")).unwrap();
    assert!(said.contains(public.trim()));
    assert!(!said.contains(fs::read_to_string(&key).unwrap().trim()), "the secret is on the screen");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

    let issue = "license issue --key @/vendor/vendor.key --to Example --days 40 --out @/license.key";
    assert_eq!(line(top.path(), issue).0, Exit::Done);
    let show = format!("license show @/license.key --public-key {}", public.trim());
    let (exit, said) = line(top.path(), &show);
    assert_eq!(exit, Exit::Done);
    // The fortieth day has already begun.
    assert!(
        said.contains("issued to:  Example\n") && said.contains("License is valid for 39 days"),
        "{said}"
    );

    let (exit, said) = line(top.path(), "license show @/license.key");
    assert_eq!(exit, Exit::Done);
    assert!(said.contains("signature not checked") || license::pinned_vendor_key().is_some(), "{said}");
    let (exit, said) = line(top.path(), "license issue --key @/vendor/vendor.key --to E --days 1 --out -");
    assert!(exit == Exit::Done && said.starts_with("streamsend-license-v1."));
}

#[test]
fn a_vendor_key_is_never_overwritten() {
    let top = tempfile::tempdir().unwrap();
    assert_eq!(line(top.path(), "license keygen --out @").0, Exit::Done);
    let before = fs::read(top.path().join("vendor.key")).unwrap();
    assert_eq!(line(top.path(), "license keygen --out @").0, Exit::Io);
    assert_eq!(fs::read(top.path().join("vendor.key")).unwrap(), before);
    fs::remove_file(top.path().join("vendor.key")).unwrap();
    assert_eq!(line(top.path(), "license keygen --out @").0, Exit::Io);
    assert!(!top.path().join("vendor.key").exists());
}

#[test]
fn a_licence_that_does_not_hold_is_78() {
    let top = tempfile::tempdir().unwrap();
    line(top.path(), "license keygen --out @/a");
    line(top.path(), "license keygen --out @/b");
    let public =
        |who: &str| fs::read_to_string(top.path().join(who).join("vendor.pub")).unwrap().trim().to_owned();
    let issue = |more: &str| {
        let text = format!("license issue --key @/a/vendor.key --to E --days 3 --out @/license.key{more}");
        assert_eq!(line(top.path(), &text).0, Exit::Done);
    };
    let show = |key: &str| line(top.path(), &format!("license show @/license.key --public-key {key}")).0;
    issue("");
    assert_eq!(show(&public("a")), Exit::Done);
    assert_eq!(show(&public("b")), Exit::Configuration);
    assert_eq!(show("nonsense"), Exit::Usage);
    issue(" --not-before 2001-01-01T00:00:00Z");
    assert_eq!(show(&public("a")), Exit::Configuration);
    assert_eq!(line(top.path(), "license show @/license.key").0, Exit::Configuration);
    issue(" --not-before 2999-01-01T00:00:00Z");
    assert_eq!(show(&public("a")), Exit::Configuration);
    fs::write(top.path().join("license.key"), "").unwrap();
    assert_eq!(show(&public("a")), Exit::Configuration);
    assert_eq!(line(top.path(), "license show @/missing").0, Exit::Io);
    let issue = "license issue --key @/a/vendor.pub2 --to E --days 3 --out @/x";
    assert_eq!(line(top.path(), issue).0, Exit::Io);
    fs::write(top.path().join("junk"), "junk").unwrap();
    let issue = "license issue --key @/junk --to E --days 3 --out @/x";
    assert_eq!(line(top.path(), issue).0, Exit::Configuration);
}

#[test]
fn generated_files_are_made_and_checked() {
    let top = tempfile::tempdir().unwrap();
    let (exit, said) = line(top.path(), "generate @/files --files 20 --size 10..100KiB --seed 9");
    assert_eq!(exit, Exit::Done);
    assert!(said.starts_with("20 file(s), "), "{said}");
    let verify = "generate @/files --verify --files 20 --size 10..100KiB --seed 9";
    assert_eq!(line(top.path(), verify).0, Exit::Done);
    let more = "generate @/files --verify --files 21 --size 10..100KiB --seed 9";
    let (exit, said) = line(top.path(), more);
    assert_eq!(exit, Exit::Io);
    assert!(
        said.contains(": missing\n") && said.contains("20 file(s) checked, 1 wrong or missing"),
        "{said}"
    );
    let victim = tool::generate::find(top.path()).unwrap().remove(7).0;
    fs::write(victim, "x").unwrap();
    let (exit, said) = line(top.path(), "generate @ --verify");
    assert_eq!(exit, Exit::Io);
    assert!(said.contains(": 1 bytes, expected "), "{said}");
    assert_eq!(line(top.path(), "generate @/nowhere --verify").0, Exit::Io);
}

#[test]
fn status_without_a_daemon_is_69() {
    let top = tempfile::tempdir().unwrap();
    assert_eq!(line(top.path(), "status --state-directory @").0, Exit::Unavailable);
    assert_eq!(line(top.path(), "status --state-directory @/missing --json").0, Exit::Unavailable);
    // Left behind by a daemon that was killed.
    drop(UnixListener::bind(top.path().join("status.sock")).unwrap());
    assert_eq!(line(top.path(), "status --state-directory @").0, Exit::Unavailable);
}

#[test]
fn status_shows_what_the_daemon_says() {
    let top = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(top.path().join("status.sock")).unwrap();
    let answers = [
        "{\"schema\":1,\"program\":\"uploader\",\"name\":\"a\\u001b\"}\n",
        "{\"schema\":1,\"name\":\"a\"}\n",
        "rubbish\n",
    ];
    let daemon = std::thread::spawn(move || {
        for answer in answers {
            listener.accept().unwrap().0.write_all(answer.as_bytes()).unwrap();
        }
    });
    let (exit, said) = line(top.path(), "status --state-directory @");
    assert!(exit == Exit::Done && said.starts_with("uploader a\\u{1b}, version "), "{said}");
    let (exit, said) = line(top.path(), "status --state-directory @ --json");
    assert_eq!((exit, said.as_str()), (Exit::Done, "{\"name\":\"a\",\"schema\":1}\n"));
    assert_eq!(line(top.path(), "status --state-directory @").0, Exit::Unavailable);
    daemon.join().unwrap();
}

#[test]
fn check_config_reports_every_mistake_and_a_licence_that_does_not_hold() {
    let top = tempfile::tempdir().unwrap();
    let check = |text: &str, more: &str| {
        fs::write(top.path().join("x.yaml"), text).unwrap();
        line(top.path(), &format!("check-config downloader --config @/x.yaml{more}"))
    };
    let good = "output: /o\nkafka:\n  bootstrap.servers: h:1\n  sasl.password: hunter2\n";
    let (exit, said) = check(good, "");
    assert_eq!(exit, Exit::Done, "{said}");
    assert!(said.contains("License status: no license: single-partition operation"), "{said}");
    let (exit, said) = check(good, " --explain");
    assert!(exit == Exit::Done && said.contains("/x.yaml:1") && !said.contains("hunter2"), "{said}");

    assert_eq!(check("output: /o\ntopik: x\n", "").0, Exit::Configuration);
    assert_eq!(check("output: /o\nkafka:\n  linger.mss: 1\n", "").0, Exit::Configuration);
    assert_eq!(check("output: /o\nkafka:\n  linger.ms: much\n", "").0, Exit::Configuration);
    assert_eq!(check("output: /o\nlicense:\n  key_file: /nowhere/license.key\n", "").0, Exit::Configuration);
    assert_eq!(line(top.path(), "check-config uploader --config @/missing").0, Exit::Configuration);
    assert_eq!(line(top.path(), "check-config both").0, Exit::Usage);
}

#[test]
fn status_finds_the_daemon_by_its_configuration() {
    let top = tempfile::tempdir().unwrap();
    let state = top.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(top.path().join("x.yaml"), format!("output: /o\nstate_directory: {}\n", state.display()))
        .unwrap();
    assert_eq!(line(top.path(), "status --config @/x.yaml").0, Exit::Unavailable);
    let listener = UnixListener::bind(state.join("status.sock")).unwrap();
    let daemon =
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"{\"schema\":1}\n").unwrap());
    assert_eq!(line(top.path(), "status --config @/x.yaml").0, Exit::Done);
    daemon.join().unwrap();
    fs::write(top.path().join("x.yaml"), "output: [").unwrap();
    assert_eq!(line(top.path(), "status --config @/x.yaml").0, Exit::Configuration);
}
